/* Accounted caches: exact counts of live objects, and limits, without an atomic operation a call.
 *
 * Each thread counts in a window of its own, beside its slot: `net` is what it has allocated less what it has freed
 * since the window was opened, between `low` and `high`.
 *
 *     account->live    + the sum of all net    = live objects
 *     account->charged = account->live + the sum of all high  <= limit
 *
 * So every object that a window allows is charged beforehand, and a call inside the window touches nothing shared. At
 * the window's edge the thread folds its net into the account, and opens a window as wide as the room that is left
 * below the limit permits. An allocation that fails has all windows closed, other threads' too (thread/take.h): from
 * then on `charged` is what lives, each call goes to the account itself, and refusals are exact and cheap. Windows
 * are opened again when a quarter of the limit has become free.
 *
 * A hot call changes `net` and then a magazine; `counting` in the thread's TLS says so, for a taker: the window of a
 * thread in the middle of a call is not closed, but looked at again. After Linux's memory cgroups, whose per-CPU
 * stock is such a window upwards. */
#pragma once

#include "thread/slots.h"

/* One more object, or one less: the window is at its edge. False: the limit. The owner, in a slow path. */
bool slm_account_take_slow(struct slm_account *account, struct slm_window *window);
void slm_account_give_slow(struct slm_account *account, struct slm_window *window);

slm_inline bool slm_account_take(struct slm_account *account, struct slm_window *window)
{
    if (unlikely(window->net == window->high))
        return slm_account_take_slow(account, window);
    window->net++;
    return true;
}

slm_inline void slm_account_give(struct slm_account *account, struct slm_window *window)
{
    if (unlikely(window->net == window->low))
        slm_account_give_slow(account, window);
    else
        window->net--;
}

/* The same without a window, for threads that have no block, and signal handlers: atomic operations alone. */
bool slm_account_take_direct(struct slm_account *account, uint64_t n);
void slm_account_give_direct(struct slm_account *account, uint64_t n);

/* A charge has failed: have all windows closed, the caller's is. Not in a slow path. A number that is not 0 says that
 * they are, and stays the same while they are: a charge that fails between two looks that give the same number has
 * met the limit. 0: a thread was in the middle of something; try again. */
uint32_t slm_account_close_windows(struct slm_cache *cache);

/* Live objects; exact when no call is under way. Takes the lock of the list of threads. */
uint64_t slm_account_live(struct slm_cache *cache);
