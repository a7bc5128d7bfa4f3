/* Each executable mapping of an ELF file becomes a module, once, with what is added to the file's addresses there. A
 * file that cannot be opened any more, as an upgrade has put another in its place, is made of what is in memory. */
#include "modules.h"

#include <fcntl.h>
#include <gelf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "elf_open.h"
#include "image.h"
#include "inspect_symbol.h"
#include "mapping.h"

enum { MODULES_MOST = 4096, FILES_MOST = 1 << 16 };            /* a core may name a million that are not there */
static const uint64_t memory_bytes_most = (uint64_t)512 << 20; /* of files that are not to be had */

/* Files are handed to libdwfl open; it is never to look for one. */
static int no_file(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base, char **file, Elf **elf)
{
    (void)module, (void)data, (void)name, (void)base, (void)file, (void)elf;
    return -1;
}

static char *debug_path = (char[]){"/usr/lib/debug"};
static const Dwfl_Callbacks callbacks = {.find_elf = no_file,
                                         .find_debuginfo = dwfl_build_id_find_debuginfo,
                                         .section_address = dwfl_offline_section_address,
                                         .debuginfo_path = &debug_path};

/* Whether the file's first segment lies where it is to be. */
static bool begins_at(const struct modules *modules, const GElf_Phdr *first, const struct mapping *mapping,
                      uint64_t bias)
{
    uint64_t skew = first->p_vaddr % (uint64_t)sysconf(_SC_PAGESIZE), start = bias + first->p_vaddr - skew;
    const struct mapping *at = target_mapping_at(modules->target, start);
    return at && mappings_same_file(at, mapping) && at->offset + (start - at->start) == first->p_offset - skew;
}

/* What is added to the file's addresses where this mapping of it lies. A program may map some of its code once more,
 * as V8 does: as a module, that copy would claim the addresses around it, too. */
static bool bias_of(const struct modules *modules, Elf *elf, const struct mapping *mapping, uint64_t *bias)
{
    size_t count;
    GElf_Ehdr header;
    GElf_Phdr first = {0};
    if (elf_getphdrnum(elf, &count) != 0 || count > FILE_SEGMENTS_MOST || !gelf_getehdr(elf, &header))
        return false;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr segment;
        if (!gelf_getphdr(elf, (int)i, &segment))
            return false;
        if (segment.p_type == PT_LOAD && first.p_type != PT_LOAD)
            first = segment;
        if (segment_bias(&segment, mapping, bias))
            return header.e_type == ET_EXEC ? *bias == 0 : begins_at(modules, &first, mapping, *bias);
    }
    return false;
}

/* What the file has at one of its addresses, or NULL. */
static const char *bytes_at(Elf *elf, uint64_t address, size_t bytes)
{
    size_t count;
    GElf_Phdr segment;
    if (elf_getphdrnum(elf, &count) != 0)
        return NULL;
    for (size_t i = 0; i < count && gelf_getphdr(elf, (int)i, &segment); i++)
        if (segment.p_type == PT_LOAD && address >= segment.p_vaddr && address - segment.p_vaddr < segment.p_filesz) {
            uint64_t offset = segment.p_offset + (address - segment.p_vaddr);
            Elf_Data *data =
                offset <= INT64_MAX ? elf_getdata_rawchunk(elf, (int64_t)offset, bytes, ELF_T_BYTE) : NULL;
            return data ? data->d_buf : NULL;
        }
    return NULL;
}

/* Whether the file is the shared library, and not a program or a plug-in that the archive was linked into. It may be
 * one without sections, which was made of what is in memory. */
static bool named_as_library(Elf *elf)
{
    enum { ENTRIES_MOST = 1024 };
    static const char soname[] = "libslabmalloc.so";
    size_t count;
    GElf_Phdr segment = {0};
    if (elf_getphdrnum(elf, &count) != 0)
        return false;
    for (size_t i = 0; i < count && segment.p_type != PT_DYNAMIC; i++)
        if (!gelf_getphdr(elf, (int)i, &segment))
            return false;
    if (segment.p_type != PT_DYNAMIC || segment.p_filesz > ENTRIES_MOST * sizeof(GElf_Dyn))
        return false;
    Elf_Data *data = elf_getdata_rawchunk(elf, (int64_t)segment.p_offset, segment.p_filesz, ELF_T_DYN);
    uint64_t names = 0, name = 0;
    GElf_Dyn entry;
    for (int i = 0; data && gelf_getdyn(data, i, &entry) && entry.d_tag != DT_NULL; i++) {
        if (entry.d_tag == DT_STRTAB)
            names = entry.d_un.d_ptr;
        if (entry.d_tag == DT_SONAME)
            name = entry.d_un.d_val;
    }
    const char *text = names && name ? bytes_at(elf, names + name, sizeof soname - 1) : NULL;
    return text && memcmp(text, soname, sizeof soname - 1) == 0;
}

/* The mapped file; or, where it is not to be had any more or another has its place, what of it is in memory. */
static int file_open(struct modules *modules, const struct mapping *mapping)
{
    struct image image;
    int file = target_open_file(modules->target, mapping);
    if (file < 0 && image_find(modules->target, mapping, &image))
        file = image_file(modules->target, &image, &modules->budget);
    return file;
}

