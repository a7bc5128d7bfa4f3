/* The storm: every way to change this CPU's copy, under everything that could come in between.
 *
 *     mover: sched_setaffinity(any thread, any CPUs) ...           forker: a child, which is a storm in small
 *        |                                                            |
 *     thread: adds | exchange, compare, add | push, pop | adds | ...  until all adds are done
 *        ^ interrupted, 25,000 times a second, by a handler that does the same
 *
 * Each thread, and each handler, keeps a tally of its own of what it has added, and threads live shortly. The `ones`
 * take nothing but adds of 1, as fast as it goes. The `mixed` word takes additions of any value, exchanges and
 * comparisons: what has been put there less what came out of it must be what is in it.
 *
 * Promised: at the end every sum is exact, at any time it is not less than what was added before, and a child's is
 * not less than what its parent saw before the fork.
 *
 * Built with SLM_PERCPU_PLAIN, the ones are added as one would do it by hand: to see that the storm finds it. */
#include "percpu.h"

#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    BATCH_ROUNDS = 64,
    MOST_BATCHES = 64, /* of a life */
    SIGNAL_INTERVAL_NS = 40000,
    CHILD_THREADS = 2,
    CHILD_ADDS = 200000,
    ADDS_MORE = 1000000, /* while something that must happen has not */
    LEAST = 4,           /* of whatever must have happened */
};

/* All threads do mostly the same for a while: what is lost when one is moved at the wrong moment is seen only if
 * another is at the same word by then. How much of everything is in a round. */
enum { MOODS = 3 };

static const struct mood {
    unsigned ones, mixed, nodes;
} moods[MOODS] = {{2000, 1, 1}, {50, 64, 1}, {50, 1, 64}};

static const double MOOD_SECONDS = 0.03;

/* What one has done, whom no other interrupts. */
struct tally {
    _Atomic uint64_t ones; /* a release when they have been added; an acquire in look_at_ones */
    uint64_t mixed;        /* put there less taken out */
    _Atomic uint64_t batches[MOODS], exchanges, refused; /* tallies, as those of the hand */
    struct hand hand;
    uint64_t random;
};

struct worker {
    pthread_t thread;
    _Atomic pid_t tid; /* of its thread, for the mover; 0 outside of its life */
    atomic_bool done;  /* a release at the end of a life, an acquire by the one who joins it */
    timer_t timer;
    struct tally own, handler;
};

static struct worker workers[MAX_THREADS];
static unsigned worker_count;
static __thread struct worker *interrupted; /* whom a signal in this thread interrupts */

/* The words, and what was in them before the tallies began: of a child its parent's. */
static struct {
    slab_percpu ones, mixed;
    uint64_t ones_before, mixed_before;
} words;

static _Atomic int64_t adds_left; /* taken in batches; below 0: done */
static const struct mood *_Atomic mood;
static atomic_bool stopping;
static cpu_set_t allowed;
static uint64_t births;
static _Atomic uint64_t moves, children; /* the mover's tally, the forker's */

/* -- changes ----------------------------------------------------------------------------------------------------- */

static void add_ones(struct tally *self, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
#ifdef SLM_PERCPU_PLAIN
        volatile long *copy = slab_percpu_this(words.ones);
        *copy += 1;
#else
        slab_percpu_add_long(words.ones, 1);
#endif
    }
    const uint64_t before = atomic_load_explicit(&self->ones, memory_order_relaxed); /* its own, no partner */
    atomic_store_explicit(&self->ones, before + count, memory_order_release);
}

/* Its partners are all changes of the copy, of which it sees one or the other: relaxed. */
static uintptr_t peek(slab_percpu object)
{
    return __atomic_load_n((uintptr_t *)slab_percpu_this(object), __ATOMIC_RELAXED);
}

static bool compare_and_put(struct tally *self, uintptr_t *expected, uintptr_t value)
{
    const uintptr_t found = slab_percpu_cmpxchg(words.mixed, *expected, value);
    const bool put = found == *expected;
    if (put)
        self->mixed += value - found;
    else
        tally(&self->refused, 1);
    *expected = found;
    return put;
}

static void mixed_step(struct tally *self)
{
    const uint64_t value = draw(&self->random);
    uintptr_t expected;
    switch (value % 5) {
    case 0:
        slab_percpu_add_u64(words.mixed, value);
        self->mixed += value;
        break;
    case 1:
        slab_percpu_add_long(words.mixed, -(long)(value >> 1));
        self->mixed -= value >> 1;
        break;
    case 2:
        self->mixed += value - slab_percpu_xchg(words.mixed, value);
        break;
    case 3:
        expected = peek(words.mixed);
        compare_and_put(self, &expected, value);
        break;
    default: /* until it is done: an addition by hand */
        expected = peek(words.mixed);
        while (!compare_and_put(self, &expected, expected + value))
            continue;
    }
    tally(&self->exchanges, 1);
}

