/* What samples say (base/inspect.h) against what is true, for programs of many sizes, lifetimes and calls.
 *
 * A program is random work at some sites, each a function of its own, one thread after the other. The test keeps
 * book: what each site's objects have asked for, live ones and all. Then
 *   - each record is of a live object, and its stack leads to the site that has allocated it;
 *   - over many programs the sums are right on average: the difference to the truth is within four standard
 *     errors. That error is known: an object of n bytes is sampled with a probability p, on its own, and then stands
 *     for n / p bytes, which is a variance of n * n * (1 - p) / p;
 *   - the intervals of slabctl (tools/slabctl/estimate.h), which knows the samples alone, contain the truth as often
 *     as they claim: misses are no more than chance makes of that in one of 30,000 runs.
 * The draws come from one sequence, which each program begins anew: so a bound holds always or never. Objects that
 * grow in small steps, and a thread at full speed, have tests of their own. */
#include "sampled.h"

#include <malloc.h>
#include <math.h>

#include "estimate.h"
#include "sample/stacks.h"

enum { PROGRAMS = 50, THREADS = 3, STEPS = 20000, SLOTS = 1500, BULK = 12, SITES = 11 };
static uint64_t mean = 16 << 10;

/* -- sites --------------------------------------------------------------------------------------------------- */

#define SITE __attribute__((noinline, section("truth_sites"))) static
extern char truth_first[] __asm__("__start_truth_sites"), truth_end[] __asm__("__stop_truth_sites");

static slab_cache *plain_cache, *constructed_cache, *zero_cache, *long_cache;

/* No site's last call: so it has a frame. */
#define AFTER(object) __asm__ volatile("" : "+r"(object)::"memory")

#define SITE_OF_ONE(name, call)                                                                                      \
    SITE void *name(void *old, size_t n)                                                                             \
    {                                                                                                                \
        (void)old;                                                                                                   \
        (void)n;                                                                                                     \
        void *object = (call);                                                                                       \
        AFTER(object);                                                                                               \
        return object;                                                                                               \
    }

static void *aligned_by_posix(size_t n)
{
    void *object = NULL;
    return posix_memalign(&object, 64, n) == 0 ? object : NULL;
}

SITE_OF_ONE(by_malloc, malloc(n))
SITE_OF_ONE(by_calloc, calloc(n, 1))
SITE_OF_ONE(by_realloc, realloc(old, n))
SITE_OF_ONE(by_aligned, aligned_alloc(256, n))
SITE_OF_ONE(by_posix, aligned_by_posix(n))
SITE_OF_ONE(by_node, slab_alloc_node(n, 0))
SITE_OF_ONE(by_cache, slab_cache_alloc(plain_cache))
SITE_OF_ONE(by_constructed, slab_cache_alloc_node(constructed_cache, 0))
SITE_OF_ONE(by_zero, slab_cache_alloc(zero_cache))
SITE_OF_ONE(by_long, slab_cache_alloc(long_cache))

SITE void *by_bulk(void *out, size_t n)
{
    void *got = slab_cache_alloc_bulk(plain_cache, n, out) == n ? out : NULL;
    AFTER(got);
    return got;
}

enum { AT_REALLOC = 2, AT_BULK = 10 };
static const struct {
    void *(*call)(void *old, size_t n);
    size_t fixed; /* the size; 0: any */
} sites[SITES] = {{by_malloc, 0}, {by_calloc, 0},   {by_realloc, 0}, {by_aligned, 0},
                  {by_posix, 0},  {by_node, 0},     {by_cache, 200}, {by_constructed, 1000},
                  {by_zero, 48},  {by_long, 70000}, {by_bulk, 200}};

static void construct(void *object, void *context)
{
    (void)context;
    memset(object, 1, 1000);
}

