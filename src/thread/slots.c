/* Blocks, leaves, looking through slots; see slots.h. */
#include "thread/slots.h"

#include <string.h>

#include "os/vm.h"
#include "page/metadata.h"

/* A page more than a block, for the addresses a few bytes in. */
__attribute__((aligned(4096))) char slm_zero_block[SLM_BLOCK_BYTES + 4096];

/* No address lies behind this one, nor a number that a program would take for a pointer by mistake. */
#define NO_AREA ((char *)((uintptr_t)0x5bd1e995u << (sizeof(uintptr_t) * 8 - 32)))

__thread struct slm_tls slm_tls = {.hot = slm_nothing, .area = NO_AREA};

void slm_slots_start(void)
{
    slm_vm_read_only(slm_zero_block, sizeof slm_zero_block);
}

/* What was ever used of a block lies below its end. */
static size_t used_bytes(const struct slm_thread *thread)
{
    return slm_max(sizeof *thread, (load_relaxed(&thread->end) + 1) * sizeof(struct slm_slot));
}

/* Blocks are cleared when they are freed, but for the first word, and new ones are clear. */
struct slm_thread *slm_thread_block_make(void)
{
    struct slm_thread *thread = slm_metadata_alloc(SLM_BLOCK_BYTES);
    if (thread)
        memset(thread, 0, sizeof thread->slots[0]);
    return thread;
}

static slm_seldom void free_leaves(_Atomic(struct slm_far_slot *) *leaves)
{
    for (unsigned i = 0; i < SLM_LEAVES; i++) { /* not many reads: threads with leaves are few */
        struct slm_far_slot *leaf = load_relaxed(&leaves[i]);
        if (leaf)
            slm_metadata_free(leaf, SLM_LEAF_SLOTS * sizeof *leaf);
        if (leaf)
            store_relaxed(&leaves[i], NULL);
    }
    slm_metadata_free((void *)leaves, SLM_LEAVES * sizeof *leaves);
}

void slm_thread_block_free(struct slm_thread *thread)
{
    struct slm_retired_half *retired = slm_retired_half(thread);
    if (thread->leaves)
        free_leaves(thread->leaves);
    if (thread->remote)
        slm_metadata_free(thread->remote, sizeof *thread->remote);
    if (retired->end > 0)
        memset(retired, 0, slm_max(sizeof *retired, retired->end * sizeof retired->slots[0]));
    memset(thread, 0, used_bytes(thread));
    slm_metadata_free(thread, SLM_BLOCK_BYTES);
}

static slm_seldom bool make_leaves(struct slm_thread *thread)
{
    _Atomic(struct slm_far_slot *) *leaves = slm_metadata_alloc(SLM_LEAVES * sizeof *leaves);
    if (!leaves)
        return false;
    store_relaxed(&leaves[0], NULL); /* the first word is the only one that may not be clear */
    slm_shared_store(&thread->leaves, leaves);
    return true;
}

struct slm_slot *slm_slot_make(struct slm_thread *thread, unsigned number)
{
    struct slm_slot *slot = slm_slot_of(thread, number);
    if (likely(number < SLM_DIRECT)) {
        if (number >= load_relaxed(&thread->end))
            store_relaxed(&thread->end, number + 1);
        return slot;
    }
    if (slot)
        return slot;
    if (!thread->leaves && !make_leaves(thread))
        return NULL;
    const unsigned at = number - SLM_DIRECT;
    struct slm_far_slot *leaf = slm_metadata_alloc(SLM_LEAF_SLOTS * sizeof *leaf);
    if (!leaf)
        return NULL;
    memset(leaf, 0, SLM_LEAF_SLOTS * sizeof *leaf);
    store_release(&thread->leaves[at / SLM_LEAF_SLOTS], leaf); /* pairs with slm_slot_far */
    if (at / SLM_LEAF_SLOTS >= load_relaxed(&thread->leaf_end))
        store_relaxed(&thread->leaf_end, at / SLM_LEAF_SLOTS + 1);
    return &leaf[at % SLM_LEAF_SLOTS].slot;
}

unsigned slm_slot_next(struct slm_thread *thread, unsigned number)
{
    const unsigned end = load_relaxed(&thread->end);
    if (number >= SLM_CLASSES && number < SLM_NAMED_FIRST)
        number = SLM_NAMED_FIRST;
    if (number < end)
        return number;
    const unsigned far_end = SLM_DIRECT + load_relaxed(&thread->leaf_end) * SLM_LEAF_SLOTS;
    number = (unsigned)slm_max(number, SLM_DIRECT);
    while (number < far_end && !slm_slot_far(thread, number))
        number += SLM_LEAF_SLOTS - (number - SLM_DIRECT) % SLM_LEAF_SLOTS;
    return number < far_end ? number : SLM_NUMBERS;
}

void slm_window_close(struct slm_account *account, struct slm_window *window)
{
    sub_relaxed(&account->charged, (uint64_t)((int64_t)window->high - window->net)); /* net is at most high */
    add_relaxed(&account->live, window->net);
    window->net = window->low = window->high = 0;
}

/* The owner may be in the middle of a pop, or take `previous` away: metadata stay mapped, and figures may lag. */
slm_unordered uint64_t slm_thread_rounds(struct slm_thread *thread, unsigned number)
{
    const struct slm_slot *slot = slm_slot_of(thread, number);
    if (!slot || load_relaxed(&slot->target) == 0)
        return 0;
    const struct slm_magazine *previous = slot->previous;
    const size_t rounds = slm_min((size_t)(slot->top - slot->bottom), SLM_MAGAZINE_ROUNDS_MAX);
    return rounds + (previous ? slm_min(previous->count, SLM_MAGAZINE_ROUNDS_MAX) : 0);
}
