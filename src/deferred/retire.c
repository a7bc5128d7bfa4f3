/* Retired magazines: filling, ageing, emptying; see retire.h. */
#include "deferred/retire.h"

#include "base/options.h"
#include "depot/magazines.h"
#include "os/sys.h"
#include "page/page_map.h"
#include "sync/epoch.h"

/* How many passes there were. A slot remembers the count when it was opened. */
static _Atomic uint32_t passes;

/* There are five passes in a deferred_max_delay_ms (process/worker.c): this many a second if it is 1. */
enum { least_rounds = 5, passes_a_second = 5000 };

static uint32_t most_rounds(unsigned cache_id)
{
    return load_relaxed(&slm_cache_of(cache_id)->most_rounds);
}

/* The end of the slot's array, or of the part that its target allows. */
static void **end_of(const struct slm_retired_slot *slot)
{
    return slot->magazine->rounds + slm_min(slot->magazine->capacity, slot->target);
}

static void open_slot(struct slm_thread *thread, unsigned cache_id, struct slm_magazine *magazine)
{
    struct slm_retired_half *half = slm_retired_half(thread);
    struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
    slot->magazine = magazine;
    slot->bottom = magazine->rounds;
    slm_shared_store(&slot->top, magazine->rounds + magazine->count);
    slm_shared_store(&slot->limit, end_of(slot));
    slm_slot_use(&half->used, cache_id);
    slm_slot_of(thread, cache_id)->start_factor = slm_start_factor(slm_cache_of(cache_id)->shape.object_size);
    half->pass = slot->pass = load_relaxed(&passes);
}

/* Put a slot's magazine on the queue, or free an empty one. The slot shows its rounds until they are on the queue: a
 * thread that finds none in any slot, and then looks at the queues, misses nothing. */
static void put_away(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
    struct slm_magazine *magazine = slot->magazine;
    if (!magazine)
        return;
    slm_magazine_unload(magazine, slot->bottom, slot->top);
    magazine->cache_id = (uint16_t)cache_id;
    if (magazine->count > 0)
        slm_defer_queue_put_magazine(load_relaxed(&thread->node), magazine); /* from here on it is not ours */
    else
        slm_magazine_free(magazine);
    slot->magazine = NULL;
    slot->bottom = slot->limit = NULL;
    slm_shared_store(&slot->top, NULL);
}

/* Put a full magazine away, and open a larger one; or the first. */
static bool open_next(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
    const uint32_t grown = slot->magazine ? slot->target * 2 + 3 : slot->target;
    const uint32_t target = (uint32_t)slm_min(slm_max(grown, least_rounds), most_rounds(cache_id));
    put_away(thread, cache_id);
    struct slm_magazine *magazine = slm_defer_queue_make_magazine(target);
    if (!magazine)
        return false;
    slot->target = target;
    open_slot(thread, cache_id, magazine);
    return true;
}

bool slm_retire_push(struct slm_thread *thread, size_t slot_offset, void *object)
{
    const unsigned cache_id = slm_cache_id_of((unsigned)slot_offset);
    struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
    slm_thread_works(thread, slm_retired_half(thread));
    const size_t rounds = (size_t)(slot->top - slot->bottom);
    if (rounds == 0) /* the slot may be another cache's by now, or the cache tuned */
        slot->target = (uint32_t)slm_min(slot->target, most_rounds(cache_id));
    if (!slot->magazine || rounds == (size_t)(end_of(slot) - slot->magazine->rounds)) {
        if (!open_next(thread, cache_id))
            return false;
    } else if (slot->top >= slot->limit) { /* closed by a pass */
        slm_magazine_unload(slot->magazine, slot->bottom, slot->top);
        open_slot(thread, cache_id, slot->magazine);
    }
    *slot->top = object;
    slm_shared_store(&slot->top, slot->top + 1);
    return true;
}

slm_often void slm_retire_empty_slots(struct slm_thread *thread)
{
    slm_thread_works(thread, slm_retired_half(thread));
    slm_for_each_slot (cache_id, &slm_retired_half(thread)->used)
        put_away(thread, cache_id);
}

