/* A thread's block, and the slots in it. A slot holds a thread's magazines of one cache, a loaded and a previous
 * one: Bonwick's pair, so that a thread at the boundary does not go to the depot at each turn.
 *
 *     slm_tls.hot -> | none | size-16 | size-32 | ... | the thread's own part | named caches ... |
 *                               |
 *                       top bottom  loaded previous target ...
 *                        |    |
 *     loaded magazine:   header | rounds ........    .... capacity
 *
 * A pop takes *--top unless top is bottom; a push stores *top++ unless *top is NULL (base/magazine.h). A slot
 * without rounds, as the first one always is, has both cursors at slm_no_rounds, and so is both empty and full. A
 * push reads what top points at before it knows more, so each slot whose word the page map may have needs cursors.
 * Named caches' slots get them when the cache is made (slm_thread_list_cover).
 *
 * The block's second half, at SLM_RETIRED_OFFSET, has a retired slot at each slot offset: the magazine for the
 * thread's retired objects of that cache (deferred/retire.h), and the cache's remote magazine (thread/remote.h).
 * Nothing is popped from a retired magazine: a push stores *top++ if top is below limit.
 *
 * A block is 1 MiB of addresses. A thread touches what it uses: the first 4 KiB of a half, and of the first half
 * also a page for each 85 named caches that exist.
 *
 * `hot` is what the hot paths use. It points at the block, or 0, 8, 16 or 24 bytes into an idle block, where each
 * word of a slot is the address of slm_no_rounds, so that the hot paths fall into their slow halves:
 *
 *     slm_nothing   before the first use, after the end, and while the owner works on the block in a slow path
 *     slm_taken     another thread works on the block (thread/ownership.h)
 *     slm_detour    nobody does: a signal handler sends the owner through a slow path (thread/reserve.h)
 *     slm_parked    nobody does: the owner was still for long, and its rounds were taken (thread/park.h)
 *
 * The owner alone writes its block, a taker apart. Hot paths write a slot's `top`. All else is written between
 * slm_thread_enter and slm_thread_leave (process/lifecycle.h), which keep out a signal handler that interrupts the
 * owner, and a taker. ThreadSanitizer does not know membarrier(2): in its build the hot paths acquire and release.
 *
 * Before it changes more than a slot's top, the owner notes in the block where it is at work (slm_thread_works):
 * if that moment is the last one that a child of fork sees of the thread, all the rest of the block is whole. */
#pragma once

#include "depot/magazines.h"
#include "slab/kept.h"

struct slm_slot {
    void **top, **bottom;                   /* of the loaded magazine's rounds, or slm_no_rounds */
    uint64_t start_factor;                  /* of the cache: see page/page_map.h; 0: not used yet */
    struct slm_magazine *loaded, *previous; /* NULL until the cache is first missed */
    _Atomic uint16_t target; /* rounds that a magazine should hold; 0: the slot is not in use, and has no rounds */
    uint16_t misses;         /* trips to the depot since the last slm_thread_adapt; and two bits, see below */
    uint32_t tuned;          /* the cache's count of tunings when the target was set */
};

/* A bit of the misses: there was none since slm_thread_cool. */
#define SLM_SLOT_STILL ((uint16_t)1 << 15)
/* Another: the magazine that was filled last became the previous one, and none was exchanged since. */
#define SLM_SLOT_TURNED ((uint16_t)1 << 14)
#define SLM_SLOT_BITS (SLM_SLOT_STILL | SLM_SLOT_TURNED)

static_assert(sizeof(struct slm_slot) == SLM_SLOT_SIZE, "a slot's size");

/* What is asked of the owner, as bits. */
enum slm_attention { SLM_ATTEND_RESERVE = 1, SLM_ATTEND_RECALL = 2, SLM_ATTEND_PAUSE = 4, SLM_ATTEND_MAIL = 8 };

struct slm_tls;
struct slm_reserve;

/* Slots in use are found by groups: one bit for each, set if any slot of it was ever used. The first slots, among
 * them those of malloc's classes, have a bit each. */
enum { SLM_GROUP_SLOTS = 64, SLM_SLOT_GROUPS = (SLM_SLOTS + SLM_GROUP_SLOTS - 1) / SLM_GROUP_SLOTS };
enum { SLM_FIRST_SLOTS = 128 };
struct slm_slot_groups {
    _Atomic uint64_t first[SLM_FIRST_SLOTS / 64], words[(SLM_SLOT_GROUPS + 63) / 64];
};
static_assert(SLM_CLASSES + 0 < SLM_FIRST_SLOTS, "a bit for each class");

