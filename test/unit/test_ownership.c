/* src/thread/ownership.h: working on the blocks of threads that are not looking, and on those of threads that are in
 * the middle of something. Threads here stand still where a test wants them. test_ownership_recall.c has recalls. */
#include "unit.h"

#include "os/sys.h"
#include "taking.h"
#include "under_way.h"

/* -- threads that are elsewhere ---------------------------------------------------------------------------------- */

static void all_but_the_top_round_is_taken(void **state)
{
    (void)state;
    const uint64_t before = rounds_of(&helper);
    void **const top = slot_of(&helper)->top;
    void *const last = round_of(&helper, 0);
    assert_int_equal(take(false, false), 0);
    assert_int_equal(taken_count(), before - 1);
    assert_int_equal(rounds_of(&helper), 1);
    assert_ptr_equal(slot_of(&helper)->top, top); /* which the owner alone moves */
    assert_ptr_equal(slot_of(&helper)->bottom, top - 1);
    assert_false(was_taken(last));
    assert_true(is_at_rest(&helper));
    assert_int_equal(take(false, false), 0); /* there is no more of it */
    assert_int_equal(taken_count(), 0);
}

static void what_is_left_goes_on(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 5; turn++) {
        assert_int_equal(take(false, false), 0);
        assert_true(taken_count() > 0);
        tell(&helper, hoard, NULL);
        slm_thread_check(helper.tls->self);
        assert_true(rounds_of(&helper) > 0);
    }
}

static void the_last_round_goes_where_nobody_uses_it(void **state)
{
    (void)state;
    struct slm_thread *block = helper.tls->self;
    const uint64_t before = rounds_of(&helper);
    const size_t bytes = block->target_bytes;
    assert_int_equal(take(true, false), 0);
    assert_int_equal(taken_count(), before);
    assert_true(is_dismantled(slot_of(&helper)));
    assert_int_equal(block->target_bytes, bytes - 2ul * ROUNDS * cache->shape.object_size);
    assert_int_equal(cache_out(cache), before + cache_stock(cache));
    hand_on_taken();
    assert_int_equal(cache_out(cache), cache_stock(cache));
}

/* After a first taking the magazine begins behind its array's start. */
static void what_a_first_taking_left_is_dismantled_whole(void **state)
{
    (void)state;
    assert_int_equal(take(false, false), 0);
    void *const last = round_of(&helper, 0);
    assert_int_equal(take(true, false), 0);
    assert_int_equal(taken_count(), 1);
    assert_true(was_taken(last));
}

static void the_caller_takes_its_own_to_the_last(void **state)
{
    (void)state;
    hoard(NULL);
    const uint64_t own = slm_thread_rounds(slm_tls.self, cache->id), others = rounds_of(&helper);
    struct slm_thread *self = slm_thread_hide();
    taken = (struct slm_take_rounds){.cache = cache, .how = SLM_TAKE_SPARE};
    assert_int_equal(slm_take_rounds(self, &taken), 0);
    slm_thread_unhide(self);
    assert_int_equal(taken_count(), own + others - 1);
    assert_int_equal(slm_thread_rounds(slm_tls.self, cache->id), 0);
}

static void reserves_go_too(void **state)
{
    (void)state;
    struct slab_cache *other = name;
    name = named("limited", 128, &(struct slab_cache_attr){.limit_bytes = 1 << 20, .magazine_rounds = ROUNDS});
    cache = cache_of(name);
    tell(&helper, hoard, NULL);
    tell(&helper, ask_reserve, NULL);
    tell(&helper, hoard, NULL); /* brings the reserve */
    assert_true(slm_reserve_rounds(helper.tls->self, cache) > 0);
    assert_int_equal(take(true, false), 0);
    assert_int_equal(slm_reserve_rounds(helper.tls->self, cache), 0);
    assert_false(slm_reserve_knows(helper.tls->self, cache));
    assert_int_equal(cache_out(cache), taken_count() + cache_stock(cache));
    hand_on_taken();
    assert_int_equal(load_relaxed(&slm_cache_own(cache)->limit.charged), cache_stock(cache));
    assert_int_equal(slab_cache_destroy(name), 0);
    name = other;
    cache = cache_of(name);
}

/* -- threads in the middle of a hot operation -------------------------------------------------------------------- */

static void free_round(void *round)
{
    slm_cache_object_free(name, round);
}

