/* What the modes of the stress test of per-CPU memory share: nodes that lie in per-CPU lists while threads, handlers
 * and processes push and pop them.
 *
 *     hand:   | node | node | ... |      pop ->   | link | owner | serial | check | ... |   <- push
 *
 * A node is in one hand or in one list, and its owner says in which. Whoever pops it sees that it was in that list,
 * makes it his own with a serial number that never comes again, and overwrites its link, so that who still follows it
 * falls. Nodes of malloc's are freed, nodes with a page of their own are unmapped at once behind a pop: a pop that
 * reads one too late dies. Where NUMA balancing may mark pages that is not promised, and there are none of these. */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
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

/* A per-CPU object; a process that gets none has failed. */
slab_percpu make_object(size_t size, size_t align);

/* -- nodes and hands --------------------------------------------------------------------------------------------- */

enum { HAND = 16 };

/* Whose owner uses it alone: a thread, or the handler that interrupts it. */
struct hand {
    uint64_t number; /* 1 and up, no other hand's */
    struct node *nodes[HAND];
    unsigned count;
    uint64_t serial;
    _Atomic uint64_t pushes, pops, unmapped, freed; /* tallies */
};

/* Make the lists, empty ones. */
void nodes_begin(void);

/* Nodes with a page of their own are made, and unmapped. */
bool nodes_are_unmapped(void);

/* In a child of fork, before its own lists are made: those of its parent must be whole, with nodes that are in them.
 * They are freed; the nodes stay, for others of the parent's threads had some in hand that are lost. */
void nodes_forget(void);

/* Push a node of the hand, or pop one into it; now and then end the life of one. Handlers push and pop as well, but
 * leave it to their threads to make nodes and to free those of malloc's. */
void hand_step(struct hand *self, uint64_t *random);
void hand_step_in_handler(struct hand *self, uint64_t *random);

/* Nobody pushes and pops any more. Look for every node that has been made and not ended: each one must be in the one
 * hand or list that it names. They and the lists are freed then. */
void nodes_settle(struct hand *const hands[], unsigned count);

/* -- modes ------------------------------------------------------------------------------------------------------- */

void run_storm(void);
void run_alloc(void);
