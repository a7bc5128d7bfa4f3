/* The list of live threads' blocks. A block is linked at its thread's birth and unlinked at its exit, both under the
 * lock, so a block is valid while the lock is held. */
#pragma once

#include "thread/thread_cache.h"

void slm_thread_list_add(struct slm_thread *thread);
void slm_thread_list_remove(struct slm_thread *thread);

/* How many there are just now. */
unsigned slm_thread_list_count(void);

/* Call `visit` for each under the lock; it may read figures and take locks of higher rank. */
void slm_thread_list_foreach(void (*visit)(const struct slm_thread *thread, void *context), void *context);

/* In the child of a fork: only this thread (or none, NULL) is left. */
void slm_thread_list_fork_child(struct slm_thread *self);
