/* src/heap/sized.h: which sizes are an object's. */
#include "unit.h"

#include <slabmalloc.h>

#include "caches.h"
#include "heap/alloc.h"
#include "heap/resize.h"
#include "heap/sized.h"
#include "heap_check.h"
#include "slab/large.h"

static const char call[] = "test";

/* Requests on both sides of most edges that there are: of the table, of classes, of slabs of several granules, of
 * large objects and pages. */
static const size_t sizes[] = {0,     1,     15,    16,    17,    32,    33,    48,    63,     64,    65,
                               100,   128,   255,   256,   257,   288,   289,   1000,  1023,   1024,  1025,
                               1152,  1153,  4095,  4096,  4097,  8192,  9216,  10240, 10241,  20480, 32767,
                               32768, 32769, 36864, 36865, 65535, 65536, 65537, 69632, 100000, MIB};
static const size_t alignments[] = {1, 8, 16, 32, 64, 256, 1024, 4096, 32768, 65536, 131072};

/* What a request gets, for comparison: two that get the same cannot be told apart. */
struct got {
    size_t usable;
    bool large;
};

static struct got got(const void *object)
{
    return (struct got){slm_usable(object), slm_large_of(object) != NULL};
}

static struct got got_for(size_t n, size_t alignment)
{
    void *object = slm_aligned_alloc(alignment, n);
    const struct got found = got(object);
    slm_free(object);
    return found;
}

static bool is_on(const void *object, size_t alignment)
{
    return (uintptr_t)object % alignment == 0;
}

static void exactly_what_gets_the_same(void **state)
{
    (void)state;
    static struct got all[COUNT(sizes)][COUNT(alignments)];
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t a = 0; a < COUNT(alignments); a++)
            all[i][a] = got_for(sizes[i], alignments[a]);
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t a = 0; a < COUNT(alignments); a++) {
            void *object = slm_aligned_alloc(alignments[a], sizes[i]);
            const struct got real = got(object);
            assert_true(real.usable == all[i][a].usable && real.large == all[i][a].large);
            for (size_t k = 0; k < COUNT(sizes); k++)
                for (size_t b = 0; b < COUNT(alignments); b++) {
                    const bool same = real.usable == all[k][b].usable && real.large == all[k][b].large;
                    const bool on = is_on(object, alignments[b]);
                    assert_int_equal(slm_sized_exactly(object, sizes[k], alignments[b], call), same && on);
                    assert_int_equal(slm_sized_within(object, sizes[k], alignments[b], call),
                                     sizes[k] <= real.usable && on);
                }
            slm_free(object);
        }
}

/* The hot path frees only what has the right size, and whatever has, up to the end of the table. */
static void pushed_if_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t a = 0; a < COUNT(alignments); a++)
            for (size_t k = 0; k < COUNT(sizes); k++) {
                void *object = slm_aligned_alloc(alignments[a], sizes[i]);
                const bool exact = slm_sized_exactly(object, sizes[k], 1, call);
                const bool aligned = slm_sized_exactly(object, sizes[k], alignments[a], call);
                if (slm_push_sized(object, sizes[k])) {
                    assert_true(exact && sizes[k] != 0);
                    object = slm_aligned_alloc(alignments[a], sizes[i]);
                }
                if (slm_push_sized_aligned(object, sizes[k], alignments[a]))
                    assert_true(aligned && sizes[k] != 0);
                else
                    slm_free(object);
            }
    check_heap();
}

static void sizes_that_wrap_are_wrong(void **state)
{
    (void)state;
    void *small = slm_alloc(10), *large = slm_alloc(100000);
    for (size_t below = 0; below < 70000; below = below * 3 + 1)
        for (size_t a = 0; a < COUNT(alignments); a++) {
            const size_t n = SIZE_MAX - below;
            assert_false(slm_push_sized(small, n) || slm_push_sized_aligned(small, n, alignments[a]));
            assert_false(slm_sized_exactly(small, n, alignments[a], call));
            assert_false(slm_sized_exactly(large, n, alignments[a], call));
            assert_false(slm_sized_within(small, n, alignments[a], call));
            assert_false(slm_sized_within(large, n, alignments[a], call));
        }
    assert_false(slm_sized_exactly(small, (size_t)PTRDIFF_MAX + 1, (size_t)1 << 63, call));
    slm_free(small);
    slm_free(large);
}

