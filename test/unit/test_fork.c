/* src/sync/fork.h: a child notices that it is one, whatever made it, at its first slow path. */
#include "unit.h"

#include <sys/mman.h>
#include <sys/syscall.h>

enum { THREADS = 8 };

static _Atomic unsigned children; /* called */
static uint32_t before;

static void count_child(void)
{
    add_relaxed(&children, 1);
    sleep_ms(5); /* others come by meanwhile */
}

/* Run in a child of a child: the first has put our function in place. */
static void with_own_function(void (*run)(void))
{
    slm_fork_start(count_child);
    before = slm_fork_generation;
    const struct outcome outcome = in_child(run);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
    require(slm_fork_generation == before && load_relaxed(&children) == 0); /* nothing happens to the parent */
    slm_fork_check();
    require(slm_fork_generation == before && load_relaxed(&children) == 0);
}

static void look_again(void)
{
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1); /* be_child has looked */
    for (unsigned i = 0; i < 3; i++)
        slm_fork_check();
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1);
}

static void fork_once(void)
{
    with_own_function(look_again);
}

static void a_child_notices_once(void **state)
{
    (void)state;
    assert_child_silent(fork_once);
}

static void be_parent(void)
{
    before = slm_fork_generation;
    store_relaxed(&children, 0);
    require(in_child(look_again).status == 0);
}

static void fork_twice(void)
{
    with_own_function(be_parent);
}

static void a_grandchild_notices_too(void **state)
{
    (void)state;
    assert_child_silent(fork_twice);
}

static void *check(void *nothing)
{
    slm_fork_check();
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1); /* and it is done */
    return nothing;
}

/* A bare clone(), whose child then has several threads before the first of them looks. */
static void clone_and_look_together(void)
{
    slm_fork_start(count_child);
    before = slm_fork_generation;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    int how = 0;
    if (child == 0) {
        on_threads(THREADS, check);
        require(slm_fork_generation == before + 1);
        _exit(0);
    }
    require(waitpid((pid_t)child, &how, 0) == child && how == 0);
}

static void one_of_many_threads_counts(void **state)
{
    (void)state;
    assert_child_silent(clone_and_look_together);
}

static void allocations_notice(void **state)
{
    (void)state;
    const uint32_t generation = slm_fork_generation;
    int how = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        void *volatile object;
        for (unsigned i = 0; i < 1000 && slm_fork_generation == generation; i++)
            object = malloc(1000); /* some of them miss the magazine */
        (void)object;
        _exit(slm_fork_generation == generation + 1 ? 0 : CHILD_FAILED);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    assert_int_equal(slm_fork_generation, generation);
}

/* -- what a child sees of its parent's other threads (thread/thread_list.h) -------------------------------------- */

enum { WRITERS = 2, PAGES = 48, RELAYS = 3 };

static _Atomic uint64_t *pages[WRITERS][PAGES], *relays[RELAYS];
static _Atomic bool enough;

/* In an order that is not that of the addresses. */
static void *write_page_by_page(void *number)
{
    _Atomic uint64_t **mine = pages[(uintptr_t)number];
    for (uint64_t n = 1; !load_relaxed(&enough); n++)
        for (size_t i = 0; i < PAGES; i++)
            store_release(mine[i * 29 % PAGES], n);
    return NULL;
}

/* What it has read from the relay before. */
static void *relay(void *number)
{
    const uintptr_t i = (uintptr_t)number;
    for (uint64_t n = 1; !load_relaxed(&enough); n++)
        store_release(relays[i], i == 0 ? n : load_acquire(relays[i - 1]));
    return NULL;
}

static void see_one_moment(void)
{
    for (size_t w = 0; w < WRITERS; w++) {
        const uint64_t first = load_relaxed(pages[w][0]);
        uint64_t last = first;
        for (size_t i = 0; i < PAGES; i++) {
            const uint64_t n = load_relaxed(pages[w][i * 29 % PAGES]);
            require(n <= last && first - n <= 1);
            last = n;
        }
    }
    for (size_t i = 1; i < RELAYS; i++)
        require(load_relaxed(relays[i]) <= load_relaxed(relays[i - 1]));
}

static _Atomic uint64_t *new_page(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED);
    return page;
}

static void a_child_sees_one_moment_of_all_threads(void **state)
{
    (void)state;
    pthread_t writers[WRITERS], relaying[RELAYS];
    for (size_t i = 0; i < PAGES; i++)
        for (size_t w = 0; w < WRITERS; w++)
            pages[w][i] = new_page();
    for (size_t i = 0; i < RELAYS; i++)
        relays[i] = new_page();
    for (uintptr_t w = 0; w < WRITERS; w++)
        assert_int_equal(pthread_create(&writers[w], NULL, write_page_by_page, (void *)w), 0);
    for (uintptr_t i = 0; i < RELAYS; i++)
        assert_int_equal(pthread_create(&relaying[i], NULL, relay, (void *)i), 0);
    for (unsigned long i = 0; i < scaled(40); i++)
        assert_child_silent(see_one_moment);
    store_relaxed(&enough, true);
    for (size_t w = 0; w < WRITERS; w++)
        pthread_join(writers[w], NULL);
    for (size_t i = 0; i < RELAYS; i++)
        pthread_join(relaying[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_notices_once),
        cmocka_unit_test(a_grandchild_notices_too),
        cmocka_unit_test(one_of_many_threads_counts),
        cmocka_unit_test(allocations_notice),
        cmocka_unit_test(a_child_sees_one_moment_of_all_threads),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
