/* libc's names. The contract of each is its manual page (malloc(3), posix_memalign(3), malloc_usable_size(3),
 * mallinfo(3), mallopt(3), malloc_trim(3), malloc_info(3)). The whole family is here and in preload/through.c: a name
 * left out would fall through to libc and mix two heaps. */
#include <stdlib.h>

#include "figures/malloc_info.h"
#include "base/errno.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/resize.h"
#include "process/give_back.h"
#include "process/lifecycle.h"
#include "os/vm.h"

#define UNUSED __attribute__((unused))

/* In an archive whoever has malloc, or C++'s operators, has slab_inspect, too, by this mention. */
__asm__(".globl slab_inspect");

slm_public slm_hot_path void *malloc(size_t n)
{
    return slm_alloc(n);
}

slm_public slm_hot_path void free(void *pointer)
{
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

static void *refuse(int error)
{
    errno = error;
    return NULL;
}

slm_public size_t malloc_usable_size(void *pointer)
{
    return slm_usable(pointer);
}

/* `rounded`: as below; it was looked whether that is `due` to be sampled. */
static slm_for_few __attribute__((noinline)) int memalign_slow(void **out, size_t alignment, size_t n, size_t rounded,
                                                               bool due)
{
    slm_keep_errno();
    void *object;
    if (rounded <= SLM_TABLE_MAX)
        object = due ? slm_alloc_due_slow(rounded) : slm_alloc_slow(rounded);
    else
        object = slm_aligned_alloc(alignment, n);
    if (!object)
        return ENOMEM;
    if (due)
        slm_sampled_resize(object, n);
    *out = object;
    return 0;
}

/* What a magazine has needs nothing of the rest: errno stays. */
slm_public slm_for_few int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (unlikely(alignment == 0 || (alignment & ((alignment - 1) | (sizeof(void *) - 1))) != 0))
        return EINVAL;
    const size_t rounded = n <= SLM_TABLE_MAX ? slm_size_of_aligned(n, alignment) : SIZE_MAX;
    const bool due = likely(rounded <= SLM_TABLE_MAX) && slm_sample_due(rounded);
    void *object =
        likely(rounded <= SLM_TABLE_MAX) && likely(!due) ? slm_pop_keyed(slm_size_slot_offset[rounded]) : NULL;
    if (unlikely(!object))
        return memalign_slow(out, alignment, n, rounded, due);
    *out = object;
    return 0;
}

/* As in glibc, an alignment is rounded up to a power of two; above half of the address space there is none. */
slm_public slm_for_few void *memalign(size_t alignment, size_t n)
{
    if (alignment > (SIZE_MAX >> 1) + 1)
        return refuse(EINVAL);
    if (!slm_is_power_of_two(alignment))
        alignment = alignment <= 16 ? 16 : (size_t)2 << slm_log2(alignment);
    return slm_aligned_alloc(alignment, n);
}

slm_public void *aligned_alloc(size_t alignment, size_t n)
{
    return slm_is_power_of_two(alignment) ? slm_aligned_alloc(alignment, n) : refuse(EINVAL);
}

slm_public slm_for_few void *valloc(size_t n)
{
    slm_process_started(); /* else the page size is not known */
    return slm_aligned_alloc(slm_page_size, n);
}

slm_public slm_seldom struct mallinfo2 mallinfo2(void)
{
    slm_keep_errno();
    return slm_malloc_info();
}

/* As in glibc, figures over INT_MAX wrap. */
slm_public slm_seldom struct mallinfo mallinfo(void)
{
    slm_keep_errno();
    const struct mallinfo2 wide = slm_malloc_info();
    return (struct mallinfo){.arena = (int)wide.arena,
                             .ordblks = (int)wide.ordblks,
                             .uordblks = (int)wide.uordblks,
                             .fordblks = (int)wide.fordblks,
                             .keepcost = (int)wide.keepcost};
}

/* glibc's parameters are thresholds of glibc's design; they are accepted and ignored. */
slm_public int mallopt(UNUSED int parameter, UNUSED int value)
{
    return 1;
}

slm_public slm_seldom int malloc_trim(UNUSED size_t pad)
{
    slm_keep_errno();
    return slm_give_back_all() > 0;
}

slm_public slm_seldom void malloc_stats(void)
{
    slm_malloc_info_print_stats(stderr);
}

slm_public slm_seldom int malloc_info(int options, FILE *out)
{
    if (options != 0) {
        errno = EINVAL;
        return -1;
    }
    slm_malloc_info_print_xml(out);
    return ferror(out) ? -1 : 0;
}

/* -- other names of the same ------------------------------------------------------------------------------------- */

/* Programs with a malloc of their own may build it on these, and leave the rest of the family to us. They are what
 * glibc exports of calls that give or take objects; __libc_pvalloc is in preload/through.c. */
slm_hidden __typeof__(malloc) slm_own_malloc slm_alias_of(malloc); /* for preload/threads.c */
slm_public __typeof__(malloc) __libc_malloc slm_alias_of(malloc);
slm_public __typeof__(calloc) __libc_calloc slm_alias_of(calloc);
slm_public __typeof__(realloc) __libc_realloc slm_alias_of(realloc);
slm_public __typeof__(free) __libc_free slm_alias_of(free);
slm_public __typeof__(memalign) __libc_memalign slm_alias_of(memalign);
slm_public __typeof__(valloc) __libc_valloc slm_alias_of(valloc);
