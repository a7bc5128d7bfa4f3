/* slabmalloc: a malloc for multithreaded servers on Linux.
 *
 * Link with -lslabmalloc (pkg-config slabmalloc), or put libslabmalloc.so into LD_PRELOAD: malloc, free and their
 * whole family, C++'s operator new and delete included, are then this library's. This header declares what it offers
 * beyond libc's names. C and C++ can include it. */
#ifndef SLABMALLOC_H
#define SLABMALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLAB_VERSION_MAJOR 0
#define SLAB_VERSION_MINOR 1

/* The version of the library that is loaded, as "0.1.0"; a static string. Any thread, any time. */
const char *slab_version(void);

/* -- objects ------------------------------------------------------------------------------------------------------
 */

/* Free n objects, as free() does one by one; NULL among them is nothing. `ptrs` is read only. errno is kept. Any
 * thread. */
void slab_free_bulk(size_t n, void *const ptrs[]);

/* -- the process --------------------------------------------------------------------------------------------------
 */

/* Figures of the whole process, in bytes or counts since its start. They are read one after the other while threads
 * go on: exact when the process is quiet. Fields are only ever appended. */
typedef struct slab_stats {
    uint64_t live_bytes;     /* handed out: sizes of the objects' classes, and of large objects in whole pages */
    uint64_t cached_bytes;   /* free objects in threads' magazines and depots' stock */
    uint64_t dirty_bytes;    /* free spans whose RAM has not been given back yet */
    uint64_t purged_bytes;   /* given back to the kernel since start */
    uint64_t reserved_bytes; /* addresses mapped for objects */
    uint64_t metadata_bytes; /* addresses mapped for the library's own structures */
    uint64_t deferred_bytes, deferred_objects, grace_periods, membarriers; /* 0: deferred free is to come */
    uint64_t refills, drains; /* trips of threads' magazines to the depots */
    uint64_t depot_locks;     /* exchanges of magazines with depots */
    uint64_t depot_contended; /* locks of any kind that were found held */
    uint64_t slabs_made, slabs_released, purges;
    uint64_t threads, nodes, caches;
} slab_stats;

/* Fill the first size_of_out bytes of a slab_stats: pass sizeof *out, so that a program keeps working with a library
 * that knows of more. 0, or -1 and EINVAL when `out` is NULL or the size 0. Any thread; takes locks. */
int slab_get_stats(slab_stats *out, size_t size_of_out);

/* Give back to the kernel all that can go: the calling thread's magazines, the depots' stock, vacant slabs, free
 * spans. Returns the bytes purged. Any thread; takes as long as the kernel needs. */
size_t slab_purge(void);

#ifdef __cplusplus
}
#endif

#endif
