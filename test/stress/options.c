/* Parsing command lines, with the C library's argp; see options.h. */
#include "options.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "at_work.h"

struct options options;

enum kind { FLAG, WORD, WHOLE /* a number */, DECIMAL };

enum { SCALED = 1u << 0, ALWAYS = 0 /* known to all programs */ };

#define SCALE_NAME "SLABMALLOC_TEST_SCALE"
#define SCALE_MOST 1000.0
#define MOST_ADDS ((uint64_t)INT64_MAX / 4) /* counted down in a signed number */

static const struct row {
    const char *name, *argument, *help;
    unsigned known_by; /* one of KNOWS_... */
    enum kind kind;
    unsigned flags;
    size_t at; /* in struct options */
    uint64_t least, most;
} rows[] = {
    {"seconds", "S", "work for so many seconds at least", ALWAYS, DECIMAL, SCALED, offsetof(struct options, seconds),
     0, 1000000},
    {"threads", "N", "so many threads at a time", ALWAYS, WHOLE, 0, offsetof(struct options, threads), 1,
     MAX_THREADS},
    {"seed", "X", "where all random numbers come from; a new one each time unless given", ALWAYS, WHOLE, 0,
     offsetof(struct options, seed), 0, UINT64_MAX},
    {"adds", "N", "what threads add in all; handlers come on top", KNOWS_ADDS, WHOLE, SCALED,
     offsetof(struct options, adds), 1, MOST_ADDS},
    {"children", "N", "so many children are forked", KNOWS_CHILDREN, WHOLE, SCALED,
     offsetof(struct options, children), 1, 100000000},
    {"retires", "N", "so many objects are retired", KNOWS_RETIRES, WHOLE, SCALED, offsetof(struct options, retires),
     1000, 1000000000000},
    {"forks", NULL, "the process forks all the time", KNOWS_FORKS, FLAG, 0, offsetof(struct options, forks), 0, 0},
    {"only", "VARIANT", "this variant of the mode alone", KNOWS_ONLY, WORD, 0, offsetof(struct options, only), 0, 0},
    {"membarrier", "WHEN",
     "never: the kernel does not know membarrier(2), from before the program's start; until-half: a filter takes it "
     "away in the middle",
     KNOWS_MEMBARRIER, WORD, 0, offsetof(struct options, membarrier), 0, 0},
    {"atomics", NULL, "the C library does not register restartable sequences", KNOWS_ATOMICS, FLAG, 0,
     offsetof(struct options, atomics), 0, 0},
    {"largest", "BYTES", "the largest object", KNOWS_SIZES, WHOLE, 0, offsetof(struct options, largest), 1, 1 << 30},
    {"align", "BYTES", "what objects must be aligned to; 8 for allocators that do no more", KNOWS_SIZES, WHOLE, 0,
     offsetof(struct options, align), 1, 4096},
    {"until-found", NULL, "go on until something wrong is found", KNOWS_UNTIL_FOUND, FLAG, 0,
     offsetof(struct options, until_found), 0, 0},
};

enum { MOST_MODES = 8, FIRST_ROW = 256, FIRST_MODE = 512, HELP_BYTES = 200 };

static const struct program *program;
static const struct mode *wanted;
static double scale = 1;

static bool is_known(const struct row *row)
{
    return row->known_by == ALWAYS || (row->known_by & program->knows) != 0;
}

static uint64_t least_of(const struct row *row)
{
    return row->at == offsetof(struct options, threads) ? program->least_threads : row->least;
}

static void *value_of(const struct row *row)
{
    return (char *)&options + row->at;
}

/* -- values ------------------------------------------------------------------------------------------------------ */

/* All of the text is a decimal number. */
static bool read_decimal(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == 0 && isfinite(*value);
}

/* Digits alone: strtoull would take a sign. */
static bool read_whole(const char *text, uint64_t *value)
{
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0 && *text != 0 && text[strspn(text, "0123456789")] == 0;
}

static bool set_number(const struct row *row, const char *text)
{
    if (row->kind == DECIMAL) {
        double *value = value_of(row);
        return read_decimal(text, value) && *value >= (double)least_of(row) && *value <= (double)row->most;
    }
    uint64_t *value = value_of(row);
    return read_whole(text, value) && *value >= least_of(row) && *value <= row->most;
}

static void set(const struct row *row, const char *text, const struct argp_state *state)
{
    if (row->kind == FLAG)
        *(bool *)value_of(row) = true;
    else if (row->kind == WORD)
        *(const char **)value_of(row) = text;
    else if (!set_number(row, text))
        argp_failure(state, FOUND_USAGE, 0, "--%s: '%s' is no %snumber from %" PRIu64 " to %" PRIu64, row->name, text,
                     row->kind == WHOLE ? "whole " : "", least_of(row), row->most);
    const bool membarrier = row->at == offsetof(struct options, membarrier);
    if (membarrier && strcmp(text, "never") != 0 && strcmp(text, "until-half") != 0)
        argp_failure(state, FOUND_USAGE, 0, "--%s: '%s' is neither never nor until-half", row->name, text);
}

