/* How the library's own thread is scheduled. A new thread inherits policy, priority and CPUs from its creator, which
 * may be a real-time thread of the program, kept on a CPU. The library's runs as the process did at its start, behind
 * the program's threads. */
#pragma once

#include "base/compiler.h"

/* Once, at the process's start: remember policy, nice value and CPUs. */
void slm_background_start(void);

/* A sandbox is near: slm_background_enter makes no system call any more. */
void slm_background_forbid(void);

/* So what the library does by itself makes no calls but those of every allocation. */
bool slm_background_forbidden(void);

/* Around such calls in a thread of the program's, and around others that few filters know. False: it may
 * make none. */
bool slm_background_begin(void);
void slm_background_end(void);

/* A steady clock; coarse where a sandbox is near. The kernel's clock source decides whether the exact one can be read
 * without a system call. */
uint64_t slm_background_now_us(void);

/* Is a thread between the two? Once a sandbox has been announced, and this is false, none makes such a call. */
bool slm_background_busy(void);

/* The calling thread gets its name, and enters the background. What the kernel refuses stays as inherited; under a
 * seccomp filter so does what the creator has from the process. True: there is no filter, nor is one near. Those that
 * end the process know the calls of their time, and others only come between slm_background_begin and _end. */
bool slm_background_enter(void);
