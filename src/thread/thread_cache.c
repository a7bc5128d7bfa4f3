/* Refill, drain, adapt; see thread_cache.h.
 *
 * Capacity. A class starts with a few rounds; each second trip to the depot doubles its target, up to what
 * `magazine_bytes` and `thread_bytes` allow; adapting halves the targets of classes that idle. An array that does not
 * fit its target is exchanged when it happens to be empty: any array will do until then, `limit` keeps to the target.
 */
#include "thread/thread_cache.h"

#include <string.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/topology.h"
#include "page/metadata.h"

/* So few rounds are not worth a magazine in the stock. */
enum { small_count = 6 };

const struct slm_loaded slm_nothing[SLM_CLASSES + 1];

__thread struct slm_tls slm_tls = {.hot = (struct slm_thread *)(uintptr_t)slm_nothing};

struct slm_thread *slm_thread_block_make(void)
{
    struct slm_thread *thread = slm_metadata_alloc(sizeof *thread);
    if (thread)
        memset(thread, 0, sizeof *thread);
    return thread;
}

void slm_thread_block_free(struct slm_thread *thread)
{
    slm_metadata_free(thread, sizeof *thread);
}

static void count_one(_Atomic uint64_t *counter, uint64_t n)
{
    store_relaxed(counter, load_relaxed(counter) + n);
}

static struct slm_magazine *magazine_make(uint32_t rounds)
{
    const uint32_t capacity = slm_magazine_capacity(rounds);
    struct slm_magazine *magazine = slm_metadata_alloc(slm_magazine_bytes(capacity));
    if (magazine) {
        magazine->capacity = capacity;
        magazine->count = 0;
    }
    return magazine;
}

static void magazine_free(struct slm_magazine *magazine)
{
    if (magazine)
        slm_metadata_free(magazine, slm_magazine_bytes(magazine->capacity));
}

/* An empty array that suits the target: this one if it does. The old one where memory is short, perhaps NULL. */
static struct slm_magazine *magazine_fit(struct slm_magazine *magazine, uint32_t target)
{
    const uint32_t wanted = slm_magazine_capacity(target);
    if (magazine && magazine->capacity == wanted)
        return magazine;
    struct slm_magazine *made = magazine_make(target);
    if (!made)
        return magazine;
    magazine_free(magazine);
    return made;
}

/* Write down how many rounds the loaded magazine has, and take it out of the cursors. */
static struct slm_magazine *unload(struct slm_thread *thread, unsigned class)
{
    struct slm_loaded *loaded = &thread->loaded[class + 1];
    struct slm_magazine *magazine = thread->pairs[class].loaded;
    if (magazine)
        magazine->count = (uint32_t)(loaded->top - loaded->bottom);
    *loaded = (struct slm_loaded){NULL, NULL, NULL};
    thread->pairs[class].loaded = NULL;
    return magazine;
}

static void load(struct slm_thread *thread, unsigned class, struct slm_magazine *magazine)
{
    const uint32_t target = thread->pairs[class].target;
    const uint32_t room = (uint32_t)slm_max(slm_min(magazine->capacity, target), magazine->count);
    thread->pairs[class].loaded = magazine;
    thread->loaded[class + 1] = (struct slm_loaded){
        .top = magazine->rounds + magazine->count, .bottom = magazine->rounds, .limit = magazine->rounds + room};
}

/* A trip to the depot: let the class's magazines grow if it makes many. */
static void miss(struct slm_thread *thread, unsigned class)
{
    struct slm_pair *pair = &thread->pairs[class];
    const struct slm_cache *cache = &slm_class_caches[class];
    uint32_t target = pair->target;
    if (target == 0)
        target = cache->start_rounds;
    else if (++pair->misses % 2 == 0)
        target = (uint32_t)slm_min(target < 6 ? 6 : target * 2 + 2, cache->most_rounds);
    const size_t more = (size_t)(target - pair->target) * cache->shape.object_size * 2;
    if (target <= pair->target || (pair->target != 0 && thread->target_bytes + more > slm_options.thread_bytes))
        return;
    thread->target_bytes += more;
    pair->target = target;
}

static struct slm_depot *depot_of(const struct slm_thread *thread, unsigned class)
{
    return slm_cache_depot(&slm_class_caches[class], thread->node);
}

/* Put a magazine with rounds into the stock, or its rounds into their slabs; *slot is an empty one or NULL then. */
static void put_away(struct slm_thread *thread, unsigned class, struct slm_magazine **slot, bool home)
{
    const uint64_t limit = slm_options.depot_bytes / slm_class_size[class];
    if (!home && slm_depot_put(depot_of(thread, class), slot, limit))
        return;
    slm_depot_give((*slot)->rounds, (*slot)->count, "free");
    (*slot)->count = 0;
}

/* Rounds of other nodes go home, so that a depot's stock is its node's. */
static void sort_home(const struct slm_thread *thread, struct slm_magazine *magazine)
{
    if (likely(slm_nodes == 1))
        return;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < magazine->count; i++) {
        void *round = magazine->rounds[i];
        if (slm_granule_of(round) / slm_reservation_area() == thread->node)
            magazine->rounds[kept++] = round;
        else
            slm_depot_give(&round, 1, "free");
    }
    magazine->count = kept;
}

/* Move rounds from a magazine that is too large or too small for this thread into one that suits it. */
static struct slm_magazine *decant(struct slm_thread *thread, unsigned class, struct slm_magazine *from,
                                   struct slm_magazine *to)
{
    const uint32_t n = (uint32_t)slm_min(from->count, slm_min(to->capacity, thread->pairs[class].target));
    memcpy(to->rounds, from->rounds + from->count - n, n * sizeof(void *));
    to->count = n;
    from->count -= n;
    if (from->count > 0)
        put_away(thread, class, &from, false);
    magazine_free(from);
    return to;
}

