/* Opens a process or a core dump, reads its memory, and finds the library's slab_inspect in it. */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core.h"
#include "image.h"
#include "inspect_symbol.h"
#include "intern.h"
#include "mapping.h"
#include "process.h"

/* A hostile process may map many files with many symbols. Real ones have a few MiB of them, with debug symbols
 * less than this. */
enum { FILES_MOST = 4096, INSPECT_BYTES_MOST = 1 << 16 };
static const uint64_t symbols_bytes_most = (uint64_t)1 << 30, compared_bytes_most = (uint64_t)1 << 30;

struct target {
    char name[256];
    pid_t pid;
    pid_t task; /* of a process: who stands for it: its main thread, or another one where that has ended */
    bool is_core;
    struct process_stat stat; /* when it was opened; not of cores */
    struct core core;
    struct mappings mappings;
    struct intern paths; /* of a core's files that were tried */
    int *files;          /* of each path: open; -1: none */
    uint64_t compared;   /* bytes of files with memory */
    struct slm_inspect inspect;
    uint64_t address;
    const struct mapping *library;
    unsigned copies;
};

/* -- reading -------------------------------------------------------------------------------------------------- */

static bool process_move(pid_t pid, uint64_t address, void *bytes, size_t count, bool writes)
{
    if (address + count < address)
        return false;
    for (size_t done = 0; done < count;) {
        struct iovec here = {.iov_base = (char *)bytes + done, .iov_len = count - done};
        struct iovec there = {.iov_base = (void *)(uintptr_t)(address + done), .iov_len = count - done};
        ssize_t moved =
            writes ? process_vm_writev(pid, &here, 1, &there, 1, 0) : process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (moved <= 0)
            return false;
        done += (size_t)moved;
    }
    return true;
}

static bool file_read(int file, void *out, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t length = pread(file, (char *)out + done, bytes - done, (off_t)(offset + done));
        if (length <= 0)
            return false;
        done += (size_t)length;
    }
    return true;
}

/* The file of a core's mapping, opened once for all mappings of the same path. */
static int core_file(struct target *target, const struct mapping *mapping)
{
    size_t which;
    if (intern_find(&target->paths, mapping->path, strlen(mapping->path) + 1, &which))
        return target->files[which];
    if (target->paths.count == FILES_MOST)
        return -1;
    which = intern_text(&target->paths, mapping->path);
    target->files[which] = -1; /* to look whether it fits reads the core */
    return target->files[which] = target_open_file(target, mapping);
}

/* What lies within one mapping. `files`: also what only its file has. */
static bool core_read_part(struct target *target, const struct mapping *mapping, uint64_t address, void *out,
                           size_t bytes, bool files)
{
    uint64_t from = address - mapping->start;
    if (from < mapping->in_core) {
        size_t part = bytes < mapping->in_core - from ? bytes : (size_t)(mapping->in_core - from);
        if (!file_read(target->core.file, out, part, mapping->core_offset + from))
            return false;
        out = (char *)out + part;
        from += part;
        bytes -= part;
    }
    if (!bytes)
        return true;
    if (from < mapping->in_core + mapping->lost) /* the process may have changed it */
        return false;
    int file = files && mapping->path ? core_file(target, mapping) : -1;
    return file >= 0 && file_read(file, out, bytes, mapping->offset + from);
}

static bool core_read(struct target *target, uint64_t address, void *out, size_t bytes, bool files)
{
    if (address + bytes < address)
        return false;
    for (size_t done = 0; done < bytes;) {
        const struct mapping *mapping = mappings_at(&target->mappings, address + done);
        if (!mapping)
            return false;
        uint64_t there = mapping->end - (address + done);
        size_t part = bytes - done < there ? bytes - done : (size_t)there;
        if (!core_read_part(target, mapping, address + done, (char *)out + done, part, files))
            return false;
        done += part;
    }
    return true;
}

bool target_read(struct target *target, uint64_t address, void *out, size_t bytes)
{
    return target->is_core ? core_read(target, address, out, bytes, true)
                           : process_move(target->task, address, out, bytes, false);
}

