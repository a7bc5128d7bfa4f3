/* PT_LOADs become mappings, which NT_FILE gives their files. What NT_FILE has beyond them becomes mappings without
 * bytes in the core: some who write cores leave out what the files have. Both are sorted, and gone through once. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "elf_open.h"
#include "inspect_symbol.h"

enum { MAPPINGS_MOST = 1 << 20, NOTE_SEGMENTS_MOST = 64, NOTES_BYTES_MOST = 1 << 28, NAMES_BYTES_MOST = 1 << 28 };

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

/* A row of NT_FILE. */
struct file_row {
    uint64_t start, end, offset;
    const char *path; /* in the note */
};

/* What is read of a core. A hostile one may repeat and overlap whatever it has. */
struct reading {
    struct mappings *loads, more;
    struct file_row *rows;
    size_t row_count, row_room;
    unsigned note_segments;
    uint64_t notes_bytes, names_bytes; /* read, and copied */
};

/* -- NT_FILE -------------------------------------------------------------------------------------------------- */

static int row_compare(const void *a, const void *b)
{
    uint64_t x = ((const struct file_row *)a)->start, y = ((const struct file_row *)b)->start;
    return (x > y) - (x < y);
}

/* Sorted, and without those that lie over others, as mappings are. */
static void rows_sort(struct reading *reading)
{
    size_t kept = 0;
    if (reading->row_count)
        qsort(reading->rows, reading->row_count, sizeof *reading->rows, row_compare);
    for (size_t i = 0; i < reading->row_count; i++)
        if (!kept || reading->rows[i].start >= reading->rows[kept - 1].end)
            reading->rows[kept++] = reading->rows[i];
    reading->row_count = kept;
}

static char *name_copy(struct reading *reading, const char *name)
{
    reading->names_bytes += strlen(name) + 1;
    return reading->names_bytes <= NAMES_BYTES_MOST ? text_copy(name) : NULL;
}

/* The file of the addresses of a row: mappings inside get its name, and what lies between them becomes one. `at` is
 * the first mapping that does not end before the row, and then the same for the next one. */
static void row_take(struct reading *reading, const struct file_row *row, size_t *at)
{
    struct mappings *loads = reading->loads, *more = &reading->more;
    uint64_t address = row->start;
    while (*at < loads->count && loads->entries[*at].end <= address)
        ++*at;
    while (address < row->end && more->count < MAPPINGS_MOST) {
        struct mapping *load = *at < loads->count ? &loads->entries[*at] : NULL;
        uint64_t gap = load && load->start < row->end ? load->start : row->end;
        if (gap > address)
            *mappings_add(more) = (struct mapping){.start = address,
                                                   .end = gap,
                                                   .offset = row->offset + (address - row->start),
                                                   .readable = true,
                                                   .path = name_copy(reading, row->path)};
        if (gap == row->end)
            return;
        if (!load->path && load->start >= row->start && load->end <= row->end) {
            load->offset = row->offset + (load->start - row->start);
            load->path = name_copy(reading, row->path);
        }
        address = load->end;
        *at += load->end <= row->end;
    }
}

/* NT_FILE: count, page size; start, end, offset in pages of each; then their names. */
static void files_read(const char *note, size_t bytes, struct reading *reading)
{
    uint64_t head[2], row[3];
    if (bytes < sizeof head)
        return;
    memcpy(head, note, sizeof head);
    if (head[0] > (bytes - sizeof head) / sizeof row)
        return;
    const char *name = note + sizeof head + head[0] * sizeof row, *end = note + bytes;
    for (uint64_t i = 0; i < head[0] && reading->row_count < MAPPINGS_MOST; i++) {
        const char *next = memchr(name, '\0', (size_t)(end - name));
        if (!next)
            return;
        memcpy(row, note + sizeof head + i * sizeof row, sizeof row);
        if (row[0] < row[1] && next - name < PATH_MAX) {
            reading->rows =
                array_grow(reading->rows, &reading->row_room, reading->row_count + 1, sizeof *reading->rows);
            reading->rows[reading->row_count++] = (struct file_row){row[0], row[1], row[2] * head[1], name};
        }
        name = next + 1;
    }
}

