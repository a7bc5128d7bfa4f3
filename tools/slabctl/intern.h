/* Numbers for strings of bytes: equal strings have equal numbers, counted from 0 in the order in which they came.
 *
 * Names, call stacks and addresses of a profile are told apart with it. The strings are copied, and stay where they
 * are until the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct interned {
    const void *bytes;
    size_t count;
    size_t number;
};

struct intern {
    void *tree; /* of tsearch(3) */
    struct interned **entries;
    size_t count, room;
};

/* The number of a string; `is_new` may be NULL. */
size_t intern(struct intern *set, const void *bytes, size_t count, bool *is_new);
size_t intern_text(struct intern *set, const char *text);
/* False if it has none. */
bool intern_find(const struct intern *set, const void *bytes, size_t count, size_t *number);
void intern_free(struct intern *set);
