/* src/thread/park.h: threads that are still keep no rounds. Threads here stand still where a test wants them.
 * test_park_barriers.c has those in the middle of a pop, and what happens between two barriers. */
#include "parking.h"

#include "heap/cache_object.h"
#include "os/sys.h"
#include "page/span_alloc.h"

/* -- who is parked ----------------------------------------------------------------------------------------------- */

static void a_still_thread_is_parked_at_the_fifth_look(void **state)
{
    (void)state;
    void *const top = top_round();
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    for (unsigned i = 0; i < 4; i++)
        assert_true(look() && helper.tls->hot == helper.tls->self);
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers);
    assert_true(look());
    assert_true(is_parked(&helper));
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers + BARRIERS);
    assert_int_equal(slm_thread_rounds(helper.tls->self, cache->id), 1);
    assert_true(is_in_slab(top));
    assert_false(is_in_slab(top_round()));
    assert_int_equal(live(), 0);
}

/* Its rounds come to a depot that the program leaves alone. */
static void parking_does_not_stir_a_depot(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        slm_depot_is_still(&cache->first, true);
    const uint64_t out = cache_out(cache);
    park();
    assert_true(is_parked(&helper));
    assert_true(cache_out(cache) < out);
    assert_true(slm_depot_is_still(&cache->first, false));
    tell(&helper, hoard, NULL);
    assert_false(slm_depot_is_still(&cache->first, false));
}

static void looks_come_at_intervals(void **state)
{
    (void)state;
    look();
    for (unsigned i = 0; i < 10; i++)
        assert_false(slm_park_pass(now_ms + i));
    assert_true(is_at_rest_in_block(&helper));
}

static void a_thread_in_slow_paths_is_left_alone(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        look();
        tell(&helper, enter_slow_path, NULL);
        tell(&helper, leave_slow_path, NULL);
    }
    assert_true(is_at_rest_in_block(&helper));
    assert_true(slm_thread_rounds(helper.tls->self, cache->id) > 10);
}

static void a_parked_thread_is_passed_over(void **state)
{
    (void)state;
    park();
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    void *const top = top_round();
    for (unsigned i = 0; i < 8; i++)
        assert_false(look());
    slm_park_all(true);
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers);
    assert_ptr_equal(top_round(), top);
}

static void who_stands_in_a_slow_path_is_met_later(void **state)
{
    (void)state;
    const uint64_t rounds = slm_thread_rounds(helper.tls->self, cache->id);
    tell(&helper, enter_slow_path, NULL);
    park();
    slm_park_all(true);
    assert_ptr_equal(helper.tls->hot, slm_nothing);
    assert_int_equal(slm_thread_rounds(helper.tls->self, cache->id), rounds);
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    assert_false(look()); /* and it costs nothing meanwhile */
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers);
    tell(&helper, leave_slow_path, NULL);
    park();
    assert_true(is_parked(&helper));
}

static void barriers_are_for_all_threads(void **state)
{
    (void)state;
    struct helper more[5];
    for (size_t i = 0; i < COUNT(more); i++) {
        start_live_helper(&more[i]);
        tell(&more[i], hoard, NULL);
    }
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    park();
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers + BARRIERS);
    for (size_t i = 0; i < COUNT(more); i++) {
        assert_true(is_parked(&more[i]));
        end_helper(&more[i]);
    }
}

static void trimming_takes_from_all(void **state)
{
    (void)state;
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    slm_park_all(true);
    assert_true(is_parked(&helper));
    assert_int_equal(slm_thread_rounds(helper.tls->self, cache->id), 1);
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers + BARRIERS);
    assert_int_equal(live(), 0);
}

static void await_a_pass(void)
{
    const struct slm_thread *self = slm_tls.self;
    while (!load_relaxed(&self->still))
        sched_yield();
    slm_cache_lock();
    slm_cache_unlock();
}

/* In a slow path until the pass that has met it there is over. */
static void leave_when_missed(void *nothing)
{
    await_a_pass();
    leave_slow_path(nothing);
}

/* The same at the end of a slow path, which it has counted. */
static void end_when_missed(void *nothing)
{
    (void)nothing;
    await_a_pass();
    slm_tls.self->passes--;
    slm_thread_leave(slm_tls.self);
}

