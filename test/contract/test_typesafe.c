/* Epoch sections, and what SLAB_TYPESAFE_BY_EPOCH makes of them: a vacant slab stays, its objects readable and of
 * their type, while a section is open that was open when it became vacant; and goes afterwards. Sections may be
 * entered in any thread at any time of its life. */
#include "caches.h"

enum { COUNT_OF_THINGS = 3000, TYPE = 0x7e57 };

struct thing {
    uint64_t type, generation; /* as the constructor left them; each free raises the generation */
    char load[152];
};

static void construct(void *object, void *context)
{
    struct thing *thing = (struct thing *)object;
    (void)context;
    thing->type = TYPE;
    thing->generation = 1;
}

static _Atomic uint64_t destructed;

static void destruct(void *object, void *context)
{
    struct thing *thing = (struct thing *)object;
    (void)context;
    require(thing->type == TYPE);
    thing->type = 0;
    destructed++;
}

static slab_cache *make_typesafe(void)
{
    const slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH, .ctor = construct, .dtor = destruct};
    return make_cache("things", sizeof(struct thing), &attr);
}

static struct thing *things[COUNT_OF_THINGS];

/* Take and free so many that slabs become vacant. Returns how many slabs there were. */
static uint64_t use_things(slab_cache *cache)
{
    for (size_t i = 0; i < COUNT_OF_THINGS; i++) {
        things[i] = (struct thing *)take(cache);
        require(things[i]->type == TYPE && things[i]->generation > 0);
        memset(things[i]->load, (int)i, sizeof things[i]->load);
    }
    const uint64_t slabs = figures(cache).slabs;
    for (size_t i = 0; i < COUNT_OF_THINGS; i++) {
        things[i]->generation++;
        slab_cache_free(cache, things[i]);
    }
    require(slabs >= 2);
    return slabs;
}

/* What can be given back is, for a while: other things than an open section must not be what keeps it. */
static uint64_t slabs_left(slab_cache *cache)
{
    for (unsigned i = 0; i < 15; i++) {
        slab_cache_shrink(cache);
        sleep_ms(2);
    }
    slab_purge();
    return figures(cache).slabs;
}

/* Returns when nothing is left, as it must come where no section is open that keeps it. */
static void await_no_slabs(slab_cache *cache)
{
    for (; figures(cache).slabs > 0; sleep_ms(1))
        slab_cache_shrink(cache);
}

static void require_things_are_there(void)
{
    for (size_t i = 0; i < COUNT_OF_THINGS; i++) {
        require(things[i]->type == TYPE && things[i]->generation > 1);
        require(things[i]->load[0] == (char)i && things[i]->load[sizeof things[i]->load - 1] == (char)i);
    }
}

/* -- slabs ------------------------------------------------------------------------------------------------------- */

static void without_sections(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_typesafe();
    use_things(cache);
    const uint64_t slabs = figures(cache).slabs;
    require(slab_cache_shrink(cache) == slabs * figures(cache).bytes_per_slab);
    require(figures(cache).slabs == 0 && destructed >= COUNT_OF_THINGS);
    require(destructed % figures(cache).objects_per_slab == 0);
    slab_epoch_synchronize();
    require(process_figures().membarriers == 0); /* one thread, of whom none has ever entered a section */
    drop(cache);
}

static void own_section(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_typesafe();
    slab_epoch_enter();
    const uint64_t slabs = use_things(cache);
    require(slabs_left(cache) == slabs && destructed == 0);
    require_things_are_there();
    slab_epoch_enter();
    slab_epoch_leave(); /* an inner one */
    require(slabs_left(cache) == slabs && destructed == 0);
    require_things_are_there();
    slab_epoch_leave();
    await_no_slabs(cache);
    require(destructed >= COUNT_OF_THINGS);
    drop(cache);
}

static void enter_section(void *context)
{
    (void)context;
    slab_epoch_enter();
}

static void leave_section(void *context)
{
    (void)context;
    slab_epoch_leave();
}

static void section_of_another(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_typesafe();
    park(&reader, enter_section, leave_section, NULL);
    const uint64_t slabs = use_things(cache);
    require(slabs_left(cache) == slabs && destructed == 0);
    require_things_are_there();
    unpark(&reader);
    slab_epoch_synchronize();
    await_no_slabs(cache);
    while (destructed < COUNT_OF_THINGS) /* the library's worker may be at it */
        sleep_ms(1);
    drop(cache);
}

/* A thread that has been inside, and one that gets in after the slabs' grace period has passed, hold nothing up. */
static void sections_at_other_times(const char *argument)
{
    (void)argument;
    struct parked before, after;
    slab_cache *cache = make_typesafe();
    park(&before, enter_section, NULL, NULL);
    unpark(&before); /* its end ends the section */
    use_things(cache);
    slab_cache_shrink(cache);
    slab_epoch_synchronize();
    park(&after, enter_section, leave_section, NULL);
    await_no_slabs(cache);
    unpark(&after);
    drop(cache);
}

/* Other caches' slabs do not wait. */
static void plain_caches(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("plain", 168);
    slab_epoch_enter();
    use_cache(cache, COUNT_OF_THINGS);
    require(figures(cache).slabs > 0);
    slab_cache_shrink(cache);
    require(figures(cache).slabs == 0);
    slab_epoch_leave();
    drop(cache);
}

