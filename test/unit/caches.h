/* What the tests of caches share: named caches without their checks of arguments, what a cache has given out, and
 * threads that do what they are told and stand still in between. */
#pragma once

#include "unit.h"

#include <semaphore.h>

#include "depot/cache_name.h"
#include "process/legacy.h"
#include "process/lifecycle.h"
#include "os/topology.h"
#include "thread/gather.h"
#include "thread/thread_list.h"

static const struct slab_cache_attr plain_attr;

/* As if it had learned that stocks pay: tests look for rounds there. */
static inline void widen_stock(struct slm_cache *cache)
{
    store_relaxed(&cache->stock_rounds, (uint32_t)slm_min(load_relaxed(&cache->depot_rounds), UINT32_MAX));
}

static inline struct slab_cache *named(const char *name, size_t size, const struct slab_cache_attr *attr)
{
    slm_cache_lock();
    struct slab_cache *made = slm_cache_name_create(name, size, attr ? attr : &plain_attr);
    if (made) {
        slm_thread_list_cover(load_relaxed(&made->cache)->id);
        widen_stock(load_relaxed(&made->cache));
    }
    slm_cache_unlock();
    return made;
}

static inline struct slm_cache *cache_of(struct slab_cache *name)
{
    return load_relaxed(&name->cache);
}

/* A slot without rounds: it is empty and full, and hot paths can see that. */
static inline bool is_clear(const struct slm_slot *slot)
{
    return slot->top == slm_no_rounds && slot->bottom == slm_no_rounds && !*slm_no_rounds;
}

/* The same, and as if it had never been used. */
static inline bool is_dismantled(const struct slm_slot *slot)
{
    struct slm_slot unused;
    memset(&unused, 0, sizeof unused);
    slm_slot_clear_cursors(&unused);
    return memcmp(slot, &unused, sizeof unused) == 0;
}

/* Objects that are not in the cache's slabs: live, or in magazines and reserves. */
static inline uint64_t cache_out(struct slm_cache *cache)
{
    uint64_t out = 0;
    slm_for_each_depot (depot, cache)
        out += load_relaxed(&depot->objects_out);
    return out;
}

/* Of them, in the depots' full magazines. */
static inline uint64_t cache_stock(struct slm_cache *cache)
{
    uint64_t stock = 0;
    slm_for_each_depot (depot, cache)
        stock += load_relaxed(&depot->stock_rounds);
    return stock;
}

/* -- threads that are told what to do ---------------------------------------------------------------------------- */

struct helper {
    pthread_t thread;
    sem_t told, done;
    void (*task)(void *context);
    void *context;
    struct slm_tls *tls;
};

static inline void *obey(void *context)
{
    struct helper *helper = context;
    helper->tls = &slm_tls;
    for (;;) {
        require(sem_post(&helper->done) == 0);
        while (sem_wait(&helper->told) != 0) /* a signal's handler has come in between */
            ;
        if (!helper->task)
            return NULL;
        helper->task(helper->context);
    }
}

/* Have it begin; to be followed by await(). */
static inline void begin_task(struct helper *helper, void (*task)(void *context), void *context)
{
    helper->task = task;
    helper->context = context;
    require(sem_post(&helper->told) == 0);
}

static inline void await(struct helper *helper)
{
    while (sem_wait(&helper->done) != 0)
        ;
}

static inline bool is_done_within(struct helper *helper, unsigned ms)
{
    for (unsigned waited = 0; waited < ms; waited++) {
        if (sem_trywait(&helper->done) == 0)
            return true;
        sleep_ms(1);
    }
    return false;
}

static inline void tell(struct helper *helper, void (*task)(void *context), void *context)
{
    begin_task(helper, task, context);
    await(helper);
}

/* By its frees, as far as the library knows: so no worker is started, which would give back what tests count. */
static inline void live_quietly(void *nothing)
{
    (void)nothing;
    slm_tls.direct_passes = UINT8_MAX;
    struct slm_thread *thread = slm_thread_enter(false);
    require(thread != NULL);
    slm_thread_leave(thread);
}

static inline void start_helper_by(struct helper *helper, thread_creator *create)
{
    require(sem_init(&helper->told, 0, 0) == 0 && sem_init(&helper->done, 0, 0) == 0);
    require(create(&helper->thread, NULL, obey, helper) == 0);
    await(helper);
}

static inline void start_helper(struct helper *helper)
{
    start_helper_by(helper, pthread_create);
}

static inline void start_live_helper(struct helper *helper)
{
    start_helper(helper);
    tell(helper, live_quietly, NULL);
}

/* Its block is not for the next one. */
static inline void end_helper(struct helper *helper)
{
    begin_task(helper, NULL, NULL);
    require(pthread_join(helper->thread, NULL) == 0);
    slm_legacy_bury(true);
}

/* Two tasks: in between the thread stands in a slow path. */
static inline void enter_slow_path(void *nothing)
{
    (void)nothing;
    require(slm_thread_enter(true) == slm_tls.self);
}

static inline void leave_slow_path(void *nothing)
{
    (void)nothing;
    slm_thread_leave(slm_tls.self);
}

/* A block whose thread has gone by a bare exit(2): it is listed, has rounds of the cache, and its TLS is unmapped. */
static inline struct slm_thread *leave_block_behind(unsigned cache_id)
{
    struct slm_thread *block = slm_thread_block_make();
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(block && page != MAP_FAILED);
    block->tls = page;
    slm_thread_list_add(block);
    struct slm_thread *self = slm_thread_hide();
    slm_thread_push(block, cache_id, slm_thread_pop(block, cache_id));
    slm_thread_worked(block);
    slm_thread_unhide(self);
    munmap(page, 4096);
    return block;
}
