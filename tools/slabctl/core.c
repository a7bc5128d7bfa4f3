/* PT_LOADs become mappings, which NT_FILE gives their files. What NT_FILE has beyond them becomes mappings without
 * bytes in the core: some who write cores leave out what the files have. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inspect_symbol.h"

enum { MAPPINGS_MOST = 1 << 20, NOTES_BYTES_MOST = 1 << 28 };

static int mapping_compare(const void *a, const void *b)
{
    uint64_t x = ((const struct mapping *)a)->start, y = ((const struct mapping *)b)->start;
    return (x > y) - (x < y);
}

/* Sorted, and without those that lie over others: no process has such. */
static void mappings_sort(struct mappings *mappings)
{
    if (!mappings->count)
        return;
    qsort(mappings->entries, mappings->count, sizeof *mappings->entries, mapping_compare);
    size_t kept = 1;
    for (size_t i = 1; i < mappings->count; i++) {
        if (mappings->entries[i].start >= mappings->entries[kept - 1].end)
            mappings->entries[kept++] = mappings->entries[i];
        else
            free(mappings->entries[i].path);
    }
    mappings->count = kept;
}

/* How many of the segment's bytes the file has. */
static uint64_t bytes_there(const GElf_Phdr *segment, uint64_t file_bytes)
{
    uint64_t there = segment->p_offset < file_bytes ? file_bytes - segment->p_offset : 0;
    return segment->p_filesz < there ? segment->p_filesz : there;
}

static void segment_add(const GElf_Phdr *segment, uint64_t file_bytes, struct mappings *mappings)
{
    if (!segment->p_memsz || segment->p_vaddr + segment->p_memsz < segment->p_vaddr ||
        mappings->count == MAPPINGS_MOST)
        return;
    uint64_t there = bytes_there(segment, file_bytes);
    uint64_t in_core = segment->p_filesz < segment->p_memsz ? segment->p_filesz : segment->p_memsz;
    struct mapping *mapping = mappings_add(mappings);
    mapping->start = segment->p_vaddr;
    mapping->end = segment->p_vaddr + segment->p_memsz;
    mapping->readable = segment->p_flags & PF_R;
    mapping->writable = segment->p_flags & PF_W;
    mapping->executable = segment->p_flags & PF_X;
    mapping->in_core = in_core < there ? in_core : there;
    mapping->lost = in_core - mapping->in_core;
    mapping->core_offset = segment->p_offset;
}

/* The file of addresses [start, end): mappings inside get its name, and what lies between them becomes one.
 * `loads` are sorted; new ones go to `more`. */
static void file_add(const struct mapping *of, struct mappings *loads, struct mappings *more)
{
    uint64_t at = of->start;
    const struct mapping *first = mappings_at(loads, at);
    size_t i = first ? (size_t)(first - loads->entries) : 0;
    if (!first) /* the first that begins behind it */
        for (size_t high = loads->count; i < high;) {
            size_t middle = i + (high - i) / 2;
            if (loads->entries[middle].start < at)
                i = middle + 1;
            else
                high = middle;
        }
    for (; at < of->end && more->count < MAPPINGS_MOST; i++) {
        struct mapping *load = i < loads->count ? &loads->entries[i] : NULL;
        uint64_t gap = load && load->start < of->end ? load->start : of->end;
        if (gap > at) {
            struct mapping *mapping = mappings_add(more);
            *mapping = (struct mapping){.start = at,
                                        .end = gap,
                                        .offset = of->offset + (at - of->start),
                                        .readable = true,
                                        .path = text_copy(of->path)};
        }
        if (gap == of->end)
            return;
        if (!load->path && load->start >= of->start && load->end <= of->end) {
            load->offset = of->offset + (load->start - of->start);
            load->path = text_copy(of->path);
        }
        at = load->end;
    }
}

/* NT_FILE: count, page size; start, end, offset in pages of each; then their names. */
static void files_read(const char *note, size_t bytes, struct mappings *loads, struct mappings *more)
{
    uint64_t head[2], row[3];
    if (bytes < sizeof head)
        return;
    memcpy(head, note, sizeof head);
    if (head[0] > (bytes - sizeof head) / sizeof row)
        return;
    const char *name = note + sizeof head + head[0] * sizeof row, *end = note + bytes;
    for (uint64_t i = 0; i < head[0]; i++) {
        const char *next = memchr(name, '\0', (size_t)(end - name));
        if (!next)
            return;
        memcpy(row, note + sizeof head + i * sizeof row, sizeof row);
        struct mapping of = {.start = row[0], .end = row[1], .offset = row[2] * head[1], .path = (char *)name};
        if (of.start < of.end)
            file_add(&of, loads, more);
        name = next + 1;
    }
}

static void notes_read(struct core *core, const GElf_Phdr *segment, struct mappings *loads, struct mappings *more)
{
    Elf_Data *data = segment->p_filesz > NOTES_BYTES_MOST
                         ? NULL
                         : elf_getdata_rawchunk(core->elf, (int64_t)segment->p_offset, segment->p_filesz, ELF_T_NHDR);
    GElf_Nhdr note;
    size_t at = 0, name, text;
    while (data && (at = gelf_getnote(data, at, &note, &name, &text)) > 0) {
        const char *bytes = (const char *)data->d_buf + text;
        if (note.n_type == NT_FILE)
            files_read(bytes, note.n_descsz, loads, more);
        prpsinfo_t info;
        if (note.n_type == NT_PRPSINFO && note.n_descsz == sizeof info) {
            memcpy(&info, bytes, sizeof info);
            core->pid = info.pr_pid;
        }
    }
}

static bool core_read(struct core *core, struct mappings *mappings)
{
    GElf_Ehdr header;
    struct stat stat;
    size_t count;
    if (!elf_is_of_this_machine(core->elf) || !gelf_getehdr(core->elf, &header) || header.e_type != ET_CORE ||
        elf_getphdrnum(core->elf, &count) != 0 || fstat(core->file, &stat) != 0)
        return false;
    GElf_Phdr segment;
    for (size_t i = 0; i < count; i++) {
        bool known = gelf_getphdr(core->elf, (int)i, &segment);
        core->cut |= !known || bytes_there(&segment, (uint64_t)stat.st_size) < segment.p_filesz;
        if (known && segment.p_type == PT_LOAD)
            segment_add(&segment, (uint64_t)stat.st_size, mappings);
    }
    mappings_sort(mappings);
    struct mappings more = {0};
    for (size_t i = 0; i < count; i++)
        if (gelf_getphdr(core->elf, (int)i, &segment) && segment.p_type == PT_NOTE)
            notes_read(core, &segment, mappings, &more);
    for (size_t i = 0; i < more.count; i++)
        *mappings_add(mappings) = more.entries[i];
    free(more.entries);
    mappings_sort(mappings);
    return true;
}

bool core_open(const char *path, struct core *core, struct mappings *mappings, struct problem *problem)
{
    *core = (struct core){.file = regular_open(path)};
    if (core->file < 0)
        return problem_set(problem, PROBLEM_OTHER, "%s: %s", path, errno ? strerror(errno) : "not a file");
    core->elf = elf_begin(core->file, ELF_C_READ, NULL);
    if (core->elf && core_read(core, mappings))
        return true;
    core_close(core);
    return problem_set(problem, PROBLEM_OTHER,
                       "%s: not a core dump of this machine (one that is compressed has to be unpacked first)", path);
}

void core_close(struct core *core)
{
    if (core->elf)
        elf_end(core->elf);
    if (core->file >= 0)
        close(core->file);
    *core = (struct core){.file = -1};
}
