/* Epochs: who is inside a read section, and when a grace period has passed. Readers enter and leave by plain stores
 * to a record of their own; whoever waits for them pays, with membarrier(2).
 *
 * A grace period has passed for a thing that became unreachable when all sections are over that may have found it
 * before. Each grace period has a number. A reader keeps in its record the number of the latest one at its entry:
 *
 *     section = | visitor 1 | number of the latest grace period 47 | fences 1 | depth of nesting 15 |
 *
 *     depth 0: outside    fences: from here on the thread enters with a fence
 *     number 0: the thread is not registered    visitor: counted, not listed (below)
 *
 * The lower sixteen bits are 0 where the next entry has nothing to do but copy slm_epoch_started, which is put
 * together as such a word is, with depth 1. Nesting, fences and a first time make them something else: these take the
 * slow path without a test of their own.
 *
 * Registered readers' records lie in their thread-local storage, in a list, until slm_epoch_thread_exit takes them
 * out of it; the caller says if that is going to come. If it is not (the thread has been through its exit, or had no
 * memory for a life of its own), or if a signal handler enters for the first time while its own thread works on the
 * list, then the section is a visitor's: counted in one place with an atomic, gone with its end.
 *
 * The numbers do not wrap: 50,000 grace periods a second, more than there can be, reach 47 bits after 89 years. */
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
    const _Atomic uint64_t
        *started;         /* always &slm_epoch_started: a program that reached that by name would copy it */
    struct slm_list link; /* guarded by the lock of the list, as what follows */
    uint64_t named;       /* the grace period for which it was named as holding it up */
    uint32_t generation;  /* of the process when it was linked */
    uint32_t thread;      /* the kernel's number of it */
    uint8_t visiting;     /* a visitor's own: by which number it was counted, modulo two */
    bool busy; /* the thread's own: it may hold that lock, a handler that comes in between must not ask for it */
};

extern slm_public __thread struct slm_epoch_reader slm_epoch_reader __asm__("slab_epoch_reader");

/* What readers copy: the number of the latest grace period, and depth 1. */
extern slm_hidden _Atomic uint64_t slm_epoch_started;

/* The last that has ended, and that anybody has asked for. */
extern slm_hidden _Atomic uint64_t slm_epoch_completed, slm_epoch_wanted;

slm_inline uint64_t slm_epoch_number(uint64_t section)
{
    return (section & ~SLM_EPOCH_VISITOR) >> SLM_EPOCH_SHIFT;
}

/* The calling thread's entries are seen by whoever waits: it is registered, or a visitor inside a section. */
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

/* Enter a section; false: nothing is done, and slm_epoch_enter_slow is to be called. Acquire pairs with the release
 * in which a grace period starts, the compiler's fence with its membarrier. */
slm_inline bool slm_epoch_enter(void)
{
    if (unlikely((uint16_t)load_relaxed(&slm_epoch_reader.section) != 0))
        return false;
    store_relaxed(&slm_epoch_reader.section, load_acquire(&slm_epoch_started));
    signal_fence();
    return true;
}

/* `stays`: slm_epoch_thread_exit is going to be called for this thread; asked only of a thread that is not known. */
void slm_epoch_enter_slow(bool stays);

/* Leave the section entered last; false: slm_epoch_leave_slow is to be called. Release pairs with the acquire of
 * whoever looks at the section. */
slm_inline bool slm_epoch_leave(void)
{
    const uint64_t section = load_relaxed(&slm_epoch_reader.section) - 1;
    store_release(&slm_epoch_reader.section, section);
    return likely((int64_t)section >= 0);
}

void slm_epoch_leave_slow(void);

/* To be kept with something that has become unreachable before this call; 0, which has passed, where nobody reads. A
 * fence and no lock. */
uint64_t slm_epoch_stamp(void);

/* Whether any thread has ever been inside a section. QUIET: none has, and the first will issue a membarrier before it
 * looks for anything; so who retires needs no fence before it looks here. */
enum slm_epoch_reading { SLM_EPOCH_UNKNOWN, SLM_EPOCH_QUIET, SLM_EPOCH_COMING, SLM_EPOCH_READ };
extern slm_hidden _Atomic uint32_t slm_epoch_reading;

slm_inline bool slm_epoch_never_read(void)
{
    return load_relaxed(&slm_epoch_reading) == SLM_EPOCH_QUIET;
}

/* Be quiet, if no thread has read so far: whoever retires for the first time says so. */
void slm_epoch_begin_quiet(void);

/* What has become unreachable before this call is nobody's: no other thread reads, and the calling one is outside. */
bool slm_epoch_nobody_reads(void);

/* Has a grace period passed since the stamp was given? A look; it does not help time along. Pairs with the release
 * that ends a grace period: what readers did is over and done with. */
slm_inline bool slm_epoch_passed(uint64_t stamp)
{
    return load_acquire(&slm_epoch_completed) >= stamp;
}

/* Help time along, without waiting for anybody: start a grace period if there is a stamp that needs one, and look at
 * the readers if one is under way. True: one has ended. Any thread; takes the highest lock in rank. */
bool slm_epoch_poll(void);

/* A membarrier was issued for something else: the next one of a grace period comes later, so that all together are at
 * most 1,000 a second. */
void slm_epoch_count_barrier(void);

/* Wait until the stamp has passed, or the clock (slm_sys_now_us) shows `deadline_us`; true: it has. Not inside a
 * section, nor under a lock that a reader may want. */
bool slm_epoch_await(uint64_t stamp, uint64_t deadline_us);

/* Wait until a grace period has passed, in the name of `call`, which ends the process inside a section. */
void slm_epoch_synchronize(const char *call);

/* How many grace periods have ended, and sections were named for holding one up. */
uint64_t slm_epoch_grace_periods(void);
extern slm_hidden _Atomic uint64_t slm_epoch_stalls;

/* Bytes that wait for grace periods, as those who keep them count; told with a stall. */
extern slm_hidden _Atomic uint64_t slm_epoch_waiting_bytes;

/* The calling thread is at its end: forget it. A section that it is still inside ends with it. */
void slm_epoch_thread_exit(void);

/* In the child of a fork: of all readers the calling thread alone is left, its section, if it is in one, goes on.
 * Meant to be called by the thread that forked; if another one does, that one's section is not seen any more. */
void slm_epoch_fork_child(void);
