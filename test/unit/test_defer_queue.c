/* src/deferred/defer_queue.h: what is retired waits on a queue until its grace period has passed, no longer than
 * somebody looks, and comes free once; functions are called in their order. The magazines here are put there by
 * the tests. */
#include "spans.h"
#include "retiring.h"

#include <sched.h>

#include "os/vm.h"
#include "page/reservation.h"
#include "trap.h"

static unsigned node_of_thread(void)
{
    return slm_tls.self->node;
}

static struct slm_depot *own_depot(void)
{
    return slm_cache_depot(cache, node_of_thread());
}

/* A magazine for the queue, with objects of the cache. */
static struct slm_magazine *make_full(uint32_t rounds)
{
    struct slm_magazine *magazine = slm_defer_queue_make_magazine(rounds);
    require(magazine && magazine->capacity >= rounds);
    magazine->cache_id = (uint16_t)cache->id;
    for (magazine->count = 0; magazine->count < rounds; magazine->count++)
        magazine->rounds[magazine->count] = object_of_cache();
    return magazine;
}

static void put_objects(uint32_t n)
{
    slm_defer_queue_put_magazine(node_of_thread(), make_full(n));
}

static void put_head(void)
{
    void *object = object_of_cache();
    slm_defer_queue_put_head(node_of_thread(), head_in(object), object);
}

static struct slm_large *make_large(size_t n)
{
    bool clean;
    struct slm_large *large = slm_large_of(slm_large_alloc(n, 1, node_of_thread(), &clean));
    require(large && slm_large_retire(large));
    return large;
}

/* -- waiting ----------------------------------------------------------------------------------------------------- */

static void nothing_comes_free_before_its_grace_period(void **state)
{
    (void)state;
    const uint64_t stock = cache_stock(cache), live = large_live_bytes();
    begin_reading();
    put_objects(10);
    put_head();
    slm_defer_queue_put_large(node_of_thread(), make_large(100000));
    const size_t large_bytes = slm_align_up(100000, slm_page_size);
    assert_int_equal(on_queues(), 12);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), 11 * SIZE + large_bytes);
    assert_int_equal(load_relaxed(&slm_epoch_waiting_bytes), 11 * SIZE + large_bytes);
    assert_false(ripens_within(20));
    assert_false(slm_defer_queue_ripen(node_of_thread(), 100));
    assert_false(slm_defer_queue_ripen_all());
    assert_int_equal(on_queues(), 12);
    assert_int_equal(large_live_bytes(), live + large_bytes); /* what waits counts as live */
    end_reading();
    let_ripen();
    assert_true(slm_defer_queue_ripen(node_of_thread(), 100));
    assert_false(slm_defer_queue_ripen(node_of_thread(), 100));
    assert_int_equal(on_queues(), 0);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), 0);
    assert_int_equal(cache_stock(cache), stock + 10);
    assert_int_equal(large_live_bytes(), live);
}

static void put_where_nobody_reads(void)
{
    make_cache(&own_slabs);
    put_objects(5);
    put_head();
    require(on_queues() == 6 && slm_defer_queue_ripen(node_of_thread(), 1) && on_queues() == 0);
    require(slm_epoch_grace_periods() == 0 && barriers() == 0);
    require(slab_cache_destroy(name) == 0);
}

static void where_nobody_reads_all_is_ripe_at_once(void **state)
{
    (void)state;
    assert_child_silent(put_where_nobody_reads);
}

/* Things are put with whatever stamp is the latest, and are ripe when it has passed: neither earlier nor later. */
static void every_thing_waits_for_its_own_stamp(void **state)
{
    (void)state;
    enum { KEPT = 4096 };
    static uint64_t stamps[KEPT];
    unsigned put = 0;
    uint64_t seed = 5;
    bool inside = false;
    const uint64_t before = slm_epoch_grace_periods();
    for (unsigned step = 0; put < KEPT && (step < 1500 || slm_epoch_grace_periods() < before + 20); step++) {
        switch (random_below(&seed, 5)) {
        case 0:
            put_objects(1);
            stamps[put++] = slm_epoch_stamp();
            break;
        case 1:
            put_head();
            stamps[put++] = slm_epoch_stamp();
            break;
        case 2:
            tell(&reader, inside ? leave_section : enter_section, NULL);
            inside = !inside;
            break;
        case 3:
            slm_epoch_await(slm_epoch_stamp(), slm_sys_now_us() + random_below(&seed, 500));
            break;
        default:
            slm_defer_queue_ripen_all();
            unsigned wait = 0;
            for (unsigned i = 0; i < put; i++)
                wait += !slm_epoch_passed(stamps[i]);
            assert_int_equal(on_queues(), wait);
            slm_defer_queue_check();
        }
    }
    if (inside)
        end_reading();
}

