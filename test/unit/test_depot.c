/* src/depot/depot.h: magazines in stock, partial slabs, vacant ones, and the life after a fork. Each test has a depot
 * of its own, of objects of 1024 bytes, 64 to a slab. */
#include "checks.h"
#include "one_depot.h"

#include "page/metadata.h"

enum { CAPACITY = 29 };

static struct slm_magazine *magazine_of(uint32_t rounds)
{
    struct slm_magazine *magazine = slm_metadata_alloc(slm_magazine_bytes(CAPACITY));
    require(magazine != NULL);
    magazine->capacity = CAPACITY;
    magazine->count = rounds;
    fill(magazine->rounds, rounds);
    return magazine;
}

static void magazine_free(struct slm_magazine *magazine)
{
    if (magazine)
        slm_metadata_free(magazine, slm_magazine_bytes(magazine->capacity));
}

static void give_magazine(struct slm_magazine *magazine)
{
    slm_depot_give(magazine->rounds, magazine->count, "free");
    magazine_free(magazine);
}

static void objects_are_apart_and_counted(void **state)
{
    (void)state;
    static void *rounds[300];
    fill(rounds, COUNT(rounds));
    assert_int_equal(load_relaxed(&depot.objects_out), COUNT(rounds));
    assert_int_equal(slabs(), (COUNT(rounds) + A_SLAB - 1) / A_SLAB);
    for (size_t i = 0; i < COUNT(rounds); i++)
        memset(rounds[i], (int)i, SIZE);
    for (size_t i = 0; i < COUNT(rounds); i++) {
        const unsigned char *object = rounds[i];
        for (size_t at = 0; at < SIZE; at++)
            assert_int_equal(object[at], i & 255);
        assert_ptr_equal(load_relaxed(&slm_slab_of(object)->owner), &depot);
    }
    check_depot(&depot);
    slm_depot_give(rounds, COUNT(rounds), "free");
    assert_int_equal(load_relaxed(&depot.objects_out), 0);
}

static void the_lowest_address_comes_last(void **state)
{
    (void)state;
    void *rounds[20];
    assert_int_equal(slm_depot_fill(&depot, rounds, COUNT(rounds)), COUNT(rounds));
    for (size_t i = 1; i < COUNT(rounds); i++)
        assert_true(rounds[i] < rounds[i - 1]);
    slm_depot_give(rounds, COUNT(rounds), "free");
}

static void a_stock_changes_whole_magazines(void **state)
{
    (void)state;
    struct slm_magazine *slot = NULL, *first = magazine_of(CAPACITY), *second = magazine_of(7), *kept = first;
    assert_false(slm_depot_get(&depot, &slot));
    assert_null(slot);
    assert_true(slm_depot_put(&depot, &kept, 1000)); /* there is no empty one to get */
    assert_null(kept);
    kept = second;
    assert_true(slm_depot_put(&depot, &kept, 1000));
    assert_null(kept);
    assert_int_equal(load_relaxed(&depot.stock_rounds), CAPACITY + 7);
    check_depot(&depot);
    assert_true(slm_depot_get(&depot, &slot));
    assert_ptr_equal(slot, second);
    assert_int_equal(slot->count, 7);
    slm_depot_give(slot->rounds, slot->count, "free");
    slot->count = 0;
    assert_true(slm_depot_get(&depot, &slot)); /* the empty one goes in */
    assert_ptr_equal(slot, first);
    assert_int_equal(load_relaxed(&depot.stock_rounds), 0);
    assert_true(slm_depot_put(&depot, &slot, 1000)); /* and comes out again */
    assert_ptr_equal(slot, second);
    assert_int_equal(slot->count, 0);
    assert_int_equal(load_relaxed(&depot.exchanges), 5);
    magazine_free(slot);
}

static void an_empty_stock_touches_nothing(void **state)
{
    (void)state;
    struct slm_magazine *empty = magazine_of(0), *slot = empty;
    assert_false(slm_depot_get(&depot, &slot));
    assert_ptr_equal(slot, empty);
    magazine_free(empty);
}

