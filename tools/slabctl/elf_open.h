/* Hands libelf a file that may be hostile, if its counts are such as real files have: libelf takes memory for all
 * sections as soon as it has the file, and for all segments when it is asked for the first one. A file of holes has
 * millions of them, and takes no room on a disk; a few real ones have a section for each function. Who gives libelf a
 * file of a target does so here. */
#pragma once

#include <stddef.h>

#include <gelf.h>

enum { FILE_SEGMENTS_MOST = 256, FILE_SECTIONS_MOST = 1 << 15 };

/* NULL where it is no ELF file of this machine, or has more than these. The caller ends it with elf_end. */
Elf *elf_open(int file, Elf_Cmd how, size_t segments_most, size_t sections_most);
