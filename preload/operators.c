/* C++'s operator new and delete, under their names in the Itanium ABI where size_t is unsigned long. The table of
 * them is at the end.
 *
 * Where memory is short the installed new-handler runs in a loop; then the forms throw std::bad_alloc, or (nothrow)
 * return NULL. libstdc++ is found through weak references, so that a C program never loads it; where only a library
 * loaded by dlopen has brought it, by name. Exceptions pass through this file by its unwind tables. */
#include <dlfcn.h>
#include <stdlib.h>

#include "base/panic.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/resize.h"
#include "heap/sized.h"

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
    slm_panic(NULL, NULL, "operator new: out of memory, and no C++ library to throw std::bad_alloc", NULL, 0);
}

static void *alloc_any(size_t n, size_t alignment)
{
    return alignment <= 16 ? slm_alloc(n) : slm_aligned_alloc(alignment, n);
}

/* Run the handler until there is memory; NULL: there is no handler any more. */
static void *alloc_with_handler(size_t n, size_t alignment)
{
    void *object = NULL;
    for (new_handler handler; !object && (handler = installed_handler()) != NULL;) {
        handler();
        object = alloc_any(n, alignment);
    }
    return object;
}

slm_slow static void *new_slow(size_t n, size_t alignment)
{
    void *object = alloc_with_handler(n, alignment);
    if (!object)
        throw_bad_alloc();
    return object;
}

/* The nothrow forms run the handler too, and it may throw. C cannot catch that, but libstdc++'s own nothrow form
 * calls operator new, ours, in a try block. Static programs have only ours, which pass the exception on. */
slm_slow static void *new_nothrow_slow(size_t n, size_t alignment, const void *nothrow)
{
    if (!installed_handler())
        return NULL;
    void *found = in_libstdcxx(alignment <= 16 ? "_ZnwmRKSt9nothrow_t" : "_ZnwmSt11align_val_tRKSt9nothrow_t");
    if (found && alignment <= 16)
        return ((void *(*)(size_t, const void *))(uintptr_t)found)(n, nothrow);
    if (found)
        return ((void *(*)(size_t, size_t, const void *))(uintptr_t)found)(n, alignment, nothrow);
    return alloc_with_handler(n, alignment);
}

/* `object` is what the first attempt gave. */
slm_inline void *or_throw(void *object, size_t n, size_t alignment)
{
    return likely(object != NULL) ? object : new_slow(n, alignment);
}

slm_inline void *or_null(void *object, size_t n, size_t alignment, const void *nothrow)
{
    return likely(object != NULL) ? object : new_nothrow_slow(n, alignment, nothrow);
}

/* -- sizes ------------------------------------------------------------------------------------------------------- */

static const char one[] = "operator delete";

static bool new_is_replaced(void);

/* What the hot path leaves. A program's own operator new may ask malloc for more than n bytes, and leave this form of
 * delete to us: then no size is wrong. */
static __attribute__((noinline)) void delete_slow(void *pointer, size_t n, size_t alignment, const char *call)
{
    if (unlikely(!slm_sized_exactly(pointer, n, alignment, call)) && !new_is_replaced())
        slm_sized_refuse(pointer, n, alignment, call);
    slm_free_as(pointer, call);
}

slm_inline void delete_sized(void *pointer, size_t n, const char *call)
{
    if (unlikely(!slm_push_sized(pointer, n)))
        delete_slow(pointer, n, 1, call);
}

slm_inline void delete_aligned(void *pointer, size_t n, size_t alignment, const char *call)
{
    if (unlikely(!slm_push_sized_aligned(pointer, n, alignment)))
        delete_slow(pointer, n, alignment, call);
}

/* The table of all forms: the mangled name, what the form does, its parameters. (C++ has the array, sized and nothrow
 * forms call the basic one, which a program may have replaced. These do what ours does, and call nothing.) */
#define SIZE __attribute__((unused)) size_t n
#define ALIGN __attribute__((unused)) size_t align
#define NOTHROW __attribute__((unused)) const void *nothrow

