/* src/page/span_alloc.h once more: what happens while an area is being extended. The linker puts a function of this
 * test in the place of slm_reservation_extend. There it can look at the area, do what other threads would do, and
 * answer for the kernel. Each test has a child, in which all that is free has been taken before. */
#include "spans.h"
#include "unit.h"

#include <sched.h>

#include "os/topology.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "page/span.h"
#include "page/span_alloc.h"

enum { LONG = 4096, FIRST_LEAD = 512, LITTLE = 16, MARK = 0x5a };

static unsigned node;
static struct slm_free_spans *area;

static int begin(void **state)
{
    const int done = start_library(state);
    node = slm_nodes - 1;
    area = slm_free_spans_in(node);
    return done;
}

/* -- in the place of the kernel ---------------------------------------------------------------------------------- */

bool __real_slm_reservation_extend(size_t first, size_t count);
bool __wrap_slm_reservation_extend(size_t first, size_t count);

static bool (*mapping)(size_t first, size_t count); /* what is called once; NULL: the library's own */
static unsigned calls;
static size_t last_first, last_count;

bool __wrap_slm_reservation_extend(size_t first, size_t count)
{
    bool (*const now)(size_t, size_t) = mapping;
    mapping = NULL;
    calls++;
    last_first = first;
    last_count = count;
    return now ? now(first, count) : __real_slm_reservation_extend(first, count);
}

static bool answer(int error)
{
    errno = error;
    return false;
}

/* -- what tests do ----------------------------------------------------------------------------------------------- */

/* Nothing is free, and an eighth of the heap more than FIRST_LEAD. */
static void fill(void)
{
    require(slm_span_alloc(node, LONG, 1));
    while (load_relaxed(&area->free_bytes[SLM_SPAN_CLEAN]) + load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) > 0)
        require(slm_span_alloc(node, 1, 1));
    require(area->mapping == 0);
    calls = 0;
}

static void mark(struct slm_span *span)
{
    require(span && (span->state == SLM_SPAN_DIRTY || all_zero(slm_span_start(span), slm_span_bytes(span))));
    memset(slm_span_start(span), MARK, slm_span_bytes(span));
}

static size_t lost_granules(void)
{
    return sum_figures().lost_bytes / SLM_GRANULE;
}

static size_t free_granules(enum slm_span_state state)
{
    return load_relaxed(&area->free_bytes[state]) / SLM_GRANULE;
}

static size_t tail_granules(void)
{
    const struct slm_span *tail = slm_free_spans_before(area, slm_descriptor(area->frontier), SLM_SPAN_CLEAN);
    return tail ? tail->granules : 0;
}

/* -- the lock ---------------------------------------------------------------------------------------------------- */

static struct slm_span *taken_inside;

/* As a library would that has hooked the call, or a handler; or another thread. */
static bool take_and_free_inside(size_t first, size_t count)
{
    require(!slm_lock_is_held(&area->lock));
    slm_span_check(node);
    slm_span_free(slm_span_alloc(node, 3, 1));
    taken_inside = slm_span_alloc(node, 5, 1);
    slm_span_purge(0, SLM_PURGE_IDLE);
    slm_span_check(node);
    return __real_slm_reservation_extend(first, count);
}

static void go_on_inside(void)
{
    fill();
    mapping = take_and_free_inside;
    struct slm_span *span = slm_span_alloc(node, 300, 1);
    require(mapping == NULL && calls > 1);
    mark(span);
    mark(taken_inside);
    slm_span_check(node);
    slm_span_free(span);
    slm_span_free(taken_inside);
    slm_span_check(node);
    require(lost_granules() == 0);
}

static void no_lock_is_held_in_the_kernel(void **state)
{
    (void)state;
    assert_child_silent(go_on_inside);
}

/* -- the lead ---------------------------------------------------------------------------------------------------- */

static bool extend_by_another(size_t first, size_t count)
{
    require(count >= FIRST_LEAD && slm_span_alloc(node, 7, 1));
    require(calls == 2 && last_first == first + count && last_count == LITTLE);
    return __real_slm_reservation_extend(first, count);
}

