/* The ELF files that a target has mapped, as libdwfl knows them: where they lie, their unwind tables, their symbols.
 *
 * Files are those of the target, opened through it, or made of what of them is in its memory. Separate debug files
 * are taken from /usr/lib/debug by the build's id, and from nowhere else: no path that a hostile file names is
 * opened, and no server is asked. */
#pragma once

#include <elfutils/libdwfl.h>

#include "own_code.h"
#include "target.h"

struct module {
    const struct mapping *mapping; /* the executable one */
    bool is_library;               /* the one that has slab_inspect, and nothing of a program's */
};

struct modules {
    Dwfl *dwfl;
    struct target *target;
    struct module *list;
    size_t count;
    uint64_t budget;             /* bytes that may still be taken from memory, where files are not to be had */
    const struct module *holder; /* the one that has slab_inspect among a program's code, or NULL */
    struct own_code *own;        /* what of it is the library's */
};

struct modules *modules_open(struct target *target);
void modules_close(struct modules *modules);
/* The one that an address lies in, or NULL. `dwfl_module` may be NULL. */
const struct module *modules_at(const struct modules *modules, uint64_t address, Dwfl_Module **dwfl_module);