#define FORM(type, name, does, ...)                                                                                  \
    type name(__VA_ARGS__);                                                                                          \
    slm_public type name(__VA_ARGS__)                                                                                \
    {                                                                                                                \
        does;                                                                                                        \
    }
#define NEW(name, object, ...) FORM(void *, name, return object, __VA_ARGS__)
#define DELETE(name, does, ...) FORM(void, name, does, __VA_ARGS__)

/* operator new */
NEW(_Znwm, or_throw(slm_alloc(n), n, 1), SIZE)
NEW(_ZnwmRKSt9nothrow_t, or_null(slm_alloc(n), n, 1, nothrow), SIZE, NOTHROW)
NEW(_ZnwmSt11align_val_t, or_throw(slm_aligned_alloc(align, n), n, align), SIZE, ALIGN)
NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, or_null(slm_aligned_alloc(align, n), n, align, nothrow), SIZE, ALIGN, NOTHROW)

/* operator new[] */
NEW(_Znam, or_throw(slm_alloc(n), n, 1), SIZE)
NEW(_ZnamRKSt9nothrow_t, or_null(slm_alloc(n), n, 1, nothrow), SIZE, NOTHROW)
NEW(_ZnamSt11align_val_t, or_throw(slm_aligned_alloc(align, n), n, align), SIZE, ALIGN)
NEW(_ZnamSt11align_val_tRKSt9nothrow_t, or_null(slm_aligned_alloc(align, n), n, align, nothrow), SIZE, ALIGN, NOTHROW)

/* operator delete */
DELETE(_ZdlPv, slm_free_as(pointer, one), void *pointer)
DELETE(_ZdlPvm, delete_sized(pointer, n, one), void *pointer, SIZE)
DELETE(_ZdlPvRKSt9nothrow_t, slm_free_as(pointer, one), void *pointer, NOTHROW)
DELETE(_ZdlPvSt11align_val_t, slm_free_as(pointer, one), void *pointer, ALIGN)
DELETE(_ZdlPvmSt11align_val_t, delete_aligned(pointer, n, align, one), void *pointer, SIZE, ALIGN)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, slm_free_as(pointer, one), void *pointer, ALIGN, NOTHROW)

/* operator delete[] */
DELETE(_ZdaPv, slm_free_as(pointer, one), void *pointer)
DELETE(_ZdaPvm, delete_sized(pointer, n, one), void *pointer, SIZE)
DELETE(_ZdaPvRKSt9nothrow_t, slm_free_as(pointer, one), void *pointer, NOTHROW)
DELETE(_ZdaPvSt11align_val_t, slm_free_as(pointer, one), void *pointer, ALIGN)
DELETE(_ZdaPvmSt11align_val_t, delete_aligned(pointer, n, align, one), void *pointer, SIZE, ALIGN)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, slm_free_as(pointer, one), void *pointer, ALIGN, NOTHROW)

/* -- is operator new ours? --------------------------------------------------------------------------------------- */

/* The same functions under names that no program can replace. */
#define TEXT_OF(name) #name
#define ALIAS_OF(name) __attribute__((alias(TEXT_OF(name)), visibility("hidden")))
extern __typeof__(_Znwm) our_new ALIAS_OF(_Znwm);
extern __typeof__(_Znam) our_new_array ALIAS_OF(_Znam);
extern __typeof__(_ZnwmSt11align_val_t) our_new_aligned ALIAS_OF(_ZnwmSt11align_val_t);
extern __typeof__(_ZnamSt11align_val_t) our_new_array_aligned ALIAS_OF(_ZnamSt11align_val_t);

static bool are_one(uintptr_t found, uintptr_t ours)
{
    slm_hide_value(found); /* or a compiler might take the two for the same at once */
    return found == ours;
}

#define IS_OURS(name, local) are_one((uintptr_t)(name), (uintptr_t)(local))

static bool new_is_replaced(void)
{
    return !IS_OURS(_Znwm, our_new) || !IS_OURS(_Znam, our_new_array) ||
           !IS_OURS(_ZnwmSt11align_val_t, our_new_aligned) || !IS_OURS(_ZnamSt11align_val_t, our_new_array_aligned);
}
