/* Objects of every kind, small ones all, and every call that takes one: what the rows have in common that are made
 * in loops. */
#pragma once

#include <slabmalloc.h>

#include "misuse.h"

/* An object whose neighbours are live, so that its slab stays. */
struct thing {
    char *object;
    size_t size;       /* of the object, as messages have it */
    slab_cache *cache; /* NULL: malloc's */
    void *neighbours[24];
    unsigned given; /* so many neighbours have been freed with it, by calls that take several */
};

enum { THING_OTHERS_MOST = 4000 };

/* Make what row->object says, of row->size bytes:
 *
 *     NULL                  malloc's
 *     remote                malloc's, on the machine's last node
 *     joined                malloc's, made of what objects of row->piece bytes have left
 *     cache                 a named cache's, which shares with no other
 *     merged                a named cache's, which shares with its like
 *     zero, accounted, limited, line    named caches with that attribute; line: on cache lines of their own
 *     ctor, dtor, typesafe  named caches whose free objects are not written
 *
 * A named cache is "apples". Of row->after others of the same kind half are made before it, half after. */
void thing_make(struct thing *thing, const struct misuse_case *row);

/* One more of the kind. */
void *thing_alloc(const struct thing *thing);

/* Free the others, by free(). */
void thing_free_others(void);

/* "CALL(POINTER): WHAT of SIZE bytes ..."; of cache "apples", if it is a cache's. */
void announce_of_thing(const char *call, const void *pointer, const char *what, const struct thing *thing);

/* -- calls ------------------------------------------------------------------------------------------------------- */

enum {
    TAKES_CACHE = 1, /* a named cache's objects alone */
    USES = 2,        /* does not free, or frees something else first: not a double free, but a use */
    RETIRES = 4,     /* frees after a grace period */
    GIVES_TWICE = 8, /* gives the object twice in one call */
};

/* Ends with a call without a word. */
extern const struct thing_call {
    const char *word; /* in rows, and in their names */
    const char *said; /* in messages */
    void (*give)(struct thing *thing, void *pointer);
    unsigned flags;
} thing_calls[];

const struct thing_call *thing_call(const char *word);

/* Give the pointer to the call of that word, which takes things of this kind. */
void thing_give(const char *word, struct thing *thing, void *pointer);