struct slm_thread {
    struct slm_slot slots[SLM_CLASSES + 1]; /* by id + 1 */
    struct slm_list link;                   /* of live threads: guarded by the lock of the list */
    struct slm_tls *tls;                    /* its own, or a stand-in when the thread has gone without an exit */
    struct slm_thread *was;                 /* what `hot` was before a taker changed it; see thread/ownership.h */
    const void *at_work;                    /* see slm_thread_works */
    size_t target_bytes; /* sum over slots of target times object size, twice: what the pairs may hold */
    size_t left_bytes;   /* of a legacy, and the CPU where it was left: see thread/thread_list.h */
    uint32_t left_on;
    uint32_t passes;       /* of slow paths, each of which changes it before its end: see thread/freed.c */
    uint32_t ordinal;      /* how many were born before it: deals threads out to simulated nodes */
    uint32_t generation;   /* of the process when it was linked into the list of threads */
    uint32_t adapted_ms;   /* when slm_thread_adapt last ran, cut to 32 bits */
    _Atomic unsigned node; /* whose depots this thread uses: looked up at each pass by the owner */
    uint32_t cpu;          /* see slm_topology_node_again */
    uint32_t covered;      /* slots below this number have cursors */
    uint32_t seen;         /* `passes` when thread/park.c last looked */
    uint64_t sampled_us;   /* when an object of its was last sampled: see heap/sampled.c */
    uint32_t marked_pops;  /* of limited caches: see slm_pop_marked */
    struct {               /* when it had no round of a certain cache: see thread/gather.c */
        uint32_t passes, marked_pops;
    } without;
    struct slm_slot_groups used;
    _Atomic uint32_t recalled;                       /* the count of recalls that it has attended to */
    _Atomic uint8_t attention;                       /* enum slm_attention */
    bool helper;                                     /* the library's own */
    bool legacy;                                     /* its thread has ended: see thread/thread_list.h */
    uint8_t still;                                   /* how long `passes` has not changed: see thread/park.c */
    uint8_t hidden_frees;                            /* modulo 256: see slm_free_slow */
    uint8_t asked;                                   /* how often the next free was asked: see heap/slow.c */
    uint8_t sample_pace;                             /* see heap/sampled.c */
    uint16_t sample_gap_us;                          /* between its samples, on average */
    _Atomic(struct slm_reserve *) reserves;          /* see thread/reserve.h */
    struct slm_kept kept;                            /* see slab/kept.h */
    _Atomic uint64_t refills, drains, objects_taken; /* written by the owner alone */
    _Atomic uint64_t remote_frees;                   /* since it came to its node */
};

/* The thread's own part ends before the named caches' slots. */
static_assert(sizeof(struct slm_thread) <= (SLM_NAMED_FIRST + 1) * sizeof(struct slm_slot), "room for the own part");

/* A retired magazine: rounds from bottom up to top. Closed: limit is not above top. */
struct slm_retired_slot {
    void **top, **bottom, **limit;
    struct slm_magazine *magazine; /* NULL: none yet */
    uint32_t pass;                 /* the last pass of ageing that saw it opened or closed */
    uint32_t target;               /* rounds that the next one should hold */
    struct slm_magazine *remote;   /* see thread/remote.h; NULL: none */
};

static_assert(sizeof(struct slm_retired_slot) == sizeof(struct slm_slot), "the same slot offsets");

/* The second half of a block. Its own part lies where no cache has a slot. */
struct slm_retired_half {
    struct slm_retired_slot slots[SLM_CLASSES + 1];
    struct slm_slot_groups used;
    uint32_t pass, seen; /* the last passes in which one was opened or closed, and in which one held anything */
};

static_assert(sizeof(struct slm_retired_half) <= (SLM_NAMED_FIRST + 1) * sizeof(struct slm_slot), "room for it");

#define SLM_RETIRED_OFFSET ((size_t)512 << 10)
#define SLM_SLOT_BYTES (SLM_SLOTS * sizeof(struct slm_slot))
#define SLM_BLOCK_BYTES (SLM_RETIRED_OFFSET + SLM_SLOT_BYTES)
static_assert(SLM_SLOT_BYTES <= SLM_RETIRED_OFFSET, "two halves");

enum slm_thread_state { SLM_THREAD_NONE, SLM_THREAD_LIVE, SLM_THREAD_GONE };

