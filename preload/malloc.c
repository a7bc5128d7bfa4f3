/* libc's names; see heap/ for what they do. What a name promises stands in its manual page (malloc(3),
 * posix_memalign(3), malloc_usable_size(3), mallinfo(3), mallopt(3), malloc_trim(3), malloc_info(3), and C23 for the
 * sized frees). The whole family is here: a name left out would fall through to libc and mix two heaps. Nothing
 * beyond the family is. */
#include <errno.h>
#include <malloc.h>
#include <slabmalloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/lifecycle.h"
#include "heap/stats.h"
#include "os/vm.h"

void cfree(void *pointer);
void free_sized(void *pointer, size_t n);
void free_aligned_sized(void *pointer, size_t alignment, size_t n);

slm_public void *malloc(size_t n)
{
    return slm_alloc(n);
}

slm_public void free(void *pointer)
{
    slm_free(pointer);
}

slm_public void cfree(void *pointer)
{
    slm_free(pointer);
}

/* C23: the size is a promise that needs no keeping for us to find the object. */
slm_public void free_sized(void *pointer, size_t n)
{
    (void)n;
    slm_free(pointer);
}

slm_public void free_aligned_sized(void *pointer, size_t alignment, size_t n)
{
    (void)alignment;
    (void)n;
    slm_free(pointer);
}

slm_public void *calloc(size_t count, size_t size)
{
    return slm_zeroed_alloc(count, size);
}

slm_public void *realloc(void *pointer, size_t n)
{
    return slm_resize(pointer, n);
}

slm_public void *reallocarray(void *pointer, size_t count, size_t size)
{
    size_t n;
    if (__builtin_mul_overflow(count, size, &n)) {
        errno = ENOMEM;
        return NULL;
    }
    return slm_resize(pointer, n);
}

slm_public size_t malloc_usable_size(void *pointer)
{
    return slm_usable(pointer);
}

slm_public int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (!slm_is_power_of_two(alignment) || alignment % sizeof(void *) != 0)
        return EINVAL;
    const int kept = errno;
    void *object = slm_aligned_alloc(alignment, n);
    errno = kept;
    if (!object)
        return ENOMEM;
    *out = object;
    return 0;
}

/* glibc's memalign rounds an alignment up to a power of two; one over the half of memory has none. */
slm_public void *memalign(size_t alignment, size_t n)
{
    if (alignment > (SIZE_MAX >> 1) + 1) {
        errno = EINVAL;
        return NULL;
    }
    if (!slm_is_power_of_two(alignment))
        alignment = alignment <= 16 ? 16 : (size_t)2 << slm_log2(alignment);
    return slm_aligned_alloc(alignment, n);
}

