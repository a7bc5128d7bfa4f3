/* A depot's partial slabs: which there are, in what order they are used, and who may take from one. The fullest is
 * used first, so that sparse ones can become vacant.
 *
 * A slab is out, held, listed or shared; partial.c has the argument. Whoever holds slabs puts them back. */
#pragma once

#include "base/magazine.h"
#include "depot/limit.h"
#include "slab/pages.h"
#include "sync/lock.h"

enum {
    SLM_DEPOT_BUCKETS = 8,
    SLM_DEPOT_SPARSE = SLM_DEPOT_BUCKETS / 2, /* from this bucket on slabs are at least half free */
};

struct slm_shards;

/* What an exchange of magazines touches lies in the first two cache lines. */
struct slm_depot {
    struct slm_lock lock;
    uint32_t full_count, full_low; /* magazines, and their least since the last trim: that many were surplus */
    struct slm_magazine *full, *empty;
    _Atomic uint64_t stock_rounds;
    uint32_t generation;                 /* of the lists: what is marked as listed in an older one is in no list */
    uint32_t occupied;                   /* one bit for each bucket; a bucket whose bit is clear is not initialised */
    _Atomic(struct slm_shards *) shards; /* NULL: it is the only one; see depot/shards.h */
    _Atomic uint32_t meetings;           /* see depot/shards.c */
    uint32_t moves_before;               /* at the last slm_depot_trim_idle */
    _Atomic uint64_t exchanges, gets, rounds_got, rounds_put; /* of magazines; written under the lock */
    _Atomic uint64_t drains_home;                             /* magazines whose rounds went to their slabs */
    _Atomic uint64_t fills, rounds_taken;                     /* from slabs; written under the lock */
    const struct slm_slab_shape *shape;
    const char *cache_name;                     /* in messages; NULL: malloc's objects are named by their size */
    struct slm_slab *vacant;                    /* a listed one, kept to spare making slabs over and over */
    struct slm_list buckets[SLM_DEPOT_BUCKETS]; /* partial slabs by the share of free objects, least first */
    _Atomic uint32_t trend;                     /* twice that highest or lowest, plus 1: falls. See slm_depot_falls */
    bool vacant_seen : 1;                       /* at the last trim */
    uint8_t shared_before : 6;                  /* how many slabs were shared: see slm_partial_share */
    _Atomic bool missed_vacant; /* a slab was made after a vacant one had been released: see may_keep */
    uint8_t still;              /* looks that have found the same seen_moves and seen_out as the one before */
    uint8_t shard;              /* which it is */
    uint64_t seen_out;
    _Atomic uint64_t taken_back;  /* objects that came to slabs out of the stock and of parked threads */
    _Atomic uint64_t objects_out; /* of slabs: live, or in magazines */
    _Atomic uint64_t slabs_made, slabs_released;
    _Atomic uint64_t joined_out; /* of objects_out: joined ones, in slabs of others: see depot/join.h */
    _Atomic uint64_t lent;       /* pieces of such, in its own slabs */
    _Atomic uint32_t relinked;   /* how often slabs were, as objects came back; written under the lock */
    _Atomic uint32_t join_due;   /* see depot/join.c */
    _Atomic uint8_t join_step, join_skip;
    uint16_t node;
    uint32_t seen_moves;
    uint64_t locks_before, contended_before; /* of the lock, when the depot was made another cache's */
} slm_cacheline;

/* The size class records of a process lie side by side. */
static_assert(sizeof(struct slm_depot) == 384, "six lines");
static_assert(offsetof(struct slm_depot, drains_home) + 8 <= 128, "two lines for an exchange");

/* Raise a figure that one thread at a time writes, and others read. */
slm_inline void slm_count(_Atomic uint64_t *figure, uint64_t n)
{
    store_relaxed(figure, load_relaxed(figure) + n);
}

/* How often its lock was taken, and found held, since it was last initialised. */
slm_inline uint64_t slm_depot_locks(const struct slm_depot *depot)
{
    return load_relaxed(&depot->lock.acquired) - depot->locks_before;
}

slm_inline uint64_t slm_depot_contended(const struct slm_depot *depot)
{
    return load_relaxed(&depot->lock.contended) - depot->contended_before;
}

/* How many slabs there are. Read in this order, or a thread that is stopped between the two loads may count fewer
 * than none: a released slab was made before. Acquire: pairs with their release. */
slm_inline uint64_t slm_depot_slabs(const struct slm_depot *depot)
{
    const uint64_t released = load_acquire(&depot->slabs_released);
    return load_relaxed(&depot->slabs_made) - released;
}

/* How many objects of its slabs are not free there. (Joined ones are of others' slabs.) */
slm_inline uint64_t slm_depot_taken(const struct slm_depot *depot)
{
    return load_relaxed(&depot->objects_out) - load_relaxed(&depot->joined_out) + load_relaxed(&depot->lent);
}

