/* Blocks, and walks over slots; see slots.h. */
#include "thread/slots.h"

#include <string.h>

#include "os/vm.h"
#include "page/metadata.h"

enum { page_bytes = 4096 };

/* A page more than a block, for the addresses a few bytes in. */
__attribute__((aligned(page_bytes),
               section(".bss.slm_idle_block"))) char slm_idle_block[SLM_BLOCK_BYTES + page_bytes];

slm_always_read void *const slm_no_rounds[1] = {NULL};

/* No object lies at or near this address, and no program takes such a number for a pointer by mistake. */
#define NO_AREA ((uintptr_t)0x5bd1e995u << (sizeof(uintptr_t) * 8 - 32))

__thread struct slm_tls slm_tls = {.hot = slm_nothing, .key = NO_AREA};
struct slm_tls slm_gone_tls;

void slm_slots_cover_idle(unsigned first, unsigned end)
{
    for (size_t at = first * (size_t)SLM_SLOT_SIZE; at < end * (size_t)SLM_SLOT_SIZE; at += sizeof(void *))
        *(void *const **)(void *)(slm_idle_block + at) = slm_no_rounds;
}

void slm_slots_start(void)
{
    slm_slots_cover_idle(0, SLM_CLASSES + 1);
    slm_vm_read_only(slm_idle_block, page_bytes);
}

void slm_slots_cover(struct slm_thread *thread, unsigned end)
{
    for (; thread->covered < end; thread->covered++)
        slm_slot_clear_cursors(slm_slot_at(thread, (size_t)thread->covered * SLM_SLOT_SIZE));
}

/* The first slot from number `slot` on whose group has one in use; SLM_SLOTS: none. */
static unsigned next_slot(const struct slm_slot_groups *groups, unsigned slot)
{
    for (; slot < SLM_FIRST_SLOTS; slot = (slot / 64 + 1) * 64) {
        const uint64_t rest = load_relaxed(&groups->first[slot / 64]) >> slot % 64;
        if (rest != 0)
            return slot + (unsigned)__builtin_ctzll(rest);
    }
    while (slot < SLM_SLOTS) {
        const unsigned group = slot / SLM_GROUP_SLOTS;
        const uint64_t rest = load_relaxed(&groups->words[group / 64]) >> group % 64;
        if (rest & 1)
            return slot;
        const unsigned skipped = rest ? (unsigned)__builtin_ctzll(rest) : 64 - group % 64;
        slot = (group + skipped) * SLM_GROUP_SLOTS;
    }
    return SLM_SLOTS;
}

void slm_slot_use(struct slm_slot_groups *used, unsigned cache_id)
{
    const unsigned slot = cache_id + 1, number = slot < SLM_FIRST_SLOTS ? slot : slot / SLM_GROUP_SLOTS;
    const uint64_t bit = (uint64_t)1 << number % 64;
    _Atomic uint64_t *word = &(slot < SLM_FIRST_SLOTS ? used->first : used->words)[number / 64];
    if (unlikely(!(load_relaxed(word) & bit)))
        store_relaxed(word, load_relaxed(word) | bit);
}

/* Clear what was ever used of a half, with its own part if slots nearby were. */
static void clear_slots(void *half, const struct slm_slot_groups *used)
{
    struct slm_slot *slots = half;
    for (unsigned i = next_slot(used, 0), end; i < SLM_SLOTS; i = next_slot(used, end)) {
        end = i < SLM_FIRST_SLOTS ? i + 1 : (unsigned)slm_min(i + SLM_GROUP_SLOTS, SLM_SLOTS);
        memset(&slots[i], 0, (end - i) * sizeof *slots);
    }
}

static slm_seldom void forget_slot(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    memset(slot, 0, sizeof *slot);
    slm_slot_clear_cursors(slot);
    slm_retired_slot_of(thread, cache_id)->remote = NULL;
}

static slm_seldom void forget_retired(struct slm_thread *thread)
{
    slm_for_each_slot (cache_id, &slm_retired_half(thread)->used)
        memset(slm_retired_slot_of(thread, cache_id), 0, offsetof(struct slm_retired_slot, remote));
}

slm_seldom void slm_slots_mend(struct slm_thread *thread)
{
    const struct slm_slot *slot = thread->at_work;
    if (thread->at_work == slm_retired_half(thread))
        forget_retired(thread);
    else if (slot)
        forget_slot(thread, (unsigned)(slot - thread->slots) - 1);
}

/* Blocks are cleared when they are freed, but metadata uses the first word; new ones are clear. */
struct slm_thread *slm_thread_block_make(void)
{
    struct slm_thread *thread = slm_metadata_alloc(SLM_BLOCK_BYTES);
    if (!thread)
        return NULL;
    memset(thread, 0, sizeof thread->slots[0]);
    slm_slots_cover(thread, SLM_CLASSES + 1);
    thread->covered = SLM_NAMED_FIRST + 1; /* past its own part */
    return thread;
}

void slm_thread_block_free(struct slm_thread *thread)
{
    struct slm_retired_half *retired = slm_retired_half(thread);
    const struct slm_slot_groups used = thread->used, retired_used = retired->used;
    clear_slots(retired, &retired_used);
    if (next_slot(&retired_used, 0) < SLM_SLOTS)
        memset(retired, 0, sizeof *retired);
    clear_slots(thread, &used);
    memset(thread, 0, sizeof *thread);
    slm_metadata_free(thread, SLM_BLOCK_BYTES);
}

unsigned slm_slot_next(const struct slm_slot_groups *used, unsigned cache_id)
{
    const unsigned next = next_slot(used, cache_id + 1) - 1;
    return next < SLM_CLASSES ? next : slm_max(next, SLM_NAMED_FIRST); /* not the half's own part */
}

/* The owner may be in the middle of a pop, or take `previous` away: metadata stay mapped, and figures may lag. */
slm_unordered uint64_t slm_thread_rounds(struct slm_thread *thread, unsigned cache_id)
{
    const struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if (load_relaxed(&slot->target) == 0)
        return 0;
    const struct slm_magazine *previous = slot->previous;
    const size_t rounds = slm_min(slm_slot_rounds(slot), SLM_MAGAZINE_ROUNDS_MAX);
    return rounds + (previous ? slm_min(previous->count, SLM_MAGAZINE_ROUNDS_MAX) : 0);
}
