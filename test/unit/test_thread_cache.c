/* src/thread/thread_cache.h: a thread's magazines: refill, drain, adapt. The blocks here belong to no thread and are
 * worked on directly, mostly in a class that little else in the process uses. */
#include "checks.h"
#include "unit.h"

#include "base/options.h"
#include "os/topology.h"
#include "spans.h"
#include "thread/thread_cache.h"

enum { MANY = 20000 };

static unsigned usual; /* the class of 896 bytes */

static struct slm_thread *thread;
static void *objects[MANY];

static int begin(void **state)
{
    usual = slm_class_of_size(896);
    return start_library(state);
}

static void trim_all(void)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        slm_for_each_depot (depot, slm_class_cache(class))
            slm_depot_trim(depot, true);
}

static int fresh_block(void **state)
{
    (void)state;
    trim_all();
    thread = slm_thread_block_make();
    return thread ? 0 : -1;
}

static int end_block(void **state)
{
    (void)state;
    slm_thread_check(thread);
    slm_thread_empty(thread, SLM_TO_SLABS);
    slm_thread_check(thread);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        assert_int_equal(slm_thread_rounds(thread, class), 0);
    assert_int_equal(thread->target_bytes, 0);
    slm_thread_block_free(thread);
    return 0;
}

/* As the hot paths do it. */
static void *take_from(struct slm_thread *from, unsigned class)
{
    struct slm_slot *loaded = slm_slot_at(from, slm_slot_offset_of(class));
    return loaded->top != loaded->bottom ? slm_slot_pop(loaded, loaded->top) : slm_thread_refill(from, class);
}

static void give_to(struct slm_thread *to, unsigned class, void *object)
{
    struct slm_slot *loaded = slm_slot_at(to, slm_slot_offset_of(class));
    if (slm_is_remote(to, object))
        slm_thread_free(to, class, object);
    else if (*loaded->top != NULL)
        slm_slot_push(loaded, loaded->top, object);
    else
        slm_thread_drain(to, class, object);
}

static void take_many(unsigned class, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        objects[i] = take_from(thread, class);
        require(objects[i] != NULL);
        *(unsigned *)objects[i] = i;
        if (i % 64 == 0)
            slm_thread_check(thread);
    }
}

static void give_many(unsigned class, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        require(*(unsigned *)objects[i] == i);
        give_to(thread, class, objects[i]);
        if (i % 64 == 0)
            slm_thread_check(thread);
    }
}

static uint64_t objects_out(unsigned class)
{
    uint64_t out = 0;
    slm_for_each_depot (depot, slm_class_cache(class))
        out += load_relaxed(&depot->objects_out);
    return out;
}

static uint64_t in_stock(unsigned class)
{
    return load_relaxed(&slm_class_cache(class)->first.stock_rounds);
}

/* As a hot path finds it: it can neither pop nor push. */
static bool has_nothing(const struct slm_slot *loaded)
{
    return loaded->top == loaded->bottom && *loaded->top == NULL;
}

static void *look_before_birth(void *nothing)
{
    require(slm_tls.state == SLM_THREAD_NONE && slm_tls.self == NULL);
    for (unsigned number = 0; number <= SLM_CLASSES; number++)
        require(has_nothing(slm_slot_at(slm_tls.hot, (size_t)number * SLM_SLOT_SIZE)));
    return nothing;
}

static void every_magazine_is_empty_and_full_at_first(void **state)
{
    (void)state;
    on_threads(1, look_before_birth);
}

static void write_idle_block(void)
{
    slm_tls.hot = slm_nothing;
    slm_slot_at(slm_tls.hot, SLM_SLOT_SIZE)->top = NULL;
}

static void size_classes_slots_of_the_idle_block_are_read_only(void **state)
{
    (void)state;
    assert_int_equal(in_child(write_idle_block).signal, SIGSEGV);
}

static void a_fresh_block_holds_nothing(void **state)
{
    (void)state;
    slm_thread_check(thread);
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct slm_slot *loaded = slm_slot_at(thread, slm_slot_offset_of(class));
        assert_true(has_nothing(loaded) && slm_slot_rounds(loaded) == 0 && slm_slot_room(loaded) == 0);
        assert_int_equal(slm_thread_rounds(thread, class), 0);
    }
    assert_int_equal(thread->target_bytes, 0);
}

