/* What huge pages are worth: huge_pages [MIB [PARTS]].
 *
 * A thread makes objects of 64 to 1,023 bytes until MIB (2048) mebibytes are alive, and writes all their bytes. A
 * pointer in each leads to the next, in random order through all of them. Then the thread follows these pointers,
 * four million steps in each of PARTS (8) parts; every 64th object on the way is replaced by another of a random
 * size. So next to every step misses the caches and, where pages are small, the TLB. What becomes huge while that
 * goes on counts from then on.
 *
 * Figures: `first_part` and `last_part`, CPU time of a step in nanoseconds; `cpu`, of the whole process, in seconds;
 * `rss`, `huge` (what of it lies in huge pages) and `page_tables` at the end, in MiB; `faults`, all page faults.
 * The series @step has a point for each part. */
#include "bench.h"

#include <pthread.h>

enum { STEPS = 4 << 20, REPLACED_EVERY = 64, LEAST_MEAN = 256 };

struct object {
    struct object *next;
};

static uint64_t full_bytes, parts, seed = 1;

static size_t any_size(void)
{
    return bench_size(&seed, 64, 4);
}

static struct object *make(size_t bytes)
{
    return memset(bench_check(malloc(bytes)), 1, bytes);
}

/* One circle of all objects, in random order. The table is gone when it is measured. */
static struct object *make_circle(void)
{
    const size_t most = full_bytes / LEAST_MEAN;
    struct object **objects = bench_pages(most * sizeof *objects);
    size_t count = 0;
    for (uint64_t made = 0; made < full_bytes; count++) {
        const size_t bytes = any_size();
        if (count == most)
            bench_die("more than %zu objects", most);
        objects[count] = make(bytes);
        made += bytes;
    }
    for (size_t left = count; left > 1; left--) {
        const size_t chosen = bench_random(&seed) % left;
        struct object *object = objects[chosen];
        objects[chosen] = objects[left - 1];
        objects[left - 1] = object;
    }
    for (size_t i = 0; i < count; i++)
        objects[i]->next = objects[(i + 1) % count];
    struct object *first = objects[0];
    munmap(objects, most * sizeof *objects);
    return first;
}

static struct object *follow(struct object *at)
{
    for (unsigned step = 0; step < STEPS; step++) {
        struct object *next = at->next;
        if (step % REPLACED_EVERY == 0) {
            struct object *fresh = make(any_size());
            fresh->next = next->next;
            at->next = fresh;
            free(next);
            next = fresh;
        }
        at = next;
    }
    return at;
}

static void print(const char *name, long kib)
{
    bench_figure(name, (double)kib / 1024, "MiB");
}

static void *work(void *nothing)
{
    struct object *at = make_circle();
    struct rusage usage;
    double ns = 0;
    for (unsigned part = 0; part < parts; part++) {
        const double begin = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
        at = follow(at);
        ns = (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - begin) * 1e9 / STEPS;
        if (part == 0)
            bench_figure("first_part", ns, "ns");
        bench_point("step", part + 1, "parts", ns, "ns");
    }
    bench_figure("last_part", ns, "ns");
    getrusage(RUSAGE_SELF, &usage);
    bench_figure("cpu", bench_seconds(CLOCK_PROCESS_CPUTIME_ID), "s");
    print("rss", bench_rss_kib());
    print("huge", bench_proc_kib("/proc/self/smaps_rollup", "AnonHugePages"));
    print("page_tables", bench_proc_kib("/proc/self/status", "VmPTE"));
    bench_figure("faults", (double)usage.ru_minflt, "");
    return nothing;
}

int main(int count, char **words)
{
    pthread_t thread;
    full_bytes = (count > 1 ? bench_number(words[1]) : 2048) << 20;
    parts = count > 2 ? bench_number(words[2]) : 8;
    if (count > 3 || full_bytes == 0 || parts == 0)
        bench_die("usage: huge_pages [MIB [PARTS]]");
    if (pthread_create(&thread, NULL, work, NULL) != 0)
        bench_die("cannot start a thread");
    pthread_join(thread, NULL);
    return 0;
}
