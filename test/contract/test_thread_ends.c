/* Ends of threads: each call of include/slabmalloc.h and of malloc's as a thread's first, or next after a life, in
 * the last round of its key destructors, whoever made the thread.
 *
 * Written in: pthread_key_create(3p) (a destructor may set its value again, and comes again, so often),
 * timer_create(2) (SIGEV_THREAD: "as if it were the start function of a new thread"), include/slabmalloc.h ("any
 * thread"; a section ends at the latest with its thread). Stacks here are larger than what glibc keeps of them: a
 * thread's storage is unmapped when it has been joined. Beside such threads another one does whatever makes the
 * library look at all of them. */
#include "percpu.h"

#include <threads.h>

#define LARGE_STACK (48 * MIB)

/* -- what is done in the last round ------------------------------------------------------------------------------ */

static struct {
    slab_cache *own, *limited, *typesafe, *zeroed;
    slab_percpu counter;
    void *left[16]; /* for other threads to free; atomic */
} shared;

static void use_malloc(void)
{
    char *object = realloc(calloc(3, 70), 5000);
    require(object != NULL && all_zero(object, 210));
    free(object);
    free(opaque(malloc(300)));
    free(opaque(malloc(MIB)));
}

static void use_cache_of_its_own(void)
{
    void *objects[40];
    slab_cache_free(shared.own, take(shared.own));
    require(slab_cache_alloc_bulk(shared.own, COUNT(objects), objects) == COUNT(objects));
    slab_cache_free_bulk(shared.own, COUNT(objects), objects);
    slab_cache_free(shared.zeroed, take(shared.zeroed));
}

static void use_limited_cache(void)
{
    void *object = slab_cache_alloc(shared.limited); /* others may have reached the limit */
    if (object != NULL)
        slab_cache_free(shared.limited, object);
}

static void read_in_a_section(void)
{
    slab_epoch_enter();
    slab_epoch_enter();
    slab_epoch_leave();
    slab_epoch_leave();
}

static void free_deferred(void)
{
    slab_free_deferred(opaque(malloc(50)));
    slab_free_deferred(take(shared.typesafe));
    slab_free_deferred(opaque(malloc(100 * KIB)));
    slab_epoch_poll();
}

static void free_deferred_in_a_section(void)
{
    slab_epoch_enter();
    free_deferred();
    slab_epoch_leave();
}

static void exchange_objects(void)
{
    static unsigned turn;
    const unsigned at = __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED) % COUNT(shared.left);
    free(__atomic_exchange_n(&shared.left[at], malloc(40 + at * 90), __ATOMIC_ACQ_REL));
}

static void use_calls_of_handlers(void)
{
    slab_free_nolock(slab_alloc_nolock(100));
    slab_free_nolock(slab_cache_alloc_nolock(shared.own));
    slab_free_nolock(take(shared.own));
}

static void use_percpu(void)
{
    slab_percpu object = make_counter();
    slab_percpu_add_long(object, 1);
    slab_percpu_add_long(shared.counter, 1);
    slab_percpu_free(object);
}

static void ask_for_figures(void)
{
    require(process_figures().nodes > 0 && figures(shared.own).objects_per_slab > 0);
    malloc_trim(0);
}

static void (*const uses[])(void) = {
    use_malloc,        use_cache_of_its_own,  use_limited_cache,
    read_in_a_section, free_deferred,         free_deferred_in_a_section,
    exchange_objects,  use_calls_of_handlers, use_percpu,
    ask_for_figures,
};

/* -- threads that come to them ----------------------------------------------------------------------------------- */

static pthread_key_t late_key;
static unsigned last_rounds; /* atomic */

/* The value counts rounds, and has which use follows the last. It needs no memory. */
static void late_destructor(void *value)
{
    const uintptr_t round = (uintptr_t)value % 16, use = (uintptr_t)value / 16;
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        require(pthread_setspecific(late_key, (void *)(use * 16 + round + 1)) == 0);
        return;
    }
    uses[use % COUNT(uses)]();
    __atomic_add_fetch(&last_rounds, 1, __ATOMIC_RELAXED);
}

static void come_late(uintptr_t use)
{
    require(pthread_setspecific(late_key, (void *)(use * 16 + 1)) == 0);
}

/* Every other thread has had a life before. */
static void *end_late(void *use)
{
    const uintptr_t number = (uintptr_t)use;
    if (number / COUNT(uses) % 2)
        uses[number * 7 % COUNT(uses)]();
    come_late(number);
    return NULL;
}

static void prepare_ends(void)
{
    static slab_cache_attr limited, typesafe, zeroed;
    limited.limit_bytes = 4 * MIB;
    typesafe.flags = SLAB_TYPESAFE_BY_EPOCH;
    zeroed.flags = SLAB_ZERO | SLAB_NO_MERGE;
    require(pthread_key_create(&late_key, late_destructor) == 0);
    shared.own = make_own("own", 72);
    shared.limited = make_cache("limited", 200, &limited);
    shared.typesafe = make_cache("typesafe", 88, &typesafe);
    shared.zeroed = make_cache("zeroed", 104, &zeroed);
    shared.counter = make_counter();
}

