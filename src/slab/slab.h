/* Slabs: spans cut into objects of one size. A bitmap of the free ones lies in the descriptor, apart from
 * the objects.
 *
 *     descriptor: | span | owner, free, geometry, state in the owner's lists | bits (or a pointer to more) |
 *     memory:     | object 0 | object 1 | ... | object n-1 | a rest smaller than an object, with a key (slab.c) |
 *
 * A bit is 1 while its object is free *in the slab*; objects in magazines count as taken. Bits and the count of free
 * objects are atomic, so that objects come back without a lock. The fields marked "owner's" are guarded by the lock
 * of the depot that owns the slab; depot/partial.c says which thread may take when.
 *
 * The count. Taking lowers `free` before it clears bits; giving sets bits before it raises `free`. So the count never
 * exceeds the bits that are set. `free == objects` means that every bit is set and no thread is at work: the slab is
 * vacant and may be released. Descriptors are never unmapped, so a late look at a released slab is harmless. */
#pragma once

#include "base/atomic.h"
#include "page/span.h"

enum { SLM_SLAB_WORDS = 5 }; /* of bits inside the descriptor: 320 objects */

enum slm_slab_where { SLM_SLAB_OUT, SLM_SLAB_HELD, SLM_SLAB_LISTED, SLM_SLAB_SHARED };

/* span.swept: a count of free objects, with one of these. */
#define SLM_SLAB_FRESH ((uint16_t)1 << 15) /* it was never half in use */
#define SLM_SLAB_SWEPT ((uint16_t)1 << 14) /* its free pages were purged when it had that count */

struct slm_slab_shape;

/* In place of its bits, in a slab that waits to be released (depot/pending_slabs.h). */
struct slm_slab_wait {
    const struct slm_slab_shape *shape;
    _Atomic uint64_t *released;
    uint64_t stamp; /* of the epoch in which it became vacant */
};

struct slm_slab {
    struct slm_span span;
    _Atomic(void *) owner; /* the depot, NULL while this is no slab */
    _Atomic uint64_t *bits;
    uint64_t reciprocal; /* of the object size, times 2^40, rounded up */
    _Atomic int32_t free;
    uint32_t object_size;
    uint16_t objects;
    _Atomic uint8_t where;              /* owner's: enum slm_slab_where; see depot/partial.c */
    uint8_t bucket;                     /* owner's: in which list; shared: with so many objects out it no longer is */
    uint32_t where_generation;          /* owner's: the process's count of forks when `where` was set */
    _Atomic(_Atomic uint64_t *) joined; /* bits, too; NULL until there are joined objects: see slab/joined.h */
    union {
        _Atomic uint64_t inside[SLM_SLAB_WORDS];
        struct slm_slab_wait wait;
    };
    _Atomic(struct slm_slab *) pending; /* in the list of those to be relinked: outlives the slab; see partial.c */
};

