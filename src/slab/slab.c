/* Cutting spans, and the bits; see slab.h. */
#include "slab/slab.h"

#include <errno.h>
#include <string.h>

#include "base/hook.h"
#include "base/panic.h"
#include "os/vm.h"
#include "page/huge.h"
#include "page/metadata.h"
#include "page/page_map.h"
#include "page/populate.h"
#include "page/span_alloc.h"
#include "slab/key.h"
#include "sync/fork.h"

enum { least_objects = 8, page_bytes = 4096 };

static_assert(offsetof(struct slm_slab, pending) >= sizeof(struct slm_slab) - 8, "past what spans use");
static_assert(offsetof(struct slm_slab, owner) == sizeof(struct slm_span), "no_owner of slm_large and slm_free_span");

void slm_slab_shape_fill(struct slm_slab_shape *shape)
{
    const size_t size = shape->object_size;
    size_t granules = 1;
    while (size > SLM_SMALL_MAX && granules * SLM_GRANULE / size < least_objects) {
        const size_t bytes = granules * SLM_GRANULE;
        if (bytes >= size && bytes % size <= bytes / 8)
            break;
        granules++;
    }
    shape->granules = (uint16_t)granules;
    shape->objects = (uint16_t)(granules * SLM_GRANULE / shape->object_size);
    shape->keyed = !shape->hooks && size >= 2 * sizeof(void *);
    const bool is_class = shape->slot_offset <= slm_slot_offset_of(SLM_CLASSES - 1);
    const bool guarded = is_class || SLM_GRANULE % size == 0 || shape->objects * size % page_bytes != 0;
    shape->mapped = shape->keyed && size <= SLM_SMALL_MAX && guarded;
}

/* Of a sampled slab's bits, and the indexes behind them. */
static slm_sampling size_t sampled_bytes(const struct slm_slab *slab)
{
    return slm_slab_words(slab) * sizeof(uint64_t) + slab->objects * sizeof(uint32_t);
}

static slm_sampling __attribute__((noinline)) void *make_sampled_bits(const struct slm_slab *slab)
{
    void *bits = slm_metadata_alloc(sampled_bytes(slab));
    return bits ? memset(bits, 0, sampled_bytes(slab)) : NULL;
}

static bool make_bits(struct slm_slab *slab, bool sampled)
{
    const unsigned words = slm_slab_words(slab);
    if (unlikely(sampled))
        slab->bits = make_sampled_bits(slab);
    else
        slab->bits = words > SLM_SLAB_WORDS ? slm_metadata_alloc(words * sizeof(uint64_t)) : slab->inside;
    if (!slab->bits)
        return false;
    for (unsigned word = 0; word < words; word++)
        store_relaxed(&slab->bits[word], ~(uint64_t)0);
    if (slab->objects % 64 != 0)
        store_relaxed(&slab->bits[words - 1], ((uint64_t)1 << slab->objects % 64) - 1);
    return true;
}

/* `kind`: of its first granule. */
static void mark(struct slm_slab *slab, uint8_t kind, unsigned slot_offset)
{
    const size_t first = slm_span_granule(&slab->span);
    for (uint32_t i = 0; i < slab->span.granules; i++) {
        struct slm_span *granule = slm_descriptor(first + i);
        granule->back = i;
        granule->purged = 0;
        store_relaxed(&granule->kind, i == 0 || kind == SLM_SPAN_NONE ? kind : SLM_SPAN_SLAB_INSIDE);
    }
    slm_page_map_set(first, slab->span.granules, slot_offset);
}

struct slm_slab *slm_slab_make(const struct slm_slab_shape *shape, unsigned node, bool sampled)
{
    struct slm_span *span = slm_span_alloc(slm_area_for_slabs(node), shape->granules, slm_max(shape->alignment, 1));
    return span ? slm_slab_make_of(span, shape, sampled) : NULL;
}

struct slm_slab *slm_slab_make_of(struct slm_span *span, const struct slm_slab_shape *shape, bool sampled)
{
    struct slm_slab *slab = (struct slm_slab *)span;
    slab->object_size = shape->object_size;
    slab->objects = shape->objects;
    slab->reciprocal = (((uint64_t)1 << 40) + shape->object_size - 1) / shape->object_size;
    store_relaxed(&slab->where, SLM_SLAB_HELD);
    slab->span.swept = SLM_SLAB_FRESH;
    slab->span.some_purged = slab->span.some_joined = false;
    slab->span.fresh = slab->span.ahead = 0;
    store_relaxed(&slab->free, shape->objects);
    store_relaxed(&slab->joined, NULL);
    slab->span.short_runs = UINT8_MAX;
    if (!make_bits(slab, sampled)) {
        slm_span_free(&slab->span);
        errno = ENOMEM;
        return NULL;
    }
    mark(slab, sampled ? SLM_SPAN_SAMPLED : SLM_SPAN_SLAB, sampled ? 0 : slm_slab_map_offset(shape));
    return slab;
}

