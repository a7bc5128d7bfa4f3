/* src/heap/deferred.h: retiring whatever pointer, polls and barriers, how much may wait and who waits for it, and
 * what happens without memory, without membarrier(2), and with a pass at any instruction. There is no worker. */
#include "spans.h"
#include "retiring.h"

static int begin(void **state)
{
    slm_options.worker = 0;
    slm_settings.deferred_max_delay_ms = 100; /* a pass each 25 ms, where somebody polls or passes slow paths */
    return start_unnamed(state);
}

static int fresh(void **state)
{
    slm_options.deferred_max_bytes = 0;
    return fresh_cache(state);
}

static void defer_three(void *nothing)
{
    (void)nothing;
    defer_some(3);
}

/* -- what is retired --------------------------------------------------------------------------------------------- */

static void defer_alone(void)
{
    make_cache(&own_slabs);
    for (unsigned turn = 0; turn < 100; turn++) {
        void *object = object_of_cache();
        slm_defer(object, NULL);
        require(waiting() == 0 && object_of_cache() == object); /* it is free at once */
        slm_defer(object, head_in(object));
        require(waiting() == 0);
        if (turn == 50) { /* the only one who reads is itself, and outside */
            enter();
            leave();
        }
    }
    void *large = malloc(100000);
    const uint64_t live = large_live_bytes();
    slm_defer(large, NULL);
    require(large_live_bytes() == live - 102400 && waiting() == 0);
    enter();
    defer_some(1);
    require(waiting() == 1);
    leave();
    require(slab_cache_destroy(name) == 0 && waiting() == 0);
    require(barriers() == 1); /* the first section has one */
}

static void where_nobody_else_reads_it_is_free_at_once(void **state)
{
    (void)state;
    assert_child_silent(defer_alone);
}

static void any_object_waits_for_readers(void **state)
{
    (void)state;
    static const struct slab_cache_attr attrs[] = {{.flags = SLAB_ACCOUNT},
                                                   {.flags = SLAB_TYPESAFE_BY_EPOCH},
                                                   {.flags = SLAB_ZERO},
                                                   {.limit_bytes = MIB},
                                                   {.flags = SLAB_CACHELINE_ALIGN, .magazine_rounds = 1}};
    struct slab_cache *names[COUNT(attrs)];
    unsigned n = 0;
    begin_reading();
    errno = EDOM;
    for (size_t size = 1; size < 3 * MIB; size = size * 3 / 2 + 1, n += 2) {
        void *volatile object = malloc(size), *volatile aligned = aligned_alloc(64, size);
        require(object && aligned);
        slm_defer(object, NULL);
        slm_defer(aligned, size >= 64 ? aligned : NULL);
    }
    for (size_t i = 0; i < COUNT(attrs); i++) {
        names[i] = named("any", 100 + i, &attrs[i]);
        for (unsigned k = 0; k < 20; k++, n++)
            slm_defer(slm_cache_object_alloc(names[i]), NULL);
    }
    slm_defer(NULL, NULL);
    assert_int_equal(waiting(), n);
    assert_false(ripens_within(10));
    slm_deferred_poll();
    assert_int_equal(waiting(), n);
    end_reading();
    slm_deferred_barrier();
    assert_int_equal(waiting(), 0);
    assert_int_equal(errno, EDOM);
    for (size_t i = 0; i < COUNT(attrs); i++)
        assert_int_equal(slab_cache_destroy(names[i]), 0);
}

static void *bad;

static void defer_bad(void)
{
    start_reader();
    slm_defer(bad, NULL);
}

static void defer_twice(void)
{
    start_reader();
    begin_reading();
    slm_defer(bad, NULL);
    slm_defer(bad, NULL);
}

static void defer_and_free(void)
{
    start_reader();
    begin_reading();
    slm_defer(bad, NULL);
    free(bad);
}

static void assert_ends_in(const char *call, void (*run)(void), void *pointer)
{
    bad = pointer;
    const struct outcome outcome = in_child(run);
    assert_int_equal(outcome.signal, SIGABRT);
    const char *start = text("slabmalloc: %s(" POINTER "): ", call, pointer_of(pointer));
    assert_int_equal(strncmp(outcome.said, start, strlen(start)), 0);
}

