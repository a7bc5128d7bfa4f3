/* Populating: pages become resident by one system call before they are written. A page fault costs as much as
 * clearing the page, or several times that. What is populated *ahead* of its use may never be used: it is at most a
 * share of what is in use, and about half of it turns out to have been too much.
 *
 * Linux can do so since 5.14. Where it turns out not to, or a sandbox is near, nothing is populated any more. Nor is
 * anything where the first write makes a huge page. */
#pragma once

#include "base/atomic.h"

/* Bytes populated ahead. Whoever populates adds and subtracts. */
extern slm_hidden _Atomic uint64_t slm_populate_ahead_bytes;

/* How many more there may be. Threads that ask at once may each get as many. */
uint64_t slm_populate_room(void);

/* A program may write a part of a long object. Are objects of that length going to be written from their start to
 * their end, on these pages, to which nobody has written? So it is if the last such pages that were left to their
 * page faults are all resident by now. After eight times the next ones are left to them again. errno is kept. */
bool slm_populate_expects_writes(size_t length, const void *start, size_t bytes);

/* Pages of the heap to which nobody has written. No lock is held. errno is kept. */
void slm_populate(void *address, size_t bytes);