/* -- threads, handlers, children --------------------------------------------------------------------------------- */

static void enter_and_leave(void *context)
{
    (void)context;
    for (unsigned i = 0; i < 100; i++) {
        slab_epoch_enter();
        slab_epoch_enter();
        slab_epoch_leave();
        slab_epoch_leave();
    }
}

static void threads_come_and_go(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_typesafe();
    slab_epoch_enter();
    slab_epoch_leave();
    for (unsigned i = 0; i < 300; i++) {
        run_thread(i % 3 ? enter_and_leave : enter_section, NULL);
        if (i % 10 == 0)
            slab_epoch_synchronize();
    }
    use_things(cache);
    await_no_slabs(cache);
    drop(cache);
}

static pthread_key_t late;
static _Atomic unsigned late_sections;

/* Runs in each round of destructors, the last one included, before or after the library's own. */
static void enter_late(void *value)
{
    enter_and_leave(NULL);
    free(malloc(100));
    enter_and_leave(NULL);
    late_sections++;
    require(pthread_setspecific(late, value) == 0);
}

static void start_late(void *context)
{
    require(pthread_setspecific(late, context) == 0);
}

static void destructors_enter_sections(const char *argument)
{
    (void)argument;
    int value;
    require(pthread_key_create(&late, enter_late) == 0);
    for (unsigned i = 0; i < 100; i++) {
        run_thread(start_late, &value);
        slab_epoch_synchronize();
    }
    require(late_sections >= 400);
}

static slab_cache *of_handler;
static struct thing *_Atomic shown;
static _Atomic unsigned handled;
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
    const struct thing *thing = shown;
    require(thing == NULL || thing->type == TYPE);
    slab_epoch_leave();
    if (++handled < handled_in_all)
        arm(); /* not before: whatever a handler takes, the thread goes on behind it */
}

/* Interrupts everything that the thread does: sections, allocations, waiting for grace periods. */
static void handlers_enter_sections(const char *argument)
{
    (void)argument;
    struct sigaction action = {.sa_handler = read_in_handler};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    of_handler = make_typesafe();
    require(sigaction(SIGUSR1, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &next_signal) == 0);
    handled_in_all = scaled(2000);
    arm();
    while (handled < handled_in_all) {
        for (size_t i = 0; i < COUNT_OF_THINGS; i++) {
            things[i] = (struct thing *)take(of_handler);
            shown = things[i];
        }
        for (size_t i = 0; i < COUNT_OF_THINGS; i++) {
            shown = things[(i + 1) % COUNT_OF_THINGS];
            slab_epoch_enter();
            slab_cache_free(of_handler, things[i]);
            slab_epoch_leave();
        }
        shown = NULL;
        slab_cache_shrink(of_handler);
        slab_epoch_synchronize();
        slab_cache_shrink(of_handler);
        require(figures(of_handler).slabs == 0);
    }
    require(timer_delete(next_signal) == 0);
}

static void be_child(slab_cache *cache, uint64_t slabs)
{
    require(slabs_left(cache) == slabs); /* our section goes on */
    slab_epoch_leave();
    await_no_slabs(cache); /* the lost thread's does not */
    struct parked reader;
    park(&reader, enter_section, leave_section, NULL);
    slabs = use_things(cache);
    require(slabs_left(cache) == slabs);
    unpark(&reader);
    await_no_slabs(cache);
    _exit(0);
}

static void children_of_fork(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_typesafe();
    park(&reader, enter_section, leave_section, NULL);
    slab_epoch_enter();
    const uint64_t slabs = use_things(cache);
    const pid_t child = fork();
    if (child == 0)
        be_child(cache, slabs);
    require(ended_well(wait_for(child)));
    slab_epoch_leave();
    require(slabs_left(cache) == slabs); /* nothing has happened here */
    unpark(&reader);
    await_no_slabs(cache);
}

static void shrink_for_another(void *context)
{
    slab_cache *cache = (slab_cache *)context;
    require(slabs_left(cache) > 0);
    require_things_are_there();
}

static void do_nothing(void *context)
{
    (void)context;
}

/* The thread that forks is inside, and another one is the first that has anything to do with the library in the
 * child: libc has a stack at hand. */
static void thread_of_a_child(const char *argument)
{
    (void)argument;
    struct parked looker;
    slab_cache *cache = make_typesafe();
    run_thread(do_nothing, NULL);
    slab_epoch_enter();
    use_things(cache);
    const pid_t child = fork();
    if (child == 0) {
        park(&looker, shrink_for_another, NULL, cache);
        unpark(&looker);
        slab_epoch_leave();
        await_no_slabs(cache);
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    slab_epoch_leave();
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"without_sections", without_sections},
        {"own_section", own_section},
        {"section_of_another", section_of_another},
        {"sections_at_other_times", sections_at_other_times},
        {"plain_caches", plain_caches},
        {"threads_come_and_go", threads_come_and_go},
        {"destructors_enter_sections", destructors_enter_sections},
        {"handlers_enter_sections", handlers_enter_sections},
        {"children_of_fork", children_of_fork},
        {"thread_of_a_child", thread_of_a_child},
    };
    return run_scenarios("typesafe", scenarios, COUNT(scenarios), argc, argv);
}
