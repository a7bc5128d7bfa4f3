/* Small objects of malloc's. A second free is seen at once by the key that a free object has; where a write has
 * destroyed that key it is seen when the magazine goes to the slabs.
 *
 * Whose name is in the message then depends on the way that it goes: a thread's own magazines are emptied by "free",
 * what the depot has in stock by "trim". The library looks at the clock only in threads that have passed 256 slow
 * paths, and may trim then; no case makes so many, so that none depends on the time. */
#include <malloc.h>
#include <pthread.h>
#include <slabmalloc.h>

#include "misuse.h"

static void free_twice(void *object)
{
    free(hidden(object));
    free(hidden(object));
}

/* So that it looks live. */
static void write_after_free(void *object)
{
    memset(hidden(object), 0, 64);
}

static void double_free(const struct misuse_case *row)
{
    (void)row;
    void *object = hidden(malloc(64));
    announce_of_size("free", object, "double free of an object", 64);
    free_twice(object);
}

/* By a thread on the first node, an object of the last. */
static void double_free_node(const struct misuse_case *row)
{
    (void)row;
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    void *object = hidden(slab_alloc_node(64, (int)stats.nodes - 1));
    announce_of_size("free", object, "double free of an object", 64);
    free_twice(object);
}

/* Its slab has gone back in between. */
static void double_free_vacant(const struct misuse_case *row)
{
    (void)row;
    void *object = hidden(malloc(3000));
    announce("free", object, "no object, or one that is free already");
    free(object);
    malloc_trim(0);
    free(hidden(object));
}

/* Its key is gone. Seen by frees alone, when a full magazine has to make room and the depot's stock is full; the
 * rows' options keep the stock small. */
static void double_free_drain(const struct misuse_case *row)
{
    enum { MANY = 4000 };
    static void *others[MANY];
    (void)row;
    void *object = hidden(malloc(64));
    for (unsigned i = 0; i < MANY; i++)
        others[i] = malloc(64);
    announce_of_size("free", object, "double free of an object", 64);
    for (unsigned i = 1; i < MANY; i++) { /* the first stays, and with it their slab */
        if (i == MANY / 4 || i == MANY / 2) {
            free(hidden(object));
            write_after_free(object);
        }
        free(others[i]);
    }
}

enum { STOCKED = 1000, TWICE = STOCKED / 3 /* in a magazine that is full */ };

static void *stocked[STOCKED];

static void *free_stocked(void *nothing)
{
    for (unsigned i = 0; i < STOCKED; i++)
        free(hidden(stocked[i]));
    write_after_free(stocked[TWICE]);
    free(hidden(stocked[TWICE]));
    return nothing;
}

/* Its key is gone. One among many, by a thread that ends: its magazines go to the depot's stock whole, and what is
 * wrong with them is seen when that is trimmed. */
static void double_free_stock(const struct misuse_case *row)
{
    (void)row;
    pthread_t thread;
    for (unsigned cycle = 0; cycle < 8; cycle++) { /* a stock has room once it has been missed */
        for (unsigned i = 0; i < STOCKED; i++)
            stocked[i] = hidden(malloc(64));
        for (unsigned i = 0; i < STOCKED; i++)
            free(stocked[i]);
    }
    for (unsigned i = 0; i < STOCKED; i++)
        stocked[i] = malloc(64);
    announce_of_size("trim", stocked[TWICE], "double free of an object", 64);
    pthread_create(&thread, NULL, free_stocked, NULL);
    pthread_join(thread, NULL);
    malloc_trim(0);
}

static void *free_it(void *object)
{
    free(hidden(object));
    return NULL;
}

static void *free_it_again(void *object)
{
    announce_of_size("free", object, "double free of an object", 64);
    return free_it(object);
}

/* By two threads, one after the other: they free so little that it goes straight to the slab. */
static void double_free_threads(const struct misuse_case *row)
{
    (void)row;
    void *object = hidden(malloc(64));
    for (unsigned i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, i == 0 ? free_it : free_it_again, object);
        pthread_join(thread, NULL);
    }
}

/* Retired twice: seen when the grace period is over. */
static void double_free_deferred(const struct misuse_case *row)
{
    (void)row;
    void *object = hidden(malloc(64));
    announce_of_size("slab_free_deferred", object, "double free of an object", 64);
    slab_epoch_enter();
    slab_free_deferred(object);
    slab_free_deferred(hidden(object));
    slab_epoch_leave();
    slab_epoch_barrier();
}

static void free_interior(const struct misuse_case *row)
{
    (void)row;
    char *object = hidden(malloc(64));
    announce_of_size("free", object + 16, "not the start of an object", 64);
    free(hidden(object + 16));
}

const struct misuse_case misuse_of_small[] = {
    {"double_free_small", .commit = double_free},
    {"double_free_node", .commit = double_free_node},
    {"double_free_node-simulated", double_free_node, .options = "topology=2x2", .checked = true},
    {"double_free_vacant", .commit = double_free_vacant},
    {"double_free_drain", double_free_drain, .options = "depot_bytes=16K"},
    {"double_free_stock", .commit = double_free_stock},
    {"double_free_threads", .commit = double_free_threads},
    {"double_free_deferred_small", .commit = double_free_deferred},
    {"free_interior_small", .commit = free_interior},
    {0},
};