bool target_read_memory(struct target *target, uint64_t address, void *out, size_t bytes)
{
    return target->is_core ? core_read(target, address, out, bytes, false) : target_read(target, address, out, bytes);
}

bool target_read_text(struct target *target, uint64_t address, char *out, size_t room)
{
    enum { PIECE = 64 }; /* a text may end before a page that is not there */
    size_t done = 0;
    while (done < room - 1) {
        size_t part = PIECE - (address + done) % PIECE;
        if (part > room - 1 - done)
            part = room - 1 - done;
        if (!target_read(target, address + done, out + done, part))
            break;
        if (memchr(out + done, '\0', part))
            return true;
        done += part;
    }
    out[done] = '\0';
    return done > 0;
}

bool target_write(struct target *target, uint64_t address, const void *bytes, size_t count)
{
    return !target->is_core && process_move(target->task, address, (void *)bytes, count, true);
}

/* -- mapped files --------------------------------------------------------------------------------------------- */

/* Whether the file's first page is what the process has of it: ELF headers, in most files with the build's id. A
 * core that lacks the page cannot say no. */
static bool first_page_fits(struct target *target, const struct mapping *mapping, int file)
{
    enum { PAGE = 4096, HEADER = 64 };
    const struct mapping *first = mapping;
    const struct mappings *all = &target->mappings;
    while (first->offset && first > all->entries && mappings_same_file(first - 1, mapping))
        first--;
    char in_file[PAGE], in_memory[PAGE];
    ssize_t bytes = pread(file, in_file, PAGE, 0);
    if (bytes < HEADER || memcmp(in_file, ELFMAG, SELFMAG) != 0)
        return false;
    if (target->is_core && !core_read(target, first->start, in_memory, (size_t)bytes, false))
        return true;
    if (first->offset || first->writable)
        return target->is_core;
    return (target->is_core || target_read(target, first->start, in_memory, (size_t)bytes)) &&
           memcmp(in_file, in_memory, (size_t)bytes) == 0;
}

/* Whether a mapping's bytes are the file's: other builds may begin with the same page. A core mostly lacks them. One
 * of a file of holes may have any size: behind a limit none is the same any more. */
static bool mapping_fits(struct target *target, const struct mapping *mapping, int file)
{
    enum { PIECE = 1 << 16 };
    static char in_file[PIECE], in_memory[PIECE];
    uint64_t bytes = mapping->end - mapping->start, part;
    for (uint64_t done = 0; done < bytes && !target->is_core; done += part) {
        part = bytes - done < PIECE ? bytes - done : PIECE;
        target->compared += part;
        if (target->compared > compared_bytes_most)
            return false;
        ssize_t there = pread(file, in_file, part, (off_t)(mapping->offset + done));
        if (there <= 0) /* the last page has nothing of the file behind its end */
            return there == 0 && done > 0;
        if (!target_read(target, mapping->start + done, in_memory, (size_t)there) ||
            memcmp(in_file, in_memory, (size_t)there) != 0)
            return false;
    }
    return true;
}

/* The build's id decides where there is one: a file that was copied back will do, and a new one whose first page
 * looks the same will not. */
static bool same_build(struct target *target, const struct mapping *mapping, int file)
{
    struct image image;
    unsigned char id[BUILD_ID_BYTES_MOST];
    size_t bytes = image_find(target, mapping, &image) ? image_build_id(target, &image, id) : 0;
    if (bytes)
        return file_has_build_id(file, id, bytes);
    return first_page_fits(target, mapping, file) && mapping_fits(target, mapping, file);
}

/* A file system with layers may show other devices in stat(2) than in /proc/PID/maps: there the contents decide. */
static bool file_fits(struct target *target, const struct mapping *mapping, int file)
{
    struct stat stat;
    if (fstat(file, &stat) != 0)
        return false;
    return (mapping->inode && stat.st_dev == mapping->device && stat.st_ino == mapping->inode) ||
           same_build(target, mapping, file);
}

static int fitting_open(struct target *target, const struct mapping *mapping, const char *path)
{
    int file = regular_open(path);
    if (file >= 0 && !file_fits(target, mapping, file)) {
        close(file);
        file = -1;
    }
    return file;
}

