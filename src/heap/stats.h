/* Figures of the process, put together on request: nothing here runs on a hot path. */
#pragma once

#include <slabmalloc.h>

#include "base/compiler.h"

/* All figures of slab_get_stats. Takes the cache mutex and the threads' lock. */
void slm_stats_gather(struct slab_stats *out);

/* Those of slab_get_node_stats; false: there is no such node. */
bool slm_stats_gather_node(int node, struct slab_node_stats *out);

/* Rounds that threads have taken from depots since start, and large objects made: what proves that the library served
 * a program. */
uint64_t slm_stats_objects_taken(void);

/* A thread is about to go, or to go to another node: keep its counters, or what it has counted on this one. */
struct slm_thread;
void slm_stats_retire(struct slm_thread *thread);
void slm_stats_move(struct slm_thread *thread);

/* A thread without a block has freed a remote object on that node; signal handlers too. */
void slm_stats_count_remote(unsigned node);

/* At start, if one of the options `stats` and `stats_file` is set: remember where standard error is, and say what
 * will keep the file from being written. */
void slm_stats_start(void);

/* At exit: what these options ask for. */
void slm_stats_report(void);
