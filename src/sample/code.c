/* Files, and their code; see code.h. */
#include "sample/code.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/bits.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"

#ifdef DLFO_STRUCT_HAS_EH_DBASE /* the C library's header has the call */
#pragma weak _dl_find_object
#define HAS_FIND_OBJECT
#endif

enum { PAGE_SHIFT = 12, KNOWN = 32, SEGMENTS = 4 /* whose headers are read at once */ };

/* What was once found of a file, which is known by its addresses and those of its unwinding tables. `serial` is odd
 * while this is written. */
struct remembered {
    _Atomic uint32_t serial, id_offset;
    _Atomic uintptr_t start, bytes, tables, code, code_bytes, segment, table_bytes;
    _Atomic uint64_t id;
};

static slm_sampled_state struct remembered remembered[KNOWN];

static slm_sampling struct remembered *place_of(const struct slm_code_file *file)
{
    return &remembered[(file->start >> PAGE_SHIFT) * 0x9e3779b97f4a7c15u >> 59];
}

static slm_sampling bool recall(struct slm_code_file *file)
{
    struct remembered *from = place_of(file);
    const uint32_t serial = load_acquire(&from->serial); /* pairs with the release in remember */
    const bool same = load_relaxed(&from->start) == file->start && load_relaxed(&from->bytes) == file->bytes &&
                      load_relaxed(&from->tables) == file->tables;
    const struct slm_code_file found = {
        .start = file->start,
        .bytes = file->bytes,
        .code = load_relaxed(&from->code),
        .code_bytes = load_relaxed(&from->code_bytes),
        .tables = file->tables,
        .held = file->held,
        .segment = load_relaxed(&from->segment),
        .table_bytes = load_relaxed(&from->table_bytes),
        .id = load_relaxed(&from->id),
        .id_offset = load_relaxed(&from->id_offset),
    };
    slm_fence(); /* pairs with the fence in remember */
    if (!same || serial % 2 == 1 || load_relaxed(&from->serial) != serial)
        return false;
    *file = found;
    return true;
}

/* In a child of a fork that came in the middle of this, the place stays unused. */
static slm_sampling void remember(const struct slm_code_file *file)
{
    struct remembered *to = place_of(file);
    uint32_t serial = load_relaxed(&to->serial);
    if (serial % 2 == 1 || !atomic_compare_exchange_strong(&to->serial, &serial, serial + 1))
        return;
    slm_fence(); /* pairs with the fence in recall */
    store_relaxed(&to->start, file->start);
    store_relaxed(&to->bytes, file->bytes);
    store_relaxed(&to->tables, file->tables);
    store_relaxed(&to->code, file->code);
    store_relaxed(&to->code_bytes, file->code_bytes);
    store_relaxed(&to->segment, file->segment);
    store_relaxed(&to->table_bytes, file->table_bytes);
    store_relaxed(&to->id, file->id);
    store_relaxed(&to->id_offset, file->id_offset);
    store_release(&to->serial, serial + 2); /* pairs with recall */
}

/* What program headers say; addresses as they are there. */
struct segments {
    uintptr_t lowest, code, code_end;
    uintptr_t tables, segment, segment_end; /* the tables, and the segment that they lie in */
};

static slm_sampling void add_segment(struct segments *found, const ElfW(Phdr) * segment)
{
    if (segment->p_type == PT_LOAD) {
        found->lowest = slm_min(segment->p_vaddr & ~(slm_page_size - 1), found->lowest);
        if (segment->p_flags & PF_X) {
            found->code = slm_min(segment->p_vaddr, found->code);
            found->code_end = slm_max(segment->p_vaddr + segment->p_memsz, found->code_end);
        }
        if (found->tables - segment->p_vaddr < segment->p_filesz && (segment->p_flags & PF_R)) {
            found->segment = segment->p_vaddr;
            found->segment_end = segment->p_vaddr + segment->p_filesz;
        }
    } else if (segment->p_type == PT_GNU_EH_FRAME) {
        found->tables = segment->p_vaddr;
    }
}

/* The part of the file's addresses that is code, and the segment of its tables. */
static slm_sampling void narrow(struct slm_code_file *file, const struct segments *found, uintptr_t bias)
{
    const uintptr_t end = file->start + file->bytes, code_end = slm_min(found->code_end + bias, end);
    if (found->code_end != 0) {
        file->code = slm_max(found->code + bias, file->start);
        file->code_bytes = code_end > file->code ? code_end - file->code : 0;
    }
    if (file->tables - (found->segment + bias) < found->segment_end - found->segment) {
        file->segment = found->segment + bias;
        file->table_bytes = found->segment_end - found->segment;
    }
}

