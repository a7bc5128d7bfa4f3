/* Names as short as the terminal needs them. */
#include "stack_print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demangle.h"
#include "watch.h"

enum { WIDTH_USUAL = 120, WIDTH_LEAST = 60, WIDTH_MOST = 1000, FRAMES_SHOWN = 12, TEXT_MOST = 4096 };

unsigned terminal_width(void)
{
    const char *columns = getenv("COLUMNS");
    unsigned long width = columns ? strtoul(columns, NULL, 10) : 0;
    if (!width)
        width = output_columns();
    if (!width)
        width = WIDTH_USUAL;
    return width < WIDTH_LEAST ? WIDTH_LEAST : width > WIDTH_MOST ? WIDTH_MOST : (unsigned)width;
}

/* Returns how long it is. */
static size_t text_print(const char *text)
{
    char copy[TEXT_MOST + 1];
    snprintf(copy, sizeof copy, "%s", text);
    fputs(printable(copy), stdout);
    return strlen(copy);
}

static size_t name_write(const char *name, unsigned width)
{
    char text[TEXT_MOST + 1];
    if (!width)
        return text_print(name);
    name_shorten(name, text, width < TEXT_MOST ? width : TEXT_MOST);
    return text_print(text);
}

void name_print(const char *name, unsigned width)
{
    name_write(name, width);
}

/* "object.c:123" behind the name, if there is room; with the folders if all is wanted. */
static void where_print(const struct line *line, unsigned room, bool full)
{
    char text[TEXT_MOST];
    const char *slash = full ? NULL : strrchr(line->file, '/');
    if (!*line->file)
        return;
    int count = line->number ? snprintf(text, sizeof text, "  (%s:%d)", slash ? slash + 1 : line->file, line->number)
                             : snprintf(text, sizeof text, "  (%s)", slash ? slash + 1 : line->file);
    if (count > 0 && (full || (unsigned)count <= room))
        text_print(text);
}

/* `times`: so many frames in a row are there. */
static void line_print(const struct line *line, size_t times, const struct stack_style *style)
{
    unsigned room = style->width > style->indent + 20 ? style->width - style->indent : 20;
    size_t used = name_write(line->name, style->full ? 0 : room);
    where_print(line, used < room ? room - (unsigned)used : 0, style->full);
    if (times > 1)
        printf("  (%zu times)", times);
    putchar('\n');
}

static bool same_line(const struct line *a, const struct line *b)
{
    return a->name == b->name && a->file == b->file && a->number == b->number;
}

/* What calls main and the functions of threads: each stack ends with it. */
static bool is_start(const struct line *line)
{
    static const char *const names[] = {"__libc_start_call_main",
                                        "__libc_start_main",
                                        "__libc_start_main_impl",
                                        "_start",
                                        "start_thread",
                                        "clone3",
                                        "__clone3",
                                        "clone",
                                        "__clone"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(line->system_name, names[i]) == 0)
            return true;
    return false;
}

/* All lines of a stack, those of inlined functions too. */
static struct line *lines_of(struct profile *profile, const struct site *site, size_t *count)
{
    struct line *lines = NULL;
    size_t room = 0;
    *count = 0;
    for (size_t i = 0; i < site->depth; i++) {
        const struct place *place = symbols_at(profile->symbols, site->frames[i]);
        lines = array_grow(lines, &room, *count + place->count, sizeof *lines);
        memcpy(lines + *count, place->lines, place->count * sizeof *lines);
        *count += place->count;
    }
    return lines;
}

void stack_print(struct profile *profile, const struct site *site, const struct stack_style *style)
{
    size_t count, shown = 0, times;
    struct line *lines = lines_of(profile, site, &count);
    while (count > 1 && !style->full && is_start(&lines[count - 1]))
        count--;
    if (!count)
        puts("(no stack)");
    for (size_t i = 0; i < count; i += times, shown++) {
        if (shown)
            printf("%*s", (int)style->indent, "");
        if (shown == FRAMES_SHOWN && !style->full && i + 1 < count) {
            printf("... %zu more\n", count - i);
            break;
        }
        for (times = 1; i + times < count && same_line(&lines[i], &lines[i + times]); times++)
            ;
        line_print(&lines[i], times, style);
    }
    if (site->cut && count && (shown < FRAMES_SHOWN || style->full))
        printf("%*s... (what is known of the stack ends here)\n", (int)style->indent, "");
    free(lines);
}

const char *site_function(struct profile *profile, const struct site *site)
{
    return site->depth ? symbols_at(profile->symbols, site->frames[0])->lines[0].name : "(no stack)";
}

struct amount amount_of_estimate(double bytes)
{
    return amount_of(bytes > 0 ? (uint64_t)(bytes + 0.5) : 0);
}

struct amount number_of_estimate(double number)
{
    static const char units[] = "kMGTPE";
    struct amount amount;
    if (amount_exact || number < 99999.5) {
        snprintf(amount.text, sizeof amount.text, "%.0f", number);
        return amount;
    }
    unsigned unit = 0;
    for (number /= 1000; number >= 999.95 && units[unit + 1]; unit++)
        number /= 1000;
    snprintf(amount.text, sizeof amount.text, "%.1f%c", number, units[unit]);
    return amount;
}
