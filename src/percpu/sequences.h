/* Restartable sequences on this CPU's copy, besides the one that the public header has inline, whose macros begin and
 * end them. The last instruction changes the copy: a thread that is interrupted before it restarts, one that is
 * interrupted after it is done. While a sequence is not interrupted only this CPU changes what it reads: no other
 * thread can take, and unmap, the node that pop finds at the head before pop has looked into it. */
#pragma once

#include <slabmalloc.h>

#include "base/compiler.h"

#ifdef SLAB_PERCPU_SEQUENCES

/* Instructions of the two machines: load and store the copy, or what a register points to. */
#ifdef __x86_64__
#define LOAD_COPY(to) "movq " SLAB_PERCPU_COPY ", %[" to "]\n\t"
#define STORE_COPY(from) "movq %[" from "], " SLAB_PERCPU_COPY "\n"
#define LOAD_AT(to, at) "movq (%[" at "]), %[" to "]\n\t"
#define STORE_AT(from, at) "movq %[" from "], (%[" at "])\n\t"
#define END_UNLESS_EQUAL(a, b) "cmpq %[" a "], %[" b "]\n\tjne 773f\n\t"
#define END_IF_NULL(a) "testq %[" a "], %[" a "]\n\tjz 773f\n\t"
#else
#define LOAD_COPY(to) "ldr %[" to "], " SLAB_PERCPU_COPY "\n\t"
#define STORE_COPY(from) "str %[" from "], " SLAB_PERCPU_COPY "\n"
#define LOAD_AT(to, at) "ldr %[" to "], [%[" at "]]\n\t"
#define STORE_AT(from, at) "str %[" from "], [%[" at "]]\n\t"
#define END_UNLESS_EQUAL(a, b) "cmp %[" a "], %[" b "]\n\tb.ne 773f\n\t"
#define END_IF_NULL(a) "cbz %[" a "], 773f\n\t"
#endif

slm_inline uintptr_t slm_sequence_exchange(slab_percpu object, uintptr_t value)
{
    SLAB_PERCPU_SETTLED;
    uintptr_t was;
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX LOAD_COPY("was") STORE_COPY("value") SLAB_PERCPU_END
                     : [was] "=&r"(was)
                     : SLAB_PERCPU_INPUTS, [value] "r"(value)
                     : SLAB_PERCPU_CLOBBERS);
    return was;
}

slm_inline uintptr_t slm_sequence_compare_exchange(slab_percpu object, uintptr_t expected, uintptr_t value)
{
    SLAB_PERCPU_SETTLED;
    uintptr_t was;
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX LOAD_COPY("was") END_UNLESS_EQUAL("expected", "was")
                         STORE_COPY("value") SLAB_PERCPU_END
                     : [was] "=&r"(was)
                     : SLAB_PERCPU_INPUTS, [expected] "r"(expected), [value] "r"(value)
                     : SLAB_PERCPU_CLOBBERS);
    return was;
}

slm_inline void slm_sequence_push(slab_percpu object, slab_percpu_node *node)
{
    SLAB_PERCPU_SETTLED;
    slab_percpu_node *next;
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX LOAD_COPY("next") STORE_AT("next", "node") STORE_COPY("node")
                         SLAB_PERCPU_END
                     : [next] "=&r"(next)
                     : SLAB_PERCPU_INPUTS, [node] "r"(node)
                     : SLAB_PERCPU_CLOBBERS);
}

slm_inline slab_percpu_node *slm_sequence_pop(slab_percpu object)
{
    SLAB_PERCPU_SETTLED;
    slab_percpu_node *node, *next;
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX LOAD_COPY("node") END_IF_NULL("node") LOAD_AT("next", "node")
                         STORE_COPY("next") SLAB_PERCPU_END
                     : [node] "=&r"(node), [next] "=&r"(next)
                     : SLAB_PERCPU_INPUTS
                     : SLAB_PERCPU_CLOBBERS);
    return node;
}

#else
/* No sequences on this machine: slab_percpu_here.sequence stays 0, and these are not called. */
#define slm_sequence_exchange(object, value) (value)
#define slm_sequence_compare_exchange(object, expected, value) (expected)
#define slm_sequence_push(object, node) ((void)0)
#define slm_sequence_pop(object) ((slab_percpu_node *)NULL)
#endif