static void a_stock_has_a_limit(void **state)
{
    (void)state;
    struct slm_magazine *first = magazine_of(20), *second = magazine_of(20), *slot = first;
    assert_true(slm_depot_put(&depot, &slot, 39));
    slot = second;
    assert_false(slm_depot_put(&depot, &slot, 39));
    assert_ptr_equal(slot, second);
    assert_true(slm_depot_put(&depot, &slot, 40));
    assert_int_equal(load_relaxed(&depot.stock_rounds), 40);
}

/* Give n of a slab's objects, which lie in rounds[] in falling order by slab. */
static void give_some(void **rounds, unsigned slab, unsigned n)
{
    slm_depot_give(rounds + slab * A_SLAB, n, "free");
}

static void the_fullest_slab_goes_first(void **state)
{
    (void)state;
    void *rounds[4 * A_SLAB], *again[A_SLAB];
    for (unsigned slab = 0; slab < 4; slab++)
        assert_int_equal(slm_depot_fill(&depot, rounds + slab * A_SLAB, A_SLAB), A_SLAB);
    give_some(rounds, 0, 40);
    give_some(rounds, 1, 2);
    give_some(rounds, 2, 60);
    give_some(rounds, 3, 20);
    check_depot(&depot);
    static const unsigned order[] = {1, 3, 0, 2}, free_objects[] = {2, 20, 40, 60};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(slm_depot_fill(&depot, again, free_objects[i]), free_objects[i]);
        for (unsigned k = 0; k < free_objects[i]; k++)
            assert_ptr_equal(slm_slab_of(again[k]), slm_slab_of(rounds[order[i] * A_SLAB]));
    }
    assert_int_equal(load_relaxed(&depot.slabs_made), 4);
    slm_depot_give(rounds, 4 * A_SLAB, "free"); /* the same objects */
}

static void slabs_change_places_as_they_empty(void **state)
{
    (void)state;
    void *rounds[2 * A_SLAB], *again;
    assert_int_equal(slm_depot_fill(&depot, rounds, A_SLAB), A_SLAB);
    assert_int_equal(slm_depot_fill(&depot, rounds + A_SLAB, A_SLAB), A_SLAB);
    give_some(rounds, 0, 1);
    for (unsigned i = 0; i < 40; i++)
        slm_depot_give(&rounds[A_SLAB + i], 1, "free");
    for (unsigned i = 1; i < 60; i++)
        slm_depot_give(&rounds[i], 1, "free");
    check_depot(&depot);
    assert_int_equal(slm_depot_fill(&depot, &again, 1), 1);
    assert_ptr_equal(slm_slab_of(again), slm_slab_of(rounds[A_SLAB]));
    slm_depot_give(&again, 1, "free");
    slm_depot_give(rounds + 60, 4, "free");
    slm_depot_give(rounds + A_SLAB + 40, 24, "free");
}

static void one_vacant_slab_is_kept(void **state)
{
    (void)state;
    static void *rounds[5 * A_SLAB];
    fill(rounds, 5 * A_SLAB);
    for (unsigned i = 0; i < 5; i++)
        give_some(rounds, i, A_SLAB);
    assert_int_equal(slabs(), 1);
    check_depot(&depot);
    void *object; /* a class on the edge makes no slab anew */
    const uint64_t made = load_relaxed(&depot.slabs_made);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(slm_depot_fill(&depot, &object, 1), 1);
        slm_depot_give(&object, 1, "free");
    }
    assert_int_equal(load_relaxed(&depot.slabs_made), made);
}

