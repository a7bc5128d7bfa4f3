/* The blocks of per-CPU memory. They lie in one range of addresses; each CPU has a piece of 64 KiB in every block.
 *
 *     | block 0                              | block 1                          | ...
 *     | not mapped | CPU 0 | CPU 1 | ...     | not mapped | CPU 0 | ...
 *       ^ an object's address lies here; its copies lie at the same distance from the starts of the pieces
 *
 * A block is mapped by one call; its pages come with their first use. On a machine with several nodes each CPU's
 * piece is bound to that CPU's node. A block has one map of 4 KiB and one row of 32 bytes for all CPUs. A block whose
 * addresses the program uses already is left out. All calls are made under the caller's lock (percpu/percpu.c). */
#pragma once

#include "percpu/map.h"

struct slm_percpu_block {
    struct slm_percpu_map *map;        /* NULL: not mapped */
    struct slm_percpu_lengths lengths; /* of its free runs: maybe more, never fewer */
    uint16_t free_units;
    uint16_t lowest;  /* no unit below is free */
    uint16_t touched; /* no unit from here on was handed out since the block was mapped: they are zero */
    bool bound;       /* its pieces are bound to their CPUs' nodes */
};

/* Where an object is to lie, or lies. */
struct slm_percpu_place {
    struct slm_percpu_block *block;
    char *pieces; /* the block's first address */
    unsigned at;  /* the unit */
};

/* Once. `bind`: copies are indexed by CPU number. False: the range is too small for that many CPUs. */
bool slm_percpu_blocks_start(unsigned cpus, bool bind);

/* Take units from the shortest free run of all blocks that has room for them, else from a new block. (If more than 16
 * blocks have runs of one class, from the shortest of 16; after 64 blocks without an aligned unit, from any run that
 * has room.) The first *touched units may be other than zero. False: ENOMEM. */
bool slm_percpu_blocks_take(unsigned units, unsigned align, struct slm_percpu_place *place, unsigned *touched);

void slm_percpu_blocks_put(const struct slm_percpu_place *place, unsigned units);

/* The mapped block and the unit that an address lies in; false: none. *piece: 0 for objects, else 1 + CPU. */
bool slm_percpu_blocks_at(const void *address, struct slm_percpu_place *place, unsigned *piece);

/* The first vacant block; false: none. And give one back to the kernel; false if it refuses. */
bool slm_percpu_blocks_vacant(struct slm_percpu_place *place);
bool slm_percpu_blocks_drop(const struct slm_percpu_place *place);

/* In the child of a fork in the middle of a call: make the rows agree with the maps. */
void slm_percpu_blocks_recover(void);

/* Checked builds: stop if a row does not agree with its map. */
void slm_percpu_blocks_check(const struct slm_percpu_block *block);

struct slm_percpu_figures {
    uint64_t objects, units;               /* live */
    uint64_t mapped_bytes, metadata_bytes; /* of all CPUs together; of maps and rows */
};
void slm_percpu_blocks_count(struct slm_percpu_figures *figures);
