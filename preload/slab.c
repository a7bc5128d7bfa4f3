/* The names of include/slabmalloc.h about malloc's own objects and the process's figures. */
#include <slabmalloc.h>
#include <string.h>

#include "base/errno.h"
#include "figures/figures.h"
#include "heap/free.h"
#include "heap/cache_object.h"
#include "inspect/dump.h"
#include "process/give_back.h"
#include "thread/reserve.h"

slm_public const char *slab_version(void)
{
    return SLAB_VERSION_STRING;
}

slm_public void *slab_alloc_node(size_t size, int node)
{
    return slm_alloc_node(size, node);
}

slm_public slm_for_few void slab_free(void *ptr)
{
    slm_free_as(ptr, "slab_free");
}

slm_public slm_for_few void *slab_alloc_nolock(size_t size)
{
    struct slm_cache *cache = NULL;
    if (size <= SLM_SMALL_MAX)
        cache = slm_class_cache_nolock(slm_class_of_size(size));
    void *object = cache ? slm_reserve_pop(cache) : NULL;
    if (object)
        slm_key_clear(object);
    return object;
}

slm_public slm_for_few void slab_free_nolock(void *ptr)
{
    slm_keep_errno();
    slm_free_nolock(ptr);
}

slm_public slm_for_few void slab_free_bulk(size_t n, void *const ptrs[])
{
    for (size_t i = 0; i < n; i++)
        slm_free(ptrs[i]);
}

/* As much of the figures as the caller's struct holds. */
static slm_seldom int hand_out(void *out, size_t size_of_out, const void *figures, size_t size)
{
    if (!out || size_of_out == 0) {
        errno = EINVAL;
        return -1;
    }
    memset(out, 0, size_of_out);
    memcpy(out, figures, slm_min(size_of_out, size));
    return 0;
}

slm_public slm_seldom int slab_get_stats(slab_stats *out, size_t size_of_out)
{
    struct slab_stats stats;
    return slm_errno_if(-1, (slm_figures_gather(&stats), hand_out(out, size_of_out, &stats, sizeof stats)));
}

slm_public slm_seldom int slab_get_node_stats(int node, slab_node_stats *out, size_t size_of_out)
{
    struct slab_node_stats stats;
    slab_node_stats *found = slm_figures_gather_node(node, &stats) ? out : NULL;
    return slm_errno_if(-1, hand_out(found, size_of_out, &stats, sizeof stats));
}

slm_public slm_seldom size_t slab_purge(void)
{
    slm_keep_errno();
    return slm_give_back_all();
}

slm_public slm_seldom int slab_profile_dump(int fd)
{
    const int error = slm_dump_write(fd, &slab_inspect);
    if (error != 0)
        errno = error;
    return error == 0 ? 0 : -1;
}