/* Of malloc's objects: most sizes are wanted in one phase of a program only. */
static void a_class_keeps_a_vacant_slab_when_it_has_missed_one(void **state)
{
    (void)state;
    void *rounds[2 * A_SLAB];
    slm_depot_init(&depot, &shape, NULL, slm_nodes - 1);
    fill(rounds, A_SLAB);
    slm_depot_give(rounds, A_SLAB, "free");
    assert_int_equal(slabs(), 0);
    fill(rounds, 2 * A_SLAB);
    slm_depot_give(rounds, 2 * A_SLAB, "free");
    assert_int_equal(slabs(), 1);
    fill(rounds, A_SLAB);
    slm_depot_give(rounds, A_SLAB, "free");
    assert_int_equal(slabs(), 1);
    slm_depot_trim(&depot, false);
    slm_depot_trim(&depot, false); /* nobody wanted it in between */
    assert_int_equal(slabs(), 0);
    fill(rounds, A_SLAB);
    slm_depot_give(rounds, A_SLAB, "free");
    assert_int_equal(slabs(), 1);
}

/* Stock, and a vacant slab, that nothing was taken from between two looks. */
static void what_is_idle_goes_when_memory_grows(void **state)
{
    (void)state;
    void *rounds[2 * A_SLAB];
    fill(rounds, 2 * A_SLAB);
    slm_depot_give(rounds, 2 * A_SLAB, "free");
    slm_depot_trim_idle(&depot);
    assert_int_equal(slabs(), 1);
    fill(rounds, 1);
    slm_depot_give(rounds, 1, "free");
    slm_depot_trim_idle(&depot);
    assert_int_equal(slabs(), 1);
    slm_depot_trim_idle(&depot);
    assert_int_equal(slabs(), 0);
    slm_depot_trim_idle(&depot); /* there is nothing */
    struct slm_magazine *slot = magazine_of(20);
    assert_true(slm_depot_put(&depot, &slot, 1000));
    slm_depot_trim_idle(&depot);
    assert_int_equal(load_relaxed(&depot.stock_rounds), 20);
    assert_true(slm_depot_get(&depot, &slot));
    assert_true(slm_depot_put(&depot, &slot, 1000));
    slm_depot_trim_idle(&depot);
    assert_int_equal(load_relaxed(&depot.stock_rounds), 20);
    slm_depot_trim_idle(&depot);
    assert_int_equal(load_relaxed(&depot.stock_rounds), 0);
    assert_int_equal(load_relaxed(&depot.objects_out), 0);
}

static void a_vacant_slab_goes_when_nobody_needed_it(void **state)
{
    (void)state;
    void *object;
    fill(&object, 1);
    slm_depot_give(&object, 1, "free");
    assert_true(slm_depot_trim(&depot, false)); /* it was not there at a trim before */
    assert_int_equal(slabs(), 1);
    fill(&object, 1);
    slm_depot_give(&object, 1, "free");
    slm_depot_trim(&depot, false); /* somebody needed it */
    assert_int_equal(slabs(), 1);
    slm_depot_trim(&depot, false);
    assert_int_equal(slabs(), 0);
    assert_false(slm_depot_trim(&depot, false));
}

static void trimming_all_leaves_nothing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct slm_magazine *slot = magazine_of(CAPACITY);
        slm_depot_put(&depot, &slot, 1000);
    }
    assert_true(slm_depot_trim(&depot, true));
    assert_int_equal(load_relaxed(&depot.stock_rounds), 0);
    assert_int_equal(load_relaxed(&depot.objects_out), 0);
    assert_int_equal(slabs(), 0);
    assert_false(slm_depot_trim(&depot, true));
}

static void trimming_keeps_what_was_missed(void **state)
{
    (void)state;
    struct slm_magazine *slot;
    for (unsigned i = 0; i < 4; i++) {
        slot = magazine_of(CAPACITY);
        assert_true(slm_depot_put(&depot, &slot, 1000));
    }
    slm_depot_trim(&depot, false); /* they have just come */
    assert_int_equal(load_relaxed(&depot.stock_rounds), 4 * CAPACITY);
    slot = NULL;
    assert_true(slm_depot_get(&depot, &slot)); /* two are needed in between */
    struct slm_magazine *other = NULL;
    assert_true(slm_depot_get(&depot, &other));
    assert_true(slm_depot_put(&depot, &slot, 1000));
    assert_true(slm_depot_put(&depot, &other, 1000));
    check_depot(&depot);
    assert_true(slm_depot_trim(&depot, false));
    assert_int_equal(load_relaxed(&depot.stock_rounds), 2 * CAPACITY);
    check_depot(&depot);
    slm_depot_trim(&depot, false);
    assert_int_equal(load_relaxed(&depot.stock_rounds), 0);
}

