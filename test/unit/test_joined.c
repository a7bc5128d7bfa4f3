/* src/slab/joined.h: joined objects, by the bits of one slab. */
#include "joined.h"

#include "os/topology.h"
#include "page/page_map.h"
#include "slab/key.h"
#include "spans.h"

enum { ALL = SLM_GRANULE / 16 };

static void *rounds[ALL];

static struct slm_slab *make(uint32_t object_size)
{
    struct slm_slab_shape shape = {.object_size = object_size, .slot_offset = 6};
    slm_slab_shape_fill(&shape);
    struct slm_slab *slab = slm_slab_make(&shape, slm_nodes - 1, false);
    assert_non_null(slab);
    assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab)), 6);
    return slab;
}

/* Before the first joined object an object goes home as in other slabs. */
static void give_one(struct slm_slab *slab, void *object, unsigned pieces)
{
    if (slm_slab_joins(slab))
        require(slm_joined_give(slab, object, "free", "test") == pieces);
    else
        require(slm_slab_give(slab, &object, 1, "free", "test") == 1);
    slm_slab_count(slab, pieces);
}

static void give(struct slm_slab *slab, void *object, unsigned pieces)
{
    assert_int_equal(slm_joined_pieces(slab, object), pieces);
    give_one(slab, object, pieces);
}

/* Of every class, joined by every number that fits in a slab, in a slab that is all free. */
static void all_numbers_of_pieces_of_all_classes(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_slab *slab = make(slm_class_size[class]);
        for (unsigned pieces = 2; pieces <= SLM_JOINED_MOST && pieces <= slab->objects; pieces++) {
            const unsigned n = slm_joined_take(slab, pieces, 16, ALL, rounds);
            assert_int_equal(n, slab->objects / 64 * (64 / pieces) + slab->objects % 64 / pieces);
            assert_int_equal(load_relaxed(&slab->free), slab->objects - n * pieces);
            for (unsigned i = 0; i < n; i++) {
                const char *object = rounds[i];
                assert_true(slm_slab_is_object(slab, object) && !slm_slab_has(slab, object));
                assert_true(slm_key_is_set(object, slm_key_of(object)));
                for (unsigned piece = 1; piece < pieces; piece++) {
                    const char *inner = object + piece * slab->object_size;
                    require(!slm_slab_is_object(slab, inner) && !slm_slab_has(slab, inner));
                    require(slm_joined_pieces(slab, inner) == pieces);
                    require(slm_joined_pieces(slab, inner + 8) == pieces);
                }
            }
            assert_true(slm_joined_any(slab));
            slm_slab_check(slab);
            for (unsigned i = 0; i < n; i++)
                give(slab, rounds[i], pieces);
            assert_false(slm_joined_any(slab));
            slm_slab_recount_vacant(slab);
        }
        slm_slab_release(slab);
    }
}

static void runs_are_found_between_live_objects(void **state)
{
    (void)state;
    struct slm_slab *slab = make(512);
    assert_int_equal(slm_slab_take(slab, ALL, rounds), 128);
    /* free: 0, 2-3, 10-14, 62-66, 126-127 */
    static const unsigned freed[] = {0, 2, 3, 10, 11, 12, 13, 14, 62, 63, 64, 65, 66, 126, 127};
    for (unsigned i = 0; i < COUNT(freed); i++)
        give(slab, slm_slab_start(slab) + freed[i] * 512, 1);
    static const unsigned threes[] = {10, 64}, twos[] = {2, 13, 62, 126};
    assert_int_equal(slm_joined_take(slab, 6, 16, ALL, rounds), 0);
    assert_int_equal(slm_joined_take(slab, 3, 16, ALL, rounds), 2);
    for (unsigned i = 0; i < 2; i++)
        assert_ptr_equal(rounds[i], slm_slab_start(slab) + threes[i] * 512);
    assert_int_equal(slm_joined_take(slab, 2, 16, 1, rounds + 2), 1);
    assert_int_equal(slm_joined_take(slab, 2, 16, ALL, rounds + 3), 3);
    for (unsigned i = 0; i < 4; i++)
        assert_ptr_equal(rounds[i + 2], slm_slab_start(slab) + twos[i] * 512);
    assert_int_equal(load_relaxed(&slab->free), 1);
    for (unsigned i = 0; i < 6; i++)
        give(slab, rounds[i], i < 2 ? 3 : 2);
    for (unsigned i = 0; i < 128; i++)
        if (!slm_slab_has(slab, slm_slab_start(slab) + i * 512))
            give(slab, slm_slab_start(slab) + i * 512, 1);
    slm_slab_recount_vacant(slab);
    slm_slab_release(slab);
}

