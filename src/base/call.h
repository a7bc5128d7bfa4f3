/* Bare system calls, for os/ and for messages. */
#pragma once

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The result of the call, or -errno; errno is kept. In libc's functions a thread may be cancelled while it holds our
 * locks, and some lie in parts of its code that few processes touch, which costs each 64 KiB. */
#define slm_call(...)                                                                                                \
    __extension__({                                                                                                  \
        const int kept_errno = errno;                                                                                \
        const long returned = syscall(__VA_ARGS__);                                                                  \
        const long result = returned == -1 ? -errno : returned;                                                      \
        errno = kept_errno;                                                                                          \
        result;                                                                                                      \
    })
