/* Retiring without memory: every block that would hold retired pointers is refused (refuse_blocks=1 in
 * SLABMALLOC_OPTIONS, which libraries with checkers know), so each object waits by its own head, or its thread waits
 * for a grace period.
 *
 * Promised: nothing is lost and nothing leaks; and what the one-argument form must leave unfreed inside sections is
 * counted to the object. Own caches count: as many objects are active in the end as the library says that it left.
 *
 *     phase           form     others read    objects
 *     alone           one      no             0.39 of all: retiring frees at once
 *     heads alone     head     no             0.3
 *     heads           head     yes            0.3: they wait by their heads
 *     waits           one      yes            0.0002: each thread waits for a grace period for each object
 *     in sections     one      yes            1,000 in one section, for each thread
 */
#include "epochs.h"

#include <unistd.h>

enum { WRITERS = 3, READERS = 2, IN_SECTION = 1000, STRAY_BYTES = 1 << 18 };

struct item {
    uint64_t serial, check; /* the one follows from the other and the address */
    slab_epoch_head head;
    uint64_t words[3];
};

static slab_cache *items;
static _Atomic(struct item *) shown[WRITERS]; /* a release publishes an item, an acquire finds it */
static atomic_bool stopping;
static _Atomic uint64_t reads, retired;

struct writer {
    pthread_t thread;
    unsigned number;
    uint64_t count;
    bool heads, in_section;
};

/* -- readers and writers ----------------------------------------------------------------------------------------- */

/* Its serial must be the one given, or any (0). Returns it; each call reads memory anew. */
__attribute__((noinline)) static uint64_t check_item(const struct item *item, uint64_t serial)
{
    const uint64_t found = item->serial;
    if (item->check != mix((uintptr_t)item ^ mix(found)) || (serial != 0 && found != serial))
        fail(FOUND_BROKEN, "broken: item %p, serial %#" PRIx64 " was %#" PRIx64, (const void *)item, found, serial);
    return found;
}

static void *read_items(void *argument)
{
    const unsigned place = (unsigned)(uintptr_t)argument;
    uint64_t random = random_of(place);
    start_work(place, place);
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        doing("reading");
        slab_epoch_enter();
        const struct item *item = atomic_load_explicit(&shown[draw(&random) % WRITERS], memory_order_acquire);
        if (item != NULL) {
            const uint64_t serial = check_item(item, 0);
            if (once_in(&random, 100))
                sched_yield();
            check_item(item, serial);
        }
        slab_epoch_leave();
        atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
    }
    return NULL;
}

/* Malloc's and the cache's in turns: their pointers wait in different magazines. Inside sections only the cache's,
 * which can be counted. */
static struct item *make_item(const struct writer *self, uint64_t number)
{
    static _Atomic uint64_t serials;
    const bool mallocs = !self->in_section && number % 4 == 0;
    struct item *item = mallocs ? malloc(sizeof *item) : slab_cache_alloc(items);
    if (item == NULL)
        fail(FOUND_WRONG, "no item: %s", strerror(errno));
    item->serial = atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed) + 1;
    item->check = mix((uintptr_t)item ^ mix(item->serial));
    return item;
}

static void retire_items(struct writer *self)
{
    for (uint64_t i = 0; i < self->count; i++) {
        struct item *item = make_item(self, i);
        struct item *old = atomic_exchange_explicit(&shown[self->number], item, memory_order_acq_rel);
        if (old == NULL)
            continue;
        const uint64_t serial = check_item(old, 0);
        if (self->heads)
            slab_free_deferred_head(old, &old->head);
        else
            slab_free_deferred(old);
        if (self->in_section)
            check_item(old, serial);
    }
    atomic_fetch_add(&retired, self->count);
}

static void *write_items(void *argument)
{
    struct writer *self = argument;
    start_work(2 + READERS + self->number, 100 + self->number);
    doing(self->heads ? "slab_free_deferred_head" : "slab_free_deferred");
    if (self->in_section)
        slab_epoch_enter();
    retire_items(self);
    if (self->in_section)
        slab_epoch_leave();
    return NULL;
}

/* -- phases ------------------------------------------------------------------------------------------------------ */