static void what_is_no_object_ends_the_process(void **state)
{
    (void)state;
    char here, *large = malloc(MIB);
    assert_ends_in("slab_free_deferred", defer_bad, &here);
    assert_ends_in("slab_free_deferred", defer_bad, large + 16);
    assert_ends_in("slab_free_deferred", defer_bad, large + 64 * KIB);
    assert_ends_in("slab_free_deferred", defer_twice, large);
    assert_ends_in("free", defer_and_free, large);
    free(large);
}

/* -- polls and barriers ------------------------------------------------------------------------------------------ */

/* Poll until all is free; true: a poll has said that a grace period ended. */
static bool polls_free_all(void)
{
    bool ended = false;
    for (; waiting() > 0; sleep_ms(1))
        ended |= slm_deferred_poll();
    return ended;
}

static void polls_free_what_has_waited_long_enough(void **state)
{
    (void)state;
    struct helper other;
    start_live_helper(&other);
    tell(&other, defer_three, NULL);
    defer_some(3);
    void *volatile large = malloc(MIB);
    slm_defer(large, NULL);
    assert_true(polls_free_all());
    begin_reading();
    defer_some(100);
    for (unsigned i = 0; i < 60; i++, sleep_ms(1))
        slm_deferred_poll();
    assert_int_equal(waiting(), 100);
    end_reading();
    assert_true(polls_free_all());
    end_helper(&other);
}

static unsigned calls;

static void count_call(struct slm_epoch_head *head)
{
    (void)head;
    calls++;
}

static void functions_run_in_polls_outside_of_sections(void **state)
{
    (void)state;
    struct slm_epoch_head head;
    calls = 0;
    begin_reading();
    slm_deferred_call(&head, count_call);
    for (unsigned i = 0; i < 10; i++, sleep_ms(1))
        slm_deferred_poll();
    assert_int_equal(calls, 0);
    end_reading();
    let_ripen();
    enter();
    slm_deferred_poll();
    assert_int_equal(calls, 0);
    leave();
    slm_deferred_poll();
    assert_int_equal(calls, 1);
    slm_deferred_call(&head, count_call);
    slm_deferred_barrier();
    assert_int_equal(calls, 2);
}

static void make_barrier(void *nothing)
{
    (void)nothing;
    slm_deferred_barrier();
}

static void barriers_wait_for_readers_and_for_slow_paths(void **state)
{
    (void)state;
    struct helper other, waiter;
    start_live_helper(&other);
    start_live_helper(&waiter);
    tell(&other, defer_three, NULL);
    begin_reading();
    begin_task(&waiter, make_barrier, NULL);
    assert_false(is_done_within(&waiter, 30));
    end_reading();
    await(&waiter);
    assert_int_equal(waiting(), 0);
    tell(&other, defer_three, NULL);
    tell(&other, enter_slow_path, NULL);
    begin_task(&waiter, make_barrier, NULL);
    assert_false(is_done_within(&waiter, 30));
    slm_deferred_free_all(2); /* this one gives up */
    assert_int_equal(waiting(), 3);
    begin_task(&other, leave_slow_path, NULL);
    await(&waiter);
    assert_int_equal(waiting(), 0);
    await(&other);
    end_helper(&other);
    end_helper(&waiter);
}

static void barrier_inside(void)
{
    enter();
    slm_deferred_barrier();
}

static void barrier_from_a_function(struct slm_epoch_head *head)
{
    (void)head;
    slm_deferred_barrier();
}

static void barrier_in_a_function(void)
{
    struct slm_epoch_head head;
    slm_deferred_call(&head, barrier_from_a_function);
    slm_deferred_poll();
}

static void barriers_that_would_wait_for_themselves_end_the_process(void **state)
{
    (void)state;
    assert_child_aborts(barrier_inside, "slabmalloc: slab_epoch_barrier(0x0): inside a section of the caller's own");
    assert_child_aborts(barrier_in_a_function,
                        "slabmalloc: slab_epoch_barrier(0x0): inside a function of slab_epoch_call");
}

/* -- too much waits ---------------------------------------------------------------------------------------------- */

enum { LIMIT = 64 << 10, FLOOD = 2000 };

static void flood(unsigned n, bool with_heads)
{
    for (unsigned i = 0; i < n; i++) {
        void *object = object_of_cache();
        slm_defer(object, with_heads ? head_in(object) : NULL);
    }
}

