/* src/depot/limit.h and src/thread/gather.h: charging, what is gathered before a call is refused, and that nothing is
 * lost or let through with several threads. */
#include "unit.h"

#include "caches.h"
#include "depot/pending_slabs.h"
#include "heap/cache_object.h"
#include "thread/gather.h"
#include "os/sys.h"
#include "thread/reserve.h"

/* -- charging ---------------------------------------------------------------------------------------------------- */

static void without_a_limit_all_is_charged(void **state)
{
    (void)state;
    assert_int_equal(slm_limit_charge(NULL, 254), 254);
    slm_limit_return(NULL, 254);
    slm_limit_recharge(NULL, 1);
    slm_limit_carry(NULL);
    slm_limit_carried(NULL);
}

static void a_charge_leaves_some_to_others(void **state)
{
    (void)state;
    struct slm_limit limit = {.objects = 1000};
    assert_int_equal(slm_limit_charge(&limit, 100), 100);
    assert_int_equal(slm_limit_charge(&limit, 254), 900 / SLM_LIMIT_SHARES);
    assert_int_equal(load_relaxed(&limit.charged), 100 + 900 / SLM_LIMIT_SHARES);
}

static void charges_come_to_the_limit_exactly(void **state)
{
    (void)state;
    for (uint64_t objects = 0; objects < 300; objects += 7) {
        struct slm_limit limit = {.objects = objects};
        uint64_t charged = 0, some;
        while ((some = slm_limit_charge(&limit, 30)) > 0)
            charged += some;
        assert_int_equal(charged, objects);
        assert_int_equal(load_relaxed(&limit.charged), objects);
        slm_limit_recharge(&limit, 5); /* beyond it */
        assert_int_equal(slm_limit_charge(&limit, 1), 0);
        slm_limit_return(&limit, 5);
        assert_int_equal(slm_limit_charge(&limit, 1), 0);
        if (objects == 0)
            continue;
        slm_limit_return(&limit, 1);
        assert_int_equal(slm_limit_charge(&limit, 30), 1);
    }
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

enum { LIMIT = 400, SIZE = 64 };

static const struct slab_cache_attr limited = {.limit_bytes = (size_t)LIMIT * SIZE};

static struct slab_cache *name;
static struct slm_cache *cache;
static struct helper helpers[2];
static void *objects[2 * LIMIT];

static int begin_cache(void **state)
{
    (void)state;
    slm_sys_membarrier_register();
    name = named("limited", SIZE, &limited);
    cache = cache_of(name);
    for (size_t i = 0; i < COUNT(helpers); i++)
        start_live_helper(&helpers[i]);
    return cache->shape.limit && slm_cache_own(cache)->limit.objects == LIMIT ? 0 : -1;
}

static int end_cache(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(helpers); i++)
        end_helper(&helpers[i]);
    return slab_cache_destroy(name);
}

static uint64_t live(void)
{
    return cache_out(cache) - cache_stock(cache) - slm_reserve_held_by_all(cache);
}

static uint64_t rounds_of(const struct helper *helper)
{
    return slm_thread_rounds(helper->tls->self, cache->id);
}

static void use_some(void *nothing)
{
    (void)nothing;
    void *some[20];
    for (size_t i = 0; i < COUNT(some); i++)
        require((some[i] = slm_cache_object_alloc(name)) != NULL);
    for (size_t i = 0; i < COUNT(some); i++)
        slm_cache_object_free(name, some[i]);
}

/* As many as there are to be had. */
static unsigned alloc_all(void)
{
    unsigned n = 0;
    errno = 0;
    while (n < COUNT(objects) && (objects[n] = slm_cache_object_alloc(name)))
        n++;
    require(errno == ENOMEM);
    return n;
}

/* Without one that is refused: that call would wait for a thread that stands still. */
static void alloc_some(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_non_null(objects[i] = slm_cache_object_alloc(name));
}

static void free_some(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        slm_cache_object_free(name, objects[i]);
}

