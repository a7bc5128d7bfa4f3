/* Remote magazines; see remote.h. */
#include "thread/remote.h"

#include <string.h>

#include "page/metadata.h"

enum { first_rounds = 14 };

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

/* Room for more rounds than the one before had; NULL: there is no memory. */
static struct slm_magazine *make_next(struct slm_thread *thread, const struct slm_cache *cache, uint32_t before)
{
    const uint32_t most = load_relaxed(&cache->most_rounds);
    struct slm_magazine *next = slm_magazine_make((uint32_t)slm_min(slm_max(before * 2, first_rounds), most));
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
        if (!magazine || magazine->count >= slm_min(before, load_relaxed(&cache->most_rounds))) {
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
