/* fork while objects and functions wait for a grace period: in the child none of them waits for a thread that it
 * does not have. What the forking thread itself had retired, and the functions that it had given, are as they were
 * in both processes, each of which frees and calls them once, and never twice; what other threads had retired is
 * freed in both, too. Lost to a child is what another thread had in its hands. The forking thread's own section
 * goes on in both.
 *
 * Children may do anything, in atfork handlers as well, and when they come from a signal handler that forked in
 * the middle of a call, or from a function of slab_epoch_call. */
#include "epochs.h"

enum { OBJECTS = 1000, SIZE = 72, LARGE = 10, FUNCTIONS = 50 };

static slab_cache *cache;
static void *objects[OBJECTS], *large[LARGE];
static unsigned ran;
static slab_epoch_head heads[FUNCTIONS];

static void count_call(slab_epoch_head *head)
{
    require(head == &heads[ran++]);
}

/* A bit of everything, by this thread. */
static void retire_everything(void)
{
    take_all(cache, objects, OBJECTS);
    for (size_t i = 0; i < OBJECTS; i++) {
        pattern_fill(objects[i], SIZE, (unsigned)i);
        slab_free_deferred(objects[i]);
    }
    retire_some(500, 300);
    for (size_t i = 0; i < LARGE; i++) {
        require((large[i] = malloc(100 * KIB)) != NULL);
        pattern_fill(large[i], 100 * KIB, (unsigned)i);
        slab_free_deferred(large[i]);
    }
    for (size_t i = 0; i < FUNCTIONS; i++)
        slab_epoch_call(&heads[i], count_call);
}

static void require_all_waits(void)
{
    for (size_t i = 0; i < OBJECTS; i++)
        require(pattern_holds(objects[i], SIZE, (unsigned)i));
    for (size_t i = 0; i < LARGE; i++)
        require(pattern_holds(large[i], 100 * KIB, (unsigned)i));
    require(active(cache) == OBJECTS && ran == 0);
}

static void require_all_is_done(void)
{
    require(active(cache) == 0 && ran == FUNCTIONS);
}

/* What is found to work in a process that has been forked, whatever it was before. The caches are its own: what was
 * lost of others' is lost. */
static void live_a_little(unsigned number)
{
    struct parked reader, retirer;
    slab_cache *own = make_own("child's", 88);
    void *mine[200];
    churn(number, 200);
    park_inside(&reader);
    take_all(own, mine, COUNT(mine));
    retire_all(mine, COUNT(mine));
    require(active(own) == COUNT(mine));
    unpark(&reader);
    park(&retirer, enter_and_leave, enter_and_leave, NULL);
    retire_some(64, 100);
    slab_epoch_barrier();
    require(active(own) == 0);
    unpark(&retirer);
    drop(own);
}

static void end_child(void)
{
    _exit(0);
}

static pid_t fork_child(const char *what)
{
    const pid_t child = fork();
    require(child >= 0);
    if (child == 0)
        watchdog(what);
    return child;
}

static void await_child(pid_t child)
{
    const int status = wait_for(child);
    explain_status("child", status);
    require(ended_well(status));
}

/* -- a quiet process --------------------------------------------------------------------------------------------- */

static void retire_in_a_thread(void *context)
{
    (void)context;
    retire_some(88, 300);
    retire_some(100 * KIB, 3);
    slab_epoch_enter();
    slab_epoch_leave();
}

static void readers_are_lost(const char *argument)
{
    (void)argument;
    struct parked reader, retirer;
    cache = make_own("inherited", SIZE);
    park_inside(&reader);
    park(&retirer, retire_in_a_thread, retire_in_a_thread, NULL);
    retire_everything();
    const pid_t child = fork_child("a child waits for a reader that it does not have");
    if (child == 0) {
        slab_epoch_synchronize();
        slab_epoch_barrier();
        require_all_is_done();
        live_a_little(1);
        drop(cache);
        end_child();
    }
    await_child(child);
    require_all_waits(); /* nothing has happened here */
    unpark(&retirer);
    unpark(&reader);
    slab_epoch_barrier();
    require_all_is_done();
    require_nothing_waits();
    drop(cache);
}

