/* The calls that take an object; see things.h. */
#include <malloc.h>

#include "things.h"

extern void cfree(void *pointer); /* which C libraries no longer declare, or not yet */
extern void free_sized(void *pointer, size_t size);
extern void free_aligned_sized(void *pointer, size_t alignment, size_t size);

enum { ALIGNMENT = 8 };

/* A call, given `arguments`. */
#define GIVE(name, arguments)                                                                                        \
    static void give_##name(struct thing *thing, void *pointer)                                                      \
    {                                                                                                                \
        (void)thing;                                                                                                 \
        name arguments;                                                                                              \
    }

/* The same of a C++ operator, which has no declaration in C. */
#define GIVE_OPERATOR(name, parameters, arguments)                                                                   \
    extern void name parameters;                                                                                     \
    GIVE(name, arguments)

GIVE(free, (pointer))
GIVE(cfree, (pointer))
GIVE(free_sized, (pointer, thing->size))
GIVE(free_aligned_sized, (pointer, ALIGNMENT, thing->size))
GIVE(slab_free, (pointer))
GIVE(slab_free_nolock, (pointer))
GIVE(slab_free_deferred, (pointer))
GIVE(slab_cache_free, (thing->cache, pointer))

GIVE_OPERATOR(_ZdlPv, (void *), (pointer))
GIVE_OPERATOR(_ZdlPvm, (void *, unsigned long), (pointer, thing->size))
GIVE_OPERATOR(_ZdlPvRKSt9nothrow_t, (void *, const void *), (pointer, ""))
GIVE_OPERATOR(_ZdlPvSt11align_val_t, (void *, unsigned long), (pointer, ALIGNMENT))
GIVE_OPERATOR(_ZdlPvmSt11align_val_t, (void *, unsigned long, unsigned long), (pointer, thing->size, ALIGNMENT))
GIVE_OPERATOR(_ZdlPvSt11align_val_tRKSt9nothrow_t, (void *, unsigned long, const void *), (pointer, ALIGNMENT, ""))
GIVE_OPERATOR(_ZdaPv, (void *), (pointer))
GIVE_OPERATOR(_ZdaPvm, (void *, unsigned long), (pointer, thing->size))
GIVE_OPERATOR(_ZdaPvRKSt9nothrow_t, (void *, const void *), (pointer, ""))
GIVE_OPERATOR(_ZdaPvSt11align_val_t, (void *, unsigned long), (pointer, ALIGNMENT))
GIVE_OPERATOR(_ZdaPvmSt11align_val_t, (void *, unsigned long, unsigned long), (pointer, thing->size, ALIGNMENT))
GIVE_OPERATOR(_ZdaPvSt11align_val_tRKSt9nothrow_t, (void *, unsigned long, const void *), (pointer, ALIGNMENT, ""))

/* -- calls that may give something back -------------------------------------------------------------------------- */

static void give_realloc_zero(struct thing *thing, void *pointer)
{
    (void)thing;
    void *volatile none = realloc(pointer, 0);
    (void)none;
}

static void free_resized(void *resized, const void *pointer)
{
    if (resized != pointer)
        free(resized);
}

static void give_realloc_more(struct thing *thing, void *pointer)
{
    free_resized(hidden(realloc(pointer, thing->size * 3)), pointer);
}

static void give_realloc_same(struct thing *thing, void *pointer)
{
    free_resized(hidden(realloc(pointer, thing->size)), pointer);
}

static void give_realloc_less(struct thing *thing, void *pointer)
{
    free_resized(hidden(realloc(pointer, thing->size / 4 + 1)), pointer);
}

static void give_reallocarray(struct thing *thing, void *pointer)
{
    free_resized(hidden(reallocarray(pointer, 3, thing->size)), pointer);
}

static void give_usable_size(struct thing *thing, void *pointer)
{
    (void)thing;
    volatile const size_t usable = malloc_usable_size(pointer);
    (void)usable;
}

/* Wants no head: it may lie anywhere in the object, and has no room in small ones. */
static void give_free_deferred_head(struct thing *thing, void *pointer)
{
    static slab_epoch_head head;
    slab_free_deferred_head(pointer, thing->size >= sizeof head ? (slab_epoch_head *)thing->object : &head);
}

/* -- calls that take several: it is the first, in the middle, the last, or twice among them ---------------------- */

enum { BULK = 9, MIDDLE = 4 };

struct bulk {
    void *objects[BULK];
};