static void module_add(struct modules *modules, const struct mapping *mapping)
{
    Dwfl_Module *known = dwfl_addrmodule(modules->dwfl, mapping->start);
    int file = known || modules->files++ >= FILES_MOST ? -1 : file_open(modules, mapping);
    if (file < 0)
        return;
    Elf *elf = elf_open(file, ELF_C_READ_MMAP, FILE_SEGMENTS_MOST, FILE_SECTIONS_MOST);
    uint64_t bias;
    bool fits = elf && elf_is_of_this_machine(elf) && bias_of(modules, elf, mapping, &bias);
    if (fits && mappings_same_file(mapping, target_library(modules->target)) && named_as_library(elf))
        modules->is_shared = true;
    elf_end(elf);
    /* libdwfl leaves out of unwinding what is named "... (deleted)". */
    char *name = text_copy(mapping->path);
    name[mapping_path_length(mapping)] = '\0';
    Dwfl_Module *added = fits ? dwfl_report_elf(modules->dwfl, name, name, file, bias, true) : NULL;
    free(name);
    if (!added) {
        close(file);
        return;
    }
    struct module *module = &modules->list[modules->count++];
    *module = (struct module){mapping};
    void **data;
    dwfl_module_info(added, &data, NULL, NULL, NULL, NULL, NULL, NULL);
    *data = module;
}

/* libelf maps files, and one may become shorter meanwhile; libdw walks through trees as deep as a file says. */
static void file_fails(int number)
{
    static const char line[] = "slabctl: a mapped file is damaged, or has become shorter while it was read\n";
    (void)number;
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0)
        _exit(EXIT_COULD_NOT);
    _exit(EXIT_COULD_NOT);
}

static void files_guard(void)
{
    static char stack[64 << 10]; /* that of the program may be full */
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    const struct sigaction action = {.sa_handler = file_fails, .sa_flags = SA_ONSTACK};
    sigaltstack(&other, NULL);
    sigaction(SIGBUS, &action, NULL);
#ifndef __SANITIZE_ADDRESS__ /* which says more */
    sigaction(SIGSEGV, &action, NULL);
#endif
}

/* A core mostly lacks the name, and the file may not be to be had. Then the dynamic section tells, which the loader
 * has written to: only libraries have a name at all, and few of them stay loaded whatever calls dlclose. */
static bool flagged_as_library(struct target *target, const struct image *image)
{
    enum { ENTRIES_MOST = 1024 };
    static GElf_Dyn entries[ENTRIES_MOST];
    const GElf_Phdr *dynamic = NULL;
    for (unsigned i = 0; i < image->header.e_phnum && !dynamic; i++)
        if (image->segments[i].p_type == PT_DYNAMIC)
            dynamic = &image->segments[i];
    if (!dynamic || dynamic->p_filesz > sizeof entries ||
        !target_read_memory(target, image->bias + dynamic->p_vaddr, entries, dynamic->p_filesz))
        return false;
    bool has_name = false, stays = false;
    for (size_t i = 0; i < dynamic->p_filesz / sizeof *entries && entries[i].d_tag != DT_NULL; i++) {
        has_name |= entries[i].d_tag == DT_SONAME;
        stays |= entries[i].d_tag == DT_FLAGS_1 && entries[i].d_un.d_val & DF_1_NODELETE;
    }
    return has_name && stays;
}

static void library_look(struct modules *modules)
{
    struct image image;
    const struct mapping *library = target_library(modules->target);
    int file = modules->is_shared ? -1 : target_open_file(modules->target, library);
    if (file >= 0)
        close(file);
    else if (!modules->is_shared && image_find_first(modules->target, library, &image))
        modules->is_shared = flagged_as_library(modules->target, &image);
    Dwfl_Module *holder;
    modules->holder = modules->is_shared ? NULL : modules_at(modules, library->start, &holder);
    if (modules->holder)
        modules->own = own_code_open(holder); /* once, however often a hostile process has mapped it */
}

struct modules *modules_open(struct target *target)
{
    unsetenv("DEBUGINFOD_URLS"); /* libdwfl would ask a server */
    files_guard();
    struct modules *modules = memory(NULL, 1, sizeof *modules);
    size_t count;
    const struct mapping *mappings = target_mappings(target, &count);
    *modules = (struct modules){.dwfl = dwfl_begin(&callbacks), .target = target, .budget = memory_bytes_most};
    if (!modules->dwfl)
        fail("libdw: %s", dwfl_errmsg(-1));
    modules->list = memory(NULL, MODULES_MOST, sizeof *modules->list);
    dwfl_report_begin(modules->dwfl);
    /* A core dump does not say of what it leaves out whether it was executable; the file does. */
    for (size_t i = 0; i < count && modules->count < MODULES_MOST; i++)
        if ((mappings[i].executable || target_is_core(target)) && mappings[i].path && mappings[i].path[0] == '/')
            module_add(modules, &mappings[i]);
    dwfl_report_end(modules->dwfl, NULL, NULL);
    library_look(modules);
    return modules;
}

void modules_close(struct modules *modules)
{
    own_code_close(modules->own);
    dwfl_end(modules->dwfl);
    free(modules->list);
    free(modules);
}

const struct module *modules_at(const struct modules *modules, uint64_t address, Dwfl_Module **dwfl_module)
{
    Dwfl_Module *module = dwfl_addrmodule(modules->dwfl, address);
    void **data;
    if (!module || !dwfl_module_info(module, &data, NULL, NULL, NULL, NULL, NULL, NULL))
        return NULL;
    if (dwfl_module)
        *dwfl_module = module;
    return *data;
}

bool modules_in_library(const struct modules *modules, uint64_t address)
{
    const struct mapping *mapping = modules->is_shared ? target_mapping_at(modules->target, address) : NULL;
    return mapping && mappings_same_file(mapping, target_library(modules->target));
}

bool modules_tell_library(const struct modules *modules)
{
    return modules->is_shared || (modules->own && own_code_is_known(modules->own));
}
