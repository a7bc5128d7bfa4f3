/* src/slab/slab.h: spans cut into objects, and the bits that say which are free. The slabs here have shapes of their
 * own (place 0) or those of the size classes; nobody else knows them. */
#include "unit.h"

#include "base/bits.h"
#include "os/topology.h"
#include "spans.h"
#include "page/page_map.h"
#include "slab/key.h"
#include "slab/slab.h"

enum { MOST_OBJECTS = 65536 / 8 };

static void *rounds[MOST_OBJECTS];

static struct slm_slab_shape shape_of(uint32_t object_size, unsigned slot_offset)
{
    struct slm_slab_shape shape = {.object_size = object_size, .slot_offset = slot_offset};
    slm_slab_shape_fill(&shape);
    return shape;
}

static struct slm_slab *make(uint32_t object_size)
{
    const struct slm_slab_shape shape = shape_of(object_size, 0);
    struct slm_slab *slab = slm_slab_make(&shape, slm_nodes - 1, false);
    assert_non_null(slab);
    return slab;
}

/* Give a run of rounds back, however many calls that takes. */
static void give_all(struct slm_slab *slab, unsigned n)
{
    for (unsigned given = 0; given < n;) {
        const unsigned now = slm_slab_give(slab, rounds + given, n - given, "free", "test");
        assert_int_not_equal(now, 0);
        slm_slab_count(slab, now);
        given += now;
    }
}

/* So that objects are known by their offsets in a granule. */
static void a_slab_of_small_objects_is_a_granule(void **state)
{
    (void)state;
    for (uint32_t size = 8; size <= SLM_SMALL_MAX; size += 8) {
        const struct slm_slab_shape shape = shape_of(size, 0);
        assert_int_equal(shape.granules, 1);
        assert_int_equal(shape.objects, SLM_GRANULE / size);
        assert_true(shape.objects >= 2);
    }
}

static bool is_enough(size_t bytes, uint32_t size)
{
    return bytes / size >= 8 || (bytes >= size && bytes % size <= bytes / 8);
}

/* Or little is lost; and no granule more than that takes. */
static void eight_larger_objects_fit_at_least(void **state)
{
    (void)state;
    for (uint32_t size = SLM_SMALL_MAX + 8; size <= MIB; size += size < 100000 ? 8 : 4056) {
        const struct slm_slab_shape shape = shape_of(size, 0);
        assert_int_equal(shape.objects, shape.granules * SLM_GRANULE / size);
        assert_true(is_enough(shape.granules * SLM_GRANULE, size));
        for (unsigned granules = 1; granules < shape.granules; granules++)
            assert_false(is_enough(granules * SLM_GRANULE, size));
    }
}

/* Is there a rest behind the last object that has a key? Not where it would be alone in its page. */
static bool is_guarded(uint32_t size)
{
    const size_t left = SLM_GRANULE % size;
    return left > 0 && (SLM_GRANULE - left) % 4096 != 0;
}

/* Room for a key behind the first word, and nobody who expects the object as it was freed. */
static void objects_are_keyed_unless_they_are_small_or_have_hooks(void **state)
{
    (void)state;
    struct slm_object_hooks hooks = {.typesafe = true};
    for (uint32_t size = 8; size <= (1 << 20); size += size < SLM_SMALL_MAX ? 8 : 100000 / 8 * 8) {
        struct slm_slab_shape shape = {.object_size = size, .slot_offset = 7, .hooks = &hooks};
        slm_slab_shape_fill(&shape);
        assert_true(!shape.keyed && !shape.mapped);
        shape.hooks = NULL;
        slm_slab_shape_fill(&shape);
        assert_true(shape.keyed == (size >= 16));
        assert_true(!shape.mapped || (slm_slab_map_offset(&shape) == 7 && shape.keyed));
    }
}

/* Where the page map has the cache, an object is known by its offset in its granule: in the slab, each pointer to an
 * object's start and no other, except the rest behind the last object. Of named caches' that has a key then (a test
 * below); malloc's classes are all in the map. */
