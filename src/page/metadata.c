/* Pieces cut from chunks, and lists of free ones; see metadata.h. Each node has a pool for the threads that run there
 * at the moment, so that they do not all wait for one lock, and their metadata is local. A piece returns to the pool
 * that it came from: otherwise magazines made on one node and freed on another would fill one pool and drain the
 * other forever. After a fork in the middle of a call the newest chunk's rest is lost; the lists, which change by one
 * store each, are whole (thread/thread_list.h). */
#include "page/metadata.h"

#include <string.h>

#include "os/vm.h"
#include "page/charge.h"
#include "page/reservation.h"
#include "sync/lock.h"

#define UNIT ((size_t)64)
#define PAGED ((size_t)4096) /* from this size on pieces lie apart from small ones */
#define CHUNK (4 * SLM_GRANULE)
#define CHARGED_MOST (SLM_GRANULE / 2) /* a thread's block is longer: of its 1 MiB only little is touched */

struct piece {
    struct piece *next;
};

struct rest { /* of the newest chunk */
    char *next, *end;
};

/* Pages, by number from the start of a node's part, that were purged and are cut anew. A metadata piece itself. */
struct bare {
    uint32_t count, room;
    uint32_t pages[];
};

struct pool {
    struct slm_lock lock;
    struct rest small, paged;
    struct piece *free[PAGED / UNIT + SLM_METADATA_MAX / PAGED + 1]; /* the small sizes, then the paged ones */
} slm_cacheline;

/* The first node's is among what every process uses. */
static struct pool first_pool;
static slm_sparse struct pool other_pools[SLM_NODES_MAX - 1];
static slm_sparse struct bare *bare_pages[SLM_NODES_MAX]; /* guarded by the pool's lock; NULL: there are none */

static struct pool *pool_of(unsigned node)
{
    return node == 0 ? &first_pool : &other_pools[node - 1];
}

slm_cold void slm_metadata_start(void)
{
    for (unsigned node = 0; (slm_checked || slm_bench) && node < SLM_NODES_MAX; node++) /* which use ranks */
        pool_of(node)->lock.rank = SLM_RANK_METADATA;
}

static struct pool *lock_pool(unsigned node)
{
    struct pool *pool = pool_of(node);
    if (unlikely(slm_lock_acquire(&pool->lock)))
        pool->small = pool->paged = (struct rest){NULL, NULL};
    return pool;
}

static void *bump(struct rest *rest, size_t bytes)
{
    if ((size_t)(rest->end - rest->next) < bytes)
        return NULL;
    void *piece = rest->next;
    rest->next += bytes;
    slm_charge_metadata(slm_min(bytes, CHARGED_MOST));
    return piece;
}

/* Sizes of paged pieces are multiples of 4 KiB, and so are their addresses, as chunks start on granules. */
static size_t rounded(size_t bytes)
{
    return slm_align_up(bytes, bytes < PAGED ? UNIT : PAGED);
}

static struct piece **free_list(struct pool *pool, size_t bytes)
{
    return &pool->free[bytes < PAGED ? bytes / UNIT : PAGED / UNIT + bytes / PAGED];
}

static char *part_of(unsigned node)
{
    return slm_range.metadata + node * slm_range.metadata_part;
}

/* Under the lock: the rest is too short, and a page that was purged takes its place. NULL: there is none. */
static slm_seldom __attribute__((noinline)) void *piece_of_bare(struct pool *pool, unsigned node, size_t bytes)
{
    if (bytes >= PAGED || bare_pages[node]->count == 0)
        return NULL;
    char *page = part_of(node) + bare_pages[node]->pages[--bare_pages[node]->count] * slm_page_size;
    pool->small = (struct rest){page, page + slm_page_size};
    return bump(&pool->small, bytes);
}

