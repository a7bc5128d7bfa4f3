/* Threads: births and deaths, late destructors, exit while others allocate, memory that changes hands.
 *
 * Written in: pthread_key_create(3p) (destructors may set their value again, PTHREAD_DESTRUCTOR_ITERATIONS times),
 * PTHREAD_KEYS_MAX, PTHREAD_STACK_MIN (limits.h), pthreads(7) (malloc and free are no cancellation points, and any
 * thread may free what another made), exit(3) (atexit handlers run while other threads go on), signal(7) (a signal
 * for the process goes to the program's threads). */
#include "common.h"

#include <sys/mman.h>
#include <sys/syscall.h>

static void start_thread(pthread_t *thread, void *(*run)(void *), void *argument)
{
    require(pthread_create(thread, NULL, run, argument) == 0);
}

/* -- thousands of threads -------------------------------------------------------------------------------------- */

static pthread_barrier_t wave_complete;

/* All threads of a wave are alive at once with all that they hold, and each wave does what the one before did: the
 * first needs as much memory as the last. */
static void *short_life(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument * 977 + 1;
    void *kept[10], *left_behind = malloc(1000);
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < COUNT(kept); i++) {
            size_t size = random_next(&random) % (i == 0 ? 60000 : 700);
            kept[i] = memset(malloc(size), 1, size);
        }
        if (round == 0)
            pthread_barrier_wait(&wave_complete);
        for (unsigned i = 0; i < COUNT(kept); i++)
            free(kept[i]);
    }
    return memset(left_behind, 2, 1000);
}

static void wave_of_threads(unsigned count)
{
    pthread_t threads[32];
    void *left_behind;
    require(count <= COUNT(threads));
    for (unsigned i = 0; i < count; i++)
        start_thread(&threads[i], short_life, (void *)(uintptr_t)i);
    for (unsigned i = 0; i < count; i++) {
        require(pthread_join(threads[i], &left_behind) == 0);
        free(left_behind);
    }
}

/* A leak of 150 bytes a thread shows. */
static void two_thousand_threads(void *at_once)
{
    for (unsigned ended = 0; ended < scaled(2000); ended += *(unsigned *)at_once)
        wave_of_threads(*(unsigned *)at_once);
}

static void role_thousands(const char *argument)
{
    unsigned at_once = (unsigned)atoi(argument);
    do_without_huge_pages();
    require(pthread_barrier_init(&wave_complete, NULL, at_once) == 0);
    wave_of_threads(at_once);
    size_t size = status_number("VmSize:");
    require_no_growth(two_thousand_threads, &at_once, 300);
    require(on_glibc() || status_number("VmSize:") < size + 64 * KIB); /* glibc adds arenas as it likes */
}

static void test_thousands_of_threads_leave_nothing(void **state)
{
    (void)state;
    assert_role_succeeds("thousands", &(struct launch){.argument = "1"});
    assert_role_succeeds("thousands", &(struct launch){.argument = "32"});
}

/* -- late destructors -------------------------------------------------------------------------------------------- */

struct late_value {
    pthread_key_t key;
    unsigned destroyed;
    struct block block;
};

static unsigned late_destructions;

/* Frees, allocates and re-arms itself for as long as the system promises to come again. */
static void late_destructor(void *value)
{
    struct late_value *late = value;
    uint64_t random = late->block.seed + 1u;
    block_free(&late->block);
    churn(late->destroyed, 30);
    __atomic_add_fetch(&late_destructions, 1, __ATOMIC_RELAXED);
    if (++late->destroyed < PTHREAD_DESTRUCTOR_ITERATIONS) {
        block_make(&late->block, &random);
        require(pthread_setspecific(late->key, late) == 0);
    } else {
        free(late);
    }
}

static void *thread_with_late_values(void *keys)
{
    uint64_t random = 3;
    for (unsigned i = 0; i < 3; i++) {
        struct late_value *late = calloc(1, sizeof *late);
        late->key = ((pthread_key_t *)keys)[i];
        block_make(&late->block, &random);
        require(pthread_setspecific(late->key, late) == 0);
    }
    return NULL;
}

/* The only allocator calls of this thread happen in destructors. */
static void *thread_without_allocations(void *key)
{
    static char any_value;
    require(pthread_setspecific(*(pthread_key_t *)key, &any_value) == 0);
    return NULL;
}

static void churn_as_destructor(void *value)
{
    (void)value;
    churn(11, 100);
}