/* By polls alone, and by the child's own worker. */
static void a_child_goes_on_by_itself(const char *argument)
{
    (void)argument;
    struct parked reader, other;
    cache = make_own("inherited", SIZE);
    park_inside(&reader);
    retire_everything();
    for (unsigned i = 0; i < 2; i++) {
        const pid_t child = fork_child("what a child has inherited is never freed");
        if (child == 0) {
            if (i == 1)
                park_outside(&other);
            for (; active(cache) > 0 || ran < FUNCTIONS; sleep_ms(1))
                if (i == 0)
                    slab_epoch_poll();
            require_all_is_done();
            end_child();
        }
        await_child(child);
    }
    require_all_waits();
    unpark(&reader);
    slab_epoch_barrier();
    require_all_is_done();
}

static void the_own_section_goes_on(const char *argument)
{
    (void)argument;
    struct parked reader;
    cache = make_own("inherited", SIZE);
    park_inside(&reader);
    slab_epoch_enter();
    slab_epoch_enter();
    retire_everything();
    const pid_t child = fork_child("a child's own section never ends");
    if (child == 0) {
        retire_some(100, 500);
        for (unsigned i = 0; i < 100; i++, sleep_ms(1))
            slab_epoch_poll();
        slab_epoch_leave();
        slab_epoch_poll();
        require_all_waits();
        slab_epoch_leave();
        slab_epoch_barrier();
        require_all_is_done();
        require_nothing_waits();
        live_a_little(2);
        drop(cache);
        end_child();
    }
    await_child(child);
    unpark(&reader);
    require_all_waits();
    slab_epoch_leave();
    slab_epoch_leave();
    slab_epoch_barrier();
    require_all_is_done();
    require_nothing_waits();
}

static void generations(const char *argument)
{
    (void)argument;
    struct parked reader;
    for (unsigned generation = 0; generation < 20; generation++) {
        cache = make_own("of a generation", SIZE);
        ran = 0;
        park_inside(&reader);
        retire_everything();
        const pid_t child = fork_child("a generation hangs");
        if (child > 0) {
            await_child(child);
            unpark(&reader);
        }
        slab_epoch_barrier();
        require_all_is_done();
        drop(cache);
        if (child > 0)
            exit(0);
    }
}

/* -- a busy process ---------------------------------------------------------------------------------------------- */

static bool over;

static bool is_over(void)
{
    return __atomic_load_n(&over, __ATOMIC_RELAXED);
}

static void free_itself(slab_epoch_head *head)
{
    free(head);
}

static void retire_round(unsigned round)
{
    retire_some(16 + 56 * (round % 50), 200);
    retire_some(100 * KIB, 1);
    for (unsigned i = 0; i < 20; i++) {
        slab_epoch_head *head = malloc(64);
        require(head != NULL);
        if (i % 2)
            slab_epoch_call(head, free_itself);
        else
            slab_free_deferred_head(head, head);
    }
    if (round % 4 == 0)
        slab_epoch_poll();
}

static void *retire_all_the_time(void *unused)
{
    become_background();
    for (unsigned round = 0; !is_over(); round++) {
        retire_round(round);
        if (round % 64 == 0)
            slab_epoch_barrier();
    }
    return unused;
}

static void live_as_busy_child(unsigned number)
{
    retire_round(number);
    slab_epoch_barrier();
    live_a_little(number);
    if (number % 8 == 0) {
        const pid_t grandchild = fork_child("a grandchild hangs");
        if (grandchild == 0) {
            live_a_little(number);
            end_child();
        }
        await_child(grandchild);
    }
    end_child();
}

static void *fork_many(void *count)
{
    for (unsigned number = 0; number < *(unsigned *)count; number++) {
        const bool inside = number % 3 == 0;
        retire_round(number + 1);
        if (inside)
            slab_epoch_enter();
        const pid_t child = fork_child("a child of a busy process hangs");
        if (inside)
            slab_epoch_leave();
        if (child == 0)
            live_as_busy_child(number);
        await_child(child);
    }
    return NULL;
}

static void a_busy_process(const char *argument)
{
    (void)argument;
    unsigned count = scaled(40);
    pthread_t retirers[2], forker;
    struct readers readers;
    watchdog("forks of a busy process hang");
    for (size_t i = 0; i < COUNT(retirers); i++)
        require(pthread_create(&retirers[i], NULL, retire_all_the_time, NULL) == 0);
    start_readers(&readers);
    require(pthread_create(&forker, NULL, fork_many, &count) == 0);
    fork_many(&count);
    require(pthread_join(forker, NULL) == 0);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    for (size_t i = 0; i < COUNT(retirers); i++)
        require(pthread_join(retirers[i], NULL) == 0);
    stop_readers(&readers);
    slab_epoch_barrier();
    require_nothing_waits();
}

/* -- handlers ---------------------------------------------------------------------------------------------------- */

static unsigned handlers_ran;

