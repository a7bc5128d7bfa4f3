/* Bare system calls, for os/ and for messages. They do not go through libc: there a thread may be cancelled while it
 * holds our locks; a library in front of libc may have hooked the function and allocate, which would wait for these
 * locks; and some functions lie in parts of libc that few processes touch, which costs each of them 64 KiB. */
#pragma once

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/compiler.h"

/* The result of the call, or -errno; errno is kept. Arguments are whole registers: pointers and integers. */
#define slm_call(...) slm_call_pick(__VA_ARGS__, SIX, SIX, SIX, THREE, THREE, THREE, THREE, )(__VA_ARGS__, 0, 0, 0, 0)
#define slm_call_pick(number, a, b, c, d, e, f, many, ...) SLM_CALL_##many
#define SLM_CALL_THREE(number, a, b, c, ...) slm_call_three(number, (long)(a), (long)(b), (long)(c))
#define SLM_CALL_SIX(number, a, b, c, d, e, f, ...)                                                                  \
    slm_call_six(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

slm_inline long slm_call_six(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__) && defined(__LP64__)
    register long fourth __asm__("r10") = d, fifth __asm__("r8") = e, sixth __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return number;
#elif defined(__aarch64__)
    register long at __asm__("x8") = number, first __asm__("x0") = a, second __asm__("x1") = b;
    register long third __asm__("x2") = c, fourth __asm__("x3") = d, fifth __asm__("x4") = e, sixth __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(at), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory");
    return first;
#else
    const int kept = errno;
    const long returned = syscall(number, a, b, c, d, e, f), result = returned == -1 ? -errno : returned;
    errno = kept;
    return result;
#endif
}

slm_inline long slm_call_three(long number, long a, long b, long c)
{
#if defined(__x86_64__) && defined(__LP64__)
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return number;
#else
    return slm_call_six(number, a, b, c, 0, 0, 0);
#endif
}
