/* Giving everything back: on request, and when the kernel has no memory. */
#pragma once

#include "base/compiler.h"

/* All that can go, the calling thread's magazines included; bytes purged. */
size_t slm_give_back_all(void);

/* The kernel has no memory: give back what can go, if that can help with n bytes. True: try once more. */
bool slm_give_back_for(size_t n);
