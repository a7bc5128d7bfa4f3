/* A core dump: the memory that is in it, and which files were mapped. */
#pragma once

#include "mapping.h"

struct core {
    int file;
    Elf *elf;
    pid_t pid; /* 0: not known */
    bool cut;  /* the file ends before what its headers say is in it */
};

/* False and the line if it is no core dump of this machine. */
bool core_open(const char *path, struct core *core, struct mappings *mappings, struct problem *problem);
void core_close(struct core *core);
