/* Grace periods; see epoch.h.
 *
 *     retiring thread         a poller, under the lock                                    reader
 *
 *     make X unreachable      started = n               (release)                         section = started (acquire)
 *     fence             (1)   membarrier          (2)                                     compiler's fence
 *     stamp = started + 1     for each reader: is it outside, or is section >= n?         find X, read it
 *      ...                       (acquire)                                                section = outside (release)
 *     completed >= stamp      completed = n             (release)
 *        (acquire)
 *
 * Claim: when `completed` has reached X's stamp n, no reader holds X. Let R be a section that found X.
 *
 *  1. R read started < n. If it was n or more: the retiring thread read a lower number after its fence, so X was
 *     unreachable for all before n was stored; R loads n and only then (acquire) looks for X, and would not find it.
 *     This needs fence (1): without it R may read n while the store that hides X still sits in a buffer.
 *  2. A reader whose word shows n or more needs no further look: it has entered since, and its section from before is
 *     over (program order; 4 says why the poller sees what that section read as done). If all readers have, there is
 *     no membarrier: busy readers end grace periods by themselves.
 *  3. A reader that is outside, with a word older than n, may have entered by a store that is not visible yet. The
 *     membarrier (2) is a full barrier at some point P of R's thread, after n was stored, so also after X became
 *     unreachable. If R stored its section after P, it looks for X after P and does not find it. So it stored it
 *     before P, and the poller, which looks after the membarrier, sees that store or a later one to the same word.
 *  4. The poller waits for a section with a number below n. So it has seen a later store: R's end, or one that the
 *     same thread made after it. R's end is a release, and later stores of that thread to that word are in its
 *     release sequence (C11 5.1.2.4; arm64 orders a store after a store-release to the same address after what the
 *     release is after). So all reads in R come before the poller's acquire, and before that of a thread that sees
 *     `completed`. QED
 *
 * One membarrier for each grace period is enough, since numbers do not repeat: a reader that loads `started` and then
 * stands still for many grace periods finally stores an old number, and is waited for from then on. (With a phase of
 * one bit it would be taken for a new one; userspace RCU flips twice for that.)
 *
 * Without membarrier the reader makes the barrier P itself, a fence between storing its section and looking for X;
 * the poller has a fence between storing n and looking at readers. Either the poller sees the section, or the reader
 * sees that X is gone. How readers enter is decided before the first one registers. A filter may take membarrier away
 * later: then `started` gets the bit that says "fences". Each reader copies it into its word at its next entry, and
 * finds it there at the one after that, which has the fence, as all later ones. Until a reader's word has the bit, or
 * shows n, it may only seem to be outside, so it is waited for. (One entry escapes: that of a thread whose handler
 * enters and leaves between the entry's look at the word and its store, at the moment when the filter comes.)
 *
 * Nobody reads: where no reader but the caller is registered, the caller is outside, and no visitor is inside, X's
 * stamp is 0, which has passed. A thread registers by counting up, a fence, and only then looks for anything; the
 * retiring thread makes X unreachable, a fence, and looks at the count. Either it sees the count, or the other does
 * not find X. A thread leaves the count by a release, and the look is an acquire. For the same reason a poller needs
 * no barrier for a thread that registers after its look. As long as no thread has ever read (slm_epoch_reading is
 * QUIET) the first reader's membarrier stands in for the retiring thread's fence: a look that finds QUIET comes
 * before that barrier in its thread's program, and so does the store that hides X.
 *
 * On x86-64 acquire and release cost nothing; only a load may overtake an earlier store, which P prevents. On arm64
 * they are ldar and stlr, and stores become visible to all at once, so that "X is unreachable for all" in 1 holds.
 *
 * Nesting: inner sections only count. A signal handler that enters and leaves restores the word that it found, or one
 * that differs in a newer number; the interrupted entry then stores its own, which may be older: it is waited for a
 * little longer.
 *
 * Handlers and the lock. A handler must not wait for a lock that its own thread holds. `busy` is set around all uses
 * of the lock: a handler that wants to register then becomes a visitor. A registered thread's handlers need no lock.
 * While its thread holds the lock to take its record out of the list, a handler may enter by a record that is out
 * already: no grace period ends meanwhile, since that takes the lock. */
#include "sync/epoch.h"

#include "base/bits.h"
#include "base/options.h"
#include "base/panic.h"
#include "os/background.h"
#include "os/sys.h"

