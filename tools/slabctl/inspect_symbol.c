/* Looks for the library's note, which stripped files have, too; then through .dynsym and .symtab. */
#include "inspect_symbol.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/inspect.h"
#include "elf_open.h"
#include "message.h"

enum { SYMBOL_BYTES_LEAST = 16 }; /* magic, version, bytes: less is not slab_inspect */
enum { NOTES_BYTES_MOST = 1 << 16, NAME_LENGTH_MOST = 64 };

#ifdef __x86_64__
enum { MACHINE = EM_X86_64 };
#else
enum { MACHINE = EM_AARCH64 };
#endif

bool elf_header_fits(const GElf_Ehdr *header)
{
    return memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_ident[EI_CLASS] == ELFCLASS64 &&
           header->e_ident[EI_DATA] == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB) &&
           header->e_machine == MACHINE;
}

bool elf_is_of_this_machine(Elf *elf)
{
    GElf_Ehdr header;
    return elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &header) && elf_header_fits(&header);
}

/* -- symbols -------------------------------------------------------------------------------------------------- */

static bool section_find(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, uint64_t *value)
{
    Elf_Data *data = elf_getdata(section, NULL);
    if (!data || header->sh_entsize != gelf_fsize(elf, ELF_T_SYM, 1, EV_CURRENT))
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

/* `whole`: false if a table was left out, for the budget. */
static bool table_find(Elf *elf, GElf_Word type, uint64_t *value, uint64_t *budget, bool *whole)
{
    Elf_Scn *section = NULL;
    for (unsigned i = 0; i < FILE_SECTIONS_MOST && (section = elf_nextscn(elf, section)); i++) {
        GElf_Shdr header, names;
        if (!gelf_getshdr(section, &header) || header.sh_type != type ||
            !gelf_getshdr(elf_getscn(elf, header.sh_link), &names))
            continue;
        if ((header.sh_flags | names.sh_flags) & SHF_COMPRESSED) /* libelf would unpack names, a thousandfold */
            continue;
        if (header.sh_size > *budget || names.sh_size > *budget - header.sh_size) {
            *whole = false;
            continue;
        }
        *budget -= header.sh_size + names.sh_size;
        if (section_find(elf, section, &header, value))
            return true;
    }
    return false;
}

/* -- segments ------------------------------------------------------------------------------------------------- */

static bool note_find(Elf *elf, const GElf_Phdr *segment, uint64_t *value)
{
    if (segment->p_filesz > NOTES_BYTES_MOST)
        return false;
    Elf_Data *data = elf_getdata_rawchunk(elf, (int64_t)segment->p_offset, segment->p_filesz,
                                          segment->p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
    GElf_Nhdr header;
    size_t at = 0, name, text;
    while (data && (at = gelf_getnote(data, at, &header, &name, &text)) > 0) {
        int32_t distance; /* from where it stands itself */
        const char *bytes = data->d_buf;
        if (header.n_type != SLM_INSPECT_NOTE_DISTANCE || header.n_namesz != sizeof SLM_INSPECT_NOTE ||
            memcmp(bytes + name, SLM_INSPECT_NOTE, sizeof SLM_INSPECT_NOTE) != 0 || header.n_descsz < sizeof distance)
            continue;
        memcpy(&distance, bytes + text, sizeof distance);
        *value = segment->p_vaddr + text + (uint64_t)(int64_t)distance;
        return true;
    }
    return false;
}

/* Where the file begins, and its note. False if its first segment does not begin with its first byte. */
static bool segments_look(Elf *elf, struct inspect_symbol *symbol, bool *has_note)
{
    size_t count;
    bool loads = false;
    if (elf_getphdrnum(elf, &count) != 0 || count > FILE_SEGMENTS_MOST)
        return false;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(elf, (int)i, &segment))
            return false;
        if (segment.p_type == PT_LOAD && !loads) {
            if (segment.p_offset >= (uint64_t)sysconf(_SC_PAGESIZE))
                return false;
            symbol->start = segment.p_vaddr - segment.p_offset;
            loads = true;
        }
        if (segment.p_type == PT_NOTE && !*has_note)
            *has_note = note_find(elf, &segment, &symbol->value);
    }
    return loads;
}

static bool file_look(int file, struct inspect_symbol *symbol, uint64_t *budget, bool *whole)
{
    /* Reading, not mapping: a file that becomes shorter would end this process. */
    Elf *elf = elf_open(file, ELF_C_READ, FILE_SEGMENTS_MOST, FILE_SECTIONS_MOST);
    if (!elf)
        return false;
    bool has_note = false;
    bool found = elf_is_of_this_machine(elf) && segments_look(elf, symbol, &has_note) &&
                 (has_note || table_find(elf, SHT_DYNSYM, &symbol->value, budget, whole) ||
                  table_find(elf, SHT_SYMTAB, &symbol->value, budget, whole));
    elf_end(elf);
    return found;
}

bool inspect_symbol_in_image(void *image, size_t bytes, struct inspect_symbol *symbol)
{
    Elf *elf = elf_memory(image, bytes);
    if (!elf)
        return false;
    bool has_note = false;
    bool loads = elf_is_of_this_machine(elf) && segments_look(elf, symbol, &has_note);
    elf_end(elf);
    return loads && has_note;
}

/* -- what was found before ------------------------------------------------------------------------------------ */

/* A file is known by more than its number, which goes to another when it is deleted. */
struct known_file {
    struct known_file *next;
    dev_t device;
    ino_t inode;
    off_t bytes;
    struct timespec changed;
    bool found;
    struct inspect_symbol symbol;
};

enum { BUCKETS = 1024 };
static struct known_file *known_files[BUCKETS];

static bool is_known(const struct known_file *known, const struct stat *stat)
{
    return known->device == stat->st_dev && known->inode == stat->st_ino && known->bytes == stat->st_size &&
           known->changed.tv_sec == stat->st_ctim.tv_sec && known->changed.tv_nsec == stat->st_ctim.tv_nsec;
}

bool inspect_symbol_find(int file, struct inspect_symbol *symbol, uint64_t *budget)
{
    struct stat stat;
    *symbol = (struct inspect_symbol){0};
    if (fstat(file, &stat) != 0)
        return false;
    struct known_file **bucket = &known_files[(stat.st_ino ^ stat.st_dev) % BUCKETS], *known = *bucket;
    while (known && !is_known(known, &stat))
        known = known->next;
    if (known) {
        *symbol = known->symbol;
        return known->found;
    }
    bool whole = true, found = file_look(file, symbol, budget, &whole);
    if (!found && !whole) /* another process may have the budget for it */
        return false;
    known = memory(NULL, 1, sizeof *known);
    *known = (struct known_file){.next = *bucket,
                                 .device = stat.st_dev,
                                 .inode = stat.st_ino,
                                 .bytes = stat.st_size,
                                 .changed = stat.st_ctim,
                                 .found = found,
                                 .symbol = *symbol};
    *bucket = known;
    return found;
}
