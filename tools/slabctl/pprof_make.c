/* Sites become samples, places locations, modules mappings. */
#include "pprof_make.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static size_t build_id_text(struct pprof *pprof, Dwfl_Module *module)
{
    enum { BYTES_MOST = 64 };
    const unsigned char *bits;
    GElf_Addr address;
    char text[2 * BYTES_MOST + 1] = "";
    int count = dwfl_module_build_id(module, &bits, &address);
    for (int i = 0; i < count && i < BYTES_MOST; i++)
        snprintf(text + 2 * i, 3, "%02x", bits[i]);
    return pprof_add_text(pprof, text);
}

/* Ids of mappings are positions of modules: the first is that of the program, which readers take for the main one. */
static void mappings_make(struct pprof *pprof, const struct modules *modules)
{
    for (size_t i = 0; i < modules->count; i++) {
        const struct mapping *mapping = modules->list[i].mapping;
        Dwfl_Module *module = NULL;
        modules_at(modules, mapping->start, &module);
        struct pprof_mapping made = {mapping->start, mapping->end, mapping->offset,
                                     pprof_add_text(pprof, mapping->path), module ? build_id_text(pprof, module) : 0};
        pprof_add_mapping(pprof, &made);
    }
}

static size_t location_make(struct pprof *pprof, const struct modules *modules, const struct place *place)
{
    size_t mapping = place->module ? (size_t)(place->module - modules->list) + 1 : 0;
    size_t id = pprof_find_location(pprof, mapping, place->address);
    if (id)
        return id;
    struct pprof_line *lines = memory(NULL, place->count, sizeof *lines);
    for (size_t i = 0; i < place->count; i++) {
        const struct line *line = &place->lines[i];
        struct pprof_function function = {pprof_add_text(pprof, line->name), pprof_add_text(pprof, line->system_name),
                                          pprof_add_text(pprof, line->file), 0};
        lines[i] = (struct pprof_line){pprof_add_function(pprof, &function), line->number};
    }
    id = pprof_add_location(pprof, mapping, place->address, lines, place->count);
    free(lines);
    return id;
}

/* What has no stack has a place of its own: readers leave out samples without one. */
static size_t location_none(struct pprof *pprof)
{
    size_t text = pprof_add_text(pprof, "(no stack)");
    struct pprof_function function = {text, text, 0, 0};
    struct pprof_line line = {pprof_add_function(pprof, &function), 0};
    return pprof_add_location(pprof, 0, 0, &line, 1);
}

static void sample_make(struct pprof *pprof, struct profile *profile, const struct site *site)
{
    uint64_t locations[FRAMES_MOST];
    size_t depth = site->depth;
    for (size_t i = 0; i < depth; i++)
        locations[i] = location_make(pprof, profile->modules, symbols_at(profile->symbols, site->frames[i]));
    if (!depth)
        locations[depth++] = location_none(pprof);
    const double values[PPROF_VALUES] = {[ALLOC_OBJECTS] = site->allocated.objects,
                                         [ALLOC_SPACE] = site->allocated.bytes,
                                         [INUSE_OBJECTS] = site->live.objects,
                                         [INUSE_SPACE] = site->live.bytes};
    pprof_add_sample(pprof, locations, depth, values);
}

void pprof_make(struct pprof *pprof, struct profile *profile)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    pprof->time_ns = now.tv_sec * 1000000000 + now.tv_nsec;
    pprof->period = (int64_t)profile_mean(profile);
    mappings_make(pprof, profile->modules);
    for (size_t i = 0; i < profile_site_count(profile); i++)
        sample_make(pprof, profile, &profile->sites[i]);
    struct notes notes;
    profile_notes(profile, &notes);
    for (unsigned i = 0; i < notes.count; i++)
        pprof_add_comment(pprof, notes.text[i]);
}
