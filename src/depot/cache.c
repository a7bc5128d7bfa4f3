/* The list of caches, and the size classes in it; see cache.h. */
#include "depot/cache.h"

#include <string.h>

#include "base/options.h"
#include "os/topology.h"
#include "page/metadata.h"

enum { start_bytes = 8192, start_rounds_most = 6, most_rounds_least = 2 };

struct slm_cache slm_class_caches[SLM_CLASSES];

static struct slm_lock mutex = {.rank = SLM_RANK_CACHES};
static struct slm_list caches = {&caches, &caches};

static void name_class(char *name, unsigned size)
{
    char digits[8];
    unsigned at = sizeof digits;
    for (; size != 0; size /= 10)
        digits[--at] = (char)('0' + size % 10);
    memcpy(name, "size-", 5);
    memcpy(name + 5, digits + at, sizeof digits - at);
}

void slm_cache_start(void)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = &slm_class_caches[class];
        name_class(cache->name, slm_class_size[class]);
        cache->shape.object_size = slm_class_size[class];
        cache->shape.place = (uint16_t)slm_place_of_class(class);
        slm_slab_shape_fill(&cache->shape);
        slm_depot_init(&cache->first, &cache->shape, cache->name, 0);
        slm_list_insert_before(&caches, &cache->link);
    }
    slm_cache_tune_all();
}

void slm_cache_tune_all(void)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = &slm_class_caches[class];
        const size_t size = cache->shape.object_size;
        cache->most_rounds =
            (uint32_t)slm_min(slm_max(slm_options.magazine_bytes / size, most_rounds_least), SLM_MAGAZINE_ROUNDS_MAX);
        cache->start_rounds =
            (uint32_t)slm_min(slm_max(start_bytes / size, 1), slm_min(start_rounds_most, cache->most_rounds));
    }
}

static _Atomic(struct slm_depot *) *other_depots(struct slm_cache *cache)
{
    _Atomic(struct slm_depot *) *others = load_acquire(&cache->others); /* pairs with the exchange below */
    if (others)
        return others;
    const size_t bytes = SLM_NODES_MAX * sizeof *others;
    _Atomic(struct slm_depot *) *made = slm_metadata_alloc(bytes);
    if (!made)
        return NULL;
    memset((void *)made, 0, bytes);
    if (atomic_compare_exchange_strong(&cache->others, &others, made))
        return made;
    slm_metadata_free((void *)made, bytes);
    return others;
}

struct slm_depot *slm_cache_depot_other(struct slm_cache *cache, unsigned node)
{
    _Atomic(struct slm_depot *) *others = other_depots(cache);
    if (!others)
        return &cache->first;
    struct slm_depot *depot = load_acquire(&others[node]); /* pairs with the exchange below */
    if (depot)
        return depot;
    struct slm_depot *made = slm_metadata_alloc(sizeof *made);
    if (!made)
        return &cache->first;
    slm_depot_init(made, &cache->shape, cache->name, node);
    if (atomic_compare_exchange_strong(&others[node], &depot, made))
        return made;
    slm_metadata_free(made, sizeof *made);
    return depot;
}

struct slm_depot *slm_cache_depot_made(struct slm_cache *cache, unsigned node)
{
    if (node == 0)
        return &cache->first;
    _Atomic(struct slm_depot *) *others = load_acquire(&cache->others);
    return others ? load_acquire(&others[node]) : NULL;
}

void slm_cache_foreach(void (*visit)(struct slm_cache *cache, void *context), void *context)
{
    slm_lock_acquire(&mutex); /* held by a thread that a fork lost: it only read */
    for (struct slm_list *at = caches.next; at != &caches; at = at->next)
        visit(slm_container(at, struct slm_cache, link), context);
    slm_lock_release(&mutex);
}
