/* slab_epoch_call and slab_epoch_barrier.
 *
 * Functions run once, after a grace period, in the order in which one thread has given them, one after the other, and
 * in no call but slab_epoch_poll and slab_epoch_barrier, or in the worker. A barrier waits for all that was retired
 * or given before it, by whomever. A poll waits for nobody.
 *
 * Every function here checks where it runs: a thread of the test's own says in `may_run` that it is in one of those
 * two calls; a thread that has never said that it is the test's is the worker. */
#include "epochs.h"

#include <stdatomic.h>

static __thread bool is_ours, may_run;
static atomic_bool running;
static atomic_uint ran, ran_in_worker;

static void begin_function(void)
{
    require(!is_ours || may_run);
    require(!atomic_exchange(&running, true));
    if (!is_ours)
        ran_in_worker++;
}

static void end_function(void)
{
    ran++;
    require(atomic_exchange(&running, false));
}

static bool poll_here(void)
{
    may_run = true;
    const bool ended = slab_epoch_poll();
    may_run = false;
    return ended;
}

static void barrier_here(void)
{
    may_run = true;
    slab_epoch_barrier();
    may_run = false;
}

static void poll_until_ran(unsigned count)
{
    for (; ran < count; sleep_ms(1))
        poll_here();
}

struct numbered {
    slab_epoch_head head;
    unsigned number;
    unsigned *next; /* of its giver */
};

static struct numbered *numbered_of(slab_epoch_head *head)
{
    return (struct numbered *)((char *)head - offsetof(struct numbered, head));
}

static void run_in_order(slab_epoch_head *head)
{
    begin_function();
    struct numbered *self = numbered_of(head);
    require(self->number == (*self->next)++);
    free(self);
    end_function();
}

static void give_numbered(unsigned number, unsigned *next)
{
    struct numbered *numbered = malloc(sizeof *numbered);
    require(numbered != NULL);
    numbered->number = number;
    numbered->next = next;
    slab_epoch_call(&numbered->head, run_in_order);
}

/* -- functions --------------------------------------------------------------------------------------------------- */

static void in_order_and_once(const char *argument)
{
    (void)argument;
    enum { GIVEN = 50000 };
    unsigned next = 0;
    is_ours = true;
    for (unsigned i = 0; i < GIVEN; i++)
        give_numbered(i, &next);
    require(ran == 0);
    poll_until_ran(GIVEN);
    for (unsigned i = 0; i < 100; i++)
        poll_here();
    require(ran == GIVEN && next == GIVEN);
    for (unsigned i = 0; i < GIVEN; i++)
        give_numbered(GIVEN + i, &next);
    require(ran == GIVEN);
    barrier_here();
    require(ran == 2 * GIVEN);
}

struct giver {
    pthread_t thread;
    unsigned next;
};

enum { GIVERS = 4, A_GIVER_GIVES = 20000 };

static void *give_in_a_thread(void *argument)
{
    struct giver *self = argument;
    is_ours = true;
    for (unsigned i = 0; i < A_GIVER_GIVES; i++) {
        if (i % 3 == 0)
            slab_epoch_enter();
        give_numbered(i, &self->next);
        if (i % 3 == 0)
            slab_epoch_leave();
        if (i % 64 == 0)
            poll_here();
        if (i % 4096 == 0)
            barrier_here();
    }
    return NULL;
}

/* Functions of many threads, while all of them, and the worker, may be the one to run them. */
static void in_order_of_each_thread(const char *argument)
{
    (void)argument;
    static struct giver givers[GIVERS];
    is_ours = true;
    for (size_t i = 0; i < GIVERS; i++)
        require(pthread_create(&givers[i].thread, NULL, give_in_a_thread, &givers[i]) == 0);
    for (size_t i = 0; i < GIVERS; i++)
        require(pthread_join(givers[i].thread, NULL) == 0);
    barrier_here();
    for (size_t i = 0; i < GIVERS; i++)
        require(givers[i].next == A_GIVER_GIVES);
}

/* Neither polls nor barriers of others run a function while a reader is inside that was there before it. */
static void after_a_grace_period(const char *argument)
{
    (void)argument;
    unsigned next = 0;
    struct parked reader;
    is_ours = true;
    park_inside(&reader);
    for (unsigned i = 0; i < 100; i++)
        give_numbered(i, &next);
    for (unsigned i = 0; i < 100; i++) {
        poll_here();
        sleep_ms(1);
    }
    require(ran == 0);
    unpark(&reader);
    poll_until_ran(100);
    slab_epoch_enter();
    give_numbered(100, &next);
    for (unsigned i = 0; i < 100; i++) {
        poll_here();
        sleep_ms(1);
    }
    require(ran == 100);
    slab_epoch_leave();
    poll_until_ran(101);
}

static atomic_uint again;

static void give_again(slab_epoch_head *head)
{
    begin_function();
    if (again > 0) {
        again--;
        slab_epoch_call(head, give_again);
    }
    end_function();
}

