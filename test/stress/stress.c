/* A stress test: stress [OPTION...].
 *
 * N threads at a time do random things to objects of random sizes and check every byte. An object is filled with a
 * pattern that follows from its address, its size and a seed; before the object is freed, reallocated or handed on
 * the pattern is compared, so a byte that the allocator wrote, or that was part of two objects, is found.
 *
 *   worker                 exchange slots                worker
 *   +-----------------+    +----+----+----+----+----+    +-----------------+
 *   | its own objects | -> |lock|lock|lock|lock|... | -> | its own objects |
 *   +-----------------+    +----+----+----+----+----+    +-----------------+
 *
 * Objects change threads by swapping one with an exchange slot, so much is freed by another thread than allocated it.
 * Now and then a worker rests, so that an allocator can take back what it holds; the main thread trims all the time.
 * A worker lives for some thousands of operations, leaves its objects to the slots or frees them, some in a
 * destructor of its thread-local storage, starts its successor and ends.
 *
 * All random numbers follow from the seed. With one thread a run repeats exactly; with more the interleaving does
 * not. A mismatch is one line on standard error, and the end with FOUND_BROKEN. The program can be run under
 * LD_PRELOAD, too; allocators that align small objects to 8 bytes alone need --align 8. */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "at_work.h"
#include "options.h"

enum {
    OWN_OBJECTS = 512,
    SLOTS = 1024,
    SHORTEST_LIFE = 2000,
    LONGEST_LIFE = 60000,
    MAX_ALIGNMENT_BITS = 16,
    LEAST_LIVES = 2, /* that have ended */
    RANGES = 11,     /* from 16 bytes to 32 KiB */
    OPERATIONS_A_RANGE = 20000,
};

/* Names that other allocators do not have: the program can be preloaded with these. */
extern __typeof__(slab_get_stats) slab_get_stats __attribute__((weak));

/* C23's names, where the C library or the allocator has them. */
extern void free_sized(void *object, size_t size) __attribute__((weak));
extern void free_aligned_sized(void *object, size_t alignment, size_t size) __attribute__((weak));

struct object {
    unsigned char *bytes; /* NULL: none */
    size_t size;          /* the bytes that carry the pattern */
    size_t asked;         /* the size that the allocator was asked for */
    size_t alignment;     /* 0: the object came from malloc, calloc or realloc */
    uint64_t pattern;
};

struct slot {
    pthread_mutex_t lock;
    struct object object;
};

struct worker {
    uint64_t random, ordinal;
    unsigned place; /* its predecessor's, whom it follows */
    struct object own[OWN_OBJECTS];
    struct object late; /* freed by the destructor of thread-local storage */
};

static struct slot slots[SLOTS];
static pthread_key_t late_key;
static atomic_bool stopping;
static _Atomic uint64_t operations, workers_born, lives;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned alive;
} crew = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

/* -- sizes --------------------------------------------------------------------------------------------- */

/* Sizes as servers ask for them: six in seven at most 64 bytes, a tail to 32 KiB, rarely more. One in four is of a
 * range that all have in common and that moves on, so that what one range has left serves the next. */
static size_t draw_size(uint64_t *random)
{
    static const struct {
        unsigned share; /* of 10,000 */
        size_t low, high;
    } histogram[] = {
        {20, 0, 0},       {3000, 1, 16},     {3200, 17, 32},    {2300, 33, 64},      {700, 65, 256},
        {500, 257, 1024}, {200, 1025, 4096}, {69, 4097, 32768}, {10, 32769, 262144}, {1, 262145, 4 << 20},
    };
    if (once_in(random, 4)) {
        size_t low = (size_t)16 << atomic_load(&operations) / OPERATIONS_A_RANGE % RANGES;
        size_t size = draw_between(random, low, low * 2);
        return size < options.largest ? size : options.largest;
    }
    unsigned ticket = draw(random) % 10000;
    for (size_t i = 0; i < COUNT(histogram); i++) {
        if (ticket < histogram[i].share) {
            size_t size = draw_between(random, histogram[i].low, histogram[i].high);
            return size < options.largest ? size : options.largest;
        }
        ticket -= histogram[i].share;
    }
    return 16;
}

/* -- patterns ------------------------------------------------------------------------------------------- */

static uint64_t pattern_of(const void *address, size_t size)
{
    return mix((uintptr_t)address + mix(size ^ mix(options.seed + 1)));
}