/* The site in whose code the address lies; SITES: none. */
static unsigned site_at(uint64_t address)
{
    unsigned found = SITES;
    uintptr_t start = 0;
    for (unsigned i = 0; i < SITES && address < (uintptr_t)truth_end; i++) {
        const uintptr_t at = (uintptr_t)sites[i].call;
        if (at < address && at > start) {
            start = at;
            found = i;
        }
    }
    return found;
}

/* Below the site's frame only the library's own code has been. */
static unsigned site_of(const struct slm_stack *stack)
{
    unsigned found = SITES;
    for (unsigned i = 0; stack && i < stack->words && found == SITES; i++)
        if (stack->kind == SLM_STACK_FRAMES || !(slm_stack_offsets(stack)[i] & SLM_STACK_RELATIVE))
            found = site_at(stack->values[stack->registers + i]);
    return found;
}

/* -- the truth ----------------------------------------------------------------------------------------------- */

static struct object {
    char *object; /* NULL: none */
    size_t asked;
    size_t weighed; /* what was asked for when it was decided whether it is sampled */
    unsigned site;
} objects[SLOTS];

static struct sums {
    double bytes, variance;
} live[SITES], all[SITES];

static double variance_of(const struct object *object)
{
    const double p = -expm1(-(double)object->weighed / (double)mean);
    return (double)object->asked * (double)object->asked * (1 - p) / p;
}

static void count(struct sums *sums, const struct object *object, double sign)
{
    sums[object->site].bytes += sign * (double)object->asked;
    sums[object->site].variance += sign * variance_of(object);
}

static void begin(struct object *object, void *made, size_t asked, size_t weighed, unsigned site)
{
    require(made != NULL);
    *object = (struct object){made, asked, weighed, site};
    count(live, object, 1);
    count(all, object, 1);
}

static void end(struct object *object)
{
    count(live, object, -1);
    object->object = NULL;
}

/* What the program asked for last is what an object counts for. */
static void change(struct object *object, void *now, size_t asked)
{
    count(live, object, -1);
    count(all, object, -1);
    object->object = now;
    object->asked = asked;
    count(live, object, 1);
    count(all, object, 1);
}

/* -- a program ----------------------------------------------------------------------------------------------- */

/* Most are short, most of the bytes are in long ones. */
static size_t any_size(uint64_t *random)
{
    const unsigned most = random_below(random, 50) == 0 ? 20 : 13;
    const unsigned bits = (unsigned)random_below(random, most) + 1;
    return random_below(random, (size_t)1 << bits) + 1;
}

/* As realloc says (heap/resize.c, heap/sampled.h): a small object that moves is a new one, with some headroom at
 * times, and so is one that would move if it were not sampled; a large one is, as long as it stays large, if its size
 * is far from what it was. */
static void resize(struct object *object, size_t n)
{
    const bool was_large = slm_large_of(object->object) != NULL;
    const size_t usable = slm_sampled_size(object->object, malloc_usable_size(object->object));
    char *before = object->object, *now = by_realloc(before, n);
    require(now != NULL);
    const bool is_large = slm_large_of(now) != NULL;
    const bool near = n / 2 <= object->weighed && n >= object->weighed / 2;
    if (was_large && is_large ? near : now == before && n <= usable) {
        change(object, now, n);
        return;
    }
    const bool headroom = !was_large && now != before && n > usable && n - usable <= usable / 16;
    end(object);
    begin(object, now, n, headroom ? n + n / 4 : n, AT_REALLOC);
}

static size_t rounded(unsigned site, size_t n)
{
    const size_t alignment = sites[site].call == by_aligned ? 256 : sites[site].call == by_posix ? 64 : 1;
    const size_t size = (n + alignment - 1) & ~(alignment - 1);
    return size <= SLM_SMALL_MAX ? size : n;
}

static struct object *free_slot(uint64_t *random)
{
    struct object *object;
    do
        object = &objects[random_below(random, SLOTS)];
    while (object->object);
    return object;
}

