/* C++'s operator new and delete, under their names in the Itanium ABI where size_t is unsigned long. The table of
 * them is at the end.
 *
 * Replaced forms. A program may have some of the forms itself. By default the others call those, as
 * [new.delete.single] and [new.delete.array] say, from C++14 to C++26 alike:
 *
 *     new[]                     calls new        delete[]                    calls delete
 *     new, nothrow              calls new        delete, sized or nothrow    calls delete
 *     new[], nothrow            calls new[]      delete[], sized or nothrow  calls delete[]
 *
 * and the aligned forms do the same among themselves. A form that only calls another one jumps to what the dynamic
 * linker has found under its name. One that knows the size, or returns NULL for an exception, compares what was found
 * with ours, and does all by itself if it is.
 *
 * Where memory is short the installed new-handler runs in a loop; then the forms throw std::bad_alloc, or (nothrow)
 * return NULL. The C++ library is found through weak references, so that a C program never loads it; where a library
 * loaded by dlopen has brought it, by name, as the object that calls would find it. Exceptions pass through this file
 * by its unwind tables. */
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/resize.h"
#include "heap/sized.h"

__asm__(".globl slab_inspect"); /* as in preload/malloc.c */

#if defined(__has_attribute) && __has_attribute(no_icf)
#define APART no_icf /* or a form that jumps to another would be found in the place of one that does the same */
#else
#define APART
#endif

/* From the archive a program takes all forms or none; so those that it has itself must win. */
#ifdef SLM_ARCHIVE
#define REPLACEABLE slm_public __attribute__((weak, noinline, APART))
#define FROM_CXX_LIBRARY
#define ASM_FROM_CXX_LIBRARY ""
enum { in_archive = 1 };
#else
#define REPLACEABLE slm_public __attribute__((noinline, APART))
#define FROM_CXX_LIBRARY __attribute__((weak))
#define ASM_FROM_CXX_LIBRARY ".weak __gxx_personality_v0, __cxa_begin_catch, __cxa_end_catch\n"
enum { in_archive = 0 };
#endif

typedef void (*new_handler)(void);
typedef void *(*new_form)(size_t n, size_t alignment); /* the alignment is for those that have one */

extern new_handler _ZSt15get_new_handlerv(void) FROM_CXX_LIBRARY; /* std::get_new_handler() */
extern void _ZSt17__throw_bad_allocv(void) FROM_CXX_LIBRARY;      /* std::__throw_bad_alloc() */
extern int __gxx_personality_v0(void) FROM_CXX_LIBRARY;

/* Absent from static programs. */
extern void *dlopen(const char *file, int mode) __attribute__((weak));
extern int dlclose(void *library) __attribute__((weak));
extern void *dlsym(void *restrict handle, const char *restrict name) __attribute__((weak));
extern int dladdr1(const void *address, Dl_info *info, void **more, int flags) __attribute__((weak));

static const char one[] = "operator delete";

/* -- which forms are ours ---------------------------------------------------------------------------------------- */

/* Each form's declaration, and the same function under a name that no program can replace: `our` before it. */
#define DECLARE(type, name, ...)                                                                                     \
    type name(__VA_ARGS__);                                                                                          \
    extern __typeof__(name) our##name __attribute__((alias(slm_text_of(name)), visibility("hidden")));

DECLARE(void *, _Znwm, size_t)
DECLARE(void *, _Znam, size_t)
DECLARE(void *, _ZnwmRKSt9nothrow_t, size_t, const void *)
DECLARE(void *, _ZnamRKSt9nothrow_t, size_t, const void *)
DECLARE(void *, _ZnwmSt11align_val_t, size_t, size_t)
DECLARE(void *, _ZnamSt11align_val_t, size_t, size_t)
DECLARE(void *, _ZnwmSt11align_val_tRKSt9nothrow_t, size_t, size_t, const void *)
DECLARE(void *, _ZnamSt11align_val_tRKSt9nothrow_t, size_t, size_t, const void *)
DECLARE(void, _ZdlPv, void *)
DECLARE(void, _ZdaPv, void *)
DECLARE(void, _ZdlPvm, void *, size_t)
DECLARE(void, _ZdlPvSt11align_val_t, void *, size_t)
DECLARE(void, _ZdaPvSt11align_val_t, void *, size_t)
DECLARE(void, _ZdlPvmSt11align_val_t, void *, size_t, size_t)

