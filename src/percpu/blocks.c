/* Blocks; see blocks.h. */
#include "percpu/blocks.h"

#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "os/topology.h"
#include "os/vm.h"
#include "page/metadata.h"
#include "page/reservation.h"

enum { ROWS_BYTES = 4096, ROWS = ROWS_BYTES / sizeof(struct slm_percpu_block), TABLES = 512 };
enum { BOUND_MOST = 8192 };  /* mappings that binding may make, of 65,530 that a process may have */
enum { SEARCHED_MOST = 16 }; /* maps searched for the best fit in a class */
enum { IN_VAIN_MOST = 64 };  /* maps searched in vain before only classes that surely have room are searched */

static_assert(sizeof(struct slm_percpu_block) == 32, "a row, as percpu/blocks.h says");

static slm_sparse struct slm_percpu_block *tables[TABLES]; /* of ROWS rows each, made in order */
static unsigned blocks_end;                                /* above the last block that was ever mapped */
static unsigned pieces_a_block, blocks_most;
static unsigned runs_bound, runs_a_block; /* runs of consecutive CPUs of one node */
static bool binds;
static slm_sparse uint8_t cpu_nodes[SLM_CPUS_MAX]; /* on machines that bind */

static struct slm_percpu_block *row(unsigned number)
{
    return &tables[number / ROWS][number % ROWS];
}

static size_t block_bytes(void)
{
    return (size_t)pieces_a_block << SLM_PERCPU_PIECE_SHIFT;
}

static char *block_address(unsigned number)
{
    return slm_range.percpu + number * block_bytes();
}

/* The end of the run of CPUs from `cpu` on that are of its node. */
static unsigned run_end(unsigned cpu)
{
    const uint8_t node = cpu_nodes[cpu];
    while (cpu < pieces_a_block - 1 && cpu_nodes[cpu] == node)
        cpu++;
    return cpu;
}

bool slm_percpu_blocks_start(unsigned cpus, bool bind)
{
    pieces_a_block = cpus + 1;
    blocks_most = (unsigned)slm_min(TABLES * ROWS, slm_range.percpu_bytes / block_bytes());
    binds = bind && slm_topology_binds();
    runs_a_block = 0;
    if (binds)
        slm_topology_cpu_nodes(cpu_nodes, cpus);
    for (unsigned cpu = 0; binds && cpu < cpus; cpu = run_end(cpu))
        runs_a_block++;
    return blocks_most > 0;
}

static void bind_pieces(char *pieces)
{
    for (unsigned cpu = 0, end; cpu < pieces_a_block - 1; cpu = end) {
        end = run_end(cpu);
        if (cpu_nodes[cpu] < SLM_NODES_MAX)
            slm_vm_bind(pieces + ((size_t)(cpu + 1) << SLM_PERCPU_PIECE_SHIFT),
                        (size_t)(end - cpu) << SLM_PERCPU_PIECE_SHIFT, cpu_nodes[cpu]);
    }
}

static bool map_pieces(char *pieces, struct slm_percpu_block *block)
{
    const size_t bytes = block_bytes() - SLM_PERCPU_PIECE;
    if (!slm_reservation_percpu_map(pieces + SLM_PERCPU_PIECE, bytes))
        return false;
    block->bound = binds && runs_bound + runs_a_block <= BOUND_MOST; /* beyond, first touch decides, mostly as well */
    if (block->bound) {
        bind_pieces(pieces);
        runs_bound += runs_a_block;
    }
    return true;
}

/* The row of a number up to blocks_end, whose table may have to be made. */
static struct slm_percpu_block *make_row(unsigned number)
{
    struct slm_percpu_block **table = &tables[number / ROWS];
    if (!*table) {
        struct slm_percpu_block *rows = slm_metadata_alloc(ROWS_BYTES);
        if (rows)
            memset(rows, 0, ROWS_BYTES);
        slm_store_fence(); /* as for a block's map */
        *table = rows;
    }
    return *table ? row(number) : NULL;
}

/* Map the lowest block that is not mapped and whose addresses are free. If a fork interrupts this, the child loses
 * the mapping, and treats it like a foreign one. */
static struct slm_percpu_block *map_block(unsigned *number)
{
    for (unsigned n = 0; n < blocks_most; n++) {
        struct slm_percpu_block *block = make_row(n);
        if (!block)
            return NULL;
        blocks_end = (unsigned)slm_max(blocks_end, n + 1);
        if (block->map)
            continue;
        *number = n;
        if (map_pieces(block_address(n), block))
            return block;
        if (errno != EEXIST)
            return NULL;
    }
    return NULL;
}

