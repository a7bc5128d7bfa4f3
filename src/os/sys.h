/* System calls other than for memory: waiting, waking, barriers on other threads, the clock, entropy, processor and
 * node, files. Every call here keeps errno, and any thread may make it at any time. */
#pragma once

#include "base/atomic.h"

/* Sleep while *word is `expected`, without limit if timeout_ms is 0; may return early for any reason. */
void slm_sys_wait(_Atomic uint32_t *word, uint32_t expected, unsigned timeout_ms);

/* Sleep without limit until one of some words is woken, or is not as expected; may return early for any reason. A
 * shared one may lie in a file's read-only mapping, and be woken by any process that maps the file. False, at once:
 * the kernel has no such call (before Linux 5.16), a filter takes it away, or such a page is none of the file's
 * any more. */
enum { SLM_SYS_SHARED = 2, SLM_SYS_PRIVATE = 2 | 128 };
struct slm_sys_word {
    uint64_t expected;
    const volatile void *word; /* 32 bits */
    uint64_t kind;
};
bool slm_sys_wait_any(const struct slm_sys_word *words, unsigned count);

/* Sleep for `ms`, at least 1, or less if a signal comes; by futex alone, which filters allow. */
void slm_sys_sleep_ms(unsigned ms);

/* Block the thread's signals, but for the two that libc keeps for itself. Returns those that were blocked before, in
 * the kernel's form. libc's own functions would open its two, and its timers' thread has them closed. */
uint64_t slm_sys_block_signals(void);
void slm_sys_restore_signals(uint64_t before);

/* Wake one sleeper on the word, or all. */
void slm_sys_wake(_Atomic uint32_t *word);
void slm_sys_wake_all(_Atomic uint32_t *word);

/* A full memory barrier on every thread of the process: each thread executes one, somewhere in its program, between
 * the start and the end of this call (membarrier(2), PRIVATE_EXPEDITED). Registers the process when the kernel asks
 * for it: the first time, and in the child of a fork. False: there was none. */
bool slm_sys_membarrier(void);

/* Register the process beforehand (which may take milliseconds, once); false as above. Issues no barrier. */
bool slm_sys_membarrier_register(void);

extern slm_hidden _Atomic bool slm_sys_has_membarrier;  /* false once a barrier, or registering, has failed */
extern slm_hidden _Atomic uint64_t slm_sys_membarriers; /* how many barriers there were */

/* A steady clock: microseconds, exact; and milliseconds, a few too coarse. The C library reads the vDSO. */
uint64_t slm_sys_now_us(void);
uint64_t slm_sys_now_ms(void);

/* Sixty-four bits that another process cannot guess, different for each `number`. */
uint64_t slm_sys_entropy(uint64_t number);

/* The CPU and node that the calling thread is on; both 0 where the kernel does not say. */
void slm_sys_where(unsigned *cpu, unsigned *node);

/* The kernel's id of the calling thread. */
uint32_t slm_sys_thread_id(void);

/* Is the calling thread the process's first, or the one that forked? */
bool slm_sys_is_main_thread(void);

/* Does the path lie in the kernel's own sysfs, and not on something mounted over it (in a container)? */
bool slm_sys_is_sysfs(const char *path);

/* Read a small file into `text`, ended by a 0; false if it cannot be read. For the start, and where an
 * option says so: it opens files. */
bool slm_sys_read_file(const char *path, char *text, size_t size);

/* Call `reader` for each line of a file, without its end; lines over 2 KiB are left out. False: it cannot be read. */
typedef void slm_line_reader(char *line, void *context);
bool slm_sys_each_line(const char *path, slm_line_reader *reader, void *context);

/* A duplicate of a descriptor, closed by exec, so high that programs do not miss its number; negative: there is none
 * to spare. */
int slm_sys_duplicate(int descriptor);

/* Open a file to write at its end: a descriptor, closed by exec, or -errno. It waits only if it may create
 * the file. */
int slm_sys_open_to_append(const char *path, bool create);
void slm_sys_close(int descriptor);

/* 0 if this process may make files in the folder, or the errno that says why not. */
int slm_sys_access_to_make(const char *folder);
