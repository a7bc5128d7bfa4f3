/* To which loaded file does an address belong, and is it code there? Whoever captures a stack asks for many words.
 *
 * glibc's _dl_find_object (2.35) says to which file an address belongs, without a lock, in a signal handler too. It
 * does not say which part of the file is code, nor how far its unwinding tables may be read: that is in the file's
 * program headers. They are looked at once. As another thread may close the file meanwhile the kernel reads them,
 * unless the file is held: a frame of the calling thread is sure to go on in it, or it is the program, the C library
 * or this one. Where neither can be done, all of it counts as code.
 *
 * What was found is good for one capture, as files come and go: a slm_code on the caller's stack. Only where within
 * a file its parts lie is remembered for good, with the build ID. In each capture a file in which frames go on is
 * asked for that: a plug-in that was built anew, and is loaded in the old one's place, may differ in no address. What
 * has no build ID (in its first page, where linkers put it) is looked at each time. Any thread, no lock. */
#pragma once

#include "base/atomic.h"

enum { SLM_CODE_FILES = 8, SLM_CODE_MISSES = 16, SLM_CODE_PROGRAM = 1 };

struct slm_code_file {
    uintptr_t start, bytes;         /* of the whole file */
    uintptr_t code, code_bytes;     /* from its first code to its last */
    uintptr_t tables;               /* .eh_frame_hdr, or 0 */
    uintptr_t segment, table_bytes; /* the segment that they lie in; 0 bytes: it is not known */
    uint64_t id;                    /* of its build ID; SLM_CODE_PROGRAM; 0: there is none */
    uint32_t id_offset;
    bool held;    /* nobody can close it */
    bool checked; /* in this capture: the id is that of the file that is there */
};

/* Begins as zeros. */
struct slm_code {
    struct slm_code_file files[SLM_CODE_FILES];
    unsigned known, latest;
    uint64_t misses[SLM_CODE_MISSES]; /* pages without a file, by number */
};

enum slm_code_kind {
    SLM_CODE_NONE,    /* no file's */
    SLM_CODE_DATA,    /* of a file, but not its code */
    SLM_CODE_YES,     /* code of a file */
    SLM_CODE_UNKNOWN, /* the C library does not tell */
};

/* The file that an address lies in: its path as the loader has it, "" for the program itself, and how far its
 * addresses are from those in the file. False: none, or the C library does not tell. The path goes with the file. */
bool slm_code_file(uintptr_t address, const char **path, uintptr_t *moved);

enum slm_code_kind slm_code_of(struct slm_code *code, uintptr_t address);

/* The file in which a frame goes on at that address; NULL: none. `sure`: it is the calling thread's frame for
 * certain, as neither the address nor that of any frame below was guessed. */
const struct slm_code_file *slm_code_of_frame(struct slm_code *code, uintptr_t address, bool sure);

/* Does the C library tell files? */
bool slm_code_told(void);
