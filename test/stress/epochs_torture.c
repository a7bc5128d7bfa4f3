/* Torture of epochs and deferred free, in the manner of the kernel's rcutorture. At work are
 *
 *   readers     nest sections, look at nodes, stay for a while, and look again
 *   writers     put new nodes into slots and retire the old ones in every way, inside sections of their own, too
 *   duelists    a reader and a writer that have the machine to themselves now and then (below)
 *   a pump      retires much with nothing in between
 *   a poller    polls, waits at barriers, and takes what has become free
 *   waiters     wait for grace periods most of the time, so that one is always wanted, and for each other's
 *   a shrinker  gives memory back
 *   a forker    forks (--forks); its children do all this for a moment, and end
 *
 * Readers and writers live for some hundred steps, end inside sections and with half a magazine retired, go on
 * reading and retiring in destructors of their thread-local storage, and are followed by new ones. Every third of
 * them is interrupted by a signal whose handler is a reader, too.
 *
 * Moods take turns: a calm one in which readers stay for milliseconds, a brisk one in which they do not sleep, so
 * that grace periods are short, and the duel. What all these do is in epochs_roles.c; here are their lives, the
 * forks, and the count at the end.
 *
 * Promised: what a reader finds stays as it is until the reader leaves; behind a barrier at the end nothing waits,
 * and nothing is missing. */
#include "epochs_torture.h"

#include <signal.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    SHORTEST_LIFE = 20,
    LONGEST_LIFE = 2000,
#ifdef __SANITIZE_THREAD__
    SIGNAL_INTERVAL_NS = 4000000, /* handlers are slow: a thread with little of a CPU would spend all of it in them */
#else
    SIGNAL_INTERVAL_NS = 400000,
#endif
    CHILD_STEPS = 150,
    STRAY_BYTES = 1 << 18, /* of the C library's, for threads and timers */
    LEAST_READS = 2000,
    LEAST = 8, /* of whatever else must have happened; of each way to retire, too */
};

static const double MOOD_SECONDS = 0.1, STALL_SECONDS = 10; /* epoch_stall_ms, unless it is set */

enum { DUELISTS = 2, WAITERS = 2, OTHERS = 4 };

static struct crewman crew[MAX_THREADS + DUELISTS + WAITERS + OTHERS];
static unsigned crew_count;
static uint64_t births;
static pthread_key_t late_key;
static unsigned turns;                 /* of moods */
static double begin;                   /* of everything */
static slab_stats before, before_half; /* figures at the beginning; where membarrier went, behind it */

atomic_bool stopping;
_Atomic unsigned mood, focus;
_Atomic uint64_t handler_reads;

/* -- lives ------------------------------------------------------------------------------------------------------- */

static void start_timer(struct crewman *self)
{
    const struct itimerspec every = {{0, SIGNAL_INTERVAL_NS}, {0, SIGNAL_INTERVAL_NS}};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event.sigev_notify_thread_id = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &self->timer) != 0 || timer_settime(self->timer, 0, &every, NULL) != 0)
        fail(FOUND_WRONG, "no timer: %s", strerror(errno));
}

/* Those who have to wait hold nothing up, and where membarrier has been taken away they show that they
 * are outside. */
static void await_turn(const struct crewman *self)
{
    doing("awaiting its turn");
    while (!is_stopping() &&
           (atomic_load_explicit(&mood, memory_order_relaxed) == MOOD_DUEL) != ((self->flags & MAN_DUELS) != 0)) {
        slab_epoch_enter();
        slab_epoch_leave();
        sleep_for(2e-3);
    }
}

/* Runs when the thread's storage goes: the library may have said goodbye to the thread already. */
static void live_on(void *argument)
{
    struct crewman *self = argument;
    for (unsigned i = 0; i < 5; i++) {
        read_section(self);
        replace(self, !self->inside);
    }
    retire_bulk(&self->retirer);
    if (self->later-- > 0)
        pthread_setspecific(late_key, self);
    else
        atomic_store_explicit(&self->done, true, memory_order_release);
}

