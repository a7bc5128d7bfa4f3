/* Where a target's memory was allocated: its samples, by call stack.
 *
 *     samples -> stacks -> frames, without the library's own -> sites: equal frames are one
 *
 * Words that nobody uses any more make images differ that unwind to the same frames. What is live is summed up
 * from the samples, what was allocated since start from the counts of the stacks. */
#pragma once

#include "estimate.h"
#include "intern.h"
#include "samples.h"
#include "symbols.h"
#include "unwind.h"

struct site {
    const uint64_t *frames; /* the innermost first */
    size_t depth;           /* 0: there is no stack */
    bool cut;               /* the stack went on behind them */
    struct estimate live, allocated;
    uint64_t oldest_ns; /* when the oldest live sample was allocated */
};

struct profile {
    struct target *target;
    struct modules *modules;
    struct unwinder *unwinder;
    struct symbols *symbols;
    struct samples samples; /* of the last look */
    struct intern stacks;   /* frames; the number is that of the site */
    struct site *sites;
    size_t site_room;
    struct intern numbers; /* of stacks that are known already: */
    uint32_t *stack_sites; /* the site of each */
    size_t number_room;
    struct estimate live, allocated;
    bool all; /* what was allocated is wanted, too */
};

struct profile *profile_open(struct target *target);
void profile_close(struct profile *profile);

/* Reads the samples as they are now. Sites keep their numbers. Stacks from which nothing is live are looked at if all
 * are wanted. */
void profile_look(struct profile *profile, bool all);
size_t profile_site_count(const struct profile *profile);
/* The site of a sample's stack. */
uint32_t profile_site_of(struct profile *profile, uint32_t stack);

/* Whether it is known that the figures are too low, as not all samples could be read: then no bounds hold. */
bool profile_is_short(const struct profile *profile);
/* Says so, and what is missing, if that is so; the tool then ends with EXIT_COULD_NOT. */
void profile_short_say(const struct profile *profile);

/* What the figures leave out, a line each, in `text`: sampling that is off, samples that were lost. What makes them
 * short comes first. */
enum { PROFILE_NOTES_MOST = 10 };
struct notes {
    char text[PROFILE_NOTES_MOST][160];
    unsigned count;
};
void profile_notes(const struct profile *profile, struct notes *notes);

/* For what was allocated, and for what has no samples: the mean interval. */
double profile_mean(const struct profile *profile);