/* Rounds in place of an empty magazine: a whole one from the stock, else objects from slabs. NULL: there is no
 * memory, and *empty is as it was. */
static struct slm_magazine *fetch(struct slm_thread *thread, unsigned class, struct slm_magazine *empty)
{
    struct slm_depot *depot = depot_of(thread, class);
    const uint32_t target = thread->pairs[class].target, wanted = empty->capacity;
    struct slm_magazine *full = empty;
    if (slm_depot_get(depot, &full)) {
        if (full->capacity == wanted && full->count <= target)
            return full;
        struct slm_magazine *fitting = magazine_make(target);
        return fitting ? decant(thread, class, full, fitting) : full;
    }
    empty->count = slm_depot_fill(depot, empty->rounds, (unsigned)slm_min(target, wanted));
    return empty->count > 0 ? empty : NULL;
}

static void *pop(struct slm_thread *thread, unsigned class)
{
    return *--thread->loaded[class + 1].top;
}

void *slm_thread_refill(struct slm_thread *thread, unsigned class)
{
    struct slm_pair *pair = &thread->pairs[class];
    if (pair->previous && pair->previous->count > 0) {
        struct slm_magazine *full = pair->previous;
        pair->previous = unload(thread, class);
        load(thread, class, full);
        return pop(thread, class);
    }
    miss(thread, class);
    count_one(&thread->refills, 1);
    struct slm_magazine *empty = magazine_fit(unload(thread, class), pair->target);
    if (!empty) { /* no memory for an array, perhaps there is an object */
        void *object = NULL;
        return slm_depot_fill(depot_of(thread, class), &object, 1) ? object : NULL;
    }
    struct slm_magazine *full = fetch(thread, class, empty);
    if (!full) {
        empty->count = 0;
        load(thread, class, empty);
        return NULL;
    }
    count_one(&thread->objects_taken, full->count);
    load(thread, class, full);
    return pop(thread, class);
}

void slm_thread_drain(struct slm_thread *thread, unsigned class, void *object)
{
    struct slm_pair *pair = &thread->pairs[class];
    struct slm_magazine *full = unload(thread, class), *empty = pair->previous;
    if (pair->target == 0 || (empty && empty->count > 0)) {
        miss(thread, class);
        count_one(&thread->drains, 1);
    }
    if (empty && empty->count > 0) {
        sort_home(thread, empty);
        if (empty->count > 0)
            put_away(thread, class, &empty, false);
    }
    pair->previous = full;
    empty = magazine_fit(empty, pair->target);
    if (!empty) {
        slm_depot_give(&object, 1, "free");
        return;
    }
    empty->count = 1;
    empty->rounds[0] = object;
    load(thread, class, empty);
}

void slm_thread_empty_class(struct slm_thread *thread, unsigned class, bool home)
{
    struct slm_pair *pair = &thread->pairs[class];
    struct slm_magazine *both[2] = {unload(thread, class), pair->previous};
    pair->previous = NULL;
    for (unsigned i = 0; i < 2; i++) {
        if (both[i] && both[i]->count > 0) {
            sort_home(thread, both[i]);
            put_away(thread, class, &both[i], home || both[i]->count <= small_count);
        }
        magazine_free(both[i]);
    }
    thread->target_bytes -= (size_t)pair->target * slm_class_size[class] * 2;
    pair->target = pair->misses = 0;
}

void slm_thread_empty(struct slm_thread *thread, bool home)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        if (thread->pairs[class].target != 0)
            slm_thread_empty_class(thread, class, home);
}

void slm_thread_adapt(struct slm_thread *thread)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_pair *pair = &thread->pairs[class];
        const uint32_t target = pair->target, misses = pair->misses;
        pair->misses = 0;
        if (target <= slm_class_caches[class].start_rounds || misses > 0)
            continue;
        slm_thread_empty_class(thread, class, false);
        pair->target = target / 2;
        thread->target_bytes += (size_t)pair->target * slm_class_size[class] * 2;
    }
}

/* The owner may be in the middle of a pop, or take `previous` away: metadata stay mapped, and figures may lag. */
slm_unordered uint64_t slm_thread_rounds(const struct slm_thread *thread, unsigned class)
{
    const struct slm_loaded *loaded = &thread->loaded[class + 1];
    const struct slm_magazine *previous = thread->pairs[class].previous;
    size_t rounds = slm_min((size_t)(loaded->top - loaded->bottom), SLM_MAGAZINE_ROUNDS_MAX);
    return rounds + (previous ? slm_min(previous->count, SLM_MAGAZINE_ROUNDS_MAX) : 0);
}

void slm_thread_check(const struct slm_thread *thread)
{
    const struct slm_loaded *none = &thread->loaded[0];
    if (none->top || none->bottom || none->limit)
        slm_panic("check", thread, "place 0 has a magazine", NULL, NULL);
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct slm_loaded *loaded = &thread->loaded[class + 1];
        const struct slm_magazine *magazine = thread->pairs[class].loaded;
        const bool ordered = loaded->bottom <= loaded->top && loaded->top <= loaded->limit;
        const bool inside = !magazine || (loaded->bottom >= magazine->rounds &&
                                          loaded->limit <= magazine->rounds + magazine->capacity);
        if (!ordered || !inside || (!magazine && loaded->limit))
            slm_panic("check", loaded, "a magazine's cursors are out of order", slm_class_caches[class].name, NULL);
    }
}
