/* Places with guards, for sampled objects (option guard=1), after GWP-ASan (Serebryany et al., "GWP-ASan:
 * Sampling- Based Detection of Memory-Safety Bugs in Production", 2023). What lies on inaccessible pages is found
 * at the access.
 *
 *     span:   | inaccessible | pattern | object      | pattern | inaccessible ... |
 *                            ^ page                            ^ page
 *
 * An object ends as close to the inaccessible page behind it as its alignment lets it. What is left has a pattern,
 * which is looked at when it is freed. Then its own pages become inaccessible, too, and the place waits in a ring
 * of those that were freed last, with what the object had contained. The oldest one's addresses are used again.
 *
 * A small object's place stands for one of its cache (`stand_in`), which stays out of its slab as long as the
 * place is in use: so counts and limits are as if that was what the program has.
 *
 * Descriptors. The first granule's is a struct slm_guard, which begins as a large object's does, so that a retired
 * one waits where these do. Its kind is SLM_SPAN_GUARDED while the object is live, then GUARDED_RETIRED, or
 * GUARDED_FREE in the ring. The others lead to it, as those of a slab (SLM_SPAN_SLAB_INSIDE).
 *
 * Bounds. There are at most SLM_GUARDS_LIVE live ones, as each splits mappings, of which a process has 65,530; in
 * the ring SLM_GUARDS_FREED, and 4 MiB. Where addresses are scarce, memory is at its limit, or a sandbox is near
 * there are no new ones, and under a sandbox what is freed stays as it is, for good.
 *
 * The ring is an array, changed by atomic operations alone. A child of fork has its parent's places. Any thread
 * may call all of this. */
#pragma once

#include "slab/large.h"
#include "slab/slab.h"

enum { SLM_GUARDS_LIVE = 4096, SLM_GUARDS_FREED = 512 };
#define SLM_GUARD_BYTES ((size_t)1 << 20) /* of an object, at most */

struct slm_guard {
    struct slm_large large; /* the first member: usable is what was asked for, at least 1 */
    char *object;
    void *stand_in;                 /* NULL: it is a large object */
    uint32_t stack, thread;         /* where it was allocated, and by whom; 0: not known */
    uint32_t end_stack, end_thread; /* the same of its free */
    uint32_t data_bytes;            /* how long the pages are that an object has */
    uint16_t cache;                 /* an id, or SLM_SAMPLE_LARGE; the cache may be gone */
    uint8_t data_page;              /* where in the span they begin, in pages */
    bool clean;                     /* what is neither pattern nor written since reads as zero */
};

/* What follows in a descriptor outlives the slab that it may have been: slab/slab.h. */
static_assert(sizeof(struct slm_guard) <= offsetof(struct slm_slab, pending), "a descriptor holds it");

/* A place for an object of n bytes on a multiple of `alignment`, a power of two, in that area; it is live.
 * NULL: there is none. errno may change. */
struct slm_guard *slm_guard_make(size_t n, size_t alignment, unsigned area);

/* The place in which an address lies, in use or in the ring, inaccessible pages included; NULL: none. */
struct slm_guard *slm_guard_at(const void *address);

slm_inline unsigned slm_guard_kind(const struct slm_guard *guard)
{
    return load_relaxed(&guard->large.span.kind);
}

/* Where in the span an object's pages begin, in bytes. */
slm_inline size_t slm_guard_data(const struct slm_guard *guard)
{
    return guard->data_page * slm_page_size;
}

/* The object is freed, or retired: `becomes`, a kind. It is no longer sampled. False: another thread was first. */
bool slm_guard_end(struct slm_guard *guard, uint8_t becomes);

/* What the pattern says of an object that is still accessible, for a message; NULL: it is as it was. */
const char *slm_guard_damage(const struct slm_guard *guard);

/* What was freed, or has been retired for long enough, becomes inaccessible and enters the ring. `nolock`: as a
 * signal handler may, without a lock. */
void slm_guard_put_away(struct slm_guard *guard, bool nolock);

/* Give back all that is in the ring. */
void slm_guard_drain(void);

extern slm_hidden _Atomic uint32_t slm_guards_live;