static void prepare_fork(void)
{
    retire_round(1);
    slab_epoch_enter();
    retire_round(2);
    handlers_ran++;
}

static void after_fork(void)
{
    retire_round(2);
    slab_epoch_leave();
    slab_epoch_barrier();
    handlers_ran++;
}

/* Handlers of the program's own that enter a section before the fork, and leave it behind it. */
static void atfork_handlers(const char *argument)
{
    (void)argument;
    pthread_t retirer;
    struct readers readers;
    watchdog("atfork handlers that retire hang");
    require(pthread_atfork(prepare_fork, after_fork, after_fork) == 0);
    require(pthread_create(&retirer, NULL, retire_all_the_time, NULL) == 0);
    start_readers(&readers);
    for (unsigned number = 0; number < scaled(30); number++) {
        const pid_t child = fork_child("a child hangs in an atfork handler");
        require(handlers_ran == 2 * number + 2);
        if (child == 0) {
            retire_round(number);
            slab_epoch_barrier();
            end_child();
        }
        await_child(child);
    }
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    require(pthread_join(retirer, NULL) == 0);
    stop_readers(&readers);
}

static timer_t timer;
static volatile bool in_child;
static volatile unsigned handler_forks;
static unsigned handler_forks_in_all;

static void arm(unsigned long microseconds)
{
    const struct itimerspec once = {{0, 0}, {0, (long)microseconds * 1000}};
    require(timer_settime(timer, 0, &once, NULL) == 0);
}

static void fork_in_handler(int signal_number)
{
    const int saved = errno;
    (void)signal_number;
    const pid_t child = fork_child("the child of a handler that forked while its thread was retiring hangs");
    if (child == 0) {
        in_child = true; /* timers are not inherited */
    } else {
        await_child(child);
        handler_forks = handler_forks + 1;
        if (handler_forks < handler_forks_in_all)
            arm(20 + handler_forks * 37 % 400);
    }
    errno = saved;
}

/* The handler interrupts any part of retiring, polling, waiting; its child returns from it, and goes on there. */
static void a_handler_forks(const char *argument)
{
    (void)argument;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    struct sigaction action = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    struct parked reader;
    park_outside(&reader);
    enter_and_leave(NULL);
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    require(sigaction(SIGUSR1, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    handler_forks_in_all = scaled(200);
    arm(100);
    for (unsigned round = 0; handler_forks < handler_forks_in_all; round++) {
        retire_round(round);
        slab_epoch_enter();
        retire_round(round + 2);
        slab_epoch_leave();
        if (round % 16 == 0)
            slab_epoch_barrier();
        if (in_child) {
            slab_epoch_barrier();
            retire_some(64, 1000);
            slab_epoch_barrier();
            end_child();
        }
    }
    require(timer_delete(timer) == 0);
    unpark(&reader);
    slab_epoch_barrier();
    require_nothing_waits();
}

/* -- functions --------------------------------------------------------------------------------------------------- */

static pid_t child_of_function;

static void fork_in_function(slab_epoch_head *head)
{
    (void)head;
    child_of_function = fork_child("the child of a function that forked hangs");
    retire_some(64, 100);
}

/* The rest of the functions run in both processes. */
static void a_function_forks(const char *argument)
{
    (void)argument;
    slab_epoch_head first;
    struct parked reader;
    cache = make_own("inherited", SIZE);
    park_inside(&reader);
    slab_epoch_call(&first, fork_in_function);
    retire_everything();
    unpark(&reader);
    slab_epoch_barrier();
    require_all_is_done();
    if (child_of_function == 0) {
        live_a_little(3);
        drop(cache);
        end_child();
    }
    await_child(child_of_function);
    drop(cache);
}

#define NO_WORKER "SLABMALLOC_OPTIONS=worker=0"

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"readers_are_lost", readers_are_lost, NULL},
        {"readers_are_lost_without_a_worker", readers_are_lost, NO_WORKER},
        {"a_child_goes_on_by_itself", a_child_goes_on_by_itself, NULL},
        {"the_own_section_goes_on", the_own_section_goes_on, NULL},
        {"generations", generations, NULL},
        {"a_busy_process", a_busy_process, NULL},
        {"a_busy_process_without_a_worker", a_busy_process, NO_WORKER},
        {"atfork_handlers", atfork_handlers, NULL},
        {"a_handler_forks", a_handler_forks, NULL},
        {"a_function_forks", a_function_forks, NO_WORKER},
    };
    return run_epoch_scenarios("deferred free and fork", scenarios, COUNT(scenarios), argc, argv);
}
