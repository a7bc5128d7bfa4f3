/* src/thread/account.h: exact counts and limits: windows, the account itself, closing windows when a limit is met,
 * and that nothing is lost or let through with several threads. */
#include "unit.h"

#include "caches.h"
#include "heap/object.h"
#include "os/sys.h"
#include "thread/account.h"

enum { WINDOWS = 3, TURNS = 200000 };

/* -- windows that belong to no thread ---------------------------------------------------------------------------- */

static struct slm_account account;
static struct slm_window windows[WINDOWS];

static int fresh_account(void **state)
{
    (void)state;
    account = (struct slm_account){.limit = 1000};
    memset(windows, 0, sizeof windows);
    return 0;
}

/* What account.h says of them, at any moment between calls. */
static void check_sums(int64_t objects)
{
    int64_t live = load_relaxed(&account.live), charged = live;
    for (size_t i = 0; i < WINDOWS; i++) {
        require(windows[i].low <= windows[i].net && windows[i].net <= windows[i].high);
        require(windows[i].low <= 0 && windows[i].high >= 0 && load_relaxed(&windows[i].moving) == 0);
        live += windows[i].net;
        charged += windows[i].high;
    }
    require(live == objects);
    require((uint64_t)charged == load_relaxed(&account.charged));
    require(load_relaxed(&account.charged) <= account.limit);
}

static void a_window_opens_at_its_edge_and_counts(void **state)
{
    (void)state;
    assert_true(slm_account_take(&account, &windows[0]));
    check_sums(1);
    assert_true(windows[0].high > 1 && windows[0].low < 0);
    const uint64_t charged = load_relaxed(&account.charged);
    for (int32_t i = 1; i < windows[0].high; i++)
        assert_true(slm_account_take(&account, &windows[0]));
    assert_int_equal(load_relaxed(&account.charged), charged); /* in the window nothing shared is touched */
    assert_int_equal(load_relaxed(&account.live), 0);
    assert_true(slm_account_take(&account, &windows[0]));
    check_sums(charged + 1);
    assert_int_equal(load_relaxed(&account.live), charged);
}

static void frees_have_a_window_too(void **state)
{
    (void)state;
    assert_true(slm_account_take_direct(&account, 500)); /* allocated elsewhere */
    check_sums(500);
    for (unsigned i = 1; i <= 500; i++) {
        slm_account_give(&account, &windows[1]);
        check_sums(500 - i);
    }
    slm_window_close(&account, &windows[1]);
    assert_int_equal(load_relaxed(&account.live), 0);
    assert_int_equal(load_relaxed(&account.charged), 0);
}

static void a_window_is_a_share_of_the_room(void **state)
{
    (void)state;
    assert_true(slm_account_take_direct(&account, 900));
    assert_true(slm_account_take(&account, &windows[0]));
    assert_true(windows[0].high < 100); /* others can have some */
    const int32_t high = windows[0].high;
    assert_true(slm_account_take_direct(&account, 100 - (uint64_t)high));
    assert_false(slm_account_take_direct(&account, 1)); /* what a window allows is charged */
    check_sums(900 + 1 + 100 - high);
}

static void no_limit_is_a_wide_window(void **state)
{
    (void)state;
    account.limit = UINT64_MAX;
    for (unsigned i = 0; i < 100000; i++)
        assert_true(slm_account_take(&account, &windows[0]));
    assert_int_equal(load_relaxed(&account.live), 0); /* and its edge was not come to */
    check_sums(100000);
}

static void direct_charges_are_all_or_nothing(void **state)
{
    (void)state;
    assert_false(slm_account_take_direct(&account, 1001));
    assert_false(slm_account_take_direct(&account, UINT64_MAX));
    check_sums(0);
    assert_true(slm_account_take_direct(&account, 1000));
    assert_false(slm_account_take_direct(&account, 1));
    assert_true(slm_account_take_direct(&account, 0));
    slm_account_give_direct(&account, 1);
    assert_false(slm_account_take_direct(&account, 2));
    assert_true(slm_account_take_direct(&account, 1));
    check_sums(1000);
}

static void a_limit_below_one_object_allows_none(void **state)
{
    (void)state;
    account.limit = 0;
    assert_false(slm_account_take(&account, &windows[0]));
    assert_false(slm_account_take_direct(&account, 1));
    check_sums(0);
}

static void one_window_comes_to_the_limit_exactly(void **state)
{
    (void)state;
    for (uint64_t limit = 1; limit < 300; limit += 7) {
        account = (struct slm_account){.limit = limit};
        memset(windows, 0, sizeof windows);
        for (uint64_t i = 0; i < limit; i++)
            assert_true(slm_account_take(&account, &windows[0]));
        assert_false(slm_account_take(&account, &windows[0]));
        check_sums((int64_t)limit);
        slm_account_give(&account, &windows[0]);
        assert_true(slm_account_take(&account, &windows[0]));
        assert_false(slm_account_take(&account, &windows[0]));
        check_sums((int64_t)limit);
    }
}