struct late_keys {
    pthread_key_t of_values[3], of_first_use;
};

static void threads_with_late_destructors(void *keys)
{
    enum { THREADS = 400 };
    struct late_keys *late = keys;
    pthread_t thread;
    late_destructions = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        start_thread(&thread, i % 2 ? thread_with_late_values : thread_without_allocations,
                     i % 2 ? late->of_values : &late->of_first_use);
        require(pthread_join(thread, NULL) == 0);
    }
    require(late_destructions == THREADS / 2 * 3 * PTHREAD_DESTRUCTOR_ITERATIONS);
}

static void role_late_destructors(const char *argument)
{
    (void)argument;
    struct late_keys keys;
    do_without_huge_pages();
    require(pthread_key_create(&keys.of_first_use, churn_as_destructor) == 0);
    for (unsigned i = 0; i < 3; i++)
        require(pthread_key_create(&keys.of_values[i], late_destructor) == 0);
    threads_with_late_destructors(&keys);
    size_t used = in_use();
    require_no_growth(threads_with_late_destructors, &keys, 400);
    require(in_use() < used + MIB);
}

static void test_late_destructors_may_allocate_and_free(void **state)
{
    (void)state;
    assert_role_succeeds("late-destructors", NULL);
}

/* -- keys and stacks --------------------------------------------------------------------------------------------- */

static void *thread_with_all_keys(void *keys)
{
    for (unsigned i = 0; i < PTHREAD_KEYS_MAX - 1; i++)
        require(pthread_setspecific(((pthread_key_t *)keys)[i], malloc(20 + i)) == 0);
    return NULL;
}

static void role_all_keys(const char *argument)
{
    (void)argument;
    static pthread_key_t keys[PTHREAD_KEYS_MAX];
    unsigned count = 0;
    pthread_t thread;
    free(malloc(1));
    while (count < PTHREAD_KEYS_MAX && pthread_key_create(&keys[count], free) == 0)
        count++;
    require(count >= PTHREAD_KEYS_MAX - 1);
    for (unsigned i = 0; i < 20; i++) {
        start_thread(&thread, thread_with_all_keys, keys);
        require(pthread_join(thread, NULL) == 0);
    }
}

static void test_the_program_has_1023_keys(void **state)
{
    (void)state;
    assert_role_succeeds("all-keys", NULL);
}

static void *use_everything_on_little_stack(void *argument)
{
    (void)argument;
    churn(17, 500);
    for (size_t size = 1; size < 4 * MIB; size *= 3) {
        void *aligned = memalign(4096, size), *zeroed = calloc(size, 2);
        require(aligned != NULL && zeroed != NULL && malloc_usable_size(aligned) >= size);
        free(realloc(aligned, size * 2));
        free(zeroed);
    }
    require(mallinfo2().uordblks < (size_t)1 << 40);
    malloc_trim(0);
    return NULL;
}

static void role_little_stacks(const char *argument)
{
    (void)argument;
    pthread_attr_t attributes;
    pthread_t threads[16];
    size_t size = (size_t)PTHREAD_STACK_MIN, page = (size_t)sysconf(_SC_PAGESIZE);
    require(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, size) == 0);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], &attributes, use_everything_on_little_stack, NULL) == 0);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    char *own = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(own != MAP_FAILED && mprotect(own, page, PROT_NONE) == 0);
    require(pthread_attr_setstack(&attributes, own + page, size) == 0);
    require(pthread_create(&threads[0], &attributes, use_everything_on_little_stack, NULL) == 0);
    require(pthread_join(threads[0], NULL) == 0);
}

static void test_threads_with_the_smallest_stack(void **state)
{
    (void)state;
    assert_role_succeeds("little-stacks", NULL);
}

/* -- memory that changes hands ----------------------------------------------------------------------------------- */

enum { EXCHANGES = 64, EXCHANGE_ROUNDS = 6000 };
static struct block *exchange[EXCHANGES];

/* Puts its block into a slot, takes what lay there, checks and frees that: most blocks die by another's hand. */
static void *trader(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument * 31 + 7;
    for (unsigned i = 0, rounds = scaled(EXCHANGE_ROUNDS); i < rounds; i++) {
        struct block *mine = malloc(sizeof *mine);
        require(mine != NULL);
        block_make(mine, &random);
        struct block *theirs =
            __atomic_exchange_n(&exchange[random_next(&random) % EXCHANGES], mine, __ATOMIC_ACQ_REL);
        if (theirs == NULL)
            continue;
        if (i % 5 == 0)
            block_resize(theirs, &random);
        block_free(theirs);
        free(theirs);
    }
    return NULL;
}

