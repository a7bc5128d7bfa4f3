/* A thread's block, and the slots in it. A slot holds a thread's magazines of one cache, a loaded and a previous one:
 * Bonwick's pair, so that a thread on the edge does not bounce on the depot.
 *
 *     slm_tls.hot -> | none | size-16 | size-32 | ... | the thread's own part | named caches ... |
 *                               |
 *                       top bottom limit  loaded previous target ...
 *                        |    |     |
 *     loaded magazine:   header | rounds ........    .... capacity
 *
 * A pop takes *--top unless top is bottom; a push stores *top++ unless top is limit. The first slot is never filled:
 * both empty and full.
 *
 * A second half, SLM_RETIRED_OFFSET behind, has at each slot word a retired slot: the magazine that the thread's
 * retired objects of that cache go to (deferred/retire.h), and the cache's remote magazine (thread/remote.h). What is
 * pushed into a retired magazine is not popped: it takes while top is below limit.
 *
 * A block is 1 MiB of addresses. A thread touches what it uses: the first 4 KiB of a half, and a page for each 85
 * named caches.
 *
 * `hot` is what the hot paths use. It points at the block, or 0, 8 or 16 bytes into a block that is zero throughout,
 * so that every magazine is both empty and full and the hot paths fall into their slow halves:
 *
 *     slm_nothing   before the first use, after the end, and while the owner works on the block in a slow path
 *     slm_taken     another thread works on the block (thread/ownership.h)
 *     slm_detour       nobody does: a signal handler wants the owner to pass a slow path (thread/reserve.h)
 *
 * The owner alone writes its block. Hot paths write a slot's `top`. All else is written between slm_thread_enter and
 * slm_thread_leave (process/lifecycle.h), which keep out a signal handler that interrupts them, and a taker.
 * ThreadSanitizer, which knows nothing of membarrier(2), is told by acquire and release in the hot paths of its build.
 */
#pragma once

#include "depot/cache.h"

struct slm_slot {
    void **top, **bottom, **limit;
    struct slm_magazine *loaded, *previous; /* NULL until the cache is first missed */
    _Atomic uint16_t
        target;      /* rounds that a magazine should hold; 0: there is none, and nothing of the cache's here */
    uint16_t misses; /* trips to the depot since the last look */
    uint32_t tuned;  /* the cache's count of tunings when the target was set */
};

static_assert(sizeof(struct slm_slot) == SLM_SLOT_WORDS * 8, "places count in words");

enum slm_attention {
    SLM_ATTEND_RESERVE = 1,
    SLM_ATTEND_RECALL = 2,
    SLM_ATTEND_PAUSE = 4
}; /* what is asked of the owner, bits */

struct slm_tls;
struct slm_reserve;

/* Slots are looked through by groups of so many. */
enum { SLM_GROUP_SLOTS = 64, SLM_SLOT_GROUPS = (SLM_SLOTS + SLM_GROUP_SLOTS - 1) / SLM_GROUP_SLOTS };

/* A bit a group: whether any slot of it was ever used. */
struct slm_slot_groups {
    _Atomic uint64_t words[(SLM_SLOT_GROUPS + 63) / 64];
};

struct slm_thread {
    struct slm_slot slots[SLM_CLASSES + 1]; /* by id + 1 */
    struct slm_list link;                   /* of live threads: guarded by the lock of the list */
    struct slm_tls *tls;                    /* its own; a taker's, once the thread is gone without an exit */
    struct slm_thread *was;                 /* a taker's: what `hot` was; see thread/ownership.h */
    size_t target_bytes;       /* sum over slots of target times object size, twice: what the pairs may hold */
    uint32_t passes;           /* of the slow path */
    uint32_t ordinal;          /* how many were born before it: deals threads out to simulated nodes */
    uint32_t generation;       /* of the process when it was linked into the list of threads */
    uint32_t adapted_ms;       /* when slm_thread_adapt last ran, cut to 32 bits */
    _Atomic unsigned node;     /* whose depots this thread uses: looked up at each pass; the owner writes it */
    uint32_t cpu;              /* see slm_topology_node_again */
    struct slm_slot_groups used;
    _Atomic uint32_t recalled; /* the count of recalls that it has attended to */
    _Atomic uint8_t attention; /* enum slm_attention */
    bool helper;               /* the library's own */
    _Atomic(struct slm_reserve *) reserves;          /* see thread/reserve.h */
    _Atomic uint64_t refills, drains, objects_taken; /* written by the owner alone */
    _Atomic uint64_t remote_frees;                   /* since it has come to its node */
};

/* Where the named caches' slots begin the thread's own part has ended, and the first page too. */
static_assert(sizeof(struct slm_thread) <= (SLM_NAMED_FIRST + 1) * sizeof(struct slm_slot), "room for the own part");

/* A retired magazine: rounds from bottom up to top. Closed: limit is not above top. */
struct slm_retired_slot {
    void **top, **bottom, **limit;
    struct slm_magazine *magazine; /* NULL: none yet */
    uint32_t pass;                 /* of aging, in which it was opened or filled last */
    uint32_t target;               /* rounds that the next one should hold */
    struct slm_magazine *remote;   /* see thread/remote.h; NULL: none */
};

static_assert(sizeof(struct slm_retired_slot) == sizeof(struct slm_slot), "at the same places");

/* The second half of a block. Its own part lies where no place of a cache is. */
struct slm_retired_half {
    struct slm_retired_slot slots[SLM_CLASSES + 1];
    struct slm_slot_groups used;
    uint32_t pass, seen; /* of aging, in which one was opened or closed last; and was seen to hold anything */
};

static_assert(sizeof(struct slm_retired_half) <= (SLM_NAMED_FIRST + 1) * sizeof(struct slm_slot), "room for it");