/* The eight bytes that belong at a multiple of eight from the object's start. */
static uint64_t pattern_word(uint64_t pattern, size_t offset)
{
    return (pattern + offset) * 0x9e3779b97f4a7c15u;
}

static void fill(struct object *object)
{
    size_t offset = 0;
    object->pattern = pattern_of(object->bytes, object->size);
    for (; offset + 8 <= object->size; offset += 8) {
        uint64_t word = pattern_word(object->pattern, offset);
        memcpy(object->bytes + offset, &word, 8);
    }
    uint64_t word = pattern_word(object->pattern, offset);
    memcpy(object->bytes + offset, &word, object->size - offset);
}

__attribute__((noreturn)) static void fail_pattern(const struct object *object, const unsigned char *bytes,
                                                   size_t offset)
{
    uint64_t word = pattern_word(object->pattern, offset & ~(size_t)7);
    while (bytes[offset] == ((unsigned char *)&word)[offset & 7])
        offset++;
    fail(FOUND_BROKEN, "object %p (asked %zu, %zu bytes used, alignment %zu), byte %zu is 0x%02x and not 0x%02x",
         (void *)object->bytes, object->asked, object->size, object->alignment, offset, bytes[offset],
         ((unsigned char *)&word)[offset & 7]);
}

/* The first `size` bytes at `bytes` still carry the object's pattern (realloc may have moved them). */
static void check_bytes(const struct object *object, const unsigned char *bytes, size_t size)
{
    size_t offset = 0;
    for (; offset + 8 <= size; offset += 8) {
        uint64_t word = pattern_word(object->pattern, offset);
        if (memcmp(bytes + offset, &word, 8) != 0)
            fail_pattern(object, bytes, offset);
    }
    uint64_t word = pattern_word(object->pattern, offset);
    if (memcmp(bytes + offset, &word, size - offset) != 0)
        fail_pattern(object, bytes, offset);
}

static void check(const struct object *object)
{
    check_bytes(object, object->bytes, object->size);
}

/* -- one object ----------------------------------------------------------------------------------------- */

/* What holds for everything an allocator returns; and one time in eight the object takes all usable bytes. */
static struct object accept(struct worker *worker, void *bytes, size_t asked, size_t alignment)
{
    struct object object = {bytes, asked, asked, alignment, 0};
    size_t least = alignment != 0 ? alignment : options.align;
    if (bytes == NULL)
        fail(FOUND_WRONG, "no memory for %zu bytes (alignment %zu): %s", asked, alignment, strerror(errno));
    if ((uintptr_t)bytes % least != 0)
        fail(FOUND_WRONG, "%p is not aligned to %zu (size %zu)", bytes, least, asked);
    size_t usable = malloc_usable_size(bytes);
    if (usable < asked)
        fail(FOUND_WRONG, "%p has %zu usable bytes, %zu were asked for", bytes, usable, asked);
    if (once_in(&worker->random, 8))
        object.size = usable;
    fill(&object);
    return object;
}

static void check_zero(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; bytes != NULL && i < size; i++) {
        if (bytes[i] != 0)
            fail(FOUND_BROKEN, "calloc gave %p of %zu bytes, byte %zu is 0x%02x", (const void *)bytes, size, i,
                 bytes[i]);
    }
}

static struct object make_zeroed(struct worker *worker, size_t size)
{
    size_t count = once_in(&worker->random, 2) ? 1 : draw_between(&worker->random, 1, 8);
    doing("calloc");
    size = size / count * count;
    unsigned char *bytes = calloc(count, size / count);
    check_zero(bytes, size);
    return accept(worker, bytes, size, 0);
}

static struct object make_aligned(struct worker *worker, size_t size)
{
    size_t alignment =
        (size_t)8 << draw_between(&worker->random, 0, once_in(&worker->random, 16) ? MAX_ALIGNMENT_BITS - 3 : 5);
    void *bytes = NULL;
    switch (draw(&worker->random) % 3) {
    case 0:
        doing("aligned_alloc");
        bytes = aligned_alloc(alignment, size);
        break;
    case 1:
        doing("memalign");
        bytes = memalign(alignment, size);
        break;
    default:
        doing("posix_memalign");
        if ((errno = posix_memalign(&bytes, alignment, size)) != 0)
            bytes = NULL;
    }
    return accept(worker, bytes, size, alignment);
}

