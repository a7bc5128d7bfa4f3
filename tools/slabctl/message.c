/* One line on standard error. */
#include "message.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static void line_write(const char *format, va_list list)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, list);
    for (char *c = text; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = '?';
    fflush(stdout);
    fprintf(stderr, "slabctl: %s\n", text);
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
