/* Giving everything back: on request, and when the kernel has no memory. */
#pragma once

#include "base/compiler.h"

/* Release everything that is free, the calling thread's magazines included. Returns the bytes purged. The second one
 * leaves out what destructors must run for first. */
size_t slm_give_back_all(void);
size_t slm_give_back_undestructed(void);

/* The kernel has no memory, or the limit is met: release what is free, if that can help with n bytes. True: try once
 * more. errno may change. */
bool slm_give_back_for(size_t n);