/* What is wrong in itself is refused by free. */
static void no_object_has_no_size(void **state)
{
    (void)state;
    char stack, *large = slm_alloc(100000);
    void *const pointers[] = {NULL, &stack, (void *)8, (void *)UINTPTR_MAX, large + 16, large + SLM_GRANULE};
    for (size_t i = 0; i < COUNT(pointers); i++)
        for (size_t k = 0; k < COUNT(sizes); k++) {
            assert_true(slm_sized_exactly(pointers[i], sizes[k], 1, call));
            assert_true(slm_sized_within(pointers[i], sizes[k], 1, call));
            assert_false(slm_push_sized(pointers[i], sizes[k]));
        }
    slm_free(large);
    assert_true(slm_sized_exactly(large, 1, 1, call) && slm_sized_within(large, SIZE_MAX, 1, call));
}

static void nothing(void *object, void *context)
{
    (void)object;
    (void)context;
}

/* Their objects may be given to free, so they may be given with their size. */
static void caches_have_one_size(void **state)
{
    (void)state;
    static const size_t object_sizes[] = {8, 24, 40, 64, 1000, 5000, 12344, 40000};
    static const struct slab_cache_attr attrs[] = {
        {0}, {.flags = SLAB_NO_MERGE}, {.ctor = nothing}, {.flags = SLAB_TYPESAFE_BY_EPOCH}, {.limit_bytes = 200000}};
    for (size_t a = 0; a < COUNT(attrs); a++)
        for (size_t i = 0; i < COUNT(object_sizes); i++) {
            slab_cache *cache = slab_cache_create("sized", object_sizes[i], &attrs[a]);
            void *object = slab_cache_alloc(cache);
            for (size_t n = 0; n < 2 * object_sizes[i]; n += 1 + n / 5) {
                assert_int_equal(slm_sized_exactly(object, n, 1, call), n <= object_sizes[i]);
                assert_int_equal(slm_sized_within(object, n, 1, call), n <= object_sizes[i]);
                assert_false(slm_push_sized(object, n));
            }
            slm_free(object);
            assert_int_equal(slab_cache_destroy(cache), 0);
        }
}

extern void _ZdlPvm(void *pointer, size_t n);
extern void free_sized(void *pointer, size_t n);

static void at_a_limit(void **state)
{
    (void)state;
    enum { most = 1000 };
    static void *objects[most + 1];
    slab_cache *cache = slab_cache_create("limited", 48, &(struct slab_cache_attr){.limit_bytes = 48 * most});
    for (unsigned turn = 0; turn < 20; turn++) {
        size_t got = 0;
        while ((objects[got] = slab_cache_alloc(cache)))
            got++;
        assert_int_equal(got, most);
        while (got > 0) {
            void (*release)(void *, size_t) = turn % 2 ? _ZdlPvm : free_sized;
            release(objects[--got], 48);
        }
    }
    assert_int_equal(slab_cache_destroy(cache), 0);
}

static void out_of_the_reserve_and_of_a_node(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *object = slab_alloc_nolock(sizes[i]);
        free(malloc(1)); /* which fetches a handful */
        if (!object)
            object = slab_alloc_nolock(sizes[i]);
        assert_true(object || sizes[i] > SLM_SMALL_MAX);
        assert_true(slm_sized_exactly(object, sizes[i], 1, call));
        _ZdlPvm(object, sizes[i]);
        object = slab_alloc_node(sizes[i], 0);
        assert_true(slm_sized_exactly(object, sizes[i], 1, call));
        _ZdlPvm(object, sizes[i]);
    }
    check_heap();
}

static void *sized;
static size_t given, given_alignment;

static void refuse(void)
{
    slm_sized_refuse(sized, given, given_alignment, call);
}

static void what_is_said(void **state)
{
    (void)state;
    sized = slm_alloc(40);
    given = 100;
    given_alignment = 1;
    assert_child_aborts(
        refuse, text("slabmalloc: test(" POINTER "): size 100 given for an object of 48 bytes", pointer_of(sized)));
    given_alignment = 64;
    assert_child_aborts(refuse, text("slabmalloc: test(" POINTER
                                     "): size 100 and alignment 64 given for an object of 48 bytes",
                                     pointer_of(sized)));
    slm_free(sized);
    slab_cache *cache = slab_cache_create("apples", 40, NULL);
    sized = slab_cache_alloc(cache);
    given_alignment = 1;
    assert_child_aborts(refuse, text("slabmalloc: test(" POINTER "): size 100 given for an object of cache apples",
                                     pointer_of(sized)));
    slab_cache_free(cache, sized);
    slab_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_what_gets_the_same),
        cmocka_unit_test(pushed_if_right),
        cmocka_unit_test(sizes_that_wrap_are_wrong),
        cmocka_unit_test(no_object_has_no_size),
        cmocka_unit_test(caches_have_one_size),
        cmocka_unit_test(at_a_limit),
        cmocka_unit_test(out_of_the_reserve_and_of_a_node),
        cmocka_unit_test(what_is_said),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