static struct slm_percpu_block *make_block(unsigned *number)
{
    struct slm_percpu_map *map = slm_metadata_alloc(sizeof *map);
    struct slm_percpu_block *block = map ? map_block(number) : NULL;
    if (!block) {
        if (map)
            slm_metadata_free(map, sizeof *map);
        errno = ENOMEM;
        return NULL;
    }
    memset(map, 0, sizeof *map);
    *block = (struct slm_percpu_block){.free_units = SLM_PERCPU_UNITS, .bound = block->bound};
    slm_percpu_lengths_add(&block->lengths, SLM_PERCPU_UNITS);
    slm_store_fence(); /* a child of fork that finds the map finds the rest */
    block->map = map;
    return block;
}

/* The first mapped block from `n` on with that many free units; blocks_end: none. */
static unsigned with_units(unsigned n, unsigned units)
{
    while (n < blocks_end && !(row(n)->map && row(n)->free_units >= units))
        n++;
    return n;
}

#define FOR_EACH_BLOCK(units) for (unsigned n = with_units(0, units); n < blocks_end; n = with_units(n + 1, units))

/* The lowest class of free runs, from `from` on, that a block with so many free units has. */
static unsigned lowest_class(unsigned from, unsigned units)
{
    unsigned lowest = SLM_PERCPU_CLASSES;
    for (unsigned n = with_units(0, units); n < blocks_end && lowest > from; n = with_units(n + 1, units))
        lowest = (unsigned)slm_min(lowest, slm_percpu_lengths_lowest(&row(n)->lengths, from));
    return lowest;
}

struct search {
    unsigned units, align;
    unsigned first_class; /* from here on runs may have room */
    unsigned searched;    /* maps, in all classes */
    unsigned number;      /* of the block with the best run so far */
    struct slm_percpu_run best;
};

static bool has_found(const struct search *search)
{
    return search->best.units <= SLM_PERCPU_UNITS;
}

/* Look through a map for its shortest run that has room, and correct its block's lengths. */
static void look_through(struct search *search, unsigned number)
{
    struct slm_percpu_block *block = row(number);
    struct slm_percpu_run run;
    search->searched++;
    if (slm_percpu_map_find(block->map, block->lowest, block->touched, search->units, search->align, &run,
                            &block->lengths) &&
        run.units < search->best.units) {
        search->number = number;
        search->best = run;
    }
}

/* Look through the maps whose shortest runs are of a class, or the first few of them. A map's best run may be of a
 * higher class, if runs of this one are too short after all, or nowhere aligned. Each map is looked through once. */
static void search_class(struct search *search, unsigned at_class)
{
    unsigned searched = 0;
    FOR_EACH_BLOCK (search->units) {
        if (search->best.units == search->units)
            break;
        if (slm_percpu_lengths_lowest(&row(n)->lengths, search->first_class) != at_class)
            continue;
        if (++searched > (has_found(search) ? SEARCHED_MOST : IN_VAIN_MOST))
            break;
        look_through(search, n);
    }
}

/* Class by class, up to that of the best run found. After many maps in vain only those are searched that surely have
 * room, wherever their runs begin. If there are none, searching every map is cheaper than a new block. */
static bool search_blocks(struct search *search)
{
    const unsigned always = (unsigned)slm_min(search->units + search->align - 1, SLM_PERCPU_UNITS);
    const unsigned sure = (unsigned)slm_min(slm_percpu_class(always) + 1, SLM_PERCPU_CLASSES - 1);
    unsigned at_class = search->first_class, last = SLM_PERCPU_CLASSES - 1;
    for (; (at_class = lowest_class(at_class, search->units)) <= last; at_class++) {
        search_class(search, at_class);
        if (has_found(search))
            last = slm_percpu_class(search->best.units);
        else if (search->searched >= IN_VAIN_MOST && at_class < sure) {
            search->first_class = sure;
            at_class = sure - 1;
        }
    }
    if (!has_found(search) && search->searched >= IN_VAIN_MOST)
        FOR_EACH_BLOCK (search->units)
            look_through(search, n);
    return has_found(search);
}

static void set_place(struct slm_percpu_place *place, unsigned number, unsigned at)
{
    *place = (struct slm_percpu_place){row(number), block_address(number), at};
}