static struct object make(struct worker *worker)
{
    size_t size = draw_size(&worker->random);
    unsigned way = draw(&worker->random) % 16;
    if (way < 2)
        return make_zeroed(worker, size);
    if (way < 4)
        return make_aligned(worker, size);
    doing("malloc");
    return accept(worker, malloc(size), size, 0);
}

static void release(struct worker *worker, struct object *object)
{
    if (object->bytes == NULL)
        return;
    doing("free");
    check(object);
    errno = 4711;
    if (object->alignment == 0 && free_sized != NULL && once_in(&worker->random, 4))
        free_sized(object->bytes, object->asked);
    else if (object->alignment != 0 && free_aligned_sized != NULL && once_in(&worker->random, 4))
        free_aligned_sized(object->bytes, object->alignment, object->asked);
    else
        free(object->bytes);
    if (errno != 4711)
        fail(FOUND_WRONG, "free(%p) set errno to %d", (void *)object->bytes, errno);
    object->bytes = NULL;
}

/* A new size: near the old one, or any; never 0, which would free. */
static void resize(struct worker *worker, struct object *object)
{
    size_t size = draw_size(&worker->random);
    if (once_in(&worker->random, 2))
        size = draw_between(&worker->random, object->asked / 2, object->asked + object->asked / 2);
    size = size == 0 ? 1 : size > options.largest ? options.largest : size;

    doing("before realloc");
    check(object);
    doing("realloc");
    unsigned char *bytes =
        once_in(&worker->random, 4) ? reallocarray(object->bytes, size, 1) : realloc(object->bytes, size);
    if (bytes == NULL)
        fail(FOUND_WRONG, "no memory to make %p %zu bytes: %s", (void *)object->bytes, size, strerror(errno));
    check_bytes(object, bytes, size < object->size ? size : object->size);
    *object = accept(worker, bytes, size, 0);
}

/* Swap with a slot that all threads share. */
static void exchange(struct worker *worker, struct object *object)
{
    struct slot *slot = &slots[draw(&worker->random) % SLOTS];
    pthread_mutex_lock(&slot->lock);
    struct object other = slot->object;
    slot->object = *object;
    pthread_mutex_unlock(&slot->lock);
    *object = other;
}

/* -- workers -------------------------------------------------------------------------------------------- */

static void operate(struct worker *worker)
{
    struct object *object = &worker->own[draw(&worker->random) % OWN_OBJECTS];
    unsigned what = draw(&worker->random) % 16;
    if (object->bytes == NULL)
        *object = make(worker);
    else if (what < 8)
        release(worker, object);
    else if (what < 10)
        resize(worker, object);
    else if (what < 15)
        exchange(worker, object);
    else
        check(object);
}

/* Many objects of one size in a row and back: passes whole magazines, unlike the random walk. */
static void burst(struct worker *worker)
{
    struct object *objects = worker->own;
    size_t size = draw_size(&worker->random) % 2048;
    bool backwards = once_in(&worker->random, 2);
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        release(worker, &objects[i]);
        doing("malloc in a burst");
        objects[i] = accept(worker, malloc(size), size, 0);
    }
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (once_in(&worker->random, 8))
            exchange(worker, &objects[i]);
        else
            release(worker, &objects[backwards ? OWN_OBJECTS - 1 - i : i]);
    }
}

/* As long as an allocator may need to find that a thread does nothing. */
static void rest(struct worker *worker)
{
    doing("resting");
    sleep_for((double)draw_between(&worker->random, 1, 200) / 1e3);
}

static void start_worker(unsigned place);

/* Runs when the thread's storage goes: the allocator may have said goodbye to the thread already. */
static void end_worker(void *argument)
{
    struct worker *worker = argument;
    const unsigned place = worker->place;
    release(worker, &worker->late);
    worker->late = make(worker);
    release(worker, &worker->late);
    free(worker);
    if (!atomic_load(&stopping))
        start_worker(place);
    pthread_mutex_lock(&crew.lock);
    crew.alive--;
    pthread_cond_signal(&crew.changed);
    pthread_mutex_unlock(&crew.lock);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    uint64_t life = draw_between(&worker->random, SHORTEST_LIFE, LONGEST_LIFE), done = 0;
    start_work(worker->place, worker->ordinal);
    pthread_setspecific(late_key, worker);
    for (; done < life && !atomic_load_explicit(&stopping, memory_order_relaxed); done++) {
        if (once_in(&worker->random, 4000))
            burst(worker);
        else if (once_in(&worker->random, 20000))
            rest(worker);
        else
            operate(worker);
    }
    worker->late = make(worker);
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (worker->own[i].bytes != NULL && once_in(&worker->random, 2))
            exchange(worker, &worker->own[i]);
        release(worker, &worker->own[i]);
    }
    atomic_fetch_add(&operations, done);
    atomic_fetch_add(&lives, 1);
    return NULL;
}

