/* Windows; see account.h. */
#include "thread/account.h"

#include "thread/take.h"

enum { window_unlimited = 1 << 20, window_most = 64, shares = 8 };

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
static bool reopen(struct slm_account *account, struct slm_far_slot *far, int32_t width)
{
    const int64_t more = (int64_t)width + far->net - far->high;
    if (more > 0 && !charge(account, (uint64_t)more))
        return false;
    if (more < 0)
        sub_relaxed(&account->charged, (uint64_t)-more);
    add_relaxed(&account->live, far->net);
    far->net = 0;
    far->high = width;
    far->low = -width;
    return true;
}

void slm_account_close(struct slm_account *account, struct slm_far_slot *far)
{
    reopen(account, far, 0); /* releases or keeps: net is at most high */
}

void slm_account_close_all(struct slm_thread *thread)
{
    for (unsigned n = slm_slot_next(thread, SLM_DIRECT); n < SLM_NUMBERS; n = slm_slot_next(thread, n + 1)) {
        struct slm_cache *cache = slm_cache_of(n);
        if (cache && cache->account)
            slm_account_close(cache->account, slm_slot_far(thread, n));
    }
}

/* A share of the room that is left, so that all threads can have some. */
static int32_t width_for(const struct slm_account *account)
{
    if (account->limit == UINT64_MAX)
        return window_unlimited;
    const uint64_t charged = load_relaxed(&account->charged);
    const uint64_t room = charged < account->limit ? account->limit - charged : 0;
    return (int32_t)slm_min(window_most, room / shares / slm_max(slm_thread_list_count(), 1));
}

slm_slow bool slm_account_take_slow(struct slm_account *account, struct slm_far_slot *far)
{
    const int32_t width = width_for(account);
    if (width > 0 && reopen(account, far, width)) {
        far->net++;
        return true;
    }
    slm_account_close(account, far);
    return slm_account_take_direct(account, 1);
}

slm_slow void slm_account_give_slow(struct slm_account *account, struct slm_far_slot *far)
{
    const int32_t width = width_for(account);
    if (width > 0 && reopen(account, far, width)) {
        far->net--;
        return;
    }
    slm_account_close(account, far);
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

static slm_unordered bool allows_some(struct slm_thread *thread, void *cache)
{
    const struct slm_far_slot *far = slm_slot_far(thread, ((struct slm_cache *)cache)->number);
    return far && far->high > far->net;
}

static void close_window(struct slm_thread *thread, void *context)
{
    struct slm_cache *cache = context;
    if (load_acquire(&thread->tls->counting)) /* pairs with the hot call's end */
        return;
    slm_account_close(cache->account, slm_slot_far(thread, cache->number));
}

struct spare {
    struct slm_cache *cache;
    bool some;
};

static void look_for_spare(struct slm_thread *thread, void *context)
{
    struct spare *spare = context;
    spare->some |= thread->tls != &slm_tls && allows_some(thread, spare->cache);
}

bool slm_account_gather(struct slm_cache *cache)
{
    struct spare spare = {cache, false};
    slm_thread_list_foreach(look_for_spare, &spare);
    if (!spare.some)
        return false;
    const struct slm_take take = {allows_some, close_window, cache, false};
    slm_take_from_all(&take);
    return true;
}

struct live {
    struct slm_cache *cache;
    int64_t objects;
};

static slm_unordered void add_window(struct slm_thread *thread, void *context)
{
    struct live *live = context;
    const struct slm_far_slot *far = slm_slot_far(thread, live->cache->number);
    live->objects += far ? far->net : 0;
}

uint64_t slm_account_live(struct slm_cache *cache)
{
    struct live live = {cache, load_relaxed(&cache->account->live)};
    slm_thread_list_foreach(add_window, &live);
    return live.objects > 0 ? (uint64_t)live.objects : 0;
}
