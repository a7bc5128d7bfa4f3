/* Contenders of epochs.c: the library's deferred free, in three ways.
 *
 * Their figures are the library's own: bytes that wait, looked at every few milliseconds, and calls since the start
 * of the run. */
#ifndef BENCH_EPOCHS_SLAB_H
#define BENCH_EPOCHS_SLAB_H

#include <slabmalloc.h>

_Static_assert(sizeof(slab_epoch_head) == sizeof(((struct object *)NULL)->head), "an object has room for a head");

static slab_cache *own_cache;
static slab_stats slab_before;
static uint64_t slab_most_waiting;

static slab_stats slab_stats_now(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return stats;
}

static void slab_open(void)
{
    const slab_cache_attr attributes = {.flags = SLAB_NO_MERGE};
    own_cache = bench_check(slab_cache_create("epochs", object_bytes, &attributes));
    slab_before = slab_stats_now();
}

static void slab_watch(void)
{
    const uint64_t waiting = slab_stats_now().deferred_bytes;
    slab_most_waiting = waiting > slab_most_waiting ? waiting : slab_most_waiting;
}

static void slab_report(double seconds)
{
    const slab_stats now = slab_stats_now();
    bench_figure("most_waiting", (double)slab_most_waiting / (1 << 20), "MiB");
    bench_figure("grace_periods", (double)(now.grace_periods - slab_before.grace_periods) / seconds, "Hz");
    bench_figure("membarriers", (double)(now.membarriers - slab_before.membarriers) / seconds, "Hz");
    bench_figure("waits", (double)(now.deferred_waits - slab_before.deferred_waits), "calls");
    bench_figure("excesses", (double)(now.deferred_excesses - slab_before.deferred_excesses), "magazines");
    if (now.deferred_objects + now.deferred_unfreed != 0)
        bench_die("%ju objects wait at the end, %ju were never freed", (uintmax_t)now.deferred_objects,
                  (uintmax_t)now.deferred_unfreed);
}

static inline void *make_by_cache(void)
{
    return slab_cache_alloc(own_cache);
}

static inline void retire_deferred(struct object *object)
{
    slab_free_deferred(object);
}

static inline void retire_deferred_head(struct object *object)
{
    slab_free_deferred_head(object, (slab_epoch_head *)object->head);
}

static void write_slab(struct thread *self)
{
    write_with(self, make_by_malloc, retire_deferred);
}

static void write_slab_head(struct thread *self)
{
    write_with(self, make_by_malloc, retire_deferred_head);
}

static void write_slab_cache(struct thread *self)
{
    write_with(self, make_by_cache, retire_deferred);
}

static void read_slab(struct thread *self)
{
    read_with(self, slab_epoch_enter, slab_epoch_leave, find);
}

#define SLAB_CONTENDER                                                                                               \
    .read = read_slab, .open = slab_open, .writer_begins = nothing, .writer_ends = slab_epoch_barrier,               \
    .reader_begins = nothing, .reader_ends = nothing, .watch = slab_watch, .report = slab_report

static const struct contender slab = {.name = "slab", .make = make_by_malloc, .write = write_slab, SLAB_CONTENDER};
static const struct contender slab_head = {
    .name = "slab_head", .make = make_by_malloc, .write = write_slab_head, SLAB_CONTENDER};
static const struct contender slab_cached = {
    .name = "slab_cache", .make = make_by_cache, .write = write_slab_cache, SLAB_CONTENDER};

#endif
