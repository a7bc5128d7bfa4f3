/* Figures of the process and of its nodes, put together on request, and the counts of threads that have ended. */
#pragma once

#include <slabmalloc.h>

#include "thread/thread_list.h"

/* All figures of slab_get_stats. Takes the cache mutex and the threads' lock. */
void slm_figures_gather(struct slab_stats *out);

/* Those of slab_get_node_stats; false: there is no such node. */
bool slm_figures_gather_node(int node, struct slab_node_stats *out);

/* The figures by name, in the order of the report: which word of struct slab_stats each is, and which of
 * struct slab_node_stats. */
enum { SLM_FIGURES = sizeof(struct slab_stats) / sizeof(uint64_t), SLM_FIGURE_OF_PROCESS = UINT8_MAX /* alone */ };

struct slm_figure {
    uint8_t word, node_word;
    char name[23]; /* no pointer, so that the table lies with the messages, which only reports read */
};
extern slm_hidden const struct slm_figure slm_figures[SLM_FIGURES];

/* Rounds that threads have taken from depots since start, and large objects made: proof that the library served
 * a program. */
uint64_t slm_figures_objects_taken(void);

/* The thread is about to end, or to move to another node: keep its counts, or those of that node. */
void slm_figures_thread_ends(struct slm_thread *thread);
void slm_figures_thread_moves(struct slm_thread *thread);

/* A thread without a block has taken a large object. */
void slm_figures_count_direct(void);

/* A thread without a block has freed a remote object on that node; signal handlers too. */
void slm_figures_count_remote(unsigned node);