static void count_slow_path(void *nothing)
{
    (void)nothing;
    slm_tls.self->passes++;
}

/* Again, if it gets no CPU for long. */
static void is_waited_for(void (*begin)(void *nothing), void (*end)(void *nothing))
{
    unsigned attempts = 0;
    do {
        tell(&helper, hoard, NULL);
        tell(&helper, enter_slow_path, NULL);
        tell(&helper, begin, NULL);
        helper.tls->self->still = 0;
        begin_task(&helper, end, NULL);
        slm_park_all(true);
        await(&helper);
    } while (!is_parked(&helper) && ++attempts < 20);
    assert_true(is_parked(&helper));
    assert_int_equal(slm_thread_rounds(helper.tls->self, cache->id), 1);
}

static void no_more(void *nothing)
{
    (void)nothing;
}

static void trimming_waits_for_slow_paths(void **state)
{
    (void)state;
    is_waited_for(no_more, leave_when_missed);
    is_waited_for(count_slow_path, end_when_missed);
}

/* -- coming back ------------------------------------------------------------------------------------------------- */

static bool is_resident(const void *object)
{
    unsigned char resident;
    void *page = (void *)((uintptr_t)object & ~(uintptr_t)4095);
    require(mincore(page, 4096, &resident) == 0);
    return resident & 1;
}

static void a_stand_in_is_never_touched(void **state)
{
    (void)state;
    park();
    const void *const stand_in = top_round();
    assert_false(is_resident(stand_in));
    tell(&helper, hoard, NULL);
    assert_true(is_at_rest_in_block(&helper));
    assert_true(is_in_slab(stand_in));
    assert_false(is_resident(stand_in));
}

/* Memory that others have used is cleaned first. */
static void stand_ins_of_dirty_memory_pin_none(void **state)
{
    (void)state;
    char *object = malloc(64 * MIB);
    memset(object, 1, 64 * MIB);
    free(object);
    park();
    assert_true(is_parked(&helper));
    assert_false(is_resident(top_round()));
}

enum { HOLES = 64, APART = 40 };

static void hoard_all_classes(void *nothing)
{
    (void)nothing;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        void *objects[20];
        for (unsigned i = 0; i < COUNT(objects); i++)
            require((objects[i] = slm_alloc(slm_class_size[class])) != NULL);
        for (unsigned i = 0; i < COUNT(objects); i++)
            slm_free(objects[i]);
    }
}

/* In a heap with many holes that are as long as a slab. */
static void stand_ins_lie_side_by_side(void **state)
{
    (void)state;
    static struct slm_span *spans[HOLES * APART];
    tell(&helper, hoard_all_classes, NULL);
    for (unsigned i = 0; i < COUNT(spans); i++)
        assert_non_null(spans[i] = slm_span_alloc(slm_area_for_slabs(0), 1, 1));
    for (unsigned i = 0; i < COUNT(spans); i += APART)
        slm_span_free(spans[i]);
    now_ms = slm_max(now_ms, slm_sys_now_ms()); /* at which the helper's slow paths may have looked */
    park();
    assert_true(is_parked(&helper));
    uintptr_t first = UINTPTR_MAX, last = 0;
    unsigned stand_ins = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct slm_slot *slot = slm_slot_of(helper.tls->self, class);
        if (load_relaxed(&slot->target) == 0 || slot->top == slot->bottom)
            continue;
        first = slm_min(first, (uintptr_t)slot->top[-1] / SLM_GRANULE);
        last = slm_max(last, (uintptr_t)slot->top[-1] / SLM_GRANULE);
        stand_ins++;
    }
    assert_true(stand_ins > 5);
    assert_true(last - first < SLM_CLASSES);
    for (unsigned i = 0; i < COUNT(spans); i++)
        if (i % APART != 0)
            slm_span_free(spans[i]);
}

static void targets_stay(void **state)
{
    (void)state;
    const uint32_t target = load_relaxed(&slot_of(&helper)->target);
    park();
    tell(&helper, hoard, NULL);
    assert_true(load_relaxed(&slot_of(&helper)->target) >= target);
    assert_true(slm_thread_rounds(helper.tls->self, cache->id) >= target / 2);
}

static void a_thread_may_be_parked_again_and_again(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        park();
        assert_true(is_parked(&helper));
        assert_int_equal(live(), 0);
        tell(&helper, hoard, NULL);
        slm_thread_check(helper.tls->self);
    }
}