static void magazines_of_a_small_limit_are_small(void **state)
{
    (void)state;
    assert_true(load_relaxed(&cache->most_rounds) <= LIMIT / 16);
    tell(&helpers[0], use_some, NULL);
    assert_true(rounds_of(&helpers[0]) > 0 && rounds_of(&helpers[0]) <= 2 * LIMIT / 16);
}

static void a_failing_call_has_gathered_the_others_to_the_last_round(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 5; turn++) {
        for (size_t i = 0; i < COUNT(helpers); i++) {
            tell(&helpers[i], use_some, NULL);
            assert_true(rounds_of(&helpers[i]) > 0);
        }
        assert_int_equal(alloc_all(), LIMIT);
        assert_int_equal(live(), LIMIT);
        for (size_t i = 0; i < COUNT(helpers); i++)
            assert_int_equal(rounds_of(&helpers[i]), 0);
        free_some(0, LIMIT);
        assert_int_equal(live(), 0);
    }
}

static void refusals_need_no_barrier_where_nobody_holds_any(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    assert_int_equal(alloc_all(), LIMIT);
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    for (unsigned i = 0; i < 1000; i++)
        assert_null(slm_cache_object_alloc(name));
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers);
    free_some(0, 1); /* exact to one object */
    objects[0] = slm_cache_object_alloc(name);
    assert_non_null(objects[0]);
    assert_null(slm_cache_object_alloc(name));
    free_some(0, LIMIT);
}

static void ask_reserve(void *nothing)
{
    (void)nothing;
    require(!slab_cache_alloc_nolock(name)); /* the first time there is none */
}

static void have_none_without_a_lock(void *nothing)
{
    (void)nothing;
    require(!slab_cache_alloc_nolock(name));
}

static void have_one_without_a_lock(void *nothing)
{
    (void)nothing;
    void *object = slab_cache_alloc_nolock(name);
    require(object != NULL);
    slab_free_nolock(object);
}

static void free_round(void *round)
{
    slm_cache_object_free(name, round);
}

/* A pop in two halves, as slab_cache_alloc does it for a limited cache. */
static void **under_way_top;
static void *under_way_round;

static void begin_pop(void *nothing)
{
    (void)nothing;
    store_relaxed(&slm_tls.popping, 1);
    under_way_top = slm_shared_load(&slm_slot_of(slm_hot(), cache->id)->top);
    require(under_way_top != slm_slot_of(slm_tls.self, cache->id)->bottom);
}

static void end_pop(void *nothing)
{
    (void)nothing;
    under_way_round = slm_slot_pop(slm_slot_of(slm_tls.self, cache->id), under_way_top);
    store_release(&slm_tls.popping, 0);
}

static bool is_ours(const void *object, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (objects[i] == object)
            return true;
    return false;
}

/* The round of a pop under way is left to it: whoever took it would hand it out twice. The mark tells this thread
 * from one that holds a free object and stands still, whose round must be had before a call may be refused. */
static void a_pop_under_way_keeps_its_round(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    tell(&helpers[0], begin_pop, NULL);
    alloc_some(LIMIT - 1);
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_BUSY);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_BUSY);
    tell(&helpers[0], end_pop, NULL);
    assert_non_null(under_way_round);
    assert_false(is_ours(under_way_round, LIMIT - 1));
    assert_int_equal(live(), LIMIT);
    assert_null(slm_cache_object_alloc(name));
    tell(&helpers[1], free_round, under_way_round);
    under_way_round = slm_cache_object_alloc(name);
    assert_non_null(under_way_round);
    assert_null(slm_cache_object_alloc(name));
    slm_cache_object_free(name, under_way_round);
    free_some(0, LIMIT - 1);
    assert_int_equal(live(), 0);
}

static void a_mark_without_a_pop_costs_nothing(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    tell(&helpers[0], begin_pop, NULL);
    store_release(&helpers[0].tls->popping, 0); /* it has not popped, after all */
    assert_int_equal(alloc_all(), LIMIT);
    free_some(0, LIMIT);
}

