/* Stands in front of malloc and its family, and passes each call on to the next malloc; see record.h. strdup and
 * their like come through these. So do all forms of C++'s operators: they call those that stand here, as the standard
 * says. A realloc counts as a call for its new size, a realloc to 0 bytes as none. */
#include "record.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What comes next in the order of libraries; looked up at the first call, which may come before any constructor. */
static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*valloc)(size_t);
    void (*free)(void *);
    size_t (*usable)(void *);
    void *(*new)(size_t);
    void *(*new_aligned)(size_t, size_t);
    void (*delete)(void *);
    void (*delete_aligned)(void *, size_t);
} next;
static atomic_bool ready;

/* dlsym may itself ask for memory, while there is nobody to pass the call on to: that comes from here, and stays. */
static _Alignas(16) char early[1 << 14];
static size_t early_used;
static _Thread_local volatile bool looking_up; /* volatile: libc declares that dlsym calls nothing of this file */

static void *early_alloc(size_t bytes)
{
    const size_t rounded = (bytes + 15) & ~(size_t)15;
    if (rounded < bytes || rounded > sizeof early - early_used)
        return NULL;
    early_used += rounded;
    return early + early_used - rounded;
}

static bool is_early(const void *object)
{
    return (uintptr_t)object - (uintptr_t)early < sizeof early;
}

static void look_up(void)
{
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        {"malloc", &next.malloc},
        {"calloc", &next.calloc},
        {"realloc", &next.realloc},
        {"memalign", &next.memalign},
        {"aligned_alloc", &next.aligned_alloc},
        {"posix_memalign", &next.posix_memalign},
        {"valloc", &next.valloc},
        {"free", &next.free},
        {"malloc_usable_size", &next.usable},
        {"_Znwm", &next.new},
        {"_ZnwmSt11align_val_t", &next.new_aligned},
        {"_ZdlPv", &next.delete},
        {"_ZdlPvSt11align_val_t", &next.delete_aligned},
    };
    looking_up = true;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *found = dlsym(RTLD_NEXT, wanted[i].name);
        memcpy(wanted[i].function, &found, sizeof found);
    }
    looking_up = false;
    atomic_store(&ready, true);
}

/* Before each call; false while the next malloc is being looked up, by this thread. */
static bool is_ready(void)
{
    if (!atomic_load_explicit(&ready, memory_order_acquire) && !looking_up)
        look_up();
    return !looking_up;
}

static void *made(void *object, size_t asked)
{
    if (object != NULL)
        record_made(object, asked, next.usable(object));
    return object;
}

static void gone(void *object)
{
    size_t given;
    record_gone(object, &given);
}

EXPORTED void *malloc(size_t bytes)
{
    return is_ready() ? made(next.malloc(bytes), bytes) : early_alloc(bytes);
}

EXPORTED void *calloc(size_t items, size_t bytes)
{
    return is_ready() ? made(next.calloc(items, bytes), items * bytes) : early_alloc(items * bytes);
}

static void *realloc_early(const void *object, size_t bytes)
{
    void *copy = made(next.malloc(bytes), bytes);
    const size_t held = (size_t)(early + sizeof early - (const char *)object);
    return copy != NULL ? memcpy(copy, object, bytes < held ? bytes : held) : NULL;
}

EXPORTED void *realloc(void *object, size_t bytes)
{
    size_t asked = 0, given = 0;
    if (!is_ready())
        return NULL;
    if (is_early(object))
        return realloc_early(object, bytes);
    if (object != NULL)
        asked = record_gone(object, &given);
    void *now = next.realloc(object, bytes);
    if (now == NULL && bytes > 0 && given > 0)
        record_made(object, asked, given);
    return made(now, bytes);
}

EXPORTED void *memalign(size_t alignment, size_t bytes)
{
    return is_ready() ? made(next.memalign(alignment, bytes), bytes) : NULL;
}

EXPORTED void *aligned_alloc(size_t alignment, size_t bytes)
{
    return is_ready() ? made(next.aligned_alloc(alignment, bytes), bytes) : NULL;
}

EXPORTED int posix_memalign(void **object, size_t alignment, size_t bytes)
{
    is_ready();
    const int failed = next.posix_memalign(object, alignment, bytes);
    if (failed == 0)
        made(*object, bytes);
    return failed;
}

EXPORTED void *valloc(size_t bytes)
{
    return is_ready() ? made(next.valloc(bytes), bytes) : NULL;
}

EXPORTED void free(void *object)
{
    if (object == NULL || is_early(object) || !is_ready())
        return;
    gone(object);
    next.free(object);
}

/* C++'s, under their names in the Itanium ABI. Where no library has them behind this one, who calls them has brought
 * them by dlopen. */
void *_Znwm(size_t bytes);
void *_ZnwmSt11align_val_t(size_t bytes, size_t alignment);
void _ZdlPv(void *object);
void _ZdlPvSt11align_val_t(void *object, size_t alignment);

static void *or_abort(void *object)
{
    if (object == NULL)
        abort();
    return object;
}

EXPORTED void *_Znwm(size_t bytes)
{
    is_ready();
    return next.new != NULL ? made(next.new(bytes), bytes) : or_abort(malloc(bytes));
}

EXPORTED void *_ZnwmSt11align_val_t(size_t bytes, size_t alignment)
{
    is_ready();
    return next.new_aligned != NULL ? made(next.new_aligned(bytes, alignment), bytes)
                                    : or_abort(aligned_alloc(alignment, (bytes + alignment - 1) & -alignment));
}

EXPORTED void _ZdlPv(void *object)
{
    if (!is_ready() || next.delete == NULL || object == NULL) {
        free(object);
        return;
    }
    gone(object);
    next.delete(object);
}

EXPORTED void _ZdlPvSt11align_val_t(void *object, size_t alignment)
{
    if (!is_ready() || next.delete_aligned == NULL || object == NULL) {
        free(object);
        return;
    }
    gone(object);
    next.delete_aligned(object, alignment);
}