/* By its name, behind `prefix`. What was deleted or replaced may be there again. */
static int named_open(struct target *target, const struct mapping *mapping, const char *prefix)
{
    size_t less = mapping_path_length(mapping), room = strlen(prefix) + strlen(mapping->path) + 1;
    char *path = memory(NULL, room, 1);
    snprintf(path, room, "%s%s", prefix, mapping->path);
    int file = fitting_open(target, mapping, path);
    if (file < 0 && mapping->path[less]) {
        path[strlen(prefix) + less] = '\0';
        file = fitting_open(target, mapping, path);
    }
    free(path);
    return file;
}

int target_open_file(struct target *target, const struct mapping *mapping)
{
    char path[64];
    if (!mapping->path || mapping->path[0] != '/')
        return -1;
    if (target->is_core)
        return named_open(target, mapping, "");
    snprintf(path, sizeof path, "/proc/%d/map_files/%jx-%jx", (int)target->task, (uintmax_t)mapping->start,
             (uintmax_t)mapping->end);
    int file = fitting_open(target, mapping, path);
    if (file < 0) {
        snprintf(path, sizeof path, "/proc/%d/root", (int)target->task);
        file = named_open(target, mapping, path);
    }
    if (file < 0) {
        snprintf(path, sizeof path, "/proc/%d/exe", (int)target->task);
        file = fitting_open(target, mapping, path);
    }
    return file;
}

/* -- finding the library -------------------------------------------------------------------------------------- */

static bool inspect_read(struct target *target, uint64_t address, struct slm_inspect *inspect)
{
    memset(inspect, 0, sizeof *inspect);
    enum { HEAD = offsetof(struct slm_inspect, library_version) };
    if (!target_read(target, address, inspect, HEAD) ||
        memcmp(inspect->magic, SLM_INSPECT_MAGIC, sizeof inspect->magic) != 0)
        return false;
    if (inspect->version != SLM_INSPECT_VERSION)
        return true;
    if (inspect->bytes < HEAD || inspect->bytes > INSPECT_BYTES_MOST)
        return false;
    /* All fields behind the head have 8 bytes, or 4 in pairs: a part of one is none. */
    size_t bytes = inspect->bytes < sizeof *inspect ? inspect->bytes / 8 * 8 : sizeof *inspect;
    return target_read(target, address, inspect, bytes);
}

static bool used_bytes_read(struct target *target, const struct slm_inspect *inspect, uint64_t *bytes)
{
    uint64_t sums[2]; /* taken and freed: both only grow, and are not read at the same moment */
    *bytes = 0;
    if (!target_read(target, (uint64_t)(uintptr_t)inspect->used_bytes, sums, sizeof sums))
        return false;
    *bytes = sums[0] > sums[1] ? sums[0] - sums[1] : 0;
    return true;
}

bool target_used_bytes(struct target *target, uint64_t *bytes)
{
    return used_bytes_read(target, &target->inspect, bytes);
}

/* Takes what is found at an address, if it is in use more than what was found before. A version that fits
 * goes first. */
static void inspect_take(struct target *target, uint64_t address, const struct mapping *mapping)
{
    struct slm_inspect inspect;
    if (!inspect_read(target, address, &inspect))
        return;
    bool fits = inspect.version == SLM_INSPECT_VERSION;
    bool fitted = target->copies && target->inspect.version == SLM_INSPECT_VERSION;
    uint64_t used, used_before;
    used_bytes_read(target, &inspect, &used);
    used_bytes_read(target, &target->inspect, &used_before);
    target->copies++;
    if (target->copies == 1 || fits > fitted || (fits && used > used_before)) {
        target->inspect = inspect;
        target->address = address;
        target->library = mapping;
    }
}

/* The first bytes of a mapping that is a program's or a library's first one; 0: it is none. The kernel's core dumps
 * have no more than a page of it. */
