/* Threads that have worked, and wait for more to do, as most threads of a server do most of the time: what they hold
 * goes back to the kernel, by itself and by malloc_trim, and they find everything in order when they go on.
 *
 * Written in: malloc_trim(3) ("attempts to release free memory at the top of the heap", and since glibc 2.8 "frees
 * memory in all arenas and in all chunks with whole free pages"), and README: what threads that are still hold goes
 * back, down to 24 KiB for each. */
#include "common.h"

#include <semaphore.h>

#include "load.h"

enum { THREADS = 60, OBJECTS = 64, TURNS = 2000, LARGEST = 2048, KEPT_KIB = 24 };

static struct waiter {
    pthread_t thread;
    sem_t told, done;
    bool ends;
    uint64_t seed;
} waiters[THREADS];

static void cycle(uint64_t *seed)
{
    unsigned char *objects[OBJECTS] = {NULL};
    size_t sizes[OBJECTS];
    for (unsigned turn = 0; turn < TURNS; turn++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        const size_t i = *seed >> 33 & (OBJECTS - 1);
        if (objects[i] != NULL)
            require(objects[i][0] == i && objects[i][sizes[i] - 1] == i);
        free(objects[i]);
        sizes[i] = 1 + (*seed >> 40) % LARGEST;
        objects[i] = memset(malloc(sizes[i]), (int)i, sizes[i]);
    }
    for (size_t i = 0; i < OBJECTS; i++)
        free(objects[i]);
}

static void await(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        require(errno == EINTR);
}

static void *wait_for_work(void *argument)
{
    struct waiter *self = argument;
    char stack[16 * KIB]; /* touched before anything is measured */
    memset(stack, 1, sizeof stack);
    __asm__ volatile("" : : "r"(stack) : "memory");
    for (;;) {
        require(sem_post(&self->done) == 0);
        await(&self->told);
        if (self->ends)
            return NULL;
        cycle(&self->seed);
    }
}

/* Returns when all wait again. */
static void have_all_work(void)
{
    for (size_t i = 0; i < THREADS; i++)
        require(sem_post(&waiters[i].told) == 0);
    for (size_t i = 0; i < THREADS; i++)
        await(&waiters[i].done);
}

static size_t start_waiters(void)
{
    do_without_huge_pages();
    for (size_t i = 0; i < THREADS; i++) {
        waiters[i].seed = i;
        require(sem_init(&waiters[i].told, 0, 0) == 0 && sem_init(&waiters[i].done, 0, 0) == 0);
        require(pthread_create(&waiters[i].thread, NULL, wait_for_work, &waiters[i]) == 0);
        await(&waiters[i].done);
    }
    return rss_kib();
}

static void end_waiters(void)
{
    for (size_t i = 0; i < THREADS; i++) {
        waiters[i].ends = true;
        require(sem_post(&waiters[i].told) == 0);
        require(pthread_join(waiters[i].thread, NULL) == 0);
    }
    exercise();
}

/* The library's own part is once for all threads. */
enum { ONCE_KIB = 2048 };

static bool is_small(size_t before)
{
    return rss_kib() <= before + ONCE_KIB + THREADS * KEPT_KIB;
}

static void role_waits(const char *argument)
{
    (void)argument;
    const size_t before = start_waiters();
    for (unsigned i = 0; i < 3; i++) {
        have_all_work();
        while (!is_small(before))
            sleep_ms(10);
    }
    end_waiters();
}

/* Nobody looks after them, so the call alone does it, whether they have worked just now or not. */
static void role_trims(const char *argument)
{
    (void)argument;
    const size_t before = start_waiters();
    for (unsigned i = 0; i < 5; i++) {
        have_all_work();
        malloc_trim(0);
        require(is_small(before));
    }
    end_waiters();
}

static void *trim_all_the_time(void *stop)
{
    while (!__atomic_load_n((bool *)stop, __ATOMIC_RELAXED))
        malloc_trim(0);
    return NULL;
}

static void role_trims_meanwhile(const char *argument)
{
    (void)argument;
    bool stop = false;
    pthread_t trimmer;
    start_waiters();
    require(pthread_create(&trimmer, NULL, trim_all_the_time, &stop) == 0);
    for (unsigned i = 0; i < scaled(10); i++)
        have_all_work();
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    require(pthread_join(trimmer, NULL) == 0);
    end_waiters();
}

/* In a child the threads are gone; in the parent they go on. */
static void role_forks(const char *argument)
{
    (void)argument;
    const size_t before = start_waiters();
    have_all_work();
    malloc_trim(0);
    for (unsigned i = 0; i < 5; i++) {
        const pid_t child = fork();
        if (child == 0) {
            uint64_t seed = i;
            cycle(&seed);
            malloc_trim(0);
            cycle(&seed);
            _exit(0);
        }
        require(ended_well(wait_for(child)));
        have_all_work();
    }
    malloc_trim(0);
    require(is_small(before));
    end_waiters();
}

static void test_what_waiting_threads_hold_goes_back(void **state)
{
    (void)state;
    skip_on_glibc("a thread's cache keeps what it has");
    assert_role_succeeds("waits", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=purge_delay_ms=50"}});
}

static void test_malloc_trim_takes_what_waiting_threads_hold(void **state)
{
    (void)state;
    skip_on_glibc("a thread's cache keeps what it has");
    assert_role_succeeds("trims", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=worker=0"}});
}

static void test_malloc_trim_beside_threads_at_work(void **state)
{
    (void)state;
    assert_role_succeeds("trims_meanwhile", NULL);
}

static void test_forks_beside_waiting_threads(void **state)
{
    (void)state;
    skip_on_glibc("a thread's cache keeps what it has");
    assert_role_succeeds("forks", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"waits", role_waits}, {"trims", role_trims}, {"trims_meanwhile", role_trims_meanwhile},
        {"forks", role_forks}, {"noop", role_noop},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_waiting_threads_hold_goes_back),
        cmocka_unit_test(test_malloc_trim_takes_what_waiting_threads_hold),
        cmocka_unit_test(test_malloc_trim_beside_threads_at_work),
        cmocka_unit_test(test_forks_beside_waiting_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