/* -- coming free ------------------------------------------------------------------------------------------------- */

static void a_ripe_magazine_is_a_full_one(void **state)
{
    (void)state;
    void *rounds[13];
    struct slm_magazine *magazine = make_full(COUNT(rounds));
    memcpy(rounds, magazine->rounds, sizeof rounds);
    const uint64_t exchanges = load_relaxed(&own_depot()->exchanges), home = load_relaxed(&own_depot()->drains_home);
    slm_defer_queue_put_magazine(node_of_thread(), magazine);
    let_ripen();
    assert_true(slm_defer_queue_ripen_all());
    assert_ptr_equal(own_depot()->full, magazine); /* as it is, in one exchange */
    assert_int_equal(load_relaxed(&own_depot()->exchanges), exchanges + 1);
    assert_int_equal(load_relaxed(&own_depot()->drains_home), home);
    assert_int_equal(magazine->count, COUNT(rounds));
    assert_memory_equal(magazine->rounds, rounds, sizeof rounds);
}

/* More than the depot keeps otherwise. */
static void the_stock_has_room_for_all_that_may_wait(void **state)
{
    (void)state;
    enum { MAGAZINES = 60 };
    assert_int_equal(slab_cache_tune(name, 0, 1), 0);
    begin_reading();
    for (unsigned i = 0; i < MAGAZINES; i++)
        put_objects(61);
    end_reading();
    let_ripen();
    const uint64_t home = load_relaxed(&own_depot()->drains_home);
    assert_true(slm_defer_queue_ripen(node_of_thread(), 10));
    assert_int_equal(on_queues(), (MAGAZINES - 10) * 61); /* at most as many as were asked for */
    assert_true(slm_defer_queue_ripen_all());
    assert_int_equal(load_relaxed(&own_depot()->drains_home), home);
    assert_true(cache_stock(cache) >= MAGAZINES * 61);
}

static void rounds_go_home_to_their_nodes(void **state)
{
    (void)state;
    if (slm_nodes == 1) {
        print_message("for several nodes\n");
        skip();
    }
    struct slm_magazine *magazine = make_full(30);
    const unsigned other = node_of_thread() == 0 ? 1 : 0;
    for (unsigned i = 0; i < 10; i++) {
        slm_cache_object_free(name, magazine->rounds[i * 3]);
        require((magazine->rounds[i * 3] = slm_cache_object_alloc_node(name, (int)other)) != NULL);
    }
    const uint64_t others_stock = load_relaxed(&slm_cache_depot(cache, other)->stock_rounds);
    const uint64_t stock = load_relaxed(&own_depot()->stock_rounds);
    slm_defer_queue_put_magazine(node_of_thread(), magazine);
    let_ripen();
    assert_true(slm_defer_queue_ripen_all());
    assert_int_equal(load_relaxed(&own_depot()->stock_rounds), stock + 20);
    assert_int_equal(load_relaxed(&slm_cache_depot(cache, other)->stock_rounds), others_stock + 10);
}

static void heads_and_mixed_rounds_go_to_their_slabs(void **state)
{
    (void)state;
    struct slab_cache *counted = named("counted", 96, &(struct slab_cache_attr){.flags = SLAB_ACCOUNT});
    struct slm_magazine *mixed = slm_defer_queue_make_magazine(62);
    mixed->cache_id = SLM_RETIRED_MIXED;
    for (unsigned i = 0; i < 40; i++)
        mixed->rounds[mixed->count++] = i % 2 ? slm_cache_object_alloc(counted) : object_of_cache();
    for (unsigned i = 0; i < 100; i++)
        put_head();
    slm_defer_queue_put_magazine(node_of_thread(), mixed);
    const uint64_t out = cache_out(cache);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), 120 * SIZE + 20 * 96);
    let_ripen();
    assert_true(slm_defer_queue_ripen_all());
    assert_int_equal(cache_out(cache), out - 120);
    assert_int_equal(slab_cache_destroy(counted), 0); /* its account says so, too */
}

/* -- where a thread has no magazine ------------------------------------------------------------------------------ */

