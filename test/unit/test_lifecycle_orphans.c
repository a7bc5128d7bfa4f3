/* src/process/lifecycle.h: what the threads that a child of fork does not have held is taken over. */
#include "unit.h"

#include <limits.h>
#include <malloc.h>

#include "caches.h"
#include "deferred/retire.h"
#include "heap/deferred.h"
#include "heap_check.h"
#include "trap.h"

enum { EACH = 60, ALL = UINT_MAX };

static struct helper other;
static struct slab_cache *first, *second;
static const struct slab_cache_attr apart = {.flags = SLAB_NO_MERGE};

/* The thread that is told holds them all in the end. */
static void use_both(void *nothing)
{
    (void)nothing;
    void *objects[2][EACH];
    for (unsigned i = 0; i < EACH; i++) {
        require((objects[0][i] = slab_cache_alloc(first)) != NULL);
        require((objects[1][i] = slab_cache_alloc(second)) != NULL);
    }
    for (unsigned i = 0; i < EACH; i++) {
        slab_cache_free(first, objects[0][i]);
        slab_cache_free(second, objects[1][i]);
    }
}

static int begin_test(void **state)
{
    (void)state;
    first = named("first", 72, &apart);
    second = named("second", 200, &apart);
    assert_true(first && second);
    start_live_helper(&other);
    tell(&other, use_both, NULL);
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    end_helper(&other);
    assert_int_equal(slab_cache_destroy(first), 0);
    assert_int_equal(slab_cache_destroy(second), 0);
    return 0;
}

static uint64_t held(struct slab_cache *name)
{
    return slm_reserve_held_by_all(cache_of(name));
}

/* Out of slabs, and nowhere free. */
static uint64_t lost(struct slab_cache *name)
{
    return cache_out(cache_of(name)) - cache_stock(cache_of(name)) - held(name);
}

static unsigned slots_in_use(struct slm_thread *thread)
{
    unsigned in_use = 0;
    slm_for_each_slot (cache_id, &thread->used)
        in_use += load_relaxed(&slm_slot_of(thread, cache_id)->target) != 0;
    return in_use;
}

static void bury_slot_by_slot(void)
{
    struct slm_thread *orphan = other.tls->self;
    require(!orphan->at_work && slm_thread_list_count() == 1);
    require(held(first) > 0 && held(second) > 0);
    for (unsigned left = slots_in_use(orphan); left > 0; left--) {
        require(slots_in_use(orphan) == left && load_relaxed(&slm_orphans) > 0);
        require(slm_process_bury(1));
    }
    require(!slm_process_bury(1) && load_relaxed(&slm_orphans) == 0);
    require(held(first) == 0 && held(second) == 0 && lost(first) == 0 && lost(second) == 0);
    require(slm_thread_block_make() == orphan); /* its memory is used again */
    check_heap();
}

static void an_orphan_is_buried_slot_by_slot(void **state)
{
    (void)state;
    assert_child_silent(bury_slot_by_slot);
    assert_true(held(first) > 0); /* nothing happens to the parent */
}

/* The last that the child has seen of the thread. */
static void find_it_at_work(void)
{
    struct slm_thread *orphan = other.tls->self;
    const uint64_t before = slm_thread_rounds(orphan, cache_of(first)->id);
    require(before > 0);
    slm_slot_of(orphan, cache_of(first)->id)->top = (void **)64;
    orphan->at_work = slm_slot_of(orphan, cache_of(first)->id);
    require(slm_process_bury(ALL) && !slm_process_bury(ALL));
    require(lost(first) == before && lost(second) == 0);
    check_heap();
}

static void what_it_was_at_work_on_is_forgotten(void **state)
{
    (void)state;
    assert_child_silent(find_it_at_work);
}

