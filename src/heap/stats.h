/* Figures of the process, put together on request: nothing here runs on a hot path. */
#pragma once

#include <slabmalloc.h>

#include "base/compiler.h"

/* All figures of slab_get_stats. Takes the cache mutex and the threads' lock. */
void slm_stats_gather(struct slab_stats *out);

/* Rounds that threads have taken from depots since start, and large objects made: what proves that the library served
 * a program. */
uint64_t slm_stats_objects_taken(void);

/* A thread is about to go: keep its counters. */
struct slm_thread;
void slm_stats_retire(const struct slm_thread *thread);

/* At exit: what the options `stats` and `stats_file` ask for. */
void slm_stats_report(void);