/* Who may wait. A call behind which more waits than may, and more than before, has waited for as long as it may. */
static void flood_and_wait(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        void *object = object_of_cache();
        const uint64_t bytes = load_relaxed(&slm_defer_queue_bytes), start_us = slm_sys_now_us();
        slm_defer(object, NULL);
        const uint64_t took_us = slm_sys_now_us() - start_us;
        require(load_relaxed(&slm_defer_queue_bytes) <= slm_max(bytes, slm_defer_queue_limit_bytes()) ||
                took_us >= 10000);
    }
}

/* The reader stays inside, and each call ends all the same. */
static void a_flood_waits_for_readers_but_not_for_ever(void **state)
{
    (void)state;
    slm_options.deferred_max_bytes = LIMIT;
    const uint64_t waits = load_relaxed(&slm_defer_queue_waits), excesses = load_relaxed(&slm_defer_queue_excesses);
    begin_reading();
    flood_and_wait(FLOOD);
    assert_int_equal(waiting(), FLOOD);
    assert_true(load_relaxed(&slm_defer_queue_waits) > waits);
    assert_int_equal(load_relaxed(&slm_defer_queue_excesses), excesses);
    end_reading();
}

static void a_flood_is_bounded_where_readers_leave(void **state)
{
    (void)state;
    slm_options.deferred_max_bytes = LIMIT;
    flood_and_wait(10 * FLOOD);
}

static void who_may_not_wait_queues_past_the_limit(void **state)
{
    (void)state;
    slm_options.deferred_max_bytes = LIMIT;
    const uint64_t waits = load_relaxed(&slm_defer_queue_waits), excesses = load_relaxed(&slm_defer_queue_excesses);
    begin_reading();
    flood(FLOOD, true);
    assert_true(load_relaxed(&slm_defer_queue_excesses) > excesses);
    enter(); /* inside a section of its own nobody waits either */
    flood(FLOOD, false);
    assert_int_equal(load_relaxed(&slm_defer_queue_waits), waits);
    assert_int_equal(waiting(), 2 * FLOOD);
    leave();
    end_reading();
}

/* -- no memory for magazines ------------------------------------------------------------------------------------- */

static void without_memory_heads_serve(void **state)
{
    (void)state;
    slm_options.refuse_blocks = 1;
    begin_reading();
    enter();
    for (unsigned i = 0; i < FLOOD; i++) {
        void *object = object_of_cache();
        slm_defer(object, head_in(object));
    }
    assert_int_equal(on_queues(), FLOOD);
    leave();
    end_reading();
    assert_int_equal(load_relaxed(&slm_defer_queue_unfreed), 0);
}

static void without_memory_it_waits_and_frees(void **state)
{
    (void)state;
    enum { SOME = 50 };
    defer_some(2);
    slm_options.refuse_blocks = 1;
    defer_some(3); /* into the magazine that there is */
    const uint64_t before = slm_epoch_grace_periods();
    for (unsigned i = 0; i < SOME; i++) {
        defer_some(1);
        require(waiting() <= 5);
    }
    assert_true(slm_epoch_grace_periods() - before >= SOME);
    assert_int_equal(load_relaxed(&slm_defer_queue_unfreed), 0);
}

static void defer_one(void *object)
{
    slm_defer(object, NULL);
}

/* However long: it is not free before. */
static void without_memory_it_waits_for_readers(void **state)
{
    (void)state;
    struct helper other;
    start_live_helper(&other);
    slm_options.refuse_blocks = 1;
    begin_reading();
    char *object = memset(object_of_cache(), 0x5a, SIZE);
    const uint64_t out = cache_out(cache);
    begin_task(&other, defer_one, object);
    assert_false(is_done_within(&other, 30));
    assert_int_equal(cache_out(cache), out);
    assert_true(object[0] == 0x5a && memcmp(object, object + 1, SIZE - 1) == 0);
    end_reading();
    await(&other);
    assert_int_equal(cache_out(cache), out - 1);
    end_helper(&other);
}

static void leave_some_unfreed(void)
{
    require(fresh(NULL) == 0);
    defer_some(1);
    slm_options.refuse_blocks = 1;
    enter();
    defer_some(4); /* what the thread has is used */
    require(load_relaxed(&slm_defer_queue_unfreed) == 0 && waiting() == 5);
    defer_some(40);
    require(load_relaxed(&slm_defer_queue_unfreed) == 40 && waiting() == 5);
    leave();
    slm_deferred_barrier();
    require(waiting() == 0 && load_relaxed(&slm_defer_queue_unfreed) == 40);
    defer_some(1); /* outside all goes on */
    slm_deferred_barrier();
    require(waiting() == 0 && load_relaxed(&slm_defer_queue_unfreed) == 40);
}