/* A piece of a new chunk, mapped without the lock. Of two rests that do not adjoin, the shorter one is lost. */
static slm_cold void *piece_of_chunk(unsigned node, size_t bytes)
{
    const size_t chunk_bytes = slm_max(bytes, CHUNK);
    char *chunk = slm_reservation_metadata(node, chunk_bytes);
    if (!chunk)
        return NULL;
    struct pool *pool = lock_pool(node);
    struct rest *rest = bytes < PAGED ? &pool->small : &pool->paged;
    void *piece = chunk;
    if (chunk == rest->end) {
        rest->end += chunk_bytes;
        piece = bump(rest, bytes);
    } else if (chunk_bytes - bytes >= (size_t)(rest->end - rest->next)) {
        *rest = (struct rest){chunk + bytes, chunk + chunk_bytes};
    }
    slm_lock_release(&pool->lock);
    return piece;
}

void *slm_metadata_alloc(size_t bytes)
{
    bytes = rounded(bytes);
    slm_assert(bytes <= SLM_METADATA_MAX);
    const unsigned node = slm_topology_node(0);
    struct pool *pool = lock_pool(node);
    struct piece **list = free_list(pool, bytes), *piece = *list;
    if (piece)
        *list = piece->next;
    else
        piece = bump(bytes < PAGED ? &pool->small : &pool->paged, bytes);
    if (unlikely(!piece) && unlikely(bare_pages[node] != NULL))
        piece = piece_of_bare(pool, node, bytes);
    slm_lock_release(&pool->lock);
    return piece ? piece : piece_of_chunk(node, bytes);
}

void slm_metadata_free(void *pointer, size_t bytes)
{
    struct piece *piece = pointer;
    bytes = rounded(bytes);
    struct pool *pool = lock_pool(slm_reservation_metadata_node(pointer));
    struct piece **list = free_list(pool, bytes);
    piece->next = *list;
    signal_fence(); /* before it is in the list: pairs with the fork */
    *list = piece;
    slm_lock_release(&pool->lock);
}

/* -- purging ----------------------------------------------------------------------------------------------------- */

enum { SMALL_LISTS = PAGED / UNIT };

/* The small free pieces of a pool, off its lists, and how many of each page's bytes they are, in units. */
struct sorting {
    struct piece *lists[SMALL_LISTS];
    char *part;
    uint16_t *free_units;
    size_t pages;
};

static slm_seldom size_t page_of(const struct sorting *sorting, const void *address)
{
    return (size_t)((const char *)address - sorting->part) / slm_page_size;
}

static slm_seldom bool is_bare(const struct sorting *sorting, size_t page)
{
    return sorting->free_units[page] == slm_page_size / UNIT;
}

static slm_seldom void take_lists(struct pool *pool, struct sorting *sorting)
{
    for (unsigned i = 0; i < SMALL_LISTS; i++) {
        sorting->lists[i] = pool->free[i];
        pool->free[i] = NULL;
    }
}

/* Behind what was freed meanwhile, which is less. */
static slm_seldom void put_lists(struct pool *pool, const struct sorting *sorting)
{
    for (unsigned i = 0; i < SMALL_LISTS; i++) {
        struct piece **end = &pool->free[i];
        while (*end)
            end = &(*end)->next;
        *end = sorting->lists[i];
    }
}

static slm_seldom void put_piece(struct sorting *sorting, void *address, size_t bytes)
{
    struct piece *piece = address, **list = &sorting->lists[bytes / UNIT];
    piece->next = *list;
    *list = piece;
}

/* Visit each piece, the short ones first; what `visit` says no to leaves its list. */
static slm_seldom void each_piece(struct sorting *sorting, bool (*visit)(struct sorting *, const char *, size_t))
{
    for (unsigned i = 0; i < SMALL_LISTS; i++) {
        struct piece **at = &sorting->lists[i];
        while (*at) {
            struct piece *next = (*at)->next;
            if (visit(sorting, (const char *)*at, i * UNIT))
                at = &(*at)->next;
            else
                *at = next;
        }
    }
}

static slm_seldom bool find_last(struct sorting *sorting, const char *piece, size_t bytes)
{
    sorting->pages = slm_max(sorting->pages, page_of(sorting, piece + bytes - 1) + 1);
    return true;
}

static slm_seldom bool count_units(struct sorting *sorting, const char *piece, size_t bytes)
{
    for (const char *unit = piece; unit < piece + bytes; unit += UNIT)
        sorting->free_units[page_of(sorting, unit)]++;
    return true;
}

