/* src/slab/large.h: objects with a span of their own. */
#include "large.h"

#include "base/bits.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "page/purge.h"

static void all_sizes_are_usable_to_their_page_s_end(void **state)
{
    (void)state;
    for (size_t n = 1; n < 40 * MIB; n = n * 5 / 3 + 1) {
        char *object = take(n, 1);
        const struct slm_large *large = slm_large_of(object);
        assert_non_null(large);
        assert_int_equal(large->usable, slm_align_up(n, slm_page_size));
        memset(object, 1, large->usable);
        give(object);
    }
}

static void alignments_are_kept(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= 256 * MIB; alignment *= 2) {
        char *object = take(70000, alignment);
        object[0] = object[69999] = 1;
        give(object);
    }
    slm_span_check(node);
}

static void what_is_clean_reads_as_zero(void **state)
{
    (void)state;
    bool clean = false;
    for (unsigned turn = 0; turn < 50; turn++) {
        char *object = slm_large_alloc(MIB + turn * 4096, 1, node, &clean);
        assert_non_null(object);
        if (clean)
            assert_true(all_zero(object, MIB + turn * 4096));
        memset(object, 0x5a, MIB);
        give(object);
        if (turn % 8 == 0)
            slm_span_purge(0, SLM_PURGE_TRIM);
    }
    slm_span_purge(0, SLM_PURGE_TRIM);
    char *object = slm_large_alloc(MIB, 1, node, &clean);
    assert_true(clean);
    give(object);
}

static void only_the_first_byte_is_the_object(void **state)
{
    (void)state;
    char stack, *small = malloc(64), *object = take(300000, 1);
    assert_null(slm_large_of(object + 1));
    assert_null(slm_large_of(object + 16));
    assert_null(slm_large_of(object + SLM_GRANULE));
    assert_null(slm_large_of(small));
    assert_null(slm_large_of((void *)((uintptr_t)small & ~(SLM_GRANULE - 1))));
    assert_null(slm_large_of(&stack));
    assert_null(slm_large_of(NULL));
    assert_null(slm_large_of((void *)UINTPTR_MAX));
    give(object);
    assert_null(slm_large_of(object));
    free(small);
}

static void freeing_twice_gives_nothing(void **state)
{
    (void)state;
    char *object = take(100000, 1);
    struct slm_large *large = slm_large_of(object);
    assert_int_equal(slm_large_free(large), slm_align_up(100000, slm_page_size));
    assert_int_equal(slm_large_free(large), 0);
    slm_span_check(node);
}

static struct slm_large *contested;
static _Atomic size_t given_back;

static void *free_contested(void *nothing)
{
    add_relaxed(&given_back, slm_large_free(contested));
    return nothing;
}

static void one_of_two_threads_frees_it(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 200; turn++) {
        contested = slm_large_of(take(100000, 1));
        const size_t usable = contested->usable;
        store_relaxed(&given_back, 0);
        on_threads(2, free_contested);
        assert_int_equal(load_relaxed(&given_back), usable);
    }
    slm_span_check(node);
}

static void figures_follow(void **state)
{
    (void)state;
    const uint64_t live = large_live_bytes();
    char *first = take(100000, 1), *second = take(MIB, 1);
    assert_int_equal(large_live_bytes() - live, slm_align_up(100000, slm_page_size) + MIB);
    assert_ptr_equal(slm_large_resize(slm_large_of(first), 50000), first);
    assert_int_equal(large_live_bytes() - live, slm_align_up(50000, slm_page_size) + MIB);
    give(first);
    give(second);
    assert_int_equal(large_live_bytes(), live);
}

