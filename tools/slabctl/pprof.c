/* The profile in memory. */
#include "pprof.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

void pprof_init(struct pprof *profile)
{
    *profile = (struct pprof){.shown = INUSE_SPACE};
    intern_text(&profile->texts, "");
}

void pprof_free(struct pprof *profile)
{
    intern_free(&profile->texts);
    intern_free(&profile->function_keys);
    intern_free(&profile->location_keys);
    intern_free(&profile->sample_keys);
    free(profile->mappings);
    free(profile->functions);
    free(profile->locations);
    free(profile->lines);
    free(profile->samples);
    free(profile->stacks);
}

/* How many bytes the character has that begins here; 0: it is none. Neither surrogates nor what can be said in fewer
 * bytes are characters. */
static size_t character_length(const unsigned char *at)
{
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) || (at[0] == 0xf0 && at[1] < 0x90) ||
        (at[0] == 0xf4 && at[1] >= 0x90))
        return 0;
    return length;
}

/* A terminal obeys them: readers print names as they are. */
static bool is_control(const unsigned char *at)
{
    return at[0] < ' ' || at[0] == 0x7f || (at[0] == 0xc2 && at[1] < 0xa0);
}

size_t pprof_add_text(struct pprof *profile, const char *text)
{
    char *clean = text_copy(text), *out = clean;
    for (char *at = clean; *at;) {
        size_t length = character_length((const unsigned char *)at);
        if (!length || is_control((const unsigned char *)at)) {
            *out++ = '?';
            at += length ? length : 1;
            continue;
        }
        memmove(out, at, length);
        out += length;
        at += length;
    }
    *out = '\0';
    size_t number = intern_text(&profile->texts, clean);
    free(clean);
    return number;
}

void pprof_add_comment(struct pprof *profile, const char *text)
{
    if (profile->comment_count < PPROF_COMMENTS_MOST)
        profile->comments[profile->comment_count++] = intern_text(&profile->texts, text);
}

int64_t pprof_rounded(double value)
{
    const double most = 9e18;
    return llround(fmax(fmin(value, most), -most));
}

const char *pprof_text(const struct pprof *profile, size_t text)
{
    return profile->texts.entries[text]->bytes;
}

size_t pprof_add_mapping(struct pprof *profile, const struct pprof_mapping *mapping)
{
    profile->mappings =
        array_grow(profile->mappings, &profile->mapping_room, profile->mapping_count + 1, sizeof *profile->mappings);
    profile->mappings[profile->mapping_count++] = *mapping;
    return profile->mapping_count;
}

size_t pprof_add_function(struct pprof *profile, const struct pprof_function *function)
{
    bool is_new;
    size_t id = intern(&profile->function_keys, function, sizeof *function, &is_new) + 1;
    if (is_new) {
        profile->functions = array_grow(profile->functions, &profile->function_room, profile->function_count + 1,
                                        sizeof *profile->functions);
        profile->functions[profile->function_count++] = *function;
    }
    return id;
}

/* A place in a file. Without a mapping it is an address. */
struct location_key {
    uint64_t file, offset;
};

static struct location_key location_key(const struct pprof *profile, size_t mapping, uint64_t address)
{
    if (!mapping)
        return (struct location_key){0, address};
    const struct pprof_mapping *at = &profile->mappings[mapping - 1];
    return (struct location_key){at->file, address - at->start + at->offset};
}

size_t pprof_find_location(const struct pprof *profile, size_t mapping, uint64_t address)
{
    struct location_key key = location_key(profile, mapping, address);
    size_t number;
    return intern_find(&profile->location_keys, &key, sizeof key, &number) ? number + 1 : 0;
}

size_t pprof_add_location(struct pprof *profile, size_t mapping, uint64_t address, const struct pprof_line *lines,
                          size_t count)
{
    struct location_key key = location_key(profile, mapping, address);
    bool is_new;
    size_t id = intern(&profile->location_keys, &key, sizeof key, &is_new) + 1;
    if (!is_new)
        return id;
    profile->locations = array_grow(profile->locations, &profile->location_room, profile->location_count + 1,
                                    sizeof *profile->locations);
    profile->locations[profile->location_count++] =
        (struct pprof_location){address, mapping, profile->line_count, count};
    profile->lines =
        array_grow(profile->lines, &profile->line_room, profile->line_count + count, sizeof *profile->lines);
    for (size_t i = 0; i < count; i++)
        profile->lines[profile->line_count++] = lines[i];
    return id;
}

