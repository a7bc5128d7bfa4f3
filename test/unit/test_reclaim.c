/* src/process/reclaim.h and worker.h: when memory goes back to the kernel, and the worker that sees to it. The
 * options are set for short delays. */
#include "heap_check.h"
#include "worker.h"

#include <limits.h>

#include "base/options.h"
#include "heap/slow.h"
#include "process/lifecycle.h"
#include "process/reclaim.h"
#include "process/worker.h"
#include "os/sys.h"
#include "os/topology.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "page/span.h"

static int begin(void **state)
{
    const int started = start_library(state);
    slm_settings.purge_delay_ms = 50;
    slm_options.worker = 1;
    slm_demand_rise(16 * MIB); /* worth a worker each time */
    return started;
}

static bool nothing_dirty(void)
{
    return slm_span_dirty_bytes() == 0;
}

static void make_dirty(size_t bytes)
{
    char *object = malloc(bytes);
    require(object != NULL);
    memset(object, 1, bytes);
    free(object);
}

static void a_process_with_one_thread_has_no_worker(void **state)
{
    (void)state;
    make_dirty(MIB);
    assert_false(worker_there());
}

static void the_only_thread_s_passes_purge(void **state)
{
    (void)state;
    make_dirty(8 * MIB);
    struct slm_thread *thread = slm_thread_enter(true);
    while (slm_span_dirty_bytes() > 0) {
        slm_worker_tick(thread);
        sleep_ms(1);
    }
    slm_thread_leave(thread);
}

/* From here on nothing becomes due. */
static void put_purging_off(void)
{
    slm_settings.purge_delay_ms = FAR_OFF_MS;
    slm_settings.dirty_bytes = UINT64_MAX / 2;
    slm_span_purge(0, SLM_PURGE_TRIM);
    struct slm_thread *thread = slm_thread_enter(true);
    slm_worker_tick(thread);
    slm_thread_leave(thread);
}

static void tick_early(void)
{
    put_purging_off();
    make_dirty(4 * MIB);
    for (unsigned i = 0; i < 10; i++) {
        struct slm_thread *thread = slm_thread_enter(true);
        slm_worker_tick(thread);
        slm_thread_leave(thread);
    }
    require(slm_span_dirty_bytes() >= 4 * MIB);
}

static void nothing_goes_before_its_time(void **state)
{
    (void)state;
    assert_child_silent(tick_early);
}

static void a_worker_comes_and_goes(void **state)
{
    (void)state;
    start_second();
    wait_until(worker_there);
    end_second();
    wait_until(alone);
}

/* Calls that demand a single thread work at once. */
static void the_worker_is_gone_with_the_last_thread(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 20; turn++) {
        start_second();
        wait_until(worker_there);
        end_second();
        assert_true(worker_gone());
        sleep_ms(30); /* for the next to be started, too */
    }
}

/* libc sees each start of a worker. */
static _Atomic unsigned workers;

int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size)
{
    (void)attributes; /* nothing is set: the default is more */
    add_relaxed(&workers, size == 512 * KIB);
    return 0;
}

static void *live_shortly(void *nothing)
{
    free(malloc(100));
    return nothing;
}