static void hot_paths_know_objects_by_their_offsets(void **state)
{
    (void)state;
    const unsigned named = slm_slot_offset_of(SLM_NAMED_FIRST);
    unsigned known = 0;
    for (uint32_t size = 16; size <= SLM_SMALL_MAX; size += 8) {
        const struct slm_slab_shape shape = shape_of(size, named);
        const uint64_t factor = slm_start_factor(size);
        known += shape.mapped;
        assert_true(shape.mapped == (is_guarded(size) || SLM_GRANULE % size == 0));
        for (size_t at = 0; at < (size_t)shape.objects * size; at += 8)
            require((factor * (uint16_t)at < factor) == (at % size == 0));
    }
    assert_true(known > 4000);
    assert_false(shape_of(SLM_SMALL_MAX + 8, named).mapped);
    for (unsigned class = 1; class < SLM_CLASSES; class ++)
        assert_true(shape_of(slm_class_size[class], slm_slot_offset_of(class)).mapped);
}

/* What malloc pops: up to SLM_TABLE_MAX bytes no pointer to a rest can be among it; above, slm_alloc_medium sees that
 * no request of the class fits in the rest. */
static void malloc_can_tell_its_classes_rests(void **state)
{
    (void)state;
    unsigned without = 0;
    for (unsigned class = 1; class < SLM_CLASSES; class ++) {
        const uint32_t size = slm_class_size[class], left = SLM_GRANULE % size;
        if (left == 0 || is_guarded(size))
            continue;
        assert_true(size > SLM_TABLE_MAX && left <= slm_class_size[class - 1]);
        without++;
    }
    assert_true(without > 0);
}

static void free_objects_are_told_from_others(void **state)
{
    (void)state;
    struct slm_slab *slab = make(48);
    const unsigned n = slm_slab_take(slab, 200, rounds);
    for (unsigned i = 0; i < n; i++)
        assert_false(slm_slab_has(slab, rounds[i]));
    for (unsigned i = n; i < slab->objects; i++)
        assert_true(slm_slab_has(slab, slm_slab_start(slab) + (size_t)i * 48));
    assert_int_equal(slm_slab_give(slab, rounds + 100, 1, "free", "test"), 1);
    slm_slab_count(slab, 1);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(slm_slab_has(slab, rounds[i]), i == 100);
    give_all(slab, 100);
    for (unsigned i = 101; i < n; i++)
        rounds[i - 101] = rounds[i];
    give_all(slab, n - 101);
    slm_slab_release(slab);
}

/* Take everything in two portions: all objects once, rising, inside, and found by address. */
static void take_whole_slab(struct slm_slab *slab)
{
    const unsigned objects = slab->objects, some = objects / 3;
    assert_int_equal(slm_slab_take(slab, some, rounds), some);
    slm_slab_check(slab);
    assert_int_equal(slm_slab_take(slab, objects, rounds + some), objects - some);
    slm_slab_check(slab);
    assert_int_equal(slm_slab_take(slab, 1, rounds), 0);
    for (unsigned i = 0; i < objects; i++) {
        assert_ptr_equal(rounds[i], slm_slab_start(slab) + (size_t)i * slab->object_size);
        assert_int_equal(slm_slab_index(slab, rounds[i]), i);
        assert_int_equal(slm_slab_index(slab, (char *)rounds[i] + slab->object_size - 1), i);
        assert_true(slm_slab_is_object(slab, rounds[i]));
        assert_false(slm_slab_is_object(slab, (char *)rounds[i] + 1));
        assert_false(slm_slab_is_object(slab, (char *)rounds[i] + slab->object_size / 2));
        assert_ptr_equal(slm_slab_of((char *)rounds[i] + slab->object_size - 1), slab);
    }
    assert_true((char *)rounds[objects - 1] + slab->object_size <=
                slm_slab_start(slab) + slm_span_bytes(&slab->span));
}

