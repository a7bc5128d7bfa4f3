/* The list of live threads' blocks. A block is linked at its thread's birth and unlinked at its exit, both under the
 * lock, so a block is valid while the lock is held. In the child of a fork the list starts empty; the one thread that
 * is left links itself again when it comes by: its block's generation is older than the process's. */
#pragma once

#include "thread/slots.h"

void slm_thread_list_add(struct slm_thread *thread);
void slm_thread_list_remove(struct slm_thread *thread);

/* How often all threads were asked for what they hold (thread/ownership.h); written under the lock. */
extern slm_hidden _Atomic uint32_t slm_thread_recalls;

/* How many there ever were: the next one's number. */
extern slm_hidden _Atomic uint32_t slm_thread_list_born;

/* How many there are just now, helpers apart. */
unsigned slm_thread_list_count(void);

/* Call `visit` for each under the lock; it may read figures and take locks of higher rank. */
void slm_thread_list_foreach(void (*visit)(struct slm_thread *thread, void *context), void *context);

/* The same for somebody who holds the lock from before. */
void slm_thread_list_lock(void);
void slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context);
void slm_thread_list_unlock(void);

/* In the child of a fork, before the next: was nobody changing the list? */
bool slm_thread_list_is_whole(void);

/* In the child of a fork: nobody is left, until slm_thread_list_add. */
void slm_thread_list_fork_child(void);