static void a_thread_in_a_slow_path_is_looked_at_again(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    const uint64_t held = rounds_of(&helpers[0]);
    tell(&helpers[0], enter_slow_path, NULL);
    assert_true(slm_gather_for_limit(cache, false) <= SLM_LOOK_BUSY);
    const unsigned n = (unsigned)(LIMIT - held);
    alloc_some(n);
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_BUSY);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_BUSY);
    begin_task(&helpers[0], leave_slow_path, NULL);
    await(&helpers[0]);
    for (unsigned i = 0; i < held; i++)
        assert_non_null(objects[n + i] = slm_cache_object_alloc(name));
    assert_null(slm_cache_object_alloc(name));
    free_some(0, LIMIT);
}

static void who_carries_objects_is_waited_for(void **state)
{
    (void)state;
    assert_int_equal(alloc_all(), LIMIT);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_NONE);
    slm_limit_carry(&slm_cache_own(cache)->limit);
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_BUSY);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_BUSY);
    slm_limit_carried(&slm_cache_own(cache)->limit);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_NONE);
    free_some(0, LIMIT);
}

static void free_and_take_again(void *nothing)
{
    (void)nothing;
    slm_cache_object_free(name, objects[LIMIT - 1]);
    objects[LIMIT - 1] = slm_cache_object_alloc(name);
    require(objects[LIMIT - 1] != NULL);
}

/* At which walk over the list of threads a helper does so; 0: at none. */
static unsigned meanwhile;

void __real_slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context);
void __wrap_slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context);
void __wrap_slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context)
{
    if (meanwhile > 0 && --meanwhile == 0)
        tell(&helpers[0], free_and_take_again, NULL);
    __real_slm_thread_list_each(visit, context);
}

/* It was free where the look was not, and is not where the look is: each thread is looked at twice. */
static void what_was_free_in_between_makes_a_look_unsure(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    assert_int_equal(alloc_all(), LIMIT);
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_NONE);
    tell(&helpers[0], free_and_take_again, NULL); /* from here on its slot has a magazine */
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_NONE);
    meanwhile = 2;
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_UNSURE);
    assert_int_equal(meanwhile, 0);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_NONE);
    free_some(0, LIMIT);
}

static void a_limit_that_is_not_met_refuses_nothing(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    assert_int_equal(alloc_all(), LIMIT);
    tell(&helpers[0], free_round, objects[LIMIT - 1]);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_GATHERED);
    assert_int_equal(slm_gather_for_limit(cache, false), SLM_LOOK_UNSURE);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_UNSURE);
    free_some(0, LIMIT - 1);
}

/* A server's threads are often in slow paths, of other caches: only one that may have a round is waited for. */
static void a_slow_path_without_rounds_is_not_waited_for(void **state)
{
    (void)state;
    tell(&helpers[0], use_some, NULL);
    assert_int_equal(alloc_all(), LIMIT);
    tell(&helpers[0], enter_slow_path, NULL);
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_NONE);
    struct slm_thread *theirs = helpers[0].tls->self;
    theirs->at_work = slm_slot_of(theirs, cache->id); /* it may be about to have one */
    assert_int_equal(slm_gather_for_limit(cache, true), SLM_LOOK_BUSY);
    theirs->at_work = NULL;
    begin_task(&helpers[0], leave_slow_path, NULL);
    await(&helpers[0]);
    free_some(0, LIMIT);
}

static void free_theirs(void *theirs)
{
    for (unsigned i = 0; i < LIMIT; i++)
        slm_cache_object_free(name, ((void **)theirs)[i]);
}

static void whoever_frees_it_counts(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 5; turn++) {
        assert_int_equal(alloc_all(), LIMIT);
        assert_int_equal(live(), LIMIT);
        tell(&helpers[turn % 2], free_theirs, objects);
        assert_int_equal(live(), 0);
    }
}

static void *free_and_end(void *nothing)
{
    for (unsigned i = 0; i < LIMIT; i++)
        free(objects[i]);
    use_some(NULL);
    return nothing;
}

