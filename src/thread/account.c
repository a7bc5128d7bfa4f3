/* Windows; see account.h.
 *
 *     account->windows = | how often they were closed 30 | state 2 |
 *
 *     OPEN --a charge fails--> CLOSING --all were looked at, and none is left--> CLOSED --room again--> OPEN
 *
 * Who opens a window says so in `moving` before it looks at the state; who closes sets the state before it looks at
 * `moving`: one of both sees the other. */
#include "thread/account.h"

#include "os/sys.h"
#include "thread/take.h"

enum { window_unlimited = 1 << 20, window_most = 64, shares = 8, room_again = 4 };

enum { OPEN, CLOSING, CLOSED, states = 4 };

/* True: n more are charged. No order is needed: what is charged guards nothing but its own sum. */
static bool charge(struct slm_account *account, uint64_t n)
{
    uint64_t charged = load_relaxed(&account->charged);
    do {
        if (n > account->limit || charged > account->limit - n)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&account->charged, &charged, charged + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* Fold, and open a window of so many objects up and down; false: there is no room for it, and all is as it was. */
static bool reopen(struct slm_account *account, struct slm_window *window, int32_t width)
{
    const int64_t more = (int64_t)width + window->net - window->high;
    if (more > 0 && !charge(account, (uint64_t)more))
        return false;
    if (more < 0)
        sub_relaxed(&account->charged, (uint64_t)-more);
    add_relaxed(&account->live, window->net);
    window->net = 0;
    window->high = width;
    window->low = -width;
    return true;
}

/* A share of the room that is left, so that all threads can have some; none while windows are closed. */
static int32_t width_for(struct slm_account *account)
{
    if (account->limit == UINT64_MAX)
        return window_unlimited;
    if (!load_relaxed(&slm_sys_has_membarrier)) /* nobody could close it */
        return 0;
    const uint64_t charged = load_relaxed(&account->charged);
    const uint64_t room = charged < account->limit ? account->limit - charged : 0;
    uint32_t state = atomic_load(&account->windows); /* pairs with slm_account_close_windows */
    if (state % states != OPEN &&
        (room < account->limit / room_again ||
         !atomic_compare_exchange_strong(&account->windows, &state, state - state % states + OPEN)))
        return 0;
    return (int32_t)slm_min(window_most, room / shares / slm_max(slm_thread_list_count(), 1));
}

/* At the edge: a window as wide as may be, or none. True: there is one. What is charged for it meanwhile is nobody's:
 * `moving` says so to those who look for room. */
static bool move_window(struct slm_account *account, struct slm_window *window)
{
    atomic_exchange(&window->moving, 1);
    const int32_t width = width_for(account);
    const bool opened = width > 0 && reopen(account, window, width);
    if (!opened)
        slm_window_close(account, window);
    store_release(&window->moving, 0); /* pairs with allows_some */
    return opened;
}

slm_slow bool slm_account_take_slow(struct slm_account *account, struct slm_window *window)
{
    if (!move_window(account, window))
        return slm_account_take_direct(account, 1);
    window->net++;
    return true;
}

slm_slow void slm_account_give_slow(struct slm_account *account, struct slm_window *window)
{
    if (move_window(account, window))
        window->net--;
    else
        slm_account_give_direct(account, 1);
}

bool slm_account_take_direct(struct slm_account *account, uint64_t n)
{
    if (!charge(account, n))
        return false;
    add_relaxed(&account->live, (int64_t)n);
    return true;
}

void slm_account_give_direct(struct slm_account *account, uint64_t n)
{
    sub_relaxed(&account->live, (int64_t)n);
    sub_relaxed(&account->charged, n);
}

static slm_unordered bool allows_some(struct slm_thread *thread, const struct slm_cache *cache)
{
    struct slm_window *window = slm_window_of(thread, cache);
    return window && (atomic_load(&window->moving) || window->high > window->net);
}

struct spare {
    struct slm_cache *cache;
    bool some, counting;
};

static bool wants(struct slm_thread *thread, void *context)
{
    return allows_some(thread, ((struct spare *)context)->cache);
}

static void close_window(struct slm_thread *thread, void *context)
{
    struct spare *spare = context;
    struct slm_cache *cache = spare->cache;
    if (load_acquire(&thread->tls->counting)) /* pairs with the hot call's end */
        spare->counting = true;
    else
        slm_window_close(cache->account, slm_window_of(thread, cache));
}

static void look_for_spare(struct slm_thread *thread, void *context)
{
    struct spare *spare = context;
    spare->some |= thread->tls != &slm_tls && allows_some(thread, spare->cache);
}

uint32_t slm_account_close_windows(struct slm_cache *cache)
{
    struct slm_account *account = cache->account;
    struct spare spare = {cache, false, false};
    const struct slm_take take = {wants, close_window, &spare, false, true};
    uint32_t state = atomic_load(&account->windows);
    if (state % states == CLOSED)
        return state;
    if (state % states == OPEN) {
        const uint32_t closing = state + states + CLOSING;
        if (!atomic_compare_exchange_strong(&account->windows, &state, closing)) /* pairs with move_window */
            return 0;
        state = closing;
    }
    slm_thread_list_foreach(look_for_spare, &spare);
    if (spare.some && load_relaxed(&slm_sys_has_membarrier)) {
        if (slm_take_from_all(&take) > 0 || spare.counting)
            slm_sys_sleep_ms(1);
        return 0;
    }
    const uint32_t closed = state - CLOSING + CLOSED;
    return atomic_compare_exchange_strong(&account->windows, &state, closed) ? closed : 0;
}

struct live {
    struct slm_cache *cache;
    int64_t objects;
};

static slm_unordered void add_window(struct slm_thread *thread, void *context)
{
    struct live *live = context;
    const struct slm_window *window = slm_window_of(thread, live->cache);
    live->objects += window ? window->net : 0;
}

uint64_t slm_account_live(struct slm_cache *cache)
{
    struct live live = {cache, load_relaxed(&cache->account->live)};
    slm_thread_list_foreach(add_window, &live);
    return live.objects > 0 ? (uint64_t)live.objects : 0;
}
