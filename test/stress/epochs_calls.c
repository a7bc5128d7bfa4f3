/* slab_epoch_call, first sparsely: a few calls, some grace periods with none in between, and nobody who polls;
 * then under load: `threads` givers give numbered calls, some inside sections of their own; others poll and wait
 * at barriers.
 *
 * Promised, and looked at in each function:
 *
 *   - the functions of one giver run in the order in which they were given, each once, one after the other: what a
 *     giver's functions count is plain memory, so that ThreadSanitizer sees two at a time;
 *   - none runs inside a call of the library other than slab_epoch_poll and slab_epoch_barrier, nor inside a section;
 *   - a function may allocate, retire, enter sections, and give its own head again;
 *   - its grace period has passed: the giver's section in which it was given is over;
 *   - behind a barrier all calls given before it have run, whoever gave them. */
#include "epochs.h"

enum {
    MOST_WAITING = 20000, /* calls of one giver, so that memory stays bounded where functions fall behind */
    AGAIN_EVERY = 64,     /* so many calls give themselves again */
    AGAIN = 3,
    HELPERS = 2,
    SPARSE_ROUNDS = 15, /* at least */
    SPARSE_CALLS = 6,
    SPARSE_PERIODS = 6, /* grace periods between two calls, at most */
    LEAST_CALLS = 1000, /* by each giver */
    LEAST_AGAIN = 10,
    LEAST_BARRIERS = 10,
};

struct giver {
    pthread_t thread;
    unsigned place;
    uint64_t random;
    _Atomic uint64_t given;    /* released behind each call: a barrier that begins later waits for it */
    uint64_t run;              /* plain: counted by its functions alone, one after the other */
    _Atomic uint64_t run_seen; /* the same, for others */
    _Atomic uint64_t section;  /* odd while the giver is in one; raised at each entry and leaving */
};

struct call {
    slab_epoch_head head;
    struct giver *giver;
    uint64_t number, section;
    unsigned again; /* so many more times; only the first one counts for order */
    bool counted;
};

static struct giver givers[MAX_THREADS];
static slab_cache *calls;
static atomic_bool stopping;
static _Atomic uint64_t again_given, again_run, barriers;

/* A call of the library that is under way in this thread, in which no function may run. */
static __thread const char *closed;
static __thread unsigned depth;

static bool is_stopping(void)
{
    return atomic_load_explicit(&stopping, memory_order_relaxed);
}

/* -- functions --------------------------------------------------------------------------------------------------- */

static void do_what_functions_may(void)
{
    slab_epoch_enter();
    slab_free_deferred(malloc(100));
    slab_epoch_leave();
    free(malloc(200));
}

static void give_again(struct call *call);

static void check_place(const struct call *call)
{
    if (closed != NULL)
        fail(FOUND_WRONG, "a function was called inside %s", closed);
    if (depth != 0)
        fail(FOUND_WRONG, "a function was called inside a section");
    if (call->section % 2 && atomic_load_explicit(&call->giver->section, memory_order_acquire) == call->section)
        fail(FOUND_BROKEN, "broken: a function was called while its giver was in the section in which it gave it");
}

static void be_called(slab_epoch_head *head)
{
    struct call *call = (struct call *)head;
    struct giver *giver = call->giver;
    check_place(call);
    if (!call->counted) {
        if (call->number != giver->run)
            fail(FOUND_WRONG, "call %" PRIu64 " of giver %u came when it was %" PRIu64 "'s turn", call->number,
                 giver->place, giver->run);
        giver->run++;
        /* Release: pairs with the acquire of those who wait at a barrier. */
        atomic_store_explicit(&giver->run_seen, giver->run, memory_order_release);
        call->counted = true;
    } else
        atomic_fetch_add_explicit(&again_run, 1, memory_order_relaxed);
    if (call->number % AGAIN_EVERY == 1)
        do_what_functions_may();
    if (call->again > 0)
        give_again(call);
    else
        slab_cache_free(calls, call);
}

