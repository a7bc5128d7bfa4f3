/* Calls without a lock, where they are meant for: timers deliver signals at 10 kHz into threads that allocate and
 * free, and the handlers allocate and free as well.
 *
 *     the thread: malloc, slab_cache_alloc, free ...  | mail out |  -> checks, frees by any call
 *         ^ interrupted by                            +----------+
 *     first signal's handler: slab_alloc_nolock ...   | mail in  |  -> checks, slab_free_nolock
 *         ^ interrupted by                            +----------+
 *     second signal's handler: the same
 *
 * Each handler allocates one object, stamps it, and keeps it for a while; what it kept in that place before is
 * checked and freed by slab_free_nolock, or mailed to the interrupted thread, which frees it by any call that there
 * is. The other way round the thread mails objects of its own to the handlers.
 *
 * Promised: nothing hangs; each object is its holder's alone; errno is kept; nothing is lost; and beside a plain loop
 * of malloc and free no two calls in a row find nothing, if a whole malloc and a whole free have passed between them:
 * those have brought a handful. How many signals a second arrive is the kernel's, and how many find such a moment.
 *
 *   loop     malloc and free of one size, as tight as it goes
 *   random   a random walk over objects of malloc's, all sizes; two signals
 *   caches   the same over caches, with constructors that take their time, accounted, limited, type-safe ones
 *   shrink   the same, while another thread shrinks and tunes them all
 *   births   the same as random in threads that end soon: the signals come before their first malloc, and
 *            at their end
 *
 * ThreadSanitizer delivers no signal in the middle of anything, so it is no use here. */
#include "caches.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

enum {
    OWN_OBJECTS = 128,
    LEVELS = 2,
    KEPT_OBJECTS = 24,
    LETTERS = 32,
    MAX_CHURNERS = 2,
    MAX_BATCH = 40,
    BURST = 14,
    LOOP_SIZE = 64,
    LARGEST_WITHOUT_LOCK = 32 << 10,
    MOST_CLASSES = 256,
    STRAY_BYTES = 4096, /* of thread stacks that the C library keeps: what one needs is from calloc */
    LEAST_SUCCESSES = 200,
    LEAST_WALKED = 50, /* steps of a short life */
};

/* The first signal comes at 10 kHz. Its handler asks for the second, at any moment of the next 20 microseconds:
 * in the middle of that very handler, or of the interrupted thread's next calls, which fill up what the handler
 * has emptied. */
enum { INTERVAL_NS = 100000, SECOND_WITHIN_NS = 20000 };

/* One signal's handler in one thread; it blocks its own signal, so it is there once at a time. */
struct level {
    uint64_t ordinal, random, sequence;
    _Atomic uint64_t delivered, overrun, calls, successes; /* tallies */
    uint64_t pairs;                                        /* in the loop: how many there were at the last call, */
    bool found_nothing;                                    /* and whether that found nothing */
    struct holding kept[KEPT_OBJECTS];
};

struct churner {
    pthread_t thread;
    uint64_t ordinal, random, sequence;
    timer_t timers[LEVELS];
    volatile uint64_t pairs; /* of malloc and free, in the loop; volatile: its own handler reads it */
    struct level levels[LEVELS];
    struct holding own[OWN_OBJECTS];
};

static const struct variant {
    const char *name;
    void (*step)(struct churner *);
    unsigned churners, levels;
    bool caches;    /* objects of caches, too */
    bool shrinking; /* another thread shrinks and tunes */
    bool births;    /* threads end soon */
} * variant;        /* that is running */

static struct pool pools[] = {
    {.name = "signals-merged", .size = 56, .twin = &pools[1]},
    {.name = "signals-merged-too", .size = 56, .twin = &pools[0]},
    {.name = "signals-constructed", .size = 200, .flags = POOL_CONSTRUCTED | POOL_SLOWLY},
    {.name = "signals-accounted", .size = 96, .flags = SLAB_ACCOUNT},
    {.name = "signals-limited", .size = 72, .limit_bytes = 72 * 60},
    {.name = "signals-limited-constructed", .size = 128, .flags = POOL_CONSTRUCTED, .limit_bytes = 128 * 60},
    {.name = "signals-typesafe", .size = 64, .flags = SLAB_TYPESAFE_BY_EPOCH},
    {.name = "signals-zero", .size = 80, .flags = SLAB_ZERO},
};

