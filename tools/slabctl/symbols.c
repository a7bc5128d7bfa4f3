/* Symbol tables have the functions, DWARF what was inlined, and lines. */
#include "symbols.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demangle.h"
#include "intern.h"
#include "mapping.h"

struct symbols {
    struct modules *modules;
    struct intern addresses, texts;
    struct intern names;    /* mangled ones, by number: */
    const char **demangled; /* of texts */
    size_t demangled_room;
    struct place **places; /* by the number of the address */
    size_t room;
};

enum { LINES_MOST = 64, UNITS_MOST = 1 << 16 };

struct symbols *symbols_open(struct modules *modules)
{
    struct symbols *symbols = memory(NULL, 1, sizeof *symbols);
    *symbols = (struct symbols){.modules = modules};
    return symbols;
}

void symbols_close(struct symbols *symbols)
{
    for (size_t i = 0; i < symbols->addresses.count; i++) {
        free((void *)symbols->places[i]->lines);
        free(symbols->places[i]);
    }
    free(symbols->places);
    free(symbols->demangled);
    intern_free(&symbols->addresses);
    intern_free(&symbols->texts);
    intern_free(&symbols->names);
    free(symbols);
}

static const char *text_of(struct symbols *symbols, const char *text)
{
    size_t number = intern_text(&symbols->texts, text);
    return symbols->texts.entries[number]->bytes;
}

static const char *demangled_of(struct symbols *symbols, const char *name)
{
    bool is_new;
    size_t number = intern(&symbols->names, name, strlen(name) + 1, &is_new);
    if (is_new) {
        symbols->demangled =
            array_grow(symbols->demangled, &symbols->demangled_room, number + 1, sizeof *symbols->demangled);
        char *text = demangle(name);
        symbols->demangled[number] = text_of(symbols, text);
        free(text);
    }
    return symbols->demangled[number];
}

/* -- what DWARF knows ----------------------------------------------------------------------------------------- */

/* The compilation unit of an address. Not all compilers list the addresses of units: then each is asked. */
static Dwarf_Die *unit_of(Dwfl_Module *module, uint64_t address, Dwarf_Addr *bias)
{
    Dwarf_Die *unit = dwfl_module_addrdie(module, address, bias);
    if (unit)
        return unit;
    for (unsigned i = 0; i < UNITS_MOST && (unit = dwfl_module_nextcu(module, unit, bias)); i++)
        if (dwarf_haspc(unit, address - *bias) == 1)
            return unit;
    return NULL;
}

static const char *linkage_name(Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    const char *name = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute));
    if (!name)
        name = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute));
    return name ? name : dwarf_diename(die);
}

static int number_of(Dwarf_Die *die, unsigned name)
{
    Dwarf_Attribute attribute;
    Dwarf_Word value;
    if (dwarf_formudata(dwarf_attr(die, name, &attribute), &value) != 0 || value > INT32_MAX)
        return 0;
    return (int)value;
}

/* Where the call was that was inlined. */
static void call_site(struct symbols *symbols, Dwarf_Die *unit, Dwarf_Die *die, struct line *line)
{
    Dwarf_Files *files;
    size_t count;
    size_t number = (size_t)number_of(die, DW_AT_call_file);
    const char *file = NULL;
    if (number && dwarf_getsrcfiles(unit, &files, &count) == 0 && number < count)
        file = dwarf_filesrc(files, number, NULL, NULL);
    line->file = text_of(symbols, file ? file : "");
    line->number = number_of(die, DW_AT_call_line);
}

/* Symbol tables may have versions behind names: "name@@GLIBC_2.34". */
static void line_name(struct symbols *symbols, struct line *line, const char *name)
{
    const char *version = strchr(name, '@');
    char text[256];
    if (version && version > name && (size_t)(version - name) < sizeof text) {
        memcpy(text, name, (size_t)(version - name));
        text[version - name] = '\0';
        name = text;
    }
    line->system_name = text_of(symbols, name);
    line->name = demangled_of(symbols, name);
}

/* The chain of what was inlined at an address, the innermost first, without the function that holds it all: its
 * name is in the symbol table. That one's place is left in `outer`. */