static size_t image_read(struct target *target, const struct mapping *mapping, char *image, size_t room)
{
    enum { PAGE = 4096 };
    if (!mapping->path || mapping->path[0] != '/' || mapping->offset ||
        !target_read(target, mapping->start, image, SELFMAG) || memcmp(image, ELFMAG, SELFMAG) != 0)
        return 0;
    uint64_t there = mapping->end - mapping->start;
    size_t bytes = there < room ? (size_t)there : room;
    if (target_read(target, mapping->start, image, bytes))
        return bytes;
    return bytes > PAGE && target_read(target, mapping->start, image, PAGE) ? PAGE : SELFMAG;
}

/* By the note, which is in memory: no file has to be there. */
static void library_find_in_memory(struct target *target)
{
    enum { IMAGE = 16384 };
    char *image = memory(NULL, IMAGE, 1);
    for (size_t i = 0; i < target->mappings.count; i++) {
        const struct mapping *mapping = &target->mappings.entries[i];
        struct inspect_symbol symbol;
        size_t bytes = image_read(target, mapping, image, IMAGE);
        if (bytes && inspect_symbol_in_image(image, bytes, &symbol))
            inspect_take(target, mapping->start + (symbol.value - symbol.start), mapping);
    }
    free(image);
}

/* By the symbol, where a linker or a tool has taken the note away. */
static void library_find_in_files(struct target *target)
{
    uint64_t budget = symbols_bytes_most;
    unsigned files = 0;
    for (size_t i = 0; i < target->mappings.count && files < FILES_MOST; i++) {
        const struct mapping *mapping = &target->mappings.entries[i];
        char magic[SELFMAG];
        if (!image_read(target, mapping, magic, SELFMAG))
            continue;
        files++;
        int file = target_open_file(target, mapping);
        if (file < 0)
            continue;
        struct inspect_symbol symbol;
        if (inspect_symbol_find(file, &symbol, &budget))
            inspect_take(target, mapping->start + (symbol.value - symbol.start), mapping);
        close(file);
    }
}

static bool library_find(struct target *target)
{
    library_find_in_memory(target);
    if (!target->copies)
        library_find_in_files(target);
    return target->copies > 0;
}

bool target_inspect_again(struct target *target, struct slm_inspect *inspect)
{
    return inspect_read(target, target->address, inspect) && inspect->version == SLM_INSPECT_VERSION;
}

/* -- opening -------------------------------------------------------------------------------------------------- */

static struct target *target_new(void)
{
    struct target *target = memory(NULL, 1, sizeof *target);
    *target = (struct target){.core.file = -1};
    elf_version(EV_CURRENT);
    return target;
}

static bool version_check(struct target *target, struct problem *problem)
{
    if (!target->copies && target->core.cut)
        return problem_set(problem, PROBLEM_NOT_OURS,
                           "%s: the file is cut, and what is left does not show slabmalloc", target->name);
    if (!target->copies)
        return problem_set(problem, PROBLEM_NOT_OURS, "%s: does not run on slabmalloc", target->name);
    if (target->inspect.version != SLM_INSPECT_VERSION)
        return problem_set(problem, PROBLEM_OTHER, "%s: runs version %u of the layout, this tool knows %d",
                           target->name, target->inspect.version, SLM_INSPECT_VERSION);
    return true;
}

static struct target *target_give_up(struct target *target)
{
    target_close(target);
    return NULL;
}

/* Who stands for the process now. Threads may end while it goes on, its main thread, too, whose number and start
 * are the process's. */
static bool task_find(struct target *target, struct process_stat *stat, struct problem *problem)
{
    target->task = target->pid;
    if (!process_stat_read(target->pid, stat, problem))
        return false;
    uint64_t start_time = stat->start_time;
    if (stat->ends && stat->threads > 1) {
        target->task = process_live_task(target->pid);
        if (!process_stat_read(target->task, stat, problem))
            return false;
    }
    stat->start_time = start_time;
    return true;
}

