/* The loops of epochs and deferred free whose instructions are counted: instructions_epochs WORKLOAD;
 * see instructions.h.
 *
 * Sections are inlined where a program has them, so a function of the bench's own has a thousand of them in a row:
 * what a function needs once for all its sections, the address of the thread's record and registers saved, is
 * thousandths (userspace RCU's take long to compile: hundredths). Objects have 64 bytes, and an operation is one
 * object: what makes it, what retires it, or both. Beside the thread that is counted there is one that has been a
 * reader and sleeps, for where nobody reads retiring is another thing, which the workloads `unread` count. After each
 * round everything that it has retired is freed, uncounted, so that every round begins alike. */
#include "instructions.h"

#include <pthread.h>
#include <semaphore.h>
#include <slabmalloc.h>
#ifdef BY_URCU
#define _LGPL_SOURCE /* inline sections */
#include <urcu/urcu-memb.h>
#endif

enum { OBJECTS = 1000, OBJECT_BYTES = 64 };

struct object {
    uint64_t words[OBJECT_BYTES / sizeof(uint64_t) - 2];
    slab_epoch_head head;
};

static slab_cache *cache;
static struct object *objects[OBJECTS];

// -- sections -------------------------------------------------------------------------------------------------------

#define TEN(statements)                                                                                              \
    statements statements statements statements statements statements statements statements statements statements
#define HUNDRED(statements) TEN(TEN(statements))

__attribute__((noinline, flatten)) static void sections(void)
{
    TEN(HUNDRED(slab_epoch_enter(); slab_epoch_leave();))
}

static void loop_section(void)
{
    sections();
}

#ifdef BY_URCU
__attribute__((noinline, flatten)) static void sections_urcu(void)
{
    HUNDRED(urcu_memb_read_lock(); urcu_memb_read_unlock();)
}

static void loop_section_urcu(void)
{
    TEN(sections_urcu();)
}

static void register_with_urcu(void)
{
    urcu_memb_init();
    urcu_memb_register_thread();
}
#else
static void loop_section_urcu(void)
{
    fputs("skip: built without userspace RCU: install liburcu-dev, remove the build folder\n", stderr);
    exit(0);
}

static void register_with_urcu(void) {}
#endif

// -- deferred free --------------------------------------------------------------------------------------------------

static void make_objects(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(sizeof *objects[i]);
}

static void loop_deferred(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_free_deferred(objects[i]);
}

static void loop_deferred_head(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_free_deferred_head(objects[i], &objects[i]->head);
}

static void loop_deferred_bulk(void)
{
    slab_free_deferred_bulk(OBJECTS, (void **)objects);
}

static void loop_deferred_pair(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_free_deferred(malloc(sizeof(struct object)));
}

static void loop_deferred_cache(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_free_deferred(slab_cache_alloc(cache));
}

static const struct workload workloads[] = {
    {"epoch_section", nothing, loop_section, nothing, OBJECTS},
    {"epoch_section_urcu", nothing, loop_section_urcu, nothing, OBJECTS},
    {"deferred", make_objects, loop_deferred, slab_epoch_barrier, OBJECTS},
    {"deferred_head", make_objects, loop_deferred_head, slab_epoch_barrier, OBJECTS},
    {"deferred_bulk", make_objects, loop_deferred_bulk, slab_epoch_barrier, OBJECTS},
    {"deferred_pair", nothing, loop_deferred_pair, slab_epoch_barrier, OBJECTS},
    {"deferred_cache_pair", nothing, loop_deferred_cache, slab_epoch_barrier, OBJECTS},
    {"unread_pair", nothing, loop_deferred_pair, slab_epoch_barrier, OBJECTS},
};

static void *read_once_and_sleep(void *is_reader)
{
    slab_epoch_enter();
    slab_epoch_leave();
    sem_post(is_reader);
    pause();
    return NULL;
}

static void start_reader(void)
{
    pthread_t thread;
    sem_t is_reader;
    sem_init(&is_reader, 0, 0);
    if (pthread_create(&thread, NULL, read_once_and_sleep, &is_reader) != 0)
        bench_die("cannot start a reader");
    while (sem_wait(&is_reader) != 0)
        continue;
}

int main(int count, char **words)
{
    const slab_cache_attr attributes = {.flags = SLAB_NO_MERGE};
    if (count != 2)
        bench_die("usage: %s WORKLOAD", words[0]);
    cache = bench_check(slab_cache_create("deferred", OBJECT_BYTES, &attributes));
    register_with_urcu();
    if (strcmp(words[1], "unread_pair") != 0)
        start_reader();
    run_named(words[1], workloads, sizeof workloads / sizeof workloads[0]);
    return 0;
}
