/* What the misuse programs share. Each does one thing that no program may do, having first said on standard output,
 * in full, what the library is to say on standard error before it ends the process; expect.sh compares the two. */
#pragma once

#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A pointer that the compiler knows nothing about, or it would warn of the misuse or leave it out. */
static inline void *hidden(const void *pointer)
{
    const void *volatile unknown = pointer;
    return (void *)(uintptr_t)unknown;
}

/* "CALL(POINTER): WHAT" */
static inline void announce(const char *call, const void *pointer, const char *what)
{
    printf("slabmalloc: %s(0x%" PRIxPTR "): %s\n", call, (uintptr_t)pointer, what);
    fflush(stdout);
}

/* The same for an object of 64 bytes, whose slab is one granule of 64 KiB: " ... of cache NAME (slab ...)". */
static inline void announce_of_cache(const char *call, const void *pointer, const char *what, const char *cache)
{
    printf("slabmalloc: %s(0x%" PRIxPTR "): %s of cache %s (slab 0x%" PRIxPTR ")\n", call, (uintptr_t)pointer, what,
           cache, (uintptr_t)pointer & ~(uintptr_t)0xffff);
    fflush(stdout);
}

static inline void announce_of_slab(const char *call, const void *pointer, const char *what)
{
    announce_of_cache(call, pointer, what, "size-64");
}