#define NOT_REGISTERED ((uint64_t)0x4000) /* not 0 in the lower sixteen bits */
#define NUMBER_STEP ((uint64_t)1 << SLM_EPOCH_SHIFT)

enum {
    first_number = 2,    /* not 1: leaving once too often takes one off, and 0 is a thread not registered */
    depth_most = 0x3fff, /* leaving too often makes a depth above it */
    barrier_interval_us = 1020,
    look_interval_us = 20,
    look_interval_most_us = 2000,
    looks_before_sleep = 100,
};

__thread struct slm_epoch_reader slm_epoch_reader = {.section = NOT_REGISTERED, .started = &slm_epoch_started};

slm_cacheline _Atomic uint64_t slm_epoch_started = first_number * NUMBER_STEP | 1;
_Atomic uint64_t slm_epoch_completed = first_number, slm_epoch_wanted = first_number;
_Atomic uint64_t slm_epoch_stalls, slm_epoch_waiting_bytes;
_Atomic uint32_t slm_epoch_reading;

static struct slm_lock lock = {.rank = SLM_RANK_READERS};
static struct slm_list readers = {&readers, &readers};
static _Atomic uint64_t registered;     /* in the list */
static _Atomic uint64_t visitors[2];    /* inside sections, by their numbers modulo two */
static _Atomic uint64_t barrier_due_us; /* when the next may be: at most 1,000 a second */
static _Atomic uint64_t look_due_us;    /* when a poll may look; a poll that misses another's store looks early */

/* Guarded by the lock. */
static bool decided;      /* whether readers need fences */
static bool barrier_made; /* for the grace period under way */
static uint64_t begun_us; /* the grace period under way */

static bool readers_fence(void)
{
    return (load_relaxed(&slm_epoch_started) & SLM_EPOCH_FENCES) != 0;
}

static bool is_listed(uint64_t section)
{
    return slm_epoch_number(section) != 0 && !(section & SLM_EPOCH_VISITOR);
}

/* While the calling thread is busy, handlers that interrupt it are visitors if it is not registered, and leave the
 * lock alone. False: it is in a handler that has interrupted such work. */
static bool begin_work(struct slm_epoch_reader *self)
{
    const bool first = !self->busy;
    self->busy = true;
    signal_fence(); /* with a handler: busy before the lock can be held */
    return first;
}

static void end_work(struct slm_epoch_reader *self, bool first)
{
    signal_fence(); /* with a handler: busy until the lock is not held */
    self->busy = !first;
}

/* -- readers -------------------------------------------------------------------------------------------------- */

slm_seldom void slm_epoch_begin_quiet(void)
{
    uint32_t unknown = SLM_EPOCH_UNKNOWN;
    if (load_relaxed(&slm_epoch_reading) == SLM_EPOCH_UNKNOWN && load_relaxed(&slm_sys_has_membarrier) &&
        slm_sys_membarrier_register())
        atomic_compare_exchange_strong(&slm_epoch_reading, &unknown, SLM_EPOCH_QUIET);
}

/* A reader that is counted calls this before its first look for anything. When it returns, each thread that retired
 * something without a fence, because it was quiet, has passed a barrier. Readers that come meanwhile issue their own.
 * If a filter has taken membarrier away, all stores have left their processors' buffers after some milliseconds. */
static slm_seldom void end_quiet(void)
{
    if (load_acquire(&slm_epoch_reading) == SLM_EPOCH_READ) /* pairs with the release below */
        return;
    if (atomic_exchange(&slm_epoch_reading, SLM_EPOCH_COMING) != SLM_EPOCH_UNKNOWN && !slm_sys_membarrier())
        slm_sys_sleep_ms(10);
    store_release(&slm_epoch_reading, SLM_EPOCH_READ);
}

/* If a lost thread held the lock, slm_epoch_fork_child has made a new list. */
static slm_seldom void list_reader(struct slm_epoch_reader *self)
{
    slm_fork_check();
    slm_lock_acquire(&lock);
    if (!decided) {
        decided = true;
        if (!slm_sys_membarrier_register())
            store_release(&slm_epoch_started, load_relaxed(&slm_epoch_started) | SLM_EPOCH_FENCES);
    }
    slm_list_insert_before(&readers, &self->link);
    self->generation = slm_fork_generation;
    self->thread = slm_sys_thread_id();
    add_relaxed(&registered, 1);
    end_quiet();
    slm_fence(); /* before the first look for anything: pairs with the one in slm_epoch_stamp */
    store_relaxed(&self->section, load_relaxed(&slm_epoch_started) - 1); /* outside */
    slm_lock_release(&lock);
}

