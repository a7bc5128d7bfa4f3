/* Bump and free lists; see metadata.h. After a fork in the middle the lists start empty: what was in them is lost. */
#include "page/metadata.h"

#include "base/bits.h"
#include "page/reservation.h"
#include "sync/lock.h"

#define UNIT ((size_t)64)
#define PAGED ((size_t)4096) /* from here on pieces lie by themselves */
#define CHUNK (4 * SLM_GRANULE)

struct piece {
    struct piece *next;
};

/* The rest of the newest chunk. */
struct rest {
    char *next, *end;
};

static struct {
    struct slm_lock lock;
    struct rest small, paged;
    struct piece *free_small[PAGED / UNIT], *free_paged[SLM_METADATA_MAX / PAGED + 1];
} pool = {.lock = {.rank = SLM_RANK_METADATA}};

static void lock_pool(void)
{
    if (likely(!slm_lock_acquire(&pool.lock)))
        return;
    for (size_t i = 0; i < PAGED / UNIT; i++)
        pool.free_small[i] = NULL;
    for (size_t i = 0; i <= SLM_METADATA_MAX / PAGED; i++)
        pool.free_paged[i] = NULL;
    pool.small = pool.paged = (struct rest){NULL, NULL};
}

static void *bump(struct rest *rest, size_t bytes)
{
    if ((size_t)(rest->end - rest->next) < bytes) {
        char *chunk = slm_reservation_metadata(CHUNK);
        if (!chunk)
            return NULL;
        if (chunk != rest->end) /* else it continues the one before */
            rest->next = chunk;
        rest->end = chunk + CHUNK;
    }
    void *piece = rest->next;
    rest->next += bytes;
    return piece;
}

/* Those of the paged ones are multiples of 4 KiB: so are the addresses, as chunks start on granules. */
static size_t rounded(size_t bytes)
{
    return slm_align_up(bytes, bytes < PAGED ? UNIT : PAGED);
}

static struct piece **free_list(size_t bytes)
{
    return bytes < PAGED ? &pool.free_small[bytes / UNIT] : &pool.free_paged[bytes / PAGED];
}

void *slm_metadata_alloc(size_t bytes)
{
    bytes = rounded(bytes);
    slm_assert(bytes <= SLM_METADATA_MAX);
    lock_pool();
    struct piece **list = free_list(bytes), *piece = *list;
    if (piece)
        *list = piece->next;
    else
        piece = bump(bytes < PAGED ? &pool.small : &pool.paged, bytes);
    slm_lock_release(&pool.lock);
    return piece;
}

void slm_metadata_free(void *pointer, size_t bytes)
{
    struct piece *piece = pointer;
    bytes = rounded(bytes);
    lock_pool();
    struct piece **list = free_list(bytes);
    piece->next = *list;
    *list = piece;
    slm_lock_release(&pool.lock);
}