static struct churner churners[MAX_CHURNERS];
static __thread struct churner *interrupted; /* whom a signal in this thread interrupts */
static int first_signal;

/* Objects on their way: a release puts one there, an acquire takes it. */
static _Atomic(struct object *) mail_out[LETTERS], mail_in[LETTERS];

static atomic_bool stopping;
static pthread_key_t late_key;

static slab_cache *classes[MOST_CLASSES];
static unsigned class_count;

static struct pool *any_pool(uint64_t *random)
{
    return &pools[draw(random) % COUNT(pools)];
}

static struct object *post(_Atomic(struct object *) mail[], struct object *object, uint64_t *random)
{
    return atomic_exchange_explicit(&mail[draw(random) % LETTERS], object, memory_order_acq_rel);
}

/* -- handlers ---------------------------------------------------------------------------------------------------- */

static void free_without_lock(struct holding *holding)
{
    struct pool *pool = holding->object->pool;
    doing("before slab_free_nolock");
    void *object = object_part(holding);
    doing("slab_free_nolock");
    slab_free_nolock(object);
    if (pool != NULL)
        atomic_fetch_sub(&pool->live, 1);
}

/* What the handlers share with the thread, and what the thread's last handler left in this place. */
static void clear_place(struct level *level, struct holding *place)
{
    if (place->object != NULL && once_in(&level->random, 2)) {
        doing("mailing out");
        object_check(place);
        struct object *other = post(mail_out, place->object, &level->random);
        place->object = NULL;
        if (other != NULL)
            *place = object_adopt(other, level->ordinal, ++level->sequence);
    }
    if (place->object != NULL)
        free_without_lock(place);
}

static void read_mail(struct level *level)
{
    doing("mail");
    struct object *object = post(mail_in, NULL, &level->random);
    if (object != NULL) {
        struct holding holding = object_adopt(object, level->ordinal, ++level->sequence);
        free_without_lock(&holding);
    }
}

static size_t draw_size(uint64_t *random)
{
    size_t most = once_in(random, 64) ? LARGEST_WITHOUT_LOCK : once_in(random, 8) ? 2048 : 256;
    return draw_between(random, sizeof(struct object), most) & ~(size_t)7;
}

static void loop(struct churner *self);

static void take_without_lock(struct level *level, struct holding *place)
{
    struct pool *pool = variant->caches && !once_in(&level->random, 4) ? any_pool(&level->random) : NULL;
    size_t size = pool != NULL ? pool->size : variant->step == loop ? LOOP_SIZE : draw_size(&level->random);
    doing(pool != NULL ? "slab_cache_alloc_nolock" : "slab_alloc_nolock");
    void *memory = pool != NULL ? slab_cache_alloc_nolock(pool->cache) : slab_alloc_nolock(size);
    tally(&level->calls, 1);
    if (memory == NULL)
        return;
    tally(&level->successes, 1);
    *place = object_accept(pool, size, memory, level->ordinal, ++level->sequence);
}

/* Run a stack of the reserve dry. */
static void take_and_free_many(struct level *level)
{
    struct holding taken[BURST];
    const uint64_t random = level->random; /* each draws the same size or cache */
    for (unsigned i = 0; i < BURST; i++) {
        taken[i].object = NULL;
        level->random = random;
        take_without_lock(level, &taken[i]);
    }
    for (unsigned i = 0; i < BURST; i++) {
        if (taken[i].object != NULL)
            free_without_lock(&taken[i]);
    }
}

static void ask_for_second(struct churner *churner, struct level *level)
{
    struct itimerspec soon = {{0, 0}, {0, (long)draw_between(&level->random, 1, SECOND_WITHIN_NS)}};
    if (timer_settime(churner->timers[1], 0, &soon, NULL) != 0)
        fail(FOUND_WRONG, "no timer in a handler: %s", strerror(errno));
}

/* A call that finds nothing asks the thread for more. The first of two pairs that have passed since may have begun
 * before it; the second is a whole one. */
static void expect_success(const struct churner *churner, struct level *level, bool success)
{
    const uint64_t passed = churner->pairs - level->pairs;
    if (!success && level->found_nothing && passed >= 2)
        fail(FOUND_WRONG, "no object twice, although malloc and free have passed %" PRIu64 " times in between",
             passed);
    level->found_nothing = !success;
    level->pairs = churner->pairs;
}

