/* `slabctl` alone: the processes that run on the library. */
#pragma once

#include "target.h"

/* What one process keeps it waiting for so long is left out, and named. */
void list_print(unsigned silence_ms);

/* Live bytes by a process's samples, for the table: false if it has none. */
bool list_live_bytes(struct target *target, uint64_t *bytes);
