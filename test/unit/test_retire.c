/* src/deferred/retire.h: a thread's retired magazines fill up and go to the queue, or are taken from it in two passes
 * without its help; and what happens where there is no memory for one. The cache's magazines have up to 20 rounds. */
#include "retiring.h"

static const struct slab_cache_attr twenty = {.flags = SLAB_NO_MERGE, .magazine_rounds = 20};

static struct helper other; /* retires, too */

static int begin_test(void **state)
{
    (void)state;
    make_cache(&twenty);
    start_reader();
    start_live_helper(&other);
    return 0;
}

static int end_test(void **state)
{
    end_helper(&other);
    return all_is_free(state);
}

static struct slm_retired_slot *slot_of(const struct helper *of)
{
    return slm_retired_slot_at(of ? of->tls->self : slm_tls.self, cache->shape.slot_offset);
}

static unsigned rounds_of(const struct helper *of)
{
    return (unsigned)(slot_of(of)->top - slot_of(of)->bottom);
}

static bool is_open(const struct helper *of)
{
    return slot_of(of)->top < slot_of(of)->limit;
}

static bool push(void *object)
{
    struct slm_thread *thread = slm_thread_enter(true);
    const bool done = slm_retire_push(thread, slm_cache_of_object(object)->shape.slot_offset, object);
    slm_thread_leave(thread);
    return done;
}

static void push_some(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        require(push(object_of_cache()));
}

static void push_three(void *nothing)
{
    (void)nothing;
    push_some(3);
}

static bool another_follows; /* says the pass */

static unsigned pass(bool all)
{
    struct slm_thread *self = slm_thread_hide();
    const unsigned missed = slm_retire_pass(self, all, &another_follows);
    slm_thread_unhide(self);
    return missed;
}

/* -- filling ----------------------------------------------------------------------------------------------------- */

static void full_ones_go_to_the_queue_and_larger_ones_come(void **state)
{
    (void)state;
    assert_false(is_open(NULL));
    push_some(5);
    assert_false(is_open(NULL)); /* full, but nobody needs another yet */
    assert_int_equal(on_queues(), 0);
    push_some(1);
    assert_int_equal(on_queues(), 5);
    assert_true(is_open(NULL) && rounds_of(NULL) == 1);
    push_some(13);
    assert_int_equal(on_queues(), 5 + 13);
    push_some(20); /* as many as the cache's magazines have, and no more */
    assert_int_equal(on_queues(), 5 + 13 + 20);
    push_some(20);
    assert_int_equal(on_queues(), 5 + 13 + 20 + 20);
    assert_int_equal(in_magazines(), 1);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), 58 * SIZE);
}

static void an_open_one_takes_without_a_slow_path(void **state)
{
    (void)state;
    push_some(6);
    const uint32_t passes = slm_tls.self->passes;
    char *objects[12];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = memset(object_of_cache(), 0x5a, SIZE);
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_defer(objects[i], NULL);
    assert_int_equal(slm_tls.self->passes, passes);
    assert_int_equal(rounds_of(NULL), 13);
    for (size_t i = 0; i < COUNT(objects); i++) { /* not a byte is written */
        assert_ptr_equal(slot_of(NULL)->bottom[i + 1], objects[i]);
        assert_true(objects[i][0] == 0x5a && memcmp(objects[i], objects[i] + 1, SIZE - 1) == 0);
    }
}

/* -- ageing ------------------------------------------------------------------------------------------------------ */

static void what_does_not_fill_up_goes_with_the_second_pass(void **state)
{
    (void)state;
    push_some(3);
    tell(&other, push_three, NULL);
    assert_int_equal(pass(false), 0);
    assert_int_equal(in_magazines(), 6);
    assert_true(another_follows);
    struct slm_magazine *const array = slot_of(&other)->magazine;
    assert_int_equal(pass(false), 0);
    assert_int_equal(in_magazines(), 0);
    assert_int_equal(on_queues(), 6);
    assert_false(is_open(NULL) || is_open(&other));
    assert_ptr_equal(slot_of(&other)->magazine, array); /* its owner goes on with it */
    tell(&other, push_three, NULL);
    assert_ptr_equal(slot_of(&other)->magazine, array);
    assert_true(is_open(&other) && rounds_of(&other) == 3);
    assert_ptr_equal(slot_of(&other)->bottom, array->rounds);
}

