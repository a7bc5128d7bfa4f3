/* What a child of fork has of the memory that its parent's other threads had.
 *
 * Written in: fork(2): the child is a duplicate of the calling process. So what other threads held for the program is
 * there, as it was at one moment, and stays as it was. What they had freed is free in the child as well, and must not
 * be lost: generations of processes that fork while they have threads would each keep more. */
#include "common.h"

static bool over;

static bool is_over(void)
{
    return __atomic_load_n(&over, __ATOMIC_RELAXED);
}

static void await_child(pid_t child, const char *what)
{
    const int status = wait_for(child);
    require(child > 0);
    explain_status(what, status);
    require(ended_well(status));
}

/* -- what is live stays as it is --------------------------------------------------------------------------------- */

/* Blocks that threads put here when they are whole, and take out before they free them, each other's too. */
enum { SHELF = 3000 };

struct parcel {
    size_t size;
    unsigned seed;
    unsigned char contents[];
};

static struct parcel *shelf[SHELF];

static size_t parcel_size(uint64_t *random)
{
    const uint64_t dice = random_next(random);
    return sizeof(struct parcel) + (size_t)(dice % 64 ? dice % 700 : dice % (90 * KIB));
}

static struct parcel *pack(uint64_t *random)
{
    const size_t size = parcel_size(random);
    struct parcel *parcel = malloc(size);
    require(parcel != NULL);
    parcel->size = size - sizeof *parcel;
    parcel->seed = (unsigned)random_next(random);
    pattern_fill(parcel->contents, parcel->size, parcel->seed);
    return parcel;
}

/* The exchange pairs with that of other threads; and a child sees what is on the shelf as it was put there. */
static void unpack(struct parcel *parcel)
{
    require(parcel == NULL || pattern_holds(parcel->contents, parcel->size, parcel->seed));
    free(parcel);
}

static void *use_shelf(void *number)
{
    uint64_t random = 77 + (uintptr_t)number;
    become_background();
    while (!is_over()) {
        const size_t place = (size_t)(random_next(&random) % SHELF);
        struct parcel *made = random_next(&random) % 2 ? pack(&random) : NULL;
        unpack(__atomic_exchange_n(&shelf[place], made, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

/* All that is free in the child, and more. */
static void *fill_memory(void *number)
{
    enum { MANY = 2500 };
    static struct parcel *made[3][MANY];
    struct parcel **mine = made[(uintptr_t)number];
    uint64_t random = 5 + (uintptr_t)number;
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < MANY; i++)
            mine[i] = pack(&random);
        for (size_t i = 0; i < MANY; i++)
            unpack(mine[i]);
    }
    return NULL;
}

__attribute__((noreturn)) static void live_with_shelf(unsigned number)
{
    static struct parcel *inherited[SHELF];
    pthread_t threads[2];
    watchdog("a child of threads that share their memory hangs");
    memcpy(inherited, shelf, sizeof shelf); /* nobody else changes it here */
    if (number % 4 == 1)
        malloc_trim(0);
    for (size_t i = 0; i < COUNT(threads) && number % 2; i++)
        require(pthread_create(&threads[i], NULL, fill_memory, (void *)(uintptr_t)(i + 1)) == 0);
    fill_memory(NULL);
    for (size_t i = 0; i < COUNT(threads) && number % 2; i++)
        require(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < SHELF; i++)
        unpack(inherited[i]);
    fill_memory(NULL);
    _exit(0);
}

static void role_live(const char *argument)
{
    pthread_t threads[4];
    (void)argument;
    watchdog("forks beside threads that share their memory hang");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, use_shelf, (void *)(uintptr_t)i) == 0);
    for (unsigned number = 0; number < scaled(25); number++) {
        const pid_t child = fork();
        if (child == 0)
            live_with_shelf(number);
        await_child(child, "a child of threads that share their memory");
    }
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < SHELF; i++)
        unpack(shelf[i]);
}

