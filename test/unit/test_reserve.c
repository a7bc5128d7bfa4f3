/* src/thread/reserve.h: what calls without a lock live on: popping, filling, being asked for, going away; and signal
 * handlers that come at any instruction of it: on x86 the processor is told to trap after each. */
#include "unit.h"
#include "heap_check.h"

#include "caches.h"
#include "heap/slow.h"
#include "heap/cache_object.h"
#include "trap.h"

enum { FULL = 12, LOW = 4, ROUNDS = 60 };

static const struct slab_cache_attr sixty = {.flags = SLAB_NO_MERGE, .magazine_rounds = ROUNDS};

static struct slab_cache *name;
static struct slm_cache *cache;
static void *held[200];
static unsigned held_count;

static int begin_test(void **state)
{
    (void)state;
    name = named("reserved", 128, &sixty);
    cache = cache_of(name);
    held_count = 0;
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    slm_depot_relink_pending();
    slm_thread_check(slm_tls.self);
    return slab_cache_destroy(name);
}

/* Hold one, which is none of those that are held already. It has no key from here on, as for all who ask for one. */
static bool hold(void *object)
{
    if (!object)
        return false;
    for (unsigned i = 0; i < held_count; i++)
        require(held[i] != object);
    slm_key_clear(object);
    held[held_count++] = object;
    return true;
}

static void free_held(void)
{
    while (held_count > 0)
        slm_cache_object_free(name, held[--held_count]);
}

static uint32_t rounds(void)
{
    return slm_reserve_rounds(slm_tls.self, cache);
}

static void pass_slow_path(void)
{
    struct slm_thread *thread = slm_thread_enter(true);
    require(thread != NULL);
    slm_thread_leave(thread);
}

/* Ask, and pass a slow path. */
static void have_reserve(void)
{
    require(!slm_reserve_pop(cache));
    pass_slow_path();
    require(rounds() == FULL);
}

static struct slm_cache *fill(void)
{
    struct slm_thread *thread = slm_thread_hide();
    struct slm_cache *grow = slm_reserve_fill(thread);
    slm_thread_unhide(thread);
    return grow;
}

/* -- popping and filling ----------------------------------------------------------------------------------------- */

static void the_first_call_finds_nothing_and_asks(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    errno = EDOM;
    assert_false(slm_reserve_knows(self, cache));
    assert_null(slm_reserve_pop(cache));
    assert_true(slm_reserve_knows(self, cache));
    assert_null(slm_reserve_find(self, cache)); /* there is no stack yet: a handler cannot make one */
    assert_ptr_equal(slm_tls.hot, slm_detour);
    assert_int_equal(load_relaxed(&self->attention), SLM_ATTEND_RESERVE);
    void *volatile object = malloc(1000); /* the very next call takes a slow path */
    assert_ptr_equal(slm_tls.hot, self);
    assert_int_equal(load_relaxed(&self->attention), 0);
    assert_int_equal(rounds(), FULL);
    assert_int_equal(errno, EDOM);
    free(object);
    assert_null(slm_reserve_pop(slm_class_cache(20)));
    free(malloc(1)); /* whatever it was */
    assert_int_equal(slm_reserve_rounds(self, slm_class_cache(20)), FULL);
}

static void a_handful_is_handed_out(void **state)
{
    (void)state;
    have_reserve();
    const uint64_t out = cache_out(cache);
    for (unsigned i = 0; i < FULL; i++) {
        assert_int_equal(rounds(), FULL - i);
        assert_int_equal(load_relaxed(&slm_tls.self->attention) != 0, FULL - i < LOW);
        assert_true(hold(slm_reserve_pop(cache)));
        memset(held[i], (int)i, 128);
        assert_ptr_equal(slm_tls.hot, slm_tls.self); /* while there are some nothing is in a hurry */
    }
    assert_null(slm_reserve_pop(cache));
    assert_ptr_equal(slm_tls.hot, slm_detour);
    assert_int_equal(cache_out(cache), out);
    pass_slow_path();
    assert_int_equal(rounds(), FULL);
    while (hold(slm_reserve_pop(cache)))
        ;
    for (unsigned i = 0; i < FULL; i++)
        assert_int_equal(((unsigned char *)held[i])[127], i);
    free_held();
}