static void *live(void *argument)
{
    struct crewman *self = argument;
    uint64_t life = self->flags & MAN_STAYS ? UINT64_MAX : draw_between(&self->random, SHORTEST_LIFE, LONGEST_LIFE);
    start_work(self->place, self->ordinal);
    slab_epoch_enter();
    slab_epoch_leave();
    if (self->timed)
        start_timer(self);
    pthread_setspecific(late_key, self);
    for (; life > 0 && !is_stopping(); life--) {
        await_turn(self);
        self->step(self);
    }
    if (self->inside)
        slab_epoch_enter();
    return NULL;
}

static void start(struct crewman *man)
{
    man->ordinal = ++births;
    man->random = random_of(man->ordinal);
    man->timed = !(man->flags & MAN_UNDISTURBED) && once_in(&man->random, 3);
    man->inside = once_in(&man->random, 3);
    man->later = draw(&man->random) % 3;
    atomic_store(&man->done, false);
    man->thread = start_thread(live, man);
}

static void join(struct crewman *man)
{
    pthread_join(man->thread, NULL);
    if (man->timed)
        timer_delete(man->timer);
}

static void replace_the_dead(void)
{
    for (unsigned i = 0; i < crew_count; i++) {
        if (!atomic_load_explicit(&crew[i].done, memory_order_acquire))
            continue;
        join(&crew[i]);
        start(&crew[i]);
    }
}

/* -- forks ------------------------------------------------------------------------------------------------------- */

static atomic_bool child_was_called;

static void note_call(slab_epoch_head *head)
{
    (void)head;
    atomic_store(&child_was_called, true);
}

static void *read_in_child(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        read_section(self);
    return NULL;
}

static void use_in_child(struct crewman *self, const struct finding *held)
{
    for (unsigned i = 0; i < CHILD_STEPS; i++) {
        read_section(self);
        replace(self, held == NULL);
        if (held != NULL)
            look_again(held, 1);
    }
}

/* What stands in slots is left alone: a fork copies page by page, so a slot may be older than its node. What the
 * forking thread found in its section is the section's still. */
__attribute__((noreturn)) static void live_as_child(struct crewman *self, const struct finding *held)
{
    static struct crewman reader;
    static slab_epoch_head head;
    for (unsigned i = 0; i < kinds_count; i++)
        for (unsigned k = 0; k < ALL_SLOTS; k++)
            atomic_store(&kinds[i].slots[k], NULL);
    use_in_child(self, held); /* alone */
    reader = (struct crewman){.place = self->place, .ordinal = self->ordinal, .random = self->random + 1};
    reader.thread = start_thread(read_in_child, &reader);
    use_in_child(self, held);
    pthread_join(reader.thread, NULL);
    retire_bulk(&self->retirer);
    slab_epoch_call(&head, note_call);
    if (held != NULL)
        slab_epoch_leave();
    doing("slab_epoch_barrier in a child");
    slab_epoch_barrier();
    if (!atomic_load(&child_was_called))
        fail(FOUND_MISSING, "missing: a call in a child, behind a barrier");
    _exit(FOUND_NOTHING);
}

/* Without a section, or inside one. */
static void fork_step(struct crewman *self)
{
    const bool inside = once_in(&self->random, 2);
    struct finding held = {NULL, NULL, 0};
    replace(self, true);
    if (inside) {
        slab_epoch_enter();
        held = find(any_kind(&self->random), draw(&self->random) % SLOTS);
    }
    doing("forking");
    const pid_t child = fork();
    if (child == 0)
        live_as_child(self, inside ? &held : NULL);
    if (inside)
        slab_epoch_leave();
    await_child(child);
    tally(&self->children, 1);
    sleep_for(1e-3 * (double)draw_between(&self->random, 1, 30));
}

