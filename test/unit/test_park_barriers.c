/* src/thread/park.h: threads that are parked in the middle of a pop or push, or go on between two barriers, or where
 * what it takes is missing. */
#include "parking.h"
#include "under_way.h"

#include <linux/membarrier.h>
#include <ucontext.h>

#include "os/sys.h"
#include "os/vm.h"
#include "page/free_spans.h"

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
    struct slm_thread *block = leave_block_behind(cache->id);
    assert_true(slm_thread_rounds(block, cache->id) > 1);
    slm_park_all(true);
    assert_int_equal(slm_thread_rounds(block, cache->id), 1);
    struct slm_thread *self = slm_thread_hide();
    slm_slot_of(block, cache->id)->bottom = slm_slot_of(block, cache->id)->top;
    slm_thread_unhide(self);
    slm_thread_list_remove(block);
    slm_thread_block_free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define ROW(test) cmocka_unit_test_setup_teardown(test, begin_test, end_test)
        ROW(a_pop_under_way_gets_the_stand_in),
        ROW(a_push_under_way_ends_above_the_stand_in),
        cmocka_unit_test(a_pop_between_the_barriers_keeps_both_rounds_out),
        cmocka_unit_test(a_push_between_the_barriers_stays),
        cmocka_unit_test(a_round_stays_out_if_the_barrier_fails),
        cmocka_unit_test(without_barriers_nothing_is_taken),
        cmocka_unit_test(near_a_sandbox_nobody_is_parked),
        cmocka_unit_test(without_memory_one_round_stays),
        ROW(a_thread_that_is_gone_is_parked),
    };
    return cmocka_run_group_tests(tests, begin_group, NULL);
}
