/* What /proc says of a process. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "message.h"

struct process_stat {
    char program[64];
    char state; /* R, S, D, T (stopped), t (traced and stopped), Z, X */
    bool ends; /* it is about to be Z or X, and its memory may be gone already, which takes long where that is much */
    unsigned threads;
    uint64_t start_time, stack_start; /* who it is: the second changes when it executes another program */
};

/* False and the line if there is no such process, or nothing can be read of it. The end of the tool where it may open
 * no more files. */
bool process_stat_read(pid_t pid, struct process_stat *stat, struct problem *problem);
/* A thread that has not ended, of a process whose main thread has; the process itself if there is none. */
pid_t process_live_task(pid_t pid);
/* Resident bytes of a process, by a thread of it that has not ended; 0 if it is not known. */
uint64_t process_resident(pid_t pid);
/* Whether /proc is that of this tool's own namespace: its numbers are then those of system calls. Else the line. */
bool process_numbers_fit(struct problem *problem);