/* -- the crew ---------------------------------------------------------------------------------------------------- */

static void enlist(void (*step)(struct crewman *self), unsigned flags)
{
    struct crewman *man = &crew[crew_count++];
    *man = (struct crewman){.step = step, .flags = flags, .place = crew_count + 1};
    start(man);
}

static void start_crew(void)
{
    struct sigaction action = {.sa_handler = read_in_handler, .sa_flags = SA_RESTART};
    if (sigaction(SIGUSR1, &action, NULL) != 0 || pthread_key_create(&late_key, live_on) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
    for (unsigned i = 0; i < options.threads; i++)
        enlist(i % 2 ? write_step : read_section, 0);
    enlist(duel_read, MAN_STAYS | MAN_DUELS | MAN_UNDISTURBED);
    enlist(duel_write, MAN_STAYS | MAN_DUELS | MAN_UNDISTURBED);
    enlist(pump_step, MAN_STAYS);
    for (unsigned i = 0; i < WAITERS; i++)
        enlist(wait_step, MAN_STAYS | MAN_UNDISTURBED);
    enlist(poll_step, MAN_STAYS);
    enlist(shrink_step, MAN_STAYS);
    if (options.forks)
        enlist(fork_step, MAN_STAYS);
}

/* Every second duel is about the kind that has its stamps at once, the others about any cheap one. */
static void change_mood(uint64_t *random)
{
    static const enum mood moods[] = {MOOD_DUEL, MOOD_CALM, MOOD_DUEL, MOOD_BRISK};
    const enum mood next = moods[turns++ % COUNT(moods)];
    const unsigned cheap = kinds_count - DEAR_KINDS;
    const bool at_once = next == MOOD_DUEL && once_in(random, 2);
    atomic_store(&focus, at_once ? (unsigned)(prompt_kind - kinds) : (unsigned)(draw(random) % cheap));
    atomic_store(&mood, next);
}

static void retire_the_rest(struct crewman *self)
{
    for (unsigned i = 0; i < kinds_count; i++)
        for (unsigned k = 0; k < ALL_SLOTS; k++) {
            struct node *node = atomic_exchange_explicit(&kinds[i].slots[k], NULL, memory_order_acquire);
            if (node == NULL)
                continue;
            node_check(&kinds[i], node, 0);
            node_retire(&self->retirer, &kinds[i], node, draw_form(&kinds[i], true, &self->random));
        }
    retire_bulk(&self->retirer);
}

/* No section is older than the process: one that is named before its time is found while the run is short. Later on
 * threads that the machine has stopped for long inside sections may be named with good reason. */
static void expect_nothing_waits(void)
{
    doing("slab_epoch_barrier at the end");
    slab_epoch_barrier();
    doing("counting at the end");
    const slab_stats stats = figures();
    if (stats.deferred_objects != 0 || stats.deferred_bytes != 0)
        fail(FOUND_MISSING, "missing: behind a barrier %" PRIu64 " objects of %" PRIu64 " bytes wait",
             stats.deferred_objects, stats.deferred_bytes);
    if (stats.deferred_unfreed != 0)
        fail(FOUND_MISSING, "missing: %" PRIu64 " objects were left unfreed", stats.deferred_unfreed);
    if (stats.epoch_stalls != 0 && now_in_seconds() - begin < STALL_SECONDS)
        fail(FOUND_WRONG, "%" PRIu64 " sections were named for staying open too long, and none was",
             stats.epoch_stalls);
    const uint64_t given = atomic_load(&calls_given), run = atomic_load_explicit(&calls_run, memory_order_acquire);
    if (given != run)
        fail(FOUND_MISSING, "missing: %" PRIu64 " calls were given, %" PRIu64 " functions have run", given, run);
}

struct sums {
    uint64_t reads, children, barriers, retired[FORMS];
};

static struct sums sums_of_all(void)
{
    struct sums sums = {.reads = 0};
    for (unsigned i = 0; i < COUNT(crew); i++) {
        sums.reads += tallied(&crew[i].reads);
        sums.children += tallied(&crew[i].children);
        sums.barriers += tallied(&crew[i].retirer.barriers);
        for (unsigned k = 0; k < FORMS; k++)
            sums.retired[k] += tallied(&crew[i].retirer.retired[k]);
    }
    return sums;
}

static const char *what_is_missing(void)
{
    static const char *const forms[FORMS] = {
        "waiting for objects retired alone",          "waiting for objects retired with a head",
        "waiting for objects retired in bulk",        "waiting for objects retired by calls",
        "waiting for objects retired by synchronize",
    };
    const struct sums sums = sums_of_all();
    for (unsigned i = 0; i < FORMS; i++)
        if (sums.retired[i] < LEAST)
            return forms[i];
    return turns < LEAST                                                 ? "waiting for all moods"
           : sums.reads < LEAST_READS                                    ? "waiting for reads"
           : tallied(&handler_reads) < LEAST                             ? "waiting for reads in handlers"
           : sums.barriers < LEAST                                       ? "waiting for barriers"
           : options.forks && sums.children < LEAST                      ? "waiting for children"
           : births < crew_count + LEAST                                 ? "waiting for lives to end"
           : figures().grace_periods < before_half.grace_periods + LEAST ? "waiting for grace periods"
                                                                         : NULL;
}

static void report(uint64_t grace_periods, uint64_t membarriers)
{
    const struct sums sums = sums_of_all();
    printf("epochs: %" PRIu64 " reads, %" PRIu64 " in handlers; retired: %" PRIu64 " alone, %" PRIu64
           " with a head, %" PRIu64 " in bulk, %" PRIu64 " by calls, %" PRIu64 " behind synchronize; %" PRIu64
           " barriers, %" PRIu64 " grace periods, %" PRIu64 " membarriers, %" PRIu64 " threads, %" PRIu64
           " children\n",
           sums.reads, tallied(&handler_reads), sums.retired[FORM_ONE], sums.retired[FORM_HEAD],
           sums.retired[FORM_BULK], sums.retired[FORM_CALL], sums.retired[FORM_SYNCHRONIZE], sums.barriers,
           grace_periods, membarriers, births, sums.children);
    fflush(stdout);
}

static void run_crew(void)
{
    bool filter_late = options.membarrier != NULL && strcmp(options.membarrier, "until-half") == 0;
    const double end = begin + options.seconds, half = begin + options.seconds / 2;
    uint64_t random = random_of(0);
    doing("keeping the crew going");
    for (double turn = begin; filter_late || !is_over(end, what_is_missing);) {
        const double now = now_in_seconds();
        if (now >= turn) {
            change_mood(&random);
            turn = now + MOOD_SECONDS;
        }
        if (filter_late && now >= half) {
            forbid_membarrier();
            before_half = figures();
            filter_late = false;
        }
        replace_the_dead();
        sleep_for(2e-3);
    }
}

void run_torture(void)
{
    static struct crewman sweeper;
    begin = now_in_seconds();
    kinds_create();
    before = before_half = figures();
    start_crew();
    run_crew();
    atomic_store(&stopping, true);
    doing("waiting for the threads to end");
    for (unsigned i = 0; i < crew_count; i++)
        join(&crew[i]);
    retire_the_rest(&sweeper);
    expect_nothing_waits();
    const slab_stats after = figures();
    report(after.grace_periods - before.grace_periods, after.membarriers - before.membarriers);
    kinds_destroy();
    if (after.live_bytes > before.live_bytes + STRAY_BYTES)
        fail(FOUND_MISSING, "missing: %" PRIu64 " bytes live, %" PRIu64 " before", after.live_bytes,
             before.live_bytes);
}
