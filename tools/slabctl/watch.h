/* Whatever looks into a process is done in a child, so that a process that never answers cannot hold the tool. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct watch_end {
    bool hung;      /* it was given up: it slept, and got nothing, for all of the limit */
    int signal;     /* that has ended it, or 0 */
    int code;       /* that it has ended with */
    unsigned steps; /* that it has begun */
    bool said;      /* something on standard error */
};

/* Does the work in a child, and prints then what it has printed. `stepwise`: it calls watch_step before each part, a
 * part may not take longer than some limits altogether, and what was printed before the child was given up stays.
 * Where no child can be made the work is done without one. */
struct watch_end watch_run(void (*work)(void *input), void *input, unsigned limit_ms, bool stepwise);

/* For the child. Without one they do nothing. */
void watch_step(void);
/* From here on it may sleep, as its user wants it to; until the other. */
void watch_pause(void);
void watch_resume(void);

/* Zeros that the child shares. */
void *watch_memory(size_t bytes);

/* The same file, or -1 as it was: none of the standard descriptors, one of which may be closed. */
int file_behind_standard(int file);
/* All that is in the first one, from its beginning. False with errno. */
bool file_copy(int from, int to);

/* The tool's standard output, which is not the child's. */
bool output_is_terminal(void);
unsigned output_columns(void); /* 0: not known */
/* Writes what is still to be written; what is wrong with that, or NULL. */
const char *output_error(void);
/* The same, and the end if it fails. */
void output_flush(void);