/* A visitor is inside as soon as it is counted. A grace period waits only for visitors of the number before it, so
 * that visitors that come one after the other do not hold it up for ever. If its number is no longer the latest when
 * it is counted, no grace period waits for it: it counts again. */
static void visit(struct slm_epoch_reader *self)
{
    uint64_t section;
    slm_fork_check();
    for (;;) {
        section = load_acquire(&slm_epoch_started);
        self->visiting = slm_epoch_number(section) % 2;
        atomic_fetch_add(&visitors[self->visiting], 1); /* pairs with the fences in `advance` and slm_epoch_stamp */
        if (slm_epoch_number(atomic_load(&slm_epoch_started)) % 2 == self->visiting)
            break;
        atomic_fetch_sub(&visitors[self->visiting], 1);
    }
    store_relaxed(&self->section, SLM_EPOCH_VISITOR | section);
    end_quiet();
    slm_fence(); /* pairs with the same */
}

static _Noreturn void left_too_often(void)
{
    slm_panic("slab_epoch_enter", NULL, "sections nest too deep, or one was left more often than entered", NULL, 0);
}

/* Become a registered thread that is outside, or a visitor inside. A handler may already have registered
 * the thread. */
static void become_known(struct slm_epoch_reader *self, bool stays)
{
    const bool first = begin_work(self);
    const uint64_t section = load_relaxed(&self->section);
    if (slm_epoch_number(section) == 0) {
        if (section != NOT_REGISTERED)
            left_too_often();
        if (stays && first)
            list_reader(self);
        else
            visit(self);
    }
    end_work(self, first);
}

slm_slow void slm_epoch_enter_slow(bool stays)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    if (!slm_epoch_known()) {
        become_known(self, stays);
        if (load_relaxed(&self->section) & SLM_EPOCH_VISITOR)
            return;
    }
    const uint64_t section = load_relaxed(&self->section);
    const unsigned depth = section & SLM_EPOCH_DEPTH;
    if (depth >= depth_most)
        left_too_often();
    store_relaxed(&self->section, depth > 0 ? section + 1 : load_acquire(&slm_epoch_started));
    if (depth == 0)
        slm_fence(); /* pairs with the one in `advance`; a thread that has just registered needs none */
}

/* For a visitor; there is nothing to do while it is still inside. A handler that comes before the first store may
 * enter by the word, which is outside: this visitor is still counted, so that is safe. Release pairs with
 * `advance`'s acquire. */
slm_slow void slm_epoch_leave_slow(void)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    if (load_relaxed(&self->section) & SLM_EPOCH_DEPTH)
        return;
    const unsigned visiting = self->visiting; /* before a handler can become a visitor */
    store_relaxed(&self->section, NOT_REGISTERED);
    atomic_fetch_sub_explicit(&visitors[visiting], 1, memory_order_release);
}

slm_cold void slm_epoch_thread_exit(void)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    const uint64_t section = load_relaxed(&self->section);
    if (slm_epoch_number(section) == 0)
        return;
    if (section & SLM_EPOCH_VISITOR) {
        store_relaxed(&self->section, section & ~(uint64_t)SLM_EPOCH_DEPTH);
        slm_epoch_leave_slow();
        return;
    }
    const bool first = begin_work(self);
    slm_fork_check();
    slm_lock_acquire(&lock);
    if (self->generation == slm_fork_generation) {
        slm_list_remove(&self->link);
        atomic_fetch_sub_explicit(&registered, 1, memory_order_release); /* pairs with slm_epoch_stamp */
    }
    store_release(&self->section, NOT_REGISTERED);
    slm_lock_release(&lock);
    end_work(self, first);
}

/* -- grace periods -------------------------------------------------------------------------------------------- */

uint64_t slm_epoch_grace_periods(void)
{
    return load_relaxed(&slm_epoch_completed) - first_number;
}

/* The fence pairs with those of list_reader and `visit`: a reader that enters later does not find the thing. Acquire
 * pairs with the end of a reader, or of a visitor's section. */
bool slm_epoch_nobody_reads(void)
{
    slm_fence();
    const uint64_t own = load_relaxed(&slm_epoch_reader.section);
    return load_acquire(&registered) == is_listed(own) && load_acquire(&visitors[0]) == 0 &&
           load_acquire(&visitors[1]) == 0 && !slm_epoch_inside();
}