static void what_fills_up_is_left_alone(void **state)
{
    (void)state;
    push_some(3);
    pass(false);
    for (unsigned turn = 0; turn < 5; turn++) {
        push_some(20); /* full since the last pass, and another one begun */
        const unsigned rounds = rounds_of(NULL);
        const uint64_t put = on_queues();
        assert_int_equal(pass(false), 0);
        assert_int_equal(on_queues(), put);
        assert_int_equal(rounds_of(NULL), rounds);
        assert_true(another_follows);
    }
}

/* A push that was under way when its magazine was closed may leave a round: passes go on for a while. */
static void passes_follow_until_closed_ones_have_settled(void **state)
{
    (void)state;
    unsigned passes = 0;
    pass(false);
    assert_false(another_follows); /* there is nothing */
    tell(&other, push_three, NULL);
    do
        assert_int_equal(pass(false), 0);
    while (another_follows && ++passes < 1000);
    assert_true(passes > 2 && passes < 100);
    assert_int_equal(in_magazines(), 0);
    const uint64_t before = barriers();
    pass(false);
    assert_int_equal(barriers(), before);
    assert_false(another_follows);
}

static void all_go_at_once_where_everything_is_asked_for(void **state)
{
    (void)state;
    push_some(3);
    tell(&other, push_three, NULL);
    assert_int_equal(pass(true), 0);
    assert_int_equal(on_queues(), 6);
    assert_false(is_open(NULL) || is_open(&other));
    push_some(1);
    assert_int_equal(pass(true), 0);
    assert_int_equal(on_queues(), 7);
}

static void one_barrier_serves_for_all(void **state)
{
    (void)state;
    struct helper third;
    start_live_helper(&third);
    tell(&other, push_three, NULL);
    tell(&third, push_three, NULL);
    const uint64_t before = barriers();
    assert_int_equal(pass(false), 0);
    assert_int_equal(barriers(), before); /* nothing is old enough */
    assert_int_equal(pass(false), 0);
    assert_int_equal(barriers(), before + 1);
    assert_int_equal(on_queues(), 6);
    assert_int_equal(pass(false), 0);
    assert_int_equal(barriers(), before + 1);
    end_helper(&third);
}

static void who_is_in_a_slow_path_is_missed(void **state)
{
    (void)state;
    tell(&other, push_three, NULL);
    tell(&other, enter_slow_path, NULL);
    assert_int_equal(pass(true), 1);
    assert_true(another_follows);
    assert_int_equal(in_magazines(), 3);
    tell(&other, leave_slow_path, NULL);
    assert_int_equal(pass(true), 0);
    assert_int_equal(in_magazines(), 0);
}

/* However long it was in there: what it holds is not forgotten. */
static void who_is_missed_for_long_is_found_at_last(void **state)
{
    (void)state;
    tell(&other, push_three, NULL);
    tell(&other, enter_slow_path, NULL);
    pass(false);
    unsigned missed = 0, follow = 0;
    for (unsigned i = 0; i < 200; i++) {
        missed += pass(false);
        follow += another_follows;
    }
    tell(&other, leave_slow_path, NULL);
    assert_int_equal(missed, 200);
    assert_int_equal(follow, 200);
    assert_int_equal(pass(false), 0);
    assert_int_equal(in_magazines(), 0);
}

static void *under_way, **under_way_top;

/* The first half of a push: what the hot path has loaded. */
static void begin_push(void *object)
{
    struct slm_retired_slot *slot = slm_retired_slot_at(slm_hot(), cache->shape.slot_offset);
    under_way = object;
    under_way_top = slm_shared_load(&slot->top);
    require(under_way_top < slot->limit);
}

static void end_push(void *nothing)
{
    (void)nothing;
    *under_way_top = under_way;
    slm_shared_store(&slot_of(NULL)->top, under_way_top + 1);
}

static void defer_next(void *object)
{
    slm_defer(object, NULL);
}

static void a_push_under_way_ends_above_and_waits_for_the_next_pass(void **state)
{
    (void)state;
    begin_reading();
    tell(&other, push_three, NULL);
    tell(&other, begin_push, object_of_cache());
    assert_int_equal(pass(true), 0);
    assert_int_equal(on_queues(), 3);
    assert_int_equal(rounds_of(&other), 0);
    tell(&other, end_push, NULL);
    assert_int_equal(rounds_of(&other), 1);
    assert_ptr_equal(*slot_of(&other)->bottom, under_way);
    assert_false(is_open(&other)); /* the next one goes to the slow path */
    assert_int_equal(in_magazines(), 1);
    tell(&other, defer_next, object_of_cache());
    assert_int_equal(rounds_of(&other), 2);
    assert_true(is_open(&other));
    tell(&other, begin_push, object_of_cache());
    assert_int_equal(pass(true), 0);
    assert_int_equal(pass(true), 0); /* it has not come yet: there is nothing */
    tell(&other, end_push, NULL);
    assert_int_equal(pass(true), 0);
    assert_int_equal(on_queues(), 6);
    assert_int_equal(in_magazines(), 0);
    end_reading();
}

