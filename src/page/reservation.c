/* Mapping; see reservation.h. */
#include "page/reservation.h"

#include <errno.h>

#include "base/panic.h"
#include "os/vm.h"
#include "page/charge.h"
#include "sync/lock.h"

#define SECTION_LEAST ((size_t)2048) /* with pages of 4 KiB */

/* For each granule. */
#define METADATA_BYTES (SLM_GRANULE / 128)
#define PERCPU_BYTES (SLM_GRANULE / 8)

/* Held while bookkeeping is mapped, once in so much heap: whoever waits for it needs what is being mapped. */
static struct slm_lock covering = {.rank = SLM_RANK_METADATA};
static struct slm_lock anchors = {.rank = SLM_RANK_METADATA}; /* held while memory is made like an anchor */
static _Atomic uint64_t bookkeeping_bytes;

/* Of the area and of the node with that number. Most machines have one, which is apart from the others. */
static struct used {
    _Atomic uint64_t area_bytes;
    _Atomic size_t metadata; /* bytes of the node's part */
} used_first;
static slm_sparse struct used used_others[SLM_AREAS_MAX - 1];

static struct used *used_in(unsigned area)
{
    return area == 0 ? &used_first : &used_others[area - 1];
}

/* Sections that are mapped, a bit each: of the map, of descriptors. The first word of each is apart, too. */
enum { MAP, DESCRIPTORS };
static _Atomic uint64_t covered_first[2];
static slm_sparse _Atomic uint64_t covered_rest[2][SLM_GRANULES_MAX / SECTION_LEAST / 64];

static _Atomic uint64_t *covered_word(unsigned what, size_t number)
{
    return number < 64 ? &covered_first[what] : &covered_rest[what][number / 64];
}

/* All has small pages: see page/huge.h. */
static slm_cold bool map(void *address, size_t size)
{
    return slm_vm_map(address, size, (slm_range.reserved ? SLM_VM_RESERVED : 0) | SLM_VM_SMALL_PAGES);
}

static slm_cold bool map_bookkeeping(void *address, size_t size)
{
    const bool done = map(address, size);
    if (done)
        add_relaxed(&bookkeeping_bytes, size);
    return done;
}

static size_t range_bytes(size_t granules)
{
    const size_t each = SLM_DESCRIPTOR_BYTES + METADATA_BYTES + SLM_GRANULE + PERCPU_BYTES;
    return (size_t)-SLM_SIZES_OFFSET + granules * each;
}

/* Set the range's parts. The sizes are mapped first, which shows that the range is usable, and with them what follows
 * them: the first section of the page map. */
static bool try_range(char *start, size_t granules)
{
    if (!start)
        return false;
    slm_range.granules = granules;
    slm_range.descriptors = start;
    slm_range.metadata = slm_range.descriptors + granules * SLM_DESCRIPTOR_BYTES;
    slm_range.heap = slm_range.metadata + granules * METADATA_BYTES - SLM_SIZES_OFFSET;
    slm_range.percpu = slm_range.heap + granules * SLM_GRANULE;
    slm_range.percpu_bytes = granules * PERCPU_BYTES;
    covered_first[MAP] =
        map_bookkeeping(slm_range.heap + SLM_SIZES_OFFSET, SLM_SIZES_BYTES + slm_range.section * sizeof(uint32_t));
    return covered_first[MAP];
}

static bool find_range(void)
{
    const size_t most = range_bytes(SLM_GRANULES_MAX);
    for (unsigned attempt = 0; attempt < 4; attempt++) /* a random range may be taken */
        if (try_range(slm_vm_pick_range(most, attempt), SLM_GRANULES_MAX))
            return true;
    slm_range.reserved = true;
    for (size_t granules = SLM_GRANULES_MAX / 8; granules >= slm_range.section; granules /= 2)
        if (try_range(slm_vm_reserve_range(range_bytes(granules)), granules))
            return true;
    return false;
}

slm_cold bool slm_reservation_start(void)
{
    slm_range.section = slm_max(2 * slm_page_size / sizeof(uint32_t), SECTION_LEAST);
    if (find_range()) {
        slm_reservation_cut();
        return true;
    }
    slm_warn("no address range can be reserved: every allocation will fail", NULL);
    return false;
}

