/* Looks at sections and symbols once, and keeps ranges of addresses in order. */
#include "own_code.h"

#include <stdlib.h>
#include <string.h>

#include "elf_open.h"
#include "message.h"

enum { OWN_SECTIONS_MOST = 16, SYMBOLS_MOST = 1 << 22 };

struct range {
    uint64_t start, end;
};

struct ranges {
    struct range *list;
    size_t count, room;
};

struct own_code {
    struct ranges sections; /* of the library's, data too; not in order */
    struct range sampling;  /* one of them */
    struct ranges code;     /* in order, by what symbols say */
    struct ranges single;   /* functions that a program may have replaced, which say nothing of their neighbours */
};

static void range_add(struct ranges *ranges, uint64_t start, uint64_t bytes)
{
    ranges->list = array_grow(ranges->list, &ranges->room, ranges->count + 1, sizeof *ranges->list);
    ranges->list[ranges->count++] = (struct range){start, bytes > UINT64_MAX - start ? UINT64_MAX : start + bytes};
}

static bool range_has(const struct range *range, uint64_t address)
{
    return address >= range->start && address < range->end;
}

static int range_order(const void *a, const void *b)
{
    uint64_t left = ((const struct range *)a)->start, right = ((const struct range *)b)->start;
    return (left > right) - (left < right);
}

/* Ordered ranges may overlap where a file lies: then it may be missed, no more. */
static bool ranges_have(const struct ranges *ranges, uint64_t address)
{
    size_t low = 0, high = ranges->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges->list[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low && range_has(&ranges->list[low - 1], address);
}

/* -- sections ------------------------------------------------------------------------------------------------- */

static void sections_look(struct own_code *code, Dwfl_Module *module)
{
    GElf_Addr bias;
    size_t names;
    Elf *elf = dwfl_module_getelf(module, &bias);
    if (!elf || elf_getshdrstrndx(elf, &names) != 0)
        return;
    Elf_Scn *section = NULL;
    for (unsigned i = 0; i < FILE_SECTIONS_MOST && code->sections.count < OWN_SECTIONS_MOST; i++) {
        GElf_Shdr header;
        if (!(section = elf_nextscn(elf, section)))
            return;
        const char *name = gelf_getshdr(section, &header) ? elf_strptr(elf, names, header.sh_name) : NULL;
        if (!name || !(header.sh_flags & SHF_ALLOC) || strncmp(name, "slm_", 4) != 0)
            continue;
        range_add(&code->sections, header.sh_addr + bias, header.sh_size);
        if (strcmp(name, "slm_sampling") == 0)
            code->sampling = code->sections.list[code->sections.count - 1];
    }
}

static bool in_sections(const struct own_code *code, uint64_t address)
{
    for (size_t i = 0; i < code->sections.count; i++)
        if (range_has(&code->sections.list[i], address))
            return true;
    return false;
}

/* -- symbols -------------------------------------------------------------------------------------------------- */

enum whose { UNKNOWN, OWN, SINGLE, OTHER };

struct function {
    struct range range; /* comes first */
    enum whose whose;
};

struct functions {
    struct function *list;
    size_t count, room;
    size_t file; /* the first one of the source file that is being read: its local symbols follow its name */
    bool named, own_file;
};

static enum whose whose_by_name(const char *name, bool is_local)
{
    static const char *const names[] = {"malloc",
                                        "calloc",
                                        "realloc",
                                        "reallocarray",
                                        "memalign",
                                        "aligned_alloc",
                                        "posix_memalign",
                                        "valloc",
                                        "pvalloc",
                                        "free",
                                        "cfree",
                                        "free_sized",
                                        "mallinfo",
                                        "mallinfo2",
                                        "mallopt",
                                        "malloc_info",
                                        "malloc_trim",
                                        "malloc_stats",
                                        "prctl",
                                        "__libc_malloc",
                                        "__libc_calloc",
                                        "__libc_free",
                                        "__libc_realloc",
                                        "__libc_memalign",
                                        "__libc_valloc",
                                        "__libc_pvalloc",
                                        "free_aligned_sized",
                                        "malloc_usable_size"};
    if (strncmp(name, "slm_", 4) == 0 || strncmp(name, "our_Znwm", 8) == 0 || strncmp(name, "our_ZdlPv", 9) == 0)
        return OWN;
    if (is_local)
        return UNKNOWN;
    if (strncmp(name, "slab_", 5) == 0 || strncmp(name, "_Znw", 4) == 0 || strncmp(name, "_Zna", 4) == 0 ||
        strncmp(name, "_Zdl", 4) == 0 || strncmp(name, "_Zda", 4) == 0)
        return SINGLE;
    size_t length = strcspn(name, "@"); /* versions may follow */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && memcmp(name, names[i], length) == 0)
            return OWN;
    return OTHER;
}

