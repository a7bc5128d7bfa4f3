/* A program with a function for each way to ask for memory, which holds what it gets: by_malloc and so on. And the
 * library calls back to `made`, which asks for more. It says "ready" when it has all. */
#include <malloc.h>
#include <new>
#include <slabmalloc.h>
#include <stdio.h>
#include <stdlib.h>

#define KEEP __attribute__((noinline, noclone))

enum { TIMES = 300, HELD_MOST = 100000 };
static void *volatile held[HELD_MOST];
static unsigned count;
static slab_cache *cache;

static KEEP void hold(void *object)
{
    if (!object || count == HELD_MOST)
        abort();
    held[count++] = object;
}

#define WAY(name, ...)                                                                                               \
    static KEEP void by_##name()                                                                                     \
    {                                                                                                                \
        for (int i = 0; i < TIMES; i++)                                                                              \
            hold(__VA_ARGS__);                                                                                       \
    }

WAY(malloc, malloc(5000))
WAY(malloc_large, malloc(100000))
WAY(calloc, calloc(5, 1000))
WAY(calloc_large, calloc(5, 20000))
WAY(realloc, realloc(malloc(16), 5000))
WAY(realloc_large, realloc(malloc(5000), 100000))
WAY(reallocarray, reallocarray(NULL, 5, 1000))
WAY(memalign, memalign(256, 5000))
WAY(aligned_alloc, aligned_alloc(65536, 131072))
WAY(valloc, valloc(5000))
WAY(new, ::operator new(5000))
WAY(new_array, ::operator new[](100000))
WAY(new_nothrow, ::operator new[](5000, std::nothrow))
WAY(new_aligned, ::operator new(5000, std::align_val_t(64)))
WAY(cache, slab_cache_alloc(cache))

static KEEP void made(void *, void *)
{
    hold(malloc(3000));
}

int main()
{
    slab_cache_attr attributes = {};
    attributes.ctor = made;
    cache = slab_cache_create("ways", 7000, &attributes);
    by_malloc();
    by_malloc_large();
    by_calloc();
    by_calloc_large();
    by_realloc();
    by_realloc_large();
    by_reallocarray();
    by_memalign();
    by_aligned_alloc();
    by_valloc();
    by_new();
    by_new_array();
    by_new_nothrow();
    by_new_aligned();
    by_cache();
    puts("ready");
    fflush(stdout);
    getchar();
}