/* The fence in slm_epoch_nobody_reads is fence (1) above. */
uint64_t slm_epoch_stamp(void)
{
    if (slm_epoch_nobody_reads())
        return 0;
    const uint64_t stamp = slm_epoch_number(load_relaxed(&slm_epoch_started)) + 1;
    uint64_t wanted = load_relaxed(&slm_epoch_wanted);
    while (wanted < stamp && !atomic_compare_exchange_weak(&slm_epoch_wanted, &wanted, stamp))
        continue;
    return stamp;
}

/* Messages for after the lock is released. */
struct news {
    bool refused;    /* membarrier, from now on */
    uint32_t thread; /* that has been in a section for `ms`, too long; 0: none */
    uint64_t ms;
};

/* A barrier on every reader. If the kernel refuses it, readers make their own from now on. */
static void barrier_on_readers(uint64_t now_us, struct news *news)
{
    barrier_made = slm_sys_membarrier();
    news->refused = !barrier_made;
    if (barrier_made)
        store_relaxed(&barrier_due_us, now_us + barrier_interval_us);
    else
        store_release(&slm_epoch_started, load_relaxed(&slm_epoch_started) | SLM_EPOCH_FENCES);
}

enum reading { READING_DONE, READING_UNKNOWN, READING_STILL };

/* Does a reader hold a grace period up? Acquire pairs with the release in slm_epoch_leave. */
static enum reading reading_of(const struct slm_epoch_reader *reader, uint64_t number)
{
    const uint64_t section = load_acquire(&reader->section);
    if (slm_epoch_number(section) >= number)
        return READING_DONE; /* it has entered since */
    if (section & SLM_EPOCH_DEPTH)
        return READING_STILL;
    if (reader == &slm_epoch_reader || barrier_made || (readers_fence() && (section & SLM_EPOCH_FENCES)))
        return READING_DONE;
    return READING_UNKNOWN; /* it may have entered, unseen */
}

/* The worst of all readers; *who becomes one that is still inside and has not been named yet. If a handler forks in
 * the middle its child knows nothing yet: it has another list. */
static enum reading look_at_readers(uint64_t number, struct slm_epoch_reader **who)
{
    const uint32_t generation = slm_fork_generation;
    enum reading worst = READING_DONE;
    for (struct slm_list *at = readers.next; at != &readers; at = at->next) {
        if (unlikely(slm_fork_generation != generation))
            return READING_STILL;
        struct slm_epoch_reader *reader = slm_container(at, struct slm_epoch_reader, link);
        const enum reading reading = reading_of(reader, number);
        worst = reading > worst ? reading : worst;
        if (reading == READING_STILL && reader->named != number)
            *who = reader;
    }
    return worst;
}

static void note_stall(struct slm_epoch_reader *reader, uint64_t number, uint64_t now_us, struct news *news)
{
    const uint64_t ms = now_us > begun_us ? (now_us - begun_us) / 1000 : 0; /* `now_us` may be older */
    if (slm_setting(epoch_stall_ms) == 0 || ms < slm_setting(epoch_stall_ms))
        return;
    reader->named = number;
    news->thread = reader->thread;
    news->ms = ms;
}

/* A stall is only counted where a sandbox is near: `epoch_stall_ms` may have been set from outside. */
static slm_seldom void tell(const struct news *news)
{
    struct slm_line line = {0};
    if (news->refused)
        slm_warn(
            "membarrier(2) is refused since sections have been entered: grace periods end when every thread that "
            "has entered one has entered one again or ended",
            NULL);
    if (news->thread == 0)
        return;
    add_relaxed(&slm_epoch_stalls, 1);
    slm_line_add(&line,
                 "slabmalloc: thread %u has been inside an epoch section for over %lu ms: %lu bytes wait for it to "
                 "leave",
                 news->thread, news->ms, load_relaxed(&slm_epoch_waiting_bytes));
    if (slm_background_begin())
        slm_line_write(&line, 2);
    slm_background_end();
}

/* The clock is read again: after a long wait for the lock a section entered meanwhile must not be named as
 * a stall. */
static void start_next(void)
{
    barrier_made = false;
    begun_us = slm_sys_now_us();
    store_release(&slm_epoch_started, load_relaxed(&slm_epoch_started) + NUMBER_STEP); /* pairs with entries */
}

/* Under the lock: start a grace period if none is under way, and end it if no reader holds it up; then start the next
 * if it is wanted, so that readers enter with its number before the next look. There is a barrier only if a reader is
 * outside and has not entered since. The fence pairs with those of visitors and of readers with fences. */