static void await_stillness(void)
{
    assert_false(slm_depot_is_still(&depot, true));
    assert_false(slm_depot_is_still(&depot, true));
    assert_false(slm_depot_is_still(&depot, false)); /* no look */
    assert_true(slm_depot_is_still(&depot, true));
    assert_true(slm_depot_is_still(&depot, true));
    assert_true(slm_depot_is_still(&depot, false));
}

static void a_depot_is_still_when_nothing_comes_or_goes(void **state)
{
    (void)state;
    void *objects[2];
    struct slm_magazine *magazine = magazine_of(CAPACITY), *other = NULL;
    await_stillness();
    fill(objects, COUNT(objects));
    await_stillness();
    slm_depot_give(objects, 1, "free");
    assert_false(slm_depot_is_still(&depot, false));
    await_stillness();
    assert_true(slm_depot_put(&depot, &magazine, 1000));
    await_stillness();
    assert_true(slm_depot_get(&depot, &other));
    assert_true(slm_depot_put(&depot, &other, 1000));
    await_stillness();
    slm_depot_give(objects + 1, 1, "free");
    await_stillness();
    slm_depot_trim(&depot, true);
    assert_int_equal(load_relaxed(&depot.objects_out), 0);
    assert_true(slm_depot_is_still(&depot, false)); /* the program has done nothing */
}

static void objects_go_home_whatever_depot_gives(void **state)
{
    (void)state;
    static struct slm_depot other;
    static struct slm_slab_shape other_shape = {.object_size = 48};
    void *mixed[12];
    slm_slab_shape_fill(&other_shape);
    slm_depot_init(&other, &other_shape, "other", 0);
    for (unsigned i = 0; i < 12; i += 2) {
        fill(mixed + i, 1);
        assert_int_equal(slm_depot_fill(&other, mixed + i + 1, 1), 1);
    }
    assert_int_equal(load_relaxed(&depot.objects_out), 6);
    assert_int_equal(load_relaxed(&other.objects_out), 6);
    slm_depot_give(mixed, 12, "free");
    assert_int_equal(load_relaxed(&depot.objects_out), 0);
    assert_int_equal(load_relaxed(&other.objects_out), 0);
    check_depot(&other);
    slm_depot_trim(&other, true);
}

static void *misused;

static void give_misused(void)
{
    slm_depot_give(&misused, 1, "free");
}

static void misuse_ends_the_process(void **state)
{
    (void)state;
    char stack, *large = malloc(100000);
    void *rounds[3];
    fill(rounds, 3);
    misused = (char *)rounds[0] + 16;
    assert_child_aborts(give_misused, text("slabmalloc: free(" POINTER "): not the start of an object of cache test",
                                           pointer_of(misused)));
    misused = rounds[2];
    slm_depot_give(rounds + 2, 1, "free");
    assert_child_aborts(give_misused, text("slabmalloc: free(" POINTER "): double free of an object of cache test",
                                           pointer_of(misused)));
    slm_depot_give(rounds, 2, "free");
    misused = &stack;
    assert_int_equal(in_child(give_misused).signal, SIGABRT);
    misused = large;
    assert_int_equal(in_child(give_misused).signal, SIGABRT);
    free(large);
}