static void extend_beside(void)
{
    fill();
    mapping = extend_by_another;
    mark(slm_span_alloc(node, 1, 1));
    require(calls == 2 && free_granules(SLM_SPAN_CLEAN) >= FIRST_LEAD - 1);
    for (size_t i = 0; i < FIRST_LEAD - 1; i++)
        mark(slm_span_alloc(node, 1, 1));
    require(calls == 2 && lost_granules() == 0);
    slm_span_check(node);
}

static void one_thread_at_a_time_maps_far_ahead(void **state)
{
    (void)state;
    assert_child_silent(extend_beside);
}

static size_t granted;
static int refusal = ENOMEM;

static bool refuse_much(size_t first, size_t count)
{
    mapping = refuse_much;
    return count > granted ? answer(refusal) : __real_slm_reservation_extend(first, count);
}

static void extend_with_little(void)
{
    fill();
    const size_t frontier = area->frontier;
    granted = 40;
    mapping = refuse_much;
    struct slm_span *span = slm_span_alloc(node, 3, 1);
    require(calls > 1 && last_first == frontier && slm_span_granule(span) == frontier);
    mark(span);
    require(area->frontier - frontier >= 3 && area->frontier - frontier <= granted);
    granted = 0;
    errno = 0;
    require(!slm_span_alloc(node, 50, 1) && errno == ENOMEM);
    require(area->mapping == 0 && lost_granules() == 0 && free_granules(SLM_SPAN_UNMAPPED) == 0);
    slm_span_check(node);
}

static void a_lead_is_a_wish(void **state)
{
    (void)state;
    static const int refusals[] = {EAGAIN, EPERM, ENOMEM}; /* too much is locked; a sandbox; the usual one */
    for (size_t i = 0; i < COUNT(refusals); i++) {
        refusal = refusals[i];
        assert_child_silent(extend_with_little);
    }
}

/* What is free at the end counts. */
static void extend_the_tail(void)
{
    fill();
    const size_t frontier = area->frontier;
    require(slm_span_alloc(node, 1, 1));
    const size_t tail = tail_granules();
    require(tail >= FIRST_LEAD - 1);
    granted = 8;
    mapping = refuse_much;
    struct slm_span *span = slm_span_alloc(node, tail + 8, 1);
    require(span && slm_span_granule(span) == frontier + 1 && last_count == 8);
    mark(span);
    slm_span_check(node);
}

static void what_is_free_at_the_frontier_is_used(void **state)
{
    (void)state;
    assert_child_silent(extend_the_tail);
}

/* -- no memory --------------------------------------------------------------------------------------------------- */

static bool refuse(size_t first, size_t count)
{
    mapping = refuse;
    (void)first, (void)count;
    return answer(ENOMEM);
}

static bool refuse_below_another(size_t first, size_t count)
{
    require(slm_span_alloc(node, LITTLE, 1) && last_first == first + count);
    return refuse(first, count);
}

static void fail_below_another(void)
{
    fill();
    const size_t frontier = area->frontier;
    mapping = refuse_below_another;
    const struct slm_span *elsewhere = slm_span_alloc(node, 9, 1); /* on another node, if there is any */
    require(!elsewhere || slm_area_of_granule(slm_span_granule(elsewhere)) != node);
    mapping = NULL;
    require(free_granules(SLM_SPAN_UNMAPPED) >= 9 && lost_granules() == 0);
    slm_span_check(node);
    struct slm_span *span = slm_span_alloc(node, 9, 1);
    require(slm_span_granule(span) == frontier);
    mark(span);
    slm_span_check(node);
}

static void addresses_without_memory_are_for_later(void **state)
{
    (void)state;
    assert_child_silent(fail_below_another);
}

enum { THREADS = 8, SPANS = 120 };

static void *take_and_keep(void *number)
{
    struct slm_span *spans[SPANS];
    const uint64_t mine = 1 + (uintptr_t)number;
    uint64_t seed = mine;
    for (size_t i = 0; i < SPANS; i++)
        if ((spans[i] = slm_span_alloc(node, 1 + random_below(&seed, 64), 1)))
            for (size_t granule = 0; granule < spans[i]->granules; granule++) {
                uint64_t *word = (uint64_t *)(slm_span_start(spans[i]) + granule * SLM_GRANULE);
                require(spans[i]->state == SLM_SPAN_DIRTY || *word == 0);
                *word = mine;
            }
    for (size_t i = 0; i < SPANS; i++)
        for (size_t granule = 0; spans[i] && granule < spans[i]->granules; granule++)
            require(*(uint64_t *)(slm_span_start(spans[i]) + granule * SLM_GRANULE) == mine);
    for (size_t i = (uintptr_t)number % 2; i < SPANS; i += 2) /* one half of them */
        if (spans[i])
            slm_span_free(spans[i]);
    return NULL;
}