static bool is_covered(unsigned what, size_t number)
{
    return load_acquire(covered_word(what, number)) >> number % 64 & 1; /* pairs with the release below */
}

static size_t section_of(size_t granule)
{
    return granule >> slm_log2(slm_range.section); /* a power of two */
}

/* How many sections begin below that granule. */
static size_t sections_below(size_t granule)
{
    return section_of(granule + slm_range.section - 1);
}

/* Map the bookkeeping of sections from `number` to `end`, of which the first one's is at `address`, where that is not
 * done: each run by one call. False with EEXIST if a foreign mapping lies there. Takes a lock, as areas that grow at
 * the same time cover the same maps. */
static slm_cold bool cover(unsigned what, size_t number, size_t end, char *address, size_t bytes)
{
    bool covered = true;
    if (number >= end)
        return true;
    slm_lock_acquire(&covering);
    while (number < end && covered) {
        size_t run = 0;
        while (number + run < end && !is_covered(what, number + run))
            run++;
        covered = run == 0 || map_bookkeeping(address, run * bytes);
        if (covered)
            slm_charge_metadata(run * bytes);
        for (const size_t next = number + slm_max(run, 1); covered && number < next; number++, address += bytes)
            atomic_fetch_or_explicit(covered_word(what, number), (uint64_t)1 << number % 64, memory_order_release);
    }
    slm_lock_release(&covering);
    return covered;
}

/* Sections of the maps of the areas from `area` on. */
static slm_cold bool cover_maps(unsigned area, size_t number, size_t end)
{
    const size_t bytes = slm_range.section * sizeof(uint32_t);
    for (; area < slm_area_count(); area++) {
        const size_t before = section_of((size_t)area << slm_range.area_shift);
        if (!cover(MAP, before + number, before + end, slm_area_start(area) + SLM_MAP_OFFSET + number * bytes, bytes))
            return false;
    }
    return true;
}

static slm_cold void cut(unsigned nodes)
{
    slm_range.node_mask = nodes == 1 ? 0 : (2u << slm_log2(nodes - 1)) - 1;
    slm_range.area_shift = slm_log2(slm_range.granules / slm_area_count());
    slm_range.metadata_part = slm_range.granules * METADATA_BYTES / (slm_range.node_mask + 1);
}

slm_cold void slm_reservation_cut(void)
{
    cut(slm_nodes);
    if (((size_t)1 << slm_range.area_shift) < 2 * slm_max(slm_range.section, SLM_AREA_TAIL))
        cut(slm_nodes = 1);
    if (slm_nodes > 1) /* of the areas that there were not before */
        cover_maps(1, 0, sections_below(slm_heap_limit));
}

