/* What slabctl says when it cannot do something: one line on standard error, and the exit code. */
#pragma once

#include <stddef.h>

enum { EXIT_DONE = 0, EXIT_COULD_NOT = 1, EXIT_USAGE = 2 };

/* A line that says why something could not be done, kept until it is known whether that ends the tool. */
struct problem {
    enum problem_kind {
        PROBLEM_NONE,
        PROBLEM_OTHER,
        PROBLEM_NO_PERMISSION,
        PROBLEM_NOT_OURS, /* the process does not run on slabmalloc */
        PROBLEM_ENDED
    } kind;
    char text[512];
};

/* Writes the line into `problem`; returns NULL, as do functions that have one. */
void *problem_set(struct problem *problem, enum problem_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "slabctl: ..." on standard error. What a process may have put into it loses its control characters. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, and the end with EXIT_COULD_NOT. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory, or the end. */
void *memory(void *old, size_t count, size_t each);
