/* A table of sessions that is read without a lock, although sessions are closed, and freed, at any moment.
 *
 *     typesafe [--seconds N]
 *
 * Usually a lock-free reader makes whoever frees wait: an object may only be reused when no reader can be looking at
 * it. For objects that come and go by the million that is a lot of waiting, or of memory that waits. A type-safe
 * cache (SLAB_TYPESAFE_BY_EPOCH; the kernel's SLAB_TYPESAFE_BY_RCU, once SLAB_DESTROY_BY_RCU) turns it round. Objects
 * are freed and reused at once. The promise is only that inside an epoch section a pointer to a session goes on
 * pointing to a session. It may be another session, or a closed one, but never something else, and never memory that
 * is gone. The reader looks, and finds out afterwards whether what it saw was one session:
 *
 *     reader                                      writer
 *
 *     slab_epoch_enter                            open:   slab_cache_alloc
 *     session = table[i]           (acquire)              payload         (each word a release)
 *     before = generation          (acquire)              generation + 1  (release): odd, the session is open
 *     payload              (each word acquire)            table[i] = session  (release)
 *     after = generation                          close:  table[i] = NULL
 *     slab_epoch_leave                                    generation + 1: even, the session is closed
 *     valid: before is odd, and equal to after            slab_cache_free
 *
 * The generation carries the proof, so it has to outlive the session. The constructor sets it to 0 when a slab is
 * made. While a reader may look at the slab nobody sets it back: neither this program nor the library, which writes
 * nothing into the free objects of a type-safe cache. An equal odd generation before and after means that nobody
 * closed the session in between:
 *
 *  - Assume that the reader saw a word that a later owner wrote. The word is a release and the reader's load an
 *    acquire, so it would also see what that owner found: the session closed, with a higher generation. So after >
 *    before.
 *  - The words are not older than the session either. The reader read `before` with acquire, and the release
 *    that made it odd came after all of them.
 *
 * That is the kernel's seqcount, with acquire and release on each word in place of barriers. (So the kernel's cpuset
 * code once read a generation out of a cpuset that might just have been freed, under SLAB_DESTROY_BY_RCU.)
 *
 * The program: two threads open and close sessions in waves, so that slabs become vacant again and again. A third
 * shrinks the cache and purges the heap as fast as it can, so that whatever may go back to the kernel does. Two
 * threads read. Reading memory that is gone would be a fault; reading another type would give a wrong checksum. Both
 * end the program. It prints how many reads were valid, how many were recognised as stale, and how many
 * slots were empty. */
#define _GNU_SOURCE 1

#include <pthread.h>
#include <sched.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 20000, WORDS = 12, WRITERS = 2, READERS = 2 };

struct session {
    _Atomic uint64_t generation;   /* odd: open */
    _Atomic uint64_t owner;        /* the payload: whose session it is, */
    _Atomic uint64_t words[WORDS]; /* and words that follow from that */
};

static slab_cache *sessions;
static _Atomic(struct session *) table[SLOTS];
static _Atomic bool over;

/* One thread counts; others may look. */
struct reads {
    _Atomic uint64_t valid, stale, empty;
};

static void give_up(const char *what)
{
    fprintf(stderr, "typesafe: %s\n", what);
    exit(1);
}

static uint64_t random_next(uint64_t *state)
{
    uint64_t bits = *state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}

static uint64_t word_of(uint64_t owner, unsigned i)
{
    return (owner + i) * 0x9e3779b97f4a7c15u;
}

/* -- sessions ---------------------------------------------------------------------------------------------------- */

/* Runs once for each object of a new slab, and not when a session is opened. This is what free sessions look like. */
static void construct_session(void *object, void *context)
{
    struct session *session = object;
    (void)context;
    memset(session, 0, sizeof *session);
}

static struct session *open_session(uint64_t owner)
{
    struct session *session = slab_cache_alloc(sessions);
    if (!session)
        give_up("no memory");
    const uint64_t generation = atomic_load_explicit(&session->generation, memory_order_relaxed);
    if (generation % 2 != 0)
        give_up("a session was allocated that is open");
    atomic_store_explicit(&session->owner, owner, memory_order_release);
    for (unsigned i = 0; i < WORDS; i++)
        atomic_store_explicit(&session->words[i], word_of(owner, i), memory_order_release);
    atomic_store_explicit(&session->generation, generation + 1, memory_order_release);
    return session;
}

/* Readers may be looking at it, and may go on. */
static void close_session(struct session *session)
{
    const uint64_t generation = atomic_load_explicit(&session->generation, memory_order_relaxed);
    atomic_store_explicit(&session->generation, generation + 1, memory_order_release);
    slab_cache_free(sessions, session);
}

enum reading { EMPTY, STALE, VALID };