static void shrinking_stays_in_place(void **state)
{
    (void)state;
    size_t n = 20 * MIB;
    char *object = take(n, 1);
    fill(object, 0, n);
    while (n > 40000) {
        n = n * 3 / 4;
        assert_ptr_equal(slm_large_resize(slm_large_of(object), n), object);
        assert_int_equal(slm_large_of(object)->usable, slm_align_up(n, slm_page_size));
        assert_int_equal(slm_large_of(object)->span.granules, (n + SLM_GRANULE - 1) / SLM_GRANULE);
        check(object, 0, n);
        slm_span_check(node);
    }
    give(object);
}

static char *take_with_room_behind(size_t n, size_t room)
{
    char *object = take(n + room, SLM_GRANULE);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n), object);
    return object;
}

static void growing_takes_what_is_free_behind(void **state)
{
    (void)state;
    char *object = take_with_room_behind(MIB, 4 * MIB);
    fill(object, 0, MIB);
    for (size_t n = MIB; n <= 5 * MIB; n += MIB / 2 + 5000) {
        assert_ptr_equal(slm_large_resize(slm_large_of(object), n), object);
        check(object, 0, MIB);
        memset(object + MIB, 1, n - MIB);
    }
    give(object);
    slm_span_check(node);
}

/* The next one lives directly behind it: what is cut off is the only dirty memory, and that is used first. */
static char *take_with_neighbour(size_t n, char **neighbour)
{
    char *object = take(n + 64 * KIB, SLM_GRANULE);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n), object);
    *neighbour = take(64 * KIB, 1);
    assert_ptr_equal(*neighbour, object + n);
    fill(*neighbour, 0, 64 * KIB);
    return object;
}

static void large_ones_move_without_a_copy(void **state)
{
    (void)state;
    char *neighbour = NULL, *object = take_with_neighbour(8 * MIB, &neighbour);
    fill(object, 0, 8 * MIB);
    const uint64_t live = large_live_bytes();
    char *moved = slm_large_resize(slm_large_of(object), 9 * MIB);
    assert_non_null(moved);
    assert_ptr_not_equal(moved, object);
    check(moved, 0, 8 * MIB);
    check(neighbour, 0, 64 * KIB);
    memset(moved + 8 * MIB, 1, MIB);
    assert_null(slm_large_of(object));
    assert_int_equal(large_live_bytes(), live + MIB);
    assert_true(all_zero(object, 8 * MIB)); /* fresh memory lies there now */
    give(moved);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_true(all_zero(moved, 9 * MIB));
    slm_span_check(node);
    give(neighbour);
}

static void moved_objects_are_moved_again(void **state)
{
    (void)state;
    char *blocks[12], *object = take(MIB, 1);
    fill(object, 0, MIB);
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = take(64 * KIB, 1);
        char *moved = slm_large_resize(slm_large_of(object), (i + 2) * MIB);
        require(moved != NULL);
        object = moved;
        check(object, 0, MIB);
        slm_span_check(node);
    }
    check(object, 0, MIB);
    give(object);
    for (size_t i = 0; i < COUNT(blocks); i++)
        give(blocks[i]);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_check(node);
}

static unsigned count_mappings(void)
{
    unsigned count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    assert_non_null(file);
    for (int c; (c = getc(file)) != EOF;)
        count += c == '\n';
    fclose(file);
    return count;
}

/* The kernel allows 65,530. */
static void mappings_stay_few(void **state)
{
    (void)state;
    static char *objects[200], *neighbours[COUNT(objects)];
    for (size_t i = 0; i < COUNT(objects); i++) {
        objects[i] = take(MIB, 1);
        neighbours[i] = take(64 * KIB, 1);
    }
    for (size_t n = 2 * MIB; n < 8 * MIB; n += MIB)
        for (size_t i = 0; i < COUNT(objects); i++) {
            char *moved = slm_large_resize(slm_large_of(objects[i]), n);
            if (moved)
                memset((objects[i] = moved) + n - MIB, 1, 1);
        }
    const unsigned mappings = count_mappings();
    for (size_t i = 0; i < COUNT(objects); i++) {
        give(objects[i]);
        give(neighbours[i]);
    }
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_true(count_mappings() < 100);
    assert_true(mappings < 1000);
}