static void handle(int signal_number)
{
    (void)signal_number;
    struct tally *self = &interrupted->handler;
    const int kept = errno;
    add_ones(self, 1 + (unsigned)(draw(&self->random) % 4));
    mixed_step(self);
    hand_step_in_handler(&self->hand, &self->random);
    errno = kept;
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

static void start_timer(struct worker *self)
{
    const struct itimerspec every = {{0, SIGNAL_INTERVAL_NS}, {0, SIGNAL_INTERVAL_NS}};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event.sigev_notify_thread_id = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &self->timer) != 0 || timer_settime(self->timer, 0, &every, NULL) != 0)
        fail(FOUND_WRONG, "no timer: %s", strerror(errno));
}

/* The adds have been taken. */
static void work(struct tally *self, const struct mood *round)
{
    for (unsigned i = 0; i < BATCH_ROUNDS; i++) {
        doing("adding");
        add_ones(self, round->ones);
        doing("exchanging");
        for (unsigned k = 0; k < round->mixed; k++)
            mixed_step(self);
        doing("pushing and popping");
        for (unsigned k = 0; k < round->nodes; k++)
            hand_step(&self->hand, &self->random);
    }
    tally(&self->batches[round - moods], 1);
}

static void *live(void *argument)
{
    struct worker *self = argument;
    const unsigned place = (unsigned)(self - workers);
    uint64_t batches = draw_between(&self->own.random, 1, MOST_BATCHES);
    start_work(place + 2, place + 1);
    interrupted = self;
    start_timer(self);
    atomic_store_explicit(&self->tid, gettid(), memory_order_relaxed); /* a number; nothing hangs on it */
    errno = 4711;
    for (; batches > 0; batches--) {
        const struct mood *round = atomic_load_explicit(&mood, memory_order_relaxed); /* and this a table's row */
        if (atomic_fetch_sub_explicit(&adds_left, BATCH_ROUNDS * round->ones, memory_order_relaxed) <= 0)
            break;
        work(&self->own, round);
    }
    if (errno != 4711)
        fail(FOUND_WRONG, "errno was set to %d", errno);
    atomic_store_explicit(&self->tid, 0, memory_order_relaxed);
    atomic_store_explicit(&self->done, true, memory_order_release);
    return NULL;
}

static void start(struct worker *worker)
{
    atomic_store(&worker->done, false);
    worker->thread = start_thread(live, worker);
    births++;
}

static void join(struct worker *worker)
{
    pthread_join(worker->thread, NULL);
    timer_delete(worker->timer);
}

/* A thread that has ended since is none any more. */
static void *move(void *argument)
{
    uint64_t random = *(uint64_t *)argument;
    start_work(MAX_THREADS + 2, MAX_THREADS + 1);
    doing("moving threads");
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) { /* at the end; joined then */
        const struct worker *worker = &workers[draw(&random) % worker_count];
        const pid_t tid = atomic_load_explicit(&worker->tid, memory_order_relaxed);
        const bool anywhere = once_in(&random, 4);
        cpu_set_t some = allowed;
        for (int cpu = 0; cpu < CPU_SETSIZE && !anywhere; cpu++)
            if (once_in(&random, 2) && CPU_COUNT(&some) > 1)
                CPU_CLR(cpu, &some);
        if (tid != 0 && sched_setaffinity(tid, sizeof some, &some) == 0)
            tally(&moves, 1);
        else if (tid != 0 && errno != ESRCH)
            fail(FOUND_WRONG, "no move: %s", strerror(errno));
        if (once_in(&random, 8))
            sleep_for(5e-5);
    }
    return NULL;
}

/* -- sums -------------------------------------------------------------------------------------------------------- */

/* Whoever is adding right now may have added more. */
static void look_at_ones(void)
{
    uint64_t least = words.ones_before;
    for (unsigned i = 0; i < worker_count; i++)
        least += atomic_load_explicit(&workers[i].own.ones, memory_order_acquire) +
                 atomic_load_explicit(&workers[i].handler.ones, memory_order_acquire);
    const uint64_t sum = (uint64_t)slab_percpu_sum_long(words.ones);
    if (sum < least)
        fail(FOUND_MISSING, "lost: there are %" PRIu64 " ones, and %" PRIu64 " had been added before", sum, least);
}

