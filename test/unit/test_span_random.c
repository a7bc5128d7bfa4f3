/* src/page/span.h again: long runs of random operations against a model that knows what every granule holds, with the
 * checker in between; on one thread, on several, and in children of a process that was busy in the middle of it. */
#include "spans.h"
#include "trap.h"
#include "unit.h"

#include "os/topology.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "page/span.h"
#include "page/span_alloc.h"

enum { SLOTS = 96, STEPS = 2000, THREADS = 4, CHILD_STEPS = 100, CHILDREN = 25 };

/* One owner's spans: the first word of each granule holds the span's mark. */
struct model {
    uint64_t seed;
    struct slot {
        struct slm_span *span;
        uint64_t mark;
    } slots[SLOTS];
};

static unsigned node;

static int begin(void **state)
{
    node = slm_nodes - 1;
    return start_library(state);
}

static uint64_t *word_of(const struct slm_span *span, size_t granule)
{
    return (uint64_t *)(slm_span_start(span) + granule * SLM_GRANULE);
}

static void mark_from(struct slot *slot, size_t first)
{
    for (size_t granule = first; granule < slot->span->granules; granule++)
        *word_of(slot->span, granule) = slot->mark;
}

static void check_marks(const struct slot *slot)
{
    for (size_t granule = 0; granule < slot->span->granules; granule++)
        require(*word_of(slot->span, granule) == slot->mark);
}

static void require_zero_from(const struct slm_span *span, size_t first)
{
    for (size_t granule = first; granule < span->granules; granule++)
        require(*word_of(span, granule) == 0);
}

static size_t random_length(struct model *model)
{
    static const size_t limits[] = {1, 4, 4, 16, 48, 300};
    return 1 + random_below(&model->seed, limits[random_below(&model->seed, COUNT(limits))]);
}

static void fill_slot(struct model *model, struct slot *slot)
{
    const size_t granules = random_length(model),
                 alignment = (size_t)1 << (random_below(&model->seed, 32) == 0 ? 5 : 0);
    slot->span = slm_span_alloc(node, granules, alignment);
    require(slot->span && slot->span->granules == granules);
    require((uintptr_t)slm_span_start(slot->span) % (alignment * SLM_GRANULE) == 0);
    if (slot->span->state != SLM_SPAN_DIRTY)
        require_zero_from(slot->span, 0);
    slot->mark = random_next(&model->seed) | 1;
    mark_from(slot, 0);
}

static void extend_slot(struct model *model, struct slot *slot)
{
    const size_t before = slot->span->granules, wanted = before + random_length(model);
    bool clean;
    if (!slm_span_extend(slot->span, wanted, wanted, &clean)) {
        require(slot->span->granules == before);
        return;
    }
    require(slot->span->granules == wanted);
    if (clean)
        require_zero_from(slot->span, before);
    mark_from(slot, before);
}

static void empty_slot(struct slot *slot)
{
    check_marks(slot);
    slm_span_free(slot->span);
    slot->span = NULL;
}

static void step(struct model *model)
{
    struct slot *slot = &model->slots[random_below(&model->seed, SLOTS)];
    const size_t dice = random_below(&model->seed, 100);
    if (dice == 0)
        slm_span_purge(random_below(&model->seed, 64) * SLM_GRANULE, SLM_PURGE_TRIM);
    else if (dice == 1)
        slm_span_purge_surplus(false);
    else if (!slot->span)
        fill_slot(model, slot);
    else if (dice < 25)
        extend_slot(model, slot);
    else if (dice < 45 && slot->span->granules > 1)
        slm_span_trim(slot->span, 1 + random_below(&model->seed, slot->span->granules - 1), SLM_SPAN_DIRTY);
    else
        empty_slot(slot);
}

static void check_model(const struct model *model)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (model->slots[i].span)
            check_marks(&model->slots[i]);
}

static void end_model(struct model *model)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (model->slots[i].span)
            empty_slot(&model->slots[i]);
}