static void objects_are_of_their_class_and_apart(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const unsigned n = class < 20 ? 500 : 100;
        take_many(class, n);
        for (unsigned i = 0; i < n; i++) {
            const struct slm_slab *slab = slm_slab_of(objects[i]);
            assert_non_null(slab);
            assert_ptr_equal(slm_cache_of_slab(slab, objects[i]), slm_class_cache(class)); /* perhaps a joined one */
            assert_true(slm_slab_is_object(slab, objects[i]));
        }
        give_many(class, n);
    }
}

static void the_first_trip_is_short(void **state)
{
    (void)state;
    const uint64_t out = objects_out(usual);
    give_to(thread, usual, take_from(thread, usual));
    assert_int_equal(thread->slots[usual + 1].target, slm_class_cache(usual)->start_rounds);
    assert_int_equal(slm_thread_rounds(thread, usual), slm_class_cache(usual)->start_rounds);
    assert_int_equal(objects_out(usual), out + slm_class_cache(usual)->start_rounds);
}

static void a_first_free_makes_a_magazine(void **state)
{
    (void)state;
    void *object;
    assert_int_equal(slm_depot_fill(&slm_class_cache(usual)->first, &object, 1), 1);
    give_to(thread, usual, object);
    assert_int_equal(slm_thread_rounds(thread, usual), 1);
    assert_ptr_equal(take_from(thread, usual), object);
    give_to(thread, usual, object);
}

static void magazines_grow_with_misses(void **state)
{
    (void)state;
    uint32_t target = 0;
    for (unsigned n = 0; n < MANY / 4; n++) {
        objects[n] = take_from(thread, usual);
        assert_non_null(objects[n]);
        *(unsigned *)objects[n] = n;
        assert_true(thread->slots[usual + 1].target >= target);
        target = thread->slots[usual + 1].target;
        assert_true(target <= slm_class_cache(usual)->most_rounds);
    }
    assert_int_equal(target, slm_class_cache(usual)->most_rounds);
    assert_true(load_relaxed(&thread->refills) < 120);
    give_many(usual, MANY / 4);
}

static void the_edge_does_not_bounce(void **state)
{
    (void)state;
    take_many(usual, 100);
    give_many(usual, 100);
    for (unsigned level = 0; level < 60; level++) { /* wherever the edge is, at one of these levels */
        const uint64_t trips = load_relaxed(&thread->refills) + load_relaxed(&thread->drains);
        for (unsigned i = 0; i < 200; i++)
            give_to(thread, usual, take_from(thread, usual));
        assert_true(load_relaxed(&thread->refills) + load_relaxed(&thread->drains) <= trips + 1);
        take_many(usual, 1);
        void *kept = objects[0];
        objects[99 - level] = kept;
    }
    for (unsigned level = 0; level < 60; level++)
        give_to(thread, usual, objects[99 - level]);
}

/* Two objects out and in again; returns how many of the four calls were slow. */
static unsigned waver(void)
{
    const struct slm_slot *slot = slm_slot_of(thread, usual);
    unsigned slow = 0;
    for (unsigned i = 0; i < 2; i++) {
        slow += slot->top == slot->bottom;
        objects[i] = take_from(thread, usual);
    }
    for (unsigned i = 0; i < 2; i++) {
        slow += *slot->top == NULL;
        give_to(thread, usual, objects[i]);
    }
    return slow;
}

static void nor_does_the_middle(void **state)
{
    (void)state;
    take_many(usual, 100);
    give_many(usual, 100);
    void *kept[60];
    for (unsigned level = 0; level < COUNT(kept); level++) {
        for (unsigned i = 0, slow = 0; i < 50; i++)
            assert_in_range(slow += waver(), 0, 6);
        kept[level] = take_from(thread, usual);
    }
    for (unsigned level = 0; level < COUNT(kept); level++)
        give_to(thread, usual, kept[level]);
}

static void bytes_are_bounded(void **state)
{
    (void)state;
    size_t first_touch = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        first_touch += 2ul * slm_class_cache(class)->start_rounds * slm_class_size[class];
    for (unsigned turn = 0; turn < 3; turn++)
        for (unsigned class = 0; class < SLM_CLASSES; class ++) {
            const unsigned n = class < 20 ? 2000 : 200;
            take_many(class, n);
            give_many(class, n);
            size_t bytes = 0;
            for (unsigned each = 0; each < SLM_CLASSES; each++) {
                const size_t rounds = slm_thread_rounds(thread, each);
                assert_true(rounds <= 2 * slm_class_cache(each)->most_rounds);
                bytes += rounds * slm_class_size[each];
            }
            assert_true(thread->target_bytes <= slm_settings.thread_bytes + first_touch);
            assert_true(bytes <= slm_settings.thread_bytes + first_touch);
        }
}