/* Room above, rounds below. */
static void pop_five(void *objects)
{
    for (unsigned i = 0; i < 5; i++)
        ((void **)objects)[i] = slm_cache_object_alloc(name);
}

static void a_pop_under_way_ends_with_nothing(void **state)
{
    (void)state;
    void *five[5];
    tell(&helper, pop_five, five);
    tell(&helper, begin_hot, cache);
    assert_int_equal(take(false, false), 0);
    assert_true(taken_count() > 1);
    tell(&helper, end_pop, NULL);
    assert_false(was_taken(under_way_round));
    assert_ptr_equal(slot_of(&helper)->top, slot_of(&helper)->bottom);
    slm_thread_check(helper.tls->self);
    tell(&helper, hoard, NULL); /* none of those that hoard() gets is the popped one: it would be free twice */
    tell(&helper, free_round, under_way_round);
    for (unsigned i = 0; i < 5; i++)
        tell(&helper, free_round, five[i]);
}

static void a_push_under_way_ends_above(void **state)
{
    (void)state;
    void *five[5];
    tell(&helper, pop_five, five);
    under_way_round = five[4];
    tell(&helper, begin_hot, cache);
    void *const below = round_of(&helper, 0);
    assert_int_equal(take(false, false), 0);
    tell(&helper, end_push, under_way_round);
    assert_int_equal(slm_slot_rounds(slot_of(&helper)), 2);
    assert_ptr_equal(round_of(&helper, 0), under_way_round);
    assert_ptr_equal(round_of(&helper, 1), below);
    slm_thread_check(helper.tls->self);
    for (unsigned i = 0; i < 4; i++)
        tell(&helper, free_round, five[i]);
}

/* -- threads in a slow path -------------------------------------------------------------------------------------- */

static void a_thread_in_a_slow_path_is_missed(void **state)
{
    (void)state;
    const uint64_t before = rounds_of(&helper);
    tell(&helper, enter_slow_path, NULL);
    assert_int_equal(take(false, false), 1);
    assert_int_equal(taken_count(), 0);
    assert_int_equal(rounds_of(&helper), before);
    assert_ptr_equal(helper.tls->hot, slm_nothing);
    assert_int_equal(load_relaxed(&helper.tls->self->attention), 0); /* nobody insists */
    tell(&helper, leave_slow_path, NULL);
    assert_int_equal(take(false, false), 0);
    assert_int_equal(taken_count(), before - 1);
}

static void who_insists_asks_it_to_pause(void **state)
{
    (void)state;
    const uint64_t before = rounds_of(&helper);
    tell(&helper, enter_slow_path, NULL);
    assert_int_equal(take(true, false), 1);
    assert_int_equal(load_relaxed(&helper.tls->self->attention), SLM_ATTEND_PAUSE);
    begin_task(&helper, leave_slow_path, NULL);
    while (take(true, false) > 0)
        ;
    assert_int_equal(taken_count(), before);
    await(&helper);
    assert_int_equal(load_relaxed(&helper.tls->self->attention), 0);
    assert_true(is_at_rest(&helper));
}

static void leave_and_measure(void *took_us)
{
    const uint64_t start_us = slm_sys_now_us();
    leave_slow_path(NULL);
    *(uint64_t *)took_us = slm_sys_now_us() - start_us;
}

/* Three times a millisecond, and no longer. */
static void a_pause_does_not_last(void **state)
{
    (void)state;
    uint64_t took_us;
    tell(&helper, enter_slow_path, NULL);
    assert_int_equal(take(true, false), 1);
    tell(&helper, leave_and_measure, &took_us); /* and nobody comes: it hangs if it waits for that */
    assert_true(took_us >= 2000);
    assert_true(is_at_rest(&helper));
}

static _Atomic bool enough;

static void pass_slow_paths_all_the_time(void *nothing)
{
    (void)nothing;
    while (!load_relaxed(&enough)) {
        enter_slow_path(NULL);
        const uint64_t start = slm_sys_now_us();
        while (slm_sys_now_us() < start + 2000)
            ;
        leave_slow_path(NULL);
    }
}

/* By the pause: it is in one slow path or another nearly always. */
static void a_thread_that_is_always_in_slow_paths_is_caught(void **state)
{
    (void)state;
    const uint64_t before = rounds_of(&helper);
    begin_task(&helper, pass_slow_paths_all_the_time, NULL);
    while (take(true, false) > 0)
        sleep_ms(1);
    store_relaxed(&enough, true);
    await(&helper);
    assert_int_equal(taken_count(), before);
}

