/* Epochs: which threads are inside a read section, and when a grace period has passed. Readers enter and leave by
 * plain stores to their own record; the threads that wait for them pay, with membarrier(2).
 *
 * After an object has become unreachable, its grace period has passed once all sections have ended that may have
 * found it before. Grace periods have numbers. A reader's record has the number of the latest one at its entry:
 *
 *     section = | visitor 1 | number of the latest grace period 47 | fences 1 | depth of nesting 15 |
 *
 *     depth 0: outside    fences: from here on the thread enters with a fence
 *     number 0: the thread is not registered    visitor: counted, not listed (below)
 *
 * Where the lower sixteen bits are 0, an entry only copies slm_epoch_started, a word of the same form with depth 1.
 * With nesting, with fences and at a thread's first entry they are not 0, so that these take the slow path without a
 * test of their own.
 *
 * The records lie in thread-local storage. A registered reader's is in a list until slm_epoch_thread_exit takes it
 * out. Some threads cannot rely on that call: one that is past its exit, one that had no memory for a block, and a
 * signal handler that enters for the first time while its own thread works on the list. Such a thread's section is a
 * visitor's: counted by an atomic, and forgotten at its end.
 *
 * The numbers do not wrap: at an impossible 50,000 grace periods a second they reach 47 bits after 89 years. */
#pragma once

#include "base/list.h"
#include "sync/lock.h"

#define SLM_EPOCH_DEPTH 0x7fffu
#define SLM_EPOCH_FENCES 0x8000u
#define SLM_EPOCH_SHIFT 16
#define SLM_EPOCH_VISITOR ((uint64_t)1 << 63)

/* The first two words are what the public header's inline calls know as slab_epoch_reader. */
struct slm_epoch_reader {
    _Atomic uint64_t section;
    const _Atomic uint64_t *started; /* &slm_epoch_started: a program that named that would get a copy of it */
    struct slm_list link;            /* guarded by the lock of the list, as the next three are */
    uint64_t named;                  /* the last grace period that it was named for holding up */
    uint32_t generation;             /* of the process when it was linked */
    uint32_t thread;                 /* the kernel's id of it */
    uint8_t visiting;                /* a visitor's own: the number that it was counted by, modulo two */
    bool busy;                       /* the thread's own: it may hold that lock, its handlers must not ask for it */
};

extern slm_public __thread struct slm_epoch_reader slm_epoch_reader __asm__("slab_epoch_reader");

/* What readers copy: the number of the latest grace period, and depth 1. */
extern slm_hidden _Atomic uint64_t slm_epoch_started;

/* The last grace period that has ended, and the last that was asked for. */
extern slm_hidden _Atomic uint64_t slm_epoch_completed, slm_epoch_wanted;

slm_inline uint64_t slm_epoch_number(uint64_t section)
{
    return (section & ~SLM_EPOCH_VISITOR) >> SLM_EPOCH_SHIFT;
}

/* Is the calling thread registered, or a visitor inside a section? Then threads that wait see its entries. */
slm_inline bool slm_epoch_known(void)
{
    return slm_epoch_number(load_relaxed(&slm_epoch_reader.section)) != 0;
}

/* Is the calling thread inside a section? */
slm_inline bool slm_epoch_inside(void)
{
    const uint64_t section = load_relaxed(&slm_epoch_reader.section);
    return slm_epoch_number(section) != 0 && (section & SLM_EPOCH_DEPTH) != 0;
}

/* Enter a section; false: call slm_epoch_enter_slow, nothing has been done. Acquire pairs with the release that
 * starts a grace period, the compiler's fence with its membarrier. */
slm_inline bool slm_epoch_enter(void)
{
    if (unlikely((uint16_t)load_relaxed(&slm_epoch_reader.section) != 0))
        return false;
    store_relaxed(&slm_epoch_reader.section, load_acquire(&slm_epoch_started));
    signal_fence();
    return true;
}

/* `stays`: slm_epoch_thread_exit is going to be called for this thread. Ignored where the thread is known. */
void slm_epoch_enter_slow(bool stays);

/* Leave the section entered last; false: call slm_epoch_leave_slow. Release pairs with the acquire in reading_of. */
slm_inline bool slm_epoch_leave(void)
{
    const uint64_t section = load_relaxed(&slm_epoch_reader.section) - 1;
    store_release(&slm_epoch_reader.section, section);
    return likely((int64_t)section >= 0);
}

void slm_epoch_leave_slow(void);

/* A stamp for what has become unreachable before this call; 0, which has passed, where no thread reads. No lock. */
uint64_t slm_epoch_stamp(void);

/* Whether any thread has ever been inside a section. QUIET: none has, and the first will issue a membarrier before it
 * looks for anything. So a thread that retires needs no fence before it looks here. */
enum slm_epoch_reading { SLM_EPOCH_UNKNOWN, SLM_EPOCH_QUIET, SLM_EPOCH_COMING, SLM_EPOCH_READ };
extern slm_hidden _Atomic uint32_t slm_epoch_reading;

slm_inline bool slm_epoch_never_read(void)
{
    return load_relaxed(&slm_epoch_reading) == SLM_EPOCH_QUIET;
}

/* Become quiet, if no thread has read so far. To be called before anything is retired. */
void slm_epoch_begin_quiet(void);

/* No other thread reads, and the calling one is outside: no thread holds what became unreachable before this call. */
bool slm_epoch_nobody_reads(void);

/* Has a grace period passed since the stamp was given? Only looks. Acquire pairs with the release in `advance`. */
slm_inline bool slm_epoch_passed(uint64_t stamp)
{
    return load_acquire(&slm_epoch_completed) >= stamp;
}

/* Help without waiting: start a grace period if a stamp needs one, and look at the readers if one is under way. True:
 * one has ended. Any thread; takes the highest lock in rank. */
bool slm_epoch_poll(void);

/* A membarrier was issued for something else: it counts towards the 1,000 a second that grace periods may take. */
void slm_epoch_count_barrier(void);

/* Wait until the stamp has passed, or the clock (slm_sys_now_us) shows `deadline_us`; true: it has. Not inside a
 * section, nor under a lock that a reader may want. */
bool slm_epoch_await(uint64_t stamp, uint64_t deadline_us);

/* Wait until a grace period has passed, in the name of `call`, which ends the process inside a section. */
void slm_epoch_synchronize(const char *call);

/* How many grace periods have ended, and how many sections were named for holding one up. */
uint64_t slm_epoch_grace_periods(void);
extern slm_hidden _Atomic uint64_t slm_epoch_stalls;

/* Bytes that wait for grace periods, as deferred/ counts them; part of the message of a stall. */
extern slm_hidden _Atomic uint64_t slm_epoch_waiting_bytes;

/* The calling thread ends: forget it. A section that it is still inside ends with it. */
void slm_epoch_thread_exit(void);

/* In the child of a fork: only the calling thread is left of all readers, and its section goes on if it is in one. To
 * be called by the thread that forked: if another thread is faster, that section is no longer seen. */
void slm_epoch_fork_child(void);