typedef int create_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);

static void make_and_join(create_thread *create, unsigned count)
{
    pthread_attr_t large;
    require(pthread_attr_init(&large) == 0 && pthread_attr_setstacksize(&large, LARGE_STACK) == 0);
    for (uintptr_t made = 0; made < count; made += 3) {
        pthread_t threads[3];
        for (uintptr_t i = 0; i < COUNT(threads); i++)
            require(create(&threads[i], i > 0 ? &large : NULL, end_late, (void *)(made + i)) == 0);
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_join(threads[i], NULL) == 0);
    }
    pthread_attr_destroy(&large);
}

/* -- beside them: what looks at every thread --------------------------------------------------------------------- */

static bool looked_enough; /* atomic */
static uint64_t looks;     /* atomic */

static void *look_at_all(void *unused)
{
    while (!__atomic_load_n(&looked_enough, __ATOMIC_RELAXED)) {
        const uint64_t turn = __atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED);
        slab_cache_shrink(shared.own);
        require(slab_cache_tune(shared.limited, 1 + turn % 250, 0) == 0);
        slab_cache *shortly = make_own("shortly", 77 + turn % 3 * 16);
        slab_free_deferred(take(shortly));
        slab_cache_free(shortly, take(shortly));
        slab_epoch_synchronize();
        require(slab_cache_destroy(shortly) == 0);
        slab_free_deferred(take(shared.typesafe));
        if (turn % 8 == 0)
            slab_epoch_barrier();
    }
    return unused;
}

static void make_threads(void *create)
{
    const unsigned before = __atomic_load_n(&last_rounds, __ATOMIC_RELAXED), count = scaled(600) / 3 * 3;
    make_and_join(*(create_thread **)create, count);
    require(__atomic_load_n(&last_rounds, __ATOMIC_RELAXED) == before + count);
}

/* All of it, while another thread looks; and what the process has does not grow. */
static void end_beside_looks(create_thread *create)
{
    pthread_t looking;
    do_without_huge_pages();
    prepare_ends();
    require(pthread_create(&looking, NULL, look_at_all, NULL) == 0);
    make_threads(&create);
    const size_t size = status_number("VmSize:");
    require_no_growth(make_threads, &create, 400);
    require(status_number("VmSize:") <
            size + 64 * KIB); /* less than a stack of each size, and a tenth of a block each */
    __atomic_store_n(&looked_enough, true, __ATOMIC_RELAXED);
    require(pthread_join(looking, NULL) == 0);
    require(looks > 0);
    slab_epoch_barrier();
    for (size_t i = 0; i < COUNT(shared.left); i++)
        free(shared.left[i]);
    require(active(shared.own) == 0 && active(shared.limited) == 0 && active(shared.typesafe) == 0);
    require(process_figures().deferred_objects == 0 && process_figures().deferred_unfreed == 0);
}

static void the_last_round(const char *argument)
{
    (void)argument;
    end_beside_looks(pthread_create);
}

/* As some find it: in libc, behind whatever stands in front of it. */
static void the_last_round_behind_the_librarys_back(const char *argument)
{
    (void)argument;
    create_thread *create;
    *(void **)&create = dlsym(dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD), "pthread_create");
    require(create != NULL);
    end_beside_looks(create);
}

static int end_late_as_in_c11(void *use)
{
    end_late(use);
    return -3;
}

static int create_as_in_c11(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    (void)attributes;
    (void)run;
    return thrd_create(thread, end_late_as_in_c11, argument) == thrd_success ? 0 : EAGAIN;
}

static void the_last_round_of_c11_threads(const char *argument)
{
    (void)argument;
    end_beside_looks(create_as_in_c11);
}

/* -- threads of libc's own --------------------------------------------------------------------------------------- */

static sem_t expired;

static void on_expiry(union sigval use)
{
    end_late(use.sival_ptr);
    require(sem_post(&expired) == 0);
}

/* Each expiry is a thread, which libc makes itself. */
static int expire(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    struct sigevent event;
    struct itimerspec soon = {{0, 0}, {0, 1}};
    timer_t timer;
    (void)run;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = on_expiry;
    event.sigev_notify_attributes = (pthread_attr_t *)attributes;
    event.sigev_value.sival_ptr = argument;
    require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    while (sem_wait(&expired) != 0)
        require(errno == EINTR);
    require(timer_delete(timer) == 0);
    *thread = 0;
    return 0;
}