static void step(uint64_t *random, unsigned number)
{
    struct object *object = &objects[random_below(random, SLOTS)];
    const unsigned site = (unsigned)random_below(random, SITES);
    const size_t n = sites[site].fixed ? sites[site].fixed : any_size(random);
    if (object->object && random_below(random, 4) == 0 && !sites[object->site].fixed) {
        resize(object,
               random_below(random, 2) == 0 ? n : object->asked + random_below(random, object->asked / 4 + 16));
    } else if (object->object) {
        free(object->object);
        end(object);
    } else if (site == AT_BULK && number % 10 == 0) {
        void *bulk[BULK];
        require(by_bulk(bulk, BULK) != NULL);
        for (unsigned i = 0; i < BULK; i++)
            begin(i == 0 ? object : free_slot(random), bulk[i], n, n, site);
    } else if (site != AT_BULK) {
        begin(object, sites[site].call(NULL, n), n, rounded(site, n), site);
    }
}

static uint64_t seed;

static void *run_thread(void *thread)
{
    uint64_t random = seed * 100 + (uintptr_t)thread;
    store_relaxed(&slm_settings.sample_bytes, mean);
    for (unsigned number = 0; number < STEPS; number++)
        step(&random, number);
    store_relaxed(&slm_settings.sample_bytes, 0);
    return NULL;
}

/* -- what samples say ---------------------------------------------------------------------------------------- */

static struct said {
    struct estimate estimate; /* by the tool, of live objects */
    uint64_t live, all;       /* bytes, by the counts at stacks */
    uint64_t samples;
    double objects;
} said[SITES];

static const struct object *object_at(uint64_t address)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (objects[i].object == (char *)(uintptr_t)address)
            return &objects[i];
    return NULL;
}

static void read_records(void)
{
    for (uint32_t index = 1; index <= load_relaxed(&slm_sample_counts.top); index++) {
        const struct slm_sample *sample = slm_samples_at(index);
        const uint64_t address = load_relaxed(&sample->object);
        const struct object *object = address ? object_at(address) : NULL;
        if (!object || sample->weighed == 0)
            continue;
        require(sample->asked == object->asked && sample->weighed == object->weighed && sample->mean == mean);
        require(index_of(object->object) == index);
        require(site_of(slm_stack_of(sample->stack)) == object->site);
        require(estimate_add(&said[object->site].estimate, sample->asked, sample->weighed, sample->mean));
    }
}

/* Since the last call. */
static void read_counts(int sign)
{
    for (unsigned bucket = 0; bucket < SLM_STACK_BUCKETS; bucket++) {
        for (uint64_t at = slm_stacks_buckets ? load_relaxed(&slm_stacks_buckets[bucket]) : 0; at;) {
            const struct slm_stack *stack = (const struct slm_stack *)(uintptr_t)at;
            const unsigned site = site_of(stack);
            if (site < SITES) {
                said[site].live += (uint64_t)sign * load_relaxed(&stack->live_bytes);
                said[site].all += (uint64_t)sign * load_relaxed(&stack->bytes);
                said[site].samples += (uint64_t)sign * load_relaxed(&stack->samples);
                said[site].objects += sign * (double)load_relaxed(&stack->objects_1024) / 1024;
            }
            at = stack->next;
        }
    }
}

static void run_program(uint64_t number)
{
    seed = number;
    memset(live, 0, sizeof live);
    memset(all, 0, sizeof all);
    memset(said, 0, sizeof said);
    read_counts(-1);
    store_relaxed(&slm_interval_sequence, number * 0x1000003);
    for (uintptr_t thread = 0; thread < THREADS; thread++) {
        pthread_t made;
        require(pthread_create(&made, NULL, run_thread, (void *)thread) == 0);
        require(pthread_join(made, NULL) == 0);
    }
    read_records();
    read_counts(1);
}

static void clean_up(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (objects[i].object)
            free(objects[i].object);
        objects[i].object = NULL;
    }
}

/* -- tests --------------------------------------------------------------------------------------------------- */

