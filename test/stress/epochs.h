/* What the modes of the stress test of epochs share: the objects that readers look at while writers replace and
 * retire them.
 *
 *     kind:    | cache or malloc, size | slot | slot | slot | ... |      a slot holds an object of its kind, or none
 *                                         |
 *     node:    | serial | check | type | kind | head | word | word | ... |
 *
 * Whoever allocates a node writes all of it at once: a serial number that never comes again, and behind it words
 * that follow from the serial and the address. Then it is published in a slot. A reader that finds it there inside
 * a section compares every word, at once and again before it leaves: the memory of an object that is reused before
 * its grace period has passed has another serial by then, and memory that has been given back is zero or gone. The
 * words are read and written plainly, so that ThreadSanitizer, too, sees a reader that nothing orders before the
 * next owner.
 *
 * Nodes of less than a struct node end behind `check`. `type` is what the constructor writes in kinds that have one,
 * and nobody else. The nodes of a loose kind, whose cache is SLAB_TYPESAFE_BY_EPOCH, may be freed at once: there
 * `type` is all that a reader can count on. */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "at_work.h"
#include "figures.h"
#include "options.h"

/* membarrier(2) fails with ENOSYS from now on, in all threads, and over execve. */
void forbid_membarrier(void);

void spin_for(double seconds);

/* -- objects ----------------------------------------------------------------------------------------------------- */

enum { SLOTS = 8, DUEL_SLOT = SLOTS /* has one writer, others have many */, ALL_SLOTS };

/* Flags of kinds, beside those of slab_cache_attr. */
enum {
    KIND_MALLOC = 1u << 28, /* malloc's, no cache's */
    KIND_FAR = 1u << 29,    /* there are so many caches that this one has no place in threads' blocks */
    KIND_CONSTRUCTED = 1u << 30,
    KIND_LOOSE = 1u << 31,
};

struct node {
    uint64_t serial, check;
    uint64_t type;
    struct kind *kind;
    slab_epoch_head head;
    uint64_t words[];
};

struct kind {
    const char *name;
    size_t size;
    unsigned flags;
    unsigned magazine_rounds;

    slab_cache *cache;
    _Atomic int64_t constructed; /* nodes that the constructor has seen and the destructor has not */
    /* A release (or an exchange) publishes a node, an acquire finds it. */
    _Atomic(struct node *) slots[ALL_SLOTS];
};

extern struct kind kinds[];
extern const unsigned kinds_count; /* but for the last one */

/* The last one, of whom one thread alone makes nodes; no slot has any. */
extern struct kind *const barrier_kind;

/* The kind with small nodes and magazines of one round: whatever is retired there has its stamp at once. */
extern struct kind *const prompt_kind;

/* The kind with magazines as large as they come: nearly all that is retired there takes the hot path. */
extern struct kind *const pumped_kind;

void kinds_create(void);

/* Of a kind that has a cache. */
uint64_t active_objects(const struct kind *kind);

/* All nodes have been freed, all threads that did so have ended: fails with FOUND_MISSING if anything is left. */
void kinds_destroy(void);

static inline bool has_head(const struct kind *kind)
{
    return kind->size >= sizeof(struct node);
}

/* A node that nobody else knows, all of it written. */
struct node *node_make(struct kind *kind, uint64_t serial, uint64_t *random);

/* Compare the node to what its maker wrote, and its serial to the one given (0: any). Returns the serial. */
uint64_t node_check(const struct kind *kind, const struct node *node, uint64_t serial);

/* Overwrite it and free it at once. */
void node_poison_and_free(struct kind *kind, struct node *node);

/* Take what the allocator hands out next, overwrite it, and give it back: memory that was freed too early does not
 * look as it did any more. */
void scribble(struct kind *kind, unsigned count, uint64_t *random);

/* -- retiring ---------------------------------------------------------------------------------------------------- */

enum form { FORM_ONE, FORM_HEAD, FORM_BULK, FORM_CALL, FORM_SYNCHRONIZE, FORMS };

enum { MOST_IN_BULK = 64 };

/* What a thread has retired, and what it has put aside to retire in bulk. */
struct retirer {
    _Atomic uint64_t retired[FORMS], barriers; /* tallies */
    void *bulk[MOST_IN_BULK];
    unsigned in_bulk;
};

/* A form that the kind's nodes can be retired by; of the ones that wait only where `may_wait`. */
enum form draw_form(const struct kind *kind, bool may_wait, uint64_t *random);

/* The node is in no slot any more. */
void node_retire(struct retirer *self, struct kind *kind, struct node *node, enum form form);

/* Retire what is put aside. */
void retire_bulk(struct retirer *self);

/* Calls that have been given and functions that have run, by any thread. */
extern _Atomic uint64_t calls_given, calls_run;

/* -- modes ------------------------------------------------------------------------------------------------------- */

void run_torture(void);
void run_calls(void);
void run_no_blocks(void);