static void objects_without_a_magazine_share_one(void **state)
{
    (void)state;
    const unsigned node = node_of_thread();
    begin_reading();
    slm_epoch_await(slm_epoch_stamp(), slm_sys_now_us() + 2000); /* a grace period is under way, and stays */
    assert_true(slm_defer_queue_put_object(node, object_of_cache()));
    slm_options.refuse_blocks = 1;
    for (unsigned i = 1; i < SLM_MAGAZINE_ROUNDS_MAX; i++)
        assert_true(slm_defer_queue_put_object(node, object_of_cache()));
    void *object = object_of_cache();
    assert_false(slm_defer_queue_put_object(node, object)); /* it is full */
    slm_options.refuse_blocks = 0;
    assert_true(slm_defer_queue_put_object(node, object));
    assert_int_equal(on_queues(), SLM_MAGAZINE_ROUNDS_MAX + 1);
    assert_int_equal(load_relaxed(&slm_defer_queue_bytes), (SLM_MAGAZINE_ROUNDS_MAX + 1) * SIZE);
    assert_false(slm_defer_queue_ripen_all());
    end_reading();
    let_ripen();
    assert_true(slm_defer_queue_ripen_all());
    assert_int_equal(on_queues(), 0);
}

/* Copies go into one block then, which comes back; the rest stays where it was. */
static void without_memory_one_block_is_left(void **state)
{
    (void)state;
    enum { ROOM = 61 };
    const unsigned number = cache->id;
    void *rounds[ROOM + 3], **bottom;
    char *object = object_of_cache();
    memset(object, 0x5a, SIZE);
    slm_options.refuse_blocks = 1;
    assert_null(slm_defer_queue_make_magazine(5));
    assert_false(slm_defer_queue_put_object(node_of_thread(), object));
    assert_true(object[0] == 0x5a && memcmp(object, object + 1, SIZE - 1) == 0);
    assert_int_equal(on_queues(), 0);
    slm_cache_object_free(name, object);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < COUNT(rounds); i++)
            rounds[i] = object_of_cache();
        bottom = rounds;
        assert_int_equal(slm_defer_queue_take_rounds(node_of_thread(), number, &bottom, COUNT(rounds)), ROOM);
        assert_ptr_equal(bottom, rounds + ROOM);
        assert_int_equal(on_queues(), ROOM);
        let_ripen();
        assert_int_equal(slm_defer_queue_take_rounds(node_of_thread(), number, &bottom, 3), 0);
        assert_ptr_equal(bottom, rounds + ROOM);
        assert_true(slm_defer_queue_ripen_all());
        assert_int_equal(slm_defer_queue_take_rounds(node_of_thread(), number, &bottom, 3), 3);
        let_ripen();
        assert_true(slm_defer_queue_ripen_all());
    }
}

static void the_limit_follows_the_heap(void **state)
{
    (void)state;
    const uint64_t sixteenth = slm_reservation_heap_bytes() / 16;
    assert_int_equal(slm_defer_queue_limit_bytes(), sixteenth > 8 * MIB ? sixteenth : 8 * MIB);
    slm_options.deferred_max_bytes = 12345;
    assert_int_equal(slm_defer_queue_limit_bytes(), 12345);
    slm_options.deferred_max_bytes = 0;
}

/* -- freers ------------------------------------------------------------------------------------------------------ */

static struct helper waiter;
static _Atomic bool let_go;

/* Whatever stands still in the middle of ripening: who has looked at the queue, and has waited for freers, finds that
 * all is free. */
static void ripen_and_wait(void *nothing)
{
    (void)nothing;
    slm_defer_queue_ripen_all();
    slm_defer_queue_await_freers();
    require(on_queues() == 0 && load_relaxed(&slm_defer_queue_bytes) == 0);
    store_release(&let_go, true);
}

/* It may need what the interrupted call holds: then it goes on behind that. */
static void have_others_wait(void)
{
    begin_task(&waiter, ripen_and_wait, NULL);
    const uint64_t start = slm_sys_now_us();
    while (!load_acquire(&let_go) && slm_sys_now_us() < start + 300)
        sched_yield();
}

static void ripen_own(void)
{
    slm_defer_queue_ripen(node_of_thread(), 100);
}

static void freers_are_waited_for(void **state)
{
    (void)state;
    unsigned long at = 1, step = 1;
    start_live_helper(&waiter);
    begin_tracing();
    for (bool some = true; some; at += step, step = 1 + at / (unsigned)scaled(60)) {
        put_objects(3);
        put_head();
        let_ripen();
        store_relaxed(&let_go, false);
        some = interrupt_at(at, ripen_own, have_others_wait);
        if (!some)
            begin_task(&waiter, ripen_and_wait, NULL);
        await(&waiter);
    }
    end_tracing(at);
    end_helper(&waiter);
}

