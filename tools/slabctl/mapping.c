/* Reads /proc/PID/maps. */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct mapping *mappings_add(struct mappings *mappings)
{
    mappings->entries =
        array_grow(mappings->entries, &mappings->room, mappings->count + 1, sizeof *mappings->entries);
    struct mapping *mapping = &mappings->entries[mappings->count++];
    memset(mapping, 0, sizeof *mapping);
    return mapping;
}

void mappings_free(struct mappings *mappings)
{
    for (size_t i = 0; i < mappings->count; i++)
        free(mappings->entries[i].path);
    free(mappings->entries);
    memset(mappings, 0, sizeof *mappings);
}

const struct mapping *mappings_at(const struct mappings *mappings, uint64_t address)
{
    size_t low = 0, high = mappings->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mappings->entries[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < mappings->count && mappings->entries[low].start <= address ? &mappings->entries[low] : NULL;
}

bool mappings_same_file(const struct mapping *a, const struct mapping *b)
{
    return a->device == b->device && a->inode == b->inode && a->path && b->path && strcmp(a->path, b->path) == 0;
}

size_t mapping_path_length(const struct mapping *mapping)
{
    static const char deleted[] = " (deleted)";
    size_t length = strlen(mapping->path), less = length - (sizeof deleted - 1);
    return length >= sizeof deleted && strcmp(mapping->path + less, deleted) == 0 ? less : length;
}

bool segment_bias(const GElf_Phdr *segment, const struct mapping *mapping, uint64_t *bias)
{
    uint64_t first = segment->p_offset & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
    if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X) || mapping->offset < first ||
        mapping->offset - first >= segment->p_filesz + (segment->p_offset - first))
        return false;
    *bias = (mapping->start - mapping->offset) - (segment->p_vaddr - segment->p_offset);
    return true;
}

/* The kernel writes a newline in a path as \012. */
static char *path_copy(const char *text)
{
    size_t length = strlen(text);
    char *path = memory(NULL, length + 1, 1), *out = path;
    for (size_t i = 0; i < length; i++)
        if (strncmp(text + i, "\\012", 4) == 0) {
            *out++ = '\n';
            i += 3;
        } else {
            *out++ = text[i];
        }
    *out = '\0';
    return path;
}

static bool line_parse(char *line, struct mappings *mappings)
{
    uint64_t start, end, offset, inode;
    unsigned major, minor;
    char rights[5];
    int rest = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &start, &end, rights, &offset,
               &major, &minor, &inode, &rest) < 7 ||
        !rest || end <= start)
        return false;
    /* The file is read in parts, between which the process may map and unmap. */
    if (mappings->count && start < mappings->entries[mappings->count - 1].end)
        return false;
    struct mapping *mapping = mappings_add(mappings);
    *mapping = (struct mapping){.start = start,
                                .end = end,
                                .offset = offset,
                                .readable = rights[0] == 'r',
                                .writable = rights[1] == 'w',
                                .executable = rights[2] == 'x',
                                .device = makedev(major, minor),
                                .inode = inode,
                                .path = line[rest] ? path_copy(line + rest) : NULL};
    return true;
}

int mappings_read(pid_t pid, struct mappings *mappings)
{
    char path[64], *line = NULL;
    size_t room = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno;
    errno = 0;
    while (getline(&line, &room, file) > 0)
        line_parse(line, mappings);
    int error = ferror(file) ? errno : 0;
    free(line);
    fclose(file);
    return error;
}

int regular_open(const char *path)
{
    char name[64];
    struct stat stat;
    int place = open(path, O_PATH | O_CLOEXEC);
    if (place < 0)
        return -1;
    int file = -1;
    snprintf(name, sizeof name, "/proc/self/fd/%d", place);
    errno = 0;
    if (fstat(place, &stat) == 0 && S_ISREG(stat.st_mode))
        file = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* nor waits for a lease to end */
    else if (!errno && S_ISDIR(stat.st_mode))
        errno = EISDIR;
    int error = errno;
    close(place);
    errno = error;
    return file;
}
