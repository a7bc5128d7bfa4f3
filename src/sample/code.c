/* Files, and their code; see code.h. */
#include "sample/code.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

#include "base/bits.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"

#ifdef DLFO_STRUCT_HAS_EH_DBASE /* the C library's header has the call */
#pragma weak _dl_find_object
#define HAS_FIND_OBJECT
#endif

enum { PAGE_SHIFT = 12, KNOWN = 64, SEGMENTS = 4 /* whose headers are read at once */ };

/* Where the code of a file lies that was once found. A file is known by its addresses and those of its unwinding
 * tables: whatever else has just these is the same file, loaded anew. `serial` is odd while it is written. */
struct remembered {
    _Atomic uint32_t serial;
    _Atomic uintptr_t start, bytes, tables, code, code_bytes;
};

static slm_sparse struct remembered remembered[KNOWN];

static struct remembered *place_of(const struct slm_code_file *file)
{
    return &remembered[(file->start >> PAGE_SHIFT) * 0x9e3779b97f4a7c15u >> 58];
}

static bool recall(struct slm_code_file *file, uintptr_t tables)
{
    struct remembered *from = place_of(file);
    const uint32_t serial = load_acquire(&from->serial); /* pairs with the release in remember */
    const bool same = load_relaxed(&from->start) == file->start && load_relaxed(&from->bytes) == file->bytes &&
                      load_relaxed(&from->tables) == tables;
    file->code = load_relaxed(&from->code);
    file->code_bytes = load_relaxed(&from->code_bytes);
    slm_load_fence(); /* pairs with the fence in remember */
    return same && serial % 2 == 0 && load_relaxed(&from->serial) == serial;
}

/* In a child of a fork that came in the middle of this, the place stays unused. */
static slm_seldom void remember(const struct slm_code_file *file, uintptr_t tables)
{
    struct remembered *to = place_of(file);
    uint32_t serial = load_relaxed(&to->serial);
    if (serial % 2 == 1 || !atomic_compare_exchange_strong(&to->serial, &serial, serial + 1))
        return;
    slm_store_fence(); /* pairs with the fence in recall */
    store_relaxed(&to->start, file->start);
    store_relaxed(&to->bytes, file->bytes);
    store_relaxed(&to->tables, tables);
    store_relaxed(&to->code, file->code);
    store_relaxed(&to->code_bytes, file->code_bytes);
    store_release(&to->serial, serial + 2); /* pairs with recall */
}

static slm_seldom bool copy(void *to, uintptr_t from, size_t bytes)
{
    return slm_sys_copy(to, (const void *)from, bytes) == bytes;
}

/* Narrow a file's code to what its program headers say, if it begins with them. */
static slm_seldom void narrow(struct slm_code_file *file)
{
    ElfW(Ehdr) elf;
    ElfW(Phdr) segments[SEGMENTS];
    uintptr_t lowest = UINTPTR_MAX, first = UINTPTR_MAX, end = 0;
    if (!copy(&elf, file->start, sizeof elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
        elf.e_phentsize != sizeof segments[0] || elf.e_phoff >= file->bytes)
        return;
    for (unsigned i = 0; i < elf.e_phnum; i++) {
        const uintptr_t from = file->start + elf.e_phoff + i * sizeof segments[0];
        const ElfW(Phdr) *segment = &segments[i % SEGMENTS];
        if (i % SEGMENTS == 0 && !copy(segments, from, slm_min(SEGMENTS, elf.e_phnum - i) * sizeof segments[0]))
            return;
        if (segment->p_type != PT_LOAD)
            continue;
        lowest = slm_min(segment->p_vaddr, lowest);
        if (segment->p_flags & PF_X) {
            first = slm_min(segment->p_vaddr, first);
            end = slm_max(segment->p_vaddr + segment->p_memsz, end);
        }
    }
    lowest &= ~(slm_page_size - 1);
    if (first >= lowest && first < end && end - lowest <= file->bytes) {
        file->code = file->start + (first - lowest);
        file->code_bytes = end - first;
    }
}

/* Where the kernel cannot be asked, all of the file is remembered: that will not change. */
static slm_seldom void learn(struct slm_code_file *file, uintptr_t tables)
{
    if (slm_background_begin() && !slm_sys_is_filtered())
        narrow(file);
    slm_background_end();
    remember(file, tables);
}

static enum slm_code_kind kind_in(const struct slm_code_file *file, uintptr_t address)
{
    return address - file->code < file->code_bytes ? SLM_CODE_YES : SLM_CODE_DATA;
}

static slm_for_few enum slm_code_kind find(struct slm_code *code, uintptr_t address)
{
#ifdef HAS_FIND_OBJECT
    struct dl_find_object found;
    if (&_dl_find_object == NULL)
        return SLM_CODE_UNKNOWN;
    const uint64_t page = address >> PAGE_SHIFT;
    uint64_t *miss = &code->misses[page % SLM_CODE_MISSES];
    if (*miss == page)
        return SLM_CODE_NONE;
    if (_dl_find_object((void *)address, &found) != 0) {
        *miss = page;
        return SLM_CODE_NONE;
    }
    struct slm_code_file *file = &code->files[code->known++ % SLM_CODE_FILES];
    file->start = file->code = (uintptr_t)found.dlfo_map_start;
    file->bytes = file->code_bytes = (uintptr_t)found.dlfo_map_end - file->start;
    if (!recall(file, (uintptr_t)found.dlfo_eh_frame)) {
        file->code = file->start;
        file->code_bytes = file->bytes;
        learn(file, (uintptr_t)found.dlfo_eh_frame);
    }
    code->latest = (unsigned)(file - code->files);
    return kind_in(file, address);
#else
    (void)code;
    (void)address;
    return SLM_CODE_UNKNOWN;
#endif
}

slm_for_few enum slm_code_kind slm_code_of(struct slm_code *code, uintptr_t address)
{
    const struct slm_code_file *latest = &code->files[code->latest];
    if (address - latest->start < latest->bytes)
        return kind_in(latest, address);
    for (unsigned i = 0; i < SLM_CODE_FILES; i++) {
        if (address - code->files[i].start < code->files[i].bytes) {
            code->latest = i;
            return kind_in(&code->files[i], address);
        }
    }
    return find(code, address);
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
