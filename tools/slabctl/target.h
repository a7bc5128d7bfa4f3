/* A process, or a core dump of one, that runs on slabmalloc.
 *
 *     /proc/PID/maps, or the core's NT_FILE -> mappings -> the file that defines slab_inspect -> its address
 *     process_vm_readv, or the core's PT_LOAD, and for what is not in there the mapped files -> bytes
 *
 * Nothing that comes from a target is trusted: every read may fail or give garbage, and does so without harm. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <gelf.h>

#include "base/inspect.h"
#include "message.h"

struct target;

/* Ends the tool with one line where there is no such process or file, no permission, or no slabmalloc in it. */
struct target *target_open_process(pid_t pid);
struct target *target_open_core(const char *file);
/* The same, but NULL and the line in `problem`. */
struct target *target_try_process(pid_t pid, struct problem *problem);
struct target *target_try_core(const char *file, struct problem *problem);
void target_close(struct target *target);

pid_t target_pid(const struct target *target);    /* of a core: of the process that it was, 0 if it is not known */
bool target_is_core(const struct target *target); /* it takes no commands, and does not change */
bool target_is_cut(const struct target *target);  /* it is a core whose end is missing */
const char *target_name(const struct target *target); /* for messages: the process's number, or the core's file */

/* All of it, or false. A core's PT_LOADs hold what was written to; the rest comes from the mapped files. */
bool target_read(struct target *target, uint64_t address, void *out, size_t bytes);
/* The same without the mapped files: what was in memory. */
bool target_read_memory(struct target *target, uint64_t address, void *out, size_t bytes);
/* A text with its NUL in `out`, cut after room - 1 bytes. False where not even the first byte can be read. */
bool target_read_text(struct target *target, uint64_t address, char *out, size_t room);
/* False for a core. */
bool target_write(struct target *target, uint64_t address, const void *bytes, size_t count);

/* The library's slab_inspect, whose magic and version fit. Fields that this library's build has not are 0. */
const struct slm_inspect *target_inspect(const struct target *target);
uint64_t target_inspect_address(const struct target *target);
/* What is there now, if it still is one. */
bool target_inspect_again(struct target *target, struct slm_inspect *inspect);
/* How many copies of the library are in use: plug-ins may have one of their own. This one has most in use. */
unsigned target_copies(const struct target *target);
/* What the library has in use, by its own count. */
bool target_used_bytes(struct target *target, uint64_t *bytes);

struct mapping {
    uint64_t start, end; /* addresses */
    uint64_t offset;     /* in the file */
    bool readable, writable, executable;
    uint64_t device, inode; /* 0: not known, or no file */
    char *path;             /* of the file as the process has named it, also "[stack]"; NULL: none */
    uint64_t in_core;       /* of a core: bytes from the start on that are in there */
    uint64_t core_offset;   /* and where */
    uint64_t lost;          /* of a core that was cut: bytes behind those, which were in there */
};

/* In the order of their addresses. They are those of the time when the target was opened. */
const struct mapping *target_mappings(const struct target *target, size_t *count);
const struct mapping *target_mapping_at(const struct target *target, uint64_t address); /* NULL: none */
/* The file that is mapped there, open for reading; -1 where there is none, or it is not to be had any more. It is
 * the same file: device and inode, or the build's id, or where there is none the bytes of the first page and
 * of the mapping are as in the process. The caller closes it. dwfl and the like may name it /proc/self/fd/N. */
int target_open_file(struct target *target, const struct mapping *mapping);
/* The mapping of the file that the library was found in. */
const struct mapping *target_library(const struct target *target);
/* The core as libelf sees it, for dwfl_core_file_report; NULL for a process. It stays the target's. */
Elf *target_core(const struct target *target);

/* What holds of a process now: false and the line if it has ended, is a zombie, or has executed another program
 * since it was opened. Always true for a core. */
bool target_is_same(struct target *target, struct problem *problem);
