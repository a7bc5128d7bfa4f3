/* A hot operation in two halves, so that a test can do something in between on another thread. */
#pragma once

#include "unit.h"

#include "depot/cache.h"
#include "thread/slots.h"

static struct slm_slot *under_way_slot;
static void **under_way_top;
static void *under_way_round;

/* The first half: what a hot path has loaded. */
static void begin_hot(void *used)
{
    under_way_slot = slm_slot_at(slm_hot(), ((const struct slm_cache *)used)->shape.slot_offset);
    under_way_top = slm_shared_load(&under_way_slot->top);
    require(under_way_top != under_way_slot->bottom && *under_way_top != NULL);
}

static void end_pop(void *nothing)
{
    (void)nothing;
    under_way_round = slm_slot_pop(under_way_slot, under_way_top);
}

static void end_push(void *object)
{
    slm_slot_push(under_way_slot, under_way_top, object);
}
