/* The list of live threads' blocks. A block is linked at its thread's birth and unlinked at its exit, both under the
 * lock, so a block is valid while the lock is held.
 *
 * Orphans. In the child of a fork the other threads' blocks stay in the list, although nobody works on them any more.
 * They are orphans: what they hold is free, and can be taken as from a thread that is gone (thread/ownership.h).
 * slm_process_bury takes it all, slot by slot, and frees the block.
 *
 * Argument. What a child sees of its parent is a cut through all its threads at once, although the kernel copies page
 * by page while they go on. It makes each page read-only, for all threads, before the child shares it. A thread that
 * then writes to it waits until the whole fork is over, as page faults wait for the lock that fork holds on the
 * address space. So of each thread the child sees every store up to a certain one, and none after it; and what a
 * thread has read from another one, and acted upon, the child sees as well. (What was in a processor's table of
 * translations, and so is written after all, is written to the shared page.) This does not hold for pages that an
 * I/O is pinned to, which are copied at once; our own never are, only objects, whose contents do not matter.
 *
 *   - If the list's lock is free in the cut, no taker, birth or exit was under way: the list is whole. Else it starts
 *     empty, and all blocks in it are lost.
 *   - A thread between slow paths has at most one pop or push under way. Each moves `top` by one store: before it a
 *     popped round is still free, a pushed one not yet; after it the reverse. Nobody else has heard of it: so what
 *     lies below `top` is free, and belongs to the orphan.
 *   - A thread in a slow path has noted where it is at work, in the block itself and before it changed anything
 *     (slm_thread_works). All other slots are whole. That one is forgotten; so are the retired ones if it was there.
 *   - Rounds of a reserve come and go by one store each, the count.
 *
 * Legacies. A thread that ends leaves its block, whole, to the next one that is born, which so has warm magazines of
 * the sizes that its kind of threads asks for. Until then it is a legacy: it stays in the list, ahead of all live
 * threads' blocks and the youngest first, and takers take from it as from an orphan. Block and magazines change hands
 * under the lock: what the thread that ends wrote before it released it, and takers wrote meanwhile, the heir sees.
 * There are few; those that nobody inherits are buried (process/legacy.h). In a child of fork they are orphans.
 *
 * The child's own thread must not be taken for an orphan. It is known where it notices the fork itself, as nearly
 * always. If another thread of the child does (sync/fork.h), the list starts empty, too. The one that forked links
 * itself again in its next slow path: its block's generation is older than the process's. Until then it may use
 * caches that others make, so its slots still get cursors. */
#pragma once

#include "thread/slots.h"

void slm_thread_list_add(struct slm_thread *thread);

/* The block of a thread that ends, which holds nothing but rounds of malloc's classes, becomes a legacy. False: there
 * is no room for one more, or a fork has dropped it. */
bool slm_thread_list_bequeath(struct slm_thread *thread, size_t bytes);

/* A legacy is the calling thread's block from now on, if one of the youngest is one that was left on this CPU, then
 * that; NULL: there is none. */
struct slm_thread *slm_thread_list_inherit(struct slm_tls *tls);

/* How many legacies there are, and how many of these nobody has needed since the last call of the second. */
unsigned slm_thread_list_legacies(void);
unsigned slm_thread_list_surplus(void);

/* The oldest legacy, no longer in the list; NULL: there is none. */
struct slm_thread *slm_thread_list_take_legacy(void);

/* A named cache has got this id, and no object yet: all threads' slots of it get cursors, those of threads to come
 * when they are added. */
void slm_thread_list_cover(unsigned cache_id);
void slm_thread_list_remove(struct slm_thread *thread);

/* How often all threads were asked for what they hold (thread/ownership.h); written under the lock. */
extern slm_hidden _Atomic uint32_t slm_thread_recalls;

/* How many threads there ever were: the next one's ordinal. */
extern slm_hidden _Atomic uint32_t slm_thread_list_born;

/* How many there are, not counting helpers. */
unsigned slm_thread_list_count(void);

/* Call `visit` for each under the lock; it may read figures and take locks of higher rank. */
void slm_thread_list_foreach(void (*visit)(struct slm_thread *thread, void *context), void *context);

/* The same for a caller that holds the lock already. */
void slm_thread_list_lock(void);
void slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context);
void slm_thread_list_unlock(void);

/* In the child of a fork, on its one thread; `self`: its block, NULL if it has none. */
void slm_thread_list_fork_child(struct slm_thread *self);

/* Above 0: there may be orphans, and their burial should begin so many ticks from now, less one; a child that is
 * about to exec should not begin it. */
extern slm_hidden _Atomic uint32_t slm_orphans;

/* An orphan, or the block of a thread that was found gone; NULL: there is none. Under the lock. */
struct slm_thread *slm_thread_list_orphan(void);
void slm_thread_list_unlink(struct slm_thread *orphan);