/* -- threads that come while they are taken ---------------------------------------------------------------------- */

static void (*meanwhile)(void);
static unsigned worked;

static void work(struct slm_thread *thread, void *context)
{
    require(context == &worked && thread == helper.tls->self);
    require(thread->tls->hot == slm_taken);
    worked++;
    if (meanwhile)
        meanwhile();
}

static bool want_all(struct slm_thread *thread, void *context)
{
    return thread && context;
}

static unsigned take_and(void (*what)(void))
{
    const struct slm_take plan = {.wants = want_all, .work = work, .context = &worked};
    meanwhile = what;
    worked = 0;
    slm_legacy_bury(true); /* else it is worked on, too */
    struct slm_thread *self = slm_thread_hide();
    const unsigned missed = slm_take_from_all(&plan);
    slm_thread_unhide(self);
    return missed;
}

static void begin_hoard(void)
{
    begin_task(&helper, hoard, NULL);
    require(!is_done_within(&helper, 30));       /* longer than it sleeps at a time */
    while (load_relaxed(&helper.tls->busy) != 0) /* as it is when it looks */
        sleep_ms(1);
    require(helper.tls->hot == slm_taken);
}

static void an_owner_waits_until_it_is_over(void **state)
{
    (void)state;
    assert_int_equal(take_and(begin_hoard), 0);
    assert_int_equal(worked, 1);
    await(&helper);
    assert_true(is_at_rest(&helper));
}

static pid_t child_of_helper;

/* In the child there is no taker, and so nobody who takes slm_taken off again. */
static void fork_now(void *nothing)
{
    (void)nothing;
    child_of_helper = fork();
    if (child_of_helper == 0) {
        alarm(CHILD_SECONDS);
        require(slm_tls.hot == slm_taken);
        hoard(NULL);
        require(is_at_rest(&helper) && slm_thread_list_count() == 1);
        require(take(false, false) == 0); /* and it can take */
        _exit(0);
    }
}

static void have_it_fork(void)
{
    tell(&helper, fork_now, NULL);
}

static void *use_malloc(void *nothing)
{
    void *volatile object = malloc(1000);
    free(object);
    return nothing;
}

/* The same where a thread of the child notices the fork before the one that was taken does, as libc's pthread_create
 * lets it. */
static void fork_and_let_another_notice(void *nothing)
{
    (void)nothing;
    child_of_helper = fork();
    if (child_of_helper == 0) {
        alarm(CHILD_SECONDS);
        const uint32_t generation = slm_fork_generation;
        pthread_t thread;
        require(creator_in_libc()(&thread, NULL, use_malloc, NULL) == 0 && pthread_join(thread, NULL) == 0);
        require(slm_fork_generation != generation && slm_tls.hot == slm_taken);
        hoard(NULL);
        require(is_at_rest(&helper));
        _exit(0);
    }
}

static void have_it_fork_quietly(void)
{
    tell(&helper, fork_and_let_another_notice, NULL);
}

static void a_child_takes_it_off_itself(void **state)
{
    (void)state;
    int how = -1;
    fflush(NULL);
    assert_int_equal(take_and(have_it_fork), 0);
    assert_int_equal(waitpid(child_of_helper, &how, 0), child_of_helper);
    assert_int_equal(how, 0);
    on_threads(1, use_malloc); /* leaves a stack to libc, so that it needs no malloc for the child's thread */
    assert_int_equal(take_and(have_it_fork_quietly), 0);
    assert_int_equal(waitpid(child_of_helper, &how, 0), child_of_helper);
    assert_int_equal(how, 0);
}

static void a_dry_thread_is_taken_and_stays_dry(void **state)
{
    (void)state;
    const uint64_t before = rounds_of(&helper);
    tell(&helper, ask_reserve, NULL);
    assert_ptr_equal(helper.tls->hot, slm_detour);
    assert_int_equal(take(false, false), 0);
    assert_int_equal(taken_count(), before - 1);
    assert_ptr_equal(helper.tls->hot, slm_detour);
    tell(&helper, hoard, NULL); /* passes a slow path, at whose end the reserve is filled */
    assert_true(is_at_rest(&helper));
    assert_true(slm_reserve_rounds(helper.tls->self, cache) > 0);
}

/* -- barriers ---------------------------------------------------------------------------------------------------- */