struct slm_tls {
    struct slm_thread *hot;  /* what the hot paths use: see above */
    uintptr_t key;           /* of its node's area for slabs: frees of what lies outside are slow (thread/remote.h) */
    struct slm_thread *self; /* the thread's block, NULL before and after its life */
    uint8_t state;           /* enum slm_thread_state */
    _Atomic uint8_t busy;    /* in a slow path: handlers must leave the block alone */
    _Atomic uint8_t popping; /* in the middle of a pop of a limited cache: see slm_pop_marked */
    bool armed : 1;          /* the key that ends it is set: see process/lifecycle.h */
    bool came : 1;           /* by the library's pthread_create: see process/worker.c */
    bool stays : 1;          /* for one round of its destructors more */
    bool helper : 1;         /* the library's own: not counted among the threads */
    uint8_t direct_passes;   /* without a block: see process/lifecycle.c */
    uint16_t sample_mean;    /* of the interval that is counted down, see sample/interval.h; 0: of none */
    _Atomic(struct slm_cache *) wanted; /* the cache that a handler asked for first: see thread/reserve.h */
    int64_t sample_left;                /* bytes to allocate until an object is sampled: see heap/sampled.h */
};

extern slm_hidden __thread struct slm_tls slm_tls;

/* In the place of the TLS of a thread that is gone. The TLS itself may be unmapped, or another thread's. */
extern slm_hidden struct slm_tls slm_gone_tls;

/* Whose a listed block is: an orphan's own TLS is not to be touched (thread/thread_list.h). */
slm_inline struct slm_tls *slm_thread_tls(const struct slm_thread *thread)
{
    return likely(thread->generation == slm_fork_generation) ? thread->tls : &slm_gone_tls;
}

/* The owner is about to change a slot and its cache's remote magazine, or, at the block's second half, retired
 * magazines. What it did before is done. The fences pair with a fork: see thread/thread_list.h. */
slm_inline void slm_thread_works(struct slm_thread *thread, const void *at)
{
    signal_fence();
    thread->at_work = at;
    signal_fence();
}

/* It is done with all, at the end of its slow path. */
slm_inline void slm_thread_worked(struct slm_thread *thread)
{
    signal_fence();
    thread->at_work = NULL;
}

/* The end and the start of no rounds: NULL, as the end of a loaded magazine's. */
extern slm_hidden void *const slm_no_rounds[1];

/* Zero before slm_slots_start, where no hot free gets as far as the slots. */
extern slm_hidden char slm_idle_block[];

#define slm_nothing ((struct slm_thread *)(void *)slm_idle_block)
#define slm_taken ((struct slm_thread *)(void *)(slm_idle_block + 8))
#define slm_detour ((struct slm_thread *)(void *)(slm_idle_block + 16))
#define slm_parked ((struct slm_thread *)(void *)(slm_idle_block + 24))

/* Must a slow path stop before the block? It is taken, or parked; a block's address has no such bit. */
slm_inline bool slm_hot_stops(const struct slm_thread *hot)
{
    return ((uintptr_t)hot & 8) != 0;
}

/* For what the owner reads and a taker writes, or the reverse: plain accesses, which fold into x86's operands. */
#ifdef __SANITIZE_THREAD__
#define slm_hot_order __ATOMIC_ACQUIRE
#define slm_shared_load(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define slm_shared_store(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#else
#define slm_hot_order __ATOMIC_RELAXED
#define slm_shared_load(pointer) (*(pointer))
#define slm_shared_store(pointer, value) (*(pointer) = (value))
#endif

/* Every hot operation loads it once (slm_hot_slot is such a load, too), again each time: a compiler that kept it
 * over two of them would let the second work on a block that has been taken meanwhile. What is loaded through it
 * depends on it: that orders it on arm64. */
slm_inline struct slm_thread *slm_hot(void)
{
    return __atomic_load_n(&slm_tls.hot, slm_hot_order);
}

slm_inline struct slm_slot *slm_slot_at(struct slm_thread *thread, size_t slot_offset)
{
    return (struct slm_slot *)(void *)((char *)thread + slot_offset);
}

/* The slot in the block that `hot` leads to. On x86 by one instruction, which compilers do not choose for an
 * atomic load. Its address has no index: some processors (Intel's from 2019 on) then take a `top` that was just
 * stored from a register, not from memory, at a quarter of the time. */
slm_inline struct slm_slot *slm_hot_slot(size_t slot_offset)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    __asm__ volatile("addq %1, %0" : "+r"(slot_offset) : "m"(slm_tls.hot) : "cc");
    return (struct slm_slot *)slot_offset; /* NOLINT(performance-no-int-to-ptr) */
#else
    return slm_slot_at(slm_hot(), slot_offset);
#endif
}

/* Move a slot's top. On x86 by one instruction that reads and writes, which compilers do not choose when they have
 * the value in a register. */
