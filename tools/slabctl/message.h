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

/* "slabctl: ..." on standard error. Passes through `printable`. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, and the end with EXIT_COULD_NOT. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, but the tool goes on: it has more to say. Main asks in the end whether that has happened. */
void fail_later(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Bool fails_later(void);

/* For the terminal: what is not printable in this locale becomes '?'. Whatever comes from a process passes through
 * it, as it may have sequences in it that a terminal obeys. Returns `text`, which never gets longer. */
char *printable(char *text);

/* Memory, or the end. */
void *memory(void *old, size_t count, size_t each);
char *text_copy(const char *text);

/* The array with room for `wanted` entries: as it was, or moved to where there is more than twice the room. */
void *array_grow(void *array, size_t *room, size_t wanted, size_t each);