/* -- the core ------------------------------------------------------------------------------------------------- */

static void notes_read(struct core *core, const GElf_Phdr *segment, struct reading *reading)
{
    if (segment->p_filesz > NOTES_BYTES_MOST - reading->notes_bytes || reading->note_segments++ == NOTE_SEGMENTS_MOST)
        return;
    reading->notes_bytes += segment->p_filesz;
    Elf_Data *data = elf_getdata_rawchunk(core->elf, (int64_t)segment->p_offset, segment->p_filesz, ELF_T_NHDR);
    GElf_Nhdr note;
    size_t at = 0, name, text;
    while (data && (at = gelf_getnote(data, at, &note, &name, &text)) > 0) {
        const char *bytes = (const char *)data->d_buf + text;
        if (note.n_type == NT_FILE)
            files_read(bytes, note.n_descsz, reading);
        prpsinfo_t info;
        if (note.n_type == NT_PRPSINFO && note.n_descsz == sizeof info) {
            memcpy(&info, bytes, sizeof info);
            core->pid = info.pr_pid;
        }
    }
}

/* The segments of a type. */
static void segments_read(struct core *core, size_t count, GElf_Word type, uint64_t file_bytes,
                          struct reading *reading)
{
    GElf_Phdr segment;
    for (size_t i = 0; i < count; i++) {
        bool known = gelf_getphdr(core->elf, (int)i, &segment);
        core->cut |= !known || bytes_there(&segment, file_bytes) < segment.p_filesz;
        if (!known || segment.p_type != type)
            continue;
        if (type == PT_LOAD)
            segment_add(&segment, file_bytes, reading->loads);
        else
            notes_read(core, &segment, reading);
    }
}

static bool core_read(struct core *core, struct mappings *mappings, struct problem *problem)
{
    GElf_Ehdr header;
    struct stat stat;
    size_t count, at = 0;
    struct reading reading = {.loads = mappings};
    if (!elf_is_of_this_machine(core->elf) || !gelf_getehdr(core->elf, &header) || header.e_type != ET_CORE ||
        elf_getphdrnum(core->elf, &count) != 0 || count > MAPPINGS_MOST || fstat(core->file, &stat) != 0)
        return problem_set(problem, PROBLEM_OTHER,
                           "not a core dump of this machine (one that is compressed has to be unpacked first)");
    segments_read(core, count, PT_LOAD, (uint64_t)stat.st_size, &reading);
    mappings_sort(mappings);
    segments_read(core, count, PT_NOTE, (uint64_t)stat.st_size, &reading);
    rows_sort(&reading);
    for (size_t i = 0; i < reading.row_count; i++)
        row_take(&reading, &reading.rows[i], &at);
    for (size_t i = 0; i < reading.more.count; i++)
        *mappings_add(mappings) = reading.more.entries[i];
    free(reading.more.entries);
    free(reading.rows);
    mappings_sort(mappings);
    return reading.names_bytes <= NAMES_BYTES_MOST ||
           problem_set(problem, PROBLEM_OTHER, "its mapped files have more names than a process can have");
}

bool core_open(const char *path, struct core *core, struct mappings *mappings, struct problem *problem)
{
    struct problem what;
    *core = (struct core){.file = regular_open(path)};
    if (core->file < 0)
        return problem_set(problem, PROBLEM_OTHER, "%s: %s", path, errno ? strerror(errno) : "not a file");
    /* gcore's have a section for each segment. */
    core->elf = elf_open(core->file, ELF_C_READ, MAPPINGS_MOST, MAPPINGS_MOST);
    if (core_read(core, mappings, &what))
        return true;
    core_close(core);
    return problem_set(problem, PROBLEM_OTHER, "%s: %s", path, what.text);
}

void core_close(struct core *core)
{
    if (core->elf)
        elf_end(core->elf);
    if (core->file >= 0)
        close(core->file);
    *core = (struct core){.file = -1};
}
