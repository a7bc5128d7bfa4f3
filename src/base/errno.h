/* errno over a call: free and its kin keep it, an allocation keeps it and says ENOMEM when it fails. Wrappers in
 * preload/ see to that, and the slow halves that hot paths fall into. What lies between may change it. */
#pragma once

#include <errno.h>

#include "base/compiler.h"

slm_inline void slm_errno_restore(const int *kept)
{
    errno = *kept;
}

/* From here to the end of the block. */
#define slm_keep_errno() const int kept_errno __attribute__((cleanup(slm_errno_restore), unused)) = errno

/* The result of a call that says in errno why it failed, and keeps it otherwise. */
slm_inline void *slm_errno_after(void *object, int kept)
{
    if (object)
        errno = kept;
    return object;
}