static void what_cannot_be_is_enomem(void **state)
{
    (void)state;
    static const size_t wishes[][2] = {{PTRDIFF_MAX, 1},   {(size_t)PTRDIFF_MAX + 1, 1}, {SIZE_MAX, 1},
                                       {1ul << 45, 1},     {100000, (size_t)1 << 63},    {SIZE_MAX, (size_t)1 << 63},
                                       {100000, 1ul << 44}};
    bool clean;
    char *object = take(100000, 1);
    fill(object, 0, 100000);
    for (size_t i = 0; i < COUNT(wishes); i++) {
        errno = 0;
        assert_null(slm_large_alloc(wishes[i][0], wishes[i][1], node, &clean));
        assert_int_equal(errno, ENOMEM);
    }
    assert_null(slm_large_resize(slm_large_of(object), PTRDIFF_MAX));
    check(object, 0, 100000);
    give(object);
    slm_span_check(node);
}

/* The span waits: it is nobody's, and its memory is not given out meanwhile. */
static void without_a_lock_it_waits_to_be_given_back(void **state)
{
    (void)state;
    const uint64_t live = large_live_bytes(), free_before = slm_span_dirty_bytes();
    char *objects[3];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = take(3 * MIB, 1);
    const uint64_t free_between = slm_span_dirty_bytes();
    assert_null(load_relaxed(&slm_large_pending));
    for (size_t i = 0; i < COUNT(objects); i++) {
        struct slm_large *large = slm_large_of(objects[i]);
        memset(objects[i], (int)i + 1, 100);
        assert_true(slm_large_free_nolock(large));
        assert_null(slm_large_of(objects[i]));
        assert_false(slm_large_free_nolock(large)); /* a double free */
        assert_int_equal(slm_large_free(large), 0);
        assert_int_equal(objects[i][99], i + 1); /* not a byte is written */
    }
    assert_non_null(load_relaxed(&slm_large_pending));
    assert_int_equal(large_live_bytes(), live);
    assert_int_equal(slm_span_dirty_bytes(), free_between);
    char *other = take(3 * MIB, 1);
    for (size_t i = 0; i < COUNT(objects); i++)
        assert_ptr_not_equal(other, objects[i]);
    give(other);
    slm_large_free_pending();
    assert_null(load_relaxed(&slm_large_pending));
    assert_true(slm_span_dirty_bytes() >= free_between + COUNT(objects) * 3 * MIB);
    assert_true(slm_span_dirty_bytes() >= free_before);
    slm_span_check(node);
}

static _Atomic unsigned freed_without_lock;
static struct slm_large *many[64];

static void *free_without_lock(void *number)
{
    for (size_t i = 0; i < COUNT(many); i++) {
        if (slm_large_free_nolock(many[i]))
            add_relaxed(&freed_without_lock, 1);
        if (i % 8 == (uintptr_t)number)
            slm_large_free_pending();
    }
    return NULL;
}

static void one_of_many_frees_it_without_a_lock(void **state)
{
    (void)state;
    const uint64_t live = large_live_bytes();
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = slm_large_of(take(100 * KIB, 1));
    on_threads(4, free_without_lock);
    slm_large_free_pending();
    assert_int_equal(load_relaxed(&freed_without_lock), COUNT(many));
    assert_int_equal(large_live_bytes(), live);
    slm_span_check(node);
}