static void scale_one(const struct row *row)
{
    if (row->kind == DECIMAL) {
        *(double *)value_of(row) *= scale;
        return;
    }
    uint64_t *number = value_of(row);
    const double scaled = (double)*number * scale;
    if (scale != 1)
        *number = scaled < (double)row->least  ? row->least
                  : scaled > (double)row->most ? row->most
                                               : (uint64_t)scaled;
}

static void read_scale(const struct argp_state *state)
{
    const char *text = getenv(SCALE_NAME);
    if (text != NULL && (!read_decimal(text, &scale) || scale <= 0 || scale > SCALE_MOST))
        argp_failure(state, FOUND_USAGE, 0, "%s: '%s' is no factor above 0 and up to %g", SCALE_NAME, text,
                     SCALE_MOST);
}

/* All words have been read. */
static void finish(const struct argp_state *state)
{
    if (program->modes != NULL && wanted == NULL)
        argp_failure(state, FOUND_USAGE, 0, "no mode is given (--help lists them)");
    read_scale(state);
    for (size_t i = 0; i < COUNT(rows); i++)
        if (rows[i].flags & SCALED)
            scale_one(&rows[i]);
    if (options.until_found) {
        options.seconds = INFINITY;
        options.adds = MOST_ADDS;
    }
}

/* -- help -------------------------------------------------------------------------------------------------------- */

static void say_range(const struct row *row, char help[HELP_BYTES])
{
    if (row->kind == FLAG || row->kind == WORD || row->at == offsetof(struct options, seed))
        snprintf(help, HELP_BYTES, "%s", row->help);
    else if (row->kind == DECIMAL)
        snprintf(help, HELP_BYTES, "%s, %" PRIu64 " to %" PRIu64 " (%g)", row->help, least_of(row), row->most,
                 *(double *)value_of(row));
    else
        snprintf(help, HELP_BYTES, "%s, %" PRIu64 " to %" PRIu64 " (%" PRIu64 ")", row->help, least_of(row),
                 row->most, *(uint64_t *)value_of(row));
}

static const char ends[] =
    "\vIn brackets: what holds unless it is given. " SCALE_NAME " in the environment, a factor above 0, multiplies "
    "--seconds, --adds, --children and --retires.\n\n"
    "A run is over when that much is done and everything that the mode is about has happened. It has no limit of its "
    "own: ended by SIGTERM, it says what each thread was doing. What is wrong is one line on standard error. The "
    "exit "
    "status is 0: nothing wrong, 1: something is wrong, 2: the command line, 3: memory was reused, overwritten or "
    "gone while somebody could hold it, 4: something was lost, 5: ended by SIGTERM.";

/* Modes first, then what the program knows. */
static void list_options(struct argp_option all[], char help[][HELP_BYTES])
{
    unsigned count = 0;
    if (program->modes != NULL)
        all[count++] = (struct argp_option){.doc = "Modes, of which one is given:", .group = 1};
    for (const struct mode *mode = program->modes; mode != NULL && mode->name != NULL; mode++)
        all[count++] = (struct argp_option){
            .name = mode->name, .key = FIRST_MODE + (int)(mode - program->modes), .doc = mode->help, .group = 1};
    all[count++] = (struct argp_option){.doc = "Options:", .group = 2};
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (!is_known(&rows[i]))
            continue;
        say_range(&rows[i], help[i]);
        all[count++] = (struct argp_option){
            .name = rows[i].name, .key = FIRST_ROW + (int)i, .arg = rows[i].argument, .doc = help[i], .group = 2};
    }
    all[count] = (struct argp_option){.name = NULL};
}

/* -- parsing ----------------------------------------------------------------------------------------------------- */

static error_t parse_one(int key, char *text, struct argp_state *state)
{
    if (key >= FIRST_MODE && key < FIRST_MODE + MOST_MODES)
        wanted = &program->modes[key - FIRST_MODE];
    else if (key >= FIRST_ROW && key < FIRST_ROW + (int)COUNT(rows))
        set(&rows[key - FIRST_ROW], text, state);
    else if (key == ARGP_KEY_END)
        finish(state);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

const struct mode *parse_options(const struct program *which, int count, char **words)
{
    static struct argp_option all[MOST_MODES + COUNT(rows) + 3];
    static char help[COUNT(rows)][HELP_BYTES], about[1024];
    program = which;
    options.words = words;
    options.seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid();
    snprintf(about, sizeof about, "%s%s", program->about, ends);
    list_options(all, help);
    const struct argp argp = {.options = all, .parser = parse_one, .doc = about};
    argp_err_exit_status = FOUND_USAGE;
    argp_parse(&argp, count, words, 0, NULL, NULL);
    return wanted;
}