struct calls {
    struct slm_hook hook; /* the first member */
    const struct slm_slab *slab;
    void (*call)(void *object, void *context);
    void *context;
};

static void call_each(const struct slm_hook *hook)
{
    const struct calls *calls = (const struct calls *)hook;
    char *object = slm_slab_start(calls->slab);
    for (unsigned i = 0; i < calls->slab->objects; i++, object += calls->slab->object_size)
        calls->call(object, calls->context);
}

void slm_slab_each_object(struct slm_slab *slab, const struct slm_object_hooks *hooks,
                          void (*call)(void *object, void *context), const char *what)
{
    const struct calls calls = {{call_each, what, hooks->cache_name}, slab, call, hooks->context};
    slm_hook_run(&calls.hook);
}

/* Where it is one unless it is a piece of a joined object. */
static bool is_piece(const struct slm_slab *slab, uint32_t index, const void *pointer)
{
    return index < slab->objects && slm_slab_start(slab) + (size_t)index * slab->object_size == (const char *)pointer;
}

bool slm_slab_is_object(const struct slm_slab *slab, const void *pointer)
{
    const _Atomic uint64_t *joined = slm_slab_joins(slab);
    const uint32_t index = slm_slab_index(slab, pointer);
    return is_piece(slab, index, pointer) &&
           (likely(!joined) || !(load_relaxed(&joined[index / 64]) >> index % 64 & 1));
}

bool slm_slab_has(const struct slm_slab *slab, const void *object)
{
    const uint32_t index = slm_slab_index(slab, object);
    return load_relaxed(&slab->bits[index / 64]) >> index % 64 & 1;
}

/* Acquire: pairs with slm_slab_set_bits, as the object is going to be written or purged. */
static bool is_free(const struct slm_slab *slab, uint32_t index)
{
    return load_acquire(&slab->bits[index / 64]) >> index % 64 & 1;
}

static unsigned count_bits(const struct slm_slab *slab)
{
    unsigned set = 0;
    for (unsigned word = 0; word < slm_slab_words(slab); word++)
        set += (unsigned)__builtin_popcountll(load_relaxed(&slab->bits[word]));
    return set;
}

static void free_bits(struct slm_slab *slab, _Atomic uint64_t *bits)
{
    const unsigned words = slm_slab_words(slab);
    if (bits && bits != slab->inside && bits != slab->inside + words)
        slm_metadata_free((void *)bits, words * sizeof(uint64_t));
}

void slm_slab_release(struct slm_slab *slab)
{
    slm_assert(load_relaxed(&slab->free) == slab->objects);
    if (unlikely(slab->span.ahead))
        sub_relaxed(&slm_populate_ahead_bytes, slab->span.ahead * slm_page_size);
    if (unlikely(slm_slab_is_sampled(slab)))
        slm_metadata_free((void *)slab->bits, sampled_bytes(slab));
    else
        free_bits(slab, slab->bits);
    free_bits(slab, load_relaxed(&slab->joined));
    mark(slab, SLM_SPAN_NONE, 0);
    slm_span_free(&slab->span);
}

slm_cold void slm_slab_hide(struct slm_slab *slab)
{
    if (slm_page_map_slot_offset(slm_slab_start(slab)) != 0)
        slm_page_map_set(slm_span_granule(&slab->span), slab->span.granules, SLM_MAP_HIDDEN);
}

slm_for_few void slm_slab_show(struct slm_slab *slab, const struct slm_slab_shape *shape)
{
    if (!slab->span.some_purged && !slab->span.some_joined && load_relaxed(&slab->where) != SLM_SLAB_SHARED &&
        !slm_slab_is_sampled(slab))
        slm_page_map_set(slm_span_granule(&slab->span), slab->span.granules, slm_slab_map_offset(shape));
}

unsigned slm_slab_take(struct slm_slab *slab, unsigned n, void **rounds)
{
    const int32_t there = load_acquire(&slab->free); /* pairs with slm_slab_count: so many bits can be seen */
    n = there <= 0 ? 0 : (unsigned)slm_min(n, (size_t)there);
    sub_relaxed(&slab->free, (int32_t)n); /* first: see "The count" */
    const size_t size = slab->object_size;
    const unsigned words = slm_slab_words(slab);
    void **next = rounds, **const end = rounds + n;
    for (unsigned word = 0; next != end && word < words; word++) {
        const uint64_t all = load_relaxed(&slab->bits[word]);
        char *const first = slm_slab_start(slab) + word * 64 * size;
        uint64_t bits = all;
        for (; bits != 0; bits &= bits - 1) {
            if (next == end)
                break;
            *next++ = first + (size_t)__builtin_ctzll(bits) * size;
        }
        if (bits != all) /* acquire: pairs with the release in slm_slab_give, so the last owner's writes are done */
            atomic_fetch_and_explicit(&slab->bits[word], ~(all ^ bits), memory_order_acquire);
    }
    slm_assert(next == end);
    return (unsigned)(next - rounds);
}