slm_inline bool are_one(uintptr_t found, uintptr_t ours)
{
    slm_hide_value(ours); /* or a compiler might take the two for the same at once */
    return likely(found == ours);
}

#define PAIR_OF(name) (uintptr_t)(name), (uintptr_t)(our##name)
#define IS_OURS(name) are_one((uintptr_t)(name), (uintptr_t)(our##name))

enum form { NEW_ONE, NEW_ARRAY, NEW_ONE_ALIGNED, NEW_ARRAY_ALIGNED };

static const uintptr_t forms[][2] = {
    [NEW_ONE] = {PAIR_OF(_Znwm)},
    [NEW_ARRAY] = {PAIR_OF(_Znam)},
    [NEW_ONE_ALIGNED] = {PAIR_OF(_ZnwmSt11align_val_t)},
    [NEW_ARRAY_ALIGNED] = {PAIR_OF(_ZnamSt11align_val_t)},
    {PAIR_OF(_ZnwmRKSt9nothrow_t)},
    {PAIR_OF(_ZnamRKSt9nothrow_t)},
    {PAIR_OF(_ZnwmSt11align_val_tRKSt9nothrow_t)},
    {PAIR_OF(_ZnamSt11align_val_tRKSt9nothrow_t)},
};

static slm_seldom bool any_new_is_replaced(void)
{
    for (unsigned i = 0; i < sizeof forms / sizeof *forms; i++)
        if (!are_one(forms[i][0], forms[i][1]))
            return true;
    return false;
}

/* -- the C++ library --------------------------------------------------------------------------------------------- */

/* What the object in which the place is finds under the name, itself or in the libraries that it needs; else what a
 * C++ library has. NULL: nothing but `ours`. */
static slm_seldom void *find(const void *place, const char *name, const void *ours)
{
    Dl_info object;
    if (in_archive || !dlopen) /* nor is there any of the others */
        return NULL;
    const bool known = dladdr1(place, &object, NULL, 0) != 0;
    const char *const files[] = {known ? object.dli_fname : "", "libstdc++.so.6", "libc++.so.1"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        void *library = dlopen(files[i], RTLD_LAZY | RTLD_NOLOAD);
        void *found = library ? dlsym(library, name) : NULL;
        if (library)
            dlclose(library);
        if (found && found != ours)
            return found;
    }
    return NULL;
}

static slm_seldom new_handler installed_handler(const void *caller)
{
    new_handler (*get)(void) = _ZSt15get_new_handlerv;
    if (!get)
        get = (new_handler(*)(void))(uintptr_t)find(caller, "_ZSt15get_new_handlerv", NULL);
    return get ? get() : NULL;
}

/* A plug-in with a C++ library inside may have no function that throws this but its operator new. There is no handler
 * any more. */
static slm_seldom void throw_bad_alloc(const void *caller)
{
    void (*throw)(void) = _ZSt17__throw_bad_allocv;
    if (!throw)
        throw = (void (*)(void))(uintptr_t)find(caller, "_ZSt17__throw_bad_allocv", NULL);
    if (throw)
        throw();
    const new_form form = (new_form)(uintptr_t)find(caller, "_Znwm", (const void *)(uintptr_t)our_Znwm);
    if (form)
        form(PTRDIFF_MAX, 1);
    slm_panic(NULL, NULL, "operator new: out of memory, and no C++ library to throw std::bad_alloc", NULL, 0);
}

/* -- new --------------------------------------------------------------------------------------------------------- */

/* Run the handler, and begin again. */
static slm_seldom __attribute__((noinline)) void *new_slow(size_t n, size_t alignment, const void *caller)
{
    const new_handler handler = installed_handler(caller);
    if (!handler)
        throw_bad_alloc(caller);
    handler();
    return alignment <= 16 ? our_Znwm(n) : our_ZnwmSt11align_val_t(n, alignment);
}

