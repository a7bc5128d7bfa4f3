/* A stress test of pages inside slabs: pages [--forks] [OPTION...].
 *
 * Threads make populations of one size after the other, and free most of each at random, so that slabs are sparse
 * while objects of other sizes take new memory. The main thread gives everything back again and again, which takes
 * from all threads and purges free pages everywhere. It interrupts the threads by a signal whose handler allocates
 * and frees, and with --forks forks children that do the same in small. Every byte of an object is checked before it
 * is freed. It ends once pages have been purged for growth and by demand, and handed out anew. */
#include <errno.h>
#include <signal.h>
#include <slabmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "at_work.h"
#include "options.h"

enum { OBJECTS = 4096, SIZES = 8, ROUNDS_IN_CHILD = 2, LEAST_FORKS = 3 };

struct object {
    unsigned char *bytes;
    size_t size;
    unsigned char mark;
};

static atomic_bool stopping;
static _Atomic uint64_t forks, handled;
static __thread void *_Atomic spare; /* the handler's */

static void handle(int number)
{
    (void)number;
    void *before = atomic_exchange(&spare, slab_alloc_nolock(700));
    if (before != NULL)
        slab_free_nolock(before);
    atomic_fetch_add_explicit(&handled, 1, memory_order_relaxed);
}

static void make(struct object *object, size_t size, uint64_t *random)
{
    *object = (struct object){malloc(size), size, (unsigned char)draw(random)};
    if (object->bytes == NULL)
        fail(FOUND_WRONG, "no object of %zu bytes: %s", size, strerror(errno));
    memset(object->bytes, object->mark, size);
}

static void check_and_free(struct object *object, uint64_t *random)
{
    for (size_t at = 0; object->bytes != NULL && at < object->size; at++)
        if (object->bytes[at] != object->mark)
            fail(FOUND_BROKEN, "broken: byte %zu of an object of %zu bytes", at, object->size);
    if (object->bytes != NULL && once_in(random, 16))
        slab_free_nolock(object->bytes);
    else
        free(object->bytes);
    object->bytes = NULL;
}

static size_t size_of_round(uint64_t round, uint64_t *random)
{
    static const size_t sizes[SIZES] = {48, 600, 1024, 1500, 3000, 4096, 6000, 16000};
    const size_t size = sizes[round % SIZES];
    return size - draw(random) % (size / 4);
}

/* A sixteenth of each population outlives the next ones. */
static void work_round(struct object *objects, uint64_t round, uint64_t *random)
{
    doing("filling up");
    const size_t count = OBJECTS / (1 + round % SIZES);
    for (size_t i = 0; i < count; i++)
        if (objects[i].bytes == NULL)
            make(&objects[i], size_of_round(round, random), random);
    doing("freeing most of it");
    for (size_t i = 0; i < OBJECTS; i++)
        if (!once_in(random, 16))
            check_and_free(&objects[i], random);
}

static void free_all(struct object *objects, uint64_t *random)
{
    for (size_t i = 0; i < OBJECTS; i++)
        check_and_free(&objects[i], random);
    free(objects);
    free(atomic_exchange(&spare, NULL));
}

static void *work(void *argument)
{
    uint64_t random = random_of((uintptr_t)argument);
    start_work((unsigned)(uintptr_t)argument, (uintptr_t)argument);
    struct object *objects = calloc(OBJECTS, sizeof *objects);
    for (uint64_t round = draw(&random); !atomic_load(&stopping); round++)
        work_round(objects, round, &random);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    free_all(objects, &random);
    return NULL;
}

static void fork_once(struct object *objects, uint64_t *random)
{
    const pid_t child = fork();
    if (child < 0)
        fail(FOUND_WRONG, "fork: %s", strerror(errno));
    if (child == 0) {
        for (unsigned round = 0; round < ROUNDS_IN_CHILD * SIZES; round++) {
            work_round(objects, round, random);
            if (round % SIZES == 0)
                slab_purge();
        }
        free_all(objects, random);
        _exit(FOUND_NOTHING);
    }
    await_child(child);
    atomic_fetch_add(&forks, 1);
}

static const char *what_is_missing(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    if (stats.purged_growth_bytes == 0)
        return "waiting for pages purged for growth";
    if (stats.purged_trim_bytes == 0 || stats.touched_again_bytes == 0)
        return "waiting for purged pages to be handed out anew";
    if (atomic_load(&handled) == 0)
        return "waiting for a signal";
    return options.forks && atomic_load(&forks) < LEAST_FORKS ? "waiting for children" : NULL;
}

static const struct program program = {
    .name = "pages",
    .about = "A stress test of pages inside slabs.",
    .knows = KNOWS_FORKS,
    .least_threads = 1,
};

int main(int count, char **words)
{
    pthread_t threads[MAX_THREADS];
    options.seconds = 3;
    options.threads = 3;
    parse_options(&program, count, words);
    begin_work(program.name, options.seed);
    start_work(1, 0);
    const struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    uint64_t random = random_of(0);
    struct object *objects = calloc(OBJECTS, sizeof *objects);
    for (unsigned i = 0; i < options.threads; i++)
        threads[i] = start_thread(work, (void *)(uintptr_t)(i + 2));
    const double end = now_in_seconds() + options.seconds;
    for (uint64_t round = 0; !is_over(end, what_is_missing); round++) {
        work_round(objects, round, &random);
        if (round % 4 == 0) {
            doing("purging");
            slab_purge();
        }
        for (unsigned i = 0; i < options.threads; i++)
            pthread_kill(threads[i], SIGUSR1);
        if (options.forks && round % SIZES == 0)
            fork_once(objects, &random);
    }
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(threads[i], NULL);
    free_all(objects, &random);
    printf("pages: nothing wrong (seed %" PRIu64 ")\n", options.seed);
    return FOUND_NOTHING;
}