static struct over_all {
    double live_off, live_variance, all_off, all_variance, tool_off;
} over[SITES];
static unsigned intervals, misses, sum_intervals, sum_misses;

static bool contains(struct interval interval, double truth)
{
    return interval.low <= truth + 0.5 && truth <= interval.high + 0.5;
}

static void judge_program(void)
{
    for (unsigned i = 0; i < SITES; i++) {
        over[i].live_off += (double)said[i].live - live[i].bytes;
        over[i].tool_off += said[i].estimate.bytes - live[i].bytes;
        over[i].live_variance += live[i].variance;
        over[i].all_off += (double)said[i].all - all[i].bytes;
        over[i].all_variance += all[i].variance;
        if (said[i].estimate.samples > 0) { /* else the tool does not show it */
            intervals++;
            misses += !contains(estimate_interval(&said[i].estimate, (double)mean), live[i].bytes);
        }
        if (said[i].samples > 0) {
            struct estimate sums = {0};
            estimate_add_sums(&sums, said[i].samples, said[i].objects, (double)said[i].all, (double)mean);
            sum_intervals++;
            sum_misses += !contains(estimate_interval(&sums, (double)mean), all[i].bytes);
        }
    }
}

static void assert_unbiased(const char *what, unsigned site, double off, double variance)
{
    const double z = off / sqrt(variance);
    if (!(fabs(z) < 4))
        fail_msg("site %u: %s are off by %.0f in all, %.2f standard errors", site, what, off, z);
}

static void assert_contained(const char *what, unsigned some, unsigned missed)
{
    const double share = 0.05, most = some * share + 4 * sqrt(some * share * (1 - share));
    if (missed > most)
        fail_msg("of %u intervals of %s %u do not contain the truth, more than %.0f", some, what, missed, most);
}

static void programs_have_their_sums(void **state)
{
    (void)state;
    const slab_cache_attr alone = {.flags = SLAB_NO_MERGE}, zero = {.flags = SLAB_NO_MERGE | SLAB_ZERO},
                          made = {.ctor = construct};
    plain_cache = slab_cache_create("plain", 200, &alone);
    constructed_cache = slab_cache_create("constructed", 1000, &made);
    zero_cache = slab_cache_create("zero", 48, &zero);
    long_cache = slab_cache_create("long", 70000, &alone);
    void *room = malloc((size_t)16 << 30); /* what stacks may take is a share of what is in use */
    for (unsigned program = 1; program <= scaled(PROGRAMS); program++) {
        run_program(program);
        judge_program();
        clean_up();
    }
    free(room);
    assert_int_equal(load_relaxed(&slm_sample_counts.losses), 0);
    assert_int_equal(load_relaxed(&slm_sample_counts.stack_losses), 0);
    for (unsigned i = 0; i < SITES; i++) {
        assert_unbiased("live bytes", i, over[i].live_off, over[i].live_variance);
        assert_unbiased("live bytes of the tool", i, over[i].tool_off, over[i].live_variance);
        assert_unbiased("bytes since start", i, over[i].all_off, over[i].all_variance);
    }
    assert_contained("live bytes", intervals, misses);
    assert_contained("bytes since start", sum_intervals, sum_misses);
    print_message("%u intervals, %u misses; %u of sums, %u misses\n", intervals, misses, sum_intervals, sum_misses);
}

/* -- objects that grow in small steps ------------------------------------------------------------------------- */

enum { GROWTHS = 30 };

static const struct growth {
    unsigned objects;
    bool doubles;
    size_t first, most;
    uint64_t mean;
} small_growth = {SLOTS, false, 1, 3000, 16 << 10}, doubling = {SLOTS, true, 16, 1500, 1 << 10},
  large_growth = {100, false, SLM_SMALL_MAX + 1, 600000, 1 << 20};

