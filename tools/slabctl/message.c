/* One line on standard error. */
#include "message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

char *printable(char *text)
{
    mbstate_t state = {0};
    char *out = text, *end = text + strlen(text);
    for (const char *in = text; in < end;) {
        wchar_t letter;
        size_t length = mbrtowc(&letter, in, (size_t)(end - in), &state);
        if (length == (size_t)-1 || length == (size_t)-2 || !length || !iswprint((wint_t)letter)) {
            bool broken = length == (size_t)-1 || length == (size_t)-2 || !length;
            memset(&state, 0, sizeof state);
            in += broken ? 1 : length;
            *out++ = '?';
            continue;
        }
        memmove(out, in, length);
        in += length;
        out += length;
    }
    *out = '\0';
    return text;
}

static void line_write(const char *format, va_list list)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, list);
    fflush(stdout);
    fprintf(stderr, "slabctl: %s\n", printable(text));
}

void complain(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    line_write(format, list);
    va_end(list);
}

void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    line_write(format, list);
    va_end(list);
    exit(EXIT_COULD_NOT);
}

static bool failed;

void fail_later(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    line_write(format, list);
    va_end(list);
    failed = true;
}

bool fails_later(void)
{
    return failed;
}

void *problem_set(struct problem *problem, enum problem_kind kind, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    problem->kind = kind;
    vsnprintf(problem->text, sizeof problem->text, format, list);
    va_end(list);
    return NULL;
}

void *memory(void *old, size_t count, size_t each)
{
    void *new = reallocarray(old, count ? count : 1, each);
    if (!new)
        fail("no memory for %zu objects of %zu bytes", count, each);
    return new;
}

char *text_copy(const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(memory(NULL, bytes, 1), text, bytes);
}

void *array_grow(void *array, size_t *room, size_t wanted, size_t each)
{
    if (wanted <= *room)
        return array;
    *room += wanted + 64;
    return memory(array, *room, each);
}