static void run_writers(uint64_t count, bool heads, bool in_section)
{
    struct writer writers[WRITERS];
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.number = i, .count = count, .heads = heads, .in_section = in_section};
        writers[i].thread = start_thread(write_items, &writers[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    for (unsigned i = 0; i < WRITERS; i++) {
        struct item *last = atomic_exchange(&shown[i], NULL);
        slab_free_deferred_head(last, &last->head);
    }
}

/* Behind a barrier, all that is alive is what has been left. */
static void expect_left(uint64_t left, const char *phase)
{
    slab_cache_stats stats;
    doing(phase);
    slab_epoch_barrier();
    const slab_stats all = figures();
    if (slab_cache_get_stats(items, &stats) != 0)
        fail(FOUND_WRONG, "no figures: %s", strerror(errno));
    printf("epochs: %s: %" PRIu64 " retired so far, %" PRIu64 " reads, %" PRIu64 " grace periods, %" PRIu64
           " waits, %" PRIu64 " left unfreed\n",
           phase, atomic_load(&retired), atomic_load(&reads), all.grace_periods, all.deferred_waits,
           all.deferred_unfreed);
    fflush(stdout);
    if (all.deferred_unfreed != left)
        fail(FOUND_MISSING, "missing: %" PRIu64 " objects were left unfreed, not %" PRIu64, all.deferred_unfreed,
             left);
    if (stats.active_objects != left)
        fail(FOUND_MISSING, "missing: %" PRIu64 " objects are active, not %" PRIu64, stats.active_objects, left);
    if (all.deferred_objects != 0)
        fail(FOUND_MISSING, "missing: behind a barrier %" PRIu64 " objects wait", all.deferred_objects);
}

static void run_alone(uint64_t retires)
{
    run_writers(retires * 39 / 100 / WRITERS, false, false);
    expect_left(0, "alone");
    run_writers(retires * 30 / 100 / WRITERS, true, false);
    expect_left(0, "heads alone");
}

static void run_with_readers(uint64_t retires)
{
    pthread_t readers[READERS];
    for (uintptr_t i = 0; i < READERS; i++)
        readers[i] = start_thread(read_items, (void *)(i + 2));
    run_writers(retires * 30 / 100 / WRITERS, true, false);
    expect_left(0, "heads");
    run_writers(retires / 5000 / WRITERS, false, false);
    expect_left(0, "waits");
    run_writers(IN_SECTION, false, true);
    slab_epoch_barrier();
    const uint64_t left = figures().deferred_unfreed;
    if (left != (uint64_t)WRITERS * (IN_SECTION - 1)) /* the last ones have heads */
        fail(FOUND_WRONG, "of %u objects retired inside sections %" PRIu64 " were left: blocks are not refused",
             (unsigned)WRITERS * IN_SECTION, left);
    expect_left(left, "in sections");
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
}

/* The option must be there when the library starts. */
static void refuse_blocks(void)
{
    char text[512];
    const char *set = getenv("SLABMALLOC_OPTIONS");
    if (set != NULL && strstr(set, "refuse_blocks=1") != NULL)
        return;
    snprintf(text, sizeof text, "%s%srefuse_blocks=1", set != NULL ? set : "", set != NULL ? "," : "");
    if (setenv("SLABMALLOC_OPTIONS", text, 1) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
    execv("/proc/self/exe", options.words);
    fail(FOUND_WRONG, "exec: %s", strerror(errno));
}

void run_no_blocks(void)
{
    refuse_blocks();
    items = slab_cache_create("items", sizeof(struct item), &(slab_cache_attr){.flags = SLAB_NO_MERGE});
    if (items == NULL)
        fail(FOUND_WRONG, "no cache: %s", strerror(errno));
    const uint64_t live = figures().live_bytes;
    run_alone(options.retires);
    run_with_readers(options.retires);
    const uint64_t left = figures().deferred_unfreed * sizeof(struct item);
    if (figures().live_bytes > live + left + STRAY_BYTES)
        fail(FOUND_MISSING, "missing: %" PRIu64 " bytes live, %" PRIu64 " before", figures().live_bytes, live);
}