void pprof_add_sample(struct pprof *profile, const uint64_t *locations, size_t depth,
                      const double values[PPROF_VALUES])
{
    bool is_new;
    size_t number = intern(&profile->sample_keys, locations, depth * sizeof *locations, &is_new);
    if (is_new) {
        profile->samples =
            array_grow(profile->samples, &profile->sample_room, profile->sample_count + 1, sizeof *profile->samples);
        profile->samples[profile->sample_count++] =
            (struct pprof_sample){.first_location = profile->stack_count, .depth = depth};
        profile->stacks =
            array_grow(profile->stacks, &profile->stack_room, profile->stack_count + depth, sizeof *profile->stacks);
        for (size_t i = 0; i < depth; i++)
            profile->stacks[profile->stack_count++] = locations[i];
    }
    for (int i = 0; i < PPROF_VALUES; i++)
        profile->samples[number].values[i] += values[i];
}

/* -- the difference ------------------------------------------------------------------------------------------- */

/* The same text in the profile's table. */
static size_t text_of(struct pprof *profile, const struct pprof *older, size_t text)
{
    return intern_text(&profile->texts, pprof_text(older, text));
}

/* A mapping of the older profile: where its file has the same place now, else as it was. `known` has what was found
 * already, by id. */
static size_t mapping_of(struct pprof *profile, const struct pprof *older, size_t id, size_t *known)
{
    if (!id || known[id])
        return id ? known[id] : 0;
    const struct pprof_mapping *was = &older->mappings[id - 1];
    struct pprof_mapping now = *was;
    now.file = text_of(profile, older, was->file);
    now.build_id = text_of(profile, older, was->build_id);
    for (size_t i = 0; i < profile->mapping_count && !known[id]; i++) {
        const struct pprof_mapping *other = &profile->mappings[i];
        if (other->file == now.file && other->offset == now.offset &&
            other->end - other->start == now.end - now.start)
            known[id] = i + 1;
    }
    if (!known[id])
        known[id] = pprof_add_mapping(profile, &now);
    return known[id];
}

static size_t location_of(struct pprof *profile, const struct pprof *older, size_t id, size_t *mappings)
{
    const struct pprof_location *was = &older->locations[id - 1];
    size_t mapping = mapping_of(profile, older, was->mapping, mappings);
    uint64_t address = was->address;
    if (mapping)
        address += profile->mappings[mapping - 1].start - older->mappings[was->mapping - 1].start;
    size_t found = pprof_find_location(profile, mapping, address);
    if (found)
        return found;
    struct pprof_line *lines = memory(NULL, was->line_count, sizeof *lines);
    for (size_t i = 0; i < was->line_count; i++) {
        const struct pprof_line *line = &older->lines[was->first_line + i];
        const struct pprof_function *function = &older->functions[line->function - 1];
        struct pprof_function now = {text_of(profile, older, function->name),
                                     text_of(profile, older, function->system_name),
                                     text_of(profile, older, function->file), function->start_line};
        lines[i] = (struct pprof_line){pprof_add_function(profile, &now), line->line};
    }
    found = pprof_add_location(profile, mapping, address, lines, was->line_count);
    free(lines);
    return found;
}

void pprof_subtract(struct pprof *profile, const struct pprof *older)
{
    size_t *mappings = memory(NULL, older->mapping_count + 1, sizeof *mappings);
    memset(mappings, 0, (older->mapping_count + 1) * sizeof *mappings);
    size_t *known = memory(NULL, older->location_count + 1, sizeof *known);
    memset(known, 0, (older->location_count + 1) * sizeof *known);
    for (size_t i = 0; i < older->sample_count; i++) {
        const struct pprof_sample *sample = &older->samples[i];
        uint64_t *stack = memory(NULL, sample->depth, sizeof *stack);
        for (size_t frame = 0; frame < sample->depth; frame++) {
            size_t id = older->stacks[sample->first_location + frame];
            if (!known[id])
                known[id] = location_of(profile, older, id, mappings);
            stack[frame] = known[id];
        }
        double less[PPROF_VALUES];
        for (int value = 0; value < PPROF_VALUES; value++)
            less[value] = -sample->values[value];
        pprof_add_sample(profile, stack, sample->depth, less);
        free(stack);
    }
    free(known);
    free(mappings);
}