static void test_any_thread_may_free(void **state)
{
    (void)state;
    pthread_t threads[6];
    size_t before = in_use();
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        start_thread(&threads[i], trader, (void *)i);
    for (unsigned i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < EXCHANGES; i++)
        if (exchange[i] != NULL) {
            block_free(exchange[i]);
            free(exchange[i]);
        }
    assert_true(in_use() < before + 4 * MIB);
}

/* One thread only makes, another only frees: memory must come round, not pile up. */
static pthread_barrier_t belt_barrier;
static void *belt[2][5000];
static unsigned belt_rounds;

static void *belt_producer(void *argument)
{
    (void)argument;
    for (unsigned round = 0; round < belt_rounds; round++) {
        for (unsigned i = 0; i < COUNT(belt[0]); i++)
            belt[round % 2][i] = memset(malloc(600), 1, 600);
        pthread_barrier_wait(&belt_barrier);
    }
    return NULL;
}

static void role_belt(const char *argument)
{
    (void)argument;
    pthread_t producer;
    do_without_huge_pages();
    size_t rss = rss_kib();
    belt_rounds = scaled(100);
    require(pthread_barrier_init(&belt_barrier, NULL, 2) == 0);
    start_thread(&producer, belt_producer, NULL);
    for (unsigned round = 0; round < belt_rounds; round++) {
        pthread_barrier_wait(&belt_barrier);
        require(rss_kib() < rss + 25 * KIB); /* the live set is under 6 MiB, made in all: 300 MB */
        for (unsigned i = 0; i < COUNT(belt[0]); i++)
            free(belt[round % 2][i]);
    }
    require(pthread_join(producer, NULL) == 0);
}

static void test_a_producer_and_a_consumer(void **state)
{
    (void)state;
    assert_role_succeeds("belt", NULL);
}

/* -- ends -------------------------------------------------------------------------------------------------------- */

static struct block made_in_time;

static void say(const char *letter)
{
    require(write(STDOUT_FILENO, letter, 1) == 1);
}

static void at_exit_allocate(void)
{
    churn(23, 300);
    block_free(&made_in_time);
    say("a");
}

static void on_exit_allocate(int status, void *argument)
{
    require(status == 0);
    free(realloc(argument, 5000));
    say("o");
}

static bool destructor_speaks;

__attribute__((destructor)) static void destructor_allocates(void)
{
    churn(29, 300);
    if (destructor_speaks)
        say("d");
}

static void *for_ever(void *argument)
{
    for (uint64_t seed = (uintptr_t)argument;; seed++)
        churn(seed, 50);
    return NULL;
}

static void detach_four_for_ever(void)
{
    pthread_t thread;
    for (uintptr_t i = 0; i < 4; i++) {
        start_thread(&thread, for_ever, (void *)i);
        require(pthread_detach(thread) == 0);
    }
}

static void role_exit(const char *argument)
{
    uint64_t random = 1;
    watchdog("exit hangs while other threads allocate");
    block_make(&made_in_time, &random);
    require(atexit(at_exit_allocate) == 0 && at_quick_exit(at_exit_allocate) == 0);
    require(on_exit(on_exit_allocate, malloc(10)) == 0);
    destructor_speaks = true;
    detach_four_for_ever();
    sleep_ms(1);
    if (strcmp(argument, "quick") == 0)
        quick_exit(0);
}

static void check_exit(const char *argument, const char *expected)
{
    char said[16] = "";
    FILE *output = tmpfile();
    assert_role_succeeds("exit", &(struct launch){.argument = argument, .output_fd = fileno(output)});
    rewind(output);
    said[fread(said, 1, sizeof said - 1, output)] = '\0';
    fclose(output);
    assert_string_equal(said, expected);
}

static void test_exit_while_detached_threads_allocate(void **state)
{
    (void)state;
    for (unsigned i = 0; i < scaled(12); i++) {
        check_exit("plain", "oad");
        check_exit("quick", "a");
    }
}

static void *outlive_main(void *argument)
{
    void **made_by_main = argument;
    sleep_ms(30);
    for (unsigned i = 0; i < 1000; i++)
        free(made_by_main[i]);
    churn(31, 5000);
    exit(0);
}

