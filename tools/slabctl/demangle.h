/* Names of C++ and Rust as people write them. */
#pragma once

#include <stddef.h>

/* A new string: demangled, or as it is. What a hostile file has for a name takes no more than a bounded time. */
char *demangle(const char *name);

/* A name without its parameters, and what stands between < and > as "..." where the rest is longer than `width`; the
 * end is cut off where that does not suffice. The room is width + 1 at least. */
void name_shorten(const char *name, char *out, size_t width);
