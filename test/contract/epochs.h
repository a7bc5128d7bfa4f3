/* What the tests of epochs' calls and of deferred free share, on top of caches.h: scenarios with options of the
 * library's, threads that stay inside a section, and waiting until what is retired has been freed.
 *
 * Two ways of waiting tell apart who frees: wait_until_freed makes no call that helps time along, so it is the worker
 * that frees; poll_until_freed leaves it to slab_epoch_poll. What is never freed is a hang. */
#ifndef CONTRACT_EPOCHS_H
#define CONTRACT_EPOCHS_H

#include "caches.h"

#include <sched.h>

/* -- scenarios with options -------------------------------------------------------------------------------------- */

struct epoch_scenario {
    const char *name;
    void (*play)(const char *argument);
    const char *environment; /* "SLABMALLOC_OPTIONS=..." or NULL */
};

static inline void test_epoch_scenario(void **state)
{
    const struct epoch_scenario *scenario = (const struct epoch_scenario *)*state;
    struct launch launch;
    memset(&launch, 0, sizeof launch);
    launch.environment[0] = scenario->environment;
    assert_role_succeeds(scenario->name, &launch);
}

static inline int run_epoch_scenarios(const char *group, const struct epoch_scenario *scenarios, size_t count,
                                      int argc, char **argv)
{
    struct CMUnitTest tests[64];
    struct role roles[64];
    require(count <= COUNT(tests));
    memset(tests, 0, sizeof tests);
    for (size_t i = 0; i < count; i++) {
        roles[i].name = tests[i].name = scenarios[i].name;
        roles[i].play = scenarios[i].play;
        tests[i].test_func = test_epoch_scenario;
        tests[i].initial_state = (void *)&scenarios[i];
    }
    if (argc > 1)
        return play_role(roles, count, argc, argv);
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}

/* -- readers ----------------------------------------------------------------------------------------------------- */

/* Work for parked threads. */
static inline void enter_section(void *context)
{
    (void)context;
    slab_epoch_enter();
}

static inline void leave_section(void *context)
{
    (void)context;
    slab_epoch_leave();
}

static inline void enter_and_leave(void *context)
{
    (void)context;
    slab_epoch_enter();
    slab_epoch_leave();
}

/* A thread that has been inside once, and may come again: while there is one, retired objects must wait. */
static inline void park_outside(struct parked *parked)
{
    park(parked, enter_and_leave, NULL, NULL);
}

static inline void park_inside(struct parked *parked)
{
    park(parked, enter_section, leave_section, NULL);
}

/* A thread that leaves its section after a while, and says so before. */
struct late_leaver {
    struct parked parked;
    long ms;
    bool leaves; /* atomic */
};

static inline void leave_late(void *context)
{
    struct late_leaver *self = (struct late_leaver *)context;
    sleep_ms(self->ms);
    __atomic_store_n(&self->leaves, true, __ATOMIC_SEQ_CST);
    slab_epoch_leave();
}

/* Returns when the thread is inside and its time runs; to be joined. */
static inline void start_late_leaver(struct late_leaver *self, long ms)
{
    self->ms = ms;
    self->leaves = false;
    park(&self->parked, enter_section, leave_late, self);
    require(sem_post(&self->parked.wake) == 0);
}

static inline void join_late_leaver(struct late_leaver *self)
{
    require(pthread_join(self->parked.thread, NULL) == 0);
}

/* Two threads that enter and leave all the time. They let others run in between, or else they would be stopped inside
 * as a rule. */
struct readers {
    pthread_t threads[2];
    bool over; /* atomic */
};

static inline void *come_and_go(void *argument)
{
    struct readers *self = (struct readers *)argument;
    while (!__atomic_load_n(&self->over, __ATOMIC_RELAXED)) {
        slab_epoch_enter();
        for (unsigned i = 0; i < 500; i++)
            opaque(NULL);
        slab_epoch_leave();
        sched_yield();
    }
    return NULL;
}

static inline void start_readers(struct readers *self)
{
    self->over = false;
    for (size_t i = 0; i < COUNT(self->threads); i++)
        require(pthread_create(&self->threads[i], NULL, come_and_go, self) == 0);
}

static inline void stop_readers(struct readers *self)
{
    __atomic_store_n(&self->over, true, __ATOMIC_RELAXED);
    for (size_t i = 0; i < COUNT(self->threads); i++)
        require(pthread_join(self->threads[i], NULL) == 0);
}

/* -- retiring ---------------------------------------------------------------------------------------------------- */

static inline void retire_all(void **objects, size_t count)
{
    for (size_t i = 0; i < count; i++)
        slab_free_deferred(objects[i]);
}

/* Objects of so many bytes that wait for nobody's looking. */
static inline void retire_some(size_t size, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *object = malloc(size);
        require(object != NULL);
        slab_free_deferred(object);
    }
}

static inline uint64_t waiting(void)
{
    return process_figures().deferred_objects;
}

static inline void wait_until_freed(void)
{
    while (waiting() > 0)
        sleep_ms(2);
}

static inline void poll_until_freed(void)
{
    for (; waiting() > 0; sleep_ms(1))
        slab_epoch_poll();
}

static inline void require_nothing_waits(void)
{
    const slab_stats stats = process_figures();
    require(stats.deferred_objects == 0 && stats.deferred_bytes == 0);
}

#endif
