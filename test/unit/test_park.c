/* src/thread/park.h: threads that are still keep no rounds. Threads here stand still where a test wants them, also in
 * the middle of a pop, and between the two barriers. */
#include "caches.h"
#include "heap_check.h"
#include "under_way.h"

#include <linux/membarrier.h>
#include <ucontext.h>

#include "base/size_class.h"
#include "depot/cache.h"
#include "heap/alloc.h"
#include "heap/cache_object.h"
#include "heap/free.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "thread/park.h"

enum { SIZE = 1000, HOARD = 100, INTERVAL_MS = 1000 };

#ifdef __x86_64__
enum { BARRIERS = 2 };
#else
enum { BARRIERS = 3 };
#endif

static struct helper helper;
static struct slm_cache *cache;
static uint64_t now_ms = 1, lent; /* to smaller classes, as they began */

static void hoard(void *nothing)
{
    void *objects[HOARD];
    (void)nothing;
    for (size_t i = 0; i < HOARD; i++)
        require((objects[i] = slm_alloc(SIZE)) != NULL);
    for (size_t i = 0; i < HOARD; i++)
        slm_free(memset(objects[i], 1, SIZE));
}

static bool look(void)
{
    return slm_park_pass(now_ms += INTERVAL_MS);
}

static int begin_group(void **state)
{
    const int started = start_library(state);
    slm_options.purge_delay_ms = INTERVAL_MS;
    cache = slm_class_cache(slm_class_of_size(SIZE));
    lent = cache_out(cache) - cache_stock(cache) - slm_thread_rounds(slm_tls.self, cache->id);
    return started;
}

static int begin_test(void **state)
{
    (void)state;
    start_live_helper(&helper);
    tell(&helper, hoard, NULL);
    while (look())
        ;
    tell(&helper, hoard, NULL);
    return slm_thread_rounds(helper.tls->self, cache->id) > 10 ? 0 : -1;
}

static int end_test(void **state)
{
    (void)state;
    slm_thread_check(helper.tls->self);
    end_helper(&helper);
    return 0;
}

static struct slm_slot *slot_of(const struct helper *of)
{
    return slm_slot_of(of->tls->self, cache->id);
}

static void *top_round(void)
{
    return slot_of(&helper)->top[-1];
}

static bool is_parked(const struct helper *of)
{
    return of->tls->hot == slm_parked && load_relaxed(&of->tls->busy) == 0;
}

static bool is_at_rest_in_block(const struct helper *of)
{
    return of->tls->hot == of->tls->self && load_relaxed(&of->tls->busy) == 0;
}

/* Or the slab has gone, too. */
static bool is_in_slab(const void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    return !slab || slm_slab_has(slab, object);
}

/* Objects that are neither in slabs nor in stock nor in the helper's magazines. */
static uint64_t live(void)
{
    return cache_out(cache) - lent - cache_stock(cache) - slm_thread_rounds(helper.tls->self, cache->id) -
           slm_thread_rounds(slm_tls.self, cache->id);
}

static void park(void)
{
    while (look())
        ;
}

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

/* -- threads in the middle of a hot operation -------------------------------------------------------------------- */

static void pop_one(void *object)
{
    *(void **)object = slm_alloc(SIZE);
}

static void free_one(void *object)
{
    slm_free(object);
}

static void a_pop_under_way_gets_the_stand_in(void **state)
{
    (void)state;
    void *object;
    tell(&helper, pop_one, &object); /* room above */
    void *const before = top_round();
    tell(&helper, begin_hot, cache);
    park();
    assert_true(is_parked(&helper));
    assert_true(is_in_slab(before));
    void *const stand_in = top_round();
    tell(&helper, end_pop, NULL);
    assert_ptr_equal(under_way_round, stand_in);
    assert_true(slot_of(&helper)->top == slot_of(&helper)->bottom);
    assert_int_equal(live(), 2);
    slm_thread_check(helper.tls->self);
    tell(&helper, free_one, memset(under_way_round, 1, SIZE));
    tell(&helper, free_one, object);
    assert_int_equal(live(), 0);
}

