/* Zeroed, aligned and resized objects. NULL comes with ENOMEM; errno is kept otherwise. Any thread. */
#pragma once

#include "base/compiler.h"

/* As C's calloc, realloc, and aligned_alloc with any power of two. realloc of n = 0 bytes frees and returns NULL. */
void *slm_zeroed_alloc(size_t count, size_t size);
void *slm_resize(void *pointer, size_t n);
void *slm_aligned_alloc(size_t alignment, size_t n);
