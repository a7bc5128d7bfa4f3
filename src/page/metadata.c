/* Bump and free lists; see metadata.h. After a fork in the middle the lists start empty: what was in them is lost. */
#include "page/metadata.h"

#include "base/bits.h"
#include "page/reservation.h"
#include "sync/lock.h"

#define UNIT ((size_t)64)
#define CHUNK (4 * SLM_GRANULE)

struct piece {
    struct piece *next;
};

static struct {
    struct slm_lock lock;
    char *next, *end; /* the rest of the newest chunk */
    struct piece *free[SLM_METADATA_MAX / UNIT + 1];
} pool = {.lock = {.rank = SLM_RANK_METADATA}};

static void lock_pool(void)
{
    if (likely(!slm_lock_acquire(&pool.lock)))
        return;
    for (size_t i = 0; i <= SLM_METADATA_MAX / UNIT; i++)
        pool.free[i] = NULL;
    pool.next = pool.end = NULL;
}

static void *bump(size_t bytes)
{
    if ((size_t)(pool.end - pool.next) < bytes) {
        char *chunk = slm_reservation_metadata(CHUNK);
        if (!chunk)
            return NULL;
        if (chunk != pool.end) /* else it continues the one before */
            pool.next = chunk;
        pool.end = chunk + CHUNK;
    }
    void *piece = pool.next;
    pool.next += bytes;
    return piece;
}

void *slm_metadata_alloc(size_t bytes)
{
    bytes = slm_align_up(bytes, UNIT);
    slm_assert(bytes <= SLM_METADATA_MAX);
    lock_pool();
    struct piece *piece = pool.free[bytes / UNIT];
    if (piece)
        pool.free[bytes / UNIT] = piece->next;
    else
        piece = bump(bytes);
    slm_lock_release(&pool.lock);
    return piece;
}

void slm_metadata_free(void *pointer, size_t bytes)
{
    struct piece *piece = pointer;
    bytes = slm_align_up(bytes, UNIT);
    lock_pool();
    piece->next = pool.free[bytes / UNIT];
    pool.free[bytes / UNIT] = piece;
    slm_lock_release(&pool.lock);
}