static void take_on_threads(void)
{
    fill();
    on_threads(THREADS, take_and_keep);
    require(area->mapping == 0 && lost_granules() == 0);
    slm_span_check(node);
}

static void threads_extend_at_once(void **state)
{
    (void)state;
    assert_child_silent(take_on_threads);
}

/* All come to the end of what there is, at once and again and again, and lose no address. */
static void *take_then_without_memory(void *number)
{
    static _Atomic unsigned ready;
    const struct rlimit none = {1, RLIM_INFINITY};
    atomic_fetch_add(&ready, 1);
    while (load_relaxed(&ready) < THREADS) /* they have stacks by then */
        sched_yield();
    setrlimit(RLIMIT_AS, &none);
    return take_and_keep(number);
}

static void take_without_memory(void)
{
    const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    fill();
    slm_span_free(slm_span_alloc(node, 500, 1));
    on_threads(THREADS, take_then_without_memory);
    setrlimit(RLIMIT_AS, &all);
    require(area->mapping == 0 && lost_granules() == 0);
    slm_span_check(node);
    on_threads(THREADS, take_and_keep);
    slm_span_check(node);
}

static void no_address_is_lost_for_want_of_memory(void **state)
{
    (void)state;
    assert_child_silent(take_without_memory);
}

/* -- foreign mappings -------------------------------------------------------------------------------------------- */

static bool find_a_stranger(size_t first, size_t count)
{
    (void)first, (void)count;
    return answer(EEXIST);
}

static void step_over(void)
{
    fill();
    const size_t frontier = area->frontier;
    mapping = find_a_stranger;
    mark(slm_span_alloc(node, 1, 1));
    require(calls == 2 && last_first > frontier && last_first < frontier + LONG);
    slm_span_check(node);
}

static size_t found_by_one;

static bool find_a_stranger_below_another(size_t first, size_t count)
{
    found_by_one = count;
    require(slm_span_alloc(node, LITTLE, 1) && last_first == first + count);
    return answer(EEXIST);
}

static void step_over_below_another(void)
{
    fill();
    mapping = find_a_stranger_below_another;
    mark(slm_span_alloc(node, 1, 1));
    require(calls == 3 && lost_granules() == found_by_one && area->mapping == 0);
    slm_span_check(node);
}

static void strangers_are_stepped_over(void **state)
{
    (void)state;
    assert_child_silent(step_over);
    assert_child_silent(step_over_below_another);
}

/* -- growth in place --------------------------------------------------------------------------------------------- */

static struct slm_span *span_with_tail(void)
{
    fill();
    struct slm_span *span = slm_span_alloc(node, 4, 1);
    require(tail_granules() >= FIRST_LEAD - 4);
    mark(span);
    return span;
}

static void grow_past_the_tail(void)
{
    struct slm_span *span = span_with_tail();
    bool clean = false;
    const size_t more = tail_granules() + 10;
    require(slm_span_extend(span, 4 + more, 4 + more, &clean) && clean && span->granules == 4 + more);
    require(all_zero(slm_span_start(span) + 4 * SLM_GRANULE, more * SLM_GRANULE));
    slm_span_check(node);
}

/* As much as it may become, where that is to be had. */
static void grow_with_headroom(void)
{
    struct slm_span *span = span_with_tail();
    bool clean = false;
    const size_t tail = tail_granules();
    require(slm_span_extend(span, 5, 4 + tail + 20, &clean) && clean && span->granules == 4 + tail + 20);
    const size_t now = span->granules, rest = tail_granules();
    mapping = refuse;
    require(slm_span_extend(span, now + 1, now + rest + 20, &clean) && clean && span->granules > now);
    require(span->granules <= now + slm_max(rest, 1) && lost_granules() == 0);
    mapping = NULL;
    slm_span_check(node);
}

