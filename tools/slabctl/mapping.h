/* The mappings of a process, and their files. */
#pragma once

#include "target.h"

struct mappings {
    struct mapping *entries;
    size_t count, room;
};

struct mapping *mappings_add(struct mappings *mappings);
void mappings_free(struct mappings *mappings);
const struct mapping *mappings_at(const struct mappings *mappings, uint64_t address);
bool mappings_same_file(const struct mapping *a, const struct mapping *b);
/* How much of the path is the file's: the kernel puts words behind that of one that was deleted or replaced. (A name
 * may really end with them.) */
size_t mapping_path_length(const struct mapping *mapping);
/* What is added to the file's addresses where this mapping of it lies, if that is of this segment, which is code. */
bool segment_bias(const GElf_Phdr *segment, const struct mapping *mapping, uint64_t *bias);

/* Of /proc/PID/maps. Returns an errno code, or 0. */
int mappings_read(pid_t pid, struct mappings *mappings);

/* A regular file, open for reading, or -1; errno is 0 where it is neither that nor a folder. Nothing else is opened:
 * devices and pipes do things when they are. */
int regular_open(const char *path);