/* A source file is the library's if one of its static functions or variables is in a section of the library's. Behind
 * an empty name linkers put what was hidden, of all files. */
static void file_begin(struct functions *functions, const char *name)
{
    for (size_t i = functions->file; functions->named && functions->own_file && i < functions->count; i++)
        functions->list[i].whose = OWN;
    functions->file = functions->count;
    functions->named = *name;
    functions->own_file = false;
}

static void symbol_take(const struct own_code *code, struct functions *functions, const GElf_Sym *symbol,
                        uint64_t address, const char *name)
{
    unsigned type = GELF_ST_TYPE(symbol->st_info);
    bool is_local = GELF_ST_BIND(symbol->st_info) == STB_LOCAL;
    if (type == STT_FILE || !is_local)
        file_begin(functions, is_local ? name : "");
    if (symbol->st_shndx == SHN_UNDEF || (type != STT_FUNC && type != STT_OBJECT))
        return;
    bool own = in_sections(code, address);
    functions->own_file |= is_local && own;
    if (type == STT_OBJECT)
        return;
    functions->list = array_grow(functions->list, &functions->room, functions->count + 1, sizeof *functions->list);
    struct function *function = &functions->list[functions->count++];
    *function = (struct function){{address, address + 1}, own ? OWN : whose_by_name(name, is_local)};
    if (symbol->st_size && symbol->st_size < UINT64_MAX - address)
        function->range.end = address + symbol->st_size;
}

/* Functions in a row, with what lies between them. */
static void rows_make(struct own_code *code, const struct functions *functions)
{
    struct range *row = NULL;
    for (size_t i = 0; i < functions->count; i++) {
        const struct function *function = &functions->list[i];
        const struct range *range = &function->range;
        if (function->whose == SINGLE)
            range_add(&code->single, range->start, range->end - range->start);
        if (function->whose == OTHER)
            row = NULL;
        if (function->whose != OWN)
            continue;
        if (!row) {
            range_add(&code->code, range->start, 0);
            row = &code->code.list[code->code.count - 1];
        }
        if (row->end < range->end)
            row->end = range->end;
    }
}

static void symbols_look(struct own_code *code, Dwfl_Module *module)
{
    struct functions functions = {0};
    int count = dwfl_module_getsymtab(module);
    for (int i = 1; i < count && i < SYMBOLS_MOST; i++) {
        GElf_Sym symbol;
        GElf_Addr address;
        const char *name = dwfl_module_getsym_info(module, i, &symbol, &address, NULL, NULL, NULL);
        if (name)
            symbol_take(code, &functions, &symbol, address, name);
    }
    file_begin(&functions, "");
    if (functions.count)
        qsort(functions.list, functions.count, sizeof *functions.list, range_order);
    rows_make(code, &functions);
    free(functions.list);
}

struct own_code *own_code_open(Dwfl_Module *module)
{
    struct own_code *code = memory(NULL, 1, sizeof *code);
    *code = (struct own_code){0};
    sections_look(code, module);
    symbols_look(code, module);
    return code;
}

void own_code_close(struct own_code *code)
{
    if (!code)
        return;
    free(code->sections.list);
    free(code->code.list);
    free(code->single.list);
    free(code);
}

bool own_code_is_known(const struct own_code *code)
{
    return code->sampling.end != 0;
}

bool own_code_has(const struct own_code *code, uint64_t address)
{
    return in_sections(code, address) || ranges_have(&code->code, address) || ranges_have(&code->single, address);
}

bool own_code_samples(const struct own_code *code, uint64_t address)
{
    return range_has(&code->sampling, address);
}