/* What of a piece lies in a page that stays becomes a shorter one. (No small one lies in three pages.) */
static slm_seldom bool stays(struct sorting *sorting, const char *piece, size_t bytes)
{
    const size_t first = page_of(sorting, piece), last = page_of(sorting, piece + bytes - 1);
    if (!is_bare(sorting, first) && !is_bare(sorting, last))
        return true;
    char *const border = sorting->part + last * slm_page_size;
    if (first != last && !is_bare(sorting, first))
        put_piece(sorting, sorting->part + (piece - sorting->part), (size_t)(border - piece));
    else if (first != last && !is_bare(sorting, last))
        put_piece(sorting, border, (size_t)(piece + bytes - border));
    return false;
}

/* Which pages are bare. Returns how many. */
static slm_seldom size_t sort_pieces(struct sorting *sorting)
{
    const size_t pages = sorting->pages;
    size_t bare = 0;
    memset(sorting->free_units, 0, pages * sizeof *sorting->free_units);
    each_piece(sorting, count_units);
    for (size_t page = 0; page < pages; page++)
        bare += is_bare(sorting, page);
    return bare;
}

/* Their pieces are forgotten, the pages purged, and added to the list. */
static slm_seldom void purge_bare(struct sorting *sorting, struct bare *bare)
{
    size_t purged = 0, end;
    each_piece(sorting, stays);
    for (size_t page = 0; page < sorting->pages; page = end + 1) {
        for (end = page; end < sorting->pages && is_bare(sorting, end); end++)
            bare->pages[bare->count++] = (uint32_t)end;
        if (end > page)
            slm_vm_purge(sorting->part + page * slm_page_size, (end - page) * slm_page_size);
        purged += end - page;
    }
    sub_relaxed(&slm_charge.metadata, purged * slm_page_size);
    slm_charge_sub(purged * slm_page_size);
}

static slm_seldom size_t bare_bytes(size_t room)
{
    return sizeof(struct bare) + room * sizeof(uint32_t);
}

/* The lists have been taken: without the lock. Returns the list of bare pages, if there are any new ones. */
static slm_seldom struct bare *purge_lists(struct sorting *sorting, size_t known)
{
    struct bare *bare = NULL;
    each_piece(sorting, find_last);
    const size_t table_bytes = sorting->pages * sizeof *sorting->free_units;
    if (sorting->pages == 0 || table_bytes > SLM_METADATA_MAX ||
        !(sorting->free_units = slm_metadata_alloc(table_bytes)))
        return NULL;
    const size_t found = sort_pieces(sorting), room = found + known;
    if (found > 0 && bare_bytes(room) <= SLM_METADATA_MAX && (bare = slm_metadata_alloc(bare_bytes(room)))) {
        *bare = (struct bare){.count = 0, .room = (uint32_t)room};
        purge_bare(sorting, bare);
    }
    slm_metadata_free(sorting->free_units, table_bytes);
    return bare;
}

/* What was bare before stays so. */
static slm_seldom void purge_pool(unsigned node)
{
    struct sorting sorting = {.part = part_of(node)};
    struct pool *pool = lock_pool(node);
    const size_t known = bare_pages[node] ? bare_pages[node]->count : 0;
    take_lists(pool, &sorting);
    slm_lock_release(&pool->lock);
    struct bare *bare = purge_lists(&sorting, known), *before = NULL;
    pool = lock_pool(node);
    put_lists(pool, &sorting);
    if (bare) {
        before = bare_pages[node];
        for (size_t i = before ? before->count : 0; i > 0; i--)
            bare->pages[bare->count++] = before->pages[i - 1];
        bare_pages[node] = bare;
    }
    slm_lock_release(&pool->lock);
    if (before)
        slm_metadata_free(before, bare_bytes(before->room));
}

slm_seldom void slm_metadata_purge(void)
{
    static _Atomic uint32_t purging; /* a count of forks, plus 1: a thread of that process purges */
    uint32_t before = load_relaxed(&purging);
    if (before == slm_fork_generation + 1 ||
        !atomic_compare_exchange_strong(&purging, &before, slm_fork_generation + 1))
        return;
    for (unsigned node = 0; node < slm_nodes; node++)
        purge_pool(node);
    atomic_store(&purging, 0);
}