static bool take_the_tail(size_t first, size_t count)
{
    require(slm_span_alloc(node, 1, 1));
    return __real_slm_reservation_extend(first, count);
}

static void grow_into_what_another_takes(void)
{
    struct slm_span *span = span_with_tail();
    bool clean;
    const size_t tail = tail_granules();
    mapping = take_the_tail;
    errno = EDOM;
    require(!slm_span_extend(span, 4 + tail + 10, 4 + tail + 10, &clean) && errno == EDOM && span->granules == 4);
    require(tail_granules() >= tail + 9 && lost_granules() == 0); /* it is there for others */
    slm_span_check(node);
}

static void grow_against(int error)
{
    struct slm_span *span = span_with_tail();
    bool clean;
    mapping = error == EEXIST ? find_a_stranger : refuse;
    require(!slm_span_extend(span, 4 + tail_granules() + 10, 4 + tail_granules() + 10, &clean) &&
            span->granules == 4);
    mapping = NULL;
    slm_span_check(node);
    require(slm_span_extend(span, 4 + 10, 4 + 10, &clean) && clean);
}

static void grow_against_a_stranger(void)
{
    grow_against(EEXIST);
}

static void grow_without_memory(void)
{
    grow_against(ENOMEM);
}

static void spans_grow_at_the_frontier(void **state)
{
    (void)state;
    assert_child_silent(grow_past_the_tail);
    assert_child_silent(grow_with_headroom);
    assert_child_silent(grow_into_what_another_takes);
    assert_child_silent(grow_against_a_stranger);
    assert_child_silent(grow_without_memory);
}

/* -- forks ------------------------------------------------------------------------------------------------------- */

/* A thread that does not exist here was mapping. */
static void go_on_in_child(void)
{
    const size_t its = last_count, frontier = area->frontier;
    require(area->mapping == its);
    struct slm_span *span = slm_span_alloc(node, 20, 1);
    require(slm_span_granule(span) == frontier && last_count >= FIRST_LEAD); /* it maps ahead */
    mark(span);
    require(lost_granules() == its && area->mapping == 0);
    slm_span_free(span);
    slm_span_check(node);
}

static pthread_barrier_t both;

static bool let_the_other_fork(size_t first, size_t count)
{
    pthread_barrier_wait(&both);
    pthread_barrier_wait(&both);
    return __real_slm_reservation_extend(first, count);
}

static void *extend_slowly(void *nothing)
{
    fill();
    mapping = let_the_other_fork;
    mark(slm_span_alloc(node, 30, 1));
    return nothing;
}

static void fork_beside(void)
{
    pthread_t thread;
    require(pthread_barrier_init(&both, NULL, 2) == 0);
    require(pthread_create(&thread, NULL, extend_slowly, NULL) == 0);
    pthread_barrier_wait(&both);
    const struct outcome outcome = in_child(go_on_in_child);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
    pthread_barrier_wait(&both);
    pthread_join(thread, NULL);
    require(area->mapping == 0 && lost_granules() == 0);
    slm_span_check(node);
}

/* As a handler does. The child comes back into the call. */
static bool fork_inside(size_t first, size_t count)
{
    int how = 0;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        slm_fork_check();
        go_on_in_child();
        last_first = first;
    } else {
        require(waitpid((pid_t)child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
    return __real_slm_reservation_extend(first, count);
}

static void fork_in_a_handler(void)
{
    fill();
    mapping = fork_inside;
    mark(slm_span_alloc(node, 30, 1));
    require(area->mapping == 0);
    slm_span_check(node);
}

static void children_go_on(void **state)
{
    (void)state;
    assert_child_silent(fork_beside);
    assert_child_silent(fork_in_a_handler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_lock_is_held_in_the_kernel),
        cmocka_unit_test(one_thread_at_a_time_maps_far_ahead),
        cmocka_unit_test(a_lead_is_a_wish),
        cmocka_unit_test(what_is_free_at_the_frontier_is_used),
        cmocka_unit_test(addresses_without_memory_are_for_later),
        cmocka_unit_test(threads_extend_at_once),
        cmocka_unit_test(no_address_is_lost_for_want_of_memory),
        cmocka_unit_test(strangers_are_stepped_over),
        cmocka_unit_test(spans_grow_at_the_frontier),
        cmocka_unit_test(children_go_on),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