static _Atomic bool enough;
static _Atomic uint64_t put_in_all;

static void put_and_ripen(void *nothing)
{
    (void)nothing;
    while (!load_relaxed(&enough)) {
        put_objects(6);
        put_head();
        slm_epoch_poll();
        slm_defer_queue_ripen(node_of_thread(), 4);
        add_relaxed(&put_in_all, 7);
    }
}

static void threads_ripen_side_by_side(void **state)
{
    (void)state;
    struct helper threads[3];
    store_relaxed(&enough, false);
    for (size_t i = 0; i < COUNT(threads); i++) {
        start_live_helper(&threads[i]);
        begin_task(&threads[i], put_and_ripen, NULL);
    }
    for (unsigned long turn = 0; turn < scaled(200) || load_relaxed(&put_in_all) < scaled(5000); turn++) {
        slm_defer_queue_check();
        begin_reading();
        slm_defer_queue_ripen_all();
        end_reading();
    }
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(threads); i++) {
        await(&threads[i]);
        end_helper(&threads[i]);
    }
}

/* -- functions --------------------------------------------------------------------------------------------------- */

struct call {
    struct slm_epoch_head head;
    unsigned number, again;
};

static unsigned called[200], calls;

static void note_call(struct slm_epoch_head *head)
{
    struct call *call = slm_container(head, struct call, head);
    require(slm_defer_queue_is_calling() && !slm_defer_queue_call_functions());
    called[calls++] = call->number;
    if (call->again > 0) {
        call->again--;
        slm_defer_queue_put_function(head, note_call);
    }
}

static void functions_are_called_in_their_order(void **state)
{
    (void)state;
    static struct call some[50];
    calls = 0;
    begin_reading();
    for (unsigned i = 0; i < COUNT(some); i++) {
        some[i] = (struct call){.number = i};
        slm_defer_queue_put_function(&some[i].head, note_call);
        if (i % 10 == 9) { /* those behind have another stamp */
            end_reading();
            begin_reading();
            slm_epoch_await(slm_epoch_stamp(), slm_sys_now_us() + 2000);
        }
        if (i == 30)
            slm_defer_queue_call_functions();
    }
    assert_int_equal(slm_defer_queue_functions_waiting(), COUNT(some) - calls);
    assert_int_equal(on_queues(), 0); /* they are no objects */
    end_reading();
    let_ripen();
    assert_true(slm_defer_queue_call_functions());
    assert_false(slm_defer_queue_call_functions() || slm_defer_queue_is_calling());
    assert_int_equal(calls, COUNT(some));
    for (unsigned i = 0; i < COUNT(some); i++)
        assert_int_equal(called[i], i);
    assert_int_equal(slm_defer_queue_functions_waiting(), 0);
}

static void functions_wait_for_their_grace_period(void **state)
{
    (void)state;
    struct call one = {.again = 1};
    calls = 0;
    begin_reading();
    slm_defer_queue_put_function(&one.head, note_call);
    assert_false(ripens_within(10));
    assert_false(slm_defer_queue_call_functions());
    end_reading();
    let_ripen();
    begin_reading();
    assert_true(slm_defer_queue_call_functions());
    assert_int_equal(calls, 1); /* it has put itself again, and waits for another one */
    assert_int_equal(slm_defer_queue_functions_waiting(), 1);
    assert_false(slm_defer_queue_call_functions());
    end_reading();
    let_ripen();
    assert_true(slm_defer_queue_call_functions());
    assert_int_equal(calls, 2);
}

static void put_when_nobody_reads_any_more(void)
{
    struct call first = {.number = 1}, second = {.number = 2};
    struct helper other;
    calls = 0;
    start_live_helper(&other);
    tell(&other, enter_section, NULL);
    slm_defer_queue_put_function(&first.head, note_call);
    end_helper(&other);
    require(slm_epoch_nobody_reads());
    slm_defer_queue_put_function(&second.head, note_call);
    require(!slm_defer_queue_call_functions()); /* the first one's stamp has not passed: the second waits behind it */
    slm_epoch_await(load_relaxed(&slm_epoch_wanted), UINT64_MAX);
    require(slm_defer_queue_call_functions() && calls == 2 && called[0] == 1 && called[1] == 2);
    slm_defer_queue_put_function(&first.head, note_call);
    require(slm_defer_queue_call_functions() && calls == 3);
}

