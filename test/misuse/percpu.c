/* Per-CPU objects that are none, not any more, or something else's. */
#define SLAB_NO_INLINE /* what is inline looks at nothing */
#include <slabmalloc.h>

#include "misuse.h"

static const char no_object[] = "no per-CPU object, or one that is free already";

/* Kinds: its neighbour is alive, none is, or all such memory has been given back in between. */
static void percpu_double_free(const struct misuse_case *row)
{
    slab_percpu object = slab_percpu_alloc(64, 8), neighbour = slab_percpu_alloc(64, 8);
    announce("slab_percpu_free", hidden(object), no_object);
    slab_percpu_free(object);
    if (!is_kind(row, "neighbour"))
        slab_percpu_free(neighbour);
    if (is_kind(row, "purged"))
        slab_purge();
    slab_percpu_free(hidden(object));
}

static void *foreign(const struct misuse_case *row, char *object)
{
    static long variable;
    if (is_kind(row, "variable"))
        return &variable;
    if (is_kind(row, "malloced"))
        return malloc(64);
    if (is_kind(row, "number"))
        return (void *)(uintptr_t)16;
    if (is_kind(row, "beside")) /* memory that nobody was given */
        return object + 32768;
    if (is_kind(row, "far"))
        return object + ((uintptr_t)1 << 32);
    if (is_kind(row, "last"))
        return (void *)(UINTPTR_MAX - 7);
    return NULL;
}

/* What slab_percpu_alloc has never given. Kinds: see above. */
static void percpu_free_foreign(const struct misuse_case *row)
{
    void *object = hidden(slab_percpu_alloc(64, 8));
    void *pointer = foreign(row, object);
    announce("slab_percpu_free", pointer, no_object);
    slab_percpu_free(hidden(pointer));
}

/* In a process that has never allocated one. */
static void percpu_free_unused(const struct misuse_case *row)
{
    (void)row;
    void *pointer = malloc(64);
    announce("slab_percpu_free", pointer, no_object);
    slab_percpu_free(hidden(pointer));
}

/* `size` bytes inside a live object. */
static void percpu_free_interior(const struct misuse_case *row)
{
    char *object = hidden(slab_percpu_alloc(64, 8)), *inside = object + row->size;
    announce("slab_percpu_free", inside, "not the start of a per-CPU object");
    slab_percpu_free(hidden(inside));
}

/* Kinds: the first CPU's, or the last's. */
static void percpu_free_copy(const struct misuse_case *row)
{
    slab_percpu object = slab_percpu_alloc(64, 8);
    void *copy = slab_percpu_ptr(object, is_kind(row, "last") ? slab_percpu_cpus() - 1 : 0);
    announce("slab_percpu_free", copy, "a copy, not the per-CPU object");
    slab_percpu_free(hidden(copy));
}

/* Calls on this CPU's copy. Kinds: of NULL, of a field of it, or before there was any object. */
static void percpu_null(const struct misuse_case *row)
{
    static slab_percpu_node node;
    void *pointer = is_kind(row, "field") ? (void *)4000 : NULL;
    slab_percpu object = hidden(pointer);
    if (!is_kind(row, "first"))
        slab_percpu_alloc(8, 8);
    announce(row->call, pointer, "NULL is no per-CPU object");
    if (is_call(row, "slab_percpu_ptr"))
        slab_percpu_ptr(object, 0);
    else if (is_call(row, "slab_percpu_this"))
        slab_percpu_this(object);
    else if (is_call(row, "slab_percpu_add_long"))
        slab_percpu_add_long(object, 1);
    else if (is_call(row, "slab_percpu_add_u64"))
        slab_percpu_add_u64(object, 1);
    else if (is_call(row, "slab_percpu_xchg"))
        slab_percpu_xchg(object, 1);
    else if (is_call(row, "slab_percpu_cmpxchg"))
        slab_percpu_cmpxchg(object, 0, 1);
    else if (is_call(row, "slab_percpu_list_push"))
        slab_percpu_list_push(object, &node);
    else if (is_call(row, "slab_percpu_list_pop"))
        slab_percpu_list_pop(object);
    else if (is_call(row, "slab_percpu_sum_long"))
        slab_percpu_sum_long(object);
    else if (is_call(row, "slab_percpu_sum_u64"))
        slab_percpu_sum_u64(object);
}

