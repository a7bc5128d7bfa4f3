/* C++'s operator new and delete, by the names that the Itanium ABI gives them where size_t is unsigned long.
 *
 * Failure runs the installed new-handler in a loop and then throws std::bad_alloc (the nothrow forms return NULL).
 * libstdc++ is found through weak references, so a C program never loads it; where it came with a library that
 * dlopen kept to itself, by asking for it by name. This file is compiled with -fexceptions: what is thrown passes
 * through it. */
#include <dlfcn.h>
#include <stdlib.h>

#include "base/panic.h"
#include "heap/alloc.h"
#include "heap/free.h"

typedef void (*new_handler)(void);

#ifdef SLM_ARCHIVE
#define FROM_LIBSTDCXX
#else
#define FROM_LIBSTDCXX __attribute__((weak))
#endif
extern new_handler _ZSt15get_new_handlerv(void) FROM_LIBSTDCXX;        /* std::get_new_handler() */
extern void _ZSt17__throw_bad_allocv(void) FROM_LIBSTDCXX;             /* std::__throw_bad_alloc() */
extern void *dlopen(const char *file, int mode) __attribute__((weak)); /* absent from static programs */
extern void *dlsym(void *restrict handle, const char *restrict name) __attribute__((weak));

static void *in_libstdcxx(const char *name)
{
    void *library = dlopen && dlsym ? dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD) : NULL;
    return library ? dlsym(library, name) : NULL;
}

static new_handler installed_handler(void)
{
    new_handler (*get)(void) = _ZSt15get_new_handlerv;
    if (!get)
        get = (new_handler(*)(void))(uintptr_t)in_libstdcxx("_ZSt15get_new_handlerv");
    return get ? get() : NULL;
}

static void throw_bad_alloc(void)
{
    void (*throw)(void) = _ZSt17__throw_bad_allocv;
    if (!throw)
        throw = (void (*)(void))(uintptr_t)in_libstdcxx("_ZSt17__throw_bad_allocv");
    if (throw)
        throw();
    slm_panic(NULL, NULL, "operator new: out of memory, and no C++ library to throw std::bad_alloc", NULL, NULL);
}

static void *alloc_any(size_t n, size_t alignment)
{
    return alignment <= 16 ? slm_alloc(n) : slm_aligned_alloc(alignment, n);
}

slm_slow static void *new_slow(size_t n, size_t alignment)
{
    for (;;) {
        new_handler handler = installed_handler();
        if (!handler)
            throw_bad_alloc();
        handler();
        void *object = alloc_any(n, alignment);
        if (object)
            return object;
    }
}

/* The nothrow forms run the handler too, and it may throw. C cannot catch that, but libstdc++'s own nothrow form is
 * operator new, ours, in a try block. Static programs, which have only ours, pass the exception on. */
slm_slow static void *new_nothrow_slow(size_t n, size_t alignment, const void *nothrow)
{
    if (!installed_handler())
        return NULL;
    void *found = in_libstdcxx(alignment <= 16 ? "_ZnwmRKSt9nothrow_t" : "_ZnwmSt11align_val_tRKSt9nothrow_t");
    if (found && alignment <= 16)
        return ((void *(*)(size_t, const void *))(uintptr_t)found)(n, nothrow);
    if (found)
        return ((void *(*)(size_t, size_t, const void *))(uintptr_t)found)(n, alignment, nothrow);
    void *object = NULL;
    for (new_handler handler; !object && (handler = installed_handler()) != NULL;) {
        handler();
        object = alloc_any(n, alignment);
    }
    return object;
}

slm_inline void *new_plain(size_t n)
{
    void *object = slm_alloc(n);
    return likely(object != NULL) ? object : new_slow(n, 1);
}

slm_inline void *new_aligned(size_t n, size_t alignment)
{
    void *object = slm_aligned_alloc(alignment, n);
    return likely(object != NULL) ? object : new_slow(n, alignment);
}

slm_inline void *new_nothrow(size_t n, size_t alignment, const void *nothrow)
{
    void *object = alloc_any(n, alignment);
    return likely(object != NULL) ? object : new_nothrow_slow(n, alignment, nothrow);
}