static void one_barrier_serves_for_all(void **state)
{
    (void)state;
    struct helper more[3];
    for (size_t i = 0; i < COUNT(more); i++)
        start_live_helper(&more[i]);
    struct slm_thread *const first = more[0].tls->self;
    for (size_t i = 0; i < 2; i++)
        tell(&more[i], hoard, NULL);
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    assert_int_equal(take(false, false), 0);
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers + 1);
    assert_int_equal(slm_thread_rounds(first, cache->id), 1);
    assert_int_equal(take(true, false), 0);
    const uint64_t between = load_relaxed(&slm_sys_membarriers);
    assert_int_equal(take(false, false), 0); /* nobody has anything: none */
    assert_int_equal(load_relaxed(&slm_sys_membarriers), between);
    assert_int_equal(take(false, true), 0); /* or one all the same */
    assert_int_equal(load_relaxed(&slm_sys_membarriers), between + 1);
    for (size_t i = 0; i < COUNT(more); i++)
        end_helper(&more[i]);
}

static void take_without_barriers(void)
{
    refuse_call(SYS_membarrier, EPERM, 0);
    struct helper threads[2];
    name = named("no barrier", 128, &twenty);
    cache = cache_of(name);
    for (size_t i = 0; i < COUNT(threads); i++) {
        start_live_helper(&threads[i]);
        tell(&threads[i], hoard, NULL);
    }
    const uint64_t before = rounds_of(&threads[0]);
    require(take(false, false) == COUNT(threads) && taken_count() == 0);
    require(take(true, false) == COUNT(threads) && taken_count() == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(is_at_rest(&threads[i]) && rounds_of(&threads[i]) == before);
    for (size_t i = 0; i < COUNT(threads); i++)
        end_helper(&threads[i]);
}

static void without_barriers_all_are_missed(void **state)
{
    (void)state;
    assert_child_silent(take_without_barriers);
}

static void a_thread_that_is_gone_is_taken_from(void **state)
{
    (void)state;
    struct slm_thread *block = leave_block_behind(cache->id);
    const uint64_t rounds = slm_thread_rounds(block, cache->id) + rounds_of(&helper);
    assert_int_equal(take(true, false), 0);
    assert_int_equal(taken_count(), rounds);
    assert_int_equal(slm_thread_rounds(block, cache->id), 0);
    const uint32_t recall = slm_take_recall();
    tell(&helper, enter_slow_path, NULL);
    tell(&helper, leave_slow_path, NULL);
    assert_int_equal(slm_take_recalled(), recall); /* a thread that is gone has nothing to attend to */
    slm_thread_list_remove(block);
    slm_thread_block_free(block);
}

/* It may have been asked for objects of any cache. */
static void a_thread_that_is_gone_wants_nothing(void **state)
{
    (void)state;
    struct slm_thread *block = leave_block_behind(cache->id);
    struct slm_cache *other = slm_class_cache(slm_class_of_size(3000));
    uint64_t gathered;
    assert_ptr_not_equal(other, cache);
    assert_int_equal(slm_gather_from_threads(other, SLM_TAKE_EVERYTHING, &gathered), 0);
    assert_int_equal(take(true, false), 0); /* of the cache that it did use */
    slm_thread_list_remove(block);
    slm_thread_block_free(block);
}

#define take_test(name) cmocka_unit_test_setup_teardown(name, begin_with_helper, end_with_helper)

int main(void)
{
    const struct CMUnitTest tests[] = {
        take_test(all_but_the_top_round_is_taken),
        take_test(what_is_left_goes_on),
        take_test(the_last_round_goes_where_nobody_uses_it),
        take_test(what_a_first_taking_left_is_dismantled_whole),
        take_test(the_caller_takes_its_own_to_the_last),
        take_test(reserves_go_too),
        take_test(a_pop_under_way_ends_with_nothing),
        take_test(a_push_under_way_ends_above),
        take_test(a_thread_in_a_slow_path_is_missed),
        take_test(who_insists_asks_it_to_pause),
        take_test(a_pause_does_not_last),
        take_test(a_thread_that_is_always_in_slow_paths_is_caught),
        take_test(an_owner_waits_until_it_is_over),
        take_test(a_child_takes_it_off_itself),
        take_test(a_dry_thread_is_taken_and_stays_dry),
        take_test(one_barrier_serves_for_all),
        cmocka_unit_test(without_barriers_all_are_missed),
        take_test(a_thread_that_is_gone_is_taken_from),
        take_test(a_thread_that_is_gone_wants_nothing),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