static void a_parked_thread_ends(void **state)
{
    (void)state;
    struct helper other;
    start_live_helper(&other);
    tell(&other, hoard, NULL);
    park();
    assert_true(is_parked(&other));
    end_helper(&other);
    assert_int_equal(live(), 0);
}

static pid_t child;

static void fork_and_use(void *nothing)
{
    (void)nothing;
    child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        live_quietly(NULL);
        require(is_at_rest_in_block(&helper)); /* the slab of its stand-ins is like any other from here on */
        const uint64_t slabs = slm_depot_slabs(&cache->first);
        slm_park_all(true);
        require(slm_depot_slabs(&cache->first) <= slabs + 1); /* for the parent's first thread */
        check_heap();
        hoard(NULL);
        slm_thread_check(slm_tls.self);
        struct helper others[2]; /* their stand-ins come from slabs of the child's own */
        for (size_t i = 0; i < COUNT(others); i++) {
            start_live_helper(&others[i]);
            tell(&others[i], hoard, NULL);
            slm_park_all(true);
            require(is_parked(&others[i]));
            hoard(NULL);
            check_heap();
        }
        for (size_t i = 0; i < COUNT(others); i++) {
            tell(&others[i], hoard, NULL);
            check_heap();
            end_helper(&others[i]);
        }
        _exit(0);
    }
}

static void a_parked_thread_forks(void **state)
{
    (void)state;
    int how = -1;
    park();
    fflush(NULL);
    tell(&helper, fork_and_use, NULL);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
}

/* -- named caches ------------------------------------------------------------------------------------------------ */

static void use_named(void *name)
{
    void *objects[HOARD];
    for (size_t i = 0; i < HOARD; i++)
        require((objects[i] = slm_cache_object_alloc(name)) != NULL);
    for (size_t i = 0; i < HOARD; i++)
        slm_cache_object_free(name, objects[i]);
}

static void of_named_caches_the_top_rounds_stay(void **state)
{
    (void)state;
    const struct slab_cache_attr plain = {.flags = SLAB_NO_MERGE}, limited = {.limit_bytes = 1 << 20};
    struct slab_cache *names[] = {named("plain", 200, &plain), named("limited", 200, &limited)};
    for (size_t i = 0; i < COUNT(names); i++)
        tell(&helper, use_named, names[i]);
    park();
    assert_true(is_parked(&helper));
    for (size_t i = 0; i < COUNT(names); i++) {
        struct slm_cache *named_cache = cache_of(names[i]);
        assert_int_equal(slm_thread_rounds(helper.tls->self, named_cache->id), 1);
        assert_int_equal(cache_out(named_cache), 1 + cache_stock(named_cache));
        if (i == 1)
            assert_int_equal(load_relaxed(&slm_cache_own(named_cache)->limit.charged), cache_out(named_cache));
        if (i == 1)
            assert_int_equal(slm_limit_hands(load_relaxed(&slm_cache_own(named_cache)->limit.hands)), 0);
        tell(&helper, use_named, names[i]);
        park();
        assert_int_equal(slab_cache_destroy(names[i]), 0);
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {
#define ROW(test) cmocka_unit_test_setup_teardown(test, begin_test, end_test)
        ROW(a_still_thread_is_parked_at_the_fifth_look),
        ROW(parking_does_not_stir_a_depot),
        ROW(looks_come_at_intervals),
        ROW(a_thread_in_slow_paths_is_left_alone),
        ROW(a_parked_thread_is_passed_over),
        ROW(who_stands_in_a_slow_path_is_met_later),
        ROW(barriers_are_for_all_threads),
        ROW(trimming_takes_from_all),
        ROW(trimming_waits_for_slow_paths),
        ROW(a_stand_in_is_never_touched),
        ROW(stand_ins_of_dirty_memory_pin_none),
        ROW(stand_ins_lie_side_by_side),
        ROW(targets_stay),
        ROW(a_thread_may_be_parked_again_and_again),
        ROW(a_parked_thread_ends),
        ROW(a_parked_thread_forks),
        ROW(of_named_caches_the_top_rounds_stay),
    };
    return cmocka_run_group_tests(tests, begin_group, NULL);
}