static void objects_of_released_slabs_end_the_process(void **state)
{
    (void)state;
    fill(&misused, 1);
    slm_depot_give(&misused, 1, "free");
    slm_depot_trim(&depot, true);
    const struct outcome outcome = in_child(give_misused);
    assert_int_equal(outcome.signal, SIGABRT);
    const char *begins = text("slabmalloc: free(" POINTER "): ", pointer_of(misused));
    assert_memory_equal(outcome.said, begins, strlen(begins));
}

/* Takes and gives objects and magazines at random, and knows which are its own. */
static void *work(void *number)
{
    uint64_t seed = (uintptr_t)number;
    struct slm_magazine *slots[8];
    for (size_t i = 0; i < COUNT(slots); i++)
        slots[i] = magazine_of(0);
    for (unsigned turn = 0; turn < 8000; turn++) {
        struct slm_magazine **slot = &slots[random_below(&seed, COUNT(slots))];
        const size_t dice = random_below(&seed, 8);
        if (!*slot)
            *slot = magazine_of(0);
        if ((*slot)->count == 0 && (dice >= 4 || !slm_depot_get(&depot, slot))) {
            (*slot)->count = 1 + (uint32_t)random_below(&seed, CAPACITY);
            fill((*slot)->rounds, (*slot)->count);
            memset((*slot)->rounds[0], (int)turn, SIZE);
        } else if (dice != 0 || !slm_depot_put(&depot, slot, 400)) {
            slm_depot_give((*slot)->rounds, (*slot)->count, "free");
            (*slot)->count = 0;
        }
        if (turn % 1024 == 0)
            slm_depot_trim(&depot, dice == 1);
        if (turn % 128 == 0)
            check_depot(&depot);
    }
    for (size_t i = 0; i < COUNT(slots); i++)
        if (slots[i])
            give_magazine(slots[i]);
    return NULL;
}

static void threads_share_a_depot(void **state)
{
    (void)state;
    on_threads(4, work);
    uint64_t stock = 0;
    for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at)) {
        check_depot(at);
        stock += load_relaxed(&at->stock_rounds);
    }
    assert_int_equal(objects_out(), stock);
}

static void *mine[100];

static void start_afresh(void)
{
    struct slm_magazine *slot = NULL;
    const uint64_t out = load_relaxed(&depot.objects_out);
    require(!slm_depot_get(&depot, &slot)); /* the stock may be torn */
    require(load_relaxed(&depot.objects_out) == out - CAPACITY && load_relaxed(&depot.stock_rounds) == 0);
    check_depot(&depot);
    slm_depot_give(mine, COUNT(mine), "free"); /* what the parent's slabs handed out comes back */
    check_depot(&depot);
    on_threads(2, work);
    slm_depot_trim(&depot, true);
    check_depot(&depot);
}

static void a_child_that_finds_the_lock_held_starts_afresh(void **state)
{
    (void)state;
    struct slm_magazine *slot = magazine_of(CAPACITY);
    fill(mine, COUNT(mine));
    assert_true(slm_depot_put(&depot, &slot, 1000));
    slm_lock_acquire(&depot.lock);
    const struct outcome outcome = in_child(start_afresh);
    slm_lock_release(&depot.lock);
    if (outcome.status != 0)
        fail_msg("status %d, signal %d: %s", outcome.status, outcome.signal, outcome.said);
    slm_depot_give(mine, COUNT(mine), "free");
    assert_true(slm_depot_get(&depot, &slot)); /* the parent has it all */
    give_magazine(slot);
}

static void go_on(void)
{
    struct slm_magazine *slot = NULL;
    require(slm_depot_get(&depot, &slot));
    give_magazine(slot);
    slm_depot_give(mine, COUNT(mine), "free");
    check_depot(&depot);
    slm_depot_trim(&depot, true);
    require(load_relaxed(&depot.objects_out) == 0 && slabs() == 0);
}

static void a_child_that_finds_it_free_goes_on(void **state)
{
    (void)state;
    struct slm_magazine *slot = magazine_of(CAPACITY);
    fill(mine, COUNT(mine));
    assert_true(slm_depot_put(&depot, &slot, 1000));
    assert_child_silent(go_on);
    slm_depot_give(mine, COUNT(mine), "free");
}