/* Copies the session of a slot. VALID: it was one session all the time. */
static enum reading read_session(unsigned slot, uint64_t *owner, uint64_t words[WORDS])
{
    enum reading reading = EMPTY;
    slab_epoch_enter();
    const struct session *session = atomic_load_explicit(&table[slot], memory_order_acquire);
    if (session) {
        const uint64_t before = atomic_load_explicit(&session->generation, memory_order_acquire);
        *owner = atomic_load_explicit(&session->owner, memory_order_acquire);
        for (unsigned i = 0; i < WORDS; i++)
            words[i] = atomic_load_explicit(&session->words[i], memory_order_acquire);
        const uint64_t after = atomic_load_explicit(&session->generation, memory_order_relaxed);
        reading = before % 2 == 1 && before == after ? VALID : STALE;
    }
    slab_epoch_leave();
    return reading;
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

static void count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

static void *keep_reading(void *argument)
{
    struct reads *reads = argument;
    uint64_t random = (uintptr_t)argument, owner, words[WORDS];
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        switch (read_session(random_next(&random) % SLOTS, &owner, words)) {
        case EMPTY:
            count(&reads->empty, 1);
            break;
        case STALE:
            count(&reads->stale, 1);
            break;
        case VALID:
            count(&reads->valid, 1);
            for (unsigned i = 0; i < WORDS; i++)
                if (words[i] != word_of(owner, i))
                    give_up("a session was taken for valid that is not whole");
        }
    }
    return NULL;
}

/* Flood opens sessions nine times out of ten, and ebb closes them. The writers share the slots. */
static void *keep_writing(void *argument)
{
    uint64_t random = (uintptr_t)argument, owner = (uintptr_t)argument << 32;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        const bool flood = owner / (2 * SLOTS) % 2 == 0;
        const uint64_t drawn = random_next(&random);
        const bool opens = (drawn >> 32) % 10 < 9 ? flood : !flood;
        struct session *session = opens ? open_session(owner) : NULL;
        session = atomic_exchange_explicit(&table[drawn % SLOTS], session, memory_order_acq_rel);
        if (session)
            close_session(session);
        owner++;
    }
    return NULL;
}

/* Gives back whatever it can: vacant slabs of the cache, and their RAM to the kernel. */
static void *keep_shrinking(void *argument)
{
    _Atomic uint64_t *bytes = argument;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        count(bytes, slab_cache_shrink(sessions));
        slab_purge();
        usleep(500);
    }
    return NULL;
}

static void start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    if (pthread_create(thread, NULL, run, argument) != 0)
        give_up("no thread");
}

/* What all readers have read so far. */
static void add_up(struct reads *sum, const struct reads reads[READERS])
{
    sum->valid = sum->stale = sum->empty = 0;
    for (unsigned i = 0; i < READERS; i++) {
        count(&sum->valid, reads[i].valid);
        count(&sum->stale, reads[i].stale);
        count(&sum->empty, reads[i].empty);
    }
}

/* Runs all threads for so many seconds; on a busy machine also until there were valid reads, stale reads, and slabs
 * that were given back. */
static void run(unsigned seconds, struct reads *sum, _Atomic uint64_t *bytes)
{
    pthread_t readers[READERS], writers[WRITERS], shrinker;
    static struct reads reads[READERS];
    for (uintptr_t i = 0; i < WRITERS; i++)
        start(&writers[i], keep_writing, (void *)(i + 1));
    for (unsigned i = 0; i < READERS; i++)
        start(&readers[i], keep_reading, &reads[i]);
    start(&shrinker, keep_shrinking, bytes);
    sleep(seconds);
    while (add_up(sum, reads), sum->valid == 0 || sum->stale == 0 || *bytes == 0)
        usleep(2000);
    atomic_store_explicit(&over, true, memory_order_relaxed);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    pthread_join(shrinker, NULL);
    add_up(sum, reads);
}

static unsigned seconds_of(int count, char **words)
{
    if (count == 1)
        return 2;
    const int seconds = count == 3 && strcmp(words[1], "--seconds") == 0 ? atoi(words[2]) : 0;
    if (seconds <= 0)
        give_up("usage: typesafe [--seconds N]");
    return (unsigned)seconds;
}

int main(int count, char **words)
{
    const unsigned seconds = seconds_of(count, words);
    const slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH, .ctor = construct_session};
    static _Atomic uint64_t bytes;
    static struct reads reads;
    sessions = slab_cache_create("session", sizeof(struct session), &attr);
    if (!sessions)
        give_up("no cache");
    run(seconds, &reads, &bytes);
    printf("%llu reads were valid, %llu were recognised as stale, %llu found a slot empty; %llu KiB of slabs went\n",
           (unsigned long long)reads.valid, (unsigned long long)reads.stale, (unsigned long long)reads.empty,
           (unsigned long long)(bytes / 1024));
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (table[slot])
            close_session(table[slot]);
    slab_epoch_synchronize(); /* no thread reads any more: now the last slabs can go, too */
    slab_cache_shrink(sessions);
    if (slab_cache_destroy(sessions) != 0)
        give_up("sessions are left");
    return 0;
}
