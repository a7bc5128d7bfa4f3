/* Pieces cut from chunks, and lists of free ones; see metadata.h. Each node has a pool for the threads that run there
 * at the moment, so that they do not all wait for one lock, and their metadata is local. A piece returns to the pool
 * that it came from: otherwise magazines made on one node and freed on another would fill one pool and drain the
 * other forever. After a fork in the middle of a call the newest chunk's rest is lost; the lists, which change by one
 * store each, are whole (thread/thread_list.h). */
#include "page/metadata.h"

#include <string.h>

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

struct pool {
    struct slm_lock lock;
    struct rest small, paged;
    struct piece *free[PAGED / UNIT + SLM_METADATA_MAX / PAGED + 1]; /* the small sizes, then the paged ones */
} slm_cacheline;

/* The first node's is among what every process uses. */
static struct pool first_pool;
static slm_sparse struct pool other_pools[SLM_NODES_MAX - 1];

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