static void handle(int signal, siginfo_t *info, void *context)
{
    (void)context;
    struct level *level = &interrupted->levels[signal - first_signal];
    const char *const was_doing = is_doing();
    const uint64_t was = at_work->ordinal;
    int error = errno;
    struct holding *place = &level->kept[draw(&level->random) % KEPT_OBJECTS];

    at_work->ordinal = level->ordinal;
    tally(&level->delivered, 1);
    tally(&level->overrun, (uint64_t)info->si_overrun);
    if (variant->levels > 1 && signal == first_signal)
        ask_for_second(interrupted, level);
    errno = 4711;
    clear_place(level, place);
    read_mail(level);
    take_without_lock(level, place);
    if (variant->step == loop)
        expect_success(interrupted, level, place->object != NULL);
    if (variant->levels > 1 && once_in(&level->random, 4))
        take_and_free_many(level);
    if (errno != 4711)
        fail(FOUND_WRONG, "errno was set to %d in a handler", errno);
    errno = error;
    at_work->ordinal = was;
    doing(was_doing);
}

static void install_handlers(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART};
    first_signal = SIGRTMIN;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < LEVELS; i++) {
        if (sigaction(first_signal + i, &action, NULL) != 0)
            fail(FOUND_WRONG, "sigaction: %s", strerror(errno));
    }
}

static void start_timers(struct churner *churner)
{
    struct itimerspec every = {{0, INTERVAL_NS}, {0, INTERVAL_NS}};
    interrupted = churner;
    for (unsigned i = 0; i < variant->levels; i++) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = first_signal + (int)i};
        event._sigev_un._tid = gettid();
        if (timer_create(CLOCK_MONOTONIC, &event, &churner->timers[i]) != 0)
            fail(FOUND_WRONG, "no timer: %s", strerror(errno));
    }
    if (timer_settime(churner->timers[0], 0, &every, NULL) != 0)
        fail(FOUND_WRONG, "no timer: %s", strerror(errno));
}

static void delete_timers(struct churner *churner)
{
    for (unsigned i = 0; i < variant->levels; i++)
        timer_delete(churner->timers[i]);
}

/* -- what is interrupted ----------------------------------------------------------------------------------------- */

static void free_mail(struct churner *self)
{
    struct object *object = post(mail_out, NULL, &self->random);
    if (object != NULL) {
        struct holding holding = object_adopt(object, self->ordinal, ++self->sequence);
        object_free(&holding, &self->random);
    }
}

/* No more than malloc and free: what the compiler must leave of it. */
static void loop(struct churner *self)
{
    doing("malloc and free");
    for (uint64_t i = 0; i < 1000; i++) {
        volatile uint64_t *object = malloc(LOOP_SIZE);
        if (object == NULL)
            fail(FOUND_WRONG, "no memory");
        *object = i;
        if (*object != i)
            fail(FOUND_BROKEN, "object %p is somebody else's", (const void *)object);
        free((void *)object);
        self->pairs++;
    }
    free_mail(self);
}

static void take(struct churner *self, struct holding *place)
{
    struct pool *pool = variant->caches && !once_in(&self->random, 4) ? any_pool(&self->random) : NULL;
    size_t size = pool != NULL ? pool->size : draw_size(&self->random);
    if (pool == NULL && once_in(&self->random, 500))
        size = 8 * draw_between(&self->random, 5000, 30000);
    doing("malloc");
    void *memory = pool != NULL ? object_alloc(pool, &self->random) : malloc(size);
    if (memory != NULL)
        *place = object_accept(pool, size, memory, self->ordinal, ++self->sequence);
    else if (pool == NULL || pool->limit_bytes == 0 || errno != ENOMEM)
        fail(FOUND_WRONG, "no object of %s: %s", pool ? pool->name : "malloc", strerror(errno));
}

static void batch(struct churner *self)
{
    struct pool *pool = any_pool(&self->random);
    void *memory[MAX_BATCH];
    size_t count = draw_between(&self->random, 1, MAX_BATCH);
    doing("slab_cache_alloc_bulk");
    if (slab_cache_alloc_bulk(pool->cache, count, memory) != count) {
        if (pool->limit_bytes == 0 || errno != ENOMEM)
            fail(FOUND_WRONG, "%zu objects of %s: %s", count, pool->name, strerror(errno));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct holding holding = object_accept(pool, pool->size, memory[i], self->ordinal, ++self->sequence);
        memory[i] = object_part(&holding);
    }
    doing("slab_cache_free_bulk");
    slab_cache_free_bulk(pool->cache, count, memory);
    atomic_fetch_sub(&pool->live, (int64_t)count);
}

