/* Reads headers and segments with the target's own memory, a core's without the mapped files. */
#include "image.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "elf_open.h"
#include "inspect_symbol.h"
#include "mapping.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 */
#endif

enum { MAPPINGS_BACK_MOST = 64, NOTES_BYTES_MOST = 1 << 16, DYNAMIC_MOST = 1024, PIECE = 1 << 16, PAGE_LEAST = 4096 };
static const uint64_t file_bytes_most = (uint64_t)1 << 30; /* most of it may be holes */

static uint64_t page_start(uint64_t value)
{
    return value & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
}

/* -- where it is ---------------------------------------------------------------------------------------------- */

static bool headers_read(struct target *target, uint64_t start, struct image *image)
{
    GElf_Ehdr *header = &image->header;
    image->start = start;
    return target_read_memory(target, start, header, sizeof *header) && elf_header_fits(header) &&
           header->e_phentsize == sizeof(GElf_Phdr) && header->e_phnum && header->e_phnum <= IMAGE_SEGMENTS_MOST &&
           header->e_phoff < file_bytes_most &&
           target_read_memory(target, start + header->e_phoff, image->segments, header->e_phnum * sizeof(GElf_Phdr));
}

/* Whether the segment with the mapping's code and the one with the file's first byte lie where they are to. */
static bool leads_to(struct image *image, const struct mapping *mapping)
{
    bool has_code = false, has_start = false;
    for (unsigned i = 0; i < image->header.e_phnum && !has_code; i++)
        has_code = segment_bias(&image->segments[i], mapping, &image->bias);
    for (unsigned i = 0; i < image->header.e_phnum && has_code && !has_start; i++) {
        const GElf_Phdr *segment = &image->segments[i];
        has_start = segment->p_type == PT_LOAD && page_start(segment->p_offset) == 0 &&
                    image->bias + segment->p_vaddr - segment->p_offset == image->start;
    }
    return has_start && (image->header.e_type != ET_EXEC || !image->bias);
}

bool image_find(struct target *target, const struct mapping *mapping, struct image *image)
{
    size_t count;
    const struct mapping *at = mapping, *all = target_mappings(target, &count);
    for (unsigned i = 0; i < MAPPINGS_BACK_MOST; i++, at--) {
        if (at->offset == 0 && mappings_same_file(at, mapping) && headers_read(target, at->start, image) &&
            leads_to(image, mapping))
            return true;
        if (at == all)
            break;
    }
    return false;
}

bool image_find_first(struct target *target, const struct mapping *mapping, struct image *image)
{
    if (mapping->offset || !headers_read(target, mapping->start, image))
        return false;
    for (unsigned i = 0; i < image->header.e_phnum; i++)
        if (image->segments[i].p_type == PT_LOAD && page_start(image->segments[i].p_offset) == 0) {
            image->bias = image->start + image->segments[i].p_offset - image->segments[i].p_vaddr;
            return true;
        }
    return false;
}

/* -- which it is ---------------------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

static size_t notes_build_id(const unsigned char *notes, size_t bytes, size_t alignment,
                             unsigned char id[BUILD_ID_BYTES_MOST])
{
    static const char owner[] = ELF_NOTE_GNU;
    GElf_Nhdr note;
    for (size_t at = 0; bytes - at >= sizeof note;) {
        memcpy(&note, notes + at, sizeof note);
        if (note.n_namesz > bytes || note.n_descsz > bytes)
            break;
        size_t text = aligned(at + sizeof note + note.n_namesz, alignment);
        if (text + note.n_descsz > bytes)
            break;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof owner && note.n_descsz <= BUILD_ID_BYTES_MOST &&
            memcmp(notes + at + sizeof note, owner, sizeof owner) == 0) {
            memcpy(id, notes + text, note.n_descsz);
            return note.n_descsz;
        }
        at = aligned(text + note.n_descsz, alignment);
        if (at > bytes)
            break;
    }
    return 0;
}

size_t image_build_id(struct target *target, const struct image *image, unsigned char id[BUILD_ID_BYTES_MOST])
{
    static unsigned char notes[NOTES_BYTES_MOST];
    size_t length = 0;
    for (unsigned i = 0; i < image->header.e_phnum && !length; i++) {
        const GElf_Phdr *segment = &image->segments[i];
        if (segment->p_type == PT_NOTE && segment->p_filesz <= sizeof notes &&
            target_read_memory(target, image->bias + segment->p_vaddr, notes, segment->p_filesz))
            length = notes_build_id(notes, segment->p_filesz, segment->p_align == 8 ? 8 : 4, id);
    }
    return length;
}

/* By its segments, as in memory, and no more of them than there: a hostile file's sections may have any size. */
static size_t file_build_id(Elf *elf, unsigned char id[BUILD_ID_BYTES_MOST])
{
    size_t count, length = 0;
    GElf_Phdr segment;
    if (!elf_is_of_this_machine(elf) || elf_getphdrnum(elf, &count) != 0 || count > IMAGE_SEGMENTS_MOST)
        return 0;
    for (size_t i = 0; i < count && !length && gelf_getphdr(elf, (int)i, &segment); i++) {
        Elf_Data *data = segment.p_type == PT_NOTE && segment.p_filesz <= NOTES_BYTES_MOST
                             ? elf_getdata_rawchunk(elf, (int64_t)segment.p_offset, segment.p_filesz, ELF_T_BYTE)
                             : NULL;
        if (data)
            length = notes_build_id(data->d_buf, data->d_size, segment.p_align == 8 ? 8 : 4, id);
    }
    return length;
}

