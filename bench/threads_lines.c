/* False sharing: `false_sharing_active` and `false_sharing_passive` of the program `threads`.
 *
 * A thread makes an object of 8 bytes, writes it two hundred times and frees it, again and again; so do all others.
 * Where objects of two threads lie on one cache line, each waits for the other's CPU to let go of the line. An
 * allocator brings that about by cutting one line for two threads (active), or by letting a thread that has freed an
 * object of another's line make its next objects of it (passive). For the passive one, the main thread makes one
 * object for each thread, side by side; a thread writes and frees its own and goes on as above.
 *
 * The writes are atomic increments, as a reference count's: plain ones are gathered in the CPU's store buffer, which
 * hides most of the sharing. Threads are pinned to the CPUs in turn, so that neighbours do run at the same time; on
 * a machine with one CPU the two are skipped.
 *
 * An operation is one object: malloc, the increments, free. Without sharing the increments are nearly all of it, so
 * allocators that keep threads apart come out alike; what is over the best one's CPU time is sharing. */
#include "threads.h"

enum { SHARED_BYTES = 8, WRITES = 200 };

static void write_often(void *object)
{
    _Atomic uint64_t *references = object;
    atomic_init(references, 0);
    for (unsigned i = 0; i < WRITES; i++)
        atomic_fetch_add_explicit(references, 1, memory_order_relaxed);
}

static void write_objects(struct lane *lane)
{
    uint64_t done = 0;
    for (; !stopped(); done++) {
        void *object = bench_check(malloc(SHARED_BYTES));
        write_often(object);
        free(object);
    }
    lane->operations += done;
}

static void need_two_cpus(struct lane *lane)
{
    cpu_set_t allowed;
    (void)lane;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) == 1) {
        fputs("skip: one CPU shares no line with another\n", stderr);
        exit(0);
    }
}

static void make_first_object(struct lane *lane)
{
    need_two_cpus(lane);
    lane->state = make_object(SHARED_BYTES);
}

static void write_pinned(struct lane *lane)
{
    bench_pin(lane->index);
    write_objects(lane);
}

static void write_first_and_others(struct lane *lane)
{
    bench_pin(lane->index);
    write_often(lane->state);
    free(lane->state);
    write_objects(lane);
}

const struct workload false_sharing_active = {"false_sharing_active", 1, need_two_cpus, write_pinned};
const struct workload false_sharing_passive = {"false_sharing_passive", 1, make_first_object, write_first_and_others};