static void a_thread_s_end_leaves_nothing_charged(void **state)
{
    (void)state;
    assert_int_equal(alloc_all(), LIMIT);
    on_threads(1, free_and_end);
    assert_int_equal(live(), 0);
    slm_gather_from_depots(cache);
    assert_int_equal(load_relaxed(&slm_cache_own(cache)->limit.charged), cache_out(cache));
    assert_int_equal(alloc_all(), LIMIT);
    free_some(0, LIMIT);
}

/* Nobody can take from another thread's reserve. */
static void reserves_do_not_count(void **state)
{
    (void)state;
    tell(&helpers[0], ask_reserve, NULL);
    tell(&helpers[0], use_some, NULL); /* brings it */
    assert_true(slm_reserve_rounds(helpers[0].tls->self, cache) > 0);
    assert_int_equal(alloc_all(), LIMIT);
    assert_int_equal(live(), LIMIT);
    tell(&helpers[0], have_none_without_a_lock, NULL);
    free_some(0, 1);
    slm_gather_for_limit(cache, false);
    tell(&helpers[0], have_one_without_a_lock, NULL);
    assert_int_equal(live(), LIMIT - 1);
    free_some(1, LIMIT);
}

/* A thread that meets the limit, and gathers what it holds itself, keeps its reserve: that is not charged. */
static void gathering_leaves_the_caller_s_reserve(void **state)
{
    (void)state;
    ask_reserve(NULL);
    use_some(NULL); /* brings it */
    const uint32_t reserve = slm_reserve_rounds(slm_tls.self, cache);
    assert_true(reserve > 0);
    assert_true(slm_thread_rounds(slm_tls.self, cache->id) > 0);
    assert_true(slm_gather_for_limit(cache, false) <= SLM_LOOK_BUSY);
    assert_int_equal(slm_thread_rounds(slm_tls.self, cache->id), 0);
    assert_int_equal(slm_reserve_rounds(slm_tls.self, cache), reserve);
    assert_int_equal(alloc_all(), LIMIT);
    have_none_without_a_lock(NULL);
    assert_int_equal(slm_reserve_rounds(slm_tls.self, cache), reserve);
    free_some(0, LIMIT);
}

static void count_in_child(void)
{
    require(alloc_all() == LIMIT); /* what the parent's threads held is lost, and not counted */
    free_some(0, LIMIT);
    require(live() == 0 && alloc_all() == LIMIT);
}

static void a_child_has_the_whole_limit(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(helpers); i++)
        tell(&helpers[i], use_some, NULL);
    tell(&helpers[0], ask_reserve, NULL);
    tell(&helpers[0], use_some, NULL);
    assert_child_silent(count_in_child);
    assert_int_equal(alloc_all(), LIMIT);
    free_some(0, LIMIT);
}

static void live_without_barriers(void)
{
    refuse_call(SYS_membarrier, EPERM, 0);
    struct helper helper;
    struct slab_cache *other = name;
    store_relaxed(&slm_sys_has_membarrier, false);
    name = named("no barrier", SIZE, &limited);
    cache = cache_of(name);
    start_live_helper(&helper);
    for (unsigned turn = 0; turn < 3; turn++) {
        tell(&helper, use_some, NULL);
        require(rounds_of(&helper) == 0 && live() == 0);
        require(alloc_all() == LIMIT);
        free_some(0, LIMIT);
    }
    end_helper(&helper);
    name = other;
    cache = cache_of(name);
}

static void without_barriers_threads_keep_none(void **state)
{
    (void)state;
    assert_child_silent(live_without_barriers);
}

/* -- all at once ------------------------------------------------------------------------------------------------- */

static _Atomic int64_t in_use; /* counted behind an allocation and before a free: never more than live */
static _Atomic uint64_t refused, allowed;

static void count_allowed(int64_t n)
{
    require(atomic_fetch_add(&in_use, n) + n <= LIMIT);
    add_relaxed(&allowed, (uint64_t)n);
}

