/* Each executable mapping of an ELF file becomes a module, once, with what is added to the file's addresses there. */
#include "modules.h"

#include <fcntl.h>
#include <gelf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inspect_symbol.h"
#include "mapping.h"

enum { MODULES_MOST = 4096 };

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

/* What is added to the file's addresses where this mapping of it lies. */
static bool bias_of(Elf *elf, const struct mapping *mapping, uint64_t *bias)
{
    size_t count;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (elf_getphdrnum(elf, &count) != 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr header;
        if (!gelf_getphdr(elf, (int)i, &header))
            return false;
        uint64_t first = header.p_offset & ~(page - 1);
        if (header.p_type == PT_LOAD && header.p_flags & PF_X && mapping->offset >= first &&
            mapping->offset - first < header.p_filesz + (header.p_offset - first)) {
            *bias = (mapping->start - mapping->offset) - (header.p_vaddr - header.p_offset);
            return true;
        }
    }
    return false;
}

/* Whether the file is the shared library, and not a program or a plug-in that the archive was linked into. */
static bool named_as_library(Elf *elf)
{
    static const char soname[] = "libslabmalloc.so";
    for (Elf_Scn *section = elf_nextscn(elf, NULL); section; section = elf_nextscn(elf, section)) {
        GElf_Shdr header;
        Elf_Data *data;
        if (!gelf_getshdr(section, &header) || header.sh_type != SHT_DYNAMIC || !header.sh_entsize ||
            !(data = elf_getdata(section, NULL)))
            continue;
        for (size_t i = 0; i < header.sh_size / header.sh_entsize; i++) {
            GElf_Dyn entry;
            if (!gelf_getdyn(data, (int)i, &entry) || entry.d_tag == DT_NULL)
                break;
            const char *name = entry.d_tag == DT_SONAME ? elf_strptr(elf, header.sh_link, entry.d_un.d_val) : NULL;
            if (name && strncmp(name, soname, sizeof soname - 1) == 0)
                return true;
        }
    }
    return false;
}

static void module_add(struct modules *modules, const struct mapping *mapping)
{
    Dwfl_Module *known = dwfl_addrmodule(modules->dwfl, mapping->start);
    int file = known ? -1 : target_open_file(modules->target, mapping);
    if (file < 0)
        return;
    Elf *elf = elf_begin(file, ELF_C_READ_MMAP, NULL);
    uint64_t bias;
    bool fits = elf && elf_is_of_this_machine(elf) && bias_of(elf, mapping, &bias);
    bool library = fits && mappings_same_file(mapping, target_library(modules->target)) && named_as_library(elf);
    elf_end(elf);
    Dwfl_Module *added = fits ? dwfl_report_elf(modules->dwfl, mapping->path, mapping->path, file, bias, true) : NULL;
    if (!added) {
        close(file);
        return;
    }
    struct module *module = &modules->list[modules->count++];
    *module = (struct module){mapping, library};
    modules->has_library |= library;
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

struct modules *modules_open(struct target *target)
{
    unsetenv("DEBUGINFOD_URLS"); /* libdwfl would ask a server */
    files_guard();
    struct modules *modules = memory(NULL, 1, sizeof *modules);
    size_t count;
    const struct mapping *mappings = target_mappings(target, &count);
    *modules = (struct modules){.dwfl = dwfl_begin(&callbacks), .target = target};
    if (!modules->dwfl)
        fail("libdw: %s", dwfl_errmsg(-1));
    modules->list = memory(NULL, MODULES_MOST, sizeof *modules->list);
    dwfl_report_begin(modules->dwfl);
    /* A core dump does not say of what it leaves out whether it was executable; the file does. */
    for (size_t i = 0; i < count && modules->count < MODULES_MOST; i++)
        if ((mappings[i].executable || target_is_core(target)) && mappings[i].path && mappings[i].path[0] == '/')
            module_add(modules, &mappings[i]);
    dwfl_report_end(modules->dwfl, NULL, NULL);
    return modules;
}

void modules_close(struct modules *modules)
{
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
