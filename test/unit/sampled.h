/* What the tests of sampled objects share. */
#pragma once

#include "nodes.h"

#include "depot/shards.h"
#include "heap/sampled.h"
#include "sample/interval.h"

enum { MEAN = 1 << 20 };

/* From here on nothing is sampled but what due() says. */
static inline void set_mean(uint64_t mean)
{
    store_relaxed(&slm_settings.sample_bytes, mean);
    slm_tls.sample_mean = slm_interval_code(mean);
    slm_tls.sample_left = INT64_MAX / 2;
}

/* The thread's next allocation is sampled; what it had left does not matter, as intervals have no memory. */
static inline void due(void)
{
    set_mean(MEAN);
    slm_tls.sample_left = 0;
}

/* Each that has at least 40 bytes; of shorter ones a few are left out. */
static inline void sample_all(void)
{
    store_relaxed(&slm_settings.sample_bytes, 1);
    slm_tls.sample_left = 0;
}

static inline int fresh(void **state)
{
    (void)state;
    set_mean(0);
    return 0;
}

static inline uint32_t index_of(const void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    if (slab)
        return slm_slab_is_sampled(slab) ? load_relaxed(slm_slab_sample(slab, object)) : 0;
    const struct slm_large *large = slm_large_of(object);
    return large ? load_relaxed(&large->sample) : 0;
}

static inline bool is_sampled(const void *object)
{
    const uint32_t index = index_of(object);
    return index != 0 && load_relaxed(&slm_samples_at(index)->object) == (uintptr_t)object;
}

static inline unsigned count_live(void)
{
    unsigned live = 0;
    for (uint32_t index = 1; index <= load_relaxed(&slm_sample_counts.top); index++)
        live += load_relaxed(&slm_samples_at(index)->object) != 0;
    return live;
}

static inline void check_ended(uint32_t index)
{
    require(load_relaxed(&slm_samples_at(index)->object) == 0);
}