/* However many come at one time, few have a worker; later there is one again. */
static void short_lives_have_no_worker_each(void **state)
{
    (void)state;
    struct timespec now;
    sleep_ms(30);
    clock_gettime(CLOCK_MONOTONIC, &now);
    store_relaxed(&still_ns, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    const unsigned before = load_relaxed(&workers);
    for (unsigned life = 0; life < 500; life++)
        assert_true(pthread_create(&second, NULL, live_shortly, NULL) == 0 && pthread_join(second, NULL) == 0);
    const unsigned started = load_relaxed(&workers) - before;
    store_relaxed(&still_ns, 0);
    assert_true(started > 0 && started < 100);
    assert_true(worker_gone());
    sleep_ms(30);
    start_second();
    wait_until(worker_there);
    end_second();
}

static void the_worker_has_all_signals_blocked(void **state)
{
    (void)state;
    char line[128];
    unsigned long blocked = 0;
    long worker;
    start_second();
    wait_until(worker_there);
    count_tasks(&worker);
    FILE *file = fopen(text("/proc/self/task/%ld/status", worker), "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        sscanf(line, "SigBlk: %lx", &blocked);
    fclose(file);
    end_second();
    /* all but those that cannot be (9, 19) and the two that libc keeps for itself (32, 33) */
    assert_int_equal(blocked | 1ul << 8 | 1ul << 18 | 3ul << 31, ULONG_MAX);
}

static void the_worker_purges_an_idle_process(void **state)
{
    (void)state;
    start_second();
    wait_until(worker_there);
    for (unsigned turn = 0; turn < 2; turn++) {
        make_dirty(16 * MIB);
        wait_until(nothing_dirty);
    }
    end_second();
    wait_until(worker_gone);
}

/* Woken, it stays awake until what it was woken for is due. */
static void the_worker_purges_after_it_has_slept(void **state)
{
    (void)state;
    start_second();
    wait_until(worker_there);
    long worker;
    count_tasks(&worker);
    for (unsigned turn = 0; turn < 2; turn++) {
        wait_until_asleep(worker);
        make_dirty(16 * MIB);
        wait_until(nothing_dirty);
    }
    end_second();
    wait_until(worker_gone);
}

/* What becomes free just before the worker would have gone to sleep keeps it awake. */
static void the_worker_sees_the_last_activity(void **state)
{
    (void)state;
    start_second();
    wait_until(worker_there);
    for (unsigned wait = 2000 / CLOCK_SPEED - 10; wait <= 2200 / CLOCK_SPEED + 10; wait += 5) {
        make_dirty(16 * MIB); /* it looks around from here on */
        sleep_ms(wait);
        make_dirty(16 * MIB);
        wait_until(nothing_dirty);
    }
    end_second();
    wait_until(worker_gone);
}

static void leave_the_worker_alone(void)
{
    long worker;
    start_second();
    wait_until(worker_there);
    make_dirty(16 * MIB);
    count_tasks(&worker);
    wait_until(nothing_dirty);
    wait_until_asleep(worker);
    end_second();
}

static void leave_the_worker_alone_where_scarce(void)
{
    slm_span_set_scarce(true);
    leave_the_worker_alone();
}

static void in_an_idle_process_the_worker_sleeps(void **state)
{
    (void)state;
    assert_child_silent(leave_the_worker_alone);
    assert_child_silent(leave_the_worker_alone_where_scarce);
}

static void without_the_option(void)
{
    slm_options.worker = 0;
    start_second();
    sleep_ms(100);
    require(!worker_there());
    end_second();
}

static void the_worker_is_an_option(void **state)
{
    (void)state;
    assert_child_silent(without_the_option);
}

static void be_child_of_two(void)
{
    require(!worker_there());
    start_second();
    wait_until(worker_there);
    make_dirty(4 * MIB);
    wait_until(nothing_dirty);
    end_second();
    wait_until(worker_gone);
}

static void a_child_has_a_worker_of_its_own(void **state)
{
    (void)state;
    start_second();
    wait_until(worker_there);
    assert_child_silent(be_child_of_two);
    end_second();
    wait_until(worker_gone);
}

/* In a process that never calls again. */
static void tear_down(size_t size)
{
    static char *objects[64 * MIB / 100];
    slm_settings.purge_delay_ms = FAR_OFF_MS;
    const uint64_t before = slm_demand_used();
    const size_t count = 64 * MIB / size;
    for (size_t i = 0; i < count; i++)
        memset(objects[i] = malloc(size), 1, size);
    for (size_t i = 0; i < count; i++) {
        free(objects[i]);
        const size_t used = slm_demand_used();
        require(slm_span_dirty_bytes() <= 6 * MIB || slm_span_dirty_bytes() <= used / 2 + used / 8 + 2 * MIB);
    }
    require(slm_demand_used() <= before + 8 * MIB); /* a depot's stock, a thread's magazines */
}

static void tear_down_large(void)
{
    tear_down(2 * MIB);
}

static void tear_down_small(void)
{
    tear_down(100);
}

static void a_tear_down_goes_at_once(void **state)
{
    (void)state;
    assert_child_silent(tear_down_large);
    assert_child_silent(tear_down_small);
}

enum { FILLED_SIZE = 2000 };
static void *fill_and_free(void *nothing);

/* It has freed what it made; the second one has a stock in the depots and dirty spans to leave. */
static void be_left_alone(void)
{
    const uint64_t before = slm_demand_used();
    slm_settings.purge_delay_ms = FAR_OFF_MS;
    require(pthread_create(&second, NULL, fill_and_free, NULL) == 0 && pthread_join(second, NULL) == 0);
    require(!worker_there());
    require(slm_span_dirty_bytes() <= MIB && slm_demand_used() <= before + MIB);
}

static void the_last_thread_s_end_leaves_nothing(void **state)
{
    (void)state;
    assert_child_silent(be_left_alone);
}

static void come_and_go(void)
{
    slm_settings.purge_delay_ms = FAR_OFF_MS / 4;
    for (unsigned turn = 0; turn < 4; turn++)
        require(pthread_create(&second, NULL, fill_and_free, NULL) == 0 && pthread_join(second, NULL) == 0);
    const struct slm_depot *depot = &slm_class_cache(slm_class_of_size(FILLED_SIZE))->first;
    require(slm_span_dirty_bytes() + load_relaxed(&depot->stock_rounds) * FILLED_SIZE >= 50 * MIB);
}

static void threads_that_come_and_go_find_their_memory(void **state)
{
    (void)state;
    assert_child_silent(come_and_go);
}

/* What is left over of 64 MiB in small objects, on top of what was there. */
static void require_little_left(uint64_t heap_before)
{
    require(slm_span_dirty_bytes() <= 4 * MIB);
    require(slm_reservation_heap_bytes() <= heap_before + 12 * MIB); /* and the magazines, and partial slabs */
    check_heap();
}

static void *fill_and_free(void *nothing)
{
    static void *objects[64 * MIB / FILLED_SIZE];
    for (size_t i = 0; i < COUNT(objects); i++)
        memset(objects[i] = malloc(FILLED_SIZE), 1, FILLED_SIZE);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static void fill_and_free_where_scarce(void)
{
    slm_settings.purge_delay_ms = FAR_OFF_MS;
    slm_span_set_scarce(true);
    const uint64_t heap = slm_reservation_heap_bytes();
    for (unsigned turn = 0; turn < 3; turn++) {
        fill_and_free(NULL);
        require_little_left(heap);
    }
    require(pthread_create(&second, NULL, fill_and_free, NULL) == 0 && pthread_join(second, NULL) == 0);
    require_little_left(heap);
    void *object = malloc(64 * MIB);
    require(object && (object = realloc(object, 40000)));
    require_little_left(heap);
    free(object);
}

static void scarce_addresses_go_at_once(void **state)
{
    (void)state;
    assert_child_silent(fill_and_free_where_scarce);
}

static void all_can_go(void **state)
{
    (void)state;
    static void *objects[5000];
    put_purging_off();
    for (size_t i = 0; i < COUNT(objects); i++)
        memset(objects[i] = malloc(1500), 1, 1500);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    struct slm_thread *thread = slm_thread_enter(true);
    slm_thread_empty(thread, SLM_TO_SLABS);
    slm_thread_leave(thread);
    const size_t given = slm_reclaim_all(true, SLM_PURGE_TRIM);
    assert_true(given >= 5000 * 1500 / 2);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    const struct slm_depot *depot = &slm_class_cache(slm_class_of_size(1500))->first;
    assert_int_equal(load_relaxed(&depot->slabs_made), load_relaxed(&depot->slabs_released));
    assert_int_equal(slm_reclaim_all(true, SLM_PURGE_TRIM), 0);
    check_heap();
}

/* All but an object of each slab are free. */
static void be_still(void)
{
    enum { SIZE = 512, MANY = 20000, PER_SLAB = 128, WINDOW_MS = 100 };
    static void *objects[MANY];
    put_purging_off();
    slm_reclaim_all(true, SLM_PURGE_TRIM); /* what was still before is not to be seen */
    free(malloc(SIZE));
    slm_cache_lock(); /* on a slow machine a trim in between would see sparse slabs for the first time */
    for (size_t i = 0; i < MANY; i++)
        memset(objects[i] = malloc(SIZE), 1, SIZE);
    for (size_t i = 0; i < MANY; i++)
        if (i % PER_SLAB != 0)
            free(objects[i]);
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(SIZE));
    store_relaxed(&cache->stock_rounds, MANY); /* as if stocks had been missed */
    struct slm_thread *thread = slm_thread_enter(true);
    slm_thread_empty(thread, SLM_TO_DEPOT);
    slm_cache_unlock();
    const struct slm_depot *depot = &cache->first;
    slm_settings.purge_delay_ms = WINDOW_MS;
    const uint64_t now = slm_sys_now_ms() + 8 * (uint64_t)FAR_OFF_MS,
                   before = load_relaxed(&slm_purged_bytes[SLM_PURGE_IDLE]);
    for (unsigned i = 0; i < 2; i++)
        slm_reclaim_due(now + i * WINDOW_MS, true, false);
    require(load_relaxed(&slm_purged_bytes[SLM_PURGE_IDLE]) == before);
    slm_reclaim_due(now + 2 * WINDOW_MS, true, false);
    require(load_relaxed(&slm_purged_bytes[SLM_PURGE_IDLE]) - before > MANY * SIZE / 4 * 3);
    require(load_relaxed(&depot->stock_rounds) == 0);
    slm_thread_leave(thread);
}

static void what_is_still_goes_after_two_delays(void **state)
{
    (void)state;
    assert_child_silent(be_still);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* first: what has fallen before counts as a repetition for a purge delay, which is far off here */
        cmocka_unit_test(a_tear_down_goes_at_once),
        cmocka_unit_test(the_last_thread_s_end_leaves_nothing),
        cmocka_unit_test(threads_that_come_and_go_find_their_memory),
        cmocka_unit_test(a_process_with_one_thread_has_no_worker),
        cmocka_unit_test(the_only_thread_s_passes_purge),
        cmocka_unit_test(nothing_goes_before_its_time),
        cmocka_unit_test(a_worker_comes_and_goes),
        cmocka_unit_test(the_worker_is_gone_with_the_last_thread),
        cmocka_unit_test(short_lives_have_no_worker_each),
        cmocka_unit_test(the_worker_has_all_signals_blocked),
        cmocka_unit_test(the_worker_purges_an_idle_process),
        cmocka_unit_test(the_worker_purges_after_it_has_slept),
        cmocka_unit_test(the_worker_sees_the_last_activity),
        cmocka_unit_test(in_an_idle_process_the_worker_sleeps),
        cmocka_unit_test(the_worker_is_an_option),
        cmocka_unit_test(a_child_has_a_worker_of_its_own),
        cmocka_unit_test(scarce_addresses_go_at_once),
        cmocka_unit_test(all_can_go),
        cmocka_unit_test(what_is_still_goes_after_two_delays),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
