/* Populating: pages become resident by one system call before they are written. A page fault costs as much as
 * clearing the page, or several times that. What is populated *ahead* of its use may never be used: it is at most a
 * share of what is in use, and about half of it turns out to have been too much. Small heaps do without.
 *
 * Linux can do so since 5.14. Where it turns out not to, or a sandbox is near, nothing is populated any more. In a
 * heap with huge pages nothing is, either. */
#pragma once

#include "base/atomic.h"

static const uint64_t slm_populate_from = (uint64_t)4 << 20; /* bytes in use */

/* Bytes populated ahead. Whoever populates adds and subtracts. */
extern slm_hidden _Atomic uint64_t slm_populate_ahead_bytes;

/* How many more there may be. Threads that ask at once may each get as many. */
uint64_t slm_populate_room(void);

/* Pages of the heap to which nobody has written. No lock is held. errno is kept. */
void slm_populate(void *address, size_t bytes);

/* Does a thread populate? Once a sandbox has been announced, and this is false, no thread will. */
bool slm_populate_busy(void);