static void operations_keep_the_invariants(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct model model = {.seed = seed};
        for (unsigned i = 0; i < scaled(STEPS); i++) {
            step(&model);
            if (i % 32 == 0)
                slm_span_check(node);
        }
        check_model(&model);
        end_model(&model);
        slm_span_check(node);
    }
}

/* After the last span has come back, most of the heap is one piece. */
static void everything_joins_in_the_end(void **state)
{
    (void)state;
    slm_span_purge(0, SLM_PURGE_TRIM);
    const uint64_t heap = slm_reservation_heap_bytes();
    struct slm_span *most = slm_span_alloc(node, heap / 2 / SLM_GRANULE, 1);
    assert_non_null(most);
    slm_span_free(most);
    assert_int_equal(slm_reservation_heap_bytes(), heap); /* it was there */
}

static void *run_model(void *number)
{
    struct model model = {.seed = 100 + (uintptr_t)number};
    for (unsigned i = 0; i < scaled(STEPS); i++) {
        step(&model);
        if (i % 256 == 0)
            slm_span_check(node);
    }
    end_model(&model);
    return NULL;
}

static void threads_keep_the_invariants(void **state)
{
    (void)state;
    on_threads(THREADS, run_model);
    slm_span_check(node);
}

static struct model kept; /* the parent's, which its children find as it was */
static _Atomic bool enough;

static void *be_busy(void *nothing)
{
    struct model model = {.seed = 7};
    while (!load_relaxed(&enough))
        step(&model);
    end_model(&model);
    return nothing;
}

enum { FOUND_HELD = 1 };

static void go_on_in_child(void)
{
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        step(&kept);
    check_model(&kept);
    end_model(&kept);
    slm_span_check(node);
    _exit(slm_free_spans_in(node)->generation == slm_fork_generation ? FOUND_HELD : 0);
}

static void a_child_may_find_the_lock_held(void **state)
{
    (void)state;
    pthread_t thread;
    kept.seed = 5;
    for (unsigned i = 0; i < 500; i++)
        step(&kept);
    assert_int_equal(pthread_create(&thread, NULL, be_busy, NULL), 0);
    for (unsigned long i = 0; i < scaled(CHILDREN); i++) {
        const struct outcome outcome = in_child(go_on_in_child);
        if (outcome.status != 0 && outcome.status != FOUND_HELD)
            fail_msg("fork %lu: status %d, signal %d: %s", i, outcome.status, outcome.signal, outcome.said);
    }
    store_relaxed(&enough, true);
    pthread_join(thread, NULL);
    end_model(&kept);
}

enum { EVERY = 61 }; /* instructions, from fork to fork */

static unsigned found_held;

static void fork_in_the_middle(void)
{
    int how = 0;
    if (traced.step % EVERY != 0)
        return;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* as _Fork does in a handler */
    if (child == 0) {
        alarm(CHILD_SECONDS);
        slm_fork_check(); /* as every slow path does first */
        go_on_in_child();
    }
    require(waitpid((pid_t)child, &how, 0) == child && WIFEXITED(how));
    require(WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == FOUND_HELD);
    found_held += WEXITSTATUS(how) == FOUND_HELD;
    traced.over = found_held >= CHILDREN;
}

static void change(void)
{
    struct slm_span *span = slm_span_alloc(node, 3, 1);
    slm_span_trim(span, 1, SLM_SPAN_DIRTY);
    slm_span_free(span);
}

/* The same, by a thread that is sure to hold it. */
static void a_child_in_the_middle_of_a_change_starts_afresh(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 500; i++)
        step(&kept);
    begin_tracing();
    interrupt_each(change, fork_in_the_middle);
    signal(SIGTRAP, SIG_DFL);
    end_model(&kept);
    assert_true(found_held > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_keep_the_invariants),
        cmocka_unit_test(everything_joins_in_the_end),
        cmocka_unit_test(threads_keep_the_invariants),
        cmocka_unit_test(a_child_may_find_the_lock_held),
        cmocka_unit_test(a_child_in_the_middle_of_a_change_starts_afresh),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
