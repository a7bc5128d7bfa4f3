/* What the modes of the stress test of object caches share: pools, which are caches and what the test knows of them,
 * and objects that tell who holds them.
 *
 *     object:  | pool | size | owner | sequence | a pattern of address, owner and sequence ... |
 *
 * Whoever gets an object stamps it with his own number and a number that he never uses again, and keeps both; before
 * he frees it or hands it on he compares every word. So an object that was handed out twice, or that the library
 * wrote into, is found by the first of its holders. Objects of pools with a constructor are returned as it made them,
 * and must be found so; those of pools with SLAB_ZERO must read as zero.
 *
 * All functions of objects may be called in signal handlers. */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "at_work.h"
#include "figures.h"
#include "options.h"

/* Places of threads at work: the main thread's is 1; others than workers have theirs behind those. */
enum { FIRST_WORKER = 2, FIRST_OTHER = FIRST_WORKER + MAX_THREADS };

/* -- pools ------------------------------------------------------------------------------------------------------- */

/* Flags of the test's own, beside those of slab_cache_attr. */
enum { POOL_CONSTRUCTED = 1u << 30, POOL_SLOWLY = 1u << 31 /* the constructor takes its time, and allocates */ };

struct pool {
    const char *name;
    size_t size;
    unsigned flags; /* of slab_cache_flags, and those above */
    unsigned magazine_rounds;
    size_t limit_bytes;

    slab_cache *cache;
    struct pool *twin;           /* another name of the same cache, or itself: objects may be freed to either */
    _Atomic int64_t live;        /* objects that the test holds: raised after an allocation, lowered after the free */
    _Atomic int64_t constructed; /* objects that a constructor has seen and no destructor */
};

/* Create the pool's cache. The pool stays where it is until it is retired. */
void pool_create(struct pool *pool);

/* All the pool's objects have been freed and the threads that did so have ended: there must be none left anywhere.
 * The pool's cache is shrunk and destroyed. */
void pool_retire(struct pool *pool);

/* -- objects ----------------------------------------------------------------------------------------------------- */

struct object {
    struct pool *pool; /* NULL: malloc's */
    size_t size;
    uint64_t owner, sequence;
    uint64_t words[];
};

struct holding {
    struct object *object; /* NULL: none */
    struct pool *pool;
    uint64_t owner, sequence;
};

/* What the allocator has just given becomes the holder's. Of pools it must be as the pool promises. */
struct holding object_accept(struct pool *pool, size_t size, void *memory, uint64_t owner, uint64_t sequence);

/* What somebody else has handed on becomes the holder's. */
struct holding object_adopt(struct object *object, uint64_t owner, uint64_t sequence);

/* Nobody has touched it. */
void object_check(const struct holding *holding);

/* The same, and bring it into the state in which it may be freed. */
void *object_part(struct holding *holding);

/* The ways into a pool and out of it, one of them drawn. object_free takes those of malloc, too. */
void *object_alloc(struct pool *pool, uint64_t *random);
void object_free(struct holding *holding, uint64_t *random);

/* -- modes ------------------------------------------------------------------------------------------------------- */

void run_race(void);
void run_forks(void);
void run_limits(void);
void run_signals(void);
