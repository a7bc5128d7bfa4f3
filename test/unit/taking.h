/* What the tests of src/thread/ownership.h stand on: a cache, a thread that has rounds of it in both magazines, and a
 * taker that keeps what it has taken, to be looked at until the next taking. */
#pragma once

#include "caches.h"
#include "heap/cache_object.h"

enum { ROUNDS = 20, HOARD = 30 };

static const struct slab_cache_attr twenty = {.flags = SLAB_NO_MERGE, .magazine_rounds = ROUNDS};

static struct slab_cache *name;
static struct slm_cache *cache;

/* Have rounds in both magazines. */
static inline void hoard(void *nothing)
{
    (void)nothing;
    void *objects[HOARD];
    for (size_t i = 0; i < HOARD; i++)
        require((objects[i] = slm_cache_object_alloc(name)) != NULL);
    for (size_t i = 0; i < HOARD; i++)
        slm_cache_object_free(name, objects[i]);
}

static inline uint64_t rounds_of(const struct helper *of)
{
    return slm_thread_rounds(of->tls->self, cache->id);
}

static inline struct slm_slot *slot_of(const struct helper *of)
{
    return slm_slot_of(of->tls->self, cache->id);
}

/* The round that lies `below` rounds under the top one. */
static inline void *round_of(const struct helper *of, unsigned below)
{
    return *(slot_of(of)->top - 1 - below);
}

static struct slm_take_rounds taken;

static inline void hand_on_taken(void)
{
    for (struct slm_magazine *magazine = taken.taken, *next; magazine; magazine = next) {
        next = magazine->next;
        slm_magazine_hand_on(cache, magazine, 0);
    }
    taken.taken = NULL;
}

/* Take from all others; what was taken before is handed on. Returns how many were missed. */
static inline unsigned take_as(enum slm_take_how how)
{
    hand_on_taken();
    taken = (struct slm_take_rounds){.cache = cache, .how = how};
    struct slm_thread *self = slm_thread_hide();
    const unsigned missed = slm_take_rounds(NULL, &taken);
    slm_thread_unhide(self);
    return missed;
}

/* As slab_cache_destroy, slab_cache_tune and slab_cache_shrink do it. */
static inline unsigned take(bool all, bool always)
{
    return take_as(all ? SLM_TAKE_EVERYTHING : always ? SLM_TAKE_TO_STOCK : SLM_TAKE_SPARE);
}

static inline unsigned taken_count(void)
{
    unsigned count = 0;
    for (const struct slm_magazine *magazine = taken.taken; magazine; magazine = magazine->next)
        count += magazine->count;
    return count;
}

static inline bool was_taken(const void *object)
{
    for (const struct slm_magazine *magazine = taken.taken; magazine; magazine = magazine->next)
        for (uint32_t i = 0; i < magazine->count; i++)
            if (magazine->rounds[i] == object)
                return true;
    return false;
}

static inline bool is_at_rest(const struct helper *of)
{
    return of->tls->hot == of->tls->self && load_relaxed(&of->tls->busy) == 0;
}

static inline void ask_reserve(void *nothing)
{
    (void)nothing;
    require(!slab_cache_alloc_nolock(name)); /* the first time there is none */
}

static struct helper helper;

static inline int begin_with_helper(void **state)
{
    (void)state;
    name = named("taken", 128, &twenty);
    cache = cache_of(name);
    start_live_helper(&helper);
    tell(&helper, hoard, NULL);
    return rounds_of(&helper) > ROUNDS ? 0 : -1;
}

static inline int end_with_helper(void **state)
{
    (void)state;
    hand_on_taken();
    slm_thread_check(helper.tls->self);
    end_helper(&helper);
    return slab_cache_destroy(name);
}