/* The head is the function's, to be given again. Each time is a grace period of its own. */
static void the_same_head_again(const char *argument)
{
    (void)argument;
    slab_epoch_head head;
    struct parked reader;
    is_ours = true;
    park_outside(&reader);
    again = 50;
    slab_epoch_call(&head, give_again);
    poll_until_ran(51);
    again = 20;
    slab_epoch_call(&head, give_again);
    for (unsigned before = 51; ran < 51 + 21; before++) {
        barrier_here(); /* which waits for what was given before it, and so has an end */
        require(ran > before);
    }
    unpark(&reader);
}

struct worker_task {
    slab_epoch_head head;
    slab_cache *cache;
    struct worker_task *later;
};

static void do_anything(slab_epoch_head *head)
{
    struct worker_task *self = (struct worker_task *)(void *)head;
    char stack[200 * KIB]; /* of 512 that the worker has */
    void *objects[300];
    begin_function();
    memset(stack, 1, sizeof stack);
    require(opaque(stack) == stack);
    free(malloc(MIB));
    take_all(self->cache, objects, COUNT(objects));
    retire_all(objects, COUNT(objects) / 2);
    give_all(self->cache, objects + COUNT(objects) / 2, COUNT(objects) / 2);
    retire_some(40 * KIB, 3);
    slab_epoch_enter();
    retire_some(100, 10);
    slab_epoch_poll(); /* runs no other function in the middle of this one */
    slab_epoch_leave();
    slab_epoch_poll();
    slab_cache_shrink(self->cache);
    slab_epoch_synchronize();
    drop(make_own("of a function", 88));
    if (self->later != NULL)
        slab_epoch_call(&self->later->head, do_anything);
    slab_free_deferred(self);
    end_function();
}

/* Chains of tasks: each gives the next one. */
static void give_tasks(slab_cache *cache, unsigned count)
{
    struct worker_task *first = NULL;
    for (unsigned i = 0; i < count; i++) {
        struct worker_task *task = malloc(sizeof *task);
        require(task != NULL);
        task->cache = cache;
        task->later = first;
        first = task;
    }
    slab_epoch_call(&first->head, do_anything);
}

static void functions_do_anything(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("tasks", 120);
    is_ours = true;
    park_outside(&reader);
    for (unsigned i = 1; i <= 10; i++)
        give_tasks(cache, i);
    poll_until_ran(55);
    barrier_here();
    require(ran == 55 && active(cache) == 0);
    require_nothing_waits();
    unpark(&reader);
    drop(cache);
}

static void run_by_the_worker(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("tasks", 120);
    is_ours = true;
    park_outside(&reader);
    for (unsigned i = 1; i <= 10; i++)
        give_tasks(cache, i);
    while (ran < 55)
        sleep_ms(2);
    require(ran_in_worker == 55);
    wait_until_freed();
    require(active(cache) == 0);
    unpark(&reader);
    drop(cache);
}

/* None of the other calls runs one, whoever the caller. */
static void in_no_other_call(const char *argument)
{
    (void)argument;
    unsigned next = 0, given = 0;
    slab_cache *cache = make_own("calls", 72);
    struct parked reader;
    is_ours = true;
    park_outside(&reader);
    for (unsigned i = 0; i < 300; i++) {
        give_numbered(given++, &next);
        slab_epoch_synchronize();
        use_cache(cache, 300);
        retire_some(64, 300);
        retire_some(100 * KIB, 1);
        void *object = malloc(72);
        slab_free_deferred_head(object, (slab_epoch_head *)object);
        enter_and_leave(NULL);
        slab_cache_shrink(cache);
        slab_cache_tune(cache, 1 + i % 254, 0);
        slab_purge();
        drop(make_own("dropped", 88));
        process_figures();
    }
    require(ran == 0);
    slab_epoch_enter();
    for (unsigned i = 0; i < 100; i++)
        slab_epoch_poll(); /* which runs none inside a section */
    slab_epoch_leave();
    require(ran == 0);
    barrier_here();
    require(ran == 300);
    unpark(&reader);
    drop(cache);
}

static void must_not_run(slab_epoch_head *head)
{
    (void)head;
    require(!"a function runs at exit");
}

static void dropped_at_exit(const char *argument)
{
    (void)argument;
    static slab_epoch_head head;
    slab_epoch_call(&head, must_not_run);
    retire_some(64, 10);
    exit(0);
}

/* -- the barrier ------------------------------------------------------------------------------------------------- */

static void waits_for_readers(const char *argument)
{
    (void)argument;
    unsigned next = 0;
    slab_cache *cache = make_own("awaited", 72);
    is_ours = true;
    barrier_here(); /* for nothing */
    for (unsigned round = 0; round < 8; round++) {
        struct late_leaver reader;
        start_late_leaver(&reader, 30);
        if (round % 2)
            slab_free_deferred(take(cache));
        else
            give_numbered(next, &next);
        barrier_here();
        require(__atomic_load_n(&reader.leaves, __ATOMIC_SEQ_CST));
        require(active(cache) == 0 && ran == round / 2 + 1);
        join_late_leaver(&reader);
    }
    drop(cache);
}

struct retirer {
    struct parked parked;
    slab_cache *cache;
    unsigned count, next;
};