static void raise_limit(size_t limit)
{
    size_t old = __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
    while (old < limit &&
           !__atomic_compare_exchange_n(&slm_heap_limit, &old, limit, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

/* The page maps of all areas are covered up to here: stepping over a foreign mapping leaves no hole below the
 * limit of the heap. */
slm_cold bool slm_reservation_describe(size_t first, size_t count, bool map_them)
{
    const size_t inside = slm_granule_in_area(first), bytes = slm_range.section * SLM_DESCRIPTOR_BYTES;
    const size_t behind = first + count - (inside + count == (size_t)1 << slm_range.area_shift);
    const size_t begin = section_of(first - (inside > 0)), end = section_of(behind) + 1;
    size_t number = begin;
    while (number < end && is_covered(DESCRIPTORS, number))
        number++;
    if (!map_them)
        return number == end;
    const size_t covered = sections_below(__atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED));
    return cover(DESCRIPTORS, number, end, slm_range.descriptors + number * bytes, bytes) &&
           cover_maps(0, covered, sections_below(inside + count));
}

/* Memory of a bound area is made like its anchor: programs may have locked or protected the memory before it. */
static slm_seldom bool map_bound(unsigned area, void *address, size_t bytes)
{
    slm_lock_acquire(&anchors);
    const bool done = slm_vm_map_as(slm_area_start(area), address, bytes, SLM_VM_SMALL_PAGES);
    slm_lock_release(&anchors);
    return done;
}

static bool map_heap(size_t first, size_t bytes)
{
    const unsigned area = slm_area_of_granule(first);
    char *address = slm_granule_address(first);
    return slm_range.bound[area] ? map_bound(area, address, bytes) : map(address, bytes);
}

slm_cold bool slm_reservation_extend(size_t first, size_t count)
{
    const size_t bytes = count << SLM_GRANULE_SHIFT;
    if (!slm_reservation_describe(first, count, true) || !map_heap(first, bytes))
        return false;
    add_relaxed(&used_in(slm_area_of_granule(first))->area_bytes, bytes);
    raise_limit(slm_granule_in_area(first) + count);
    return true;
}

slm_seldom bool slm_reservation_bind(unsigned area)
{
    char *anchor = slm_area_start(area);
    const unsigned node = slm_node_of_area(area);
    if (slm_range.reserved || area > slm_range.node_mask || !slm_topology_binds() || !slm_topology_is_online(node) ||
        !slm_vm_map(anchor, 2 * slm_page_size, 0))
        return false;
    slm_range.bound[area] = slm_vm_bind(anchor, 2 * slm_page_size, node);
    if (!slm_range.bound[area]) /* the node has no memory, or none for us */
        slm_vm_unmap(anchor, 2 * slm_page_size, false);
    return slm_range.bound[area];
}

bool slm_reservation_described(size_t granule)
{
    const size_t number = section_of(granule);
    return slm_granule_valid(granule) && is_covered(DESCRIPTORS, number);
}

slm_cold bool slm_reservation_unmap(void *address, size_t bytes)
{
    const size_t granule = slm_granule_of(address);
    if (!slm_vm_unmap(address, bytes, slm_range.reserved))
        return false;
    if (granule < slm_range.granules)
        sub_relaxed(&used_in(slm_area_of_granule(granule))->area_bytes, bytes);
    else /* per-CPU memory */
        slm_charge_sub(bytes);
    return true;
}

slm_seldom bool slm_reservation_map_again(void *address, size_t bytes)
{
    const size_t granule = slm_granule_of(address);
    if (!map(address, bytes))
        return false;
    add_relaxed(&used_in(slm_area_of_granule(granule))->area_bytes, bytes);
    return true;
}

/* Threads that come at once pick addresses one after the other. What cannot be mapped is for the next one, even if
 * others have picked more: that is in its way, and is stepped over. */
slm_cold void *slm_reservation_metadata(unsigned node, size_t bytes)
{
    char *part = slm_range.metadata + node * slm_range.metadata_part;
    for (unsigned attempt = 0; attempt < 64; attempt++) {
        size_t at = atomic_fetch_add_explicit(&used_in(node)->metadata, bytes, memory_order_relaxed);
        const bool fits = at < slm_range.metadata_part && slm_range.metadata_part - at >= bytes;
        if (fits && map_bookkeeping(part + at, bytes))
            return part + at;
        if (!fits || errno != EEXIST) {
            size_t now = at + bytes;
            while (!atomic_compare_exchange_weak_explicit(&used_in(node)->metadata, &now, at, memory_order_relaxed,
                                                          memory_order_relaxed) &&
                   now > at && !slm_range.reserved)
                ;
            break;
        }
    }
    errno = ENOMEM;
    return NULL;
}

unsigned slm_reservation_metadata_node(const void *address)
{
    return (unsigned)((size_t)((const char *)address - slm_range.metadata) / slm_range.metadata_part);
}

/* A huge page would lie on one node, with copies of several nodes' CPUs. */
slm_seldom bool slm_reservation_percpu_map(void *address, size_t bytes)
{
    const bool fits = slm_charge_take(bytes), done = fits && map(address, bytes);
    if (fits && !done)
        slm_charge_sub(bytes);
    if (!fits)
        errno = ENOMEM;
    return done;
}

uint64_t slm_reservation_area_bytes(unsigned area)
{
    return load_relaxed(&used_in(area)->area_bytes);
}

uint64_t slm_reservation_heap_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned area = 0; area < slm_area_count(); area++)
        bytes += slm_reservation_area_bytes(area);
    return bytes;
}

uint64_t slm_reservation_metadata_bytes(void)
{
    return load_relaxed(&bookkeeping_bytes);
}