enum { LONGEST = 16384 };

/* Objects of twenty sizes replace each other: no class has all that the thread may hold, and no other nothing. */
static void long_objects_share_the_bytes(void **state)
{
    (void)state;
    const unsigned last = slm_class_of_size(LONGEST), first = last - 19, all = 20 * 15;
    for (unsigned turn = 0; turn < 100; turn++) {
        for (unsigned i = 0; i < all; i++)
            objects[i] = take_from(thread, first + i % 20);
        for (unsigned i = 0; i < all; i++)
            give_to(thread, first + i % 20, objects[i]);
    }
    for (unsigned class = first; class <= last; class ++)
        assert_true(load_relaxed(&slm_slot_of(thread, class)->target) > 1);
    assert_true(thread->target_bytes <= slm_settings.thread_bytes);
}

/* The loaded magazine has what a pair may have. Only trips to the depot change it. */
static void long_objects_have_one_magazine(void **state)
{
    (void)state;
    const unsigned class = slm_class_of_size(LONGEST);
    const struct slm_slot *slot = slm_slot_of(thread, class);
    take_many(class, 100);
    give_many(class, 100);
    const uint32_t target = load_relaxed(&slot->target);
    assert_int_equal(slm_slot_rounds(slot) + slm_slot_room(slot), 2 * target);
    assert_true(!slot->previous || slot->previous->count == 0);
    const uint64_t trips = load_relaxed(&thread->refills) + load_relaxed(&thread->drains);
    const uint32_t held = (uint32_t)slm_slot_rounds(slot);
    const struct slm_magazine *loaded = slot->loaded;
    take_many(class, held);
    give_many(class, held);
    assert_ptr_equal(slot->loaded, loaded);
    assert_int_equal(load_relaxed(&thread->refills) + load_relaxed(&thread->drains), trips);
    assert_true(held >= target); /* the half that was hot */
}

static void full_magazines_reach_other_threads(void **state)
{
    (void)state;
    struct slm_thread *other = slm_thread_block_make();
    assert_non_null(other);
    const uint64_t before = objects_out(usual);
    take_many(usual, 4000);
    give_many(usual, 4000);
    slm_thread_empty(thread, SLM_TO_DEPOT);
    const uint64_t stock = in_stock(usual), out = objects_out(usual);
    assert_true(stock > 0 && stock * slm_class_size[usual] <= slm_settings.depot_bytes);
    for (unsigned i = 0; i < stock; i++) {
        objects[i] = take_from(other, usual);
        assert_non_null(objects[i]);
    }
    assert_int_equal(objects_out(usual), out); /* no slab was asked */
    assert_int_equal(in_stock(usual), 0);
    for (unsigned i = 0; i < stock; i++)
        give_to(other, usual, objects[i]);
    slm_thread_empty(other, SLM_TO_SLABS);
    slm_thread_block_free(other);
    slm_depot_trim(&slm_class_cache(usual)->first, true);
    assert_int_equal(objects_out(usual), before);
}

static void emptying_home_brings_all_to_the_slabs(void **state)
{
    (void)state;
    slm_depot_trim(&slm_class_cache(usual)->first, true);
    const uint64_t out = objects_out(usual);
    take_many(usual, 40);
    give_many(usual, 40);
    const uint64_t stock = in_stock(usual);
    slm_thread_empty_slot(thread, usual, SLM_TO_SLABS);
    assert_int_equal(slm_thread_rounds(thread, usual), 0);
    assert_int_equal(in_stock(usual), stock);
    assert_int_equal(objects_out(usual), out + stock);
    assert_int_equal(thread->slots[usual + 1].target, 0);
}

static void idle_classes_shrink(void **state)
{
    (void)state;
    const uint32_t start = slm_class_cache(usual)->start_rounds;
    take_many(usual, MANY / 4);
    give_many(usual, MANY / 4);
    const uint32_t grown = thread->slots[usual + 1].target;
    assert_true(grown > 4 * start);
    slm_thread_adapt(thread); /* there were misses since the last look: none, as there was no look */
    assert_int_equal(thread->slots[usual + 1].target, grown);
    uint32_t target = grown;
    while (target > start) {
        slm_thread_adapt(thread);
        slm_thread_check(thread);
        assert_int_equal(thread->slots[usual + 1].target, target / 2);
        assert_true(slm_thread_rounds(thread, usual) <= target);
        target /= 2;
    }
    slm_thread_adapt(thread);
    assert_int_equal(thread->slots[usual + 1].target, target);
    assert_int_equal(thread->target_bytes, 2ul * target * slm_class_size[usual]);
    take_many(usual, 1000); /* and it goes on */
    give_many(usual, 1000);
}

