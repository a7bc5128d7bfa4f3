/* What the commands in the mailbox do (base/inspect.h has them, process/mailbox.h who serves). */
#pragma once

#include "process/mailbox.h"

/* Carry a command out. Nothing that it says is believed: its text may have no end, its numbers may be any. Takes the
 * cache mutex; one thread at a time. */
void slm_command_run(const struct slm_command *command, struct slm_answer *answer, slm_mailbox_destruct *destruct);