static void who_need_not_wait_waits_for_those_before(void **state)
{
    (void)state;
    assert_child_silent(put_when_nobody_reads_any_more);
}

static void await_all_functions(void *nothing)
{
    (void)nothing;
    slm_defer_queue_await_functions();
}

static void wait_inside(struct slm_epoch_head *head)
{
    (void)head;
    begin_task(&waiter, await_all_functions, NULL);
    require(!is_done_within(&waiter, 30)); /* this one is not over yet */
}

static void functions_are_waited_for(void **state)
{
    (void)state;
    struct call one = {.number = 0}, two = {.number = 1};
    calls = 0;
    start_live_helper(&waiter);
    slm_defer_queue_put_function(&one.head, wait_inside);
    slm_defer_queue_put_function(&two.head, note_call);
    let_ripen();
    assert_true(slm_defer_queue_call_functions());
    await(&waiter);
    assert_int_equal(calls, 1);
    slm_defer_queue_put_function(&two.head, note_call);
    let_ripen();
    slm_defer_queue_await_functions(); /* nobody is at it: it calls them itself */
    assert_int_equal(calls, 2);
    end_helper(&waiter);
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

static void free_what_was_inherited(void)
{
    const uint64_t waited = on_queues();
    require(waited > 0 && slm_epoch_nobody_reads()); /* the reader is not there */
    slm_epoch_await(load_relaxed(&slm_epoch_wanted), UINT64_MAX);
    require(slm_defer_queue_ripen_all() && on_queues() == 0 && load_relaxed(&slm_epoch_waiting_bytes) == 0);
    require(slm_defer_queue_call_functions() && slm_defer_queue_functions_waiting() == 0 && calls == 1);
    require(slab_cache_destroy(name) == 0);
}

static void children_inherit_what_waits(void **state)
{
    (void)state;
    struct call one = {.number = 1};
    calls = 0;
    begin_reading();
    put_objects(20);
    put_head();
    slm_defer_queue_put_large(node_of_thread(), make_large(50000));
    slm_defer_queue_put_function(&one.head, note_call);
    assert_child_silent(free_what_was_inherited);
    assert_int_equal(on_queues(), 22);
    end_reading();
    let_ripen();
    assert_true(slm_defer_queue_call_functions());
}

static void go_on(void)
{
    struct call one = {.number = 1};
    calls = 0;
    slm_defer_queue_check();
    put_objects(10);
    put_head();
    slm_defer_queue_put_function(&one.head, note_call);
    slm_epoch_await(load_relaxed(&slm_epoch_wanted), UINT64_MAX);
    slm_defer_queue_ripen_all();
    slm_defer_queue_await_freers();
    slm_defer_queue_await_functions();
    require(on_queues() == 0 && load_relaxed(&slm_defer_queue_bytes) == 0 && calls == 1);
}

/* Somebody may be at the queue, or have taken things off: what the child has lost it does not wait for. */
static void children_go_on(void **state)
{
    (void)state;
    struct helper threads[2];
    store_relaxed(&enough, false);
    for (size_t i = 0; i < COUNT(threads); i++) {
        start_live_helper(&threads[i]);
        begin_task(&threads[i], put_and_ripen, NULL);
    }
    for (unsigned long i = 0; i < scaled(20); i++)
        assert_child_silent(go_on);
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(threads); i++) {
        await(&threads[i]);
        end_helper(&threads[i]);
    }
}

#define ring_test(name) cmocka_unit_test_setup_teardown(name, fresh_cache, all_is_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_nobody_reads_all_is_ripe_at_once),
        cmocka_unit_test(who_need_not_wait_waits_for_those_before),
        ring_test(nothing_comes_free_before_its_grace_period),
        ring_test(every_thing_waits_for_its_own_stamp),
        ring_test(a_ripe_magazine_is_a_full_one),
        ring_test(the_stock_has_room_for_all_that_may_wait),
        ring_test(rounds_go_home_to_their_nodes),
        ring_test(heads_and_mixed_rounds_go_to_their_slabs),
        ring_test(objects_without_a_magazine_share_one),
        ring_test(without_memory_one_block_is_left),
        ring_test(the_limit_follows_the_heap),
        ring_test(freers_are_waited_for),
        ring_test(threads_ripen_side_by_side),
        ring_test(functions_are_called_in_their_order),
        ring_test(functions_wait_for_their_grace_period),
        ring_test(functions_are_waited_for),
        ring_test(children_inherit_what_waits),
        ring_test(children_go_on),
    };
    return cmocka_run_group_tests(tests, begin_retiring, NULL);
}