/* The functions of all threads give again through this one, so `closed` is kept: it is the thread's. */
static void give_again(struct call *call)
{
    const char *before = closed;
    call->again--;
    call->section = 0;
    atomic_fetch_add_explicit(&again_given, 1, memory_order_relaxed);
    closed = "slab_epoch_call in a function";
    slab_epoch_call(&call->head, be_called);
    closed = before;
}

/* -- givers ------------------------------------------------------------------------------------------------------ */

static void enter(struct giver *self)
{
    atomic_fetch_add_explicit(&self->section, 1, memory_order_release);
    depth++;
    slab_epoch_enter();
}

static void leave(struct giver *self)
{
    atomic_fetch_add_explicit(&self->section, 1, memory_order_release);
    closed = "slab_epoch_leave";
    slab_epoch_leave();
    closed = NULL;
    depth--;
}

static void give(struct giver *self)
{
    const uint64_t number = atomic_load_explicit(&self->given, memory_order_relaxed);
    struct call *call = slab_cache_alloc(calls);
    if (call == NULL)
        fail(FOUND_WRONG, "no call: %s", strerror(errno));
    *call = (struct call){.giver = self, .number = number};
    call->section = atomic_load_explicit(&self->section, memory_order_relaxed);
    call->again = number % AGAIN_EVERY == 0 ? AGAIN : 0;
    doing("slab_epoch_call");
    closed = "slab_epoch_call";
    slab_epoch_call(&call->head, be_called);
    closed = NULL;
    atomic_store_explicit(&self->given, number + 1, memory_order_release);
}

static void use_the_library(struct giver *self)
{
    doing("other calls");
    closed = "malloc, free, slab_free_deferred and slab_epoch_synchronize";
    slab_free_deferred(malloc(draw_between(&self->random, 16, 300)));
    free(malloc(100));
    if (depth == 0 && once_in(&self->random, 64))
        slab_epoch_synchronize();
    closed = NULL;
}

static void await_functions(struct giver *self)
{
    doing("waiting for its functions");
    while (atomic_load_explicit(&self->given, memory_order_relaxed) -
               atomic_load_explicit(&self->run_seen, memory_order_acquire) >
           MOST_WAITING)
        sleep_for(1e-4);
}

static void *be_giver(void *argument)
{
    struct giver *self = argument;
    start_work(self->place, self->place);
    while (!is_stopping()) {
        const bool inside = once_in(&self->random, 3);
        if (inside)
            enter(self);
        for (size_t i = draw_between(&self->random, 1, 40); i > 0; i--)
            give(self);
        use_the_library(self);
        if (inside) {
            doing("polling inside a section");
            slab_epoch_poll(); /* runs no function */
            leave(self);
        }
        if (once_in(&self->random, 32))
            sleep_for(1e-6 * (double)draw_between(&self->random, 10, 1000));
        await_functions(self);
    }
    return NULL;
}

/* -- barriers ---------------------------------------------------------------------------------------------------- */

static void wait_at_barrier(void)
{
    uint64_t given[MAX_THREADS];
    for (unsigned i = 0; i < options.threads; i++)
        given[i] = atomic_load_explicit(&givers[i].given, memory_order_acquire);
    doing("slab_epoch_barrier");
    slab_epoch_barrier();
    for (unsigned i = 0; i < options.threads; i++) {
        const uint64_t run = atomic_load_explicit(&givers[i].run_seen, memory_order_acquire);
        if (run < given[i])
            fail(FOUND_MISSING, "missing: behind a barrier %" PRIu64 " of giver %u's functions have run, of %" PRIu64,
                 run, givers[i].place, given[i]);
    }
    atomic_fetch_add_explicit(&barriers, 1, memory_order_relaxed);
}

static void *be_helper(void *argument)
{
    const unsigned place = (unsigned)(uintptr_t)argument;
    uint64_t random = random_of(place);
    start_work(place, place);
    while (!is_stopping()) {
        if (once_in(&random, 16))
            wait_at_barrier();
        doing("slab_epoch_poll");
        slab_epoch_poll();
        sleep_for(1e-6 * (double)draw_between(&random, 10, 2000));
    }
    return NULL;
}

