/* The loops whose instructions are counted: instructions WORKLOAD ROUNDS.
 *
 * The runner counts two run lengths and takes the difference, so start and warm-up cancel out. It counts the same
 * loops on functions that do nothing (`instructions_noop`: this file with malloc renamed to noop_malloc, see noop.c)
 * and takes their cost off. What remains is the callee and the jump through the PLT to it. */
#include "bench.h"

#include <malloc.h>

enum { OBJECTS = 1000 };

static void *objects[OBJECTS];
static size_t sizes[OBJECTS];
static unsigned order[OBJECTS];
static volatile size_t usable_bytes;

static void pair(uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++)
        free(malloc(16));
}

static void calloc_pair(uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++)
        free(calloc(1, 64));
}

static void fifo(uint64_t rounds)
{
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < OBJECTS; i++)
            objects[i] = malloc(64);
        for (unsigned i = 0; i < OBJECTS; i++)
            free(objects[i]);
    }
}

static void lifo(uint64_t rounds)
{
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < OBJECTS; i++)
            objects[i] = malloc(64);
        for (unsigned i = OBJECTS; i-- > 0;)
            free(objects[i]);
    }
}

/* Random sizes, freed in random order. */
static void batch(uint64_t rounds)
{
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < OBJECTS; i++)
            objects[i] = malloc(sizes[i]);
        for (unsigned i = 0; i < OBJECTS; i++)
            free(objects[order[i]]);
    }
}

/* A population of OBJECTS of random sizes, of which one at a time is replaced. */
static void churn(uint64_t rounds)
{
    uint64_t random = 2;
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = malloc(sizes[i]);
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < OBJECTS; i++) {
            uint64_t number = bench_random(&random);
            unsigned victim = (number >> 32) % OBJECTS;
            free(objects[victim]);
            objects[victim] = malloc(sizes[number % OBJECTS]);
        }
    }
}

/* A buffer that grows from 16 bytes to 4 KiB by doubling. */
static void realloc_grow(uint64_t rounds)
{
    for (uint64_t round = 0; round < rounds; round++) {
        void *buffer = NULL;
        for (size_t bytes = 16; bytes <= 4096; bytes *= 2)
            buffer = realloc(buffer, bytes);
        free(buffer);
    }
}

static void usable(uint64_t rounds)
{
    for (unsigned i = 0; i < 64; i++)
        objects[i] = malloc(16 * (i + 1));
    for (uint64_t round = 0; round < rounds; round++) {
        size_t sum = 0;
        for (unsigned i = 0; i < 64; i++)
            sum += malloc_usable_size(objects[i]);
        usable_bytes = sum;
    }
}

static const struct {
    const char *name;
    void (*run)(uint64_t rounds);
} workloads[] = {
    {"pair", pair},     {"fifo", fifo},
    {"lifo", lifo},     {"batch", batch},
    {"churn", churn},   {"calloc_pair", calloc_pair},
    {"usable", usable}, {"realloc_grow", realloc_grow},
};

/* Sizes spread evenly over the powers of two from 16 to 1024 bytes; a random permutation for the order of frees. */
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
    if (count != 3)
        bench_die("usage: %s WORKLOAD ROUNDS", words[0]);
    draw_tables();
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++) {
        if (strcmp(words[1], workloads[i].name) == 0) {
            workloads[i].run(bench_number(words[2]));
            return 0;
        }
    }
    bench_die("no workload %s", words[1]);
}