/* What the form returns; NULL: it has thrown. C has no words for this:
 *
 *     try { return form(n, alignment); } catch (...) { return nullptr; }
 *
 * The table is the one that a C++ compiler writes: of the call, to the landing pad, for exceptions of all types. */
#if defined(__x86_64__)
#define CAN_CATCH (__gxx_personality_v0 != NULL)
#define CALL_AND_CATCH                                                                                               \
    "sub $8, %rsp\n"                                                                                                 \
    ".cfi_def_cfa_offset 16\n"                                                                                       \
    ".Lnew_try: call *%rdx\n"                                                                                        \
    ".Lnew_tried: add $8, %rsp\n"                                                                                    \
    ".cfi_remember_state\n"                                                                                          \
    ".cfi_def_cfa_offset 8\n"                                                                                        \
    "ret\n"                                                                                                          \
    ".cfi_restore_state\n"                                                                                           \
    ".Lnew_caught: mov %rax, %rdi\n"                                                                                 \
    "call *__cxa_begin_catch@GOTPCREL(%rip)\n"                                                                       \
    "call *__cxa_end_catch@GOTPCREL(%rip)\n"                                                                         \
    "xor %eax, %eax\n"                                                                                               \
    "jmp .Lnew_tried\n"
#elif defined(__aarch64__)
#define CAN_CATCH (__gxx_personality_v0 != NULL)
#define CALL_AND_CATCH                                                                                               \
    "stp x29, x30, [sp, -16]!\n"                                                                                     \
    ".cfi_def_cfa_offset 16\n"                                                                                       \
    ".cfi_offset 29, -16\n"                                                                                          \
    ".cfi_offset 30, -8\n"                                                                                           \
    ".Lnew_try: blr x2\n"                                                                                            \
    ".Lnew_tried: ldp x29, x30, [sp], 16\n"                                                                          \
    ".cfi_remember_state\n"                                                                                          \
    ".cfi_def_cfa_offset 0\n"                                                                                        \
    "ret\n"                                                                                                          \
    ".cfi_restore_state\n"                                                                                           \
    ".Lnew_caught: bl __cxa_begin_catch\n"                                                                           \
    "bl __cxa_end_catch\n"                                                                                           \
    "mov x0, 0\n"                                                                                                    \
    "b .Lnew_tried\n"
#else
#define CAN_CATCH false
#endif

#ifdef CALL_AND_CATCH
void *new_or_null(size_t n, size_t alignment, new_form form) __attribute__((visibility("hidden")));

__asm__(ASM_FROM_CXX_LIBRARY
        ".pushsection slm_seldom, \"ax\", %progbits\n"
        ".type new_or_null, %function\n"
        "new_or_null:\n"
        ".cfi_startproc\n"
        ".cfi_personality 0x9b, .Lnew_personality\n" /* relative, indirect */
        ".cfi_lsda 0x1b, .Lnew_exceptions\n"         /* relative */
        CALL_AND_CATCH ".cfi_endproc\n"
        ".size new_or_null, . - new_or_null\n"
        ".section .data.rel.ro..Lnew_personality, \"aw\", %progbits\n"
        ".balign 8\n"
        ".Lnew_personality: .quad __gxx_personality_v0\n"
        ".section .gcc_except_table, \"a\", %progbits\n"
        ".balign 4\n"
        ".Lnew_exceptions: .byte 0xff, 3\n" /* places are counted from the function's start; types are words */
        ".uleb128 .Lnew_types - .Lnew_types_from\n"
        ".Lnew_types_from: .byte 1\n" /* the places are uleb128 */
        ".uleb128 .Lnew_actions - .Lnew_calls\n"
        ".Lnew_calls: .uleb128 .Lnew_try - new_or_null, .Lnew_tried - .Lnew_try, .Lnew_caught - new_or_null, 1\n"
        ".Lnew_actions: .byte 1, 0\n" /* the first type, and no other */
        ".balign 4\n"
        ".long 0\n" /* all types */
        ".Lnew_types:\n"
        ".popsection\n");