slm_public void *aligned_alloc(size_t alignment, size_t n)
{
    if (!slm_is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return slm_aligned_alloc(alignment, n);
}

slm_public void *valloc(size_t n)
{
    slm_process_started(); /* or the page size is not known */
    return slm_aligned_alloc(slm_page_size, n);
}

slm_public void *pvalloc(size_t n)
{
    if (n > (size_t)PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    slm_process_started();
    return slm_aligned_alloc(slm_page_size, slm_align_up(n ? n : 1, slm_page_size));
}

/* arena: mapped for objects; uordblks: handed out; fordblks: the rest; keepcost: could go now. No object is a mapping
 * of its own, so hblks and hblkhd are 0 and uordblks has the large objects too. */
slm_public struct mallinfo2 mallinfo2(void)
{
    struct slab_stats stats;
    slm_stats_gather(&stats);
    return (struct mallinfo2){
        .arena = stats.reserved_bytes,
        .ordblks = stats.slabs_made - stats.slabs_released,
        .uordblks = stats.live_bytes,
        .fordblks = stats.reserved_bytes - stats.live_bytes,
        .keepcost = stats.dirty_bytes,
    };
}

slm_public struct mallinfo mallinfo(void)
{
    const struct mallinfo2 wide = mallinfo2(); /* as glibc's: figures over INT_MAX wrap */
    return (struct mallinfo){
        .arena = (int)wide.arena,
        .ordblks = (int)wide.ordblks,
        .uordblks = (int)wide.uordblks,
        .fordblks = (int)wide.fordblks,
        .keepcost = (int)wide.keepcost,
    };
}

/* glibc's parameters mean thresholds of glibc's design; they are accepted and change nothing. */
slm_public int mallopt(int parameter, int value)
{
    (void)parameter;
    (void)value;
    return 1;
}

slm_public int malloc_trim(size_t pad)
{
    (void)pad;
    return slm_heap_purge() > 0;
}

static void print_figure(FILE *out, const char *name, uint64_t bytes)
{
    fprintf(out, "%-16s = %10llu\n", name, (unsigned long long)bytes);
}

slm_public void malloc_stats(void)
{
    const struct mallinfo2 info = mallinfo2();
    print_figure(stderr, "system bytes", info.arena);
    print_figure(stderr, "in use bytes", info.uordblks);
    print_figure(stderr, "could go bytes", info.keepcost);
}

/* Of all nodes. */
struct stock {
    unsigned long long rounds, slabs;
};

static struct stock stock_of(struct slm_cache *cache)
{
    struct stock stock = {0, 0};
    for (unsigned node = 0; node < slm_nodes; node++) {
        const struct slm_depot *depot = slm_cache_depot_made(cache, node);
        stock.rounds += depot ? load_relaxed(&depot->stock_rounds) : 0;
        stock.slabs += depot ? load_relaxed(&depot->slabs_made) : 0;
    }
    return stock;
}

slm_public int malloc_info(int options, FILE *out)
{
    if (options != 0) {
        errno = EINVAL;
        return -1;
    }
    struct slab_stats stats;
    slm_stats_gather(&stats);
    fprintf(out, "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n");
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct stock stock = stock_of(&slm_class_caches[class]);
        const unsigned size = slm_class_size[class], from = class == 0 ? 1 : slm_class_size[class - 1] + 1u;
        if (stock.slabs > 0)
            fprintf(out, "<size from=\"%u\" to=\"%u\" total=\"%llu\" count=\"%llu\"/>\n", from, size,
                    stock.rounds * size, stock.rounds);
    }
    fprintf(out,
            "</sizes>\n<total type=\"fast\" count=\"%llu\" size=\"%llu\"/>\n<total type=\"rest\" count=\"0\" "
            "size=\"%llu\"/>\n<system type=\"current\" size=\"%llu\"/>\n<aspace type=\"total\" size=\"%llu\"/>\n"
            "</heap>\n</malloc>\n",
            (unsigned long long)stats.threads, (unsigned long long)stats.cached_bytes,
            (unsigned long long)stats.dirty_bytes, (unsigned long long)stats.reserved_bytes,
            (unsigned long long)stats.reserved_bytes);
    return ferror(out) ? -1 : 0;
}

slm_public const char *slab_version(void)
{
    return SLAB_VERSION_STRING;
}

slm_public void slab_free_bulk(size_t n, void *const ptrs[])
{
    for (size_t i = 0; i < n; i++)
        slm_free(ptrs[i]);
}

slm_public int slab_get_stats(slab_stats *out, size_t size_of_out)
{
    struct slab_stats stats;
    if (!out || size_of_out == 0) {
        errno = EINVAL;
        return -1;
    }
    slm_stats_gather(&stats);
    memset(out, 0, size_of_out);
    memcpy(out, &stats, slm_min(size_of_out, sizeof stats));
    return 0;
}

slm_public int slab_get_node_stats(int node, slab_node_stats *out, size_t size_of_out)
{
    struct slab_node_stats stats;
    if (!out || size_of_out == 0 || !slm_stats_gather_node(node, &stats)) {
        errno = EINVAL;
        return -1;
    }
    memset(out, 0, size_of_out);
    memcpy(out, &stats, slm_min(size_of_out, sizeof stats));
    return 0;
}

slm_public size_t slab_purge(void)
{
    return slm_heap_purge();
}