static void a_low_one_is_filled_at_the_next_slow_path(void **state)
{
    (void)state;
    have_reserve();
    for (unsigned i = FULL; i > LOW - 1; i--)
        hold(slm_reserve_pop(cache));
    assert_int_equal(rounds(), LOW - 1);
    pass_slow_path();
    assert_int_equal(rounds(), FULL);
    pass_slow_path();
    assert_int_equal(load_relaxed(&slm_tls.self->attention), 0);
    free_held();
}

static void it_is_not_filled_unasked(void **state)
{
    (void)state;
    have_reserve();
    hold(slm_reserve_pop(cache));
    assert_null(fill());
    pass_slow_path();
    assert_int_equal(rounds(), FULL - 1);
    free_held();
}

static void bytes_and_rounds_are_told(void **state)
{
    (void)state;
    const uint64_t before = slm_reserve_bytes(slm_tls.self);
    assert_int_equal(rounds(), 0);
    have_reserve();
    assert_int_equal(slm_reserve_bytes(slm_tls.self), before + FULL * 128);
    hold(slm_reserve_pop(cache));
    assert_int_equal(slm_reserve_bytes(slm_tls.self), before + (FULL - 1) * 128);
    assert_int_equal(rounds(), FULL - 1);
    free_held();
}

/* -- going away -------------------------------------------------------------------------------------------------- */

static void forgetting_brings_all_home(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    struct slab_cache *other_name = named("other", 256, &sixty);
    have_reserve();
    slm_thread_hide();
    slm_thread_empty_slot(self, cache->id, SLM_TO_SLABS);
    assert_int_equal(cache_out(cache), FULL);
    struct slm_reserve *stack = slm_reserve_find(self, cache);
    slm_reserve_forget(self, cache);
    slm_thread_unhide(self);
    assert_int_equal(cache_out(cache), 0);
    assert_null(slm_reserve_find(self, cache));
    assert_false(slm_reserve_knows(self, cache));
    assert_null(slm_reserve_pop(cache_of(other_name)));
    pass_slow_path();
    assert_ptr_equal(slm_reserve_find(self, cache_of(other_name)), stack); /* stacks are used again */
    assert_int_equal(slab_cache_destroy(other_name), 0);
}

static void forgetting_takes_a_wish_back(void **state)
{
    (void)state;
    assert_null(slm_reserve_pop(cache));
    slm_reserve_forget(slm_tls.self, cache);
    assert_false(slm_reserve_knows(slm_tls.self, cache));
    pass_slow_path();
    assert_null(slm_reserve_find(slm_tls.self, cache));
    assert_int_equal(cache_out(cache), 0);
}

static void emptying_leaves_the_stacks_until_the_end(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    have_reserve();
    slm_thread_hide();
    slm_reserve_empty(self, false);
    assert_int_equal(slm_reserve_bytes(self), 0);
    assert_non_null(load_relaxed(&self->reserves));
    slm_reserve_empty(self, true);
    assert_null(load_relaxed(&self->reserves));
    slm_thread_unhide(self);
    assert_null(slm_reserve_pop(cache)); /* and it begins anew */
    pass_slow_path();
    assert_int_equal(rounds(), FULL);
}

static void *have_some_and_end(void *nothing)
{
    free(malloc(1));
    have_reserve();
    return nothing;
}

static void a_thread_s_end_gives_it_back(void **state)
{
    (void)state;
    on_threads(2, have_some_and_end);
    assert_int_equal(cache_out(cache), cache_stock(cache));
}

/* -- before there is a block ------------------------------------------------------------------------------------- */

static void *foreign;

static void *ask_first(void *by_free)
{
    require(slm_tls.state == SLM_THREAD_NONE);
    require(!slm_reserve_pop(cache) && slm_tls.hot == slm_nothing);
    require(load_relaxed(&slm_tls.wanted) == cache && slm_tls.state == SLM_THREAD_NONE);
    if (by_free)
        free(foreign);
    else
        foreign = malloc(10);
    require(slm_tls.state == SLM_THREAD_LIVE && rounds() == FULL);
    return NULL;
}

