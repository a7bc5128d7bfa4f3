/* What the tests of src/thread/freed.h share: a cache, every place where a free object of it may lie, and calls that
 * end the process, in a child that writes before what the library will have to say. */
#pragma once

#include "nodes.h"

#include "heap/cache_object.h"
#include "thread/freed.h"

enum { SIZE = 128, ROUNDS = 20, MANY = 3 * ROUNDS };

static struct slab_cache *name;
static struct slm_cache *cache;

static inline void create(size_t size, const struct slab_cache_attr *attr)
{
    name = named("sought", size, attr);
    cache = cache_of(name);
}

static inline int begin_test(void **state)
{
    (void)state;
    create(SIZE, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE, .magazine_rounds = ROUNDS});
    return 0;
}

static inline int end_test(void **state)
{
    (void)state;
    return slab_cache_destroy(name);
}

static inline void *alloc(void)
{
    void *object = slm_cache_object_alloc(name);
    require(object != NULL);
    return object;
}

static inline void imitate(void *object)
{
    slm_key_set(object, slm_key_of(object));
}

static inline bool has_key(const void *object)
{
    return slm_key_is_set(object, slm_key_of(object));
}

static inline struct slm_slot *slot(void)
{
    return slm_slot_of(slm_tls.self, cache->id);
}

static inline void announce(const char *call, const void *pointer, const char *what)
{
    dprintf(STDERR_FILENO, "slabmalloc: %s(" POINTER "): %s of cache sought (thread %d)\n", call, pointer_of(pointer),
            what, (int)gettid());
}

/* -- places: each function puts a free object there, and returns it ---------------------------------------------- */

static inline void free_many(void)
{
    void *objects[MANY];
    for (size_t i = 0; i < MANY; i++)
        objects[i] = alloc();
    for (size_t i = 0; i < MANY; i++)
        slm_cache_object_free(name, objects[i]);
}

static inline void *on_top(void)
{
    void *object = alloc();
    slm_cache_object_free(name, object);
    require(slot()->top[-1] == object);
    return object;
}

static inline void *at_bottom(void)
{
    free_many();
    require(slm_slot_rounds(slot()) > 4);
    return *slot()->bottom;
}

static inline void *in_previous(void)
{
    free_many();
    require(slot()->previous && slot()->previous->count == ROUNDS);
    return slot()->previous->rounds[ROUNDS / 2];
}

static inline void *in_reserve(void)
{
    void *object = on_top();
    require(!slm_reserve_pop(cache));
    struct slm_thread *thread = slm_thread_enter(true);
    require(thread != NULL);
    slm_thread_leave(thread);
    require(slm_reserve_has(slm_tls.self, cache, object));
    return object;
}

static inline void *in_stock(void)
{
    free_many();
    const struct slm_magazine *full = slm_cache_depot(cache, load_relaxed(&slm_tls.self->node))->full;
    require(full && full->count == ROUNDS);
    return full->rounds[ROUNDS - 1];
}

static inline void *in_slab(void)
{
    void *object = on_top();
    struct slm_thread *thread = slm_thread_enter(false);
    require(thread != NULL);
    slm_thread_empty_slot(thread, cache->id, SLM_TO_SLABS);
    slm_thread_leave(thread);
    require(slm_slab_has(slm_slab_of(object), object));
    return object;
}

static inline unsigned another_node(void)
{
    return (load_relaxed(&slm_tls.self->node) + 1) % slm_nodes;
}

static inline void *in_remote(void)
{
    void *object = slm_cache_object_alloc_node(name, (int)another_node());
    slm_cache_object_free(name, object);
    const struct slm_magazine *remote = slm_remote_of(slm_tls.self, cache->id);
    require(remote && remote->count == 1 && remote->rounds[0] == object);
    return object;
}

static inline void *in_stock_elsewhere(void)
{
    struct slm_magazine *magazine = slm_magazine_make(ROUNDS);
    require(magazine != NULL);
    take_from_node(cache, another_node(), ROUNDS, magazine->rounds);
    for (size_t i = 0; i < ROUNDS; i++)
        imitate(magazine->rounds[i]);
    void *object = magazine->rounds[3];
    magazine->count = ROUNDS;
    slm_magazine_hand_on(cache, magazine, UINT64_MAX);
    require(stock_at_home(cache, another_node()) == ROUNDS);
    return object;
}

static void *(*const places[])(void) = {on_top, at_bottom, in_previous, in_reserve, in_stock, in_slab};
static void *(*const places_of_nodes[])(void) = {in_remote, in_stock_elsewhere};

static void *(*place)(void);
static bool by_other; /* thread */
static struct helper helper;

static inline void put(void *object)
{
    *(void **)object = place();
}

/* On this thread or on the helper. */
static inline void *put_there(void)
{
    void *object = NULL;
    if (by_other) {
        start_live_helper(&helper);
        tell(&helper, put, &object);
    } else {
        put(&object);
    }
    require(object && has_key(object));
    return object;
}

static inline void for_each_place(void (*try)(void))
{
    for (unsigned other = 0; other < 2; other++) {
        by_other = other;
        for (size_t i = 0; i < COUNT(places); i++) {
            place = places[i];
            try();
        }
        for (size_t i = 0; i < COUNT(places_of_nodes) && slm_nodes > 1; i++) {
            place = places_of_nodes[i];
            try();
        }
    }
}

static inline void assert_live(const void *object)
{
    require(slm_freed_check(object, "test", slm_double_free) == cache);
    require(slm_freed_check_offset(object, "test", slm_double_free) == cache->shape.slot_offset);
    require(slm_freed_check_nolock(slm_slab_of(object), object, "test") == (cache->shape.keyed && has_key(object)));
}
