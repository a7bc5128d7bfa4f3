/* What a thread costs that has allocated and then sleeps: parked [THREADS [idle|cycled]].
 *
 * Every thread makes one object of each of ten sizes, writes and frees them, and parks on a futex. A `cycled` thread
 * has 64 objects of 16 bytes to 2 KiB, replaces a random one of them 2,000 times, and frees them all; memory is then
 * looked at when all threads have been parked for three seconds. `idle` threads make no object; the runner takes
 * their resident set from the others', and divides by the number of threads. */
#include "bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>

enum { MAX_THREADS = 10000 };

static const size_t sizes[] = {16, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096};
static const size_t stack_bytes = 64 * 1024;
static bool idle, cycled;
static atomic_uint parked, released;

static void use_ten_sizes(void)
{
    enum { TEN = sizeof sizes / sizeof sizes[0] };
    void *objects[TEN];
    for (unsigned i = 0; i < TEN; i++)
        objects[i] = memset(bench_check(malloc(sizes[i])), 1, sizes[i]);
    for (unsigned i = 0; i < TEN; i++)
        free(objects[i]);
}

static void cycle_through_objects(uint64_t random)
{
    enum { COUNT = 64, REPLACEMENTS = 2000, LEAST = 16, MOST = 2048 };
    void *objects[COUNT] = {NULL};
    for (unsigned i = 0; i < COUNT + REPLACEMENTS; i++) {
        void **object = &objects[i < COUNT ? i : bench_random(&random) % COUNT];
        const size_t bytes = LEAST + bench_random(&random) % (MOST - LEAST + 1);
        free(*object);
        *object = memset(bench_check(malloc(bytes)), 1, bytes);
    }
    for (unsigned i = 0; i < COUNT; i++)
        free(objects[i]);
}

static void *use_and_park(void *ordinal)
{
    char stack[8192]; /* both kinds of thread have touched as much stack, whatever the allocator needs of it */
    memset(stack, 1, sizeof stack);
    __asm__ volatile("" : : "r"(stack) : "memory");
    if (cycled)
        cycle_through_objects((uintptr_t)ordinal);
    else if (!idle)
        use_ten_sizes();
    parked++;
    while (!released)
        syscall(SYS_futex, &released, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return NULL;
}

int main(int count, char **words)
{
    static pthread_t threads[MAX_THREADS];
    pthread_attr_t attributes;
    unsigned thread_count = count > 1 ? (unsigned)bench_number(words[1]) : 200;
    idle = count > 2 && strcmp(words[2], "idle") == 0;
    cycled = count > 2 && strcmp(words[2], "cycled") == 0;
    if (thread_count == 0 || thread_count > MAX_THREADS)
        bench_die("1 to %d threads", MAX_THREADS);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    for (uintptr_t i = 0; i < thread_count; i++) {
        if (pthread_create(&threads[i], &attributes, use_and_park, (void *)i) != 0)
            bench_skip("only %u threads can be started here", (unsigned)i);
    }
    while (parked < thread_count)
        usleep(1000);
    usleep(cycled ? 3000000 : 50000); /* until the last are really asleep; they have nothing left to allocate */
    bench_figure("threads", thread_count, "threads");
    bench_figure("rss", (double)bench_rss_kib(), "KiB");
    bench_figure("anonymous", (double)bench_anonymous_kib(), "KiB");

    released = 1;
    syscall(SYS_futex, &released, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
    for (unsigned i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