/* The rest of a slab of one granule begins at a multiple of the object size: hot paths take it for an object, too. It
 * gets no key where that would touch a page for nothing: see slm_slab_shape_fill. */
static bool rest_is_keyed(const struct slm_slab *slab)
{
    return slab->span.granules == 1 && slab->objects * (size_t)slab->object_size % page_bytes != 0;
}

void slm_slab_set_keys(struct slm_slab *slab, void *const *rounds, unsigned n)
{
    if (unlikely(n == 0))
        return;
    const uintptr_t key = slm_key_of(rounds[0]);
    const char *const page_end = (char *)(((uintptr_t)rounds[0] | (page_bytes - 1)) + 1);
    const uint32_t next = slm_slab_index(slab, rounds[n - 1]) + 1;
    char *const behind = slm_slab_start(slab) + (size_t)next * slab->object_size;
    const bool keyed_there = behind + sizeof key < page_end; /* the next page may be purged */
    if (next < slab->objects ? keyed_there && is_free(slab, next) : rest_is_keyed(slab))
        slm_key_set(behind, key);
    for (unsigned i = 0; i < n && (char *)rounds[i] < page_end; i++)
        slm_key_set(rounds[i], key);
}

void slm_slab_set_bits(struct slm_slab *slab, uint32_t word, uint64_t bits, const char *call, const char *cache)
{
    if (bits == 0)
        return;
    /* release: pairs with the acquire in slm_slab_take */
    const uint64_t twice = atomic_fetch_or_explicit(&slab->bits[word], bits, memory_order_release) & bits;
    if (unlikely(twice != 0)) {
        const size_t index = word * 64 + (size_t)__builtin_ctzll(twice);
        slm_panic(call, slm_slab_start(slab) + index * slab->object_size, "double free of an object", cache,
                  slab->object_size);
    }
}

/* Bits of one word share an atomic operation. A round that occurs twice begins another one, which finds that. */
unsigned slm_slab_give(struct slm_slab *slab, void *const *rounds, unsigned n, const char *call, const char *cache)
{
    const char *const start = slm_slab_start(slab);
    const size_t bytes = slm_span_bytes(&slab->span);
    uint32_t word = 0;
    uint64_t bits = 0;
    unsigned given = 0;
    for (; given < n && (size_t)((char *)rounds[given] - start) < bytes; given++) {
        const uint32_t index = slm_slab_index(slab, rounds[given]);
        if (!is_piece(slab, index, rounds[given]))
            slm_panic(call, rounds[given], "not the start of an object", cache, slab->object_size);
        const uint64_t bit = (uint64_t)1 << index % 64;
        if (index / 64 != word || (bits & bit)) {
            slm_slab_set_bits(slab, word, bits, call, cache);
            word = index / 64;
            bits = 0;
        }
        bits |= bit;
    }
    slm_slab_set_bits(slab, word, bits, call, cache);
    return given;
}

struct slm_slab *slm_slab_of(const void *pointer)
{
    struct slm_span *span = slm_span_of(pointer);
    return span && slm_span_is_slab(load_relaxed(&span->kind)) ? (struct slm_slab *)span : NULL;
}

/* An object may come back meanwhile. The count is read after the bits: so it may come out too low, never too high. */
static slm_seldom __attribute__((noinline)) void lower_count(struct slm_slab *slab)
{
    const int32_t bits = (int32_t)count_bits(slab);
    slm_fence(); /* pairs with slm_slab_count */
    const int32_t counted = load_relaxed(&slab->free);
    if (slm_fork_generation == 1 || counted < bits)
        slm_panic("check", slm_slab_start(slab), "a vacant slab's count differs from its bits", NULL, 0);
    sub_relaxed(&slab->free, counted - bits);
}

bool slm_slab_recount_vacant(struct slm_slab *slab)
{
    if (likely(count_bits(slab) == slab->objects && load_relaxed(&slab->free) == slab->objects))
        return true;
    lower_count(slab);
    return false;
}

void slm_slab_check(struct slm_slab *slab)
{
    const int32_t counted = load_acquire(&slab->free); /* before the bits: pairs with slm_slab_count */
    if ((int32_t)count_bits(slab) < counted)
        slm_panic("check", slm_slab_start(slab), "more objects counted free than bits are set", NULL, 0);
}
