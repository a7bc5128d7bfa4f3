/* Threads and processes for a misuse; see scene.h. */
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

static const struct misuse_case *played;
static struct thing thing;
static void (*commit_it)(const struct misuse_case *row, struct thing *thing);
static sem_t ready, freed, given;

static bool is_who(const struct misuse_case *row, const char *who)
{
    return row->who && strcmp(row->who, who) == 0;
}

static void await(sem_t *event)
{
    while (sem_wait(event) != 0)
        continue;
}

static void free_first(void)
{
    if (played->first)
        thing_give(played->first, &thing, thing.object);
    thing_free_others();
}

static void commit(void)
{
    if (is_kind(played, "refilled"))
        thing_alloc(&thing);
    commit_it(played, &thing);
}

/* A thread that has not allocated yet frees straight into slabs, and takes no hot path. */
static void begin_thread(void)
{
    free(hidden(malloc(1)));
}

static void *free_and_end(void *nothing)
{
    begin_thread();
    free_first();
    return nothing;
}

static void *free_and_live(void *nothing)
{
    begin_thread();
    free_first();
    sem_post(&freed);
    while (pause() < 0)
        continue;
    return nothing;
}

static void *await_and_commit(void *nothing)
{
    if (is_who(played, "other"))
        begin_thread();
    sem_post(&ready);
    await(&given);
    commit();
    return nothing;
}

static void run_thread(void *(*work)(void *))
{
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_join(thread, NULL);
}

static void run_living_thread(void)
{
    pthread_t thread;
    sem_init(&freed, 0, 0);
    pthread_create(&thread, NULL, free_and_live, NULL);
    await(&freed);
}

/* Before the object is freed: what it takes to make a thread might be that one. */
static void start_other(pthread_t *other)
{
    sem_init(&ready, 0, 0);
    sem_init(&given, 0, 0);
    pthread_create(other, NULL, await_and_commit, NULL);
    await(&ready);
}

/* This process ends as the child does. */
static void commit_in_child(void)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        commit();
        _exit(EXIT_SUCCESS);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
}

struct thing *play(const struct misuse_case *row, void (*finale)(const struct misuse_case *row, struct thing *thing))
{
    pthread_t other;
    const bool is_other = is_who(row, "other") || is_who(row, "fresh");
    played = row;
    commit_it = finale;
    thing_make(&thing, row);
    if (is_other)
        start_other(&other);
    if (row->section)
        slab_epoch_enter();
    if (is_who(played, "living"))
        run_living_thread();
    else if (is_who(played, "exited"))
        run_thread(free_and_end);
    else
        free_first();
    if (row->trimmed)
        malloc_trim(0);
    if (is_other) {
        sem_post(&given);
        pthread_join(other, NULL);
    } else if (is_who(played, "child")) {
        commit_in_child();
    } else {
        commit();
    }
    return &thing;
}

void end_section(void)
{
    slab_epoch_leave();
    slab_epoch_barrier();
}