/* Use falls once an eighth less is out than at the highest since it rose, and at least a quarter of a slab; it rises
 * again once as much more is out than at the lowest since then. A class whose use rises will take what it has free:
 * it lends nothing, and its pages are not purged for others' growth, as frees into such slabs are slower. A figure:
 * threads that race may lose a change. */
slm_inline bool slm_depot_falls(const struct slm_depot *depot)
{
    return load_relaxed(&depot->trend) & 1;
}

void slm_depot_note_out(struct slm_depot *depot);

/* Slabs that slm_partial_pend has left to be relinked. */
extern slm_hidden struct slm_slab *_Atomic slm_depot_pending;

/* It keeps its shards, and stays the shard that it is. */
void slm_depot_init(struct slm_depot *depot, const struct slm_slab_shape *shape, const char *cache_name,
                    unsigned node);

/* In the child of a fork: n objects were in magazines of threads that it does not have. They stay out of their slabs,
 * but are no longer counted. */
void slm_depot_lose(struct slm_depot *depot, uint64_t n);

/* Take the lock. Lists that a lost thread had under it are empty then. */
void slm_depot_lock(struct slm_depot *depot);

/* Under the lock: take a slab out of its list. */
void slm_partial_unlist(struct slm_depot *depot, struct slm_slab *slab, enum slm_slab_where where);
void slm_partial_set(struct slm_slab *slab, enum slm_slab_where where);

/* Hold partial slabs, the fullest first, until there are n objects in them, or SLM_PARTIAL_MOST; returns how many.
 * From another shard the emptiest, as they last longest, and they become the depot's. */
enum { SLM_PARTIAL_MOST = 8 };
unsigned slm_partial_hold(struct slm_depot *depot, struct slm_depot *from, struct slm_slab **slabs, unsigned n);

/* Has it partial slabs? A figure. */
bool slm_partial_any(const struct slm_depot *depot);

/* Hold up to n slabs that are at least a quarter free, were once fuller, and have short_runs (depot/join.c) above
 * that: the emptiest first, but swept ones last. None if there is only one, as where objects merely come and go. */
unsigned slm_partial_hold_sparse(struct slm_depot *depot, struct slm_slab **slabs, unsigned n, unsigned short_runs);

/* Put held slabs back, after `taken` objects were taken from them. */
void slm_partial_put(struct slm_depot *depot, struct slm_slab *const *slabs, unsigned number, unsigned taken);

/* Raise the count of a slab by the objects given back. True: it may have to be relinked, by whatever owns it then. */
bool slm_partial_count(struct slm_slab *slab, unsigned given);
void slm_partial_relink(struct slm_slab *slab);

/* Where several objects lie in a cache line, threads that have neighbours wait for each other at each write, and
 * go on doing so: what a thread frees it gets again. So a thread that is to free an object of malloc's that
 * another one has made calls this first. The slab is shared from then on: nothing is taken from it, and hot paths
 * do not free what lies in it (slm_slab_hide), so that all its objects come back to it, whoever frees them, and
 * threads take theirs from slabs of their own. When a sixteenth of the objects is left it is as any other. A depot
 * does not for ever have new ones. True: the object has to go to its slab. */
enum { SLM_LINE_BYTES = 64 };
bool slm_partial_share(struct slm_slab *slab);

slm_inline bool slm_partial_is_shared(const struct slm_slab *slab)
{
    return load_relaxed(&slab->where) == SLM_SLAB_SHARED;
}

/* Objects of a hidden slab, of one granule, were freed, about so many since the last call. Where that has come to a
 * few times as many as it has, it is in use, and gets the pages again that keep it hidden. */
void slm_partial_note_worked(struct slm_slab *slab, uint32_t frees);

/* Leave it to the next caller of slm_depot_relink_pending. No lock is taken, also in signal handlers. */
void slm_partial_pend(struct slm_slab *slab);
void slm_depot_relink_pending(void);

/* Has the slab been swept since it had another count? See depot/sweep.h. */
slm_inline bool slm_partial_is_swept(const struct slm_slab *slab, uint32_t free)
{
    return slab->span.swept == (free | SLM_SLAB_SWEPT);
}

/* The vacant slab that is kept, if it was not needed between two trims, or `all`; NULL: none. *waiting: there is one,
 * which has to wait for the next trim. */
struct slm_slab *slm_partial_take_vacant(struct slm_depot *depot, bool all, bool *waiting);

/* Does the depot keep a vacant slab? A figure. */
bool slm_depot_keeps_vacant(const struct slm_depot *depot);

/* Release a vacant slab that is unlisted and has no owner. */
void slm_partial_release(struct slm_depot *depot, struct slm_slab *slab);