/* From here on its place is no longer the caller's. */
static void start_worker(unsigned place)
{
    pthread_t thread;
    pthread_attr_t detached;
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        fail(FOUND_WRONG, "no memory for a worker");
    worker->ordinal = atomic_fetch_add(&workers_born, 1);
    worker->place = place;
    worker->random = random_of(worker->ordinal);
    doing("thread creation");
    pthread_mutex_lock(&crew.lock);
    crew.alive++;
    pthread_mutex_unlock(&crew.lock);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &detached, work, worker);
    pthread_attr_destroy(&detached);
    if (error != 0)
        fail(FOUND_WRONG, "%s", strerror(error));
}

static void wait_for_all(void)
{
    pthread_mutex_lock(&crew.lock);
    while (crew.alive > 0)
        pthread_cond_wait(&crew.changed, &crew.lock);
    pthread_mutex_unlock(&crew.lock);
}

static void release_slots(void)
{
    struct worker sweeper = {.ordinal = workers_born, .random = options.seed};
    for (unsigned i = 0; i < SLOTS; i++) {
        pthread_mutex_lock(&slots[i].lock);
        release(&sweeper, &slots[i].object);
        pthread_mutex_unlock(&slots[i].lock);
    }
}

/* Whose bytes were checked? A renamed or preloaded library that nobody called would pass every test. */
static void print_allocator(void)
{
    struct slab_stats stats = {0};
    if (slab_get_stats == NULL) {
        printf("stress: not on slabmalloc\n");
        return;
    }
    slab_get_stats(&stats, sizeof stats);
    if (stats.refills == 0) {
        fail(FOUND_WRONG, "slabmalloc is there, but served nothing");
    }
    printf("stress: on slabmalloc, %" PRIu64 " refills, %" PRIu64 " drains, %" PRIu64 " slabs made\n", stats.refills,
           stats.drains, stats.slabs_made);
}

/* -- the program ---------------------------------------------------------------------------------------- */

static const struct program program = {
    .name = "stress",
    .about = "Threads do random things to objects of random sizes and check every byte.",
    .knows = KNOWS_SIZES,
    .least_threads = 1,
};

static const char *what_is_missing(void)
{
    return tallied(&lives) < LEAST_LIVES ? "waiting for workers to end" : NULL;
}

int main(int count, char **words)
{
    options.seconds = 5;
    options.threads = 4;
    options.largest = 4 << 20;
    options.align = 16;
    parse_options(&program, count, words);
    printf("stress: seed %" PRIu64 ", %" PRIu64 " threads at a time, %g s\n", options.seed, options.threads,
           options.seconds);
    fflush(stdout);
    begin_work(program.name, options.seed);
    void *volatile ballast = malloc(8 << 20); /* what it is worth only in a larger heap is done here, too */
    start_work(1, 0);
    const double end = now_in_seconds() + options.seconds;
    for (unsigned i = 0; i < SLOTS; i++)
        pthread_mutex_init(&slots[i].lock, NULL);
    pthread_key_create(&late_key, end_worker);
    for (unsigned i = 0; i < options.threads; i++)
        start_worker(i + 2);
    for (unsigned looks = 1; !is_over(end, what_is_missing); looks++) {
        doing("working");
        sleep_for(2e-3);
        doing("malloc_trim");
        if (looks % 16 == 0)
            malloc_trim(0);
    }
    doing("waiting for the threads to end");
    atomic_store(&stopping, true);
    wait_for_all();
    release_slots();
    free(ballast);
    printf("stress: %" PRIu64 " operations by %" PRIu64 " threads, no byte wrong (seed %" PRIu64 ")\n",
           atomic_load(&operations), atomic_load(&workers_born), options.seed);
    print_allocator();
    return FOUND_NOTHING;
}