/* All of it may be code. */
static slm_sampling void forget_parts(struct slm_code_file *file)
{
    file->code = file->start;
    file->code_bytes = file->bytes;
    file->segment = file->table_bytes = 0;
    file->id = file->id_offset = 0;
}

static const struct segments nothing = {.lowest = UINTPTR_MAX, .code = UINTPTR_MAX, .tables = UINTPTR_MAX};

/* Is it a part of the program itself? Nobody closes that, and the kernel has told where its program headers are. The
 * headers are gone through twice, here and below, as the segment may come before the header that has the tables. */
static slm_sampling bool look_at_program(struct slm_code_file *file)
{
    const ElfW(Phdr) *headers = (const void *)getauxval(AT_PHDR);
    const size_t count = headers ? getauxval(AT_PHNUM) : 0;
    struct segments found = nothing;
    uintptr_t bias = 0;
    bool own = false;
    for (size_t i = 0; i < count; i++)
        if (headers[i].p_type == PT_PHDR)
            bias = (uintptr_t)headers - headers[i].p_vaddr;
    for (size_t i = 0; i < 2 * count; i++) {
        const ElfW(Phdr) *segment = &headers[i % count];
        add_segment(&found, segment);
        own |= segment->p_type == PT_LOAD &&
               file->start - bias - (segment->p_vaddr & ~(slm_page_size - 1)) < segment->p_memsz;
    }
    if (own) {
        narrow(file, &found, bias);
        file->id = SLM_CODE_PROGRAM;
    }
    return own;
}

/* Of a file that is held only the first page is looked at, which can be read. */
static slm_sampling bool copy(void *to, const struct slm_code_file *file, uintptr_t offset, size_t bytes)
{
    const void *from = (const void *)(file->start + offset);
    if (!file->held)
        return slm_sys_copy(to, from, bytes) == bytes;
    if (offset > slm_page_size || slm_page_size - offset < bytes)
        return false;
    memcpy(to, from, bytes);
    return true;
}