static void retire_and_give(void *context)
{
    struct retirer *self = context;
    is_ours = true;
    for (unsigned i = 0; i < self->count; i++) {
        slab_free_deferred(take(self->cache));
        retire_some(16 + 48 * (i % 100), 1);
        if (i % 16 == 0) {
            void *object = malloc(50000);
            slab_free_deferred_head(object, (slab_epoch_head *)object);
            give_numbered(self->next, &self->next);
            barrier_here();
        }
    }
}

/* Partly filled magazines of threads that are parked, of many caches and classes. */
static void takes_from_parked_threads(const char *argument)
{
    (void)argument;
    struct retirer retirers[8];
    struct parked reader;
    is_ours = true;
    park_outside(&reader);
    memset(retirers, 0, sizeof retirers);
    for (size_t i = 0; i < COUNT(retirers); i++) {
        retirers[i].cache = make_own("parked", 72 + 16 * i);
        retirers[i].count = 5 + (unsigned)(i * 150);
        park(&retirers[i].parked, retire_and_give, retire_and_give, &retirers[i]);
    }
    barrier_here();
    require_nothing_waits();
    for (size_t i = 0; i < COUNT(retirers); i++)
        require(active(retirers[i].cache) == 0);
    for (size_t i = 0; i < COUNT(retirers); i++)
        unpark(&retirers[i].parked);
    barrier_here();
    require_nothing_waits();
    for (size_t i = 0; i < COUNT(retirers); i++)
        drop(retirers[i].cache);
    unpark(&reader);
}

/* Each one's barrier is for what it has retired itself, and what it knows that another has. */
static void *retire_with_barriers(void *unused)
{
    void *objects[400];
    unsigned next = 0;
    slab_cache *cache = make_own("mine", 72);
    is_ours = true;
    for (unsigned round = 0; round < 60; round++) {
        const unsigned count = 1 + round * 37 % COUNT(objects), given = next;
        take_all(cache, objects, count);
        retire_all(objects, count);
        give_numbered(given, &next);
        barrier_here();
        require(active(cache) == 0 && next == given + 1);
    }
    drop(cache);
    return unused;
}

static void many_at_once(const char *argument)
{
    (void)argument;
    pthread_t retirers[4];
    struct readers readers;
    is_ours = true;
    start_readers(&readers);
    for (size_t i = 0; i < COUNT(retirers); i++)
        require(pthread_create(&retirers[i], NULL, retire_with_barriers, NULL) == 0);
    for (size_t i = 0; i < COUNT(retirers); i++)
        require(pthread_join(retirers[i], NULL) == 0);
    stop_readers(&readers);
}

/* In the worker, when the thread that passed it has left it alone with the first one. */
static atomic_uint created, refused;
static slab_epoch_head creating;

static void *note_creation(void *nothing)
{
    created++;
    return nothing;
}

static void create_threads(slab_epoch_head *head)
{
    (void)head;
    pthread_t thread;
    pthread_attr_t huge;
    require(pthread_attr_init(&huge) == 0 && pthread_attr_setstacksize(&huge, (size_t)1 << 50) == 0);
    require(pthread_create(&thread, &huge, note_creation, NULL) != 0);
    require(pthread_create(&thread, NULL, note_creation, NULL) == 0 && pthread_join(thread, NULL) == 0);
    refused++;
}

static void *pass_and_end(void *nothing)
{
    slab_epoch_call(&creating, create_threads);
    return nothing;
}

static void functions_create_threads(const char *argument)
{
    (void)argument;
    pthread_t thread;
    free(malloc(100));
    require(pthread_create(&thread, NULL, pass_and_end, NULL) == 0 && pthread_join(thread, NULL) == 0);
    while (refused == 0)
        sleep_ms(2);
    require(created == 1);
}

#define NO_WORKER "SLABMALLOC_OPTIONS=worker=0"

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"in_order_and_once", in_order_and_once, NULL},
        {"in_order_of_each_thread", in_order_of_each_thread, NULL},
        {"in_order_of_each_thread_without_a_worker", in_order_of_each_thread, NO_WORKER},
        {"after_a_grace_period", after_a_grace_period, NULL},
        {"the_same_head_again", the_same_head_again, NO_WORKER},
        {"functions_do_anything", functions_do_anything, NO_WORKER},
        {"run_by_the_worker", run_by_the_worker, NULL},
        {"functions_create_threads", functions_create_threads, NULL},
        {"in_no_other_call", in_no_other_call, NO_WORKER},
        {"dropped_at_exit", dropped_at_exit, NO_WORKER},
        {"waits_for_readers", waits_for_readers, NULL},
        {"takes_from_parked_threads", takes_from_parked_threads, NULL},
        {"takes_from_parked_threads_without_a_worker", takes_from_parked_threads, NO_WORKER},
        {"many_at_once", many_at_once, NULL},
        {"many_at_once_without_a_worker", many_at_once, NO_WORKER},
    };
    return run_epoch_scenarios("epochs' calls", scenarios, COUNT(scenarios), argc, argv);
}