static void *work(void *number)
{
    uint64_t seed = (uintptr_t)number;
    void *mine[LIMIT + 1];
    size_t n = 0;
    for (unsigned turn = 0; turn < 30000; turn++) {
        const bool more = random_below(&seed, 100) < (turn / 2000 % 2 ? 25 : 75);
        if (more) { /* often beyond what one thread alone may have */
            if ((mine[n] = slm_cache_object_alloc(name))) {
                count_allowed(1);
                n++;
            } else {
                add_relaxed(&refused, 1);
            }
        } else if (n > 0) {
            atomic_fetch_sub(&in_use, 1);
            n--;
            if (turn % 2)
                slm_cache_object_free(name, mine[n]);
            else
                free(mine[n]);
        }
        if (turn % 1000 == 0 && n + 10 <= LIMIT && slm_cache_object_alloc_bulk(name, 10, mine + n) == 10) {
            count_allowed(10);
            n += 10;
        }
    }
    atomic_fetch_sub(&in_use, (int64_t)n);
    slm_cache_object_free_bulk(name, n, mine);
    return NULL;
}

static void no_thread_gets_more_than_the_limit_and_nothing_is_lost(void **state)
{
    (void)state;
    on_threads(4, work);
    assert_true(load_relaxed(&refused) > 0 &&
                load_relaxed(&allowed) > 0); /* who has all may be held up, and most refused */
    assert_int_equal(live(), 0);
    assert_int_equal(alloc_all(), LIMIT); /* what is quiet is exact */
    free_some(0, LIMIT);
}

static void spoil_errno(void *object, void *nothing)
{
    (void)object;
    (void)nothing;
    errno = EXDEV;
}

static void fill_to_the_limit(struct slm_depot *depot, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(slm_depot_fill(depot, &objects[i], 1), 1);
}

static void a_destructor_s_errno_does_not_hide_why_a_call_fails(void **state)
{
    (void)state;
    enum { most = 64, size = 4096 };
    static const struct slab_cache_attr attr = {.limit_bytes = (size_t)most * size, .dtor = spoil_errno};
    struct slab_cache *destroyed = named("destroyed", size, &attr);
    struct slm_depot *depot = slm_cache_depot(cache_of(destroyed), 0);
    void *none[2];
    fill_to_the_limit(depot, most);
    slm_depot_give(objects, most, "free");
    fill_to_the_limit(depot, most);
    assert_true(load_relaxed(&slm_pending_slabs_due) > 0);
    assert_null(slm_cache_object_alloc_node(destroyed, 0));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 0);
    slm_depot_give(objects, most, "free");
    errno = 0;
    assert_int_equal(slm_cache_object_alloc_bulk(destroyed, COUNT(none), none), COUNT(none));
    assert_int_equal(errno, 0); /* a call that succeeds keeps it */
    slm_cache_object_free_bulk(destroyed, COUNT(none), none);
    assert_int_equal(slab_cache_destroy(destroyed), 0);
}

#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_cache, end_cache)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_limit_all_is_charged),
        cmocka_unit_test(a_charge_leaves_some_to_others),
        cmocka_unit_test(charges_come_to_the_limit_exactly),
        cache_test(magazines_of_a_small_limit_are_small),
        cache_test(a_failing_call_has_gathered_the_others_to_the_last_round),
        cache_test(refusals_need_no_barrier_where_nobody_holds_any),
        cache_test(a_pop_under_way_keeps_its_round),
        cache_test(a_mark_without_a_pop_costs_nothing),
        cache_test(a_thread_in_a_slow_path_is_looked_at_again),
        cache_test(who_carries_objects_is_waited_for),
        cache_test(what_was_free_in_between_makes_a_look_unsure),
        cache_test(a_limit_that_is_not_met_refuses_nothing),
        cache_test(a_slow_path_without_rounds_is_not_waited_for),
        cache_test(whoever_frees_it_counts),
        cache_test(a_thread_s_end_leaves_nothing_charged),
        cache_test(reserves_do_not_count),
        cache_test(gathering_leaves_the_caller_s_reserve),
        cache_test(a_child_has_the_whole_limit),
        cache_test(without_barriers_threads_keep_none),
        cmocka_unit_test(a_destructor_s_errno_does_not_hide_why_a_call_fails),
        cache_test(no_thread_gets_more_than_the_limit_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