/* Among the notes in that part of the file. */
static slm_sampling void look_for_id(struct slm_code_file *file, uintptr_t offset, uintptr_t bytes, uintptr_t align)
{
    struct {
        ElfW(Nhdr) header;
        char name[sizeof ELF_NOTE_GNU];
        uint64_t id;
    } note;
    const uintptr_t end = slm_min(offset + bytes, slm_page_size), head = offsetof(__typeof__(note), id);
    for (uintptr_t at = offset; at < end && end - at >= sizeof note && file->id == 0;) {
        if (!copy(&note, file, at, sizeof note))
            return;
        if (note.header.n_type == NT_GNU_BUILD_ID && note.header.n_namesz == sizeof ELF_NOTE_GNU &&
            memcmp(note.name, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0 && note.header.n_descsz >= sizeof note.id &&
            note.id > SLM_CODE_PROGRAM) {
            file->id = note.id;
            file->id_offset = (uint32_t)(at + head);
        }
        at += slm_align_up(sizeof note.header + slm_align_up(note.header.n_namesz, 4), align) +
              slm_align_up(note.header.n_descsz, align);
    }
}

/* A file that begins with its headers. */
static slm_sampling void look_at_file(struct slm_code_file *file)
{
    ElfW(Ehdr) elf;
    ElfW(Phdr) some[SEGMENTS];
    struct segments found = nothing;
    forget_parts(file);
    if (!copy(&elf, file, 0, sizeof elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
        elf.e_phentsize != sizeof some[0] || elf.e_phoff >= file->bytes)
        return;
    for (unsigned i = 0, pass = 0; pass < 2; i = 0, pass++) {
        for (; i < elf.e_phnum; i++) {
            const uintptr_t offset = elf.e_phoff + i * sizeof some[0];
            if (i % SEGMENTS == 0 && !copy(some, file, offset, slm_min(SEGMENTS, elf.e_phnum - i) * sizeof some[0]))
                return;
            add_segment(&found, &some[i % SEGMENTS]);
            const ElfW(Phdr) *segment = &some[i % SEGMENTS];
            if (pass == 1 && segment->p_type == PT_NOTE && segment->p_vaddr - found.lowest < slm_page_size)
                look_for_id(file, segment->p_vaddr - found.lowest, segment->p_memsz, segment->p_align == 8 ? 8 : 4);
        }
    }
    narrow(file, &found, file->start - found.lowest);
}

/* Where the kernel may not be asked, all of a library is remembered as code, and its tables as unknown. They are
 * looked for once: then `segment` is not 0. The first page of a file that is held can be read if it was before. */
static slm_sampling void learn(struct slm_code_file *file)
{
    const bool program = look_at_program(file), may = slm_background_begin();
    const bool asked = may && (file->held ? slm_sys_readable((const void *)file->start) : !slm_sys_is_filtered());
    if (!program && (asked || (file->held && file->id_offset != 0)))
        look_at_file(file);
    slm_background_end();
    if (file->segment == 0 && (program || (file->held && may)))
        file->segment = file->tables;
    remember(file);
}

/* Is the file that was remembered there? That cannot be told where the kernel may not be asked. */
static slm_sampling bool is_there(const struct slm_code_file *file)
{
    uint64_t id = 0;
    bool may = true, same = file->id == SLM_CODE_PROGRAM;
    if (same)
        return true;
    if (!file->held)
        may = slm_background_begin() && !slm_sys_is_filtered();
    same = !may || (file->id != 0 && copy(&id, file, file->id_offset, sizeof id) && id == file->id);
    if (!file->held)
        slm_background_end();
    return same;
}

static slm_sampling enum slm_code_kind kind_in(const struct slm_code_file *file, uintptr_t address)
{
    return address - file->code < file->code_bytes ? SLM_CODE_YES : SLM_CODE_DATA;
}

#ifdef HAS_FIND_OBJECT
slm_sampling bool slm_code_told(void)
{
    return &_dl_find_object != NULL;
}

static slm_sampling struct slm_code_file *find(struct slm_code *code, uintptr_t address, bool held)
{
    struct dl_find_object found;
    const uint64_t page = address >> PAGE_SHIFT;
    uint64_t *miss = &code->misses[page % SLM_CODE_MISSES];
    if (!slm_code_told() || _dl_find_object((void *)address, &found) != 0) {
        *miss = page;
        return NULL;
    }
    struct slm_code_file *file = &code->files[code->known++ % SLM_CODE_FILES];
    *file = (struct slm_code_file){.start = (uintptr_t)found.dlfo_map_start, .held = held};
    file->bytes = (uintptr_t)found.dlfo_map_end - file->start;
    file->tables = (uintptr_t)found.dlfo_eh_frame;
    if (!recall(file)) {
        forget_parts(file);
        learn(file);
    }
    code->latest = (unsigned)(file - code->files);
    return file;
}
#else
slm_sampling bool slm_code_told(void)
{
    return false;
}

static struct slm_code_file *find(struct slm_code *code, uintptr_t address, bool held)
{
    (void)code;
    (void)address;
    (void)held;
    return NULL;
}
#endif

static slm_sampling struct slm_code_file *file_of(struct slm_code *code, uintptr_t address, bool held)
{
    struct slm_code_file *latest = &code->files[code->latest];
    if (address - latest->start < latest->bytes)
        return latest;
    const uint64_t page = address >> PAGE_SHIFT;
    if (code->misses[page % SLM_CODE_MISSES] == page)
        return NULL;
    for (unsigned at = 0; at < slm_min(code->known, SLM_CODE_FILES); at++) {
        if (address - code->files[at].start < code->files[at].bytes) {
            code->latest = at;
            return &code->files[at];
        }
    }
    return find(code, address, held);
}

slm_sampling enum slm_code_kind slm_code_of(struct slm_code *code, uintptr_t address)
{
    const struct slm_code_file *file = file_of(code, address, false);
    if (file)
        return kind_in(file, address);
    return slm_code_told() ? SLM_CODE_NONE : SLM_CODE_UNKNOWN;
}

/* As long as this runs: the program, this library, or the C library. */
static slm_sampling bool is_always_held(const struct slm_code_file *file)
{
    return getauxval(AT_PHDR) - file->start < file->bytes || (uintptr_t)remembered - file->start < file->bytes ||
           (uintptr_t)getauxval - file->start < file->bytes;
}

slm_sampling const struct slm_code_file *slm_code_of_frame(struct slm_code *code, uintptr_t address, bool sure)
{
    struct slm_code_file *file = file_of(code, address, sure);
    if (!file)
        return NULL;
    if (!file->held)
        file->held = sure || is_always_held(file);
    /* Or when it was looked at nobody knew of the frame. */
    if (file->tables != 0 && ((!file->checked && !is_there(file)) || file->segment == 0))
        learn(file);
    file->checked = true;
    return file;
}

slm_seldom bool slm_code_file(uintptr_t address, const char **path, uintptr_t *moved)
{
#ifdef HAS_FIND_OBJECT
    struct dl_find_object found;
    if (&_dl_find_object == NULL || _dl_find_object((void *)address, &found) != 0 || !found.dlfo_link_map)
        return false;
    *path = found.dlfo_link_map->l_name;
    *moved = found.dlfo_link_map->l_addr;
    return true;
#else
    (void)address, (void)path, (void)moved;
    return false;
#endif
}
