/* Threads that end: `larson`, `larson_small` and `births` of the program `threads`.
 *
 * larson: the server that Larson and Krishnan described (1998). A thread has a table of objects of 8 to 1,000 bytes
 * and replaces random ones by objects of random sizes; after ten thousand replacements it hands its table on to a
 * thread that it creates, and ends. The successor frees objects that its predecessors made, a fifth of what it frees.
 * The main thread fills the tables before the clock starts. An operation is a replacement: one free and one malloc,
 * its first bytes written.
 *
 * larson_small: the same with objects of 7 and 8 bytes, of which a cache line holds four and more. The main thread
 * deals them out at random, so that at first all threads write the same lines. Whether that stays so is the
 * allocator's doing: who makes the next object where one was freed goes on sharing its line. A thread lives for a
 * hundred thousand replacements, so that its birth hides nothing.
 *
 * births: a thread makes, writes and frees a few objects of ten sizes and ends, having created the next one. An
 * operation is one whole life: pthread_create, 200 objects, the end of the thread, and its being joined. Most of it
 * is the system's, and the same for all; what an allocator adds is making its state for a thread, filling it and
 * taking it down. */
#include "threads.h"

enum { LARSON_OBJECTS = 2000, BIRTHS_OBJECTS = 200 };

static const struct load {
    size_t smallest, largest;
    uint64_t replacements; /* in a life */
} any = {8, 1000, 10000}, small = {7, 8, 100000};

static void *make_random_object(uint64_t *random, const struct load *load)
{
    return make_object(load->smallest + bench_random(random) % (load->largest - load->smallest + 1));
}

static void fill_table(struct lane *lane, const struct load *load)
{
    void **objects = bench_pages(LARSON_OBJECTS * sizeof *objects);
    for (unsigned i = 0; i < LARSON_OBJECTS; i++)
        objects[i] = make_random_object(&lane->random, load);
    lane->state = objects;
}

/* The lane's objects change places with those of all lanes that have been filled so far, at random. */
static void deal(struct lane *lane)
{
    const struct lane *first = lane - lane->index;
    void **mine = lane->state;
    for (unsigned i = 0; i < LARSON_OBJECTS; i++) {
        const uint64_t draw = bench_random(&lane->random);
        void **theirs = first[draw % (lane->index + 1)].state;
        void **other = &theirs[(draw >> 32) % LARSON_OBJECTS], *object = mine[i];
        mine[i] = *other;
        *other = object;
    }
}

static void replace_objects(struct lane *lane, const struct load *load)
{
    void **objects = lane->state;
    uint64_t done = 0, random = lane->random;
    for (; done < load->replacements && !stopped(); done++) {
        void **object = &objects[bench_random(&random) % LARSON_OBJECTS];
        free(*object);
        *object = make_random_object(&random, load);
    }
    lane->random = random;
    lane->operations += done;
}

static void fill(struct lane *lane)
{
    fill_table(lane, &any);
}

static void replace(struct lane *lane)
{
    replace_objects(lane, &any);
}

const struct workload larson = {"larson", 1, fill, replace};

static void fill_small(struct lane *lane)
{
    fill_table(lane, &small);
    deal(lane);
}

static void replace_small(struct lane *lane)
{
    replace_objects(lane, &small);
}

const struct workload larson_small = {"larson_small", 1, fill_small, replace_small};

static void live_shortly(struct lane *lane)
{
    static const size_t sizes[] = {16, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    void *objects[BIRTHS_OBJECTS];
    for (unsigned i = 0; i < BIRTHS_OBJECTS; i++)
        objects[i] = make_object(sizes[i % SIZES]);
    for (unsigned i = 0; i < BIRTHS_OBJECTS; i++)
        free(objects[i]);
    lane->operations++;
}

const struct workload births = {"births", BIRTHS_OBJECTS, NULL, live_shortly};
