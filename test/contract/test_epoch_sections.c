/* Read sections, by whichever way they are entered, and slab_epoch_poll, which helps time along and waits for nobody.
 * (What sections keep of type-safe caches is test_typesafe's.) */
#include "epochs.h"

#include <stdatomic.h>

/* -- the poll ---------------------------------------------------------------------------------------------------- */

static void poll_waits_for_nobody(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("polled", 72);
    watchdog("slab_epoch_poll waits for a reader");
    park_inside(&reader);
    for (unsigned i = 0; i < 20000; i++) {
        slab_free_deferred(take(cache));
        slab_epoch_poll();
    }
    require(active(cache) == 20000);
    slab_epoch_enter();
    for (unsigned i = 0; i < 20000; i++)
        slab_epoch_poll();
    slab_epoch_leave();
    require(active(cache) == 20000);
    unpark(&reader);
    poll_until_freed();
    require(active(cache) == 0);
    drop(cache);
}

/* True only as a grace period ends, which takes no more than polls; and none does while a reader stays. */
static void poll_tells_of_grace_periods(const char *argument)
{
    (void)argument;
    struct parked reader;
    require(!slab_epoch_poll());
    park_outside(&reader);
    for (unsigned round = 0; round < 20; round++) {
        const uint64_t before = process_figures().grace_periods;
        do {
            retire_some(64, 1);
            sleep_ms(1);
        } while (!slab_epoch_poll());
        require(process_figures().grace_periods > before);
    }
    unpark(&reader);
    park_inside(&reader);
    retire_some(64, 3000);
    for (unsigned i = 0; i < 20; i++) { /* what can end */
        slab_epoch_poll();
        sleep_ms(3);
    }
    for (unsigned i = 0; i < 500; i++) {
        require(!slab_epoch_poll());
        sleep_ms(i % 10 == 0);
    }
    unpark(&reader);
}

/* -- sections ---------------------------------------------------------------------------------------------------- */

static void (*volatile enter_by_pointer)(void) = slab_epoch_enter;
static void (*volatile leave_by_pointer)(void) = slab_epoch_leave;

/* Sections nest, whichever way they are entered and left; the outermost end is the end. */
static void nested_sections(const char *argument)
{
    (void)argument;
    enum { DEEPEST = 16383 };
    void (*enter_by_name)(void), (*leave_by_name)(void);
    slab_cache *cache = make_own("nested", 72);
    *(void **)&enter_by_name = dlsym(RTLD_DEFAULT, "slab_epoch_enter");
    *(void **)&leave_by_name = dlsym(RTLD_DEFAULT, "slab_epoch_leave");
    require(enter_by_name != NULL && leave_by_name != NULL);
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned depth = 0; depth < DEEPEST; depth++)
            ((depth + round) % 3 == 0 ? slab_epoch_enter() : (depth % 3 == 1 ? enter_by_pointer : enter_by_name)());
        slab_free_deferred(take(cache));
        for (unsigned depth = 1; depth < DEEPEST; depth++)
            ((depth + round) % 3 == 0 ? slab_epoch_leave() : (depth % 3 == 1 ? leave_by_pointer : leave_by_name)());
        for (unsigned i = 0; i < 100; i++)
            slab_epoch_poll();
        require(active(cache) == 1);
        leave_by_pointer();
        slab_epoch_barrier();
        require(active(cache) == 0);
    }
    drop(cache);
}

enum { SHOWN_SIZE = 120 };

static char *_Atomic shown;
static atomic_uint handled;
static unsigned handled_in_all;
static timer_t next_signal;

static void arm(void)
{
    const struct itimerspec soon = {{0, 0}, {0, 100000}};
    require(timer_settime(next_signal, 0, &soon, NULL) == 0);
}

static void read_in_handler(int signal_number)
{
    (void)signal_number;
    slab_epoch_enter();
    enter_by_pointer();
    const char *found = shown;
    require(found == NULL || pattern_holds(found, SHOWN_SIZE, 5));
    slab_epoch_leave();
    leave_by_pointer();
    if (++handled < handled_in_all)
        arm(); /* not before: whatever a handler takes, the thread goes on behind it */
}

static char *make_shown(void)
{
    char *object = malloc(SHOWN_SIZE);
    require(object != NULL);
    pattern_fill(object, SHOWN_SIZE, 5);
    return object;
}

/* Handlers interrupt everything that the thread does: sections, retiring, polling, barriers. What they find is whole;
 * what others would get in its place is not. */
static void sections_in_handlers(const char *argument)
{
    (void)argument;
    struct sigaction action = {.sa_handler = read_in_handler};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct parked reader;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    require(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
    park_outside(&reader);
    enter_and_leave(NULL);
    require(pthread_sigmask(SIG_UNBLOCK, &blocked, NULL) == 0);
    require(sigaction(SIGUSR1, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &next_signal) == 0);
    handled_in_all = scaled(3000);
    arm();
    while (handled < handled_in_all) {
        for (unsigned i = 0; i < 1000; i++) {
            char *object = malloc(SHOWN_SIZE);
            memset(object, (int)i, SHOWN_SIZE);
            slab_free_deferred(atomic_exchange(&shown, make_shown()));
            enter_and_leave(NULL);
            slab_epoch_poll();
            free(object);
        }
        slab_epoch_barrier();
    }
    require(timer_delete(next_signal) == 0);
    unpark(&reader);
}

#define NO_WORKER "SLABMALLOC_OPTIONS=worker=0"

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"poll_waits_for_nobody", poll_waits_for_nobody, NULL},
        {"poll_waits_for_nobody_without_a_worker", poll_waits_for_nobody, NO_WORKER},
        {"poll_tells_of_grace_periods", poll_tells_of_grace_periods, NO_WORKER},
        {"nested_sections", nested_sections, NULL},
        {"sections_in_handlers", sections_in_handlers, NULL},
    };
    return run_epoch_scenarios("epochs' sections and polls", scenarios, COUNT(scenarios), argc, argv);
}
