/* Burying legacies; see legacy.h. */
#include "process/legacy.h"

#include "figures/figures.h"
#include "thread/thread_cache.h"
#include "thread/thread_list.h"

/* Its rounds do not count as traffic of their depots, which may be still (slm_depot_is_still). */
static slm_seldom void bury(struct slm_thread *thread)
{
    slm_for_each_slot (cache_id, &thread->used) {
        if (load_relaxed(&slm_slot_of(thread, cache_id)->target) == 0)
            continue;
        struct slm_depot *depot = slm_cache_depot(slm_cache_of(cache_id), load_relaxed(&thread->node));
        const uint64_t rounds = slm_thread_rounds(thread, cache_id);
        slm_thread_empty_slot(thread, cache_id, SLM_TO_SLABS);
        add_relaxed(&depot->taken_back, rounds);
    }
    slm_figures_thread_ends(thread);
    slm_thread_block_free(thread);
}

static __attribute__((noinline)) slm_seldom void bury_some(bool all)
{
    struct slm_thread *thread;
    unsigned some = all ? slm_thread_list_legacies() : slm_thread_list_surplus();
    for (; some > 0 && (thread = slm_thread_list_take_legacy()); some--)
        bury(thread);
}

void slm_legacy_bury(bool all)
{
    if (slm_thread_list_legacies() > 0)
        bury_some(all);
}
