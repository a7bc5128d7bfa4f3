/* How many bytes of spans are in use, how far that has fallen, and whether what has fallen free will soon be wanted.
 *
 * A *fall*: use is lower than it was before, by more than `dirty_bytes` and a share of what is left, and little was
 * taken meanwhile: each byte taken makes up for two freed. So blocks that replace each other at random are no fall,
 * and a tear-down is several. Nobody may call the library after a tear-down: what it has freed goes back within it.
 * But a load that rises again takes at once what has just fallen. The two differ by what came before: falls that
 * repeat, as low as before and with most of it taken in between, are work.
 *
 * *Growth*: memory was taken that was clean, or a page of a slab that had been purged, so that the resident set
 * grows. Once that comes to a share of what is in use, a look is due at what others hold free and could do without.
 *
 * The figures lag by a call where threads race; nothing but what is kept depends on them. Any thread, no lock. */
#pragma once

#include "base/atomic.h"

void slm_demand_rise(size_t bytes);
void slm_demand_drop(size_t bytes);

/* So many bytes were freed and taken again that stayed in use meanwhile (slab/kept.h): no fall. */
void slm_demand_retake(size_t bytes);

uint64_t slm_demand_used(void);

/* The same since the start, in bytes: the difference is in use. In this order tools read them (base/inspect.h). */
struct slm_demand_sums {
    _Atomic uint64_t taken, dropped;
};
extern slm_hidden struct slm_demand_sums slm_demand_sums;

/* So many bytes of those taken were clean. True: a look at growth is due. */
bool slm_demand_grow(size_t bytes);

/* Begin a look: how much has grown since the last one; 0: none is due, or another thread was first. */
uint64_t slm_demand_take_growth(void);

/* Is there anything for this to take? */
bool slm_demand_is_replaced(void);

/* Bytes of large blocks freed since the last call right after a larger one was taken, with which use rose to its
 * highest ever: a buffer has moved to grow. Nobody will take what it leaves, and the larger one is still to be
 * written. A cycle of the same blocks rises no higher. */
uint64_t slm_demand_take_replaced(void);

/* Has a larger block than this, which is about to be freed, raised use to its highest ever just before?
 * See slm_demand_take_replaced. */
bool slm_demand_replaces(size_t bytes);

/* A fall has not been looked at yet. Slow paths look once they hold no lock. */
bool slm_demand_fell(void);

/* Will somebody look whatever the program does? The worker sets it while it lives. */
extern slm_hidden _Atomic bool slm_demand_watched;

/* Look at a fall. */
void slm_demand_look(uint64_t now_ms);

/* Do falls repeat, which went as low as use is now? Two within three purge delays tell that to who will look again.
 * For who may not (`last`) it takes three within two. */
bool slm_demand_repeats(uint64_t now_ms, bool last);

/* How many bytes may stay dirty where nobody may look again. */
uint64_t slm_demand_keep(uint64_t now_ms);