static void shuffle(unsigned n, uint64_t seed)
{
    for (unsigned i = n; i > 1; i--) {
        const size_t other = random_below(&seed, i);
        void *round = rounds[i - 1];
        rounds[i - 1] = rounds[other];
        rounds[other] = round;
    }
}

static void try_shape(uint32_t object_size, unsigned slot_offset)
{
    const struct slm_slab_shape shape = shape_of(object_size, slot_offset);
    struct slm_slab *slab = slm_slab_make(&shape, slm_nodes - 1, false);
    assert_non_null(slab);
    assert_int_equal(slab->objects, shape.objects);
    assert_int_equal(slab->span.granules, shape.granules);
    slm_slab_check(slab);
    take_whole_slab(slab);
    for (uint32_t i = 0; i < shape.granules; i++)
        assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab) + i * SLM_GRANULE),
                         slm_slab_map_offset(&shape));
    shuffle(shape.objects, object_size);
    give_all(slab, shape.objects);
    slm_slab_check(slab);
    assert_int_equal(load_relaxed(&slab->free), shape.objects);
    char *start = slm_slab_start(slab);
    slm_slab_release(slab);
    assert_null(slm_slab_of(start));
    assert_int_equal(slm_page_map_slot_offset(start), 0);
}

static void every_class_is_cut_and_mended(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        try_shape(slm_class_size[class], slm_slot_offset_of(class));
}

static void every_shape_is_cut_and_mended(void **state)
{
    (void)state;
    for (uint32_t size = 8; size <= SLM_SMALL_MAX; size += size < 1024 ? 8 : 1016)
        try_shape(size, 0);
    slm_span_check(slm_nodes - 1);
}

static bool has_key(const void *object)
{
    return slm_key_is_set(object, slm_key_of(object));
}

/* The rest begins at a multiple of the object size, as objects do. */
static void what_is_taken_gets_keys_and_what_lies_behind(void **state)
{
    (void)state;
    unsigned with_key = 0, without = 0;
    for (uint32_t size = 16; size <= SLM_SMALL_MAX; size += 8) {
        struct slm_slab *slab = make(size);
        const unsigned objects = slab->objects;
        char *const start = slm_slab_start(slab);
        const size_t left = SLM_GRANULE % size;
        memset(start, 0, SLM_GRANULE); /* what was here before */
        assert_true(left == 0 || left >= sizeof(struct slm_freed_object));
        slm_slab_take(slab, objects / 2, rounds);
        slm_slab_set_keys(slab, rounds, objects / 2);
        for (unsigned i = 0; i < objects; i++) /* others would touch pages for nothing */
            require(has_key(start + (size_t)i * size) == (i <= objects / 2 && i * size < 4096));
        slm_slab_take(slab, objects, rounds + objects / 2);
        assert_false(left > 0 && has_key(start + (size_t)objects * size));
        slm_slab_set_keys(slab, rounds + objects / 2, objects - objects / 2);
        assert_true(left == 0 || has_key(start + (size_t)objects * size) == is_guarded(size));
        with_key += is_guarded(size);
        without += left > 0 && !is_guarded(size);
        give_all(slab, objects);
        slm_slab_release(slab);
    }
    assert_true(with_key > 4000 && without > 0 && without < 30);
}

static void a_live_object_behind_gets_no_key(void **state)
{
    (void)state;
    struct slm_slab *slab = make(48);
    slm_slab_take(slab, 3, rounds);
    slm_key_clear(rounds[2]);
    assert_int_equal(slm_slab_give(slab, rounds, 2, "free", "test"), 2);
    slm_slab_count(slab, 2);
    slm_slab_take(slab, 2, rounds);
    slm_slab_set_keys(slab, rounds, 2);
    assert_true(has_key(rounds[0]) && has_key(rounds[1]) && !has_key(rounds[2]));
    give_all(slab, 3);
    slm_slab_release(slab);
}

