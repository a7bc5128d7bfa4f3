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
};

struct modules {
    Dwfl *dwfl;
    struct target *target;
    struct module *list;
    size_t count;
    size_t files;                /* that were tried */
    uint64_t budget;             /* bytes that may still be taken from memory, where files are not to be had */
    bool is_shared;              /* the file that has slab_inspect is the shared library */
    const struct module *holder; /* else that file, which has a program's code, too, or NULL if it is not to be had */
    struct own_code *own;        /* what of it is the library's */
};

struct modules *modules_open(struct target *target);
void modules_close(struct modules *modules);
/* Whether an address lies in the shared library, which need not be a module. */
bool modules_in_library(const struct modules *modules, uint64_t address);
/* False where frames of the library's cannot be told from the program's: the file that has both is not to be had. */
bool modules_tell_library(const struct modules *modules);
/* The one that an address lies in, or NULL. `dwfl_module` may be NULL. */
const struct module *modules_at(const struct modules *modules, uint64_t address, Dwfl_Module **dwfl_module);
