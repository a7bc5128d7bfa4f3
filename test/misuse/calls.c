/* The calls that take what malloc gives, by name, and the lines that the library says. */
#include <inttypes.h>
#include <malloc.h>
#include <slabmalloc.h>
#include <unistd.h>

#include "misuse.h"

void announce(const char *call, const void *pointer, const char *what)
{
    dprintf(STDOUT_FILENO, "slabmalloc: %s(0x%" PRIxPTR "): %s (thread %d)\n", call, (uintptr_t)pointer, what,
            (int)gettid());
}

void announce_of_cache(const char *call, const void *pointer, const char *what, const char *cache)
{
    dprintf(STDOUT_FILENO, "slabmalloc: %s(0x%" PRIxPTR "): %s of cache %s (thread %d)\n", call, (uintptr_t)pointer,
            what, cache, (int)gettid());
}

void announce_of_size(const char *call, const void *pointer, const char *what, size_t size)
{
    dprintf(STDOUT_FILENO, "slabmalloc: %s(0x%" PRIxPTR "): %s of %zu bytes (thread %d)\n", call, (uintptr_t)pointer,
            what, size, (int)gettid());
}

extern void _ZdlPv(void *pointer); /* C++'s operator delete(void *) */

static void give_free(void *pointer, size_t size)
{
    (void)size;
    free(pointer);
}

static void give_delete(void *pointer, size_t size)
{
    (void)size;
    _ZdlPv(pointer);
}

static void give_realloc(void *pointer, size_t size)
{
    void *volatile other = realloc(pointer, size);
    free(other);
}

static void give_usable_size(void *pointer, size_t size)
{
    (void)size;
    printf("%zu\n", malloc_usable_size(pointer));
}

static void give_slab_free(void *pointer, size_t size)
{
    (void)size;
    slab_free(pointer);
}

static void give_free_nolock(void *pointer, size_t size)
{
    (void)size;
    slab_free_nolock(pointer);
}

static void give_free_bulk(void *pointer, size_t size)
{
    (void)size;
    slab_free_bulk(1, &pointer);
}

static void give_free_bulk_among_others(void *pointer, size_t size)
{
    (void)size;
    void *const pointers[] = {malloc(10), NULL, pointer, malloc(10)};
    slab_free_bulk(4, pointers);
}

static void give_free_deferred(void *pointer, size_t size)
{
    (void)size;
    slab_free_deferred(pointer);
}

static void give_free_deferred_head(void *pointer, size_t size)
{
    (void)size;
    slab_free_deferred_head(pointer, pointer);
}

static void give_free_deferred_bulk_among_others(void *pointer, size_t size)
{
    (void)size;
    void *const pointers[] = {malloc(10), NULL, pointer, malloc(10)};
    slab_free_deferred_bulk(4, pointers);
}

static void give_cache_free(void *pointer, size_t size)
{
    (void)size;
    slab_cache_free(slab_cache_create("apples", 64, NULL), pointer);
}

static const struct call {
    const char *name;
    const char *said; /* in messages */
    void (*give)(void *pointer, size_t size);
} calls[] = {
    {"free", "free", give_free},
    {"operator delete", "operator delete", give_delete},
    {"realloc", "realloc", give_realloc},
    {"malloc_usable_size", "malloc_usable_size", give_usable_size},
    {"slab_free", "slab_free", give_slab_free},
    {"slab_free_nolock", "slab_free_nolock", give_free_nolock},
    {"slab_free_bulk", "free", give_free_bulk},
    {"slab_free_bulk, among others", "free", give_free_bulk_among_others},
    {"slab_free_deferred", "slab_free_deferred", give_free_deferred},
    {"slab_free_deferred_head", "slab_free_deferred", give_free_deferred_head},
    {"slab_free_deferred_bulk, among others", "slab_free_deferred", give_free_deferred_bulk_among_others},
    {"slab_cache_free", "slab_cache_free", give_cache_free},
};

static const struct call *find_call(const struct misuse_case *row)
{
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (is_call(row, calls[i].name))
            return &calls[i];
    fprintf(stderr, "%s: no such call\n", row->name);
    exit(EXIT_FAILURE);
}

void give(const struct misuse_case *row, void *pointer)
{
    find_call(row)->give(hidden(pointer), row->size);
}

const char *said_call(const struct misuse_case *row)
{
    return find_call(row)->said;
}