static void the_lowest_addresses_go_first(void **state)
{
    (void)state;
    struct slm_slab *slab = make(48);
    slm_slab_take(slab, slab->objects, rounds);
    void *low = rounds[3], *middle = rounds[70], *high = rounds[1000], *back[] = {high, low, middle};
    assert_int_equal(slm_slab_give(slab, back, 3, "free", "test"), 3);
    slm_slab_count(slab, 3);
    void *again[3] = {NULL, NULL, NULL};
    assert_int_equal(slm_slab_take(slab, 2, again), 2);
    assert_ptr_equal(again[0], low);
    assert_ptr_equal(again[1], middle);
    assert_int_equal(slm_slab_take(slab, 2, again), 1);
    assert_ptr_equal(again[0], high);
    give_all(slab, slab->objects);
    slm_slab_release(slab);
}

static void giving_stops_at_the_slab_s_end(void **state)
{
    (void)state;
    struct slm_slab *first = make(1024), *second = make(1024);
    void *mixed[4];
    assert_int_equal(slm_slab_take(first, 2, mixed), 2);
    assert_int_equal(slm_slab_take(second, 2, mixed + 2), 2);
    assert_int_equal(slm_slab_give(first, mixed, 4, "free", "test"), 2);
    assert_int_equal(slm_slab_count(first, 2), first->objects - 2);
    assert_int_equal(slm_slab_give(second, mixed + 2, 2, "free", "test"), 2);
    assert_int_equal(slm_slab_count(second, 2), second->objects - 2);
    slm_slab_release(first);
    slm_slab_release(second);
}

static struct slm_slab *culprit;
static void *misused[3];
static unsigned misused_count;

static void misuse(void)
{
    slm_slab_give(culprit, misused, misused_count, "realloc", NULL);
}

static void assert_misuse(void *pointer, const char *what)
{
    assert_child_aborts(misuse, text("slabmalloc: realloc(" POINTER "): %s of %u bytes", pointer_of(pointer), what,
                                     culprit->object_size));
}

static void a_double_free_ends_the_process(void **state)
{
    (void)state;
    culprit = make(64);
    slm_slab_take(culprit, 3, misused);
    misused_count = 1;
    slm_slab_give(culprit, misused, 1, "free", "test");
    slm_slab_count(culprit, 1);
    assert_misuse(misused[0], "double free of an object");
    misused[2] = misused[1]; /* both in one go */
    misused[0] = misused[1];
    misused_count = 3;
    assert_misuse(misused[1], "double free of an object");
    misused[0] = slm_slab_start(culprit) + 64 * 500; /* never handed out */
    assert_misuse(misused[0], "double free of an object");
}

static void pointers_between_objects_end_the_process(void **state)
{
    (void)state;
    culprit = make(28672); /* two objects, and a rest behind them */
    slm_slab_take(culprit, 2, misused);
    char *const start = misused[0];
    char *const wrong[] = {start + 1,     start + 8,         start + 16,
                           start + 28671, start + 2 * 28672, start + SLM_GRANULE - 1};
    misused_count = 2;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        misused[1] = wrong[i];
        assert_misuse(wrong[i], "not the start of an object");
    }
}

static struct slm_slab *released;

static void look_at_released(void)
{
    slm_fork_generation = 1; /* as if this were no child of fork */
    slm_slab_recount_vacant(released);
}

/* Its count says that it is vacant, and a bit is missing: somebody has written there. Or the other way round. */
static void a_vacant_slab_has_all_its_bits(void **state)
{
    (void)state;
    released = make(1024);
    const char *said = text("slabmalloc: check(" POINTER "): a vacant slab's count differs from its bits",
                            pointer_of(slm_slab_start(released)));
    slm_slab_recount_vacant(released);
    store_relaxed(&released->bits[0], ~(uint64_t)8);
    struct outcome outcome = in_child(look_at_released);
    assert_int_equal(outcome.signal, SIGABRT);
    assert_memory_equal(outcome.said, said, strlen(said));
    store_relaxed(&released->bits[0], ~(uint64_t)0);
    sub_relaxed(&released->free, 1);
    outcome = in_child(look_at_released);
    assert_int_equal(outcome.signal, SIGABRT);
    add_relaxed(&released->free, 1);
    assert_true(slm_slab_recount_vacant(released));
    slm_slab_release(released);
}

