/* Keeping errno over a call: free and its kin keep it, and so do calls that succeed. That is ensured by the wrappers
 * in preload/, by the slow halves of hot paths, and by what libc calls (constructors, a key's destructor). */
#pragma once

#include <errno.h>

#include "base/compiler.h"

slm_inline void slm_errno_restore(const int *kept)
{
    errno = *kept;
}

/* From here to the end of the block. */
#define slm_keep_errno() const int kept_errno __attribute__((cleanup(slm_errno_restore), unused)) = errno

/* The value of a call; errno is kept unless the value is `failed`. */
#define slm_errno_if(failed, call)                                                                                   \
    ({                                                                                                               \
        const int kept = errno;                                                                                      \
        const __auto_type value = (call);                                                                            \
        if (value != (failed))                                                                                       \
            errno = kept;                                                                                            \
        value;                                                                                                       \
    })