/* Random calls in all windows and without: refused are only those that the others' windows have no room for. */
static void sums_hold_whatever_is_called(void **state)
{
    (void)state;
    static const uint64_t limits[] = {5, 64, 1000, 100000, UINT64_MAX};
    uint64_t seed = 3;
    for (size_t k = 0; k < COUNT(limits); k++) {
        int64_t objects = 0;
        account = (struct slm_account){.limit = limits[k]};
        memset(windows, 0, sizeof windows);
        for (unsigned turn = 0; turn < TURNS / COUNT(limits); turn++) {
            struct slm_window *window = &windows[random_below(&seed, WINDOWS)];
            const size_t dice = random_below(&seed, turn / 1000 % 2 ? 40 : 70), n = random_below(&seed, 9);
            if (dice == 0) {
                objects += slm_account_take_direct(&account, n) ? (int64_t)n : 0;
            } else if (dice == 1 && objects >= (int64_t)n) {
                slm_account_give_direct(&account, n);
                objects -= (int64_t)n;
            } else if (dice == 2) {
                slm_window_close(&account, window);
            } else if (dice < 30) {
                objects += slm_account_take(&account, window);
            } else if (objects > 0) {
                slm_account_give(&account, window);
                objects--;
            }
            check_sums(objects);
        }
    }
}

/* -- windows of threads ------------------------------------------------------------------------------------------ */

enum { LIMIT = 400, SIZE = 64 };

static const struct slab_cache_attr limited = {.limit_bytes = (size_t)LIMIT * SIZE};

static struct slab_cache *name;
static struct slm_cache *cache;
static struct helper helpers[2];
static void *objects[2 * LIMIT];

static int begin_cache(void **state)
{
    (void)state;
    name = named("limited", SIZE, &limited);
    cache = cache_of(name);
    for (size_t i = 0; i < COUNT(helpers); i++)
        start_live_helper(&helpers[i]);
    return cache->account && cache->account->limit == LIMIT ? 0 : -1;
}

static int end_cache(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(helpers); i++)
        end_helper(&helpers[i]);
    return slab_cache_destroy(name);
}

static const struct slm_window *window_of(const struct helper *helper)
{
    return slm_window_of(helper ? helper->tls->self : slm_tls.self, cache);
}

static void use_one(void *nothing)
{
    (void)nothing;
    void *object = slm_object_alloc(name);
    require(object != NULL);
    slm_object_free(name, object);
}

/* As many as there are to be had. */
static unsigned alloc_all(void)
{
    unsigned n = 0;
    errno = 0;
    while (n < COUNT(objects) && (objects[n] = slm_object_alloc(name)))
        n++;
    require(errno == ENOMEM);
    return n;
}

static void free_some(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        slm_object_free(name, objects[i]);
}

static uint32_t close_all(void)
{
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        const uint32_t closed = slm_account_close_windows(cache);
        if (closed != 0)
            return closed;
    }
    return 0;
}

static void a_failing_call_has_gathered_the_others(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(helpers); i++) {
        tell(&helpers[i], use_one, NULL);
        assert_true(window_of(&helpers[i])->high > 0);
    }
    assert_int_equal(alloc_all(), LIMIT);
    assert_int_equal(slm_account_live(cache), LIMIT);
    for (size_t i = 0; i < COUNT(helpers); i++) {
        const struct slm_window *window = window_of(&helpers[i]);
        assert_true(window->high == 0 && window->low == 0 && window->net == 0);
    }
    free_some(0, LIMIT);
    assert_int_equal(slm_account_live(cache), 0);
}

static void refusals_are_cheap_once_windows_are_closed(void **state)
{
    (void)state;
    tell(&helpers[0], use_one, NULL);
    assert_int_equal(alloc_all(), LIMIT);
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    const uint32_t closed = slm_account_close_windows(cache);
    assert_true(closed != 0);
    for (unsigned i = 0; i < 1000; i++)
        assert_null(slm_object_alloc(name));
    assert_int_equal(slm_account_close_windows(cache), closed);
    free_some(0, 1); /* exact to one object */
    objects[0] = slm_object_alloc(name);
    assert_non_null(objects[0]);
    assert_null(slm_object_alloc(name));
    assert_int_equal(slm_account_close_windows(cache), closed);
    assert_int_equal(load_relaxed(&slm_sys_membarriers), barriers);
    free_some(0, LIMIT);
}

static void windows_open_again_when_a_quarter_is_free(void **state)
{
    (void)state;
    assert_int_equal(alloc_all(), LIMIT);
    const uint32_t closed = close_all();
    assert_true(closed != 0);
    free_some(0, LIMIT / 4 - 10);
    tell(&helpers[0], use_one, NULL);
    assert_int_equal(window_of(&helpers[0])->high, 0);
    assert_int_equal(slm_account_close_windows(cache), closed);
    free_some(LIMIT / 4 - 10, LIMIT / 4 + 10);
    tell(&helpers[0], use_one, NULL);
    assert_true(window_of(&helpers[0])->high > 0);
    const uint32_t again = close_all();
    assert_true(again != 0 && again != closed); /* a charge that failed in between has met no limit */
    free_some(LIMIT / 4 + 10, LIMIT);
    assert_int_equal(slm_account_live(cache), 0);
}

