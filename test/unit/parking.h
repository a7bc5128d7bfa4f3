/* A helper that has hoarded objects of SIZE bytes, and looks that park it; for tests of thread/park.h. */
#pragma once

#include "caches.h"
#include "heap_check.h"

#include "base/size_class.h"
#include "depot/cache.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "thread/park.h"

enum { SIZE = 1000, HOARD = 100, INTERVAL_MS = 1000 };

#ifdef __x86_64__
enum { BARRIERS = 2 };
#else
enum { BARRIERS = 3 };
#endif

static struct helper helper;
static struct slm_cache *cache;
static uint64_t now_ms = 1, lent; /* to smaller classes, as they began */

static void hoard(void *nothing)
{
    void *objects[HOARD];
    (void)nothing;
    for (size_t i = 0; i < HOARD; i++)
        require((objects[i] = slm_alloc(SIZE)) != NULL);
    for (size_t i = 0; i < HOARD; i++)
        slm_free(memset(objects[i], 1, SIZE));
}

static bool look(void)
{
    return slm_park_pass(now_ms += INTERVAL_MS);
}

static int begin_group(void **state)
{
    const int started = start_library(state);
    slm_settings.purge_delay_ms = INTERVAL_MS;
    cache = slm_class_cache(slm_class_of_size(SIZE));
    lent = cache_out(cache) - cache_stock(cache) - slm_thread_rounds(slm_tls.self, cache->id);
    return started;
}

static int begin_test(void **state)
{
    (void)state;
    start_live_helper(&helper);
    tell(&helper, hoard, NULL);
    while (look())
        ;
    tell(&helper, hoard, NULL);
    return slm_thread_rounds(helper.tls->self, cache->id) > 10 ? 0 : -1;
}

static int end_test(void **state)
{
    (void)state;
    slm_thread_check(helper.tls->self);
    end_helper(&helper);
    return 0;
}

static struct slm_slot *slot_of(const struct helper *of)
{
    return slm_slot_of(of->tls->self, cache->id);
}

static void *top_round(void)
{
    return slot_of(&helper)->top[-1];
}

static bool is_parked(const struct helper *of)
{
    return of->tls->hot == slm_parked && load_relaxed(&of->tls->busy) == 0;
}

static bool is_at_rest_in_block(const struct helper *of)
{
    return of->tls->hot == of->tls->self && load_relaxed(&of->tls->busy) == 0;
}

/* Or the slab has gone, too. */
static bool is_in_slab(const void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    return !slab || slm_slab_has(slab, object);
}

/* Objects that are neither in slabs nor in stock nor in the helper's magazines. */
static uint64_t live(void)
{
    return cache_out(cache) - lent - cache_stock(cache) - slm_thread_rounds(helper.tls->self, cache->id) -
           slm_thread_rounds(slm_tls.self, cache->id);
}

static void park(void)
{
    while (look())
        ;
}
