/* dlopen(3), without RTLD_DEEPBIND. The flag has an object, and what it brings along, look for names in themselves
 * and in libc first: their malloc would be libc's, while the program, or a library that was there before, frees what
 * they have made by ours. PHP opens its extensions so.
 *
 * The real dlopen finds RUNPATH, $ORIGIN and the namespace by its caller's address. So it must be jumped to, not
 * called, and where there is no code for that (below) libc's stays in place. The archive leaves this file out, as
 * static programs have no next dlopen. */
#include <dlfcn.h>

#include "base/options.h"

#if defined(__x86_64__) || defined(__aarch64__)

typedef void *opening(const char *file, int mode);

/* Where to go on, and with which mode: returned in two registers, as the code below has it. */
struct slm_dlopen_way {
    uint64_t mode;
    opening *next;
};

slm_hidden struct slm_dlopen_way slm_dlopen_way(int mode);

static slm_cold void *open_none(const char *file, int mode)
{
    (void)file;
    (void)mode;
    return NULL;
}

/* Not if the library is a plug-in's, where the program has another malloc. */
static slm_cold bool is_the_programs(opening *next)
{
    return dlsym(next(NULL, RTLD_LAZY | RTLD_NOLOAD), "dlopen") == (void *)(uintptr_t)dlopen;
}

slm_cold struct slm_dlopen_way slm_dlopen_way(int mode)
{
    opening *next = (opening *)(uintptr_t)dlsym(RTLD_NEXT, "dlopen");
    if (!next)
        return (struct slm_dlopen_way){0, open_none};
    if ((mode & RTLD_DEEPBIND) && slm_options.clear_deepbind && is_the_programs(next))
        mode &= ~RTLD_DEEPBIND;
    return (struct slm_dlopen_way){(unsigned)mode, next};
}

/* The file's name is kept while slm_dlopen_way says the rest; the stack is then as the caller left it. */
#ifdef __x86_64__
#define BODY                                                                                                         \
    "push %rdi\n\t.cfi_adjust_cfa_offset 8\n\t"                                                                      \
    "mov %esi, %edi\n\t"                                                                                             \
    "call slm_dlopen_way\n\t"                                                                                        \
    "pop %rdi\n\t.cfi_adjust_cfa_offset -8\n\t"                                                                      \
    "mov %eax, %esi\n\t"                                                                                             \
    "jmp *%rdx\n\t"
#else
#define BODY                                                                                                         \
    "stp x29, x30, [sp, #-32]!\n\t.cfi_def_cfa_offset 32\n\t.cfi_offset 29, -32\n\t.cfi_offset 30, -24\n\t"          \
    "str x0, [sp, #16]\n\t"                                                                                          \
    "mov w0, w1\n\t"                                                                                                 \
    "bl slm_dlopen_way\n\t"                                                                                          \
    "mov x16, x1\n\t"                                                                                                \
    "mov w1, w0\n\t"                                                                                                 \
    "ldr x0, [sp, #16]\n\t"                                                                                          \
    "ldp x29, x30, [sp], #32\n\t.cfi_restore 29\n\t.cfi_restore 30\n\t.cfi_def_cfa_offset 0\n\t"                     \
    "br x16\n\t"
#endif
#define FUNCTION(name)                                                                                               \
    ".pushsection .text.unlikely, \"ax\", %progbits\n\t"                                                             \
    ".globl " slm_text_of(name) "\n\t.type " slm_text_of(name) ", %function\n" slm_text_of(                          \
        name) ":\n\t"                                                                                                \
              ".cfi_startproc\n\t" BODY ".cfi_endproc\n\t"                                                           \
              ".size " slm_text_of(name) ", . - " slm_text_of(name) "\n\t.popsection"
__asm__(FUNCTION(dlopen));

#endif