slm_inline void slm_slot_move(struct slm_slot *slot, void **top, ptrdiff_t rounds)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    (void)top;
    __asm__("addq %1, %0" : "+m"(slot->top) : "er"(rounds * 8) : "cc");
#else
    slm_shared_store(&slot->top, top + rounds);
#endif
}

slm_inline size_t slm_slot_rounds(const struct slm_slot *slot)
{
    return (size_t)(slot->top - slot->bottom);
}

/* How many rounds can be pushed. */
slm_inline size_t slm_slot_room(const struct slm_slot *slot)
{
    const struct slm_magazine *loaded = slot->loaded;
    return loaded ? (size_t)(loaded->rounds + loaded->count - slot->top) : 0;
}

slm_inline struct slm_retired_half *slm_retired_half(struct slm_thread *thread)
{
    return (struct slm_retired_half *)((char *)thread + SLM_RETIRED_OFFSET);
}

slm_inline struct slm_retired_slot *slm_retired_slot_at(struct slm_thread *thread, size_t slot_offset)
{
    return (struct slm_retired_slot *)(void *)((char *)thread + SLM_RETIRED_OFFSET + slot_offset);
}

/* Of the same cache and block. */
slm_inline struct slm_retired_slot *slm_retired_slot_beside(struct slm_slot *slot)
{
    return (struct slm_retired_slot *)(void *)((char *)slot + SLM_RETIRED_OFFSET);
}

/* The second halves of a hot pop and push: `top` is that of a slot that is not empty, or not full. A popped round
 * stays readable above the new top: only the owner pushes. It is loaded after the top has moved: another thread may
 * have exchanged it until then (thread/park.h). */
slm_inline void *slm_slot_pop(struct slm_slot *slot, void **top)
{
    slm_slot_move(slot, top, -1);
    signal_fence();
    return slm_shared_load(&top[-1]);
}

slm_inline void slm_slot_push(struct slm_slot *slot, void **top, void *object)
{
    *top = object;
    signal_fence(); /* the key and the round before the top: see thread/ownership.h */
    slm_slot_move(slot, top, 1);
}

/* The slot has no rounds. */
slm_inline void slm_slot_clear_cursors(struct slm_slot *slot)
{
    slm_shared_store(&slot->top, (void **)slm_no_rounds);
    slot->bottom = (void **)slm_no_rounds;
}

/* A loaded magazine is no longer used by the cursors: its rounds start where the array does, and are counted. */
slm_inline void slm_slot_unload(const struct slm_slot *slot)
{
    struct slm_magazine *magazine = slot->loaded;
    magazine->rounds[magazine->count] = SLM_NO_ROUND;
    slm_magazine_unload(magazine, slot->bottom, slot->top);
}

/* Fill the idle block's slots of size classes, and make them read-only; once, at start. */
void slm_slots_start(void);

/* Fill the idle block's slots from number `first` up to `end`: named caches are about to use them. */
void slm_slots_cover_idle(unsigned first, unsigned end);

/* Give slots cursors in a thread's block, from where it has them up to `end`. */
void slm_slots_cover(struct slm_thread *thread, unsigned end);

/* A fork has lost the block's thread: what it was at work on is forgotten. */
void slm_slots_mend(struct slm_thread *thread);

/* A cleared block without magazines; NULL: there is no memory. */
struct slm_thread *slm_thread_block_make(void);
void slm_thread_block_free(struct slm_thread *thread);

slm_inline struct slm_slot *slm_slot_of(struct slm_thread *thread, unsigned cache_id)
{
    return slm_slot_at(thread, slm_slot_offset_of(cache_id));
}

slm_inline struct slm_retired_slot *slm_retired_slot_of(const struct slm_thread *thread, unsigned cache_id)
{
    return slm_retired_slot_at((struct slm_thread *)thread, slm_slot_offset_of(cache_id));
}

/* The owner is about to use the cache's slot in the half that has these groups. */
void slm_slot_use(struct slm_slot_groups *used, unsigned cache_id);

/* For each cache id whose slot's group has a slot in use; slm_slot_next: the first from `cache_id` on. */
#define slm_for_each_slot(cache_id, used)                                                                            \
    for (unsigned cache_id = slm_slot_next((used), 0); /* NOLINT(bugprone-macro-parentheses): a name */              \
         (cache_id) < SLM_CACHE_IDS; (cache_id) = slm_slot_next((used), (cache_id) + 1))
unsigned slm_slot_next(const struct slm_slot_groups *used, unsigned cache_id);

/* Rounds in a cache's magazines, without the remote one; from other threads, a figure that may lag. */
uint64_t slm_thread_rounds(struct slm_thread *thread, unsigned cache_id);
