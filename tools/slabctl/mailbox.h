/* Commands to a process, left in the library's mailbox. */
#pragma once

#include "target.h"

/* Writes the command, rings, and waits for the answer, `timeout_ms` at most. `data`: what lies at the answer's
 * address, `*bytes` at most; then *bytes is how much there was. NULL: nothing is wanted. False and the line if
 * there is no answer. An answer may be an error: see answer->error. */
bool mailbox_ask(struct target *target, struct slm_command *command, struct slm_answer *answer, void *data,
                 size_t *bytes, unsigned timeout_ms, struct problem *problem);
