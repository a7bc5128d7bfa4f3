/* A thread's block, and the slots in it: a slot holds a thread's magazines of one cache, a loaded and a previous one
 * (Bonwick's pair, so that a thread on the edge does not bounce on the depot).
 *
 *     slm_tls.hot -> | slot of place 0 | size-16 | size-32 | ... | the thread's own part | named caches ... | none |
 *                                         |
 *                       top bottom limit  loaded previous target ...
 *                        |    |     |
 *     loaded magazine:   header | rounds ........    .... capacity
 *
 * A pop takes *--top unless top is bottom; a push stores *top++ unless top is limit. The first slot and the last are
 * never filled: both empty and full. Slots of far caches, for whose numbers there is no room, lie in leaves of
 * sixteen that are made on first use.
 *
 * A second half, SLM_RETIRED_OFFSET behind, has at each place a retired slot: the magazine that the thread's retired
 * objects of that place go to (deferred/retire.h). What is pushed there is not popped: a retired slot takes while top
 * is below limit. A block is 64 KiB of addresses, of which a thread touches what it uses: the first 4 KiB of a half,
 * and a page for each 85 named caches.
 *
 * `hot` is what the hot paths use. It points at the block, or 0, 8 or 16 bytes into a block that is zero throughout,
 * so that every magazine is both empty and full and the hot paths fall into their slow halves:
 *
 *     slm_nothing   before the first use, after the end, and while the owner works on the block in a slow path
 *     slm_taken     another thread works on the block (thread/take.h)
 *     slm_dry       nobody does: a signal handler wants the owner to pass a slow path (thread/reserve.h)
 *
 * The owner alone writes its block: hot paths a slot's `top`, and everything between slm_thread_enter and
 * slm_thread_leave (floor heap), which keep out a signal handler that interrupts them, and a taker. ThreadSanitizer,
 * which knows nothing of membarrier(2), is told by acquire and release in the hot paths of its build. */
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

static_assert(sizeof(struct slm_slot) == SLM_PLACE_UNITS * 8, "places count in words");

/* Of an accounted cache: in which this thread counts its objects (thread/account.h). */
struct slm_window {
    int32_t net, low, high;
    _Atomic uint32_t moving; /* the owner is opening another */
};

/* An accounted cache has two slots side by side. The first is the one that its objects' place names: its cursors are
 * never set, so that every free passes the slow path, and the window lies behind them. The second has the magazines.
 */
struct slm_counted_slots {
    void **none[3];
    struct slm_window window;
    uint64_t target_none; /* where a slot has its target: 0, so that all who look through slots pass it over */
    struct slm_slot slot;
};

static_assert(offsetof(struct slm_counted_slots, slot) == sizeof(struct slm_slot), "two slots");
static_assert(offsetof(struct slm_counted_slots, target_none) == offsetof(struct slm_slot, target), "no target");

/* Of a cache whose number has no slot in the block. */
struct slm_far_slot {
    struct slm_slot slot;
    struct slm_window window;
};

enum { SLM_LEAF_SLOTS = 16, SLM_LEAVES = (SLM_NUMBERS - SLM_DIRECT) / SLM_LEAF_SLOTS };

enum slm_attention {
    SLM_ATTEND_RESERVE = 1,
    SLM_ATTEND_RECALL = 2,
    SLM_ATTEND_PAUSE = 4
}; /* what is asked of the owner, bits */

struct slm_tls;
struct slm_reserve;

/* A thread's remote magazines, by number: see thread/remote.h. */
struct slm_remote {
    struct slm_magazine *magazines[SLM_DIRECT]; /* NULL: none */
};

struct slm_thread {
    struct slm_slot slots[SLM_CLASSES + 1]; /* by number + 1 */
    struct slm_list link;                   /* of live threads: guarded by the lock of the list */
    struct slm_tls *tls;                    /* its own; a taker's, once the thread is gone without an exit */
    struct slm_thread *was;                 /* a taker's: what `hot` was; see thread/take.h */
    _Atomic(struct slm_far_slot *) *leaves; /* of far caches' slots; NULL: none yet */
    size_t target_bytes;       /* sum over slots of target times object size, twice: what the pairs may hold */
    uint32_t passes;           /* of the slow path */
    uint32_t number;           /* how many were born before it: deals threads out to simulated nodes */
    uint32_t generation;       /* of the process when it was linked into the list of threads */
    uint32_t adapted_ms;       /* when slm_thread_adapt last ran, cut to 32 bits */
    _Atomic unsigned node;     /* whose depots this thread uses: looked up at each pass; the owner writes it */
    uint32_t cpu;              /* see slm_topology_node_again */
    _Atomic uint32_t end;      /* behind the highest number below SLM_DIRECT whose slot was ever used */
    _Atomic uint32_t leaf_end; /* behind the highest leaf */
    _Atomic uint32_t recalled; /* the count of recalls that it has attended to */
    _Atomic uint8_t attention; /* enum slm_attention */
    bool helper;               /* the library's own */
    _Atomic(struct slm_reserve *) reserves;          /* see thread/reserve.h */
    struct slm_remote *remote;                       /* see thread/remote.h; NULL: none yet */
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
    uint64_t unused;
};