/* A random walk. Vacant slabs go now and then, so that constructors and destructors run. */
static void walk(struct churner *self)
{
    struct holding *place = &self->own[draw(&self->random) % OWN_OBJECTS];
    unsigned what = draw(&self->random) % 32;
    if (what == 0 && variant->caches)
        batch(self);
    else if (what < 4)
        free_mail(self);
    else if (place->object == NULL)
        take(self, place);
    else if (what < 24)
        object_free(place, &self->random);
    else {
        doing("mailing in");
        object_check(place);
        struct object *other = post(mail_in, place->object, &self->random);
        place->object = NULL;
        if (other != NULL)
            *place = object_adopt(other, self->ordinal, ++self->sequence);
    }
    doing("slab_cache_shrink");
    if (variant->caches && once_in(&self->random, 512))
        slab_cache_shrink(any_pool(&self->random)->cache);
}

static void free_own(struct churner *self)
{
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (self->own[i].object != NULL)
            object_free(&self->own[i], &self->random);
    }
}

static void *churn(void *argument)
{
    struct churner *self = argument;
    start_work(FIRST_WORKER + (unsigned)(self - churners), self->ordinal);
    start_timers(self);
    while (!atomic_load_explicit(&stopping, memory_order_relaxed))
        variant->step(self);
    free_own(self);
    delete_timers(self);
    return NULL;
}

/* Runs when the thread's storage goes: the library may have said goodbye to the thread already. */
static void live_on(void *argument)
{
    struct churner *self = argument;
    for (unsigned i = 0; i < 50; i++)
        walk(self);
    free_own(self);
}

/* Signals come from its first moment to its last; the first find a thread that has never called malloc. */
static void *live_briefly(void *argument)
{
    struct churner *self = argument;
    start_work(FIRST_WORKER + (unsigned)(self - churners), self->ordinal);
    start_timers(self);
    pthread_setspecific(late_key, self);
    double born = now_in_seconds(), first_call = born + 1e-6 * (double)draw_between(&self->random, 0, 300);
    while (now_in_seconds() < first_call)
        continue;
    for (unsigned step = 0; step < LEAST_WALKED || now_in_seconds() < born + 2e-3; step++)
        walk(self);
    return NULL;
}

static void *give_birth(void *argument)
{
    struct churner *child = argument;
    start_work(FIRST_OTHER + 1 + (unsigned)(child - churners), 0);
    doing("giving birth");
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        child->thread = start_thread(live_briefly, child);
        pthread_join(child->thread, NULL);
        delete_timers(child);
    }
    return NULL;
}

static void *shrink_and_tune(void *argument)
{
    uint64_t random = random_of(1000);
    (void)argument;
    start_work(FIRST_OTHER, 1000);
    doing("shrinking and tuning");
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        slab_cache *cache = once_in(&random, 4) ? classes[draw(&random) % class_count] : any_pool(&random)->cache;
        slab_cache_shrink(cache);
        if (slab_cache_tune(cache, draw(&random) % 255, 0) != 0)
            fail(FOUND_WRONG, "%s", strerror(errno));
    }
    return NULL;
}

/* -- a variant --------------------------------------------------------------------------------------------------- */

static int collect_class(slab_cache *cache, void *context)
{
    (void)context;
    if (class_count < MOST_CLASSES)
        classes[class_count++] = cache;
    return 0;
}

static void sweep_mail(_Atomic(struct object *) mail[], uint64_t *random)
{
    for (unsigned i = 0; i < LETTERS; i++) {
        struct object *object = atomic_exchange(&mail[i], NULL);
        if (object != NULL) {
            struct holding holding = object_adopt(object, 0, 0);
            object_free(&holding, random);
        }
    }
}

/* What the handlers and the mail still hold. */
static void *sweep(void *argument)
{
    uint64_t random = random_of(2000);
    (void)argument;
    start_work(FIRST_OTHER, 2000);
    for (unsigned i = 0; i < MAX_CHURNERS * LEVELS * KEPT_OBJECTS; i++) {
        struct holding *kept =
            &churners[i / KEPT_OBJECTS / LEVELS].levels[i / KEPT_OBJECTS % LEVELS].kept[i % KEPT_OBJECTS];
        if (kept->object != NULL)
            object_free(kept, &random);
    }
    sweep_mail(mail_out, &random);
    sweep_mail(mail_in, &random);
    return NULL;
}