static void timers_threads(const char *argument)
{
    (void)argument;
    const unsigned count = scaled(1000);
    pthread_t looking, none;
    prepare_ends();
    require(sem_init(&expired, 0, 0) == 0);
    for (uintptr_t i = 0; i < count; i++) {
        if (i == count / 2) /* until then libc's threads are all there are beside this one */
            require(pthread_create(&looking, NULL, look_at_all, NULL) == 0);
        expire(&none, NULL, NULL, (void *)i);
    }
    while (__atomic_load_n(&last_rounds, __ATOMIC_RELAXED) < count)
        sleep_ms(1);
    __atomic_store_n(&looked_enough, true, __ATOMIC_RELAXED);
    require(pthread_join(looking, NULL) == 0);
}

/* -- births in last rounds --------------------------------------------------------------------------------------- */

static unsigned descendants; /* atomic */
static pthread_key_t heir_key;

static void *beget(void *generations);

static void heir_destructor(void *value)
{
    const uintptr_t round = (uintptr_t)value % 16, generations = (uintptr_t)value / 16;
    pthread_t heir;
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        require(pthread_setspecific(heir_key, (void *)(generations * 16 + round + 1)) == 0);
    } else if (generations > 0) {
        require(pthread_create(&heir, NULL, beget, (void *)(generations - 1)) == 0);
        require(pthread_detach(heir) == 0);
    }
}

static void *beget(void *generations)
{
    require(pthread_setspecific(heir_key, (void *)((uintptr_t)generations * 16 + 1)) == 0);
    if ((uintptr_t)generations % 2)
        use_malloc();
    __atomic_add_fetch(&descendants, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void threads_born_in_last_rounds(const char *argument)
{
    (void)argument;
    const uintptr_t generations = scaled(300);
    prepare_ends();
    require(pthread_key_create(&heir_key, heir_destructor) == 0);
    beget((void *)generations);
    heir_destructor((void *)(generations * 16 + PTHREAD_DESTRUCTOR_ITERATIONS));
    while (__atomic_load_n(&descendants, __ATOMIC_RELAXED) <= generations) {
        slab_cache_shrink(shared.own);
        sleep_ms(1);
    }
}

/* -- children of last rounds ------------------------------------------------------------------------------------- */

static pthread_key_t fork_key;

static void live_on_as_child(void)
{
    require(pthread_key_delete(fork_key) == 0);
    for (size_t i = 0; i < COUNT(uses); i++)
        uses[i]();
    make_and_join(pthread_create, 30);
    exit(0); /* with its handlers, in the middle of a destructor */
}

static void fork_destructor(void *value)
{
    const uintptr_t round = (uintptr_t)value;
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        require(pthread_setspecific(fork_key, (void *)(round + 1)) == 0);
        return;
    }
    const pid_t child = fork();
    int status;
    if (child == 0)
        live_on_as_child();
    require(waitpid(child, &status, 0) == child && ended_well(status));
}

static void *fork_late(void *lives)
{
    if (lives != NULL)
        use_malloc();
    require(pthread_setspecific(fork_key, (void *)1) == 0);
    return NULL;
}

static void children_of_last_rounds(const char *argument)
{
    (void)argument;
    prepare_ends();
    require(pthread_key_create(&fork_key, fork_destructor) == 0);
    for (uintptr_t i = 0; i < 6; i++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, fork_late, (void *)(i % 2)) == 0);
        require(pthread_join(thread, NULL) == 0);
    }
}

/* -- sections that nobody leaves --------------------------------------------------------------------------------- */

static void *end_inside(void *unused)
{
    slab_epoch_enter();
    return unused;
}

static void end_inside_timer(union sigval unused)
{
    (void)unused;
    slab_epoch_enter();
    require(sem_post(&expired) == 0);
}

/* A section ends with its thread, also where libc has made the thread. */
static void sections_end_with_their_threads(const char *argument)
{
    (void)argument;
    struct sigevent event;
    struct itimerspec soon = {{0, 0}, {0, 1}};
    timer_t timer;
    pthread_t thread;
    for (unsigned i = 0; i < 10; i++) {
        require(pthread_create(&thread, NULL, end_inside, NULL) == 0 && pthread_join(thread, NULL) == 0);
        slab_epoch_synchronize();
    }
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = end_inside_timer;
    require(sem_init(&expired, 0, 0) == 0);
    require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    while (sem_wait(&expired) != 0)
        require(errno == EINTR);
    slab_epoch_synchronize();
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"the-last-round", the_last_round},
        {"the-last-round-behind-the-librarys-back", the_last_round_behind_the_librarys_back},
        {"the-last-round-of-c11-threads", the_last_round_of_c11_threads},
        {"timers-threads", timers_threads},
        {"threads-born-in-last-rounds", threads_born_in_last_rounds},
        {"children-of-last-rounds", children_of_last_rounds},
        {"sections-end-with-their-threads", sections_end_with_their_threads},
    };
    return run_scenarios("thread ends", scenarios, COUNT(scenarios), argc, argv);
}
