/* src/heap/guarded.h, as calls of the program get there: with guard=1 each object of a thread is sampled.
 * Misuse is for test/misuse. */
#include "heap_check.h"
#include "unit.h"

#include <malloc.h>
#include <slabmalloc.h>

#include "depot/cache.h"
#include "heap/guarded.h"
#include "heap/slow.h"
#include "os/vm.h"
#include "page/charge.h"
#include "sample/samples.h"

static void *opaque(void *object)
{
    void *volatile unknown = object;
    return unknown;
}

/* The thread's count begins anew. */
static void sample_everything(void)
{
    slm_options.guard = 1;
    atomic_store(&slm_settings.sample_bytes, 1);
    slm_tls.sample_left = -1;
    for (unsigned i = 0; i < 4; i++)
        free(opaque(malloc(1000)));
}

static struct slm_guard *guard_of(void *object)
{
    struct slm_guard *guard = slm_guard_at(object);
    require(guard != NULL && guard->object == object && slm_guard_kind(guard) == SLM_SPAN_GUARDED);
    return guard;
}

/* Recorded, and ended. */
static void give(void *object)
{
    const struct slm_guard *guard = guard_of(object);
    const uint32_t index = load_relaxed(&guard->large.sample);
    require(index != 0 && slm_samples_at(index)->object == (uintptr_t)object);
    free(object);
    require(load_relaxed(&guard->large.sample) == 0 && slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE);
}

static void sizes_and_contents(void)
{
    sample_everything();
    for (size_t n = 40; n <= SLM_GUARD_BYTES; n = n * 3 / 2) {
        char *object = opaque(malloc(n)), *zero = opaque(calloc(1, n));
        require(malloc_usable_size(object) == n && malloc_usable_size(zero) == n);
        require((uintptr_t)object % 16 == 0);
        for (size_t i = 0; i < n; i++)
            require(zero[i] == 0);
        memset(object, 7, n);
        memset(zero, 7, n);
        give(object);
        give(zero);
    }
    void *large = opaque(malloc(SLM_GUARD_BYTES + 1));
    require(!slm_guard_at(large));
    free(large);
}

static void alignments(void)
{
    sample_everything();
    for (size_t alignment = 16; alignment <= SLM_GRANULE; alignment *= 2)
        for (size_t n = 100; n < MIB; n *= 20) {
            void *object = opaque(memalign(alignment, n));
            require((uintptr_t)object % alignment == 0 && malloc_usable_size(object) >= n);
            memset(object, 7, malloc_usable_size(object));
            give(object);
        }
}

static void resized(void)
{
    static const size_t lengths[] = {40, 41, 4000, 39, 100000, 300000, 2 * MIB, 50, 40000, 40000};
    sample_everything();
    char *object = opaque(malloc(40));
    memset(object, 7, 40);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        object = opaque(realloc(object, lengths[i]));
        require(object && malloc_usable_size(object) >= lengths[i]);
        for (size_t j = 0; j < 39; j++)
            require(object[j] == 7);
    }
    char *same = opaque(realloc(object, malloc_usable_size(object)));
    require(same == object);
    require(!realloc(object, 0));
}

/* What a cache counts is what its program has. */
static void named_caches(void)
{
    enum { MANY = 20 };
    slab_cache_stats stats;
    void *objects[MANY];
    slab_cache *cache = slab_cache_create("guarded", 72, &(slab_cache_attr){.flags = SLAB_NO_MERGE});
    slab_cache *zeroed = slab_cache_create("zeroed", 104, &(slab_cache_attr){.flags = SLAB_ZERO});
    sample_everything();
    require(slab_cache_alloc_bulk(cache, MANY, objects) == MANY);
    require(slab_cache_get_stats(cache, &stats) == 0 && stats.active_objects == MANY);
    for (unsigned i = 0; i < MANY; i++) {
        require(slm_guarded_cache(objects[i], "test", "test") != NULL && malloc_usable_size(objects[i]) == 72);
        memset(objects[i], 7, 72);
    }
    slab_cache_free(cache, objects[0]);
    slab_cache_free_bulk(cache, MANY - 1, objects + 1);
    require(slab_cache_get_stats(cache, &stats) == 0 && stats.active_objects == 0);
    char *zero = slab_cache_alloc(zeroed);
    for (unsigned i = 0; i < 104; i++)
        require(zero[i] == 0);
    give(zero);
    require(slab_cache_destroy(cache) == 0);
}

