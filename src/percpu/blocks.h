/* The blocks of per-CPU memory. They lie in one range of addresses; each CPU has a piece of 64 KiB in every block.
 *
 *     | block 0                              | block 1                          | ...
 *     | not mapped | CPU 0 | CPU 1 | ...     | not mapped | CPU 0 | ...
 *       ^ an object's address lies here; its copies lie at the same distance from the starts of the pieces
 *
 * A block is mapped whole, by one call; its pages come with their first use. On a machine with several nodes each
 * CPU's piece is bound to that CPU's node. What manages a block is there once, not for each CPU: a map of 4 KiB and
 * a row of 32 bytes. Where something of the program's lies already a block is left out.
 *
 * All of it is under the caller's lock (percpu/percpu.c). */
#pragma once

#include "percpu/map.h"

struct slm_percpu_block {
    struct slm_percpu_map *map;        /* NULL: not mapped */
    struct slm_percpu_lengths lengths; /* of its free runs: may have too many, never lacks one */
    uint16_t free_units;
    uint16_t lowest;  /* no unit below is free */
    uint16_t touched; /* no unit from here on has been handed out since the block was mapped: they are zero */
    bool bound;       /* its pieces are, to their CPUs' nodes */
};

/* Where an object is to lie, or lies. */
struct slm_percpu_place {
    struct slm_percpu_block *block;
    char *pieces; /* the block's first address */
    unsigned at;  /* the unit */
};

/* Once: for so many CPUs; `bind`: their numbers are those that copies go by. False: there is no range for so many. */
bool slm_percpu_blocks_start(unsigned cpus, bool bind);

/* Take units from the shortest free run of all blocks that has room for them, else from a new block. (Where more
 * than 16 blocks have runs of one class, from the shortest of 16; after 64 blocks without an aligned place, from any
 * that has room.) The first *touched units may not be zero. False: ENOMEM. */
bool slm_percpu_blocks_take(unsigned units, unsigned align, struct slm_percpu_place *place, unsigned *touched);

/* Put them back. */
void slm_percpu_blocks_put(const struct slm_percpu_place *place, unsigned units);

/* The mapped block that an address lies in, and the unit of its piece; false: none. *piece is the piece's number: 0
 * for objects, else one more than its CPU's. */
bool slm_percpu_blocks_at(const void *address, struct slm_percpu_place *place, unsigned *piece);

/* Give a vacant block back to the kernel; false if it refuses. */
bool slm_percpu_blocks_drop(const struct slm_percpu_place *place);

/* A vacant block, the first of them; false: none. */
bool slm_percpu_blocks_vacant(struct slm_percpu_place *place);

/* In the child of a fork in the middle of a call: the rows become what the maps say. */
void slm_percpu_blocks_recover(void);

/* Checked builds: stop if a row is not what its map says. */
void slm_percpu_blocks_check(const struct slm_percpu_block *block);

struct slm_percpu_figures {
    uint64_t objects, units;               /* live */
    uint64_t mapped_bytes, metadata_bytes; /* of all CPUs together; of maps and rows */
};
void slm_percpu_blocks_count(struct slm_percpu_figures *figures);