/* It goes on being what it was, but nobody can free it again. */
static void a_retired_one_lives_on(void **state)
{
    (void)state;
    const uint64_t live = large_live_bytes();
    char *object = take(3 * MIB, 1);
    fill(object, 0, 3 * MIB);
    struct slm_large *large = slm_large_of(object);
    assert_false(slm_large_is_retired(large));
    assert_true(slm_large_retire(large));
    assert_true(slm_large_is_retired(large));
    assert_ptr_equal(slm_large_of(object), large);
    assert_int_equal(large_live_bytes(), live + 3 * MIB);
    assert_false(slm_large_retire(large));
    assert_int_equal(slm_large_free(large), 0);
    assert_false(slm_large_free_nolock(large));
    char *other = take(3 * MIB, 1);
    assert_ptr_not_equal(other, object);
    give(other);
    check(object, 0, 3 * MIB); /* not a byte was written */
    const uint64_t dirty = slm_span_dirty_bytes();
    slm_large_release(large);
    assert_null(slm_large_of(object));
    assert_int_equal(large_live_bytes(), live);
    assert_true(slm_span_dirty_bytes() >= dirty + 3 * MIB);
    slm_span_check(node);
}

static void a_moved_one_is_retired_too(void **state)
{
    (void)state;
    char *neighbour = NULL, *object = take_with_neighbour(8 * MIB, &neighbour);
    const uint64_t live = large_live_bytes();
    char *moved = slm_large_resize(slm_large_of(object), 9 * MIB);
    assert_ptr_not_equal(moved, object);
    assert_true(slm_large_retire(slm_large_of(moved)));
    slm_large_release(slm_large_of(moved));
    assert_int_equal(large_live_bytes(), live - 8 * MIB);
    give(neighbour);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_check(node);
}

static _Atomic unsigned retired_by;

static void *retire_or_free(void *number)
{
    if ((uintptr_t)number % 2)
        add_relaxed(&given_back, slm_large_free(contested));
    else if (slm_large_retire(contested))
        add_relaxed(&retired_by, 1);
    return NULL;
}

static void one_of_many_retires_or_frees_it(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 200; turn++) {
        contested = slm_large_of(take(100000, 1));
        const size_t usable = contested->usable;
        store_relaxed(&given_back, 0);
        store_relaxed(&retired_by, 0);
        on_threads(4, retire_or_free);
        assert_int_equal(load_relaxed(&given_back) / usable + load_relaxed(&retired_by), 1);
        if (load_relaxed(&retired_by))
            slm_large_release(contested);
    }
    slm_span_check(node);
}

static void resize_without_memory(void)
{
    char *object = take(4 * MIB, 1);
    fill(object, 0, 4 * MIB);
    const size_t too_much = more_than_free() + MIB;
    forbid_memory();
    require(!slm_large_resize(slm_large_of(object), too_much));
    check(object, 0, 4 * MIB);
    require(slm_large_resize(slm_large_of(object), MIB) == object);
    check(object, 0, MIB);
    slm_span_check(node);
}

static void no_memory_leaves_it_as_it_was(void **state)
{
    (void)state;
    assert_child_silent(resize_without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_sizes_are_usable_to_their_page_s_end),
        cmocka_unit_test(alignments_are_kept),
        cmocka_unit_test(what_is_clean_reads_as_zero),
        cmocka_unit_test(only_the_first_byte_is_the_object),
        cmocka_unit_test(freeing_twice_gives_nothing),
        cmocka_unit_test(one_of_two_threads_frees_it),
        cmocka_unit_test(without_a_lock_it_waits_to_be_given_back),
        cmocka_unit_test(one_of_many_frees_it_without_a_lock),
        cmocka_unit_test(figures_follow),
        cmocka_unit_test(shrinking_stays_in_place),
        cmocka_unit_test(growing_takes_what_is_free_behind),
        cmocka_unit_test(large_ones_move_without_a_copy),
        cmocka_unit_test(moved_objects_are_moved_again),
        cmocka_unit_test(mappings_stay_few),
        cmocka_unit_test(a_retired_one_lives_on),
        cmocka_unit_test(a_moved_one_is_retired_too),
        cmocka_unit_test(one_of_many_retires_or_frees_it),
        cmocka_unit_test(what_cannot_be_is_enomem),
        cmocka_unit_test(no_memory_leaves_it_as_it_was),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