static void what_was_wanted_before_birth_comes_with_it(void **state)
{
    (void)state;
    on_threads(1, ask_first);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask_first, &foreign), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void ask(void *nothing)
{
    (void)nothing;
    require(!slm_reserve_pop(cache));
}

static void be_born(void *nothing)
{
    live_quietly(nothing);
    require(!load_relaxed(&slm_tls.self->reserves) && !load_relaxed(&slm_tls.wanted));
}

static void a_cache_that_has_gone_by_birth_is_left_alone(void **state)
{
    (void)state;
    struct helper helper;
    struct slab_cache *kept = name;
    name = named("brief", 128, &sixty);
    cache = cache_of(name);
    start_helper(&helper);
    tell(&helper, ask, NULL);
    assert_int_equal(slab_cache_destroy(name), 0);
    tell(&helper, be_born, NULL);
    end_helper(&helper);
    name = kept;
    cache = cache_of(name);
}

/* -- constructors ------------------------------------------------------------------------------------------------ */

static void construct(void *object, void *context)
{
    require(context == &name && load_relaxed(&slm_tls.busy) == 0);
    memset(object, 0x5a, 128);
}

static void constructed_slabs_are_asked_for(void **state)
{
    (void)state;
    struct slab_cache *kept = name;
    name = named("constructed", 128, &(struct slab_cache_attr){.ctor = construct, .context = &name});
    cache = cache_of(name);
    assert_null(slm_reserve_pop(cache));
    assert_ptr_equal(fill(), cache); /* under a block no constructor runs */
    assert_int_equal(rounds(), 0);
    assert_true(slm_depot_grow(slm_cache_depot(cache, slm_tls.self->node)));
    assert_null(fill());
    assert_int_equal(rounds(), FULL);
    while (hold(slm_reserve_pop(cache)))
        assert_int_equal(((unsigned char *)held[held_count - 1])[100], 0x5a);
    pass_slow_path(); /* which does both */
    assert_int_equal(rounds(), FULL);
    free_held();
    assert_int_equal(slab_cache_destroy(name), 0);
    name = kept;
    cache = cache_of(name);
}

/* -- handlers at any instruction --------------------------------------------------------------------------------- */

static void hold_one(void)
{
    hold(slm_reserve_pop(cache));
}

static void hold_all(void)
{
    while (hold(slm_reserve_pop(cache)))
        ;
}

static void fill_only(void)
{
    fill();
}

/* The magazine has rounds: what is interrupted is pushes. */
static void have_few_and_ask(void)
{
    while (rounds() > LOW)
        hold(slm_reserve_pop(cache));
    hold(slm_reserve_pop(cache));
    free_held();
}

static void a_pop_between_the_steps_of_a_push(void **state)
{
    (void)state;
    unsigned long at = 1;
    have_reserve();
    begin_tracing();
    for (bool some = true; some; at++) {
        have_few_and_ask();
        some = interrupt_at(at, fill_only, hold_one);
        require(rounds() >= FULL - 1);
        hold_all(); /* none of them twice */
        require(held_count >= FULL && held_count <= FULL + 1);
        free_held();
        pass_slow_path();
    }
    end_tracing(at);
}

static void *popped;

static void pop_one(void)
{
    popped = slm_reserve_pop(cache);
}

/* Handlers nest: one that comes in another's pop. */
static void a_pop_between_the_steps_of_a_pop(void **state)
{
    (void)state;
    unsigned long at = 1;
    begin_tracing();
    have_reserve();
    for (bool some = true; some || at < 200; at++) {
        some = interrupt_at(at, pop_one, hold_one);
        require(hold(popped) && held_count == (some ? 2 : 1));
        free_held();
        hold_all();
        free_held();
        pass_slow_path();
    }
    end_tracing(at);
}

/* Whenever it comes: the next slow path brings more. */
static void who_finds_it_dry_in_the_middle_is_heard(void **state)
{
    (void)state;
    unsigned long at = 1;
    have_reserve();
    begin_tracing();
    for (bool some = true; some; at++) {
        have_few_and_ask();
        some = interrupt_at(at, fill_only, hold_all);
        pass_slow_path();
        if (rounds() == 0)
            fail_msg("instruction %lu", at);
        free_held();
        hold_all();
        free_held();
        pass_slow_path();
    }
    end_tracing(at);
}

