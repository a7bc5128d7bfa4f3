/* The parser of options, and its messages; see options.h. It runs before main and inside malloc: no memory, no stdio.
 * The table has no pointers: so it lies with the messages, which a process without options never touches. */
#include "base/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/panic.h"

#define DEFAULT_NUMBER(builds, name, standard, least, most, example, sentence) .name = (standard),
#define DEFAULT_TEXT(builds, name, size, example, sentence) .name = "",
slm_once struct slm_options slm_options = {SLM_OPTIONS(DEFAULT_NUMBER, SLM_NO_NUMBER, DEFAULT_TEXT)};
struct slm_settings slm_settings = {SLM_OPTIONS(SLM_NO_NUMBER, DEFAULT_NUMBER, SLM_NO_TEXT)};

enum builds { EVERY, CHECKED, BENCH };

enum { name_size = 24, shown_most = 64 };

struct option {
    uint16_t field, size; /* offset in its struct; size of a text with its NUL, 0: a number */
    uint8_t builds;
    bool changes; /* its struct is slm_settings */
    uint64_t standard, least, most;
    char name[name_size], example[16], sentence[112];
};

#define TEXT_ROW(builds, name, size, example, sentence)                                                              \
    {offsetof(struct slm_options, name), size, builds, false, 0, 0, 0, #name, example, sentence},
#define NUMBER_ROW(builds, name, standard, least, most, example, sentence)                                           \
    {offsetof(struct slm_options, name), 0, builds, false, standard, least, most, #name, example, sentence},
#define SETTING_ROW(builds, name, standard, least, most, example, sentence)                                          \
    {offsetof(struct slm_settings, name), 0, builds, true, standard, least, most, #name, example, sentence},
static const struct option table[] = {SLM_OPTIONS(NUMBER_ROW, SETTING_ROW, TEXT_ROW)};

#define TEXT_FITS(builds, name, size, example_text, sentence_text)                                                   \
    static_assert(sizeof #name <= name_size && sizeof(example_text) <= sizeof table->example &&                      \
                      sizeof(sentence_text) <= sizeof table->sentence,                                               \
                  "the row of " #name " fits into struct option");
#define NUMBER_FITS(builds, name, standard, least, most, example, sentence)                                          \
    static_assert((least) <= (standard) && (standard) <= (most), "the default of " #name " is in its range");        \
    TEXT_FITS(builds, name, 0, example, sentence)
SLM_OPTIONS(NUMBER_FITS, NUMBER_FITS, TEXT_FITS)

#define TABLE_END (table + sizeof table / sizeof table[0])

/* A substring: an option as it was given, or a part of it. */
struct piece {
    const char *from, *end;
};

static slm_seldom bool is_here(const struct option *option)
{
    return option->builds == EVERY || (option->builds == CHECKED && slm_checked) ||
           (option->builds == BENCH && slm_bench);
}

static slm_seldom char *text_of(const struct option *option)
{
    return (char *)&slm_options + option->field;
}

static slm_seldom uint64_t number_of(const struct option *option)
{
    const char *base = option->changes ? (const char *)&slm_settings : (const char *)&slm_options;
    return load_relaxed((const _Atomic uint64_t *)(const void *)(base + option->field));
}

static slm_seldom void set_number(const struct option *option, uint64_t number)
{
    char *base = option->changes ? (char *)&slm_settings : (char *)&slm_options;
    store_relaxed((_Atomic uint64_t *)(void *)(base + option->field), number);
}

static slm_seldom void add_value(struct slm_line *line, const struct option *option)
{
    if (option->size > 0)
        slm_line_text(line, text_of(option));
    else
        slm_line_number(line, number_of(option));
}

/* "slabmalloc: option PIECE: ", on one line even if the piece has control characters. */
static slm_seldom void begin_line(struct slm_line *line, struct piece piece)
{
    char shown[shown_most + 1] = {0};
    const size_t length = (size_t)(piece.end - piece.from);
    for (size_t i = 0; i < slm_min(length, shown_most); i++)
        shown[i] = piece.from[i] >= 0 && piece.from[i] < ' ' ? '?' : piece.from[i];
    slm_line_add(line, "slabmalloc: option %s%s: ", shown, length > shown_most ? "..." : "");
}

static slm_seldom void add_range(struct slm_line *line, const struct option *option)
{
    if (option->size > 0)
        slm_line_add(line, "up to %u bytes", option->size - 1u);
    else
        slm_line_add(line, "%lu to %lu", option->least, option->most);
}

/* NULL and the number, which may end in K, M or G; or what is wrong with it. */
static slm_seldom const char *read_number(const struct option *option, struct piece value, uint64_t *number)
{
    static const char letters[] = "KkMmGg";
    const bool negative = *value.from == '-';
    const char *const first = value.from + negative, *digit = first;
    bool fits = true;
    *number = 0;
    for (; digit < value.end && *digit >= '0' && *digit <= '9'; digit++)
        fits = fits && !__builtin_mul_overflow(*number, 10, number) &&
               !__builtin_add_overflow(*number, (uint64_t)(*digit - '0'), number);
    const bool digits = digit > first;
    const char *letter = value.end - digit == 1 ? memchr(letters, *digit, sizeof letters - 1) : NULL;
    const unsigned shift = letter ? (unsigned)(letter - letters) / 2 * 10 + 10 : 0;
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
    if (option->size == 0) {
        const char *wrong = read_number(option, value, &number);
        if (!wrong)
            set_number(option, number);
        return wrong;
    }
    if (length >= option->size)
        return "too long";
    memcpy(text_of(option), value.from, length);
    text_of(option)[length] = 0;
    return NULL;
}

/* The edit distance of `given` and the name, in letters of either case; 1 where `given` is the name's beginning. */
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
        const char big = given.from[at], letter = big >= 'A' && big <= 'Z' ? (char)(big | 0x20) : big;
        uint8_t diagonal = row[0];
        row[0] = (uint8_t)(at + 1);
        for (size_t i = 1; i <= name_length; i++) {
            const uint8_t changed = diagonal + (letter != name[i - 1]);
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
    for (const struct option *option = table; option < TABLE_END; option++) {
        const unsigned far = is_here(option) && least > 0 ? distance(option->name, name) : least;
        near = far < least ? option : near;
        least = (unsigned)slm_min(far, least);
    }
    return near;
}

static slm_seldom const struct option *find(struct piece name)
{
    const size_t length = (size_t)(name.end - name.from);
    for (const struct option *option = table; option < TABLE_END; option++)
        if (strlen(option->name) == length && memcmp(option->name, name.from, length) == 0)
            return option;
    return NULL;
}

static slm_seldom void refuse_name(struct slm_line *line, struct piece name, struct piece given)
{
    const struct option *near = nearest(name);
    begin_line(line, name.from < name.end ? name : given);
    slm_line_text(line, "no such option");
    if (near)
        slm_line_add(line, ", did you mean %s?", near->name);
    slm_line_text(line, " (help=1 lists all)");
}

/* The value that stays is not the default if the option was given before. */
static slm_seldom void refuse_value(struct slm_line *line, const struct option *option, struct piece given,
                                    const char *wrong)
{
    begin_line(line, given);
    slm_line_add(line, "%s (", wrong);
    add_range(line, option);
    slm_line_add(line, ", as in %s); using ", option->example);
    if (option->size > 0 && !*text_of(option))
        slm_line_text(line, "none");
    else
        add_value(line, option);
}

static slm_seldom void parse_one(struct piece given)
{
    const char *equals = memchr(given.from, '=', (size_t)(given.end - given.from));
    const struct piece name = {given.from, equals ? equals : given.end};
    const struct piece value = {equals ? equals + 1 : given.end, given.end};
    const struct option *option = find(name);
    struct slm_line line = {0};
    if (!option) {
        refuse_name(&line, name, given);
    } else if (!is_here(option)) {
        begin_line(&line, name);
        slm_line_add(&line, "only in %s builds; ignored", option->builds == CHECKED ? "checked" : "the bench's");
    } else {
        const char *wrong = set_option(option, value);
        if (!wrong)
            return;
        refuse_value(&line, option, given, wrong);
    }
    slm_line_write(&line, STDERR_FILENO);
}

slm_cold void slm_options_parse(const char *text)
{
    while (text && *text) {
        const char *end = text + strcspn(text, ",");
        if (end > text)
            parse_one((struct piece){text, end});
        text = *end ? end + 1 : end;
    }
}

slm_cold void slm_options_read(void)
{
    slm_always_read static const char variable[] = "SLABMALLOC_OPTIONS";
    slm_options_parse(secure_getenv(variable));
    if (slm_options.help)
        slm_options_help(STDERR_FILENO);
}

/* 0 or an errno code; the line becomes the answer. */
static slm_seldom int command(struct slm_line *line, struct piece name, const char *value, const char *end)
{
    const struct option *option = find(name);
    if (!option || !is_here(option))
        return ENOENT;
    if (value && !option->changes)
        return EPERM;
    const char *wrong = value ? set_option(option, (struct piece){value, end}) : NULL;
    if (wrong) {
        slm_line_add(line, "%s (", wrong);
        add_range(line, option);
        slm_line_text(line, ")");
        return EINVAL;
    }
    slm_line_add(line, "%s=", option->name);
    add_value(line, option);
    return 0;
}

slm_seldom int slm_options_command(char *text, size_t size)
{
    struct slm_line line = {0};
    const char *end = text + strnlen(text, size), *equals = memchr(text, '=', (size_t)(end - text));
    const int error = command(&line, (struct piece){text, equals ? equals : end}, equals ? equals + 1 : NULL, end);
    const size_t length = slm_min(line.length, size - 1);
    memcpy(text, line.text, length);
    memset(text + length, 0, size - length);
    return error;
}

slm_seldom void slm_options_help(int descriptor)
{
    for (const struct option *option = table; option < TABLE_END; option++) {
        struct slm_line line = {0};
        if (!is_here(option))
            continue;
        slm_line_add(&line, "| `%s` | ", option->name);
        if (option->size > 0)
            slm_line_text(&line, "none");
        else
            slm_line_number(&line, option->standard);
        slm_line_text(&line, " | ");
        add_range(&line, option);
        slm_line_add(&line, " | `%s` | %s |", option->example, option->sentence);
        slm_line_write(&line, descriptor);
    }
}
