/* What the tests of depots share: each test has a depot of its own, on the last node, of objects of 1024 bytes, 64 to
 * a slab, and leaves nothing in it. */
#pragma once

#include "checks.h"
#include "unit.h"

#include "depot/depot.h"
#include "depot/shards.h"
#include "os/topology.h"
#include "spans.h"

enum { SIZE = 1024, A_SLAB = 64 };

static struct slm_slab_shape shape = {.object_size = SIZE};
static struct slm_depot depot;

static int begin(void **state)
{
    const int started = start_library(state);
    slm_slab_shape_fill(&shape);
    return started;
}

static int fresh_depot(void **state)
{
    (void)state;
    store_relaxed(&depot.shards, NULL); /* those of the last test are lost */
    slm_depot_init(&depot, &shape, "test", slm_nodes - 1);
    return 0;
}

static uint64_t slabs(void)
{
    uint64_t sum = 0;
    for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at))
        sum += slm_depot_slabs(at);
    return sum;
}

static uint64_t objects_out(void)
{
    uint64_t sum = 0;
    for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at))
        sum += load_relaxed(&at->objects_out);
    return sum;
}

static int all_has_gone(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) /* what one shard has in stock makes another's slabs vacant */
        for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at)) {
            check_depot(at);
            slm_depot_trim(at, true);
            check_depot(at);
        }
    for (unsigned node = 0; node < slm_nodes; node++)
        slm_span_check(node);
    return objects_out() == 0 && slabs() == 0 ? 0 : -1;
}

/* Exactly n objects, in however many calls. */
static void fill(void **rounds, unsigned n)
{
    for (unsigned got = 0; got < n;) {
        const unsigned now = slm_depot_fill(&depot, rounds + got, n - got);
        require(now > 0 && now <= n - got);
        got += now;
    }
}

#define depot_test(name) cmocka_unit_test_setup_teardown(name, fresh_depot, all_has_gone)
