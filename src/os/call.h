/* System calls for the files of this folder. */
#pragma once

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the call returns, or -errno; errno is kept. Bare calls: libc's own are where a thread may be cancelled, with
 * our locks in its hands, and some lie in parts of its code that few processes touch. */
#define slm_call(...)                                                                                                \
    __extension__({                                                                                                  \
        const int kept_errno = errno;                                                                                \
        const long returned = syscall(__VA_ARGS__);                                                                  \
        const long result = returned < 0 ? -errno : returned;                                                        \
        errno = kept_errno;                                                                                          \
        result;                                                                                                      \
    })