static void they_are_aligned(void **state)
{
    (void)state;
    for (size_t alignment = 16; alignment <= 8192; alignment *= 2)
        for (uint32_t size = 16; size <= 4096; size = size * 2 + (size % 3 == 0 ? 16 : 0)) {
            struct slm_slab *slab = make(size);
            const unsigned n = slm_joined_take(slab, 3, alignment, ALL, rounds);
            assert_true(n > 0 || alignment > 64 * (size & -size));
            for (unsigned i = 0; i < n; i++) {
                assert_int_equal((uintptr_t)rounds[i] % alignment, 0);
                give(slab, rounds[i], 3);
            }
            slm_slab_release(slab);
        }
}

/* The class is the largest whose size they have together. */
static void their_class_is_what_fits(void **state)
{
    (void)state;
    struct slm_slab slab = {.object_size = 0};
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        for (unsigned pieces = 2; pieces <= SLM_JOINED_MOST; pieces++) {
            slab.object_size = slm_class_size[class];
            const size_t bytes = pieces * slab.object_size;
            const unsigned joined = slm_joined_class(&slab, pieces);
            assert_true(slm_class_size[joined] <= bytes && slm_joined_size(&slab, pieces) == slm_class_size[joined]);
            assert_true(joined == SLM_CLASSES - 1 || slm_class_size[joined + 1] > bytes);
        }
}

/* From before the first is handed out; and no second time without a need. */
static void the_slab_is_hidden(void **state)
{
    (void)state;
    struct slm_slab *slab = make(8192);
    assert_int_equal(slm_joined_take(slab, 9, 16, 1, rounds), 0);
    assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab)), 6);
    assert_null(slm_slab_joins(slab));
    assert_int_equal(slm_joined_take(slab, 2, 16, 1, rounds), 1);
    assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab)), SLM_MAP_HIDDEN);
    give(slab, rounds[0], 2);
    slm_slab_release(slab);
}

/* So that a second free of one of them is seen when hot paths free the slab's objects again. */
static void pieces_get_keys(void **state)
{
    (void)state;
    struct slm_slab *slab = make(64);
    assert_int_equal(slm_joined_take(slab, 5, 16, 1, rounds), 1);
    memset(rounds[0], 0x77, 5 * 64);
    give(slab, rounds[0], 5);
    for (unsigned i = 1; i < 5; i++)
        assert_true(slm_key_is_set((char *)rounds[0] + i * 64, slm_key_of(rounds[0])));
    slm_slab_release(slab);
}

static struct slm_slab *shared;
static _Atomic bool stop;

/* Each gives what it gets; the pieces of neighbours share words. */
static void *give_back(void *queue)
{
    void *_Atomic *place = queue;
    while (!atomic_load(&stop)) {
        char *object = atomic_exchange(place, NULL);
        if (!object)
            continue;
        const unsigned pieces = slm_joined_pieces(shared, object);
        for (size_t at = 0; at < pieces * 48; at++)
            require(object[at] == (char)pieces);
        give_one(shared, object, pieces);
    }
    return NULL;
}

static void threads_give_while_one_takes(void **state)
{
    (void)state;
    static void *_Atomic places[3];
    pthread_t threads[COUNT(places)];
    shared = make(48);
    for (size_t i = 0; i < COUNT(places); i++)
        require(pthread_create(&threads[i], NULL, give_back, (void *)&places[i]) == 0);
    for (unsigned turn = 0; turn < 20000; turn++) {
        void *object = NULL, *none = NULL;
        const unsigned pieces = 1 + turn % 7;
        const unsigned got =
            pieces > 1 ? slm_joined_take(shared, pieces, 16, 1, &object) : slm_slab_take(shared, 1, &object);
        require(got == 1);
        memset(object, (int)pieces, pieces * 48);
        for (size_t i = turn; !atomic_compare_exchange_weak(&places[i % COUNT(places)], &none, object); i++)
            none = NULL;
    }
    for (size_t i = 0; i < COUNT(places); i++)
        while (atomic_load(&places[i]))
            continue;
    atomic_store(&stop, true);
    for (size_t i = 0; i < COUNT(places); i++)
        pthread_join(threads[i], NULL);
    slm_slab_recount_vacant(shared);
    assert_false(slm_joined_any(shared));
    slm_slab_release(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_numbers_of_pieces_of_all_classes),
        cmocka_unit_test(runs_are_found_between_live_objects),
        cmocka_unit_test(they_are_aligned),
        cmocka_unit_test(their_class_is_what_fits),
        cmocka_unit_test(the_slab_is_hidden),
        cmocka_unit_test(pieces_get_keys),
        cmocka_unit_test(threads_give_while_one_takes),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