static void construct(void *object, void *context)
{
    (void)context;
    memset(object, 3, 72);
}

static void others_have_none(void)
{
    slab_cache *constructed = slab_cache_create("constructed", 72, &(slab_cache_attr){.ctor = construct});
    slab_cache *kept = slab_cache_create("kept", 72, &(slab_cache_attr){.flags = SLAB_TYPESAFE_BY_EPOCH});
    sample_everything();
    void *one = slab_cache_alloc(constructed), *other = slab_cache_alloc(kept);
    require(!slm_guard_at(one) && !slm_guard_at(other));
    slab_cache_free(constructed, one);
    slab_cache_free(kept, other);
}

/* It can be read until the section ends. */
static void retired(void)
{
    sample_everything();
    for (size_t n = 40; n < MIB; n *= 100) {
        char *object = opaque(malloc(n));
        const struct slm_guard *guard = guard_of(object);
        memset(object, 7, n);
        slab_epoch_enter();
        slab_free_deferred(object);
        require(slm_guard_kind(guard) == SLM_SPAN_GUARDED_RETIRED && object[n - 1] == 7);
        require(load_relaxed(&guard->large.sample) == 0);
        slab_epoch_leave();
        slab_epoch_barrier();
        require(slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE);
    }
}

static void without_lock(void)
{
    sample_everything();
    for (size_t n = 40; n < MIB; n *= 100) {
        void *object = opaque(malloc(n));
        const struct slm_guard *guard = guard_of(object);
        slab_free_nolock(object);
        require(slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE);
    }
}

void free_sized(void *pointer, size_t n);
void free_aligned_sized(void *pointer, size_t alignment, size_t n);
extern void _ZdlPvm(void *pointer, size_t n);
extern void *_Znwm(size_t n);

static void with_sizes(void)
{
    sample_everything();
    for (size_t n = 40; n < MIB; n *= 10) {
        free_sized(opaque(malloc(n)), n);
        free_aligned_sized(opaque(memalign(64, n)), 64, n);
        _ZdlPvm(opaque(_Znwm(n)), n);
    }
    for (unsigned i = 0; i < 100; i++) /* of a young class */
        _ZdlPvm(opaque(_Znwm(650)), 650);
}

/* There is room for it, but not for its place. */
static void below_a_limit(void)
{
    sample_everything();
    slm_charge_limit(load_relaxed(&slm_charge.bytes) + SLM_GRANULE, UINT64_MAX, UINT64_MAX);
    for (unsigned i = 0; i < 100; i++) {
        char *volatile object = malloc(40);
        require(object != NULL);
    }
}

static void in_the_child_of_a_fork(void)
{
    sample_everything();
    char *object = opaque(malloc(40));
    memset(object, 7, 40);
    const pid_t child = fork();
    if (child == 0) {
        require(object[39] == 7);
        give(object);
        give(opaque(malloc(40)));
        _exit(0);
    }
    int status;
    require(waitpid(child, &status, 0) == child && status == 0);
    give(object);
}

static void more_than_there_are(void)
{
    enum { MANY = SLM_GUARDS_LIVE + 100 };
    static void *objects[MANY];
    sample_everything();
    for (unsigned i = 0; i < MANY; i++)
        objects[i] = malloc(40);
    require(slm_guard_at(objects[0]) && !slm_guard_at(objects[MANY - 1]));
    for (unsigned i = 0; i < MANY; i++)
        free(objects[i]);
    require(load_relaxed(&slm_guards_live) == 0);
}

static void (*const runs[])(void) = {
    sizes_and_contents, alignments, resized,       named_caches,           others_have_none,    retired,
    without_lock,       with_sizes, below_a_limit, in_the_child_of_a_fork, more_than_there_are,
};

static void all_calls_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(runs); i++)
        assert_child_silent(runs[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_calls_work)};
    return cmocka_run_group_tests(tests, start_library, NULL);
}