#else
static void *new_or_null(size_t n, size_t alignment, new_form form)
{
    return form(n, alignment);
}
#endif

/* The nothrow form by that one, which may be replaced; if it is ours it has failed once. Where only a plug-in has
 * brought a C++ library, the nothrow form there calls operator new, ours, in a try block; std::nothrow is in it. */
static slm_seldom __attribute__((noinline)) void *new_nothrow_slow(size_t n, size_t alignment, const void *nothrow,
                                                                   enum form form)
{
    const new_form by = (new_form)forms[form][0];
    const bool aligned = form >= NEW_ONE_ALIGNED;
    if (!any_new_is_replaced() && !installed_handler(nothrow))
        return NULL;
    if (CAN_CATCH)
        return new_or_null(n, alignment, by);
    const uintptr_t found =
        (uintptr_t)find(nothrow, aligned ? "_ZnwmSt11align_val_tRKSt9nothrow_t" : "_ZnwmRKSt9nothrow_t", NULL);
    if (!found)
        return by(n, alignment);
    const uintptr_t second = aligned ? alignment : (uintptr_t)nothrow;
    return ((void *(*)(size_t, size_t, const void *))found)(n, second, nothrow);
}

/* -- sizes ------------------------------------------------------------------------------------------------------- */

/* Does the object that has called take that form of operator new from others, or is it ours? Else it may have one of
 * its own that only it calls: a plug-in that exports little, or binds its names to itself. (In a program with the
 * archive all is in one.) */
static slm_seldom __attribute__((noinline)) bool takes_from_others(const void *caller, const char *name)
{
    Dl_info object, ours;
    struct link_map *map;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    size_t bytes = 0;
    if (in_archive || !dlopen || !dladdr1(caller, &object, (void **)&map, RTLD_DL_LINKMAP) ||
        !dladdr1(forms, &ours, NULL, 0) || object.dli_fbase == ours.dli_fbase)
        return true;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_SYMTAB)
            symbols = (const ElfW(Sym) *)entry->d_un.d_ptr;
        else if (entry->d_tag == DT_STRTAB)
            names = (const char *)entry->d_un.d_ptr;
        else if (entry->d_tag == DT_STRSZ)
            bytes = entry->d_un.d_val;
    /* linkers write the names behind the symbols, and nobody their number */
    for (const ElfW(Sym) *symbol = symbols; symbol && (const char *)(symbol + 1) <= names; symbol++)
        if (symbol->st_shndx == SHN_UNDEF && symbol->st_name < bytes && strcmp(names + symbol->st_name, name) == 0)
            return true;
    return false;
}

/* What the hot path leaves, for which the compiler jumps to here. No size is wrong where operator new may have asked
 * malloc for more than it was asked for. */
static __attribute__((noinline)) void delete_slow(void *pointer, size_t n, size_t alignment)
{
    if (unlikely(!slm_sized_exactly(pointer, n, alignment, one)) && !any_new_is_replaced() &&
        takes_from_others(__builtin_return_address(0), alignment > 1 ? "_ZnwmSt11align_val_t" : "_Znwm"))
        slm_sized_refuse(pointer, n, alignment, one);
    slm_free_slow(pointer, one);
}

slm_inline void delete_sized(void *pointer, size_t n)
{
    if (unlikely(!slm_push_sized(pointer, n)))
        delete_slow(pointer, n, 1);
}

slm_inline void delete_aligned(void *pointer, size_t n, size_t alignment)
{
    if (unlikely(!slm_push_sized_aligned(pointer, n, alignment)))
        delete_slow(pointer, n, alignment);
}

/* -- the table of all forms: the mangled name, what the form does, its parameters -------------------------------- */

#define SIZE size_t n
#define ALIGN __attribute__((unused)) size_t align
#define NOTHROW __attribute__((unused)) const void *nothrow