static void test_what_other_threads_hold_stays_in_the_child(void **state)
{
    (void)state;
    assert_role_succeeds("live", NULL);
}

/* -- what is free is not lost ------------------------------------------------------------------------------------ */

enum { GENERATIONS = 20, THREADS = 4, OBJECTS = 1000, LARGE = 10, ROUNDS = 4 };

static unsigned at_rest;
static bool busy;
static pthread_barrier_t all_made; /* so that the peak is the same however threads are scheduled */

static void meet(void)
{
    const int result = pthread_barrier_wait(&all_made);
    require(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
}

/* Everything is free at the end; a busy one goes on with a few at a time. */
static void *hold_free_memory(void *number)
{
    void *objects[OBJECTS];
    uint64_t random = 9 + (uintptr_t)number;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < OBJECTS; i++) {
            const size_t size = (size_t)(i < OBJECTS - LARGE ? random_next(&random) % 1024 : 100 * KIB);
            require((objects[i] = malloc(size)) != NULL);
            memset(objects[i], 1, size);
        }
        meet();
        meet();
        for (size_t i = 0; i < OBJECTS; i++)
            free(objects[i]);
    }
    __atomic_fetch_add(&at_rest, 1, __ATOMIC_RELEASE);
    for (unsigned round = 0; busy; round++) {
        const size_t n = 30 + round % 30;
        for (size_t i = 0; i < n; i++)
            require((objects[i] = malloc(random_next(&random) % 1024)) != NULL);
        for (size_t i = 0; i < n; i++)
            free(objects[i]);
    }
    for (;;)
        pause();
    return NULL;
}

/* The most memory that the process had while they held all that they make. */
static size_t start_threads(void)
{
    pthread_t thread;
    size_t most = 0;
    at_rest = 0;
    require(pthread_barrier_init(&all_made, NULL, THREADS + 1) == 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        require(pthread_create(&thread, NULL, hold_free_memory, (void *)i) == 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        meet();
        const size_t now = rss_kib();
        most = now > most ? now : most;
        meet();
    }
    while (__atomic_load_n(&at_rest, __ATOMIC_ACQUIRE) < THREADS)
        sleep_ms(1);
    return most;
}

static void role_generations(const char *argument)
{
    size_t first = 0;
    do_without_huge_pages();
    busy = strcmp(argument, "busy") == 0;
    watchdog("generations of forks hang");
    for (unsigned generation = 0; generation < GENERATIONS; generation++) {
        const size_t held = start_threads();
        if (generation == 0)
            first = held;
        const pid_t child = generation < GENERATIONS - 1 ? fork() : 0;
        if (child > 0) {
            await_child(child, "a later generation");
            _exit(0);
        }
        require(child == 0);
    }
    const size_t live = busy ? GENERATIONS * THREADS * 60 : 0; /* what busy ones had when they were lost */
    const size_t last = rss_kib();
    if (last > first + first / 2 + live) {
        fprintf(stderr, "%zu KiB in the last of %d generations, %zu at the first one's peak\n", last, GENERATIONS,
                first);
        require(!"memory that lost threads had freed is used again");
    }
    _exit(0);
}

static void test_generations_of_quiet_threads_do_not_grow(void **state)
{
    (void)state;
    skip_on_glibc("what other threads had cached is lost to a child");
    assert_role_succeeds("generations", NULL);
}

static void test_generations_of_busy_threads_grow_by_what_they_hold(void **state)
{
    (void)state;
    skip_on_glibc("what other threads had cached is lost to a child");
    assert_role_succeeds("generations", &(struct launch){.argument = "busy"});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"live", role_live},
        {"generations", role_generations},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_other_threads_hold_stays_in_the_child),
        cmocka_unit_test(test_generations_of_quiet_threads_do_not_grow),
        cmocka_unit_test(test_generations_of_busy_threads_grow_by_what_they_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