static void *grow(void *any)
{
    const struct growth *growth = any;
    uint64_t random = ++seed;
    store_relaxed(&slm_settings.sample_bytes, mean);
    for (unsigned i = 0; i < growth->objects; i++) {
        const size_t first = growth->first, most = first + random_below(&random, growth->most - first);
        begin(&objects[i], by_realloc(NULL, first), first, first, AT_REALLOC);
        for (size_t n = first; n < most; n += growth->doubles ? n : random_below(&random, n / 16 + 16) + 1)
            resize(&objects[i], n);
    }
    store_relaxed(&slm_settings.sample_bytes, 0);
    return NULL;
}

/* If a sampled one moved sooner than others, it would lose its sample sooner than they come by one. */
static void assert_unbiased_growth(const struct growth *growth)
{
    double off = 0, variance = 0;
    const uint64_t usual = mean;
    mean = growth->mean;
    for (unsigned i = 0; i < scaled(GROWTHS); i++) {
        memset(live, 0, sizeof live);
        memset(said, 0, sizeof said);
        read_counts(-1);
        pthread_t thread;
        require(pthread_create(&thread, NULL, grow, (void *)growth) == 0 && pthread_join(thread, NULL) == 0);
        read_counts(1);
        off += (double)said[AT_REALLOC].live - live[AT_REALLOC].bytes;
        variance += live[AT_REALLOC].variance;
        clean_up();
    }
    mean = usual;
    assert_unbiased("live bytes", AT_REALLOC, off, variance);
}

static void so_have_objects_that_grow_in_small_steps(void **state)
{
    (void)state;
    assert_unbiased_growth(&small_growth);
    assert_unbiased_growth(&doubling);
    assert_unbiased_growth(&large_growth);
}

/* -- a thread that lengthens its intervals ------------------------------------------------------------------- */

enum { FILLS = 20, FILLED = 256 << 20, MOST_OBJECTS = 1 << 20 };
static void *filled[MOST_OBJECTS];
static size_t filled_objects;
static uint64_t longest;

/* An interval's mean is known when it begins. */
static void note_filled(size_t n)
{
    const uint64_t now = slm_max(slm_interval_mean(slm_tls.sample_mean), slm_setting(sample_bytes));
    const double p = -expm1(-(double)n / (double)now);
    live[0].bytes += (double)n;
    live[0].variance += (double)n * (double)n * (1 - p) / p;
    longest = slm_max(longest, now);
}

static void *fill(void *unused)
{
    uint64_t random = ++seed;
    for (size_t bytes = 0; bytes < FILLED && filled_objects < MOST_OBJECTS; filled_objects++) {
        const size_t n = any_size(&random);
        note_filled(rounded(0, n));
        require((filled[filled_objects] = by_malloc(NULL, n)) != NULL);
        bytes += n;
    }
    return unused;
}

/* How fast it is, and so which means it has, differs from run to run: the bound leaves out one of a million. */
static void so_has_a_thread_at_full_speed(void **state)
{
    (void)state;
    memset(live, 0, sizeof live);
    memset(said, 0, sizeof said);
    for (unsigned i = 0; i < scaled(FILLS); i++) {
        pthread_t thread;
        read_counts(-1);
        store_relaxed(&slm_settings.sample_bytes, (size_t)2 << 20);
        require(pthread_create(&thread, NULL, fill, NULL) == 0 && pthread_join(thread, NULL) == 0);
        store_relaxed(&slm_settings.sample_bytes, 0);
        read_counts(1);
        while (filled_objects > 0)
            free(filled[--filled_objects]);
    }
    const double z = ((double)said[0].live - live[0].bytes) / sqrt(live[0].variance);
    print_message("intervals up to %zu KiB; off by %.2f standard errors\n", (size_t)longest >> 10, z);
    assert_true(fabs(z) < 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(programs_have_their_sums),
                                       cmocka_unit_test(so_have_objects_that_grow_in_small_steps),
                                       cmocka_unit_test(so_has_a_thread_at_full_speed)};
    return cmocka_run_group_tests(tests, start_library, NULL);
}
