/* Threads that end: `larson` and `births` of the program `threads`.
 *
 * larson: the server that Larson and Krishnan described (1998). A thread has a table of objects of 8 to 1,000 bytes
 * and replaces random ones by objects of random sizes; after ten thousand replacements it hands its table on to a
 * thread that it creates, and ends. The successor frees objects that its predecessors made, a fifth of what it frees.
 * The main thread fills the tables before the clock starts. An operation is a replacement: one free and one malloc,
 * its first bytes written.
 *
 * births: a thread makes, writes and frees a few objects of ten sizes and ends, having created the next one. An
 * operation is one whole life: pthread_create, 200 objects, the end of the thread, and its being joined. Most of it
 * is the system's, and the same for all; what an allocator adds is making its state for a thread, filling it and
 * taking it down. */
#include "threads.h"

enum {
    LARSON_OBJECTS = 2000,
    LARSON_REPLACEMENTS = 10000,
    LARSON_SMALLEST = 8,
    LARSON_LARGEST = 1000,
    BIRTHS_OBJECTS = 200
};

static void *make_random_object(uint64_t *random)
{
    return make_object(LARSON_SMALLEST + bench_random(random) % (LARSON_LARGEST - LARSON_SMALLEST + 1));
}

static void fill_table(struct lane *lane)
{
    void **objects = bench_pages(LARSON_OBJECTS * sizeof *objects);
    for (unsigned i = 0; i < LARSON_OBJECTS; i++)
        objects[i] = make_random_object(&lane->random);
    lane->state = objects;
}

static void replace_objects(struct lane *lane)
{
    void **objects = lane->state;
    uint64_t done = 0, random = lane->random;
    for (; done < LARSON_REPLACEMENTS && !stopped(); done++) {
        void **object = &objects[bench_random(&random) % LARSON_OBJECTS];
        free(*object);
        *object = make_random_object(&random);
    }
    lane->random = random;
    lane->operations += done;
}

const struct workload larson = {"larson", 1, fill_table, replace_objects};

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