#define FORM(type, name, does, ...)                                                                                  \
    type name(__VA_ARGS__);                                                                                          \
    REPLACEABLE type name(__VA_ARGS__)                                                                               \
    {                                                                                                                \
        does;                                                                                                        \
    }
#define NEW(name, object, ...) FORM(void *, name, return object, __VA_ARGS__)
#define DELETE(name, does, ...) FORM(void, name, does, void *pointer, ##__VA_ARGS__)

#define OR_ELSE(object, slow)                                                                                        \
    __extension__({                                                                                                  \
        void *made = (object);                                                                                       \
        likely(made != NULL) ? made : (slow);                                                                        \
    })
#define OR_THROW(object, align) OR_ELSE(object, new_slow(n, align, __builtin_return_address(0)))
#define BY_SLOW(form, align) new_nothrow_slow(n, align, nothrow, form)

/* operator new */
NEW(_Znwm, OR_THROW(slm_alloc(n), 1), SIZE)
NEW(_ZnwmSt11align_val_t, OR_THROW(slm_aligned_alloc(align, n), align), SIZE, ALIGN)
NEW(_ZnwmRKSt9nothrow_t, OR_ELSE(IS_OURS(_Znwm) ? slm_alloc(n) : NULL, BY_SLOW(NEW_ONE, 1)), SIZE, NOTHROW)
NEW(_ZnwmSt11align_val_tRKSt9nothrow_t,
    OR_ELSE(IS_OURS(_ZnwmSt11align_val_t) ? slm_aligned_alloc(align, n) : NULL, BY_SLOW(NEW_ONE_ALIGNED, align)),
    SIZE, ALIGN, NOTHROW)

/* operator new[] */
NEW(_Znam, _Znwm(n), SIZE)
NEW(_ZnamSt11align_val_t, _ZnwmSt11align_val_t(n, align), SIZE, ALIGN)
NEW(_ZnamRKSt9nothrow_t, IS_OURS(_Znam) ? our_ZnwmRKSt9nothrow_t(n, nothrow) : BY_SLOW(NEW_ARRAY, 1), SIZE, NOTHROW)
NEW(_ZnamSt11align_val_tRKSt9nothrow_t,
    IS_OURS(_ZnamSt11align_val_t) ? our_ZnwmSt11align_val_tRKSt9nothrow_t(n, align, nothrow)
                                  : BY_SLOW(NEW_ARRAY_ALIGNED, align),
    SIZE, ALIGN, NOTHROW)

/* operator delete */
DELETE(_ZdlPv, slm_free_as(pointer, one))
DELETE(_ZdlPvSt11align_val_t, our_ZdlPv(pointer), ALIGN)
DELETE(_ZdlPvm, IS_OURS(_ZdlPv) ? delete_sized(pointer, n) : _ZdlPv(pointer), SIZE)
DELETE(_ZdlPvmSt11align_val_t,
       IS_OURS(_ZdlPvSt11align_val_t) ? delete_aligned(pointer, n, align) : _ZdlPvSt11align_val_t(pointer, align),
       SIZE, ALIGN)
DELETE(_ZdlPvRKSt9nothrow_t, _ZdlPv(pointer), NOTHROW)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, _ZdlPvSt11align_val_t(pointer, align), ALIGN, NOTHROW)

/* operator delete[] */
DELETE(_ZdaPv, _ZdlPv(pointer))
DELETE(_ZdaPvSt11align_val_t, _ZdlPvSt11align_val_t(pointer, align), ALIGN)
DELETE(_ZdaPvm, IS_OURS(_ZdaPv) ? our_ZdlPvm(pointer, n) : _ZdaPv(pointer), SIZE)
DELETE(_ZdaPvmSt11align_val_t,
       IS_OURS(_ZdaPvSt11align_val_t) ? our_ZdlPvmSt11align_val_t(pointer, n, align)
                                      : _ZdaPvSt11align_val_t(pointer, align),
       SIZE, ALIGN)
DELETE(_ZdaPvRKSt9nothrow_t, _ZdaPv(pointer), NOTHROW)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, _ZdaPvSt11align_val_t(pointer, align), ALIGN, NOTHROW)
