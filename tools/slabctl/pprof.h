/* A profile as pprof knows it: call stacks with numbers, and the names that go with their addresses.
 *
 *     samples -> locations (addresses) -> lines -> functions -> names
 *                        `-> mappings (files)
 *
 * The file is the gzip'ed message Profile of github.com/google/pprof's profile.proto. Everything is filled in,
 * so that a reader needs no binaries. Ids are positions, counted from 1; 0: none. Texts are of the profile's
 * own table. */
#pragma once

#include "intern.h"

enum pprof_value { ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE, PPROF_VALUES };

enum { PPROF_COMMENTS_MOST = 8 };

struct pprof_mapping {
    uint64_t start, end, offset; /* addresses; the offset in the file */
    size_t file, build_id;       /* texts */
};

struct pprof_function {
    size_t name, system_name, file; /* texts; the system's name is the mangled one */
    int64_t start_line;
};

struct pprof_line {
    size_t function; /* id */
    int64_t line;
};

struct pprof_location {
    uint64_t address;
    size_t mapping;                /* id */
    size_t first_line, line_count; /* in `lines`: what was inlined comes first */
};

struct pprof_sample {
    size_t first_location, depth; /* in `stacks`, ids of locations, the innermost first */
    double values[PPROF_VALUES];
};

struct pprof {
    struct intern texts; /* number 0 is "" */
    struct intern function_keys, location_keys, sample_keys;
    struct pprof_mapping *mappings;
    struct pprof_function *functions;
    struct pprof_location *locations;
    struct pprof_line *lines;
    struct pprof_sample *samples;
    uint64_t *stacks;
    size_t mapping_count, function_count, location_count, line_count, sample_count, stack_count;
    size_t mapping_room, function_room, location_room, line_room, sample_room, stack_room;
    int64_t time_ns, period; /* since 1970; bytes between two samples */
    enum pprof_value shown;  /* what a reader shows first */
    size_t comments[PPROF_COMMENTS_MOST], comment_count;
};

void pprof_init(struct pprof *profile);
void pprof_free(struct pprof *profile);

/* Each returns an id. What is there already is not added again, but for mappings. */
size_t pprof_add_mapping(struct pprof *profile, const struct pprof_mapping *mapping);
size_t pprof_add_function(struct pprof *profile, const struct pprof_function *function);
/* The location at this place of the mapping's file. 0 if there is none yet: then it is to be added. */
size_t pprof_find_location(const struct pprof *profile, size_t mapping, uint64_t address);
size_t pprof_add_location(struct pprof *profile, size_t mapping, uint64_t address, const struct pprof_line *lines,
                          size_t count);
/* Adds values to those of the sample with this stack. */
void pprof_add_sample(struct pprof *profile, const uint64_t *locations, size_t depth,
                      const double values[PPROF_VALUES]);
/* The number of a text. What is no UTF-8 in it becomes '?', as protobuf's texts are nothing else, and so
 * does what a terminal would obey. */
size_t pprof_add_text(struct pprof *profile, const char *text);
/* For readers: what is not in the figures. */
void pprof_add_comment(struct pprof *profile, const char *text);
const char *pprof_text(const struct pprof *profile, size_t text);
/* A value as it is in the file. */
int64_t pprof_rounded(double value);

/* The values less those of an older profile. Places are the same if they are so in files with the same name: the
 * process may have been started anew meanwhile. Stacks that have not changed are left out. */
void pprof_subtract(struct pprof *profile, const struct pprof *older);

/* What the values are called in the file, and what they count. */
extern const char *const pprof_value_names[PPROF_VALUES], *const pprof_value_units[PPROF_VALUES];

/* To a file that is open, and stays so. False with errno. */
bool pprof_write(struct pprof *profile, int file);
/* A profile that slabctl has written, into an initialized one. NULL, or why it is none. */
const char *pprof_read(struct pprof *profile, int file);
