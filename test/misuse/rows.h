/* Rows that are made in loops: each file of such rows adds its own to one table. */
#pragma once

#include "misuse.h"

/* malloc's size classes. */
enum { SIZE_CLASSES = 72 };
extern const size_t size_classes[SIZE_CLASSES];

/* Add a row, named as printf(3) has it. */
void add_row(struct misuse_case row, const char *format, ...) __attribute__((format(printf, 2, 3)));

void add_rows_of_ahead(void);
void add_rows_of_askew(void);
void add_rows_of_freed(void);
void add_rows_of_guarded(void);
void add_rows_of_joined(void);
void add_rows_of_sampled(void);
void add_rows_of_sized(void);
void add_rows_of_twice(void);
void add_rows_of_unkeyed(void);

/* For every string of an array. */
#define FOR_EACH_WORD(word, words)                                                                                   \
    for (const char *const *at_##word = (words), *word = *at_##word; word; word = *++at_##word)
