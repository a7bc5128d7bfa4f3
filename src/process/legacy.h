/* Burying legacies (thread/thread_list.h): what a thread that has ended left to the next one goes to its slabs, as
 * nobody has inherited it. */
#pragma once

#include "base/compiler.h"

/* All of them, or those that were there all the time since the last call. No lock is held. */
void slm_legacy_bury(bool all);