static void pass_without_barriers(void)
{
    refuse_call(SYS_membarrier, EPERM, 0);
    make_cache(&twenty);
    start_live_helper(&other);
    tell(&other, push_three, NULL);
    push_some(3);
    require(pass(true) == 1 && on_queues() == 3 && in_magazines() == 3); /* its own alone */
    require(rounds_of(&other) == 3 && is_open(&other) && another_follows);
}

static void without_barriers_others_are_missed(void **state)
{
    (void)state;
    assert_child_silent(pass_without_barriers);
}

/* -- where there is no memory ------------------------------------------------------------------------------------ */

static void without_a_block_it_is_as_it_was(void **state)
{
    (void)state;
    char *object = memset(object_of_cache(), 0x5a, SIZE);
    slm_options.refuse_blocks = 1;
    assert_false(push(object));
    assert_int_equal(in_magazines(), 0);
    slm_options.refuse_blocks = 0;
    push_some(5);
    slm_options.refuse_blocks = 1;
    assert_false(push(object)); /* the full one goes, and there is no other */
    assert_int_equal(in_magazines(), 0);
    assert_int_equal(on_queues(), 5);
    assert_true(object[0] == 0x5a && memcmp(object, object + 1, SIZE - 1) == 0);
    slm_cache_object_free(name, object);
}

/* For copies there is one block: what finds it out, or full, stays where it is until it comes back. */
static void passes_go_on_without_memory(void **state)
{
    (void)state;
    struct helper third;
    start_live_helper(&third);
    tell(&third, push_three, NULL);
    tell(&other, push_three, NULL);
    push_some(5);
    slm_options.refuse_blocks = 1;
    assert_true(pass(true) > 0);
    assert_true(another_follows);
    const uint64_t put = on_queues();
    assert_true(put > 0 && put < 11 && put + in_magazines() == 11);
    assert_true(pass(true) > 0); /* it is on its way */
    assert_int_equal(on_queues(), put);
    while (in_magazines() > 0) {
        let_ripen();
        assert_true(slm_defer_queue_ripen_all());
        pass(true);
    }
    end_helper(&third);
}

/* However much others have. */
static void barriers_end_without_memory(void **state)
{
    (void)state;
    struct helper third;
    start_live_helper(&third);
    tell(&third, push_three, NULL);
    for (unsigned i = 0; i < 6; i++)
        tell(&other, push_three, NULL);
    slm_options.refuse_blocks = 1;
    slm_deferred_free_all(UINT_MAX);
    assert_int_equal(in_magazines() + on_queues(), 0);
    end_helper(&third);
}

/* -- the end of a thread ----------------------------------------------------------------------------------------- */

static void the_end_of_a_thread_retires_all_it_has(void **state)
{
    (void)state;
    struct helper third;
    start_live_helper(&third);
    begin_reading();
    tell(&third, push_three, NULL);
    slm_options.refuse_blocks = 1; /* it takes no memory */
    end_helper(&third);
    assert_int_equal(on_queues(), 3);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), 3 * SIZE);
    assert_false(slm_defer_queue_ripen_all());
    end_reading();
}

/* -- figures, far caches, fork ----------------------------------------------------------------------------------- */

/* A slot's array stays with the thread when its cache goes: the next cache in its place has other magazines. */
static void another_cache_s_magazines_are_not_too_large(void **state)
{
    (void)state;
    struct slab_cache *kept = name;
    name = named("small", 64, &own_slabs);
    const unsigned number = cache_of(name)->id;
    push_some(1000);
    slm_deferred_free_all(UINT_MAX);
    assert_int_equal(slab_cache_destroy(name), 0);
    name = named("large", 256 * KIB, &own_slabs);
    assert_int_equal(cache_of(name)->id, number);
    begin_reading();
    const unsigned most = load_relaxed(&cache_of(name)->most_rounds);
    push_some(2 * most + 1);
    const uint64_t put = on_queues();
    end_reading();
    slm_deferred_free_all(UINT_MAX);
    assert_int_equal(slab_cache_destroy(name), 0);
    name = kept;
    assert_int_equal(put, 2 * most);
}