static bool advance(uint64_t now_us, struct news *news)
{
    struct slm_epoch_reader *who = NULL;
    if (load_relaxed(&slm_epoch_completed) == slm_epoch_number(load_relaxed(&slm_epoch_started)))
        start_next();
    const uint64_t number = slm_epoch_number(load_relaxed(&slm_epoch_started));
    slm_fence();
    if (load_acquire(&visitors[(number - 1) % 2]) > 0) /* pairs with slm_epoch_leave_slow */
        return false;
    enum reading reading = look_at_readers(number, &who);
    if (reading == READING_UNKNOWN && !readers_fence() && now_us >= load_relaxed(&barrier_due_us)) {
        barrier_on_readers(now_us, news);
        reading = look_at_readers(number, &who);
    }
    if (who)
        note_stall(who, number, now_us, news);
    if (reading != READING_DONE)
        return false;
    store_release(&slm_epoch_completed, number); /* pairs with slm_epoch_passed */
    if (load_relaxed(&slm_epoch_wanted) > number)
        start_next();
    return true;
}

/* False too if another thread is at it, or a handler has interrupted its own thread at it. */
static bool try_advance(uint64_t now_us)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    struct news news = {0};
    bool ended = false;
    const bool first = begin_work(self);
    if (first && slm_lock_try(&lock)) {
        ended = advance(now_us, &news);
        slm_lock_release(&lock);
    }
    end_work(self, first);
    tell(&news);
    return ended;
}

/* Looking at many readers takes long: polls spend at most about a tenth of the time on it. */
bool slm_epoch_poll(void)
{
    if (load_relaxed(&slm_epoch_wanted) <= load_relaxed(&slm_epoch_completed))
        return false;
    const uint64_t now_us = slm_sys_now_us();
    if (now_us < load_relaxed(&look_due_us))
        return false;
    slm_fork_check();
    const bool ended = try_advance(now_us);
    const uint64_t after_us = slm_sys_now_us();
    const uint64_t pause_us = slm_max(look_interval_us, slm_min((after_us - now_us) * 10, look_interval_most_us));
    store_relaxed(&look_due_us, after_us + pause_us);
    return ended;
}

void slm_epoch_count_barrier(void)
{
    const uint64_t now_us = slm_sys_now_us(), due_us = slm_max(load_relaxed(&barrier_due_us), now_us);
    store_relaxed(&barrier_due_us, slm_min(due_us, now_us + 10 * barrier_interval_us) + barrier_interval_us);
}

/* Once readers need fences, a thread that waits outside shows it. Otherwise such threads would wait for
 * each other. */
static void show_outside(void)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    const uint64_t section = load_relaxed(&self->section);
    if (unlikely(readers_fence()) && is_listed(section) && !(section & (SLM_EPOCH_DEPTH | SLM_EPOCH_FENCES)))
        store_release(&self->section, load_acquire(&slm_epoch_started) - 1); /* pairs with reading_of */
}

bool slm_epoch_await(uint64_t stamp, uint64_t deadline_us)
{
    for (unsigned looks = 0; !slm_epoch_passed(stamp); looks++) {
        const uint64_t now_us = slm_sys_now_us();
        show_outside();
        if (try_advance(now_us))
            continue;
        if (now_us >= deadline_us)
            return slm_epoch_passed(stamp);
        if (looks < looks_before_sleep)
            slm_cpu_relax();
        else
            slm_sys_sleep_ms(1); /* readers do not wake anybody */
    }
    return true;
}

void slm_epoch_synchronize(const char *call)
{
    if (slm_epoch_inside())
        slm_panic(call, NULL, "inside a section of the caller's own", NULL, 0);
    slm_fork_check();
    slm_epoch_await(slm_epoch_stamp(), UINT64_MAX);
}

slm_seldom void slm_epoch_fork_child(void)
{
    struct slm_epoch_reader *self = &slm_epoch_reader;
    const uint64_t section = load_relaxed(&self->section);
    store_relaxed(&lock.word, 0);
    slm_list_init(&readers);
    store_relaxed(&registered, is_listed(section));
    if (is_listed(section)) {
        slm_list_insert_before(&readers, &self->link);
        self->generation = slm_fork_generation;
        self->thread = slm_sys_thread_id();
    }
    store_relaxed(&visitors[0], 0);
    store_relaxed(&visitors[1], 0);
    if (section & SLM_EPOCH_VISITOR)
        store_relaxed(&visitors[self->visiting], 1);
}
