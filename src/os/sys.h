/* The kernel, where it is not memory: waiting, waking, barriers on other threads, the clock, entropy, processor and
 * node, files. Every call here keeps errno. */
#pragma once

#include "base/atomic.h"

/* Sleep while *word is `expected`; may return early for any reason. */
void slm_sys_wait(_Atomic uint32_t *word, uint32_t expected, unsigned timeout_ms);

/* Sleep for so long, at least 1 ms, or less where a signal comes. By the same system call as slm_sys_wait, so that a
 * filter which lets that pass is enough. */
void slm_sys_sleep_ms(unsigned ms);

/* Wake one sleeper on the word, or all. */
void slm_sys_wake(_Atomic uint32_t *word);
void slm_sys_wake_all(_Atomic uint32_t *word);

/* A full memory barrier on every thread of the process: each passes one, somewhere in its program, between the begin
 * and the end of this call (membarrier(2), PRIVATE_EXPEDITED). Registers the process when the kernel asks for it: the
 * first time, and in the child of a fork. False: there was no barrier, as the kernel or a filter has no such call. */
bool slm_sys_membarrier(void);

/* Register the process beforehand (which may take milliseconds, once); false as above. Issues no barrier. */
bool slm_sys_membarrier_register(void);

/* False once a barrier, or registering for them, has failed. */
extern slm_hidden _Atomic bool slm_sys_has_membarrier;

/* How many barriers there were. */
extern slm_hidden _Atomic uint64_t slm_sys_membarriers;

/* Microseconds of a steady clock, exact; no system call where the C library reads the vDSO. */
uint64_t slm_sys_now_us(void);

/* Milliseconds of a steady clock, a few of them coarse; no system call where the C library reads the vDSO. */
uint64_t slm_sys_now_ms(void);

/* Sixty-four bits that another process cannot guess, others for each `number`. */
uint64_t slm_sys_entropy(uint64_t number);

/* The CPU and node that the calling thread is on just now; both 0 where the kernel does not say. */
void slm_sys_where(unsigned *cpu, unsigned *node);

/* The kernel's number of the calling thread. */
uint32_t slm_sys_thread_id(void);

/* Does the path lie in the kernel's own sysfs, and not on something that is put in its place (in a container)? */
bool slm_sys_is_sysfs(const char *path);

/* Read a small file into `text`, ended by a 0; false if it cannot be read. For start alone: it opens files. */
bool slm_sys_read_file(const char *path, char *text, size_t size);

/* A duplicate of a descriptor, closed by exec, with a number so high that programs do not miss it; -1: there is none
 * to spare. */
int slm_sys_duplicate(int descriptor);

/* Open a file to write at its end: a descriptor, closed by exec, or -errno. Unless it may create the file the call
 * does not wait, not even for readers of a pipe. */
int slm_sys_open_to_append(const char *path, bool create);
void slm_sys_close(int descriptor);

/* 0 if this process may make files in the folder, or why it may not: an errno. */
int slm_sys_access_to_make(const char *folder);

/* Write all of it if that can be done; no SIGPIPE where nobody reads any more. */
void slm_sys_write(int descriptor, const char *text, size_t length);