/* Those that have not missed a round since the last call. */
static void still_classes_hold_nothing_when_memory_grows(void **state)
{
    (void)state;
    take_many(usual, 1000);
    give_many(usual, 1000);
    slm_thread_cool(thread);
    const size_t rounds = slm_thread_rounds(thread, usual);
    const uint32_t target = thread->slots[usual + 1].target;
    assert_true(rounds > 0);
    take_many(usual, 1000);
    give_many(usual, 1000);
    slm_thread_cool(thread);
    assert_true(slm_thread_rounds(thread, usual) > 0);
    const uint64_t out = objects_out(usual), stock = in_stock(usual);
    slm_thread_cool(thread);
    slm_thread_check(thread);
    assert_int_equal(slm_thread_rounds(thread, usual), 0);
    assert_int_equal(in_stock(usual), stock);
    assert_true(objects_out(usual) < out);
    assert_in_range(thread->slots[usual + 1].target, target, UINT16_MAX);
    take_many(usual, 1000); /* and it goes on */
    give_many(usual, 1000);
    slm_thread_adapt(thread); /* a cooled class is no more idle than others */
    assert_in_range(thread->slots[usual + 1].target, target, UINT16_MAX);
}

static void trips_are_counted(void **state)
{
    (void)state;
    take_many(usual, 1000);
    const uint64_t refills = load_relaxed(&thread->refills), taken = load_relaxed(&thread->objects_taken);
    assert_true(refills > 0 && refills < 1000);
    assert_int_equal(taken, 1000 + slm_thread_rounds(thread, usual));
    assert_int_equal(load_relaxed(&thread->drains), 0);
    give_many(usual, 1000);
    assert_true(load_relaxed(&thread->drains) > 0);
    assert_int_equal(load_relaxed(&thread->refills), refills);
}

static void random_work_keeps_the_pairs_right(void **state)
{
    (void)state;
    static struct {
        unsigned char *object;
        unsigned class;
    } slots[2000];
    uint64_t seed = 42;
    for (unsigned turn = 0; turn < 200000; turn++) {
        const size_t i = random_below(&seed, COUNT(slots));
        if (slots[i].object) {
            require(slots[i].object[slm_class_size[slots[i].class] - 1] == (unsigned char)i);
            give_to(thread, slots[i].class, slots[i].object);
            slots[i].object = NULL;
        } else {
            slots[i].class = (unsigned)random_below(&seed, SLM_CLASSES);
            slots[i].object = take_from(thread, slots[i].class);
            slots[i].object[slm_class_size[slots[i].class] - 1] = (unsigned char)i;
        }
        if (turn % 128 == 0)
            slm_thread_check(thread);
        if (turn % 8192 == 0)
            slm_thread_adapt(thread);
        if (turn % 16384 == 0)
            slm_thread_empty(thread, turn % 32768 == 0);
    }
    for (size_t i = 0; i < COUNT(slots); i++)
        if (slots[i].object)
            give_to(thread, slots[i].class, slots[i].object);
}

static void take_all(void)
{
    unsigned got = 0;
    forbid_memory();
    errno = 0;
    while (got < MANY && (objects[got] = take_from(thread, SLM_CLASSES - 1)))
        got++;
    require(got < MANY && errno == ENOMEM);
    slm_thread_check(thread);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        while (take_from(thread, class)) /* neither objects nor arrays in the end */
            ;
    for (unsigned i = 0; i < got; i++)
        give_to(thread, SLM_CLASSES - 1, objects[i]);
    slm_thread_check(thread);
    require(got == 0 || take_from(thread, SLM_CLASSES - 1));
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(take_all);
}

static void tear_cursors(void)
{
    void *object = take_from(thread, usual);
    give_to(thread, usual, object);
    slm_slot_at(thread, slm_slot_offset_of(usual))->top += 1000;
    slm_thread_check(thread);
}

static void the_checker_sees_torn_cursors(void **state)
{
    (void)state;
    const void *loaded = slm_slot_at(thread, slm_slot_offset_of(usual));
    assert_child_aborts(tear_cursors, text("slabmalloc: check(" POINTER "): a magazine's cursors are out of order of "
                                           "896 bytes",
                                           pointer_of(loaded)));
}