static void fill_all(void)
{
    void *object;
    unsigned got = 0;
    forbid_memory();
    errno = 0;
    while (slm_depot_fill(&depot, &object, 1) == 1 && got < 10000000)
        got++;
    require(got < 10000000 && errno == ENOMEM);
    check_depot(&depot);
    slm_depot_give(&object, 0, "free");
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(fill_all);
}

static struct slm_slab *overwritten;

static void trim_after_bit_is_lost(void)
{
    store_relaxed(&overwritten->bits[0], ~(uint64_t)(1 << 20));
    slm_fork_generation = 1; /* as if this were no child of fork */
    slm_depot_trim(&depot, true);
}

/* A slab is looked at before its memory goes. */
static void vacant_slabs_whose_bits_are_lost_end_the_process(void **state)
{
    (void)state;
    void *rounds[A_SLAB];
    fill(rounds, A_SLAB);
    overwritten = slm_slab_of(rounds[0]);
    slm_depot_give(rounds, A_SLAB, "free");
    assert_int_equal(slabs(), 1); /* it is kept */
    const char *said = text("slabmalloc: check(" POINTER "): a vacant slab's count differs from its bits",
                            pointer_of(slm_slab_start(overwritten)));
    assert_child_aborts(trim_after_bit_is_lost, said);
}

/* In a child of fork they may have been copied later than the count. The slab stays until its objects are there. */
static void in_a_child_a_slab_stays_whose_bits_are_lost(void **state)
{
    (void)state;
    void *rounds[A_SLAB];
    fill(rounds, A_SLAB);
    struct slm_slab *slab = slm_slab_of(rounds[0]);
    slm_depot_give(rounds, A_SLAB, "free");
    const uint64_t before = load_relaxed(&slab->bits[0]);
    void *lost = slm_slab_start(slab) + (size_t)__builtin_ctzll(before) * slab->object_size;
    store_relaxed(&slab->bits[0], before & (before - 1));
    add_relaxed(&depot.objects_out, 1); /* it was counted before */
    slm_fork_generation++;
    slm_depot_trim(&depot, true);
    fill(rounds, A_SLAB - 1); /* from that slab */
    assert_int_equal(slabs(), 1);
    slm_depot_give(rounds, A_SLAB - 1, "free");
    slm_depot_give(&lost, 1, "free");
    slm_depot_trim(&depot, true);
    slm_fork_generation--;
    assert_int_equal(slabs(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        depot_test(objects_are_apart_and_counted),
        depot_test(in_a_child_a_slab_stays_whose_bits_are_lost),
        depot_test(the_lowest_address_comes_last),
        depot_test(a_stock_changes_whole_magazines),
        depot_test(an_empty_stock_touches_nothing),
        depot_test(a_stock_has_a_limit),
        depot_test(the_fullest_slab_goes_first),
        depot_test(slabs_change_places_as_they_empty),
        depot_test(one_vacant_slab_is_kept),
        depot_test(a_class_keeps_a_vacant_slab_when_it_has_missed_one),
        depot_test(what_is_idle_goes_when_memory_grows),
        depot_test(a_vacant_slab_goes_when_nobody_needed_it),
        depot_test(trimming_all_leaves_nothing),
        depot_test(trimming_keeps_what_was_missed),
        depot_test(a_depot_is_still_when_nothing_comes_or_goes),
        depot_test(objects_go_home_whatever_depot_gives),
        depot_test(misuse_ends_the_process),
        depot_test(objects_of_released_slabs_end_the_process),
        depot_test(vacant_slabs_whose_bits_are_lost_end_the_process),
        depot_test(threads_share_a_depot),
        depot_test(a_child_that_finds_the_lock_held_starts_afresh),
        depot_test(a_child_that_finds_it_free_goes_on),
        depot_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
