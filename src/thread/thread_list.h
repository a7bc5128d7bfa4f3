/* The list of live threads' blocks. A block is linked at its thread's birth and unlinked at its exit, both under the
 * lock, so a block is valid while the lock is held. In the child of a fork the list starts empty; the one thread that
 * is left links itself again in its next slow path: its block's generation is older than the process's. Until then it
 * may use caches that other threads of the child make, so its slots still get cursors. */
#pragma once

#include "thread/slots.h"

void slm_thread_list_add(struct slm_thread *thread);

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

/* In the child of a fork: was no thread changing the list? Then: no thread is left, until slm_thread_list_add. */
bool slm_thread_list_is_whole(void);
void slm_thread_list_fork_child(void);

/* Before that: call `visit` for each of the parent's, nearly always all. */
void slm_thread_list_each_in_child(void (*visit)(struct slm_thread *thread, void *context), void *context);