static void expect_all(void)
{
    doing("looking at all sums");
    uint64_t ones = words.ones_before, mixed = words.mixed_before;
    struct hand *hands[2 * MAX_THREADS];
    for (unsigned i = 0; i < worker_count; i++) {
        struct tally *const both[] = {&workers[i].own, &workers[i].handler};
        for (unsigned k = 0; k < 2; k++) {
            ones += atomic_load(&both[k]->ones);
            mixed += both[k]->mixed;
            hands[2 * i + k] = &both[k]->hand;
        }
    }
    const uint64_t sum = (uint64_t)slab_percpu_sum_long(words.ones), mixed_sum = slab_percpu_sum_u64(words.mixed);
    if (sum != ones)
        fail(FOUND_MISSING, "lost: there are %" PRIu64 " ones, %" PRIu64 " were added, %" PRId64 " less", sum, ones,
             (int64_t)(ones - sum));
    if (mixed_sum != mixed)
        fail(FOUND_MISSING, "lost: the mixed sum is %#" PRIx64 ", what was put there less what came out %#" PRIx64,
             mixed_sum, mixed);
    nodes_settle(hands, 2 * worker_count);
}

/* -- the crew ---------------------------------------------------------------------------------------------------- */

static void crew_start(unsigned threads, uint64_t adds, uint64_t seed)
{
    atomic_store(&mood, &moods[0]);
    nodes_begin();
    worker_count = threads;
    memset(workers, 0, sizeof workers);
    atomic_store(&adds_left, (int64_t)adds);
    for (unsigned i = 0; i < threads; i++) {
        struct tally *const both[] = {&workers[i].own, &workers[i].handler};
        for (unsigned k = 0; k < 2; k++) {
            both[k]->hand.number = 2 * i + k + 1;
            both[k]->random = random_of(seed * 2 * MAX_THREADS + both[k]->hand.number);
        }
        start(&workers[i]);
    }
}

/* Where all are done, but not everything has happened, there are more. */
static bool adds_are_left(const char *(*missing)(void))
{
    if (atomic_load_explicit(&adds_left, memory_order_relaxed) > 0)
        return true;
    const char *what = missing != NULL ? missing() : NULL;
    if (what == NULL)
        return false;
    doing(what);
    atomic_store_explicit(&adds_left, ADDS_MORE, memory_order_relaxed);
    return true;
}

static void replace_the_dead(void)
{
    for (unsigned i = 0; i < worker_count; i++) {
        if (!atomic_load_explicit(&workers[i].done, memory_order_acquire))
            continue;
        join(&workers[i]);
        start(&workers[i]);
    }
}

/* Until all adds are done and nothing is missing (NULL: nothing can be); threads that have ended are replaced. */
static void crew_run(uint64_t seed, const char *(*missing)(void))
{
    uint64_t random = random_of(seed * 2 * MAX_THREADS);
    atomic_store(&stopping, false);
    const pthread_t mover = start_thread(move, &random);
    double turn = now_in_seconds();
    doing("looking at the ones");
    for (unsigned turns = 0; adds_are_left(missing);) {
        replace_the_dead();
        look_at_ones();
        if (now_in_seconds() > turn + MOOD_SECONDS) {
            atomic_store_explicit(&mood, &moods[++turns % MOODS], memory_order_relaxed);
            turn = now_in_seconds();
        }
        sleep_for(1e-3);
    }
    doing("waiting for the threads to end");
    for (unsigned i = 0; i < worker_count; i++)
        join(&workers[i]);
    atomic_store_explicit(&stopping, true, memory_order_relaxed);
    pthread_join(mover, NULL);
}

/* The parent's threads are gone, with what they had in hand: the child counts from here. */
__attribute__((noreturn)) static void live_as_child(uint64_t least)
{
    words.ones_before = (uint64_t)slab_percpu_sum_long(words.ones);
    words.mixed_before = slab_percpu_sum_u64(words.mixed);
    if (words.ones_before < least)
        fail(FOUND_MISSING, "lost: a child finds %" PRIu64 " ones, its parent saw %" PRIu64, words.ones_before,
             least);
    doing("looking at the parent's lists");
    nodes_forget();
    crew_start(CHILD_THREADS, CHILD_ADDS, children + 1);
    crew_run(children + 1, NULL);
    expect_all();
    _exit(FOUND_NOTHING);
}

