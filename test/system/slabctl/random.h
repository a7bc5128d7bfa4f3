/* For the programs that lie: whatever is random in them follows from one seed, in `chance`. */
#pragma once

#include "../../chance.h"

static struct chance chance;

static inline uint64_t random64(void)
{
    return chance_next(&chance);
}

static inline uint64_t random_below(uint64_t bound)
{
    return random64() % bound;
}
