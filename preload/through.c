/* libc's names that call others of the family by name. A program may replace some of the family and leave these to us
 * (glibc's manual, "Replacing malloc"), and so do valgrind and other tools, which know the old names alone. Then the
 * object comes from what they have put in the place of ours, and must go there. The contract of each is its manual
 * page, or C23. No definition of a callee is in this file: a compiler might take it for the one that is called. */
#include <malloc.h>
#include <stdlib.h>

#include "base/errno.h"
#include "heap/free.h"
#include "heap/sized.h"
#include "os/vm.h"
#include "page/reservation.h"
#include "process/lifecycle.h"

void cfree(void *pointer);
void free_sized(void *pointer, size_t n);
void free_aligned_sized(void *pointer, size_t alignment, size_t n);

/* What the hot path leaves. The object may have been resized since it was made, and then be larger than n. */
static slm_seldom __attribute__((noinline)) void sized_slow(void *pointer, size_t n, size_t alignment,
                                                            const char *call)
{
    if (unlikely(!slm_reservation_described(slm_granule_of(pointer)))) { /* none of ours */
        free(pointer);
        return;
    }
    if (unlikely(!slm_sized_within(pointer, n, alignment, call)))
        slm_sized_refuse(pointer, n, alignment, call);
    slm_free_slow(pointer, call);
}

slm_public slm_for_few void free_sized(void *pointer, size_t n)
{
    if (unlikely(!slm_push_sized(pointer, n)))
        sized_slow(pointer, n, 1, "free_sized");
}

slm_public slm_for_few void free_aligned_sized(void *pointer, size_t alignment, size_t n)
{
    if (unlikely(!slm_push_sized_aligned(pointer, n, alignment)))
        sized_slow(pointer, n, alignment, "free_aligned_sized");
}

slm_public slm_seldom void cfree(void *pointer)
{
    free(pointer);
}

static void *out_of_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

slm_public void *reallocarray(void *pointer, size_t count, size_t size)
{
    size_t n;
    return __builtin_mul_overflow(count, size, &n) ? out_of_memory() : realloc(pointer, n);
}

slm_public slm_seldom void *pvalloc(size_t n)
{
    slm_process_started(); /* else the page size is not known */
    return n > (size_t)PTRDIFF_MAX ? out_of_memory()
                                   : memalign(slm_page_size, slm_align_up(n ? n : 1, slm_page_size));
}

slm_public __typeof__(pvalloc) __libc_pvalloc slm_alias_of(pvalloc);