static void *fork_on(void *argument)
{
    uint64_t random = *(uint64_t *)argument;
    start_work(MAX_THREADS + 3, MAX_THREADS + 2);
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) { /* as the mover */
        doing("forking");
        const uint64_t least = (uint64_t)slab_percpu_sum_long(words.ones);
        const pid_t child = fork();
        if (child == 0)
            live_as_child(least);
        await_child(child);
        tally(&children, 1);
        sleep_for(1e-3 * (double)draw_between(&random, 1, 100));
    }
    return NULL;
}

/* -- the mode ---------------------------------------------------------------------------------------------------- */

struct sums {
    uint64_t ones, handled, batches[MOODS], exchanges, refused, pushes, pops, unmapped, freed;
};

static void add_tallies(struct sums *sums, const struct tally *one)
{
    for (unsigned i = 0; i < MOODS; i++)
        sums->batches[i] += tallied(&one->batches[i]);
    sums->exchanges += tallied(&one->exchanges);
    sums->refused += tallied(&one->refused);
    sums->pushes += tallied(&one->hand.pushes);
    sums->pops += tallied(&one->hand.pops);
    sums->unmapped += tallied(&one->hand.unmapped);
    sums->freed += tallied(&one->hand.freed);
}

static struct sums sums_of_all(void)
{
    struct sums sums = {.ones = 0};
    for (unsigned i = 0; i < worker_count; i++) {
        sums.ones += tallied(&workers[i].own.ones);
        sums.handled += tallied(&workers[i].handler.ones);
        add_tallies(&sums, &workers[i].own);
        add_tallies(&sums, &workers[i].handler);
    }
    return sums;
}

/* How many copies have been added to. */
static int count_copies(void)
{
    int copies = 0;
    const long *ones;
    slab_percpu_for_each (cpu, ones, words.ones)
        copies += __atomic_load_n(ones, __ATOMIC_RELAXED) != 0;
    return copies;
}

/* Where threads can be on two CPUs the mover sees to it that they are. */
static bool is_on_one_cpu(void)
{
    return slab_percpu_cpus() > 1 && CPU_COUNT(&allowed) > 1 && options.threads > 1 && count_copies() < 2;
}

static const char *what_is_missing(void)
{
    const struct sums sums = sums_of_all();
    for (unsigned i = 0; i < MOODS; i++)
        if (sums.batches[i] < LEAST)
            return "waiting for batches in each mood";
    return sums.handled < LEAST                            ? "waiting for adds in handlers"
           : sums.pops < LEAST                             ? "waiting for pops"
           : nodes_are_unmapped() && sums.unmapped < LEAST ? "waiting for unmapped nodes"
           : sums.freed < LEAST                            ? "waiting for freed nodes"
           : tallied(&moves) < LEAST                       ? "waiting for moves"
           : options.forks && tallied(&children) < LEAST   ? "waiting for children"
           : is_on_one_cpu()                               ? "waiting for adds on a second CPU"
                                                           : NULL;
}

static void report(double seconds)
{
    const struct sums sums = sums_of_all();
    printf("percpu: %" PRIu64 " adds in %.1f s, %.0f million a second, and %" PRIu64 " in handlers; %" PRIu64
           " exchanges, %" PRIu64 " refused; %" PRIu64 " pushes, %" PRIu64 " pops, %" PRIu64
           " nodes unmapped, %" PRIu64 " freed; %" PRIu64 " moves, %" PRIu64 " threads, %" PRIu64
           " children; %s, %d of %d copies\n",
           sums.ones, seconds, (double)sums.ones / seconds / 1e6, sums.handled, sums.exchanges, sums.refused,
           sums.pushes, sums.pops, sums.unmapped, sums.freed, tallied(&moves), births, tallied(&children),
           slab_percpu_here.sequence != 0 ? "sequences" : "atomics", count_copies(), slab_percpu_cpus());
    fflush(stdout);
    if (sums.ones < options.adds)
        fail(FOUND_WRONG, "the test has added too little");
}

void run_storm(void)
{
    const struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    uint64_t random = random_of(UINT64_MAX);
    pthread_t forker = 0;
    if (sigaction(SIGUSR1, &action, NULL) != 0 || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
    words.ones = make_object(sizeof(long), _Alignof(long));
    words.mixed = make_object(sizeof(uint64_t), _Alignof(uint64_t));
    const double begin = now_in_seconds();
    crew_start((unsigned)options.threads, options.adds, 0);
    if (options.forks)
        forker = start_thread(fork_on, &random);
    crew_run(0, what_is_missing);
    if (options.forks)
        pthread_join(forker, NULL); /* its last child looks at the lists */
    expect_all();
    report(now_in_seconds() - begin);
    slab_percpu_free(words.ones);
    slab_percpu_free(words.mixed);
}