static void figures_have_bytes_of_all_that_is_retired(void **state)
{
    (void)state;
    struct slm_retired_sums sums = {0, 0};
    push_some(4);
    slm_retire_count(slm_tls.self, &sums);
    assert_true(sums.objects == 4 && sums.bytes == 4 * SIZE);
}

/* Whatever its number, whether its calls are marked or zeroed. */
static void every_cache_has_a_slot(void **state)
{
    (void)state;
    struct slab_cache *kept = name;
    struct slm_retired_sums sums = {0, 0};
    struct slab_cache *many[300];
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = named("one of many", SIZE, &own_slabs);
    struct slab_cache *zeroed = named("zeroed", SIZE, &(struct slab_cache_attr){.flags = SLAB_ZERO | SLAB_NO_MERGE});
    name = named("limited", SIZE, &(struct slab_cache_attr){.limit_bytes = 1000 * SIZE});
    begin_reading();
    for (unsigned i = 0; i < 20; i++)
        assert_true(push(slm_cache_object_alloc(i % 2 ? zeroed : many[COUNT(many) - 1])) && push(object_of_cache()));
    slm_retire_count(slm_tls.self, &sums);
    assert_int_equal(sums.objects + on_queues(), 40);
    assert_int_equal(sums.bytes + load_relaxed(&slm_defer_queue_bytes), 40 * SIZE);
    end_reading();
    slm_deferred_free_all(UINT_MAX);
    assert_int_equal(in_magazines() + on_queues(), 0);
    assert_int_equal(slab_cache_destroy(name), 0);
    assert_int_equal(slab_cache_destroy(zeroed), 0);
    for (size_t i = 0; i < COUNT(many); i++)
        assert_int_equal(slab_cache_destroy(many[i]), 0);
    name = kept;
}

static void free_own_and_orphans(void)
{
    require(in_magazines() == 6 && rounds_of(NULL) == 3);
    slm_deferred_free_all(UINT_MAX);
    require(in_magazines() + on_queues() == 0);
    push_some(30);
    slm_deferred_free_all(UINT_MAX);
    require(in_magazines() + on_queues() == 0);
}

static void bury_all(void)
{
    while (slm_process_bury(UINT_MAX))
        ;
    require(load_relaxed(&slm_orphans) == 0);
}

static void bury_orphans(void)
{
    require(in_magazines() == 6);
    bury_all();
    require(in_magazines() == 3 && on_queues() == 3);
    slm_deferred_free_all(UINT_MAX);
    require(in_magazines() + on_queues() == 0);
}

/* It was caught while it was putting them on the queue, or opening a slot: they may be there. */
static void forget_what_was_torn(void)
{
    other.tls->self->at_work = slm_retired_half(other.tls->self);
    bury_all();
    require(in_magazines() == 3 && on_queues() == 0);
}

static void a_child_has_what_other_threads_retired(void **state)
{
    (void)state;
    push_some(3);
    tell(&other, push_three, NULL);
    assert_child_silent(free_own_and_orphans);
    assert_child_silent(bury_orphans);
    assert_child_silent(forget_what_was_torn);
    assert_int_equal(in_magazines(), 6);
}

#define retire_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        retire_test(full_ones_go_to_the_queue_and_larger_ones_come),
        retire_test(an_open_one_takes_without_a_slow_path),
        retire_test(what_does_not_fill_up_goes_with_the_second_pass),
        retire_test(what_fills_up_is_left_alone),
        retire_test(passes_follow_until_closed_ones_have_settled),
        retire_test(all_go_at_once_where_everything_is_asked_for),
        retire_test(one_barrier_serves_for_all),
        retire_test(who_is_in_a_slow_path_is_missed),
        retire_test(who_is_missed_for_long_is_found_at_last),
        retire_test(a_push_under_way_ends_above_and_waits_for_the_next_pass),
        cmocka_unit_test(without_barriers_others_are_missed),
        retire_test(without_a_block_it_is_as_it_was),
        retire_test(passes_go_on_without_memory),
        retire_test(barriers_end_without_memory),
        retire_test(the_end_of_a_thread_retires_all_it_has),
        retire_test(another_cache_s_magazines_are_not_too_large),
        retire_test(figures_have_bytes_of_all_that_is_retired),
        retire_test(every_cache_has_a_slot),
        retire_test(a_child_has_what_other_threads_retired),
    };
    return cmocka_run_group_tests(tests, begin_retiring, NULL);
}
