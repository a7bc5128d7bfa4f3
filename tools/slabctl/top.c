/* `top`: what holds most of the memory, as a table. */
#include "profile_commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protobuf.h"
#include "stack_print.h"

enum { KEY_LINES = 'n', KEY_BY = 'b', KEY_ALLOCATED = 'a', KEY_FULL = 'f' };
enum { LINES_USUAL_STACKS = 10, LINES_USUAL = 25, LINES_MOST = 1000000 };

static struct {
    uint64_t lines; /* 0: as usual */
    enum by { BY_STACK, BY_FUNCTION, BY_CACHE } by;
    bool allocated, full;
} choice;

static error_t parse(int key, char *word, struct argp_state *argp)
{
    switch (key) {
    case KEY_LINES:
        if (!number_parse(word, LINES_MOST, &choice.lines) || !choice.lines)
            argp_error(argp, "%s: not a number of lines, 1 to %d", word, LINES_MOST);
        return 0;
    case KEY_BY:
        if (strcmp(word, "function") == 0)
            choice.by = BY_FUNCTION;
        else if (strcmp(word, "stack") == 0)
            choice.by = BY_STACK;
        else if (strcmp(word, "cache") == 0)
            choice.by = BY_CACHE;
        else
            argp_error(argp, "%s: neither function, stack nor cache", word);
        return 0;
    case KEY_ALLOCATED:
        choice.allocated = true;
        return 0;
    case KEY_FULL:
        choice.full = true;
        return 0;
    case ARGP_KEY_END:
        if (choice.by == BY_CACHE && choice.allocated)
            argp_error(argp, "what was allocated is counted by stacks, not by caches");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"lines", KEY_LINES, "N", 0, "Show N of them (default 10 stacks, 25 functions or caches)", 0},
    {"by", KEY_BY, "WHAT", 0, "function, stack (default) or cache", 0},
    {"allocated", KEY_ALLOCATED, NULL, 0, "What was allocated since the start, freed or not", 0},
    {"full", KEY_FULL, NULL, 0, "All frames of stacks, and whole names", 0},
    {0},
};
const struct argp top_argp = {.options = options, .parser = parse};

/* -- rows ----------------------------------------------------------------------------------------------------- */

struct row {
    struct estimate figures;
    const struct site *site; /* of stacks */
    char *name;              /* of functions and caches */
};

struct rows {
    struct row *list;
    size_t count, room;
    struct intern keys;
};

/* The row with this key. */
static struct row *row_of(struct rows *rows, const void *key, size_t bytes)
{
    bool is_new;
    size_t number = intern(&rows->keys, key, bytes, &is_new);
    if (!is_new)
        return &rows->list[number];
    rows->list = array_grow(rows->list, &rows->room, rows->count + 1, sizeof *rows->list);
    struct row *row = &rows->list[rows->count++];
    *row = (struct row){0};
    return row;
}

static struct row *row_named(struct rows *rows, const char *name)
{
    struct row *row = row_of(rows, name, strlen(name) + 1);
    if (!row->name)
        row->name = text_copy(name);
    return row;
}

/* Stacks that read alike are one: calls from the same line may have several addresses. Texts are equal if they are
 * at the same address. */
static struct row *row_of_stack(struct rows *rows, struct profile *profile, const struct site *site)
{
    struct bytes key = {0};
    for (size_t i = 0; i < site->depth; i++) {
        const struct place *place = symbols_at(profile->symbols, site->frames[i]);
        for (size_t line = 0; line < place->count; line++) {
            const struct line *at = &place->lines[line];
            const uintptr_t words[] = {(uintptr_t)at->name, (uintptr_t)at->file, (uintptr_t)at->number};
            bytes_add(&key, words, sizeof words);
        }
    }
    struct row *row = row_of(rows, key.data, key.count);
    bytes_free(&key);
    return row;
}

static const struct estimate *figures_of(const struct site *site)
{
    return choice.allocated ? &site->allocated : &site->live;
}

static void rows_fill(struct rows *rows, struct profile *profile)
{
    for (size_t i = 0; i < profile_site_count(profile) && choice.by != BY_CACHE; i++) {
        const struct site *site = &profile->sites[i];
        if (!figures_of(site)->samples)
            continue;
        struct row *row =
            choice.by == BY_STACK ? row_of_stack(rows, profile, site) : row_named(rows, site_function(profile, site));
        row->site = site;
        estimate_add_all(&row->figures, figures_of(site));
    }
    for (size_t i = 0; i < profile->samples.count && choice.by == BY_CACHE; i++) {
        const struct sample *sample = &profile->samples.samples[i];
        char name[80];
        samples_cache_name(profile->target, sample->cache, name, sizeof name);
        sample_add(&row_named(rows, name)->figures, sample);
    }
}