void *_Znwm(size_t n);
void *_ZnwmRKSt9nothrow_t(size_t n, const void *nothrow);
void *_ZnwmSt11align_val_t(size_t n, size_t alignment);
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t n, size_t alignment, const void *nothrow);
void *_Znam(size_t n);
void *_ZnamRKSt9nothrow_t(size_t n, const void *nothrow);
void *_ZnamSt11align_val_t(size_t n, size_t alignment);
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t n, size_t alignment, const void *nothrow);
void _ZdlPv(void *pointer);
void _ZdlPvRKSt9nothrow_t(void *pointer, const void *nothrow);
void _ZdlPvm(void *pointer, size_t n);
void _ZdlPvSt11align_val_t(void *pointer, size_t alignment);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *pointer, size_t alignment, const void *nothrow);
void _ZdlPvmSt11align_val_t(void *pointer, size_t n, size_t alignment);
void _ZdaPv(void *pointer);
void _ZdaPvRKSt9nothrow_t(void *pointer, const void *nothrow);
void _ZdaPvm(void *pointer, size_t n);
void _ZdaPvSt11align_val_t(void *pointer, size_t alignment);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *pointer, size_t alignment, const void *nothrow);
void _ZdaPvmSt11align_val_t(void *pointer, size_t n, size_t alignment);
/* new(size) */
slm_public void *_Znwm(size_t n)
{
    return new_plain(n);
}

/* new(size, nothrow) */
slm_public void *_ZnwmRKSt9nothrow_t(size_t n, const void *nothrow)
{
    return new_nothrow(n, 1, nothrow);
}

/* new(size, align) */
slm_public void *_ZnwmSt11align_val_t(size_t n, size_t alignment)
{
    return new_aligned(n, alignment);
}

/* new(size, align, nothrow) */
slm_public void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t n, size_t alignment, const void *nothrow)
{
    return new_nothrow(n, alignment, nothrow);
}

/* new[](size) */
slm_public void *_Znam(size_t n)
{
    return new_plain(n);
}

/* new[](size, nothrow) */
slm_public void *_ZnamRKSt9nothrow_t(size_t n, const void *nothrow)
{
    return new_nothrow(n, 1, nothrow);
}

/* new[](size, align) */
slm_public void *_ZnamSt11align_val_t(size_t n, size_t alignment)
{
    return new_aligned(n, alignment);
}

/* new[](size, align, nothrow) */
slm_public void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t n, size_t alignment, const void *nothrow)
{
    return new_nothrow(n, alignment, nothrow);
}

/* delete(pointer) */
slm_public void _ZdlPv(void *pointer)
{
    slm_free(pointer);
}

/* delete(pointer, nothrow) */
slm_public void _ZdlPvRKSt9nothrow_t(void *pointer, const void *nothrow)
{
    (void)nothrow;
    slm_free(pointer);
}

/* delete(pointer, size) */
slm_public void _ZdlPvm(void *pointer, size_t n)
{
    (void)n;
    slm_free(pointer);
}

/* delete(pointer, align) */
slm_public void _ZdlPvSt11align_val_t(void *pointer, size_t alignment)
{
    (void)alignment;
    slm_free(pointer);
}

/* delete(pointer, align, nothrow) */
slm_public void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *pointer, size_t alignment, const void *nothrow)
{
    (void)alignment;
    (void)nothrow;
    slm_free(pointer);
}

/* delete(pointer, size, align) */
slm_public void _ZdlPvmSt11align_val_t(void *pointer, size_t n, size_t alignment)
{
    (void)n;
    (void)alignment;
    slm_free(pointer);
}

/* delete[](pointer) */
slm_public void _ZdaPv(void *pointer)
{
    slm_free(pointer);
}

/* delete[](pointer, nothrow) */
slm_public void _ZdaPvRKSt9nothrow_t(void *pointer, const void *nothrow)
{
    (void)nothrow;
    slm_free(pointer);
}

/* delete[](pointer, size) */
slm_public void _ZdaPvm(void *pointer, size_t n)
{
    (void)n;
    slm_free(pointer);
}

/* delete[](pointer, align) */
slm_public void _ZdaPvSt11align_val_t(void *pointer, size_t alignment)
{
    (void)alignment;
    slm_free(pointer);
}

/* delete[](pointer, align, nothrow) */
slm_public void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *pointer, size_t alignment, const void *nothrow)
{
    (void)alignment;
    (void)nothrow;
    slm_free(pointer);
}

/* delete[](pointer, size, align) */
slm_public void _ZdaPvmSt11align_val_t(void *pointer, size_t n, size_t alignment)
{
    (void)n;
    (void)alignment;
    slm_free(pointer);
}
