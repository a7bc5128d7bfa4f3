/* The kernel, where it is not memory: waiting, waking, the clock, entropy, processor and node. Every call here keeps
 * errno. */
#pragma once

#include "base/atomic.h"

/* Sleep while *word is `expected`; may return early for any reason. */
void slm_sys_wait(_Atomic uint32_t *word, uint32_t expected, unsigned timeout_ms);

/* Wake one sleeper on the word. */
void slm_sys_wake(_Atomic uint32_t *word);

/* Milliseconds of a steady clock, a few of them coarse; no system call where the C library reads the vDSO. */
uint64_t slm_sys_now_ms(void);

/* Sixty-four bits that another process cannot guess, others for each `number`. */
uint64_t slm_sys_entropy(uint64_t number);

/* The CPU and node that the calling thread is on just now; both 0 where the kernel does not say. */
void slm_sys_where(unsigned *cpu, unsigned *node);

/* Read a small file into `text`, ended by a 0; false if it cannot be read. For start alone: it opens files. */
bool slm_sys_read_file(const char *path, char *text, size_t size);
