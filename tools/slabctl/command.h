/* The tool's commands: main.c finds one by its name, opens its target, and calls it. */
#pragma once

#include <argp.h>

#include "target.h"

struct request {
    struct target *target;
    unsigned timeout_ms; /* for an answer */
    int count;           /* words behind the command's name */
    char **words;
};

struct command {
    const char *name, *words; /* as in the help */
    int least, most;          /* how many words it takes */
    const char *does;         /* one line for the help */
    void (*run)(const struct request *request);
    /* The command's own options, or NULL. Its parser's input is `input`. */
    const struct argp *options;
    void *input;
};

/* Ends with a NULL name. */
extern const struct command mailbox_commands[];
