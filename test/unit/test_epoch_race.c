/* src/sync/epoch.h: readers against a writer. Readers look for an object and at it, all the time; the writer shares
 * another one, and marks the former dead as soon as it may. Whoever sees a dead one has been failed by a grace
 * period, or by a barrier. */
#include "epochs.h"

#include <sched.h>

enum {
    READERS = 3,
    OBJECTS = 64,
    WORDS = 8,
    REUSES = 4000,
    WAITS = 300,
    READS = 20000,
    LIVE = 0x600d,
    DEAD = 0xdead
};

struct object {
    _Atomic uint32_t words[WORDS];
    uint64_t stamp;
};

static struct object objects[OBJECTS];
static _Atomic(struct object *) shared;
static _Atomic bool over;
static _Atomic uint64_t reads, reuses;

static void mark(struct object *object, uint32_t value)
{
    for (unsigned i = 0; i < WORDS; i++)
        store_relaxed(&object->words[i], value);
}

static void read_once(uint64_t *random)
{
    enter();
    struct object *object = load_acquire(&shared); /* pairs with the writer's release */
    for (size_t turns = random_below(random, 20); turns > 0; turns--)
        for (unsigned i = 0; i < WORDS; i++)
            require(load_relaxed(&object->words[i]) == LIVE);
    if (random_below(random, 1000) == 0)
        sched_yield();
    require(load_relaxed(&object->words[0]) == LIVE);
    leave();
    add_relaxed(&reads, 1);
}

/* Threads come and go: a thread reads a few thousand times, and another takes its place. */
static void *read_for_a_while(void *number)
{
    uint64_t random = (uintptr_t)number;
    for (unsigned i = 0; i < 3000 && !load_relaxed(&over); i++)
        read_once(&random);
    slm_epoch_thread_exit();
    return NULL;
}

static void *keep_reading(void *number)
{
    for (uintptr_t i = 0; !load_relaxed(&over); i++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, read_for_a_while, (void *)((uintptr_t)number << 32 | i)) == 0);
        require(pthread_join(thread, NULL) == 0);
    }
    return NULL;
}

/* Both sides have done enough since, and what the test is about has happened. */
static bool is_enough(uint64_t reuses_more, uint64_t reads_more, bool (*happened)(void))
{
    return load_relaxed(&reuses) >= reuses_more && load_relaxed(&reads) >= reads_more && happened();
}

/* Objects go round: shared, retired, dead once a grace period has passed, live again. */
static void replace_until(bool (*happened)(void))
{
    const uint64_t reuses_more = load_relaxed(&reuses) + scaled(REUSES);
    const uint64_t reads_more = load_relaxed(&reads) + scaled(READS);
    for (unsigned at = 1; !is_enough(reuses_more, reads_more, happened); at++) {
        struct object *object = &objects[at % OBJECTS], *before = &objects[(at - 1) % OBJECTS];
        if (at >= OBJECTS) {
            while (!slm_epoch_passed(object->stamp))
                slm_epoch_poll();
            mark(object, DEAD);
            add_relaxed(&reuses, 1);
        }
        mark(object, LIVE);
        store_release(&shared, object);
        before->stamp = slm_epoch_stamp();
    }
}

/* As fast as grace periods are to be had, an object is dead as soon as nobody can find it. */
static void wait_and_replace_until(bool (*happened)(void))
{
    const uint64_t reuses_more = load_relaxed(&reuses) + scaled(WAITS);
    const uint64_t reads_more = load_relaxed(&reads) + scaled(READS);
    for (unsigned at = 1; !is_enough(reuses_more, reads_more, happened); at++) {
        struct object *object = &objects[at % 2], *before = &objects[(at - 1) % 2];
        mark(object, LIVE);
        store_release(&shared, object);
        slm_epoch_synchronize("test");
        mark(before, DEAD);
        add_relaxed(&reuses, 1);
    }
}

static void nothing_more(void) {}

/* Both kinds of writer, until each has seen its own happen. */
static void torture(bool (*first)(void), void (*meanwhile)(void), bool (*second)(void))
{
    pthread_t threads[READERS];
    store_relaxed(&over, false);
    mark(&objects[0], LIVE);
    store_release(&shared, &objects[0]);
    for (uintptr_t i = 0; i < READERS; i++)
        require(pthread_create(&threads[i], NULL, keep_reading, (void *)i) == 0);
    replace_until(first);
    meanwhile();
    wait_and_replace_until(second);
    store_relaxed(&over, true);
    for (unsigned i = 0; i < READERS; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static bool barriers_made(void)
{
    return barriers() > 0;
}

static void with_membarrier(void)
{
    torture(barriers_made, nothing_more, barriers_made);
    require(!readers_fence());
}

static void without_membarrier(void)
{
    refuse_call(SYS_membarrier, ENOSYS, 0);
    torture(readers_fence, nothing_more, readers_fence);
    require(barriers() == 0);
}

static void membarrier_taken_away(void)
{
    torture(barriers_made, take_membarrier_away, readers_fence);
}

static void by_membarrier(void **state)
{
    (void)state;
    assert_child_silent(with_membarrier);
}

static void by_fences(void **state)
{
    (void)state;
    assert_child_silent(without_membarrier);
}

static void by_membarrier_and_then_by_fences(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(membarrier_taken_away);
    assert_string_equal(outcome.said, NO_MORE_BARRIERS);
    assert_int_equal(outcome.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_membarrier),
        cmocka_unit_test(by_fences),
        cmocka_unit_test(by_membarrier_and_then_by_fences),
    };
    return cmocka_run_group_tests(tests, start_unnamed, NULL);
}
