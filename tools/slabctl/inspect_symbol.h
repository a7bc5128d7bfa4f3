/* Where an ELF file defines slab_inspect. The file may be hostile: libelf checks what it says, and this its sizes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <gelf.h>

struct inspect_symbol {
    uint64_t value; /* its address, as the file says */
    uint64_t
        start; /* the address of the file's first byte, as the file says: that of its first segment less its offset */
    uint64_t offset; /* in the file, of the first segment's first page */
};

/* False if the file does not define it. Reads no more than `budget` bytes of symbols, and takes them off. */
bool inspect_symbol_find(int file, struct inspect_symbol *symbol, uint64_t *budget);

/* Whether it is an ELF file with this machine's words and code. */
bool elf_is_of_this_machine(Elf *elf);
