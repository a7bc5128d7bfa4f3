/* What the tests of object caches share.
 *
 * Each test is a scenario: a role (see common.h) that the program plays in a process of its own, so that no test sees
 * the caches, the stock or the merging partners of another one, and a scenario that hangs or dies is one failed test.
 * All checks are require(). Only what include/slabmalloc.h promises is checked.
 *
 * Sizes that are no multiple of 16 are the rule here: such caches share with none of malloc's size classes, whatever
 * a library may do with the others. */
#ifndef CONTRACT_CACHES_H
#define CONTRACT_CACHES_H

#include "common.h"

#include <semaphore.h>
#include <slabmalloc.h>
#include <sys/mman.h>

/* -- scenarios --------------------------------------------------------------------------------------------------- */

static inline void test_scenario(void **state)
{
    assert_role_succeeds((const char *)*state, NULL);
}

static inline int run_scenarios(const char *group, const struct role *scenarios, size_t count, int argc, char **argv)
{
    struct CMUnitTest tests[64];
    if (argc > 1)
        return play_role(scenarios, count, argc, argv);
    require(count <= COUNT(tests));
    for (size_t i = 0; i < count; i++) {
        memset(&tests[i], 0, sizeof tests[i]);
        tests[i].name = scenarios[i].name;
        tests[i].test_func = test_scenario;
        tests[i].initial_state = (void *)scenarios[i].name;
    }
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}

/* For scenarios that the library's worker would disturb when this thread is stopped for a while: the scenario of that
 * name begins anew, in a process without one. */
static inline void do_without_worker(const char *scenario)
{
    const char *options = getenv("SLABMALLOC_OPTIONS");
    char more[500];
    if (options != NULL && strstr(options, "worker=0") != NULL)
        return;
    snprintf(more, sizeof more, "%s%sworker=0", options != NULL ? options : "", options != NULL ? "," : "");
    require(setenv("SLABMALLOC_OPTIONS", more, 1) == 0);
    execl("/proc/self/exe", "/proc/self/exe", scenario, (char *)NULL);
    require(!"exec");
}

/* -- caches and objects ------------------------------------------------------------------------------------------ */

static inline slab_cache *make_cache(const char *name, size_t size, const slab_cache_attr *attr)
{
    slab_cache *cache = slab_cache_create(name, size, attr);
    require(cache != NULL);
    return cache;
}

/* A cache that shares with none. */
static inline slab_cache *make_own(const char *name, size_t size)
{
    slab_cache_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.flags = SLAB_NO_MERGE;
    return make_cache(name, size, &attr);
}

static inline void drop(slab_cache *cache)
{
    require(slab_cache_destroy(cache) == 0);
}

static inline void *take(slab_cache *cache)
{
    void *object = slab_cache_alloc(cache);
    require(object != NULL);
    return opaque(object);
}

static inline void take_all(slab_cache *cache, void **objects, size_t count)
{
    for (size_t i = 0; i < count; i++)
        objects[i] = take(cache);
}

static inline void give_all(slab_cache *cache, void **objects, size_t count)
{
    for (size_t i = 0; i < count; i++)
        slab_cache_free(cache, objects[i]);
}

/* Takes and gives back so many objects that stock is left in magazines and depots. */
static inline void use_cache(slab_cache *cache, size_t count)
{
    void **objects = (void **)malloc(count * sizeof *objects);
    require(objects != NULL);
    take_all(cache, objects, count);
    give_all(cache, objects, count);
    free(objects);
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static inline slab_cache_stats figures(slab_cache *cache)
{
    slab_cache_stats stats;
    require(slab_cache_get_stats(cache, &stats) == 0);
    return stats;
}

static inline uint64_t active(slab_cache *cache)
{
    return figures(cache).active_objects;
}

static inline slab_stats process_figures(void)
{
    slab_stats stats;
    require(slab_get_stats(&stats, sizeof stats) == 0);
    return stats;
}

/* -- a thread that parks ----------------------------------------------------------------------------------------- */

/* Works, then waits without a call of the library's until it is woken, works again if there is more, and ends. */
struct parked {
    pthread_t thread;
    sem_t at_rest, wake;
    void (*work)(void *context);
    void (*more)(void *context); /* or NULL */
    void *context;
};

static inline void *parked_run(void *argument)
{
    struct parked *self = (struct parked *)argument;
    self->work(self->context);
    require(sem_post(&self->at_rest) == 0);
    while (sem_wait(&self->wake) != 0)
        require(errno == EINTR);
    if (self->more != NULL)
        self->more(self->context);
    return NULL;
}

/* Returns when the thread has done its work and waits. */
static inline void park(struct parked *parked, void (*work)(void *), void (*more)(void *), void *context)
{
    parked->work = work;
    parked->more = more;
    parked->context = context;
    require(sem_init(&parked->at_rest, 0, 0) == 0 && sem_init(&parked->wake, 0, 0) == 0);
    require(pthread_create(&parked->thread, NULL, parked_run, parked) == 0);
    while (sem_wait(&parked->at_rest) != 0)
        require(errno == EINTR);
}

static inline void unpark(struct parked *parked)
{
    require(sem_post(&parked->wake) == 0);
    require(pthread_join(parked->thread, NULL) == 0);
}

static inline void run_thread(void (*work)(void *), void *context)
{
    struct parked parked;
    park(&parked, work, NULL, context);
    unpark(&parked);
}

/* -- what the library says --------------------------------------------------------------------------------------- */

/* Between the two, standard error is a pipe, which the library takes for it; the second gives what came through. */
struct listening {
    int kept, ends[2];
    size_t length;
    char said[4096];
};

static inline void listen_start(struct listening *listening)
{
    listening->kept = dup(STDERR_FILENO);
    listening->length = 0;
    require(listening->kept >= 0 && pipe2(listening->ends, O_NONBLOCK) == 0);
    require(dup2(listening->ends[1], STDERR_FILENO) == STDERR_FILENO);
}

/* What has come through by now, in `said`. */
static inline void listen_on(struct listening *listening)
{
    ssize_t got;
    while ((got = read(listening->ends[0], listening->said + listening->length,
                       sizeof listening->said - 1 - listening->length)) > 0)
        listening->length += (size_t)got;
    require(got == 0 || errno == EAGAIN);
    listening->said[listening->length] = '\0';
}

static inline void listen_end(struct listening *listening, char *text, size_t size)
{
    require(dup2(listening->kept, STDERR_FILENO) == STDERR_FILENO);
    close(listening->ends[1]); /* the last one: the pipe ends */
    listen_on(listening);
    snprintf(text, size, "%s", listening->said);
    close(listening->ends[0]);
    close(listening->kept);
}

/* A destruction that is refused, with its line. */
static inline void require_busy(slab_cache *cache, const char *line)
{
    struct listening listening;
    char said[512];
    listen_start(&listening);
    errno = 0;
    int result = slab_cache_destroy(cache), error = errno;
    listen_end(&listening, said, sizeof said);
    require(result == -1 && error == EBUSY);
    if (strcmp(said, line) != 0)
        fprintf(stderr, "it said:   %sexpected: %s", said, line);
    require(strcmp(said, line) == 0);
}

#endif
