/* What the tests of large objects share. These lie on the last node. */
#pragma once

#include "spans.h"
#include "unit.h"

#include "os/topology.h"
#include "page/reservation.h"
#include "slab/large.h"

static unsigned node;

static int begin(void **state)
{
    node = slm_nodes - 1;
    return start_library(state);
}

/* Bytes that are free nowhere. */
static size_t more_than_free(void)
{
    return slm_reservation_heap_bytes() + SLM_GRANULE;
}

static char *take(size_t n, size_t alignment)
{
    bool clean;
    char *object = slm_large_alloc(n, alignment, node, &clean);
    require(object != NULL);
    require((uintptr_t)object % alignment == 0);
    if (clean)
        require(all_zero(object, n));
    return object;
}

static void give(char *object)
{
    require(slm_large_free(slm_large_of(object)) > 0);
}

/* A byte that follows from where it is. */
static void fill(char *object, size_t from, size_t to)
{
    for (size_t at = from; at < to; at++)
        object[at] = (char)(at >> 3 ^ at >> 13);
}

static void check(const char *object, size_t from, size_t to)
{
    for (size_t at = from; at < to; at++)
        require(object[at] == (char)(at >> 3 ^ at >> 13));
}
