/* Contents that can be checked, and a load of blocks that come and go: the last part of common.h, which alone
 * includes it. */
#ifndef CONTRACT_LOAD_H
#define CONTRACT_LOAD_H

#include "common.h"

/* -- contents ---------------------------------------------------------------------------------------------------- */

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static inline unsigned char pattern_byte(size_t index, unsigned seed)
{
    return (unsigned char)(seed + index + (index >> 8) + (index >> 16));
}

static inline void pattern_fill(void *ptr, size_t size, unsigned seed)
{
    unsigned char *bytes = (unsigned char *)ptr;
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern_byte(i, seed);
}

static inline bool pattern_holds(const void *ptr, size_t size, unsigned seed)
{
    const unsigned char *bytes = (const unsigned char *)ptr;
    unsigned different = 0;
    for (size_t i = 0; i < size; i++)
        different |= (unsigned)(bytes[i] ^ pattern_byte(i, seed));
    return different == 0;
}

static inline bool all_zero(const void *ptr, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)ptr;
    unsigned seen = 0;
    for (size_t i = 0; i < size; i++)
        seen |= bytes[i];
    return seen == 0;
}

/* -- a load ------------------------------------------------------------------------------------------------------ */

struct block {
    void *ptr;
    size_t size;
    unsigned seed;
};

/* Mostly small, some of pages, a few large: the shape that servers have. */
static inline size_t random_size(uint64_t *state)
{
    uint64_t dice = random_next(state);
    unsigned kind = (unsigned)(dice >> 8) % 100;
    uint64_t value = dice >> 16;
    if (kind < 80)
        return (size_t)(value % 512);
    if (kind < 97)
        return (size_t)(value % (16 * KIB));
    return (size_t)(value % (400 * KIB));
}

static inline void block_make(struct block *block, uint64_t *state)
{
    block->size = random_size(state);
    block->seed = (unsigned)random_next(state);
    switch (block->seed >> 8 & 7) {
    case 0:
        block->ptr = calloc(1, block->size);
        require(block->ptr != NULL && all_zero(block->ptr, block->size));
        break;
    case 1:
        require(posix_memalign(&block->ptr, 64, block->size) == 0);
        break;
    default:
        block->ptr = malloc(block->size);
        require(block->ptr != NULL);
    }
    pattern_fill(block->ptr, block->size, block->seed);
}

static inline void block_resize(struct block *block, uint64_t *state)
{
    size_t size = random_size(state) + 1;
    size_t kept = size < block->size ? size : block->size;
    block->ptr = realloc(block->ptr, size);
    require(block->ptr != NULL && pattern_holds(block->ptr, kept, block->seed));
    block->size = size;
    pattern_fill(block->ptr, size, block->seed);
}

static inline void block_free(struct block *block)
{
    require(block->ptr == NULL || pattern_holds(block->ptr, block->size, block->seed));
    free(block->ptr);
    block->ptr = NULL;
}

/* Makes, resizes and frees blocks at random and checks every byte of them. */
static inline void churn(uint64_t seed, unsigned steps)
{
    struct block blocks[64];
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    memset(blocks, 0, sizeof blocks);
    for (unsigned step = 0; step < steps; step++) {
        struct block *block = &blocks[random_next(&state) % COUNT(blocks)];
        if (block->ptr == NULL)
            block_make(block, &state);
        else if (random_next(&state) % 4 == 0)
            block_resize(block, &state);
        else
            block_free(block);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        block_free(&blocks[i]);
}

/* Lets the other threads and processes of a test go first: what this one does is only the background. */
static inline void become_background(void)
{
    require(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19) == 0);
}

struct churner {
    pthread_t thread;
    uint64_t seed;
    unsigned steps; /* 0: in the background until *stop */
    const volatile bool *stop;
};

static inline void *churner_run(void *argument)
{
    struct churner *self = (struct churner *)argument;
    if (self->steps != 0) {
        churn(self->seed, self->steps);
        return NULL;
    }
    become_background();
    while (!__atomic_load_n(self->stop, __ATOMIC_RELAXED))
        churn(self->seed++, 500);
    return NULL;
}

static inline void churners_start(struct churner *churners, size_t count, unsigned steps, const volatile bool *stop)
{
    for (size_t i = 0; i < count; i++) {
        churners[i].seed = i + 1;
        churners[i].steps = steps;
        churners[i].stop = stop;
        require(pthread_create(&churners[i].thread, NULL, churner_run, &churners[i]) == 0);
    }
}

static inline void churners_join(struct churner *churners, size_t count)
{
    for (size_t i = 0; i < count; i++)
        require(pthread_join(churners[i].thread, NULL) == 0);
}

/* A little of everything in a few threads: proof that allocation works in this process. */
static inline void exercise(void)
{
    struct churner churners[4];
    churn(7, 700);
    churners_start(churners, COUNT(churners), 700, NULL);
    churners_join(churners, COUNT(churners));
    churn(8, 700);
}

#endif