#define SLM_RETIRED_OFFSET ((size_t)512 << 10)
#define SLM_SLOT_BYTES (SLM_SLOTS * sizeof(struct slm_slot))
#define SLM_BLOCK_BYTES (SLM_RETIRED_OFFSET + SLM_SLOT_BYTES)

static_assert(SLM_SLOT_BYTES <= SLM_RETIRED_OFFSET, "two halves");

enum slm_thread_state { SLM_THREAD_NONE, SLM_THREAD_LIVE, SLM_THREAD_GONE };

struct slm_tls {
    struct slm_thread *hot;   /* what the hot paths use: see above */
    char *area;               /* of its node's slabs: what lies outside goes the slow way, see thread/remote.h */
    struct slm_thread *self;  /* the thread's block, NULL before and after its life */
    uint8_t state;            /* enum slm_thread_state */
    _Atomic uint8_t busy;     /* in a slow path: a handler that comes in between must leave the block alone */
    _Atomic uint8_t popping;  /* in the middle of a pop of a limited cache: see slm_pop_marked */
    uint8_t births;
    bool helper;                        /* the library's own: not counted among the threads */
    uint8_t direct_frees;               /* before its first life */
    _Atomic(struct slm_cache *) wanted; /* whose objects a handler has asked for first: see thread/reserve.h */
};

extern slm_hidden __thread struct slm_tls slm_tls;

/* Zero throughout, and read-only once slm_slots_start has run. */
extern slm_hidden char slm_zero_block[];

#define slm_nothing ((struct slm_thread *)(void *)slm_zero_block)
#define slm_taken ((struct slm_thread *)(void *)(slm_zero_block + 8))
#define slm_detour ((struct slm_thread *)(void *)(slm_zero_block + 16))

/* What the owner reads and a taker writes, or the other way round: plain accesses, which fold into x86's operands. */
#ifdef __SANITIZE_THREAD__
#define slm_hot_order __ATOMIC_ACQUIRE
#define slm_shared_load(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define slm_shared_store(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#else
#define slm_hot_order __ATOMIC_RELAXED
#define slm_shared_load(pointer) (*(pointer))
#define slm_shared_store(pointer, value) (*(pointer) = (value))
#endif

/* Every hot operation loads it anew, once: a compiler that kept it over two of them would let the second work on a
 * block that has been taken meanwhile. What is loaded through it depends on it, which orders that on arm64. */
slm_inline struct slm_thread *slm_hot(void)
{
    return __atomic_load_n(&slm_tls.hot, slm_hot_order);
}

slm_inline struct slm_slot *slm_slot_at(struct slm_thread *thread, size_t slot_word)
{
    return (struct slm_slot *)((char *)thread + slot_word * 8);
}

/* Move a slot's top by so many rounds. On x86 one instruction that reads and writes, which compilers will not choose
 * where they have the value in a register. */
slm_inline void slm_slot_move(struct slm_slot *slot, void **top, ptrdiff_t rounds)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    (void)top;
    __asm__("addq %1, %0" : "+m"(slot->top) : "er"(rounds * 8) : "cc");
#else
    slm_shared_store(&slot->top, top + rounds);
#endif
}

slm_inline struct slm_retired_half *slm_retired_half(struct slm_thread *thread)
{
    return (struct slm_retired_half *)((char *)thread + SLM_RETIRED_OFFSET);
}

slm_inline struct slm_retired_slot *slm_retired_slot_at(struct slm_thread *thread, size_t slot_word)
{
    return (struct slm_retired_slot *)((char *)thread + SLM_RETIRED_OFFSET + slot_word * 8);
}

/* A hot pop's and push's second half: `top` is the slot's, and no edge. The round stays readable below the new top:
 * only the owner pushes. */
slm_inline void *slm_slot_pop(struct slm_slot *slot, void **top)
{
    slm_slot_move(slot, top, -1);
    return top[-1];
}

slm_inline void slm_slot_push(struct slm_slot *slot, void **top, void *object)
{
    *top = object;
    slm_slot_move(slot, top, 1);
}

/* Make the zero block read-only; once, at start. */
void slm_slots_start(void);

/* A cleared block with no magazines; NULL if there is no memory. */
struct slm_thread *slm_thread_block_make(void);
void slm_thread_block_free(struct slm_thread *thread);

slm_inline struct slm_slot *slm_slot_of(struct slm_thread *thread, unsigned cache_id)
{
    return slm_slot_at(thread, slm_slot_word_of(cache_id));
}

slm_inline struct slm_retired_slot *slm_retired_slot_of(const struct slm_thread *thread, unsigned cache_id)
{
    return slm_retired_slot_at((struct slm_thread *)thread, slm_slot_word_of(cache_id));
}

/* The owner is about to use the slot. */
void slm_slot_use(struct slm_thread *thread, unsigned cache_id);

/* The first slot from number `slot` on whose group has one in use; SLM_SLOTS: none. */
unsigned slm_slot_groups_next(const struct slm_slot_groups *groups, unsigned slot);
void slm_slot_groups_add(struct slm_slot_groups *groups, unsigned slot);

/* The first number from `number` on whose group in a half has a slot in use; SLM_CACHE_IDS: none. */
unsigned slm_slot_next_in(const struct slm_slot_groups *groups, unsigned cache_id);

slm_inline unsigned slm_slot_next(const struct slm_thread *thread, unsigned cache_id)
{
    return slm_slot_next_in(&thread->used, cache_id);
}

/* Rounds in a cache's magazines, but for the remote one; from other threads, a figure that may lag. */
uint64_t slm_thread_rounds(struct slm_thread *thread, unsigned cache_id);
