/* A thread's reserve: objects for calls without a lock, which may come from a signal handler that interrupts the very
 * thread in the middle of malloc. Magazines are of no use there: a pop is a load and a store, and a handler between
 * them would hand out the same round. So a few objects are kept apart, a stack for each cache that was ever asked
 * for, and their count changes by a compare-exchange that no signal can split (slm_signal_exchange).
 *
 *     thread->reserves -> | cache, count, rounds | -> | cache, count, rounds | -> NULL
 *
 * Handlers only pop, nested ones too: while the owner is interrupted the count only falls, so a count that has not
 * changed means that nothing has. The owner alone pushes, in a slow path: a handler that pops in between changes the
 * count, and the push is tried again. (A handler that is refused by a limit puts its round back: nested ones do so in
 * order, so that the stack is as before.) Stacks are linked in front and stay until the thread's end.
 *
 * A call that finds none notes the cache and points `hot` at slm_detour: the thread's next malloc or free takes a
 * slow path, at whose end the reserve is filled (slm_thread_attend). That exchange is a locked one, as a taker may
 * change `hot` too.
 *
 * In a cache with a limit (depot/limit.h) rounds of a reserve are not charged until a handler gets them. */
#pragma once

#include "thread/thread_cache.h"
#include "thread/thread_list.h"

/* A round from the calling thread's reserve; NULL: it is dry. Legal in signal handlers. */
void *slm_reserve_pop(struct slm_cache *cache);

/* The owner, in a slow path: fill what handlers have asked for. Returns a cache whose slabs must grow first
 * (slm_depot_grow), else NULL. */
struct slm_cache *slm_reserve_fill(struct slm_thread *thread);

/* Put the cache's rounds into their slabs; no handler asks for them meanwhile. */
void slm_reserve_forget(struct slm_thread *thread, struct slm_cache *cache);

/* Does the thread have a stack of the cache, or has a handler asked for one? */
bool slm_reserve_knows(struct slm_thread *thread, const struct slm_cache *cache);

/* The owner, at a recall or its end, or whoever buries an orphan: put all rounds into their slabs, and at the end
 * free the stacks. */
void slm_reserve_empty(struct slm_thread *thread, bool end);

/* The cache's stack; NULL: the thread has none. */
struct slm_reserve *slm_reserve_find(struct slm_thread *thread, const struct slm_cache *cache);

/* Is the object one of them? */
bool slm_reserve_has(struct slm_thread *thread, const struct slm_cache *cache, const void *object);

/* Rounds of a cache. */
uint32_t slm_reserve_rounds(struct slm_thread *thread, const struct slm_cache *cache);

/* Bytes of all its rounds; a figure. */
uint64_t slm_reserve_bytes(struct slm_thread *thread);

/* Free objects of a cache in all threads' magazines and reserves; exact when the cache is not in use. Takes the lock
 * of the list of threads. */
uint64_t slm_reserve_held_by_all(struct slm_cache *cache);