static void number_churners(void)
{
    for (unsigned i = 0; i < MAX_CHURNERS; i++) {
        churners[i] = (struct churner){.ordinal = i + 1, .random = random_of(i + 1)};
        for (unsigned k = 0; k < LEVELS; k++) {
            uint64_t ordinal = 10 * (k + 1) + i + 1;
            churners[i].levels[k] = (struct level){.ordinal = ordinal, .random = random_of(ordinal)};
        }
    }
}

struct sums {
    uint64_t delivered, overrun, calls, successes;
};

static struct sums sums_of_all(void)
{
    struct sums sums = {0, 0, 0, 0};
    for (unsigned i = 0; i < MAX_CHURNERS * LEVELS; i++) {
        const struct level *level = &churners[i / LEVELS].levels[i % LEVELS];
        sums.delivered += tallied(&level->delivered);
        sums.overrun += tallied(&level->overrun);
        sums.calls += tallied(&level->calls);
        sums.successes += tallied(&level->successes);
    }
    return sums;
}

static const char *what_is_missing(void)
{
    return sums_of_all().successes < LEAST_SUCCESSES ? "waiting for calls without a lock that have an object" : NULL;
}

static void run_threads(double end)
{
    pthread_t threads[MAX_CHURNERS], shrinker = 0;
    atomic_store(&stopping, false);
    for (unsigned i = 0; i < variant->churners; i++)
        threads[i] = start_thread(variant->births ? give_birth : churn, &churners[i]);
    if (variant->shrinking)
        shrinker = start_thread(shrink_and_tune, NULL);
    doing("working");
    while (!is_over(end, what_is_missing))
        sleep_for(2e-3);
    doing("waiting for the threads to end");
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < variant->churners; i++)
        pthread_join(threads[i], NULL);
    if (variant->shrinking)
        pthread_join(shrinker, NULL);
    pthread_join(start_thread(sweep, NULL), NULL);
}

static void report(double seconds)
{
    const struct sums sums = sums_of_all();
    printf("caches: signals, %s: %.0f signals a second delivered to each of %u threads (%" PRIu64 " in all, %" PRIu64
           " more fell together), %.1f %% of the calls without a lock had an object\n",
           variant->name, (double)sums.delivered / seconds / variant->churners, variant->churners, sums.delivered,
           sums.overrun, 100 * (double)sums.successes / (double)(sums.calls + !sums.calls));
    fflush(stdout);
}

static const struct variant variants[] = {
    {.name = "loop", .step = loop, .churners = 1, .levels = 1},
    {.name = "random", .step = walk, .churners = 2, .levels = 2},
    {.name = "caches", .step = walk, .churners = 2, .levels = 2, .caches = true},
    {.name = "shrink", .step = walk, .churners = 2, .levels = 2, .caches = true, .shrinking = true},
    {.name = "births", .step = walk, .churners = 2, .levels = 2, .caches = true, .births = true},
};

static void run_variant(double seconds)
{
    const double begin = now_in_seconds();
    const uint64_t before = figures().live_bytes;
    number_churners();
    for (unsigned i = 0; i < COUNT(pools); i++)
        pool_create(&pools[i]);
    run_threads(begin + seconds);
    report(now_in_seconds() - begin);
    for (unsigned i = 0; i < COUNT(pools); i++)
        pool_retire(&pools[i]);
    const uint64_t after = figures().live_bytes;
    if (after > before + STRAY_BYTES)
        fail(FOUND_MISSING, "%s: %" PRIu64 " bytes live, %" PRIu64 " before", variant->name, after, before);
}

static bool is_wanted(const struct variant *one)
{
    return options.only == NULL || strcmp(options.only, one->name) == 0;
}

void run_signals(void)
{
    unsigned wanted = 0;
    for (unsigned i = 0; i < COUNT(variants); i++)
        wanted += is_wanted(&variants[i]);
    if (wanted == 0) {
        fprintf(stderr, "caches: --only: '%s' is none of loop, random, caches, shrink, births\n", options.only);
        exit(FOUND_USAGE);
    }
    slab_cache_foreach(collect_class, NULL);
    install_handlers();
    pthread_key_create(&late_key, live_on);
    for (unsigned i = 0; i < COUNT(variants); i++) {
        variant = &variants[i];
        if (is_wanted(variant))
            run_variant(options.seconds / wanted);
    }
}
