/* `slabctl` alone: the processes that run on the library. */
#pragma once

#include "target.h"

void list_print(void);

/* Live bytes by a process's samples, for the table: false if it has none. */
bool list_live_bytes(struct target *target, uint64_t *bytes);