/* -- sparse calls ------------------------------------------------------------------------------------------------ */

/* Grace periods are for somebody. */
static void *be_reader(void *argument)
{
    (void)argument;
    while (!is_stopping()) {
        slab_epoch_enter();
        slab_epoch_leave();
        sleep_for(1e-3);
    }
    return NULL;
}

static void give_sparsely(struct giver *self, double end)
{
    for (unsigned round = 0; round < SPARSE_ROUNDS || now_in_seconds() < end; round++) {
        for (unsigned i = 0; i < SPARSE_CALLS; i++) {
            give(self);
            doing("slab_epoch_synchronize");
            closed = "slab_epoch_synchronize";
            for (size_t n = draw_between(&self->random, 0, SPARSE_PERIODS); n > 0; n--)
                slab_epoch_synchronize();
            closed = NULL;
        }
        wait_at_barrier();
    }
}

/* -- the mode ---------------------------------------------------------------------------------------------------- */

static const char *what_is_missing(void)
{
    for (unsigned i = 0; i < options.threads; i++)
        if (tallied(&givers[i].run_seen) < LEAST_CALLS)
            return "waiting for each giver's functions";
    return tallied(&again_run) < LEAST_AGAIN     ? "waiting for functions that were given again"
           : tallied(&barriers) < LEAST_BARRIERS ? "waiting for barriers"
                                                 : NULL;
}

/* A quarter of the time is for sparse calls. */
static void run_threads(void)
{
    pthread_t helpers[HELPERS], reader;
    const double begin = now_in_seconds();
    for (unsigned i = 0; i < options.threads; i++) {
        givers[i].place = i + 2;
        givers[i].random = random_of(i + 2);
    }
    reader = start_thread(be_reader, NULL);
    give_sparsely(&givers[0], begin + options.seconds / 4);
    for (unsigned i = 0; i < options.threads; i++)
        givers[i].thread = start_thread(be_giver, &givers[i]);
    for (unsigned i = 0; i < HELPERS; i++)
        helpers[i] = start_thread(be_helper, (void *)(uintptr_t)(options.threads + 2 + i));
    doing("working");
    while (!is_over(begin + options.seconds, what_is_missing))
        sleep_for(2e-3);
    doing("waiting for the threads to end");
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(givers[i].thread, NULL);
    for (unsigned i = 0; i < HELPERS; i++)
        pthread_join(helpers[i], NULL);
    pthread_join(reader, NULL);
}

void run_calls(void)
{
    uint64_t given = 0;
    slab_cache_stats stats;
    calls = slab_cache_create("calls", sizeof(struct call), &(slab_cache_attr){.flags = SLAB_NO_MERGE});
    run_threads();
    for (unsigned i = 0; i <= AGAIN; i++)
        wait_at_barrier();
    for (unsigned i = 0; i < options.threads; i++)
        given += atomic_load(&givers[i].given);
    printf("epochs: %" PRIu64 " calls, %" PRIu64 " given again, %" PRIu64 " barriers, %" PRIu64 " grace periods\n",
           given, atomic_load(&again_given), atomic_load(&barriers), figures().grace_periods);
    fflush(stdout);
    if (atomic_load(&again_given) != atomic_load(&again_run))
        fail(FOUND_MISSING, "missing: %" PRIu64 " were given again, %" PRIu64 " of them have run",
             atomic_load(&again_given), atomic_load(&again_run));
    if (slab_cache_get_stats(calls, &stats) != 0 || stats.active_objects != 0 || slab_cache_destroy(calls) != 0)
        fail(FOUND_MISSING, "missing: %" PRIu64 " calls are left", stats.active_objects);
    if (figures().grace_periods == 0)
        fail(FOUND_WRONG, "functions have run, and no grace period has passed");
}