static void take_all_of_it(void)
{
    uint64_t gathered;
    const uint64_t before = held(first);
    slm_cache_lock();
    require(slm_gather_from_threads(cache_of(first), SLM_TAKE_SPARE, &gathered) == 0);
    slm_cache_unlock();
    require(gathered == before && held(first) == 0); /* the top rounds, too: no pop is under way */
    require(slab_cache_destroy(first) == 0);
    first = named("a third one, perhaps of the same number", 104, &apart);
    require(slm_process_bury(ALL) && lost(second) == 0 && cache_out(cache_of(first)) == 0);
}

static void takers_take_from_orphans(void **state)
{
    (void)state;
    assert_child_silent(take_all_of_it);
}

static void be_born(void)
{
    require(load_relaxed(&slm_orphans) > 0);
    on_threads(1, live_briefly);
    require(held(second) == 0 && lost(second) == 0);
    require(slm_thread_list_count() == 1);
}

static void a_birth_takes_over_what_orphans_hold(void **state)
{
    (void)state;
    assert_child_silent(be_born);
}

static void go_on_for_some_ticks(void)
{
    unsigned passes = 0;
    for (; load_relaxed(&slm_orphans) > 0; passes++)
        slm_thread_leave(slm_thread_enter(false));
    require(passes > 2 * SLM_PASSES_A_TICK); /* not at once */
    require(held(second) == 0 && lost(second) == 0);
}

static void ticks_take_over_what_orphans_hold(void **state)
{
    (void)state;
    slm_tls.self->passes = SLM_PASSES_BEFORE_TICKS;
    assert_child_silent(go_on_for_some_ticks);
}

static void trim(void)
{
    malloc_trim(0);
    require(held(second) == 0 && cache_out(cache_of(second)) == 0);
}

static void trimming_gives_it_back(void **state)
{
    (void)state;
    assert_child_silent(trim);
}

/* One orphan from each generation, and one that has been begun. */
static void have_a_child_in_turn(void)
{
    require(slm_process_bury(1));
    start_live_helper(&other); /* it buries two */
    tell(&other, use_both, NULL);
    const struct outcome outcome = in_child(bury_slot_by_slot);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
}

static void have_a_child_at_once(void)
{
    require(in_child(be_born).status == 0);
    require(in_child(find_it_at_work).status == 0);
    require(in_child(bury_slot_by_slot).status == 0);
}

static void grandchildren_take_over_what_children_have_left(void **state)
{
    (void)state;
    assert_child_silent(have_a_child_in_turn);
    assert_child_silent(have_a_child_at_once);
}

/* A thread in the middle of a slow path has noted nothing yet, or where it is. */
static void find_it_in_a_slow_path(void)
{
    require(load_relaxed(&other.tls->busy));
    require(slm_process_bury(ALL) && !slm_process_bury(ALL));
    require(lost(first) == 0 && lost(second) == 0);
}

static void a_thread_in_a_slow_path_loses_one_slot_at_most(void **state)
{
    (void)state;
    tell(&other, enter_slow_path, NULL);
    assert_child_silent(find_it_in_a_slow_path);
    tell(&other, leave_slow_path, NULL);
}

/* -- at any instruction of a slow path --------------------------------------------------------------------------- */

enum { HELD = 40, EVERY = 13, FOUND = 3000, LOST_MOST = 2 * SLM_MAGAZINE_ROUNDS_MAX + 2 };

static void *volatile in_hand[2][HELD]; /* not while a call may have it */
static struct slm_tls *main_tls;
static unsigned children;

/* The child goes on as the main thread: the one that was interrupted is lost. */
static void be_main_thread(void)
{
    struct slm_thread *lost_one = slm_tls.self;
    slm_tls = *main_tls;
    slm_tls.self->tls = &slm_tls;
    lost_one->tls = main_tls; /* anyone's */
    slm_fork_check();
}

