/* Looks through .dynsym, and through .symtab for static programs. */
#include "inspect_symbol.h"

#include <string.h>
#include <unistd.h>

enum { SYMBOL_BYTES_LEAST = 16 }; /* magic, version, bytes: less is not slab_inspect */
enum { SECTIONS_MOST = 4096, SEGMENTS_MOST = 256 };

#ifdef __x86_64__
enum { MACHINE = EM_X86_64 };
#else
enum { MACHINE = EM_AARCH64 };
#endif

bool elf_is_of_this_machine(Elf *elf)
{
    GElf_Ehdr header;
    return elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &header) && header.e_ident[EI_CLASS] == ELFCLASS64 &&
           header.e_ident[EI_DATA] == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB) &&
           header.e_machine == MACHINE;
}

static bool section_find(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, uint64_t *value)
{
    Elf_Data *data = elf_getdata(section, NULL);
    if (!data || !header->sh_entsize)
        return false;
    size_t count = data->d_size / header->sh_entsize;
    for (size_t i = 1; i < count && i < INT32_MAX; i++) {
        GElf_Sym symbol;
        if (!gelf_getsym(data, (int)i, &symbol))
            return false;
        if (symbol.st_shndx == SHN_UNDEF || GELF_ST_TYPE(symbol.st_info) != STT_OBJECT ||
            symbol.st_size < SYMBOL_BYTES_LEAST)
            continue;
        const char *name = elf_strptr(elf, header->sh_link, symbol.st_name);
        if (name && strcmp(name, "slab_inspect") == 0) {
            *value = symbol.st_value;
            return true;
        }
    }
    return false;
}

static bool table_find(Elf *elf, GElf_Word type, uint64_t *value, uint64_t *budget)
{
    Elf_Scn *section = NULL;
    for (unsigned i = 0; i < SECTIONS_MOST && (section = elf_nextscn(elf, section)); i++) {
        GElf_Shdr header, names;
        if (!gelf_getshdr(section, &header) || header.sh_type != type ||
            !gelf_getshdr(elf_getscn(elf, header.sh_link), &names))
            continue;
        if (header.sh_size > *budget || names.sh_size > *budget - header.sh_size)
            continue;
        *budget -= header.sh_size + names.sh_size;
        if (section_find(elf, section, &header, value))
            return true;
    }
    return false;
}

static bool start_find(Elf *elf, struct inspect_symbol *symbol)
{
    size_t count;
    if (elf_getphdrnum(elf, &count) != 0)
        return false;
    for (size_t i = 0; i < count && i < SEGMENTS_MOST; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(elf, (int)i, &segment))
            return false;
        if (segment.p_type == PT_LOAD) {
            symbol->start = segment.p_vaddr - segment.p_offset;
            symbol->offset = segment.p_offset & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
            return true;
        }
    }
    return false;
}

bool inspect_symbol_find(int file, struct inspect_symbol *symbol, uint64_t *budget)
{
    /* Reading, not mapping: a file that becomes shorter would end this process. */
    Elf *elf = elf_begin(file, ELF_C_READ, NULL);
    if (!elf)
        return false;
    bool found =
        elf_is_of_this_machine(elf) && start_find(elf, symbol) &&
        (table_find(elf, SHT_DYNSYM, &symbol->value, budget) || table_find(elf, SHT_SYMTAB, &symbol->value, budget));
    elf_end(elf);
    return found;
}