/* May be asked at any time: what was opened and cannot be read any more has mostly ended. */
bool target_is_same(struct target *target, struct problem *problem)
{
    if (target->is_core)
        return true;
    struct process_stat now;
    if (!task_find(target, &now, problem) || now.start_time != target->stat.start_time)
        return problem_set(problem, PROBLEM_ENDED, "%s: ended meanwhile", target->name);
    if (now.ends && (now.threads > 1 || (now.state != 'Z' && now.state != 'X')))
        return problem_set(problem, PROBLEM_ENDED, "%s: is ending", target->name);
    if (now.ends)
        return problem_set(problem, PROBLEM_ENDED, "%s: ended (its parent has not waited for it yet)", target->name);
    if (now.stack_start != target->stat.stack_start)
        return problem_set(problem, PROBLEM_ENDED, "%s: executed another program meanwhile", target->name);
    return true;
}

static bool process_open(struct target *target, struct problem *problem)
{
    if (!process_numbers_fit(problem) || !task_find(target, &target->stat, problem) ||
        !target_is_same(target, problem))
        return false;
    int error = mappings_read(target->task, &target->mappings);
    char byte;
    if (!error && target->mappings.count) {
        /* What /proc shows process_vm_readv may refuse. */
        struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)target->mappings.entries[0].start, 1};
        if (process_vm_readv(target->task, &here, 1, &there, 1, 0) < 0 && errno != EFAULT)
            error = errno;
    }
    if (error == EACCES || error == EPERM)
        return problem_set(problem, PROBLEM_NO_PERMISSION, "%s: no permission (may you ptrace it?)", target->name);
    if (error && error != ESRCH && error != ENOENT)
        return problem_set(problem, PROBLEM_OTHER, "%s: cannot be read: %s", target->name, strerror(error));
    if (library_find(target) && version_check(target, problem))
        return true;
    return target_is_same(target, problem) && version_check(target, problem);
}

struct target *target_try_process(pid_t pid, struct problem *problem)
{
    struct target *target = target_new();
    target->pid = pid;
    snprintf(target->name, sizeof target->name, "%d", (int)pid);
    return process_open(target, problem) ? target : target_give_up(target);
}

struct target *target_try_core(const char *file, struct problem *problem)
{
    struct target *target = target_new();
    target->is_core = true;
    snprintf(target->name, sizeof target->name, "%s", file);
    if (!core_open(file, &target->core, &target->mappings, problem))
        return target_give_up(target);
    target->pid = target->core.pid;
    target->files = memory(NULL, FILES_MOST, sizeof *target->files);
    library_find(target);
    return version_check(target, problem) ? target : target_give_up(target);
}

struct target *target_open_process(pid_t pid)
{
    struct problem problem;
    struct target *target = target_try_process(pid, &problem);
    if (!target)
        fail("%s", problem.text);
    return target;
}

struct target *target_open_core(const char *file)
{
    struct problem problem;
    struct target *target = target_try_core(file, &problem);
    if (!target)
        fail("%s", problem.text);
    return target;
}

void target_close(struct target *target)
{
    for (size_t i = 0; i < target->paths.count; i++)
        if (target->files[i] >= 0)
            close(target->files[i]);
    free(target->files);
    intern_free(&target->paths);
    mappings_free(&target->mappings);
    core_close(&target->core);
    free(target);
}

/* -- what it is ----------------------------------------------------------------------------------------------- */

pid_t target_pid(const struct target *target)
{
    return target->pid;
}
bool target_is_core(const struct target *target)
{
    return target->is_core;
}
bool target_is_cut(const struct target *target)
{
    return target->core.cut;
}
const char *target_name(const struct target *target)
{
    return target->name;
}
const struct slm_inspect *target_inspect(const struct target *target)
{
    return &target->inspect;
}
uint64_t target_inspect_address(const struct target *target)
{
    return target->address;
}
unsigned target_copies(const struct target *target)
{
    return target->copies;
}
const struct mapping *target_library(const struct target *target)
{
    return target->library;
}
Elf *target_core(const struct target *target)
{
    return target->core.elf;
}

const struct mapping *target_mappings(const struct target *target, size_t *count)
{
    *count = target->mappings.count;
    return target->mappings.entries;
}

const struct mapping *target_mapping_at(const struct target *target, uint64_t address)
{
    return mappings_at(&target->mappings, address);
}
