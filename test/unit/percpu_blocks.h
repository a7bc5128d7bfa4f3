/* What the tests of the blocks of per-CPU memory share. A process starts its blocks once, for a number of CPUs: each
 * test has children of its own, which check with require(). */
#pragma once

#include "unit.h"

#include "page/reservation.h"
#include "percpu/blocks.h"

static unsigned cpus; /* in the child that runs */

static inline size_t block_bytes(void)
{
    return ((size_t)cpus + 1) * SLM_PERCPU_PIECE;
}

static inline char *pieces_of(unsigned number)
{
    return slm_range.percpu + number * block_bytes();
}

static inline unsigned number_of(const struct slm_percpu_place *place)
{
    const size_t offset = (size_t)(place->pieces - slm_range.percpu);
    require(offset % block_bytes() == 0);
    return (unsigned)(offset / block_bytes());
}

/* The object's copy on a CPU. */
static inline char *copy(const struct slm_percpu_place *place, unsigned cpu)
{
    return place->pieces + (cpu + 1) * (size_t)SLM_PERCPU_PIECE + (size_t)place->at * SLM_PERCPU_UNIT;
}

static inline struct slm_percpu_place take(unsigned units)
{
    struct slm_percpu_place place;
    unsigned touched;
    require(slm_percpu_blocks_take(units, 1, &place, &touched));
    slm_percpu_blocks_check(place.block);
    return place;
}

static inline void put(struct slm_percpu_place place, unsigned units)
{
    slm_percpu_blocks_put(&place, units);
    slm_percpu_blocks_check(place.block);
}

static inline struct slm_percpu_figures count(void)
{
    struct slm_percpu_figures figures;
    slm_percpu_blocks_count(&figures);
    return figures;
}

static void (*running)(void);

static inline void start_and_run(void)
{
    require(slm_percpu_blocks_start(cpus, false));
    running();
}

static inline void in_child_with(unsigned number_of_cpus, void (*run)(void))
{
    cpus = number_of_cpus;
    running = run;
    assert_child_silent(start_and_run);
}

static inline void with_few_and_many_cpus(void (*run)(void))
{
    in_child_with(1, run);
    in_child_with(2, run);
    in_child_with(64, run);
    in_child_with(512, run);
}