static void role_main_leaves(const char *argument)
{
    (void)argument;
    static void *blocks[1000];
    pthread_t thread;
    for (unsigned i = 0; i < COUNT(blocks); i++)
        blocks[i] = malloc(i * 10);
    start_thread(&thread, outlive_main, blocks);
    pthread_exit(NULL);
}

static void test_main_may_leave_first(void **state)
{
    (void)state;
    assert_role_succeeds("main-leaves", NULL);
}

/* -- cancellation and signals ------------------------------------------------------------------------------------ */

static bool passed_all_calls;

static void *allocate_with_a_pending_cancel(void *argument)
{
    (void)argument;
    pthread_cancel(pthread_self());
    churn(37, 5000);
    for (size_t size = 1; size < 64 * MIB; size *= 2)
        free(realloc(calloc(1, size), size * 2));
    malloc_trim(0);
    passed_all_calls = true;
    pthread_testcancel();
    return NULL;
}

static void test_malloc_and_free_are_no_cancellation_points(void **state)
{
    (void)state;
    pthread_t thread;
    void *result;
    start_thread(&thread, allocate_with_a_pending_cancel, NULL);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_true(passed_all_calls && result == PTHREAD_CANCELED);
}

static void free_on_cancel(void *block)
{
    free(block);
}

static void *wait_for_cancel(void *argument)
{
    void *block = malloc(5000);
    pthread_cleanup_push(free_on_cancel, block);
    for (;;) {
        churn((uintptr_t)argument, 20);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void test_cancelled_threads_clean_up(void **state)
{
    (void)state;
    pthread_t threads[8];
    size_t before = in_use();
    for (unsigned round = 0; round < scaled(25); round++) {
        for (uintptr_t i = 0; i < COUNT(threads); i++)
            start_thread(&threads[i], wait_for_cancel, (void *)i);
        for (unsigned i = 0; i < COUNT(threads); i++)
            assert_int_equal(pthread_cancel(threads[i]), 0);
        for (unsigned i = 0; i < COUNT(threads); i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_true(in_use() < before + 2 * MIB);
}

static pthread_barrier_t masked;

static void *free_much_then_block_signals(void *argument)
{
    sigset_t usr1;
    for (unsigned i = 0; i < 5; i++)
        free(memset(malloc(8 * MIB), 1, 8 * MIB));
    churn((uintptr_t)argument, 4000);
    sleep_ms(300); /* time for whoever works behind the scenes to come to life */
    churn((uintptr_t)argument, 2000);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    require(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    pthread_barrier_wait(&masked);
    pthread_barrier_wait(&masked);
    return NULL;
}

/* All threads of the program block a signal: it must stay pending, not end the process on a thread of malloc's. */
static void role_signals(const char *argument)
{
    (void)argument;
    pthread_t threads[3];
    sigset_t usr1;
    require(pthread_barrier_init(&masked, NULL, 4) == 0);
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        start_thread(&threads[i], free_much_then_block_signals, (void *)i);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    require(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    pthread_barrier_wait(&masked);
    require(kill(getpid(), SIGUSR1) == 0);
    sleep_ms(50);
    require(sigwaitinfo(&usr1, NULL) == SIGUSR1);
    pthread_barrier_wait(&masked);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static void test_signals_go_to_the_programs_threads(void **state)
{
    (void)state;
    assert_role_succeeds("signals", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"thousands", role_thousands},
        {"late-destructors", role_late_destructors},
        {"all-keys", role_all_keys},
        {"little-stacks", role_little_stacks},
        {"belt", role_belt},
        {"exit", role_exit},
        {"main-leaves", role_main_leaves},
        {"signals", role_signals},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thousands_of_threads_leave_nothing),
        cmocka_unit_test(test_late_destructors_may_allocate_and_free),
        cmocka_unit_test(test_the_program_has_1023_keys),
        cmocka_unit_test(test_threads_with_the_smallest_stack),
        cmocka_unit_test(test_any_thread_may_free),
        cmocka_unit_test(test_a_producer_and_a_consumer),
        cmocka_unit_test(test_exit_while_detached_threads_allocate),
        cmocka_unit_test(test_main_may_leave_first),
        cmocka_unit_test(test_malloc_and_free_are_no_cancellation_points),
        cmocka_unit_test(test_cancelled_threads_clean_up),
        cmocka_unit_test(test_signals_go_to_the_programs_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
