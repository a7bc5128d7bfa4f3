/* The slow halves of the lock, and the order of ranks; see lock.h. */
#include "sync/lock.h"

#include <unistd.h>

#include "base/panic.h"
#include "os/sys.h"

static __thread uint32_t ranks_held; /* a bit a rank; checked builds */

/* A child that a handler forked while its thread slept here sleeps on: the time limit lets it look. */
enum { spins = 100, wait_ms = 50 };

// -- bench builds: the time that locks are held and waited for ------------------------------------------------------

/* A counter of fixed frequency that costs little. */
static uint64_t ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t now;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(now));
    return now;
#else
    return slm_sys_now_us();
#endif
}

enum { time_shares = 16, time_lengths = 40 };

/* What the threads of a share have seen: figures, and on lines of its own, so that counting makes nobody wait. */
static struct times {
    _Atomic uint64_t acquired, contended, waited, hottest;
    _Atomic uint64_t holds[time_lengths], held[time_lengths]; /* by the binary logarithm of their ticks */
} slm_cacheline times[time_shares][SLM_RANKS];

static _Atomic uint64_t first_ticks, first_us, threads_seen;

/* What the thread holds of each rank, of which it holds one at most: since when, how long it did. */
static __thread struct {
    uint64_t begin, ticks, acquired;
} holds[SLM_RANKS];

static __thread struct times *share;

static struct times *times_of(unsigned rank)
{
    if (!share)
        share = times[add_relaxed(&threads_seen, 1) % time_shares];
    return &share[rank];
}

static void count_wait(unsigned rank, uint64_t waited)
{
    add_relaxed(&times_of(rank)->contended, 1);
    add_relaxed(&times_of(rank)->waited, waited);
}

void slm_lock_time_begin(const struct slm_lock *lock)
{
    if (!slm_bench)
        return;
    if (unlikely(load_relaxed(&first_ticks) == 0)) {
        store_relaxed(&first_us, slm_sys_now_us());
        store_relaxed(&first_ticks, ticks());
    }
    holds[lock->rank].acquired = load_relaxed(&lock->acquired);
    holds[lock->rank].begin = ticks();
}

void slm_lock_time_end(const struct slm_lock *lock)
{
    if (slm_bench)
        holds[lock->rank].ticks = ticks() - holds[lock->rank].begin;
}

void slm_lock_time_count(unsigned rank)
{
    if (!slm_bench)
        return;
    struct times *mine = times_of(rank);
    const uint64_t held = holds[rank].ticks, acquired = holds[rank].acquired;
    const unsigned length = held == 0 ? 0 : 63u - (unsigned)__builtin_clzll(held);
    const unsigned bucket = length < time_lengths ? length : time_lengths - 1;
    add_relaxed(&mine->acquired, 1);
    add_relaxed(&mine->holds[bucket], 1);
    add_relaxed(&mine->held[bucket], held);
    if (acquired > load_relaxed(&mine->hottest))
        store_relaxed(&mine->hottest, acquired);
}

static void line_figure(struct slm_line *line, const char *before, uint64_t number)
{
    slm_line_text(line, before);
    slm_line_number(line, number);
}

static void report_rank(unsigned rank, const char *name)
{
    uint64_t acquired = 0, contended = 0, waited = 0, hottest = 0;
    for (unsigned i = 0; i < time_shares; i++) {
        const struct times *one = &times[i][rank];
        acquired += load_relaxed(&one->acquired);
        contended += load_relaxed(&one->contended);
        waited += load_relaxed(&one->waited);
        hottest = load_relaxed(&one->hottest) > hottest ? load_relaxed(&one->hottest) : hottest;
    }
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: lock ");
    slm_line_text(&line, name);
    line_figure(&line, " acquired ", acquired);
    line_figure(&line, " contended ", contended);
    line_figure(&line, " waited ", waited);
    line_figure(&line, " hottest ", hottest);
    slm_line_text(&line, " holds");
    for (unsigned length = 0; length < time_lengths; length++) {
        uint64_t number = 0, held = 0;
        for (unsigned i = 0; i < time_shares; i++) {
            number += load_relaxed(&times[i][rank].holds[length]);
            held += load_relaxed(&times[i][rank].held[length]);
        }
        if (number == 0)
            continue;
        line_figure(&line, " ", length);
        line_figure(&line, ":", number);
        line_figure(&line, ":", held);
    }
    slm_line_write(&line, STDERR_FILENO);
}

slm_seldom void slm_lock_report(void)
{
    static const char *const names[SLM_RANKS] = {"start",   "caches", "threads", "depot",    "ring",
                                                 "retired", "spans",  "percpu",  "metadata", "readers"};
    if (!slm_bench)
        return;
    struct slm_line line = {0};
    line_figure(&line, "slabmalloc: lock ticks ", ticks() - load_relaxed(&first_ticks));
    line_figure(&line, " us ", slm_sys_now_us() - load_relaxed(&first_us));
    slm_line_write(&line, STDERR_FILENO);
    for (unsigned rank = 0; rank < SLM_RANKS; rank++)
        report_rank(rank, names[rank]);
}

// -- waiting --------------------------------------------------------------------------------------------------------

static bool wait_for(struct slm_lock *lock)
{
    slm_fork_check(); /* a handler may have forked behind the look that the slow path began with */
    const uint32_t mine = slm_fork_generation << 2;
    for (unsigned spin = 0; spin < spins; spin++) {
        uint32_t word = load_relaxed(&lock->word);
        bool dead = word != 0 && (word & ~3u) != mine;
        if ((word == 0 || dead) && atomic_compare_exchange_weak_explicit(&lock->word, &word, mine | SLM_LOCK_HELD,
                                                                         memory_order_acquire, memory_order_relaxed))
            return dead;
        slm_cpu_relax();
    }
    for (;;) { /* from here on the word says that somebody sleeps, whoever gets it */
        const uint32_t slept_on = slm_fork_generation << 2 | SLM_LOCK_SLEPT_ON;
        const uint32_t word = atomic_exchange_explicit(&lock->word, slept_on, memory_order_acquire);
        if (word == 0)
            return false;
        if (word >> 2 != slept_on >> 2)
            return true;
        slm_sys_wait(&lock->word, slept_on, wait_ms);
        slm_fork_check();
    }
}

slm_slow bool slm_lock_acquire_slow(struct slm_lock *lock)
{
    add_relaxed(&lock->contended, 1);
    const uint64_t begin = slm_bench ? ticks() : 0;
    const bool dead = wait_for(lock);
    if (slm_bench)
        count_wait(lock->rank, ticks() - begin);
    return dead;
}

slm_slow void slm_lock_release_slow(struct slm_lock *lock)
{
    slm_sys_wake(&lock->word);
}

void slm_lock_rank_enter(const struct slm_lock *lock)
{
    if (ranks_held >> lock->rank)
        slm_panic("lock", lock, "taken out of rank", NULL, NULL);
    ranks_held |= 1u << lock->rank;
}

void slm_lock_rank_leave(const struct slm_lock *lock)
{
    ranks_held &= ~(1u << lock->rank);
}

void slm_lock_rank_forget(void)
{
    ranks_held = 0;
}