static int order(const void *a, const void *b)
{
    double left = ((const struct row *)a)->figures.bytes, right = ((const struct row *)b)->figures.bytes;
    return (left < right) - (left > right);
}

static void rows_free(struct rows *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        free(rows->list[i].name);
    free(rows->list);
    intern_free(&rows->keys);
}

/* -- the table ------------------------------------------------------------------------------------------------ */

enum { FIGURE_COLUMNS = 63 };

static void row_print(struct profile *profile, const struct row *row, double total, const struct stack_style *style)
{
    const struct estimate *figures = &row->figures;
    struct interval interval = estimate_interval(figures, profile_mean(profile));
    bool bounds = !profile_is_short(profile);
    printf("%10s %5.1f%% %10s %10s %10s %8ju  ", amount_of_estimate(figures->bytes).text,
           total > 0 ? 100 * figures->bytes / total : 0, bounds ? amount_of_estimate(interval.low).text : "-",
           bounds ? amount_of_estimate(interval.high).text : "-", number_of_estimate(figures->objects).text,
           (uintmax_t)figures->samples);
    if (choice.by == BY_STACK) {
        stack_print(profile, row->site, style);
    } else {
        name_print(row->name, choice.by == BY_FUNCTION && !style->full ? style->width - style->indent : 0);
        putchar('\n');
    }
}

static void total_print(const struct profile *profile)
{
    const struct estimate *total = choice.allocated ? &profile->allocated : &profile->live;
    struct interval interval = estimate_interval(total, profile_mean(profile));
    bool is_short = profile_is_short(profile);
    printf("\n%s %s", amount_of_estimate(total->bytes).text, choice.allocated ? "allocated since the start" : "live");
    if (is_short)
        printf(" in what could be read");
    else
        printf(", between %s and %s", amount_of_estimate(interval.low).text, amount_of_estimate(interval.high).text);
    printf(", by %ju %s", (uintmax_t)total->samples, total->samples == 1 ? "sample" : "samples");
    if (profile->samples.sample_bytes)
        printf(", one in %s", amount_of(profile->samples.sample_bytes).text);
    if (profile->samples.longest_mean > profile->samples.sample_bytes)
        printf(", at times one in %s", amount_of(profile->samples.longest_mean).text);
    if (!choice.allocated)
        printf("; with what sizes are rounded up by %s", amount_of_estimate(total->given).text);
    const bool all = profile->samples.sample_bytes && !profile->samples.gaps;
    puts("");
    if (!is_short)
        printf("(each true number%s lies between LOW and HIGH 95 times in 100)\n",
               all ? "" : ", without what was allocated while sampling was off,");
}

void top_run(const struct request *request)
{
    static const char *const what[] = {"CALL STACK, the innermost function first", "FUNCTION", "CACHE"};
    struct profile *profile = profile_open(request->target);
    profile_look(profile, choice.allocated);
    struct rows rows = {0};
    rows_fill(&rows, profile);
    if (rows.count)
        qsort(rows.list, rows.count, sizeof *rows.list, order);
    uint64_t most = choice.lines ? choice.lines : choice.by == BY_STACK ? LINES_USUAL_STACKS : LINES_USUAL;
    struct stack_style style = {FIGURE_COLUMNS, terminal_width(), choice.full};
    printf("%10s %6s %10s %10s %10s %8s  %s\n", choice.allocated ? "ALLOCATED" : "LIVE", "SHARE", "LOW", "HIGH",
           "OBJECTS", "SAMPLES", what[choice.by]);
    double total = choice.allocated ? profile->allocated.bytes : profile->live.bytes;
    for (size_t i = 0; i < rows.count && i < most; i++)
        row_print(profile, &rows.list[i], total, &style);
    if (rows.count > most)
        printf("(%zu more)\n", rows.count - most);
    total_print(profile);
    struct notes notes;
    profile_notes(profile, &notes);
    for (unsigned i = 0; i < notes.count; i++)
        printf("note: %s\n", notes.text[i]);
    profile_short_say(profile);
    rows_free(&rows);
    profile_close(profile);
}
