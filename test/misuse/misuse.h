/* What the misuse cases share. A case does one thing that no program may do, having first said on standard output,
 * in full, what the library is to say on standard error before it ends the process. misuse.c runs each in a
 * process of its own, and compares the two.
 *
 * A new case is a row in a table, and a short function where none of those that are there does it. Rows that
 * differ in a size, a call or a place alone are made in loops (rows.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct misuse_case {
    const char *name;                              /* letters, digits, '_' and '-' */
    void (*commit)(const struct misuse_case *row); /* announces, then misuses; it does not come back */

    /* What tells apart the rows that share a function; what each means stands there. */
    const char *call, *kind;
    size_t size;

    /* The same for rows that are made in loops: things.h and rows.h have the words. */
    const char *object; /* what the object is */
    const char *first;  /* the call that has freed it before */
    const char *who;    /* who has, and who commits the misuse */
    size_t piece;       /* of which it is made, if it is a joined one */
    unsigned rounds;    /* of its cache's magazines; 0: as many as the library likes */
    unsigned after;     /* so many others are freed in between */
    bool trimmed;       /* and free objects go to their slabs */
    bool section;       /* inside a section, so that what is retired waits */
    ptrdiff_t offset;   /* from the object's start */
    bool late;          /* seen when malloc would hand out what was freed wrongly */

    bool faults;         /* it ends by SIGSEGV, not by SIGABRT */
    bool stacks;         /* lines about where the object comes from may stand before what is announced */
    const char *options; /* SLABMALLOC_OPTIONS of the case's process; NULL: none */
    bool checked;        /* only checked builds of the library know these options */
};

/* Each ends with a row without a name. */
extern const struct misuse_case misuse_of_large[], misuse_of_small[], misuse_of_foreign[], misuse_of_caches[],
    misuse_of_epochs[], misuse_of_hooks[], misuse_of_percpu[];

/* Those that are made in loops, as such a table. */
const struct misuse_case *misuse_of_loops(void);

/* Processes that do not end as they announce. */
extern const struct misuse_case misuse_of_checker[];

static inline bool is_call(const struct misuse_case *row, const char *call)
{
    return row->call != NULL && strcmp(row->call, call) == 0;
}

static inline bool is_kind(const struct misuse_case *row, const char *kind)
{
    return row->kind != NULL && strcmp(row->kind, kind) == 0;
}

/* A pointer that the compiler knows nothing about, or it would warn of the misuse or leave it out. */
static inline void *hidden(const void *pointer)
{
    const void *volatile unknown = pointer;
    return (void *)(uintptr_t)unknown;
}

/* "CALL(POINTER): WHAT (thread ID)": of the calling thread, which is to commit the misuse. Nothing is allocated. */
void announce(const char *call, const void *pointer, const char *what);

/* "... WHAT of cache NAME ...", "... WHAT of SIZE bytes ..." */
void announce_of_cache(const char *call, const void *pointer, const char *what, const char *cache);
void announce_of_size(const char *call, const void *pointer, const char *what, size_t size);

/* Give a pointer to the call that the row names, of those that take what malloc gives. realloc asks for `size`. */
void give(const struct misuse_case *row, void *pointer);

/* How the library's messages name that call. */
const char *said_call(const struct misuse_case *row);
