/* What these tests share. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_near(a, b, distance) assert_true(fabs((double)(a) - (double)(b)) <= (distance))

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The same numbers from the same seed. */
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
