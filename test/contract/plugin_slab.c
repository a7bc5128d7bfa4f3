/* A plug-in that is linked with slabmalloc, for a program that is not: there malloc and free are libc's, but the
 * calls of slabmalloc.h are the library's. test_dlopen.c has plain.c open it. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <pthread.h>
#include <slabmalloc.h>
#include <stdlib.h>
#include <string.h>

int plugin_uses_slabs(void);
int plugin_has_malloc_of_ours(void);
void *plugin_opens_deeply(const char *file);

static const size_t sizes[] = {0, 1, 16, 100, 1000, 9000, 32768, 40000, 300000};

enum { SIZES = sizeof sizes / sizeof sizes[0] };

static int holds(const unsigned char *object, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (object[i] != (unsigned char)size)
            return 0;
    return 1;
}

/* By each call that gives an object, and by each that takes one. */
static int use_objects(void)
{
    int good = 1;
    for (size_t i = 0; i < 4 * SIZES; i++) {
        const size_t size = sizes[i / 4];
        unsigned char *object = slab_alloc_node(size, i % 2 ? 0 : -1), *libcs = malloc(size);
        good &= object != NULL && libcs != NULL;
        memset(libcs, 0xaa, size);
        memset(object, (unsigned char)size, size);
        free(libcs);
        good &= holds(object, size);
        switch (i % 4) {
        case 0:
            slab_free_bulk(1, (void *const *)&object);
            break;
        case 1:
            slab_free_deferred(object);
            break;
        default:
            slab_free(object);
        }
    }
    slab_free(NULL);
    return good;
}

static int use_cache(void)
{
    slab_cache *cache = slab_cache_create("plug-in", 100, NULL);
    void *objects[50];
    int good = cache != NULL;
    slab_epoch_enter();
    for (unsigned i = 0; i < 50; i++)
        good &= (objects[i] = slab_cache_alloc(cache)) != NULL;
    for (unsigned i = 0; i < 50; i++)
        if (i % 2)
            slab_free(objects[i]);
        else
            slab_cache_free(cache, objects[i]);
    slab_epoch_leave();
    return good & (slab_cache_destroy(cache) == 0);
}

static void *use_all(void *good)
{
    return use_objects() & use_cache() ? good : NULL;
}

/* In the thread that calls, and in one that ends. */
int plugin_uses_slabs(void)
{
    pthread_t thread;
    int here = 1;
    void *there = NULL;
    return use_all(&here) != NULL && pthread_create(&thread, NULL, use_all, &here) == 0 &&
           pthread_join(thread, &there) == 0 && there == &here;
}

int plugin_has_malloc_of_ours(void)
{
    Dl_info found;
    void *(*const make)(size_t size) = malloc;
    return dladdr(*(void *const *)&make, &found) != 0 && strstr(found.dli_fname, "libslabmalloc") != NULL;
}

void *plugin_opens_deeply(const char *file)
{
    void *volatile library = dlopen(file, RTLD_NOW | RTLD_DEEPBIND); /* or a jump would hide who calls */
    return library;
}
