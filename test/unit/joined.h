/* What the tests of joined objects share: how to come by some. */
#pragma once

#include "unit.h"

#include <malloc.h>

#include "depot/cache.h"
#include "process/lifecycle.h"
#include "slab/joined.h"
#include "thread/thread_cache.h"

enum { LENDER_SLABS = 8, LENDER_MOST = SLM_GRANULE / 16 * LENDER_SLABS };

/* In a small process nothing is joined. */
static inline void use_megabytes(void)
{
    static char *volatile ballast;
    if (!ballast)
        require((ballast = malloc(8 * MIB)) != NULL);
}

/* What is free of a class goes to its slabs, and no page to the kernel. */
static inline void all_to_slabs(size_t size)
{
    struct slm_thread *thread = slm_thread_enter(true);
    require(thread != NULL);
    slm_thread_empty(thread, SLM_TO_SLABS);
    slm_thread_leave(thread);
    slm_for_each_depot (depot, slm_class_cache(slm_class_of_size(size)))
        slm_depot_trim(depot, true);
}

/* Slabs of a class in which every eighth object, by its place, is live, and all others are free. */
struct lender {
    unsigned count;
    void *live[LENDER_MOST];
};

static inline void lender_make(struct lender *lender, size_t size)
{
    static void *objects[LENDER_MOST];
    const unsigned all = (unsigned)(SLM_GRANULE / size * LENDER_SLABS);
    use_megabytes();
    lender->count = 0;
    for (unsigned i = 0; i < all; i++)
        require((objects[i] = malloc(size)) && memset(objects[i], 0x11, size));
    for (unsigned i = 0; i < all; i++) {
        if ((uint16_t)(uintptr_t)objects[i] / size % 8 == 0)
            lender->live[lender->count++] = objects[i];
        else
            free(objects[i]);
    }
    all_to_slabs(size);
}

static inline void lender_free(struct lender *lender)
{
    while (lender->count > 0)
        free(lender->live[--lender->count]);
}

static inline bool is_joined(const void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    return slab && slm_joined_pieces(slab, object) > 1;
}

/* Up to n objects, of which the joined ones come first; how many these are. */
static inline unsigned make_joined(size_t size, void **objects, unsigned n)
{
    unsigned joined = 0;
    for (unsigned i = 0; i < n; i++) {
        void *object = malloc(size);
        require(object != NULL);
        objects[i] = objects[joined];
        objects[is_joined(object) ? joined++ : i] = object;
    }
    return joined;
}