/* For calls that take what malloc gives. Kinds: a copy, or the per-CPU object itself. */
static void percpu_to_malloc(const struct misuse_case *row)
{
    slab_percpu object = slab_percpu_alloc(64, 8);
    void *pointer = is_kind(row, "object") ? hidden(object) : slab_percpu_ptr(object, 0);
    announce(said_call(row), pointer, "per-CPU memory, which slab_percpu_free frees");
    give(row, pointer);
}

const struct misuse_case misuse_of_percpu[] = {
    {"percpu_double_free-neighbour", percpu_double_free, .kind = "neighbour"},
    {"percpu_double_free-alone", percpu_double_free, .kind = "alone"},
    {"percpu_double_free-purged", percpu_double_free, .kind = "purged"},
    {"percpu_free_foreign-variable", percpu_free_foreign, .kind = "variable"},
    {"percpu_free_foreign-malloced", percpu_free_foreign, .kind = "malloced"},
    {"percpu_free_foreign-number", percpu_free_foreign, .kind = "number"},
    {"percpu_free_foreign-beside", percpu_free_foreign, .kind = "beside"},
    {"percpu_free_foreign-far", percpu_free_foreign, .kind = "far"},
    {"percpu_free_foreign-last", percpu_free_foreign, .kind = "last"},
    {"percpu_free_unused", .commit = percpu_free_unused},
    {"percpu_free_interior-1", percpu_free_interior, .size = 1},
    {"percpu_free_interior-4", percpu_free_interior, .size = 4},
    {"percpu_free_interior-8", percpu_free_interior, .size = 8},
    {"percpu_free_interior-63", percpu_free_interior, .size = 63},
    {"percpu_free_copy-first", percpu_free_copy, .kind = "first"},
    {"percpu_free_copy-last", percpu_free_copy, .kind = "last"},
    {"percpu_copy_to_malloc-free", percpu_to_malloc, .call = "free", .kind = "copy"},
    {"percpu_copy_to_malloc-free-object", percpu_to_malloc, .call = "free", .kind = "object"},
    {"percpu_copy_to_malloc-bulk", percpu_to_malloc, .call = "slab_free_bulk", .kind = "copy"},
    {"percpu_copy_to_malloc-nolock", percpu_to_malloc, .call = "slab_free_nolock", .kind = "copy"},
    {"percpu_copy_to_malloc-deferred", percpu_to_malloc, .call = "slab_free_deferred", .kind = "copy"},
    {"percpu_copy_to_malloc-slab_free", percpu_to_malloc, .call = "slab_free", .kind = "copy"},
    {"percpu_copy_to_malloc-cache", percpu_to_malloc, .call = "slab_cache_free", .kind = "copy"},
    {"percpu_copy_to_malloc-realloc", percpu_to_malloc, .call = "realloc", .kind = "copy", .size = 1000},
    {"percpu_copy_to_malloc-usable", percpu_to_malloc, .call = "malloc_usable_size", .kind = "copy"},
    {"percpu_copy_to_malloc-usable-object", percpu_to_malloc, .call = "malloc_usable_size", .kind = "object"},
    {"percpu_null-ptr", percpu_null, .call = "slab_percpu_ptr", .kind = "null"},
    {"percpu_null-this", percpu_null, .call = "slab_percpu_this", .kind = "null"},
    {"percpu_null-add_long", percpu_null, .call = "slab_percpu_add_long", .kind = "null"},
    {"percpu_null-add_u64", percpu_null, .call = "slab_percpu_add_u64", .kind = "null"},
    {"percpu_null-xchg", percpu_null, .call = "slab_percpu_xchg", .kind = "null"},
    {"percpu_null-cmpxchg", percpu_null, .call = "slab_percpu_cmpxchg", .kind = "null"},
    {"percpu_null-list_push", percpu_null, .call = "slab_percpu_list_push", .kind = "null"},
    {"percpu_null-list_pop", percpu_null, .call = "slab_percpu_list_pop", .kind = "null"},
    {"percpu_null-sum_long", percpu_null, .call = "slab_percpu_sum_long", .kind = "null"},
    {"percpu_null-sum_u64", percpu_null, .call = "slab_percpu_sum_u64", .kind = "null"},
    {"percpu_null-add_long-first", percpu_null, .call = "slab_percpu_add_long", .kind = "first"},
    {"percpu_null-xchg-field", percpu_null, .call = "slab_percpu_xchg", .kind = "field"},
    {0},
};
