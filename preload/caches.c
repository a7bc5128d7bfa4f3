/* The names of include/slabmalloc.h about caches. */
#include <slabmalloc.h>

#include "base/errno.h"
#include "figures/cache_info.h"
#include "control/cache_control.h"
#include "process/lifecycle.h"
#include "heap/cache_object.h"

slm_public slab_cache *slab_cache_create(const char *name, size_t size, const slab_cache_attr *attr)
{
    return slm_errno_if(NULL, slm_cache_control_create(name, size, attr));
}

slm_public int slab_cache_destroy(slab_cache *cache)
{
    return slm_errno_if(-1, slm_cache_control_destroy(cache));
}

slm_public slm_hot_path void *slab_cache_alloc(slab_cache *cache)
{
    return slm_cache_object_alloc(cache);
}

slm_public void *slab_cache_alloc_node(slab_cache *cache, int node)
{
    return slm_cache_object_alloc_node(cache, node);
}

slm_public void *slab_cache_alloc_nolock(slab_cache *cache)
{
    return slm_cache_object_alloc_nolock(cache);
}

slm_public slm_hot_path void slab_cache_free(slab_cache *cache, void *object)
{
    slm_cache_object_free(cache, object);
}

slm_public size_t slab_cache_alloc_bulk(slab_cache *cache, size_t n, void *out[])
{
    return slm_cache_object_alloc_bulk(cache, n, out);
}

slm_public void slab_cache_free_bulk(slab_cache *cache, size_t n, void *const objects[])
{
    slm_keep_errno();
    slm_cache_object_free_bulk(cache, n, objects);
}

slm_public size_t slab_cache_shrink(slab_cache *cache)
{
    if (!cache) {
        errno = EINVAL;
        return 0;
    }
    slm_keep_errno();
    return slm_cache_control_shrink(cache);
}

slm_public int slab_cache_tune(slab_cache *cache, unsigned magazine_rounds, unsigned depot_magazines)
{
    return slm_errno_if(-1, slm_cache_control_tune(cache, magazine_rounds, depot_magazines));
}

slm_public int slab_cache_get_stats(slab_cache *cache, slab_cache_stats *out)
{
    return slm_errno_if(-1, slm_cache_info_stats(cache, out));
}

/* Where the library could not start there is no cache to see. */
slm_public int slab_cache_foreach(int (*visit)(slab_cache *cache, void *context), void *context)
{
    return slm_process_started() ? slm_cache_info_foreach(visit, context) : 0;
}

slm_public int slab_info(FILE *out)
{
    return slm_process_started() ? slm_cache_info_print(out) : 0;
}
