/* The one table of options, and SLABMALLOC_OPTIONS="name=value,name=value" that sets them.
 *
 * An option is one row of the table in options.c: name, default, range, one sentence. Unknown names and bad values
 * are a one-line warning and the default. Set-user-ID programs ignore the environment (secure_getenv). Options are
 * read once, by a constructor; what runs earlier sees the defaults. */
#pragma once

#include "base/compiler.h"

struct slm_options {
    uint64_t magazine_bytes;
    uint64_t thread_bytes;
    uint64_t depot_bytes;
    uint64_t purge_delay_ms;
    uint64_t dirty_bytes;
    uint64_t deferred_max_delay_ms;
    uint64_t deferred_max_bytes; /* 0: by the heap's size */
    uint64_t epoch_stall_ms;     /* 0: never */
    uint64_t worker;
    uint64_t percpu_cid;
    uint64_t stats;
    uint64_t help;
    char stats_file[128];
    char topology[16];      /* "NODESxCPUS"; simulated, in checked builds alone */
    uint64_t refuse_blocks; /* in checked builds alone */
    char grow[16];          /* "locked" or "lockless"; in bench builds alone */
};

extern slm_hidden struct slm_options slm_options;

/* Set options from `text` (NULL: nothing to do). */
void slm_options_parse(const char *text);

/* Read the environment, if this process may trust it. */
void slm_options_read(void);

/* The table as rows of a Markdown table on a descriptor. */
void slm_options_help(int descriptor);