static void inside_a_section_it_is_left_unfreed_and_told_once(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(leave_some_unfreed);
    assert_string_equal(outcome.said, "slabmalloc: no memory to retire an object inside an epoch section: it and its "
                                      "like are left unfreed (slab_stats.deferred_unfreed)\n");
    assert_int_equal(outcome.status, 0);
}

static void *retire_without_a_block(void *nothing)
{
    slm_tls.state = SLM_THREAD_GONE; /* as after its last life */
    defer_some(10);
    return nothing;
}

static void a_thread_without_a_block_retires_too(void **state)
{
    (void)state;
    begin_reading();
    on_threads(1, retire_without_a_block);
    assert_int_equal(on_queues(), 10);
    end_reading();
    slm_deferred_barrier();
    slm_options.refuse_blocks = 1;
    on_threads(1, retire_without_a_block); /* it waits with each of them */
    assert_int_equal(waiting(), 0);
}

/* -- no membarrier ----------------------------------------------------------------------------------------------- */

static void defer_by_fences(void)
{
    refuse_call(SYS_membarrier, ENOSYS, SECCOMP_FILTER_FLAG_TSYNC);
    require(fresh(NULL) == 0);
    require(readers_fence());
    begin_reading();
    defer_some(FLOOD);
    require(in_magazines() == 0 && on_queues() == FLOOD); /* nobody could take what ages there */
    end_reading();
    slm_deferred_barrier();
    require(waiting() == 0);
    slm_options.deferred_max_bytes = 4096; /* less than the queue's open magazine has */
    flood_and_wait(100);
    slm_options.deferred_max_bytes = 0;
    slm_options.refuse_blocks = 1;
    enter();
    for (unsigned i = 0; i < 100; i++) {
        void *object = object_of_cache();
        slm_defer(object, head_in(object));
    }
    leave();
    defer_some(10); /* each waits, and is free */
    require(load_relaxed(&slm_defer_queue_unfreed) == 0);
    slm_deferred_barrier();
    require(waiting() == 0);
    require(all_is_free(NULL) == 0);
}

static void lose_barriers(void)
{
    struct helper other;
    require(fresh(NULL) == 0);
    start_live_helper(&other);
    tell(&other, defer_three, NULL);
    take_membarrier_away();
    slm_deferred_barrier(); /* what others have in their magazines cannot be had */
    require(in_magazines() == 3);
    for (unsigned i = 0; i < SLM_MAGAZINE_ROUNDS_MAX; i++)
        tell(&other, defer_three, NULL);
    require(in_magazines() == 0); /* they bring it themselves */
    begin_reading();
    end_reading(); /* with fences from now on */
    end_helper(&other);
    require(all_is_free(NULL) == 0);
}

static void membarrier_may_be_missing(void **state)
{
    (void)state;
    assert_child_silent(defer_by_fences);
    const struct outcome outcome = in_child(lose_barriers);
    assert_string_equal(outcome.said, NO_MORE_BARRIERS);
    assert_int_equal(outcome.status, 0);
}

#define deferred_test(name) cmocka_unit_test_setup_teardown(name, fresh, all_is_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(membarrier_may_be_missing), /* before anybody reads */
        cmocka_unit_test(where_nobody_else_reads_it_is_free_at_once),
        deferred_test(any_object_waits_for_readers),
        cmocka_unit_test(what_is_no_object_ends_the_process),
        deferred_test(polls_free_what_has_waited_long_enough),
        deferred_test(functions_run_in_polls_outside_of_sections),
        deferred_test(barriers_wait_for_readers_and_for_slow_paths),
        cmocka_unit_test(barriers_that_would_wait_for_themselves_end_the_process),
        deferred_test(a_flood_waits_for_readers_but_not_for_ever),
        deferred_test(a_flood_is_bounded_where_readers_leave),
        deferred_test(who_may_not_wait_queues_past_the_limit),
        deferred_test(without_memory_heads_serve),
        deferred_test(without_memory_it_waits_and_frees),
        deferred_test(without_memory_it_waits_for_readers),
        cmocka_unit_test(inside_a_section_it_is_left_unfreed_and_told_once),
        deferred_test(a_thread_without_a_block_retires_too),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
