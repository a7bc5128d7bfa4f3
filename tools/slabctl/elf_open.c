/* Reads the header itself, and where it says that the counts are in the first section, that one, too. Who writes to
 * the file at the same moment gets around this: segments are counted again where they are read; for sections there is
 * the tool's limit of memory. */
#include "elf_open.h"

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "inspect_symbol.h"

/* Without the first section the counts are those of the header: a core may be cut in front of it. */
static bool counts_fit(int file, const GElf_Ehdr *header, size_t segments_most, size_t sections_most)
{
    uint64_t segments = header->e_phnum, sections = header->e_shnum;
    GElf_Shdr first;
    if (header->e_shoff && (segments == PN_XNUM || !sections) &&
        pread(file, &first, sizeof first, (off_t)header->e_shoff) == sizeof first) {
        segments = segments == PN_XNUM ? first.sh_info : segments;
        sections = sections ? sections : first.sh_size;
    }
    return segments <= segments_most && sections <= sections_most;
}

Elf *elf_open(int file, Elf_Cmd how, size_t segments_most, size_t sections_most)
{
    GElf_Ehdr header;
    if (pread(file, &header, sizeof header, 0) != sizeof header || !elf_header_fits(&header) ||
        !counts_fit(file, &header, segments_most, sections_most))
        return NULL;
    return elf_begin(file, how, NULL);
}