bool file_has_build_id(int file, const unsigned char *id, size_t bytes)
{
    /* Reading, not mapping: a file that becomes shorter would end this process. */
    Elf *elf = elf_open(file, ELF_C_READ, IMAGE_SEGMENTS_MOST, FILE_SECTIONS_MOST);
    unsigned char found[BUILD_ID_BYTES_MOST];
    bool has = elf && file_build_id(elf, found) == bytes && memcmp(found, id, bytes) == 0;
    elf_end(elf);
    return has;
}

/* -- a file of it --------------------------------------------------------------------------------------------- */

static bool all_written(int file, const void *bytes, size_t count, uint64_t offset)
{
    for (size_t done = 0; done < count;) {
        ssize_t written = pwrite(file, (const char *)bytes + done, count - done, (off_t)(offset + done));
        if (written <= 0)
            return false;
        done += (size_t)written;
    }
    return true;
}

/* What of a piece can be read, page by page if need be. */
static bool piece_copy(struct target *target, uint64_t address, size_t bytes, int file, uint64_t offset)
{
    static char piece[PIECE];
    if (target_read_memory(target, address, piece, bytes))
        return all_written(file, piece, bytes, offset);
    for (size_t done = 0, part; done < bytes; done += part) {
        part = PAGE_LEAST - (address + done) % PAGE_LEAST;
        if (part > bytes - done)
            part = bytes - done;
        if (target_read_memory(target, address + done, piece, part) && !all_written(file, piece, part, offset + done))
            return false;
    }
    return true;
}

/* Each look is paid for as a page at least, whether it finds something or not. */
static bool segment_copy(struct target *target, const struct image *image, const GElf_Phdr *segment, int file,
                         uint64_t *budget)
{
    uint64_t address = image->bias + segment->p_vaddr;
    if (segment->p_offset > file_bytes_most || segment->p_filesz > file_bytes_most - segment->p_offset ||
        address + segment->p_filesz < address)
        return false;
    for (uint64_t done = 0, part; done < segment->p_filesz; done += part) {
        part = segment->p_filesz - done < PIECE ? segment->p_filesz - done : PIECE;
        uint64_t price = part < PAGE_LEAST ? PAGE_LEAST : part;
        if (*budget < price)
            return false;
        *budget -= price;
        if (!piece_copy(target, address + done, part, file, segment->p_offset + done))
            return false;
    }
    return true;
}

static bool in_segments(const struct image *image, uint64_t address)
{
    for (unsigned i = 0; i < image->header.e_phnum; i++) {
        const GElf_Phdr *segment = &image->segments[i];
        if (segment->p_type == PT_LOAD && address >= segment->p_vaddr &&
            address - segment->p_vaddr < segment->p_memsz)
            return true;
    }
    return false;
}

static bool is_pointer(int64_t tag)
{
    return tag == DT_STRTAB || tag == DT_SYMTAB || tag == DT_HASH || tag == DT_GNU_HASH || tag == DT_VERSYM ||
           tag == DT_VERDEF || tag == DT_VERNEED;
}

/* glibc's linker has made addresses of the process's out of those of the file. */
static bool dynamic_restore(const struct image *image, const GElf_Phdr *segment, int file)
{
    static GElf_Dyn entries[DYNAMIC_MOST];
    size_t bytes = segment->p_filesz < sizeof entries ? segment->p_filesz : sizeof entries;
    if (!image->bias || segment->p_offset > file_bytes_most)
        return true;
    ssize_t length = pread(file, entries, bytes, (off_t)segment->p_offset);
    for (ssize_t i = 0; i < length / (ssize_t)sizeof *entries && entries[i].d_tag != DT_NULL; i++) {
        uint64_t before = entries[i].d_un.d_ptr - image->bias;
        if (is_pointer(entries[i].d_tag) && !in_segments(image, entries[i].d_un.d_ptr) && in_segments(image, before))
            entries[i].d_un.d_ptr = before;
    }
    return length <= 0 || all_written(file, entries, (size_t)length, segment->p_offset);
}

/* Each table of addresses begins with its version, which is 1. */
static bool has_unwind_tables(const GElf_Phdr *segment, int file)
{
    char version = 0;
    return segment->p_offset < file_bytes_most && pread(file, &version, 1, (off_t)segment->p_offset) == 1 &&
           version == 1;
}

static bool file_fill(struct target *target, const struct image *image, int file, uint64_t *budget)
{
    const GElf_Phdr *segments = image->segments;
    unsigned count = image->header.e_phnum;
    for (unsigned i = 0; i < count; i++)
        if (segments[i].p_type == PT_LOAD && !segment_copy(target, image, &segments[i], file, budget))
            return false;
    for (unsigned i = 0; i < count; i++)
        if ((segments[i].p_type == PT_DYNAMIC && !dynamic_restore(image, &segments[i], file)) ||
            (segments[i].p_type == PT_GNU_EH_FRAME && !has_unwind_tables(&segments[i], file)))
            return false;
    GElf_Ehdr header = image->header;
    header.e_shoff = 0;
    header.e_shnum = 0;
    header.e_shstrndx = SHN_UNDEF;
    return all_written(file, segments, count * sizeof *segments, header.e_phoff) &&
           all_written(file, &header, sizeof header, 0);
}

int image_file(struct target *target, const struct image *image, uint64_t *budget)
{
    int file = memfd_create("slabctl", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (file < 0)
        file = memfd_create("slabctl", MFD_CLOEXEC);
    if (file < 0 || file_fill(target, image, file, budget))
        return file;
    close(file);
    return -1;
}
