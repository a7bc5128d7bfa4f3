/* The samples and call stacks of a target, copied out of it.
 *
 * The process goes on meanwhile, and may be hostile: a record that changes while it is read is left out and counted,
 * lists end after so many members, and no number that is read decides how much memory is taken here. */
#pragma once

#include "estimate.h"
#include "target.h"

struct sample {
    uint64_t asked, given, mean, time_ns;
    uint32_t weighed, stack;
    uint16_t cache;
};

/* See struct slm_stack. `values` and `offsets` have as many members as `registers` and `words` say. */
struct stack {
    uint32_t number, covered, relative;
    uint8_t kind, registers;
    uint16_t words;
    bool cut;
    uint64_t samples;
    double objects, bytes; /* allocated since start */
    uint64_t *values;
    uint16_t *offsets; /* of an image */
};

enum { STACK_REGISTERS_MOST = 32, STACK_COVERED_MOST = 256 << 10 };

struct samples {
    struct sample *samples;
    struct stack *stacks;
    size_t count, room, stack_count, stack_room;
    uint64_t sample_bytes; /* the mean interval now; 0: there is no sampling */
    uint64_t longest_mean; /* of all samples' intervals: a thread lengthens its own when samples come fast */
    uint64_t losses, stack_losses, gaps; /* as slm_sample_counts has them */
    size_t records;                      /* those in use are among so many, */
    size_t unread;                       /* of which these could not be read */
    size_t torn;                         /* records that changed each time they were looked at */
    size_t damaged;                      /* records that make no sense, */
    size_t broken;                       /* and lists of stacks that do not, from there on */
    bool more;                           /* there are more than are looked at */
};

/* Ends the tool with one line where the process is gone, or its library has no samples. */
void samples_read(struct target *target, struct samples *samples);
/* The samples without the stacks. False if there are none to be read. */
bool samples_try_live(struct target *target, struct samples *samples);
void samples_free(struct samples *samples);

void sample_add(struct estimate *estimate, const struct sample *sample);

/* Bytes of live objects by the samples; negative: not known. */
double samples_live_bytes(struct target *target);

/* "size-64" of a class of malloc's, the name of a named cache, or "large". A cache that is named like one of the
 * others has "(named)" behind it. */
void samples_cache_name(struct target *target, uint16_t cache, char *name, size_t room);
