/* What the tests of joined objects share: how to come by some. */
#pragma once

#include "unit.h"

#include <malloc.h>

#include "depot/cache.h"
#include "slab/joined.h"

enum { LENDER_SLABS = 8, LENDER_MOST = SLM_GRANULE / 16 * LENDER_SLABS };

/* Slabs of a class in which every eighth object, by its place, is live, and all others are free. */
struct lender {
    unsigned count;
    void *live[LENDER_MOST];
};

static inline void lender_make(struct lender *lender, size_t size)
{
    static void *objects[LENDER_MOST];
    const unsigned all = (unsigned)(SLM_GRANULE / size * LENDER_SLABS);
    lender->count = 0;
    for (unsigned i = 0; i < all; i++)
        require((objects[i] = malloc(size)) && memset(objects[i], 0x11, size));
    for (unsigned i = 0; i < all; i++) {
        if ((uint16_t)(uintptr_t)objects[i] / size % 8 == 0)
            lender->live[lender->count++] = objects[i];
        else
            free(objects[i]);
    }
    malloc_trim(0); /* what is free goes to its slab */
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