static void say_counting(void *yes)
{
    store_release(&slm_tls.counting, yes != NULL);
}

static void a_call_under_way_is_looked_at_again(void **state)
{
    (void)state;
    tell(&helpers[0], use_one, NULL);
    tell(&helpers[1], use_one, NULL);
    tell(&helpers[0], say_counting, &account);
    const struct slm_window *counting = window_of(&helpers[0]), *other = window_of(&helpers[1]);
    const struct slm_window before = *counting;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(slm_account_close_windows(cache), 0);
    assert_memory_equal(counting, &before, sizeof before);
    assert_int_equal(other->high, 0);
    tell(&helpers[0], say_counting, NULL);
    assert_true(close_all() != 0);
    assert_int_equal(counting->high, 0);
}

static void a_thread_in_a_slow_path_is_looked_at_again(void **state)
{
    (void)state;
    tell(&helpers[0], use_one, NULL);
    tell(&helpers[0], enter_slow_path, NULL);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(slm_account_close_windows(cache), 0);
    assert_true(window_of(&helpers[0])->high > 0);
    begin_task(&helpers[0], leave_slow_path, NULL);
    await(&helpers[0]);
    assert_true(close_all() != 0);
}

static void free_theirs(void *theirs)
{
    for (unsigned i = 0; i < LIMIT; i++)
        slm_object_free(name, ((void **)theirs)[i]);
}

static void whoever_frees_it_counts(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 5; turn++) {
        assert_int_equal(alloc_all(), LIMIT);
        assert_int_equal(slm_account_live(cache), LIMIT);
        tell(&helpers[turn % 2], free_theirs, objects);
        assert_int_equal(slm_account_live(cache), 0);
    }
}

static void *free_and_end(void *nothing)
{
    for (unsigned i = 0; i < LIMIT; i++)
        free(objects[i]);
    use_one(NULL);
    return nothing;
}

static void a_thread_s_end_closes_its_window(void **state)
{
    (void)state;
    assert_int_equal(alloc_all(), LIMIT);
    on_threads(1, free_and_end);
    assert_int_equal(slm_account_live(cache), 0);
    assert_true(close_all() != 0);
    assert_int_equal(load_relaxed(&cache->account->charged), 0);
    assert_int_equal(load_relaxed(&cache->account->live), 0);
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
            if ((mine[n] = slm_object_alloc(name))) {
                count_allowed(1);
                n++;
            } else {
                add_relaxed(&refused, 1);
            }
        } else if (n > 0) {
            atomic_fetch_sub(&in_use, 1);
            n--;
            if (turn % 2)
                slm_object_free(name, mine[n]);
            else
                free(mine[n]);
        }
        if (turn % 1000 == 0 && n + 10 <= LIMIT && slm_object_alloc_bulk(name, 10, mine + n) == 10) {
            count_allowed(10);
            n += 10;
        }
    }
    atomic_fetch_sub(&in_use, (int64_t)n);
    slm_object_free_bulk(name, n, mine);
    return NULL;
}

static void no_thread_gets_more_than_the_limit_and_nothing_is_lost(void **state)
{
    (void)state;
    on_threads(4, work);
    assert_true(load_relaxed(&refused) > 0 &&
                load_relaxed(&allowed) > 0); /* who has all may be held up, and most refused */
    assert_int_equal(slm_account_live(cache), 0);
    assert_int_equal(alloc_all(), LIMIT); /* what is quiet is exact */
    free_some(0, LIMIT);
}

#define window_test(name) cmocka_unit_test_setup(name, fresh_account)
#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_cache, end_cache)

int main(void)
{
    const struct CMUnitTest tests[] = {
        window_test(a_window_opens_at_its_edge_and_counts),
        window_test(frees_have_a_window_too),
        window_test(a_window_is_a_share_of_the_room),
        window_test(no_limit_is_a_wide_window),
        window_test(direct_charges_are_all_or_nothing),
        window_test(a_limit_below_one_object_allows_none),
        window_test(one_window_comes_to_the_limit_exactly),
        window_test(sums_hold_whatever_is_called),
        cache_test(a_failing_call_has_gathered_the_others),
        cache_test(refusals_are_cheap_once_windows_are_closed),
        cache_test(windows_open_again_when_a_quarter_is_free),
        cache_test(a_call_under_way_is_looked_at_again),
        cache_test(a_thread_in_a_slow_path_is_looked_at_again),
        cache_test(whoever_frees_it_counts),
        cache_test(a_thread_s_end_closes_its_window),
        cache_test(no_thread_gets_more_than_the_limit_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