/* Neighbours, and in one place or two the pointer; NULL is among them, too. */
static struct bulk bulk_with(struct thing *thing, void *pointer, unsigned at, unsigned at_too)
{
    struct bulk bulk;
    for (unsigned i = 0; i < BULK; i++)
        bulk.objects[i] = i == at || i == at_too ? pointer : i == 2 ? NULL : thing->neighbours[thing->given++];
    return bulk;
}

#define GIVE_BULK_AT(word, call, at, at_too)                                                                         \
    static void give_##word(struct thing *thing, void *pointer)                                                      \
    {                                                                                                                \
        const struct bulk bulk = bulk_with(thing, pointer, at, at_too);                                              \
        call;                                                                                                        \
    }

#define GIVE_BULK(word, call)                                                                                        \
    GIVE_BULK_AT(word##_first, call, 0, 0)                                                                           \
    GIVE_BULK_AT(word##_middle, call, MIDDLE, MIDDLE)                                                                \
    GIVE_BULK_AT(word##_last, call, BULK - 1, BULK - 1)                                                              \
    GIVE_BULK_AT(word##_twice, call, MIDDLE, BULK - 1)

GIVE_BULK(bulk, slab_free_bulk(BULK, bulk.objects))
GIVE_BULK(deferred_bulk, slab_free_deferred_bulk(BULK, bulk.objects))
GIVE_BULK(cache_bulk, slab_cache_free_bulk(thing->cache, BULK, bulk.objects))

/* -- the table --------------------------------------------------------------------------------------------------- */

#define BULKS(word, said, flags)                                                                                     \
    {#word "_first", said, give_##word##_first, flags}, {#word "_middle", said, give_##word##_middle, flags},        \
        {#word "_last", said, give_##word##_last, flags},                                                            \
    {                                                                                                                \
#word "_twice", said, give_##word##_twice, (flags) | GIVES_TWICE                                             \
    }

const struct thing_call thing_calls[] = {
    {"free", "free", give_free, 0},
    {"cfree", "free", give_cfree, 0},
    {"free_sized", "free_sized", give_free_sized, 0},
    {"free_aligned_sized", "free_aligned_sized", give_free_aligned_sized, 0},
    {"delete", "operator delete", give__ZdlPv, 0},
    {"delete_sized", "operator delete", give__ZdlPvm, 0},
    {"delete_nothrow", "operator delete", give__ZdlPvRKSt9nothrow_t, 0},
    {"delete_aligned", "operator delete", give__ZdlPvSt11align_val_t, 0},
    {"delete_sized_aligned", "operator delete", give__ZdlPvmSt11align_val_t, 0},
    {"delete_aligned_nothrow", "operator delete", give__ZdlPvSt11align_val_tRKSt9nothrow_t, 0},
    {"delete_array", "operator delete", give__ZdaPv, 0},
    {"delete_array_sized", "operator delete", give__ZdaPvm, 0},
    {"delete_array_nothrow", "operator delete", give__ZdaPvRKSt9nothrow_t, 0},
    {"delete_array_aligned", "operator delete", give__ZdaPvSt11align_val_t, 0},
    {"delete_array_sized_aligned", "operator delete", give__ZdaPvmSt11align_val_t, 0},
    {"delete_array_aligned_nothrow", "operator delete", give__ZdaPvSt11align_val_tRKSt9nothrow_t, 0},
    {"realloc_zero", "realloc", give_realloc_zero, 0},
    {"realloc_more", "realloc", give_realloc_more, USES},
    {"realloc_same", "realloc", give_realloc_same, USES},
    {"realloc_less", "realloc", give_realloc_less, USES},
    {"reallocarray", "realloc", give_reallocarray, USES},
    {"usable_size", "malloc_usable_size", give_usable_size, USES},
    {"slab_free", "slab_free", give_slab_free, 0},
    {"nolock", "slab_free_nolock", give_slab_free_nolock, 0},
    {"deferred", "slab_free_deferred", give_slab_free_deferred, RETIRES},
    {"deferred_head", "slab_free_deferred", give_free_deferred_head, RETIRES},
    BULKS(bulk, "free", 0),
    BULKS(deferred_bulk, "slab_free_deferred", RETIRES),
    {"cache_free", "slab_cache_free", give_slab_cache_free, TAKES_CACHE},
    BULKS(cache_bulk, "slab_cache_free_bulk", TAKES_CACHE),
    {0},
};

const struct thing_call *thing_call(const char *word)
{
    const struct thing_call *call = thing_calls;
    while (call->word && strcmp(call->word, word) != 0)
        call++;
    if (call->word)
        return call;
    fprintf(stderr, "no such call as %s\n", word);
    exit(EXIT_FAILURE);
}

void thing_give(const char *word, struct thing *thing, void *pointer)
{
    thing_call(word)->give(thing, hidden(pointer));
}
