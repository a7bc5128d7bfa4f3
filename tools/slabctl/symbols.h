/* Names for addresses of code: functions, files and lines, as far as the mapped files tell. */
#pragma once

#include "modules.h"

/* One function of those that a place is in: a function and what was inlined into it. Texts stay until the end. */
struct line {
    const char *name;        /* as people write it; "libx.so+0x1234" where there is none */
    const char *system_name; /* as the file has it */
    const char *file;        /* "" if it is not known */
    int number;              /* 0: not known */
};

struct place {
    uint64_t address;
    const struct module *module; /* NULL: not in a file */
    const struct line *lines;    /* what was inlined comes first */
    size_t count;                /* 1 at least */
    bool is_library;             /* the library's own code */
};

struct symbols;

struct symbols *symbols_open(struct modules *modules);
void symbols_close(struct symbols *symbols);
/* It stays until the end. */
const struct place *symbols_at(struct symbols *symbols, uint64_t address);

/* How many frames at the top are the library's own, up to the call that the program made. Where the archive was
 * linked into a file that has no symbols, it may be one or two too few. */
size_t symbols_own(struct symbols *symbols, const uint64_t *frames, size_t count);