/* Objects of node 0 freed by a thread of node 1, and the other way round, in no order. */
static void mix_nodes(struct slm_thread *first, struct slm_thread *second)
{
    uint64_t seed = 1;
    for (unsigned i = 0; i < 4000; i++) {
        objects[i] = take_from(i % 2 ? first : second, usual);
        assert_non_null(objects[i]);
    }
    for (unsigned i = 0; i < 4000; i++)
        give_to(random_below(&seed, 2) ? first : second, usual, objects[i]);
}

/* Every round in a depot's stock lies in memory of its node. */
static void assert_stock_at_home(unsigned node)
{
    const struct slm_depot *depot = slm_cache_depot_made(slm_class_cache(usual), node);
    assert_non_null(depot);
    assert_true(load_relaxed(&depot->stock_rounds) > 0);
    for (const struct slm_magazine *full = depot->full; full; full = full->next)
        for (uint32_t i = 0; i < full->count; i++)
            assert_int_equal(slm_node_of(full->rounds[i]), node);
}

static void rounds_go_home(void **state)
{
    (void)state;
    if (slm_nodes < 2) {
        print_message("for machines with several nodes\n");
        skip();
    }
    struct slm_thread *other = slm_thread_block_make();
    assert_non_null(other);
    const uint64_t before = objects_out(usual);
    thread->node = 0;
    other->node = 1;
    mix_nodes(thread, other);
    slm_thread_empty(thread, SLM_TO_DEPOT);
    slm_thread_empty(other, SLM_TO_DEPOT);
    slm_thread_block_free(other);
    for (unsigned node = 0; node < 2; node++) {
        assert_stock_at_home(node);
        slm_depot_trim(slm_cache_depot_made(slm_class_cache(usual), node), true);
        check_depot(slm_cache_depot_made(slm_class_cache(usual), node));
        slm_span_check(node);
    }
    assert_int_equal(objects_out(usual), before);
}

static void a_thread_takes_from_its_node(void **state)
{
    (void)state;
    for (unsigned node = 0; node < slm_nodes; node++) {
        thread->node = node;
        take_many(usual, 200);
        for (unsigned i = 0; i < 200; i++)
            assert_int_equal(slm_node_of(objects[i]), node);
        give_many(usual, 200);
        slm_thread_empty(thread, SLM_TO_SLABS);
    }
}

#define block_test(name) cmocka_unit_test_setup_teardown(name, fresh_block, end_block)

/* A stock of small magazines, from when the thread might hold little, empties into a thread that may hold much. */
static void the_stock_collects_no_arrays(void **state)
{
    (void)state;
    const unsigned class = slm_class_of_size(48), many = 4000;
    const uint64_t thread_bytes = slm_settings.thread_bytes;
    slm_settings.thread_bytes = 2 * 13 * 48;
    take_many(class, many);
    give_many(class, many);
    slm_settings.thread_bytes = thread_bytes;
    take_many(class, many);
    size_t rounds = 0;
    for (const struct slm_magazine *at = slm_class_cache(class)->first.empty; at; at = at->next)
        rounds += at->capacity;
    assert_in_range(rounds, 1, many + SLM_MAGAZINE_ROUNDS_MAX);
    give_many(class, many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_magazine_is_empty_and_full_at_first),
        cmocka_unit_test(size_classes_slots_of_the_idle_block_are_read_only),
        block_test(a_fresh_block_holds_nothing),
        block_test(objects_are_of_their_class_and_apart),
        block_test(the_first_trip_is_short),
        block_test(a_first_free_makes_a_magazine),
        block_test(magazines_grow_with_misses),
        block_test(the_edge_does_not_bounce),
        block_test(nor_does_the_middle),
        block_test(bytes_are_bounded),
        block_test(long_objects_share_the_bytes),
        block_test(long_objects_have_one_magazine),
        block_test(full_magazines_reach_other_threads),
        block_test(emptying_home_brings_all_to_the_slabs),
        block_test(idle_classes_shrink),
        block_test(still_classes_hold_nothing_when_memory_grows),
        block_test(trips_are_counted),
        block_test(random_work_keeps_the_pairs_right),
        block_test(no_memory_is_an_answer),
        block_test(the_checker_sees_torn_cursors),
        block_test(rounds_go_home),
        block_test(a_thread_takes_from_its_node),
        block_test(the_stock_collects_no_arrays),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
