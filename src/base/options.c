/* The parser of options, and what it says; see options.h. It runs before main and inside malloc: no memory, no stdio.
 * The table has no pointers, so that it lies with the messages, which no process reads that sets nothing. */
#include "base/options.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/panic.h"

#define STANDARD_NUMBER(builds, name, standard, least, most, example, sentence) .name = (standard),
#define STANDARD_TEXT(builds, name, size, example, sentence) .name = "",
struct slm_options slm_options = {SLM_OPTIONS(STANDARD_NUMBER, STANDARD_TEXT)};

enum builds { EVERY, CHECKED, BENCH };

enum { name_size = 24, piece_most = 64 };

struct option {
    uint16_t field, size; /* where in struct slm_options; the size of a text with its end, 0: a number */
    uint8_t builds;
    uint64_t standard, least, most;
    char name[name_size], example[16], sentence[112];
};

#define ROW(builds, name, size, standard, least, most, example, sentence)                                            \
    {offsetof(struct slm_options, name), size, builds, standard, least, most, #name, example, sentence},
#define NUMBER_ROW(builds, name, standard, least, most, example, sentence)                                           \
    ROW(builds, name, 0, standard, least, most, example, sentence)
#define TEXT_ROW(builds, name, size, example, sentence) ROW(builds, name, size, 0, 0, 0, example, sentence)
static const struct option table[] = {SLM_OPTIONS(NUMBER_ROW, TEXT_ROW)};

enum { options_count = sizeof table / sizeof table[0] };

/* What is between two points: an option as it was given, or a part of it. */
struct piece {
    const char *from, *end;
};

static slm_seldom bool is_here(const struct option *option)
{
    return option->builds == EVERY || (option->builds == CHECKED && slm_checked) ||
           (option->builds == BENCH && slm_bench);
}

static slm_seldom uint64_t *number_of(const struct option *option)
{
    return (uint64_t *)((char *)&slm_options + option->field);
}

static slm_seldom char *text_of(const struct option *option)
{
    return (char *)&slm_options + option->field;
}

/* "slabmalloc: option PIECE: ", on one line whatever is in the piece. */
static slm_seldom void begin_line(struct slm_line *line, struct piece piece)
{
    char shown[piece_most + 1];
    const size_t length = (size_t)(piece.end - piece.from);
    const size_t most = slm_min(length, piece_most);
    for (size_t i = 0; i < most; i++)
        shown[i] = piece.from[i] >= 0 && piece.from[i] < ' ' ? '?' : piece.from[i];
    shown[most] = 0;
    slm_line_text(line, "slabmalloc: option ");
    slm_line_text(line, shown);
    slm_line_text(line, length > most ? "...: " : ": ");
}

static slm_seldom void add_range(struct slm_line *line, const struct option *option)
{
    if (option->size > 0) {
        slm_line_text(line, "up to ");
        slm_line_number(line, option->size - 1);
        slm_line_text(line, " bytes");
        return;
    }
    slm_line_number(line, option->least);
    slm_line_text(line, " to ");
    slm_line_number(line, option->most);
}

/* The value that stays: another than the default if the option was given before. */
static slm_seldom void add_value(struct slm_line *line, const struct option *option)
{
    if (option->size == 0)
        slm_line_number(line, *number_of(option));
    else
        slm_line_text(line, *text_of(option) ? text_of(option) : "none");
}

static slm_seldom void refuse(const struct option *option, struct piece given, const char *why)
{
    struct slm_line line = {0};
    begin_line(&line, given);
    slm_line_text(&line, why);
    slm_line_text(&line, " (");
    add_range(&line, option);
    slm_line_text(&line, ", as in ");
    slm_line_text(&line, option->example);
    slm_line_text(&line, "); using ");
    add_value(&line, option);
    slm_line_write(&line, STDERR_FILENO);
}

static slm_seldom unsigned shift_of(char letter)
{
    return letter == 'K' || letter == 'k'   ? 10
           : letter == 'M' || letter == 'm' ? 20
           : letter == 'G' || letter == 'g' ? 30
                                            : 0;
}

/* The number, with an optional K, M or G; or what is wrong with it. */
static slm_seldom const char *read_number(const struct option *option, struct piece value, uint64_t *number)
{
    const bool negative = value.from < value.end && *value.from == '-';
    const char *const first = value.from + negative, *digit = first;
    bool fits = true;
    *number = 0;
    for (; digit < value.end && *digit >= '0' && *digit <= '9'; digit++)
        fits = fits && !__builtin_mul_overflow(*number, 10, number) &&
               !__builtin_add_overflow(*number, (uint64_t)(*digit - '0'), number);
    const bool digits = digit > first;
    const unsigned shift = digits && value.end - digit == 1 ? shift_of(*digit) : 0;
    fits = fits && *number <= UINT64_MAX >> shift;
    *number <<= shift;
    if (!digits || digit + (shift > 0) != value.end)
        return "not a number";
    if (negative)
        return "negative";
    if (fits && *number < option->least)
        return "too small";
    return fits && *number <= option->most ? NULL : "too large";
}

/* NULL, or what is wrong with the value. */
static slm_seldom const char *set_option(const struct option *option, struct piece value)
{
    const size_t length = (size_t)(value.end - value.from);
    uint64_t number;
    if (length == 0)
        return "no value";
    if (option->size > 0) {
        if (length >= option->size)
            return "too long";
        memcpy(text_of(option), value.from, length);
        text_of(option)[length] = 0;
        return NULL;
    }
    const char *wrong = read_number(option, value, &number);
    if (!wrong)
        *number_of(option) = number;
    return wrong;
}

static slm_seldom char small(char letter)
{
    return letter >= 'A' && letter <= 'Z' ? (char)(letter | 0x20) : letter;
}

/* How many letters of `given` have to be added, left out or changed to get the name; one, where they begin it. */
static slm_seldom unsigned distance(const char *name, struct piece given)
{
    enum { enough_to_begin = 4 };
    uint8_t row[name_size]; /* from the first letters of `given` to the first i of the name */
    const size_t length = (size_t)(given.end - given.from), name_length = strlen(name);
    if (length >= enough_to_begin && strncmp(name, given.from, length) == 0)
        return 1;
    for (size_t i = 0; i <= name_length; i++)
        row[i] = (uint8_t)i;
    for (size_t at = 0; at < length; at++) {
        uint8_t diagonal = row[0];
        row[0] = (uint8_t)(at + 1);
        for (size_t i = 1; i <= name_length; i++) {
            const uint8_t changed = diagonal + (small(given.from[at]) != name[i - 1]);
            const uint8_t one_more = (uint8_t)(slm_min(row[i], row[i - 1]) + 1);
            diagonal = row[i];
            row[i] = (uint8_t)slm_min(changed, one_more);
        }
    }
    return row[name_length];
}

/* The option that was meant, if one is near: at most three letters are wrong, and no more than half of them. */
static slm_seldom const struct option *nearest(struct piece name)
{
    const size_t length = (size_t)(name.end - name.from);
    const struct option *near = NULL;
    unsigned least = length < 2 * name_size ? (unsigned)slm_min(length / 2, 3) + 1 : 0;
    for (size_t i = 0; i < options_count; i++) {
        const unsigned far = is_here(&table[i]) && least > 0 ? distance(table[i].name, name) : least;
        if (far >= least)
            continue;
        least = far;
        near = &table[i];
    }
    return near;
}

static slm_seldom void refuse_name(struct piece name, struct piece given)
{
    const struct option *near = nearest(name);
    struct slm_line line = {0};
    begin_line(&line, name.from < name.end ? name : given);
    slm_line_text(&line, "no such option");
    if (near) {
        slm_line_text(&line, ", did you mean ");
        slm_line_text(&line, near->name);
        slm_line_text(&line, "?");
    }
    slm_line_text(&line, " (help=1 lists all)");
    slm_line_write(&line, STDERR_FILENO);
}

static slm_seldom void refuse_build(const struct option *option, struct piece name)
{
    struct slm_line line = {0};
    begin_line(&line, name);
    slm_line_text(&line, option->builds == CHECKED ? "only in checked builds; ignored"
                                                   : "only in the bench's builds; ignored");
    slm_line_write(&line, STDERR_FILENO);
}

static slm_seldom void parse_one(struct piece given)
{
    const char *equals = memchr(given.from, '=', (size_t)(given.end - given.from));
    const struct piece name = {given.from, equals ? equals : given.end};
    const struct piece value = {equals ? equals + 1 : given.end, given.end};
    const size_t length = (size_t)(name.end - name.from);
    for (size_t i = 0; i < options_count; i++) {
        if (strlen(table[i].name) != length || memcmp(table[i].name, name.from, length) != 0)
            continue;
        const char *wrong = is_here(&table[i]) ? set_option(&table[i], value) : NULL;
        if (!is_here(&table[i]))
            refuse_build(&table[i], name);
        else if (wrong)
            refuse(&table[i], given, wrong);
        return;
    }
    refuse_name(name, given);
}

slm_seldom void slm_options_parse(const char *text)
{
    while (text && *text) {
        const char *end = text + strcspn(text, ",");
        if (end > text)
            parse_one((struct piece){text, end});
        text = *end ? end + 1 : end;
    }
}

slm_seldom void slm_options_read(void)
{
    slm_always_read static const char variable[] = "SLABMALLOC_OPTIONS";
    slm_options_parse(secure_getenv(variable));
    if (slm_options.help)
        slm_options_help(STDERR_FILENO);
}

slm_seldom void slm_options_help(int descriptor)
{
    for (size_t i = 0; i < options_count; i++) {
        struct slm_line line = {0};
        if (!is_here(&table[i]))
            continue;
        slm_line_text(&line, "| `");
        slm_line_text(&line, table[i].name);
        slm_line_text(&line, "` | ");
        if (table[i].size > 0)
            slm_line_text(&line, "none");
        else
            slm_line_number(&line, table[i].standard);
        slm_line_text(&line, " | ");
        add_range(&line, &table[i]);
        slm_line_text(&line, " | `");
        slm_line_text(&line, table[i].example);
        slm_line_text(&line, "` | ");
        slm_line_text(&line, table[i].sentence);
        slm_line_text(&line, " |");
        slm_line_write(&line, descriptor);
    }
}