/* -- passes ------------------------------------------------------------------------------------------------------ */

struct passing {
    bool all;
    uint32_t settling; /* for so many passes a closed slot is checked for a round that a push under way has left */
    uint32_t pass;     /* slots that were opened in this one, or later, are not old enough */
    bool open, left;   /* there are slots to be checked again, or rounds that could not be taken */
};

static slm_unordered bool is_old(const struct slm_retired_slot *slot, const struct passing *passing)
{
    return passing->all || (int32_t)(slot->pass - passing->pass) < 0;
}

/* Copy a slot's rounds to the queue, and close it. Its owner has at most one push under way. */
static void take_slot(struct slm_thread *thread, unsigned cache_id, struct passing *passing)
{
    struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
    void **top = __atomic_load_n(&slot->top, __ATOMIC_ACQUIRE); /* pairs with slm_defer */
    if (!slot->magazine || (slot->bottom == top && slot->limit <= top))
        return;
    passing->open = true;
    if (!is_old(slot, passing))
        return;
    const size_t n = (size_t)(top - slot->bottom);
    const unsigned node = load_relaxed(&thread->node);
    const size_t put = n > 0 ? slm_defer_queue_take_rounds(node, cache_id, &slot->bottom, n) : 0;
    slm_shared_store(&slot->limit, slot->bottom);
    slm_retired_half(thread)->pass = slot->pass = passing->pass;
    passing->left |= put < n;
}

static void take_thread(struct slm_thread *thread, void *context)
{
    struct passing *passing = context;
    slm_for_each_slot (cache_id, &slm_retired_half(thread)->used)
        take_slot(thread, cache_id, passing);
}

/* Without any order: the owner may be opening one meanwhile. */
static slm_unordered bool wants(struct slm_thread *thread, void *context)
{
    struct passing *passing = context;
    struct slm_retired_half *half = slm_retired_half(thread);
    bool wanted = false;
    if (!passing->all && passing->pass - slm_max(half->pass, half->seen) > passing->settling)
        return false; /* nothing is open, or settling */
    slm_for_each_slot (cache_id, &half->used) {
        const struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
        const bool idle = slot->top == slot->bottom && slot->limit <= slot->bottom;
        const bool settling = slot->magazine && passing->pass - slot->pass < passing->settling;
        if (!idle)
            half->seen = passing->pass;
        passing->open |= !idle || settling;
        wanted |= !idle && is_old(slot, passing);
    }
    return wanted;
}

unsigned slm_retire_pass(struct slm_thread *self, bool all, bool *open)
{
    struct passing passing = {
        .all = all,
        .settling = (uint32_t)(passes_a_second / slm_setting(deferred_max_delay_ms)) + 1,
        .pass = atomic_fetch_add(&passes, 1),
    };
    const struct slm_take take = {.wants = wants, .work = take_thread, .context = &passing, .insist = all};
    if (self) {
        slm_thread_works(self, slm_retired_half(self));
        take_thread(self, &passing);
    }
    const uint64_t barriers = load_relaxed(&slm_sys_membarriers);
    const unsigned missed = slm_take_from_all(&take);
    if (load_relaxed(&slm_sys_membarriers) != barriers) /* perhaps another thread's */
        slm_epoch_count_barrier();
    *open = passing.open || passing.left || missed > 0;
    return missed + passing.left;
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

/* The owner goes on pushing meanwhile; arrays stay mapped. */
slm_seldom slm_unordered void slm_retire_count(struct slm_thread *thread, struct slm_retired_sums *sums)
{
    const struct slm_retired_half *half = slm_retired_half(thread);
    slm_for_each_slot (cache_id, &half->used) {
        const struct slm_retired_slot *slot = slm_retired_slot_of(thread, cache_id);
        const size_t n = slm_min((size_t)(slot->top - slot->bottom), SLM_MAGAZINE_ROUNDS_MAX);
        sums->objects += n;
        sums->bytes += n * slm_page_map_size(slm_slot_offset_of(cache_id));
    }
}