bool slm_percpu_blocks_take(unsigned units, unsigned align, struct slm_percpu_place *place, unsigned *touched)
{
    struct search search = {units, align, slm_percpu_class(units), 0, 0, {0, SLM_PERCPU_UNITS + 1}};
    if (!search_blocks(&search)) {
        search.best = (struct slm_percpu_run){0, SLM_PERCPU_UNITS};
        if (!make_block(&search.number))
            return false;
    }
    const struct slm_percpu_run run = search.best;
    set_place(place, search.number, (unsigned)slm_align_up(run.at, align));
    struct slm_percpu_block *block = place->block;
    const unsigned end = place->at + units, before = place->at - run.at, behind = run.at + run.units - end;
    *touched = block->touched > place->at ? (unsigned)slm_min(block->touched - place->at, units) : 0;
    block->touched = (uint16_t)slm_max(block->touched, end);
    slm_store_fence(); /* a child of fork that finds bits knows that they were touched */
    slm_percpu_map_take(block->map, place->at, units);
    block->free_units = (uint16_t)(block->free_units - units);
    if (place->at == block->lowest)
        block->lowest = (uint16_t)end;
    if (before > 0)
        slm_percpu_lengths_add(&block->lengths, before);
    if (behind > 0)
        slm_percpu_lengths_add(&block->lengths, behind);
    return true;
}

void slm_percpu_blocks_put(const struct slm_percpu_place *place, unsigned units)
{
    struct slm_percpu_block *block = place->block;
    slm_percpu_lengths_add(&block->lengths, slm_percpu_map_put(block->map, place->at, units, block->touched));
    block->free_units = (uint16_t)(block->free_units + units);
    block->lowest = (uint16_t)slm_min(block->lowest, place->at);
}

bool slm_percpu_blocks_at(const void *address, struct slm_percpu_place *place, unsigned *piece)
{
    const size_t offset = (uintptr_t)address - (uintptr_t)slm_range.percpu;
    if (pieces_a_block == 0 || offset / block_bytes() >= blocks_end)
        return false;
    *piece = (unsigned)(offset % block_bytes() >> SLM_PERCPU_PIECE_SHIFT);
    set_place(place, (unsigned)(offset / block_bytes()), (unsigned)(offset % SLM_PERCPU_PIECE / SLM_PERCPU_UNIT));
    return place->block->map;
}

/* A child of fork in which the pieces are mapped but not known has only lost their addresses. */
bool slm_percpu_blocks_drop(const struct slm_percpu_place *place)
{
    struct slm_percpu_map *map = place->block->map;
    place->block->map = NULL;
    slm_store_fence();
    if (!slm_reservation_unmap(place->pieces + SLM_PERCPU_PIECE, block_bytes() - SLM_PERCPU_PIECE)) {
        place->block->map = map;
        return false;
    }
    runs_bound -= place->block->bound ? runs_a_block : 0;
    slm_metadata_free(map, sizeof *map);
    return true;
}

bool slm_percpu_blocks_vacant(struct slm_percpu_place *place)
{
    const unsigned n = with_units(0, SLM_PERCPU_UNITS);
    if (n < blocks_end)
        set_place(place, n, 0);
    return n < blocks_end;
}

/* Runs of all lengths are possible until the next search corrects that. */
slm_seldom void slm_percpu_blocks_recover(void)
{
    runs_bound = 0;
    FOR_EACH_BLOCK (0) {
        struct slm_percpu_block *block = row(n);
        runs_bound += block->bound ? runs_a_block : 0;
        block->free_units = (uint16_t)(SLM_PERCPU_UNITS - slm_percpu_map_count(block->map->used));
        block->lowest = 0;
        block->lengths = (struct slm_percpu_lengths){{~(uint64_t)0, ~(uint64_t)0}};
    }
}

void slm_percpu_blocks_check(const struct slm_percpu_block *block)
{
    struct slm_percpu_lengths lengths;
    struct slm_percpu_run run;
    slm_assert(block->free_units == SLM_PERCPU_UNITS - slm_percpu_map_count(block->map->used));
    slm_percpu_map_find(block->map, 0, SLM_PERCPU_UNITS, 1, 1, &run, &lengths);
    for (unsigned i = 0; i < SLM_PERCPU_CLASSES / 64; i++)
        slm_assert((lengths.bits[i] & ~block->lengths.bits[i]) == 0);
    for (unsigned word = 0; word < SLM_PERCPU_WORDS; word++)
        slm_assert((block->map->first[word] & ~block->map->used[word]) == 0);
    for (unsigned at = 0; at < block->lowest; at++)
        slm_assert(slm_percpu_map_bit(block->map->used, at));
    for (unsigned at = block->touched; at < SLM_PERCPU_UNITS; at++)
        slm_assert(!slm_percpu_map_bit(block->map->used, at));
}

void slm_percpu_blocks_count(struct slm_percpu_figures *figures)
{
    *figures = (struct slm_percpu_figures){.metadata_bytes = slm_align_up(blocks_end, ROWS) / ROWS * ROWS_BYTES};
    FOR_EACH_BLOCK (0) {
        figures->units += SLM_PERCPU_UNITS - row(n)->free_units;
        figures->objects += slm_percpu_map_count(row(n)->map->first);
        figures->mapped_bytes += block_bytes() - SLM_PERCPU_PIECE;
        figures->metadata_bytes += sizeof *row(n)->map;
    }
}
