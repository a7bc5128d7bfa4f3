/* The table of options and its parser; see options.h. It runs before main and inside malloc: no memory, no stdio. */
#include "base/options.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"

struct slm_options slm_options = {
    .magazine_bytes = 64 << 10,
    .thread_bytes = 1 << 20,
    .depot_bytes = 2 << 20,
    .purge_delay_ms = 500,
    .dirty_bytes = 32 << 20,
    .deferred_max_delay_ms = 100,
    .epoch_stall_ms = 10000,
    .worker = 1,
};

struct option {
    const char *name;
    uint64_t *number; /* a number, or ... */
    char *text;       /* ... a text of up to `most` bytes with its end */
    uint64_t least, most;
    const char *shown; /* the default, as the help prints it */
    const char *sentence;
};

#define NUMBER(field, least, most, shown, sentence)                                                                  \
    {                                                                                                                \
#field, &slm_options.field, NULL, least, most, shown, sentence                                               \
    }
#define TEXT(field, shown, sentence)                                                                                 \
    {                                                                                                                \
#field, NULL, slm_options.field, 0, sizeof slm_options.field, shown, sentence                                \
    }

static const struct option table[] = {
    NUMBER(magazine_bytes, 256, 16 << 20, "65536", "The most bytes of objects that one magazine of a thread holds."),
    NUMBER(thread_bytes, 4096, 1 << 30, "1048576",
           "The most bytes of objects that the magazines of one thread may hold."),
    NUMBER(depot_bytes, 0, 1ull << 40, "2097152",
           "The most bytes of free objects that a depot keeps in full magazines."),
    NUMBER(purge_delay_ms, 0, 3600000, "500",
           "Freed pages that nobody needed for this many milliseconds go back to the kernel."),
    NUMBER(dirty_bytes, 0, 1ull << 40, "33554432",
           "Freed pages above this or a quarter of the heap go back at once."),
    NUMBER(deferred_max_delay_ms, 10, 3600000, "100",
           "Retired objects wait no longer than this in a magazine that does not fill up."),
    NUMBER(deferred_max_bytes, 0, 1ull << 40, "0",
           "The most bytes of retired objects that wait for a grace period; 0: a sixteenth of the heap, at least 8 "
           "MiB."),
    NUMBER(epoch_stall_ms, 0, 3600000, "10000",
           "Threads that stay in an epoch section longer while others wait are named on standard error; 0: never."),
    NUMBER(worker, 0, 1, "1", "A worker thread gives memory back in multithreaded processes that have gone idle."),
    NUMBER(percpu_cid, 0, 1, "0",
           "Per-CPU copies go by the kernel's concurrency ids, where it has them, instead of CPUs: few threads use "
           "few."),
    NUMBER(stats, 0, 1, "0", "Print figures on standard error when the process exits."),
    TEXT(stats_file, "none", "Append the figures to this file when the process exits, a line of JSON a process."),
    TEXT(topology, "none",
         "Checked builds only: simulate NODESxCPUS, as in 2x2; 2x2/9: threads move at each 9th look."),
#ifdef SLM_CHECKED
    NUMBER(refuse_blocks, 0, 1, "0", "Checked builds only: there is no memory for magazines of retired objects."),
#endif
#ifdef SLM_BENCH
    TEXT(grow, "lockless", "Bench builds only: locked makes slabs under the depot's lock, lockless does not."),
#endif
    NUMBER(help, 0, 1, "0", "Print this table on standard error at start."),
};

enum { options_count = sizeof table / sizeof table[0] };

static slm_seldom void refuse(const char *what, const char *from, size_t length)
{
    char piece[64];
    length = length < sizeof piece - 1 ? length : sizeof piece - 1;
    memcpy(piece, from, length);
    piece[length] = 0;
    slm_warn(what, piece);
}

/* The number at `from`, with an optional K, M or G; false unless that is all there is and it lies in range. */
static slm_seldom bool read_number(const struct option *option, const char *from, const char *end, uint64_t *number)
{
    uint64_t value = 0;
    const char *digit = from;
    for (; digit < end && *digit >= '0' && *digit <= '9'; digit++) {
        if (value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*digit - '0');
    }
    if (digit == from)
        return false;
    if (end - digit == 1) {
        unsigned shift = *digit == 'K' ? 10 : *digit == 'M' ? 20 : *digit == 'G' ? 30 : 0;
        if (shift == 0 || value > UINT64_MAX >> shift)
            return false;
        value <<= shift;
        digit++;
    }
    *number = value;
    return digit == end && value >= option->least && value <= option->most;
}

static slm_seldom bool set_option(const struct option *option, const char *from, const char *end)
{
    uint64_t number;
    if (option->text) {
        size_t length = (size_t)(end - from);
        if (length == 0 || length >= option->most)
            return false;
        memcpy(option->text, from, length);
        option->text[length] = 0;
        return true;
    }
    if (!read_number(option, from, end, &number))
        return false;
    *option->number = number;
    return true;
}

static slm_seldom void parse_one(const char *from, const char *end)
{
    const char *equals = memchr(from, '=', (size_t)(end - from));
    size_t length = equals ? (size_t)(equals - from) : (size_t)(end - from);
    for (size_t i = 0; i < options_count; i++) {
        if (strlen(table[i].name) != length || memcmp(table[i].name, from, length) != 0)
            continue;
        if (!equals || !set_option(&table[i], equals + 1, end))
            refuse("bad value in SLABMALLOC_OPTIONS, default kept: ", from, (size_t)(end - from));
        return;
    }
    refuse("unknown option in SLABMALLOC_OPTIONS: ", from, (size_t)(end - from));
}

slm_seldom void slm_options_parse(const char *text)
{
    while (text && *text) {
        const char *end = text + strcspn(text, ",");
        if (end > text)
            parse_one(text, end);
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
        slm_line_text(&line, "| `");
        slm_line_text(&line, table[i].name);
        slm_line_text(&line, "` | ");
        slm_line_text(&line, table[i].shown);
        slm_line_text(&line, " | ");
        if (table[i].text) {
            slm_line_text(&line, "text");
        } else {
            slm_line_number(&line, table[i].least);
            slm_line_text(&line, " to ");
            slm_line_number(&line, table[i].most);
        }
        slm_line_text(&line, " | ");
        slm_line_text(&line, table[i].sentence);
        slm_line_text(&line, " |");
        slm_line_write(&line, descriptor);
    }
}
