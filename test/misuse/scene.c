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
static sem_t freed, given;

static bool is_who(const char *who)
{
    return played->who && strcmp(played->who, who) == 0;
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

static void *free_and_end(void *nothing)
{
    free_first();
    return nothing;
}

static void *free_and_live(void *nothing)
{
    free_first();
    sem_post(&freed);
    while (pause() < 0)
        continue;
    return nothing;
}

static void *await_and_commit(void *nothing)
{
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
    played = row;
    commit_it = finale;
    thing_make(&thing, row);
    sem_init(&given, 0, 0);
    if (is_who("other")) /* already here: what it takes to make a thread might be the object that has been freed */
        pthread_create(&other, NULL, await_and_commit, NULL);
    if (row->section)
        slab_epoch_enter();
    if (is_who("living"))
        run_living_thread();
    else if (is_who("exited"))
        run_thread(free_and_end);
    else
        free_first();
    if (row->trimmed)
        malloc_trim(0);
    if (is_who("other")) {
        sem_post(&given);
        pthread_join(other, NULL);
    } else if (is_who("child")) {
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
