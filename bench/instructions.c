/* The loops whose instructions are counted: instructions WORKLOAD, under callgrind (bench/suite/instructions.py).
 *
 * An operation is one object's malloc and free where a loop has both, one call where it has one alone, and the whole
 * life of one buffer in realloc_grow. How they are counted stands in instructions.h. */
#include "instructions.h"
#include "still_clock.h"

#include <malloc.h>

enum { OBJECTS = 1000, OBJECT_BYTES = 64, PAIR_BYTES = 16, BUFFERS = 50 };

static void *objects[OBJECTS];
static size_t sizes[OBJECTS];   /* spread evenly over the powers of two from 16 to 1024 bytes */
static unsigned order[OBJECTS]; /* a random permutation */
static volatile size_t usable_bytes;

static void loop_pair(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        free(malloc(PAIR_BYTES));
}

static void loop_malloc(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(OBJECT_BYTES);
}

static void loop_calloc(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = calloc(1, OBJECT_BYTES);
}

static void loop_free(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        free(objects[i]);
}

/* To twice the size, so that the object moves. */
static void loop_realloc(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = realloc(objects[i], 2 * OBJECT_BYTES);
}

static void loop_fifo(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(OBJECT_BYTES);
    for (unsigned i = 0; i < OBJECTS; i++)
        free(objects[i]);
}

static void loop_lifo(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(OBJECT_BYTES);
    for (unsigned i = OBJECTS; i-- > 0;)
        free(objects[i]);
}

/* Random sizes, freed in random order. */
static void loop_batch(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(sizes[i]);
    for (unsigned i = 0; i < OBJECTS; i++)
        free(objects[order[i]]);
}

static void loop_calloc_pair(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        free(calloc(1, OBJECT_BYTES));
}

/* A population of OBJECTS of random sizes, of which one at a time is replaced. */
static void loop_churn(void)
{
    static uint64_t random = 2;
    for (unsigned i = 0; i < OBJECTS; i++) {
        uint64_t number = bench_random(&random);
        unsigned victim = (number >> 32) % OBJECTS;
        free(objects[victim]);
        objects[victim] = malloc(sizes[number % OBJECTS]);
    }
}

static void populate(void)
{
    for (unsigned i = 0; i < OBJECTS; i++) {
        if (objects[i] == NULL)
            objects[i] = malloc(sizes[i]);
    }
}

/* Buffers that grow from 16 bytes to 4 KiB by doubling. */
static void loop_realloc_grow(void)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        void *buffer = NULL;
        for (size_t bytes = 16; bytes <= 4096; bytes *= 2)
            buffer = realloc(buffer, bytes);
        free(buffer);
    }
}

static void loop_usable(void)
{
    size_t sum = 0;
    for (unsigned i = 0; i < OBJECTS; i++)
        sum += malloc_usable_size(objects[i]);
    usable_bytes = sum;
}

static const struct workload workloads[] = {
    {"pair", nothing, loop_pair, nothing, OBJECTS},
    {"fifo", nothing, loop_fifo, nothing, OBJECTS},
    {"lifo", nothing, loop_lifo, nothing, OBJECTS},
    {"batch", nothing, loop_batch, nothing, OBJECTS},
    {"churn", populate, loop_churn, nothing, OBJECTS},
    {"malloc", nothing, loop_malloc, loop_free, OBJECTS},
    {"free", loop_malloc, loop_free, nothing, OBJECTS},
    {"calloc", nothing, loop_calloc, loop_free, OBJECTS},
    {"realloc", loop_malloc, loop_realloc, loop_free, OBJECTS},
    {"calloc_pair", nothing, loop_calloc_pair, nothing, OBJECTS},
    {"realloc_grow", nothing, loop_realloc_grow, nothing, BUFFERS},
    {"usable", populate, loop_usable, nothing, OBJECTS},
};

static void draw_tables(void)
{
    uint64_t random = 1;
    for (unsigned i = 0; i < OBJECTS; i++) {
        unsigned bits = bench_random(&random) % 7;
        sizes[i] = (8u << bits) + bench_random(&random) % (8u << bits) + 1;
        order[i] = i;
    }
    for (unsigned i = OBJECTS - 1; i > 0; i--) {
        unsigned other = bench_random(&random) % (i + 1), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

int main(int count, char **words)
{
    if (count != 2)
        bench_die("usage: %s WORKLOAD", words[0]);
    draw_tables();
    run_named(words[1], workloads, sizeof workloads / sizeof workloads[0]);
    return 0;
}
