/* When retired objects are freed that nobody holds up: what has been left in partly filled magazines goes when it has
 * stood for deferred_max_delay_ms, by the worker or by some thread's slab_epoch_poll; at once when its thread ends;
 * and slab_cache_destroy waits for it.
 *
 * In each scenario a thread stands by that has been inside a section, or else retiring would free at once. None looks
 * at a clock: what is freed late, or never, is a hang. */
#include "epochs.h"

enum { FEW = 7, MANY = 2000 };

#define NO_WORKER "SLABMALLOC_OPTIONS=worker=0"
#define NO_STALLS_TOLD "SLABMALLOC_OPTIONS=epoch_stall_ms=0" /* where it is checked what is said */
#define AN_HOUR "SLABMALLOC_OPTIONS=deferred_max_delay_ms=3600000"

/* -- the delay --------------------------------------------------------------------------------------------------- */

/* Small, of a cache, large; some that fill no magazine, some that fill many. At least MANY of the cache. */
static void retire_variously(slab_cache *cache)
{
    for (size_t count = FEW; count / 20 < MANY; count *= 20) {
        retire_some(64, count);
        retire_some(3000, count);
        for (size_t i = 0; i < count; i++)
            slab_free_deferred(take(cache));
    }
    retire_some(100 * KIB, FEW);
}

static void retire_variously_in_a_thread(void *cache)
{
    retire_variously((slab_cache *)cache);
}

static void freed_by_the_worker(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("delayed", 72);
    park_outside(&reader);
    for (unsigned round = 0; round < 5; round++) {
        retire_variously(cache);
        wait_until_freed();
        require(active(cache) == 0);
    }
    unpark(&reader);
    drop(cache);
}

/* The threads that have retired look no more. */
static void freed_from_parked_threads(const char *argument)
{
    (void)argument;
    struct parked reader, parked[4];
    slab_cache *cache = make_own("delayed", 72);
    park_outside(&reader);
    for (size_t i = 0; i < COUNT(parked); i++)
        park(&parked[i], retire_variously_in_a_thread, retire_variously_in_a_thread, cache);
    wait_until_freed();
    require(active(cache) == 0);
    for (size_t i = 0; i < COUNT(parked); i++)
        unpark(&parked[i]); /* once more, and their ends */
    wait_until_freed();
    require(active(cache) == 0);
    unpark(&reader);
    drop(cache);
}

static void freed_by_one_that_polls(const char *argument)
{
    (void)argument;
    struct parked reader, parked;
    slab_cache *cache = make_own("delayed", 72);
    park_outside(&reader);
    for (unsigned round = 0; round < 5; round++) {
        park(&parked, retire_variously_in_a_thread, NULL, cache);
        retire_variously(cache);
        poll_until_freed();
        require(active(cache) == 0);
        unpark(&parked);
    }
    unpark(&reader);
    drop(cache);
}

/* A process with a single thread, which has retired inside a section of its own. */
static void freed_by_the_only_thread(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("delayed", 72);
    for (unsigned round = 0; round < 5; round++) {
        slab_epoch_enter();
        retire_variously(cache);
        slab_epoch_leave();
        require(active(cache) > 0);
        poll_until_freed();
        require(active(cache) == 0);
    }
    drop(cache);
}

/* A thread that goes on retiring, slowly, frees what it has retired before, though it never fills a magazine. */
static void freed_beside_a_trickle(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("trickle", 72);
    park_outside(&reader);
    for (uint64_t retired = 0, freed = 0; freed < 100; freed = retired - active(cache)) {
        slab_free_deferred(take(cache));
        retired++;
        sleep_ms(4);
    }
    wait_until_freed();
    unpark(&reader);
    drop(cache);
}

/* What filled a magazine waits for no delay, but for a grace period only: while the thread goes on, most of what it
 * has retired is freed. At most some magazines are left, whose sizes are the library's business. */
static void full_ones_wait_for_no_delay(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("delayed", 72);
    park_outside(&reader);
    for (unsigned i = 0; i < 10 * MANY; i++)
        slab_free_deferred(take(cache));
    for (unsigned i = 0; active(cache) >= 5 * MANY; i++) {
        slab_free_deferred(take(cache));
        slab_epoch_poll();
        sleep_ms(i % 16 == 0);
    }
    unpark(&reader);
    slab_epoch_barrier();
    require(active(cache) == 0);
    drop(cache);
}

/* -- the end of a thread ----------------------------------------------------------------------------------------- */

static void freed_when_their_thread_ends(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("bequeathed", 72);
    park_outside(&reader);
    for (unsigned round = 0; round < 100; round++) {
        run_thread(retire_variously_in_a_thread, cache);
        if (round % 10 == 0) {
            poll_until_freed(); /* though the delay is an hour */
            require(active(cache) == 0);
        }
    }
    poll_until_freed();
    require(active(cache) == 0);
    unpark(&reader);
    drop(cache);
}

static pthread_key_t late;
static unsigned late_calls; /* one thread at a time */

/* Runs in each round of destructors, the last one included, before or after the library's own. */
static void retire_late(void *cache)
{
    for (unsigned i = 0; i < FEW; i++)
        slab_free_deferred(take((slab_cache *)cache));
    retire_some(100, FEW);
    retire_some(100 * KIB, 1);
    slab_epoch_enter();
    slab_free_deferred(take((slab_cache *)cache));
    slab_epoch_leave();
    slab_epoch_poll();
    late_calls++;
    require(pthread_setspecific(late, cache) == 0);
}