static_assert(sizeof(struct slm_retired_slot) == sizeof(struct slm_slot), "at the same places");

/* The second half of a block. Its own part lies where no place of a cache is. */
struct slm_retired_half {
    struct slm_retired_slot slots[SLM_CLASSES + 1];
    uint32_t end;        /* behind the highest slot that was ever opened; 0: nothing here was touched */
    uint32_t pass, seen; /* of aging, in which one was opened or closed last; and was seen to hold anything */
};

static_assert(sizeof(struct slm_retired_half) <= (SLM_NAMED_FIRST + 1) * sizeof(struct slm_slot), "room for it");

#define SLM_RETIRED_OFFSET ((size_t)32768)
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
    _Atomic uint8_t counting; /* in the middle of an accounted call: see thread/account.h */
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
#define slm_dry ((struct slm_thread *)(void *)(slm_zero_block + 16))

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

slm_inline struct slm_slot *slm_slot_at(struct slm_thread *thread, size_t place)
{
    return (struct slm_slot *)((char *)thread + place * 8);
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

slm_inline struct slm_retired_slot *slm_retired_slot_at(struct slm_thread *thread, size_t place)
{
    return (struct slm_retired_slot *)((char *)thread + SLM_RETIRED_OFFSET + place * 8);
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

/* The slot of a far cache; NULL if it has none. For any block, the zero one too. */
slm_inline struct slm_far_slot *slm_slot_far(struct slm_thread *thread, unsigned number)
{
    _Atomic(struct slm_far_slot *) *leaves = slm_shared_load(&thread->leaves);
    if (unlikely(!leaves))
        return NULL;
    const unsigned at = number - SLM_DIRECT;
    struct slm_far_slot *leaf = load_acquire(&leaves[at / SLM_LEAF_SLOTS]); /* pairs with slm_slot_make */
    return likely(leaf != NULL) ? &leaf[at % SLM_LEAF_SLOTS] : NULL;
}

slm_inline struct slm_counted_slots *slm_slots_counted(struct slm_thread *thread, size_t place)
{
    return (struct slm_counted_slots *)slm_slot_at(thread, place);
}

/* The thread's window of an accounted cache; NULL if it has none. For any block. */
slm_inline struct slm_window *slm_window_of(struct slm_thread *thread, const struct slm_cache *cache)
{
    if (likely(cache->number < SLM_DIRECT))
        return &slm_slots_counted(thread, cache->shape.place)->window;
    struct slm_far_slot *far = slm_slot_far(thread, cache->number);
    return far ? &far->window : NULL;
}

/* Fold a window into the account, and leave none: whoever works on the block. */
void slm_window_close(struct slm_account *account, struct slm_window *window);

/* The number's slot; NULL for a far cache that this thread has none for. */
slm_inline struct slm_slot *slm_slot_of(struct slm_thread *thread, unsigned number)
{
    if (likely(number < SLM_DIRECT))
        return slm_slot_at(thread, slm_place_of_number(number));
    struct slm_far_slot *far = slm_slot_far(thread, number);
    return far ? &far->slot : NULL;
}

/* The same, made by the owner if it is not there; NULL: there is no memory. */
struct slm_slot *slm_slot_make(struct slm_thread *thread, unsigned number);

/* The first number from `number` on that may have a slot in use; SLM_NUMBERS: none. */
unsigned slm_slot_next(struct slm_thread *thread, unsigned number);

/* The remote magazine of a cache; NULL if there is none. */
slm_inline struct slm_magazine *slm_remote_of(const struct slm_thread *thread, unsigned number)
{
    struct slm_remote *remote = slm_shared_load(&thread->remote);
    return likely(!remote) || number >= SLM_DIRECT ? NULL : slm_shared_load(&remote->magazines[number]);
}

/* Rounds in a cache's magazines, but for the remote one; from other threads, a figure that may lag. */
uint64_t slm_thread_rounds(struct slm_thread *thread, unsigned number);
