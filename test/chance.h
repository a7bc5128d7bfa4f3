/* Random numbers of slabctl's tests, and of the programs that it looks into: the same from the same seed. */
#pragma once

#include <stdint.h>

struct chance {
    uint64_t state;
};

static inline uint64_t chance_next(struct chance *chance)
{
    chance->state = chance->state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = (chance->state ^ (chance->state >> 29)) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 32);
}

/* Above 0, below 1. */
static inline double chance_share(struct chance *chance)
{
    return ((double)(chance_next(chance) >> 11) + 0.5) / 9007199254740992.0;
}