static void a_push_under_way_ends_above_the_stand_in(void **state)
{
    (void)state;
    void *object;
    tell(&helper, pop_one, &object);
    void *const before = top_round();
    tell(&helper, begin_hot, cache);
    park();
    assert_true(is_in_slab(before));
    void *const stand_in = top_round();
    tell(&helper, end_push, object);
    assert_ptr_equal(top_round(), object);
    assert_int_equal(slm_slot_rounds(slot_of(&helper)), 2);
    assert_int_equal(live(), 0);
    void *popped;
    tell(&helper, pop_one, &popped);
    assert_ptr_equal(popped, object); /* the stand-in beneath it has gone home */
    assert_true(is_in_slab(stand_in));
    tell(&helper, free_one, popped);
}

/* -- between the barriers ---------------------------------------------------------------------------------------- */

static void (*between)(void);
static unsigned barriers_seen;
static long last_result;

static void set_result(ucontext_t *interrupted, long result)
{
#ifdef __x86_64__
    interrupted->uc_mcontext.gregs[REG_RAX] = result;
#else
    interrupted->uc_mcontext.regs[0] = (unsigned long)result;
#endif
}

/* A filter sends each barrier here. The handler issues it with a number more, which the filter lets pass. */
static void on_barrier(int number, siginfo_t *info, void *context)
{
    require(number == SIGSYS && info->si_syscall == SYS_membarrier);
    if (++barriers_seen == BARRIERS) {
        if (between)
            between();
        set_result(context, last_result);
    } else {
        set_result(context, 0);
    }
    require(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 7) == 0);
}