static void alloc_one(void)
{
    require(hold(slm_cache_object_alloc(name)));
    *(void **)held[held_count - 1] = held[held_count - 1];
}

static void free_one(void)
{
    slm_cache_object_free(name, held[--held_count]);
}

static unsigned without_lock; /* that succeeded */

/* What a handler does, twice over, so that both stock and slab are changed under the interrupted call. */
static void use_without_lock(void)
{
    for (unsigned i = 0; i < 2; i++) {
        void *object = slm_cache_object_alloc_nolock(name);
        if (object) {
            for (unsigned k = 0; k < held_count; k++)
                require(held[k] != object);
            memset(object, 0xa5, 128);
            slm_free_nolock(object);
            without_lock++;
        }
    }
}

static void check_held(void)
{
    for (unsigned i = 0; i < held_count; i++)
        require(*(void **)held[i] == held[i]);
}

/* Allocate and free so many, the last of them interrupted at every instruction. */
static unsigned long interrupt_calls(unsigned before)
{
    unsigned long at = 1;
    without_lock = 0;
    for (bool some = true; some; at++) {
        for (unsigned i = 0; i < before; i++)
            alloc_one();
        some = interrupt_at(at, alloc_one, use_without_lock);
        check_held();
        some |= interrupt_at(at, free_one, use_without_lock);
        free_held();
        slm_thread_check(slm_tls.self);
        check_depot(slm_cache_depot(cache, slm_tls.self->node));
        pass_slow_path();
    }
    return at;
}

static void nothing_is_torn_at_any_instruction_of_alloc_and_free(void **state)
{
    (void)state;
    begin_tracing();
    have_reserve();
    interrupt_calls(10);
    assert_true(without_lock > 20);
    end_tracing(100 + without_lock);
}

/* Without the checks that slow paths of checked builds end with: those are long. */
static void refill_and_drain(void)
{
    struct slm_thread *thread = slm_thread_hide();
    slm_thread_empty_slot(thread, cache->id, SLM_TO_SLABS);
    void *object = slm_thread_refill(thread, cache->id);
    *(void **)object = object;
    slm_thread_empty_slot(thread, cache->id, SLM_TO_SLABS);
    slm_thread_drain(thread, cache->id, object);
    slm_thread_empty_slot(thread, cache->id, SLM_TO_SLABS);
    slm_thread_unhide(thread);
}

static void nor_of_a_refill_and_a_drain(void **state)
{
    (void)state;
    struct slab_cache *kept = name;
    unsigned long at = 1;
    name = named("small magazines", 128, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE, .magazine_rounds = 4});
    cache = cache_of(name);
    without_lock = 0;
    begin_tracing();
    have_reserve();
    for (bool some = true; some; at += 29) {
        some = interrupt_at(at, refill_and_drain, use_without_lock);
        pass_slow_path();
        check_depot(slm_cache_depot(cache, slm_tls.self->node));
    }
    end_tracing(at);
    assert_true(without_lock > 100);
    assert_int_equal(slab_cache_destroy(name), 0);
    name = kept;
    cache = cache_of(name);
    check_heap();
}

#define reserve_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        reserve_test(the_first_call_finds_nothing_and_asks),
        reserve_test(a_handful_is_handed_out),
        reserve_test(a_low_one_is_filled_at_the_next_slow_path),
        reserve_test(it_is_not_filled_unasked),
        reserve_test(bytes_and_rounds_are_told),
        reserve_test(forgetting_brings_all_home),
        reserve_test(forgetting_takes_a_wish_back),
        reserve_test(emptying_leaves_the_stacks_until_the_end),
        reserve_test(a_thread_s_end_gives_it_back),
        reserve_test(what_was_wanted_before_birth_comes_with_it),
        reserve_test(a_cache_that_has_gone_by_birth_is_left_alone),
        reserve_test(constructed_slabs_are_asked_for),
        reserve_test(a_pop_between_the_steps_of_a_push),
        reserve_test(a_pop_between_the_steps_of_a_pop),
        reserve_test(who_finds_it_dry_in_the_middle_is_heard),
        reserve_test(nothing_is_torn_at_any_instruction_of_alloc_and_free),
        reserve_test(nor_of_a_refill_and_a_drain),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