static_assert(sizeof(struct slm_slab) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

/* What a cache does with its objects besides handing them out. */
struct slm_object_hooks {
    void (*constructor)(void *object, void *context); /* may be NULL, as the other */
    void (*destructor)(void *object, void *context);
    void *context;
    const char *cache_name; /* for messages */
    bool typesafe;          /* a vacant slab waits for a grace period */
};

/* What a cache's slabs look like. */
struct slm_slab_shape {
    uint32_t object_size; /* a multiple of 8 */
    uint32_t slot_offset;
    uint16_t objects;
    uint16_t granules;
    uint16_t alignment;             /* of the slab, in granules; 0 is 1 */
    bool keyed;                     /* a free object has a key (slab/key.h) */
    bool mapped;                    /* hot paths may free: see slm_slab_map_offset */
    struct slm_object_hooks *hooks; /* NULL: nothing */
    struct slm_limit *limit;        /* NULL: none; see depot/limit.h */
};

/* Set what follows from `object_size`, `slot_offset` and `hooks`: granules and objects (one granule up to
 * SLM_SMALL_MAX; above, at least eight fit, or at most 1/8 is lost); whether objects are keyed, which they are not if
 * they have less than two words, or hooks that expect them as they were freed; and whether they are in the page map.
 * They are not where the hot path of free cannot do all: it sets the key, and knows an object by its offset in a
 * granule. Where the rest behind the last object can have no key (slm_slab_set_keys), only malloc's classes are:
 * malloc sees what is no object's start when it pops it (heap/slow.c). */
void slm_slab_shape_fill(struct slm_slab_shape *shape);

/* What the page map has for the shape's slabs. */
slm_inline uint32_t slm_slab_map_offset(const struct slm_slab_shape *shape)
{
    return shape->mapped ? shape->slot_offset : 0;
}

/* A new slab on the node, held by the caller, unowned, all objects free and unconstructed; NULL and ENOMEM.
 * `sampled`: it is for objects that are sampled (sample/samples.h). Hot paths never free those, and behind its bits
 * it has the index of each object's sample. */
struct slm_slab *slm_slab_make(const struct slm_slab_shape *shape, unsigned node, bool sampled);

/* The same of a span that the caller has taken, as long as the shape says; NULL and ENOMEM: it was freed. */
struct slm_slab *slm_slab_make_of(struct slm_span *span, const struct slm_slab_shape *shape, bool sampled);

/* Take up to n objects, lowest address first. The caller holds the slab. */
unsigned slm_slab_take(struct slm_slab *slab, unsigned n, void **rounds);

/* Objects were just taken, in the order of slm_slab_take, of which some may never have been in use: those get their
 * keys that begin in the page of the first, which is the first to be handed out, and so does a free object behind
 * them. Others would touch pages of which the program may need none. The slab's rest gets a key with its last object.
 * The caller holds the slab. */
void slm_slab_set_keys(struct slm_slab *slab, void *const *rounds, unsigned n);

/* Set the bits of the leading rounds that lie in this slab, as the first one does; returns how many. An object that
 * is free already, or a pointer between objects, ends the process in the name of `call`; `cache` as in slm_panic. Any
 * thread, no lock. The caller then raises the count with slm_slab_count. */
unsigned slm_slab_give(struct slm_slab *slab, void *const *rounds, unsigned n, const char *call, const char *cache);

/* Set bits of one word, with what slm_slab_give does about a second free. */
void slm_slab_set_bits(struct slm_slab *slab, uint32_t word, uint64_t bits, const char *call, const char *cache);

/* Raise the count by n; returns what it was before. From here on another thread may release the slab. */
slm_inline int32_t slm_slab_count(struct slm_slab *slab, unsigned n)
{
    return atomic_fetch_add_explicit(&slab->free, (int32_t)n, memory_order_acq_rel); /* pairs with itself: release */
}

/* Call the constructor or destructor, one of the hooks, for every object, the lowest first. `what` as in slm_hook. */
void slm_slab_each_object(struct slm_slab *slab, const struct slm_object_hooks *hooks,
                          void (*call)(void *object, void *context), const char *what);

/* Is the object free in the slab? Objects in magazines are not. */
bool slm_slab_has(const struct slm_slab *slab, const void *object);

/* Are all bits set of a slab that is counted free, and that no other thread knows any more? If not, the process ends.
 * But fork copies pages one after the other, while other threads go on: what such a thread took or gave just then may
 * be in the count and not in the bits. So in a child of fork the count is lowered to the bits; false: it was. */
bool slm_slab_recount_vacant(struct slm_slab *slab);

/* Hot paths must not free the slab's objects from now on, nor take their size; the holder says so. Or they may again,
 * once it has neither purged pages nor joined objects. */
void slm_slab_hide(struct slm_slab *slab);
void slm_slab_show(struct slm_slab *slab, const struct slm_slab_shape *shape);

/* Give a vacant slab's memory back to the spans. No other thread knows it any more. */
void slm_slab_release(struct slm_slab *slab);

/* The slab that the pointer lies in; NULL: none. */
struct slm_slab *slm_slab_of(const void *pointer);

slm_inline char *slm_slab_start(const struct slm_slab *slab)
{
    return slm_span_start(&slab->span);
}

/* The index of the object that the pointer lies in. */
slm_inline uint32_t slm_slab_index(const struct slm_slab *slab, const void *pointer)
{
    return (uint32_t)(((uint64_t)((const char *)pointer - slm_slab_start(slab)) * slab->reciprocal) >> 40);
}

/* The joined bits; NULL: it has never had joined objects. Acquire: pairs with start() in slab/joined.c. */
slm_inline const _Atomic uint64_t *slm_slab_joins(const struct slm_slab *slab)
{
    return load_acquire(&slab->joined);
}

slm_inline bool slm_slab_is_sampled(const struct slm_slab *slab)
{
    return load_relaxed(&slab->span.kind) == SLM_SPAN_SAMPLED;
}

/* The index of the object's sample in a sampled slab; 0: it has none. */
slm_inline _Atomic uint32_t *slm_slab_sample(const struct slm_slab *slab, const void *object)
{
    return (_Atomic uint32_t *)(void *)(slab->bits + (slab->objects + 63u) / 64) + slm_slab_index(slab, object);
}

/* True if the pointer is an object's first byte, not that of a joined object's inner piece. */
bool slm_slab_is_object(const struct slm_slab *slab, const void *pointer);

/* Words of bits. */
slm_inline unsigned slm_slab_words(const struct slm_slab *slab)
{
    return (slab->objects + 63u) / 64;
}

/* Stop the process if the slab's count exceeds its bits. No thread takes from it meanwhile; objects may come back. */
void slm_slab_check(struct slm_slab *slab);