static void start_late(void *cache)
{
    slab_free_deferred(take((slab_cache *)cache));
    require(pthread_setspecific(late, cache) == 0);
}

static void destructors_retire(const char *argument)
{
    (void)argument;
    struct parked reader;
    slab_cache *cache = make_own("late", 72);
    require(pthread_key_create(&late, retire_late) == 0);
    park_outside(&reader);
    for (unsigned i = 0; i < 100; i++)
        run_thread(start_late, cache);
    require(late_calls >= 400);
    poll_until_freed();
    slab_epoch_barrier();
    require(active(cache) == 0);
    unpark(&reader);
    drop(cache);
}

/* -- destroying -------------------------------------------------------------------------------------------------- */

static void destroy_waits(const char *argument)
{
    (void)argument;
    void *objects[MANY];
    for (unsigned round = 0; round < 8; round++) {
        struct late_leaver reader;
        struct parked retirer;
        slab_cache *cache = make_own("doomed", 72);
        start_late_leaver(&reader, 40);
        take_all(cache, objects, MANY);
        park(&retirer, retire_variously_in_a_thread, NULL, cache);
        retire_all(objects, round % 2 ? MANY : FEW);
        for (size_t i = round % 2 ? MANY : FEW; i < MANY; i++)
            slab_cache_free(cache, objects[i]);
        drop(cache);
        require(__atomic_load_n(&reader.leaves, __ATOMIC_SEQ_CST));
        unpark(&retirer);
        join_late_leaver(&reader);
    }
}

static unsigned destructed;

static void destruct(void *object, void *context)
{
    (void)object;
    require(*(bool *)context);
    destructed++;
}

/* Of a type-safe cache: objects wait for one grace period, their slabs for another one. The context lives
 * no longer. */
static void destroy_waits_for_destructors(const char *argument)
{
    (void)argument;
    for (unsigned round = 0; round < 8; round++) {
        bool context = true;
        void *objects[MANY];
        struct late_leaver reader;
        const slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH, .dtor = destruct, .context = &context};
        slab_cache *cache = make_cache("doomed", 72, &attr);
        destructed = 0;
        take_all(cache, objects, MANY);
        start_late_leaver(&reader, 20);
        retire_all(objects, MANY);
        drop(cache);
        require(destructed >= MANY && __atomic_load_n(&reader.leaves, __ATOMIC_SEQ_CST));
        context = false;
        join_late_leaver(&reader);
    }
}

/* A destruction that cannot wait finds retired objects alive. */
static void destroy_inside_a_section(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("doomed", 72);
    slab_epoch_enter();
    for (unsigned i = 0; i < FEW; i++)
        slab_free_deferred(take(cache));
    require_busy(cache, "slabmalloc: slab_cache_destroy: doomed has 7 live objects\n");
    slab_epoch_leave();
    drop(cache);
}

static slab_cache *destroyed_in_a_function;
static bool function_ran;

static void destroy_in_function(slab_epoch_head *head)
{
    (void)head;
    require_busy(destroyed_in_a_function, "slabmalloc: slab_cache_destroy: doomed has 7 live objects\n");
    function_ran = true;
}

static void destroy_inside_a_function(const char *argument)
{
    (void)argument;
    struct parked reader, later;
    slab_epoch_head head;
    slab_cache *cache = destroyed_in_a_function = make_own("doomed", 72);
    park_outside(&reader);
    slab_epoch_call(&head, destroy_in_function);
    slab_epoch_synchronize();
    park_inside(&later); /* which holds up the objects alone */
    for (unsigned i = 0; i < FEW; i++)
        slab_free_deferred(take(cache));
    while (!function_ran)
        slab_epoch_poll();
    unpark(&later);
    unpark(&reader);
    drop(cache);
}

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"freed_by_the_worker", freed_by_the_worker, NULL},
        {"freed_by_the_worker_soon", freed_by_the_worker, "SLABMALLOC_OPTIONS=deferred_max_delay_ms=10"},
        {"freed_from_parked_threads", freed_from_parked_threads, NULL},
        {"freed_by_one_that_polls", freed_by_one_that_polls, NO_WORKER},
        {"freed_by_the_only_thread", freed_by_the_only_thread, NO_WORKER},
        {"freed_beside_a_trickle", freed_beside_a_trickle, NULL},
        {"full_ones_wait_for_no_delay", full_ones_wait_for_no_delay, AN_HOUR ",worker=0"},
        {"freed_when_their_thread_ends", freed_when_their_thread_ends, AN_HOUR ",worker=0"},
        {"destructors_retire", destructors_retire, NO_WORKER},
        {"destroy_waits", destroy_waits, NULL},
        {"destroy_waits_without_a_worker", destroy_waits, AN_HOUR ",worker=0"},
        {"destroy_waits_for_destructors", destroy_waits_for_destructors, NULL},
        {"destroy_inside_a_section", destroy_inside_a_section, NO_STALLS_TOLD},
        {"destroy_inside_a_function", destroy_inside_a_function, NO_STALLS_TOLD ",worker=0"},
    };
    return run_epoch_scenarios("delays of deferred free", scenarios, COUNT(scenarios), argc, argv);
}