/* There a thread of the parent may have taken an object while pages were copied. */
static void in_a_child_bits_say_what_is_free(void **state)
{
    (void)state;
    struct slm_slab *slab = make(1024);
    store_relaxed(&slab->bits[0], ~(uint64_t)8);
    slm_fork_generation++;
    assert_false(slm_slab_recount_vacant(slab));
    assert_int_equal(load_relaxed(&slab->free), slab->objects - 1);
    void *object = slm_slab_start(slab) + (size_t)3 * 1024;
    assert_int_equal(slm_slab_give(slab, &object, 1, "free", "test"), 1);
    assert_int_equal(slm_slab_count(slab, 1), slab->objects - 1);
    assert_true(slm_slab_recount_vacant(slab));
    slm_fork_generation--;
    slm_slab_release(slab);
}

static struct slm_slab *shared;
static _Atomic unsigned whole; /* how often the count came to all objects */

/* Objects come back from several threads at once; one of them sees the last come in. */
static void *give_share(void *number)
{
    const unsigned share = shared->objects / 4, first = (unsigned)(uintptr_t)number * share;
    for (unsigned i = first; i < first + share; i++) {
        require(slm_slab_give(shared, rounds + i, 1, "free", "test") == 1);
        if (slm_slab_count(shared, 1) + 1 == shared->objects)
            add_relaxed(&whole, 1);
    }
    return NULL;
}

static void threads_give_without_a_lock(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 20; turn++) {
        shared = make(16);
        assert_int_equal(slm_slab_take(shared, shared->objects, rounds), shared->objects);
        shuffle(shared->objects, turn);
        store_relaxed(&whole, 0);
        on_threads(4, give_share);
        assert_int_equal(load_relaxed(&whole), 1);
        slm_slab_check(shared);
        slm_slab_release(shared);
    }
}

static void only_slabs_are_slabs(void **state)
{
    (void)state;
    char stack;
    char *large = malloc(100000);
    assert_null(slm_slab_of(large));
    assert_null(slm_slab_of(&stack));
    assert_null(slm_slab_of(NULL));
    free(large);
}

static void make_without_memory(void)
{
    const struct slm_slab_shape shape = shape_of(16, 0); /* its bits do not fit inside */
    unsigned made = 0;
    forbid_memory();
    errno = 0;
    while (slm_slab_make(&shape, 0, false) && made < 100000)
        made++;
    require(made < 100000 && errno == ENOMEM);
    slm_span_check(0);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(make_without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slab_of_small_objects_is_a_granule),
        cmocka_unit_test(eight_larger_objects_fit_at_least),
        cmocka_unit_test(objects_are_keyed_unless_they_are_small_or_have_hooks),
        cmocka_unit_test(hot_paths_know_objects_by_their_offsets),
        cmocka_unit_test(malloc_can_tell_its_classes_rests),
        cmocka_unit_test(free_objects_are_told_from_others),
        cmocka_unit_test(every_class_is_cut_and_mended),
        cmocka_unit_test(every_shape_is_cut_and_mended),
        cmocka_unit_test(what_is_taken_gets_keys_and_what_lies_behind),
        cmocka_unit_test(a_live_object_behind_gets_no_key),
        cmocka_unit_test(the_lowest_addresses_go_first),
        cmocka_unit_test(giving_stops_at_the_slab_s_end),
        cmocka_unit_test(a_double_free_ends_the_process),
        cmocka_unit_test(pointers_between_objects_end_the_process),
        cmocka_unit_test(a_vacant_slab_has_all_its_bits),
        cmocka_unit_test(in_a_child_bits_say_what_is_free),
        cmocka_unit_test(threads_give_without_a_lock),
        cmocka_unit_test(only_slabs_are_slabs),
        cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