static size_t lines_of(struct symbols *symbols, Dwfl_Module *module, uint64_t address, struct line *lines,
                       struct line *outer)
{
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit = unit_of(module, address, &bias), *inner = NULL, *scopes = NULL;
    if (!unit)
        return 0;
    Dwarf_Line *line = dwarf_getsrc_die(unit, address - bias);
    const char *file = line ? dwarf_linesrc(line, NULL, NULL) : NULL;
    struct line at = {.file = text_of(symbols, file ? file : "")};
    if (line && dwarf_lineno(line, &at.number) != 0)
        at.number = 0;
    int count = dwarf_getscopes(unit, address - bias, &inner);
    if (count > 0)
        count = dwarf_getscopes_die(&inner[0], &scopes);
    size_t found = 0;
    for (int i = 0; i < count && found < LINES_MOST; i++) {
        int tag = dwarf_tag(&scopes[i]);
        if (tag == DW_TAG_subprogram && !outer->system_name && linkage_name(&scopes[i]))
            line_name(symbols, outer, linkage_name(&scopes[i]));
        if (tag == DW_TAG_subprogram)
            break;
        if (tag != DW_TAG_inlined_subroutine)
            continue;
        const char *name = linkage_name(&scopes[i]);
        line_name(symbols, &at, name ? name : "?");
        lines[found++] = at;
        call_site(symbols, unit, &scopes[i], &at);
    }
    outer->file = at.file;
    outer->number = at.number;
    free(scopes);
    free(inner);
    return found;
}

/* -- places --------------------------------------------------------------------------------------------------- */

static void nameless(struct symbols *symbols, const struct place *place, struct line *line)
{
    enum { NAME_MOST = 200 };
    char text[512];
    const struct mapping *mapping =
        place->module ? place->module->mapping : target_mapping_at(symbols->modules->target, place->address);
    if (mapping && mapping->path && mapping->path[0] == '/') {
        const char *end = mapping->path + mapping_path_length(mapping), *name = end;
        while (name[-1] != '/')
            name--;
        snprintf(text, sizeof text, "%.*s+%#jx", end - name > NAME_MOST ? NAME_MOST : (int)(end - name), name,
                 (uintmax_t)(place->address - mapping->start + mapping->offset));
    } else {
        snprintf(text, sizeof text, "%#jx", (uintmax_t)place->address);
    }
    line->name = line->system_name = text_of(symbols, text);
}

/* Whether it lies in the file that the archive was linked into. */
static bool is_held(const struct symbols *symbols, const struct place *place)
{
    return place->module && place->module == symbols->modules->holder;
}

static struct place *place_new(struct symbols *symbols, uint64_t address)
{
    struct place *place = memory(NULL, 1, sizeof *place);
    struct line lines[LINES_MOST + 1], outer = {.file = ""};
    Dwfl_Module *module = NULL;
    *place = (struct place){.address = address, .module = modules_at(symbols->modules, address, &module), .count = 1};
    place->is_library = modules_in_library(symbols->modules, address) ||
                        (is_held(symbols, place) && own_code_has(symbols->modules->own, address));
    if (place->module) {
        GElf_Off offset;
        GElf_Sym symbol;
        const char *name = dwfl_module_addrinfo(module, address, &offset, &symbol, NULL, NULL, NULL);
        if (name && *name)
            line_name(symbols, &outer, name);
        place->count += lines_of(symbols, module, address, lines, &outer);
    }
    if (!outer.name)
        nameless(symbols, place, &outer);
    lines[place->count - 1] = outer;
    struct line *kept = memory(NULL, place->count, sizeof *kept);
    memcpy(kept, lines, place->count * sizeof *kept);
    place->lines = kept;
    return place;
}

const struct place *symbols_at(struct symbols *symbols, uint64_t address)
{
    bool is_new;
    size_t number = intern(&symbols->addresses, &address, sizeof address, &is_new);
    if (is_new) {
        symbols->places = array_grow(symbols->places, &symbols->room, number + 1, sizeof(struct place *));
        symbols->places[number] = place_new(symbols, address);
    }
    return symbols->places[number];
}

/* -- the library's own ---------------------------------------------------------------------------------------- */

/* A stack is taken in the library, by code that only the library calls. */
size_t symbols_own(struct symbols *symbols, const uint64_t *frames, size_t count)
{
    size_t own = 0;
    for (bool samples = true; own < count; own++) {
        const struct place *place = symbols_at(symbols, frames[own]);
        bool held = is_held(symbols, place);
        if (!place->is_library && !(samples && held))
            break;
        samples = held && own_code_samples(symbols->modules->own, frames[own]);
    }
    return own;
}
