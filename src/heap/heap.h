/* The heap's slow paths and everything that is not malloc(small) and free: what the hot paths in alloc.h and free.h
 * fall back to, and what preload/ wraps in libc's names. NULL always comes with errno = ENOMEM. Any thread. */
#pragma once

#include "thread/thread_cache.h"

/* n bytes, at most SLM_SMALL_MAX: their class's magazine is empty, or the thread has none. */
void *slm_alloc_slow(size_t n);

/* Over SLM_TABLE_MAX bytes: a size class up to SLM_SMALL_MAX, else a span. */
void *slm_alloc_medium(size_t n);

/* Over SLM_SMALL_MAX bytes on a node that there is. */
void *slm_alloc_large_node(size_t n, unsigned node);

/* The magazine is full, or the pointer is large, NULL or not ours; `call` is the name for a misuse's report. */
void slm_free_slow(void *pointer, const char *call);

/* The size of a large object, 0 for NULL; other pointers end the process. */
size_t slm_usable_slow(const void *pointer);

/* As C's calloc, realloc and aligned_alloc with any power of two. realloc of n = 0 bytes frees and returns NULL. */
void *slm_zeroed_alloc(size_t count, size_t size);
void *slm_resize(void *pointer, size_t n);
void *slm_aligned_alloc(size_t alignment, size_t n);

/* As slab_free_nolock. */
void slm_free_nolock(void *pointer);

/* An object for a thread that has no block to work on; NULL and errno as slm_depot_fill. */
void *slm_alloc_direct(struct slm_cache *cache);

/* The kernel has no memory: give back what can go, if that can help with n bytes. True: try once more. */
bool slm_heap_reclaim_for(size_t n);

/* End the process: the pointer is no object of ours that `call` could be meant for. */
_Noreturn void slm_refuse(const void *pointer, const char *call);

/* Give everything back, the calling thread's magazines included; bytes purged. */
size_t slm_heap_purge(void);

/* Checked builds and tests: walk all structures. */
void slm_heap_check(void);
