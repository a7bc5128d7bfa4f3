/* Where an ELF file has slab_inspect. The file may be hostile: libelf checks what it says, and this its sizes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <gelf.h>

struct inspect_symbol {
    uint64_t value; /* its address, as the file says */
    uint64_t start; /* the same of the file's first byte */
};

/* False if the file has none, or is not loaded from its first byte on. Reads no more than `budget` bytes of symbols,
 * and takes those off. What was found is remembered, for other processes with the same file. */
bool inspect_symbol_find(int file, struct inspect_symbol *symbol, uint64_t *budget);

/* The same from the first bytes of such a file in memory, which have the library's note, if it has one. */
bool inspect_symbol_in_image(void *image, size_t bytes, struct inspect_symbol *symbol);

/* Whether it is an ELF file with this machine's words and code. */
bool elf_is_of_this_machine(Elf *elf);
bool elf_header_fits(const GElf_Ehdr *header);
