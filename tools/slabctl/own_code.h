/* Which code of an executable, or of a plug-in, is the library's, where the archive was linked into it.
 *
 *     sections slm_*, which the linker keeps by that name     stripped or not
 *     symbols: slm_*, what programs call, and static functions of the same source files
 *     what lies between two of those                          the archive's members are linked side by side
 *
 * The file may be hostile: it can make the tool call its code the library's, or the other way round, and no more. */
#pragma once

#include <elfutils/libdwfl.h>

struct own_code;

struct own_code *own_code_open(Dwfl_Module *module);
void own_code_close(struct own_code *code); /* may be NULL */

/* False of a file without sections, as one is that was made of what is in memory. */
bool own_code_is_known(const struct own_code *code);
bool own_code_has(const struct own_code *code, uint64_t address);
/* The part that takes samples, which only the library itself calls. */
bool own_code_samples(const struct own_code *code, uint64_t address);
