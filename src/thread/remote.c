/* Remote magazines; see remote.h. */
#include "thread/remote.h"

#include <string.h>

#include "base/options.h"
#include "page/metadata.h"

/* Rounds of a first remote magazine, and bytes of any: what threads hold for others is to be little. */
enum { first_rounds = 14, most_bytes = 16384 };

struct slm_magazine *slm_remote_take(struct slm_thread *thread, unsigned number)
{
    struct slm_magazine *magazine = slm_remote_of(thread, number);
    if (magazine)
        slm_shared_store(&thread->remote->magazines[number], NULL);
    return magazine;
}

static bool make_table(struct slm_thread *thread)
{
    struct slm_remote *remote = slm_metadata_alloc(sizeof *remote);
    if (!remote)
        return false;
    memset(remote, 0, sizeof *remote);
    slm_shared_store(&thread->remote, remote);
    return true;
}

static uint32_t most_rounds(const struct slm_cache *cache)
{
    const size_t bytes = slm_min(slm_options.thread_bytes, most_bytes);
    return (uint32_t)slm_min(slm_max(bytes / cache->shape.object_size, 1), load_relaxed(&cache->most_rounds));
}

/* Room for more rounds than the one before had; NULL: there is no memory. */
static struct slm_magazine *make_next(struct slm_thread *thread, const struct slm_cache *cache, uint32_t before)
{
    const size_t rounds = slm_min(slm_max(before * 2, first_rounds), most_rounds(cache));
    struct slm_magazine *next = slm_magazine_make((uint32_t)rounds);
    slm_shared_store(&thread->remote->magazines[cache->number], next);
    return next;
}

void slm_remote_push(struct slm_thread *thread, struct slm_cache *cache, void *object)
{
    const bool far = slm_cache_is_far(cache);
    struct slm_magazine *magazine = NULL;
    if (!far && (thread->remote || make_table(thread))) {
        magazine = slm_remote_of(thread, cache->number);
        const uint32_t before = magazine ? magazine->capacity : 0;
        if (!magazine || magazine->count >= slm_min(before, most_rounds(cache))) {
            if (magazine)
                slm_magazine_hand_on(cache, magazine, load_relaxed(&cache->depot_rounds));
            magazine = make_next(thread, cache, before);
        }
    }
    if (magazine)
        magazine->rounds[magazine->count++] = object;
    else
        slm_depot_give(&object, 1, "free");
}

/* What the owner is writing there just now may be missing, or an old round: an address of the heap all the same. */
slm_unordered uint32_t slm_remote_rounds(const struct slm_thread *thread, unsigned number, unsigned first,
                                         unsigned end)
{
    const struct slm_magazine *magazine = slm_remote_of(thread, number);
    uint32_t rounds = 0;
    for (uint32_t i = 0; magazine && i < slm_min(magazine->count, SLM_MAGAZINE_ROUNDS_MAX); i++) {
        const unsigned node = slm_magazine_home(magazine->rounds[i]);
        rounds += node >= first && node < end;
    }
    return rounds;
}
