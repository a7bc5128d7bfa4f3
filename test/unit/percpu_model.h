/* A naive model of a block of per-CPU memory, for the tests of its map and of several blocks: a number for each unit,
 * that of the object which has it, or 0. Nothing is kept beside it; every question walks over all units. Neighbours
 * have different numbers, so an object begins where the number changes. */
#pragma once

#include "unit.h"

#include "percpu/map.h"

struct model {
    uint16_t object[SLM_PERCPU_UNITS];
};

static inline void model_set(struct model *model, unsigned at, unsigned units, uint16_t number)
{
    for (unsigned unit = at; unit < at + units; unit++)
        model->object[unit] = number;
}

static inline bool model_is_first(const struct model *model, unsigned at)
{
    return model->object[at] != 0 && (at == 0 || model->object[at - 1] != model->object[at]);
}

/* The units from `at` on that are the same object's, or are free like it. */
static inline unsigned model_length(const struct model *model, unsigned at)
{
    unsigned end = at;
    while (end < SLM_PERCPU_UNITS && model->object[end] == model->object[at])
        end++;
    return end - at;
}

/* The free run that a free unit lies in. */
static inline struct slm_percpu_run model_run(const struct model *model, unsigned at)
{
    while (at > 0 && model->object[at - 1] == 0)
        at--;
    return (struct slm_percpu_run){at, model_length(model, at)};
}

static inline unsigned model_count_free(const struct model *model)
{
    unsigned units = 0;
    for (unsigned at = 0; at < SLM_PERCPU_UNITS; at++)
        units += model->object[at] == 0;
    return units;
}

static inline bool model_has_room(struct slm_percpu_run run, unsigned units, unsigned align)
{
    for (unsigned at = run.at; at + units <= run.at + run.units; at++)
        if (at % align == 0)
            return true;
    return false;
}

/* The shortest free run with room, of those the lowest. */
static inline bool model_find(const struct model *model, unsigned units, unsigned align, struct slm_percpu_run *best)
{
    bool found = false;
    for (unsigned at = 0, length; at < SLM_PERCPU_UNITS; at += length) {
        const struct slm_percpu_run run = {at, length = model_length(model, at)};
        if (model->object[at] == 0 && (!found || run.units < best->units) && model_has_room(run, units, align)) {
            *best = run;
            found = true;
        }
    }
    return found;
}

/* The classes of all free runs. */
static inline struct slm_percpu_lengths model_lengths(const struct model *model)
{
    struct slm_percpu_lengths lengths = {{0}};
    for (unsigned at = 0, length; at < SLM_PERCPU_UNITS; at += length) {
        length = model_length(model, at);
        if (model->object[at] == 0)
            lengths.bits[slm_percpu_class(length) / 64] |= (uint64_t)1 << slm_percpu_class(length) % 64;
    }
    return lengths;
}

/* How many units of the map are not what the model says. */
static inline unsigned model_differences(const struct model *model, const struct slm_percpu_map *map)
{
    unsigned differences = 0;
    for (unsigned at = 0; at < SLM_PERCPU_UNITS; at++)
        differences += slm_percpu_map_bit(map->used, at) != (model->object[at] != 0) ||
                       slm_percpu_map_bit(map->first, at) != model_is_first(model, at);
    return differences;
}

/* Small ones as a rule, now and then up to half a block. */
static inline unsigned random_units(uint64_t *seed)
{
    return 1 + (unsigned)random_below(seed, (size_t)1 << (1 + random_below(seed, random_below(seed, 20) ? 9 : 13)));
}

/* Any for every other object, up to a page of 4 KiB. */
static inline unsigned random_align(uint64_t *seed)
{
    return 1u << (random_below(seed, 2) ? 0 : random_below(seed, 11));
}