static unsigned find_all_but_those_in_hand(struct slab_cache *name, void *volatile *hand)
{
    static void *found[FOUND];
    unsigned held_now = 0;
    for (unsigned i = 0; i < FOUND; i++) {
        require((found[i] = slab_cache_alloc(name)) != NULL);
        *(void **)found[i] = &found[i];
    }
    for (unsigned i = 0; i < FOUND; i++)
        require(*(void **)found[i] == &found[i]);
    for (unsigned i = 0; i < HELD; i++)
        if (hand[i]) {
            require(*(void *volatile **)hand[i] == &hand[i]);
            held_now++;
        }
    for (unsigned i = 0; i < FOUND; i++)
        slab_cache_free(name, found[i]);
    slab_cache_shrink(name);
    return held_now;
}

static void look_for_all_rounds(void)
{
    be_main_thread();
    while (slm_process_bury(ALL))
        ;
    for (unsigned which = 0; which < 2; which++) {
        struct slab_cache *name = which ? second : first;
        const unsigned held_now = find_all_but_those_in_hand(name, in_hand[which]);
        const uint64_t lost_now = lost(name) - held_now;
        require(lost_now <= LOST_MOST + which * 2 * HELD); /* nor below 0; some may wait on the queue */
    }
    check_heap();
    _exit(0);
}

static void look_in_a_child(void)
{
    int how = 0;
    if (traced.step % EVERY != 0)
        return;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        alarm(CHILD_SECONDS);
        look_for_all_rounds();
    }
    require(waitpid((pid_t)child, &how, 0) == child);
    require(how == 0);
    children++;
}

static void take_in_hand(struct slab_cache *name, void *volatile *hand, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        void *object = slab_cache_alloc(name);
        *(void *volatile **)object = &hand[i];
        hand[i] = object;
    }
}

static void let_go(void *volatile *hand, unsigned n, void (*give)(void *object))
{
    for (unsigned i = 0; i < n; i++) {
        void *object = hand[i];
        hand[i] = NULL;
        give(object);
    }
}

static void take_and_give(void)
{
    void *some[12];
    take_in_hand(first, in_hand[0], HELD);
    take_in_hand(second, in_hand[1], HELD);
    let_go(in_hand[0], HELD, free);
    let_go(in_hand[1], HELD, slab_free_deferred);
    const size_t got = slab_cache_alloc_bulk(first, COUNT(some), some);
    slab_cache_free_bulk(first, got, some);
    struct slm_thread *self = slm_thread_enter(false);
    slm_thread_adapt(self);
    slm_retire_empty_slots(self);
    slm_thread_empty(self, SLM_TO_DEPOT);
    slm_thread_leave(self);
    take_in_hand(first, in_hand[0], 3);
    let_go(in_hand[0], 3, free);
}

static void work_in_steps(void *nothing)
{
    (void)nothing;
    begin_tracing();
    interrupt_each(take_and_give, look_in_a_child);
    signal(SIGTRAP, SIG_DFL);
}

static void a_slow_path_loses_no_more_than_its_slot(void **state)
{
    (void)state;
#ifndef __x86_64__
    skip();
#endif
    main_tls = &slm_tls;
    slab_epoch_enter(); /* so that what is retired waits */
    slab_epoch_leave();
    children = 0;
    tell(&other, work_in_steps, NULL);
    assert_true(children > 100);
    slm_deferred_free_all(UINT_MAX);
}

int main(void)
{
#define orphans_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)
    const struct CMUnitTest tests[] = {
        orphans_test(an_orphan_is_buried_slot_by_slot),
        orphans_test(what_it_was_at_work_on_is_forgotten),
        orphans_test(takers_take_from_orphans),
        orphans_test(a_birth_takes_over_what_orphans_hold),
        orphans_test(ticks_take_over_what_orphans_hold),
        orphans_test(trimming_gives_it_back),
        orphans_test(grandchildren_take_over_what_children_have_left),
        orphans_test(a_thread_in_a_slow_path_loses_one_slot_at_most),
        orphans_test(a_slow_path_loses_no_more_than_its_slot),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