static void call_at_barriers(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 7, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {COUNT(filter), filter};
    const struct sigaction action = {.sa_sigaction = on_barrier, .sa_flags = SA_SIGINFO};
    require(sigaction(SIGSYS, &action, NULL) == 0);
    require(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0); /* behind the library's prctl */
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

static void begin_alone(void)
{
    void *state = NULL;
    require(begin_test(&state) == 0);
    call_at_barriers();
    barriers_seen = 0;
    last_result = 0;
}

static void move_top(void *nothing)
{
    (void)nothing;
    slm_slot_move(under_way_slot, under_way_top, -1);
}

static void have_top_moved(void)
{
    tell(&helper, move_top, NULL);
}

/* Whether it has loaded its round before the exchange or loads it later cannot be told. */
static void pop_between(void)
{
    begin_alone();
    void *const before = top_round();
    tell(&helper, begin_hot, cache);
    between = have_top_moved;
    slm_park_all(true);
    require(barriers_seen == BARRIERS && is_parked(&helper));
    void *const stand_in = under_way_top[-1];
    require(stand_in != before && !is_in_slab(before) && !is_in_slab(stand_in));
    require(slot_of(&helper)->top == slot_of(&helper)->bottom && live() == 2);
    tell(&helper, hoard, NULL);
    slm_park_all(true);
    require(!is_in_slab(before) && !is_in_slab(stand_in) && live() == 2);
}

static void a_pop_between_the_barriers_keeps_both_rounds_out(void **state)
{
    (void)state;
    assert_child_silent(pop_between);
}

static void *pushed;

static void push_it(void *nothing)
{
    (void)nothing;
    slm_slot_push(under_way_slot, under_way_top, pushed);
}

static void have_it_pushed(void)
{
    tell(&helper, push_it, NULL);
}

static void push_between(void)
{
    begin_alone();
    tell(&helper, pop_one, &pushed);
    void *const before = top_round();
    tell(&helper, begin_hot, cache);
    between = have_it_pushed;
    slm_park_all(true);
    require(is_parked(&helper) && is_in_slab(before) && top_round() == pushed);
    require(slm_slot_rounds(slot_of(&helper)) == 2 && live() == 0);
    tell(&helper, hoard, NULL);
    require(live() == 0);
}

static void a_push_between_the_barriers_stays(void **state)
{
    (void)state;
    assert_child_silent(push_between);
}

/* The kernel forbids the last barrier: nothing is known then. */
static void barrier_fails(void)
{
    begin_alone();
    void *const before = top_round();
    last_result = -EINVAL;
    slm_park_all(true);
    require(barriers_seen == BARRIERS && !is_in_slab(before) && live() == 1);
    require(slm_thread_rounds(helper.tls->self, cache->id) == 1);
    tell(&helper, hoard, NULL);
    require(!is_in_slab(before));
    while (look())
        ;
    slm_park_all(true);
    require(is_at_rest_in_block(&helper)); /* it is over */
}

static void a_round_stays_out_if_the_barrier_fails(void **state)
{
    (void)state;
    assert_child_silent(barrier_fails);
}

/* -- without what it takes --------------------------------------------------------------------------------------- */

static void park_without_barriers(void)
{
    void *state = NULL;
    require(begin_test(&state) == 0);
    store_relaxed(&slm_sys_has_membarrier, false);
    const uint64_t rounds = slm_thread_rounds(helper.tls->self, cache->id);
    slm_park_all(true);
    for (unsigned i = 0; i < 8; i++)
        look();
    require(is_at_rest_in_block(&helper) && slm_thread_rounds(helper.tls->self, cache->id) == rounds);
}

static void without_barriers_nothing_is_taken(void **state)
{
    (void)state;
    assert_child_silent(park_without_barriers);
}

/* As a program does that is about to install a filter. */
static void park_in_sandbox(void)
{
    void *state = NULL;
    require(begin_test(&state) == 0);
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    slm_park_all(true);
    for (unsigned i = 0; i < 8; i++)
        look();
    require(is_at_rest_in_block(&helper) && load_relaxed(&slm_sys_membarriers) == barriers);
}

static void near_a_sandbox_nobody_is_parked(void **state)
{
    (void)state;
    assert_child_silent(park_in_sandbox);
}

/* The top round stays. */
static void park_without_memory(void)
{
    void *state = NULL;
    require(begin_test(&state) == 0);
    void *const top = top_round();
    forbid_memory();
    slm_span_set_scarce(true);
    slm_park_all(true);
    require(is_parked(&helper) && top_round() == top && live() == 0);
    require(slm_thread_rounds(helper.tls->self, cache->id) == 1);
    void *object;
    tell(&helper, pop_one, &object);
    require(object != NULL && is_at_rest_in_block(&helper));
}

static void without_memory_one_round_stays(void **state)
{
    (void)state;
    assert_child_silent(park_without_memory);
}

static void a_thread_that_is_gone_is_parked(void **state)
{
    (void)state;
    struct slm_thread *block = slm_thread_block_make();
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(block && page != MAP_FAILED);
    block->tls = page;
    slm_thread_list_add(block);
    struct slm_thread *self = slm_thread_hide();
    slm_thread_push(block, cache->id, slm_thread_pop(block, cache->id));
    slm_thread_worked(block);
    slm_thread_unhide(self);
    assert_true(slm_thread_rounds(block, cache->id) > 1);
    munmap(page, 4096);
    slm_park_all(true);
    assert_int_equal(slm_thread_rounds(block, cache->id), 1);
    self = slm_thread_hide();
    slm_slot_of(block, cache->id)->bottom = slm_slot_of(block, cache->id)->top;
    slm_thread_unhide(self);
    slm_thread_list_remove(block);
    slm_thread_block_free(block);
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
            assert_int_equal(load_relaxed(&slm_cache_own(named_cache)->limit.hands), 0);
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
        ROW(a_stand_in_is_never_touched),
        ROW(stand_ins_of_dirty_memory_pin_none),
        ROW(targets_stay),
        ROW(a_thread_may_be_parked_again_and_again),
        ROW(a_parked_thread_ends),
        ROW(a_parked_thread_forks),
        ROW(a_pop_under_way_gets_the_stand_in),
        ROW(a_push_under_way_ends_above_the_stand_in),
        cmocka_unit_test(a_pop_between_the_barriers_keeps_both_rounds_out),
        cmocka_unit_test(a_push_between_the_barriers_stays),
        cmocka_unit_test(a_round_stays_out_if_the_barrier_fails),
        cmocka_unit_test(without_barriers_nothing_is_taken),
        cmocka_unit_test(near_a_sandbox_nobody_is_parked),
        cmocka_unit_test(without_memory_one_round_stays),
        ROW(a_thread_that_is_gone_is_parked),
        ROW(of_named_caches_the_top_rounds_stay),
    };
    return cmocka_run_group_tests(tests, begin_group, NULL);
}
