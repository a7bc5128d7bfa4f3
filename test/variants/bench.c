/* What the bench's build does more than the library; see base/seam.h. At the end of a process with stats=1 it writes
 * a line a rank on standard error, of what the locks of that rank have cost:
 *
 *     slabmalloc: lock RANK acquired N contended N waited TICKS hottest N holds LOG2:N:TICKS ...
 *
 * `hottest` is the most that one lock of the rank was acquired. Holds of 2^LOG2 ticks and more are counted together,
 * TICKS is their sum. A line before these, "slabmalloc: lock ticks N us M", says how long a tick is.
 * bench/suite/locks.py reads them. */
#include "base/seam.h"

#include <string.h>
#include <unistd.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "sync/lock.h"

enum { shares_count = 16, lengths_count = 40 };

/* What the threads of a share have seen, on lines of its own, so that counting makes nobody wait. */
static struct times {
    _Atomic uint64_t acquired, contended, waited, hottest;
    _Atomic uint64_t holds[lengths_count], held[lengths_count]; /* by the binary logarithm of their ticks */
} slm_cacheline times[shares_count][SLM_RANKS];

static _Atomic uint64_t first_ticks, first_us, threads_seen;

/* The lock that the thread holds of each rank, at most one: since when, and how often it was acquired. */
static __thread struct {
    uint64_t begin, acquired;
} held[SLM_RANKS];

static __thread struct times *share;

uint64_t slm_seam_ticks(void)
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

static struct times *times_of(unsigned rank)
{
    if (!share)
        share = times[add_relaxed(&threads_seen, 1) % shares_count];
    return &share[rank];
}

void slm_seam_lock_waited(unsigned rank, uint64_t begin)
{
    add_relaxed(&times_of(rank)->contended, 1);
    add_relaxed(&times_of(rank)->waited, slm_seam_ticks() - begin);
}

void slm_seam_lock_acquired(unsigned rank, uint64_t acquired)
{
    if (unlikely(load_relaxed(&first_ticks) == 0)) {
        store_relaxed(&first_us, slm_sys_now_us());
        store_relaxed(&first_ticks, slm_seam_ticks());
    }
    held[rank].acquired = acquired;
    held[rank].begin = slm_seam_ticks();
}

void slm_seam_lock_released(unsigned rank, uint64_t end)
{
    struct times *mine = times_of(rank);
    const uint64_t begin = held[rank].begin, acquired = held[rank].acquired;
    const uint64_t ticks = end > begin ? end - begin : 0; /* a handler may have held one of the rank since */
    const unsigned length = ticks == 0 ? 0 : 63u - (unsigned)__builtin_clzll(ticks);
    const unsigned bucket = length < lengths_count ? length : lengths_count - 1;
    add_relaxed(&mine->acquired, 1);
    add_relaxed(&mine->holds[bucket], 1);
    add_relaxed(&mine->held[bucket], ticks);
    if (acquired > load_relaxed(&mine->hottest))
        store_relaxed(&mine->hottest, acquired);
}

bool slm_seam_grow_locked(void)
{
    return strcmp(slm_options.grow, "locked") == 0;
}

static void line_figure(struct slm_line *line, const char *before, uint64_t number)
{
    slm_line_text(line, before);
    slm_line_number(line, number);
}

static void report_rank(unsigned rank, const char *name)
{
    uint64_t acquired = 0, contended = 0, waited = 0, hottest = 0;
    for (unsigned i = 0; i < shares_count; i++) {
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
    for (unsigned length = 0; length < lengths_count; length++) {
        uint64_t number = 0, ticks = 0;
        for (unsigned i = 0; i < shares_count; i++) {
            number += load_relaxed(&times[i][rank].holds[length]);
            ticks += load_relaxed(&times[i][rank].held[length]);
        }
        if (number == 0)
            continue;
        line_figure(&line, " ", length);
        line_figure(&line, ":", number);
        line_figure(&line, ":", ticks);
    }
    slm_line_write(&line, STDERR_FILENO);
}

/* The linker puts this in the place of the library's own, which is called at the process's end. */
void __real_slm_report_write(void);
void __wrap_slm_report_write(void);
void __wrap_slm_report_write(void)
{
    static const char *const names[SLM_RANKS] = {"start", "caches", "threads",  "depot",   "ring",   "retired",
                                                 "spans", "percpu", "metadata", "readers", "classes"};
    __real_slm_report_write();
    if (!slm_settings.stats)
        return;
    struct slm_line line = {0};
    line_figure(&line, "slabmalloc: lock ticks ", slm_seam_ticks() - load_relaxed(&first_ticks));
    line_figure(&line, " us ", slm_sys_now_us() - load_relaxed(&first_us));
    slm_line_write(&line, STDERR_FILENO);
    for (unsigned rank = 0; rank < SLM_RANKS; rank++)
        report_rank(rank, names[rank]);
}
