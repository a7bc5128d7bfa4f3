/* The mailbox (base/inspect.h): a tool outside leaves a command there, and a thread of this process answers.
 *
 *     tool:    fields of the command, then its token; then the bell, again and again
 *     worker:  looks at each of its passes, and when the bell has woken it
 *     others:  look at each 32nd slow path, and now and then after large objects. They serve where there is no
 *              worker; else they only wake it
 *
 * Nobody in here waits for a tool, and what the mailbox says is believed in nothing: a command is copied out first,
 * and its token says whether the copy is whole. What is carried out lies on a floor above (inspect/commands.c), which
 * hands itself down at start. A thread serves when it holds no lock and no claim on its block.
 *
 * The child of a fork drops what its parent was asked. */
#pragma once

#include "base/inspect.h"

/* Runs the destructors of slabs that wait for that (depot/pending_slabs.h). NULL: this thread must not, as it may
 * hold locks of the program's; another one will. */
typedef void slm_mailbox_destruct(void);

/* Carries out a command and fills the answer, in which nothing is set yet. */
typedef void slm_mailbox_server(const struct slm_command *command, struct slm_answer *answer,
                                slm_mailbox_destruct *destruct);

/* Once, at start, by the floor above. Before, commands are dropped. */
void slm_mailbox_open(slm_mailbox_server *server);

/* The bell, which tools ring. It is a word in an ELF note: that lies in the first page of the file, which the loader
 * has read, so that a worker that sleeps on it has no page more. Nobody writes to it: a copied page would be nobody's
 * but this process's. */
struct slm_mailbox_note {
    uint32_t name_bytes, bytes, type;
    char name[12];
    uint32_t bell;
};
extern slm_hidden const struct slm_mailbox_note slm_mailbox_note;

extern slm_hidden struct slm_mailbox slm_mailbox;
extern slm_hidden _Atomic uint64_t slm_mailbox_seen; /* the last token that was looked at */

/* Is there a command that nobody has looked at? */
slm_inline bool slm_mailbox_waits(void)
{
    return unlikely(load_relaxed(&slm_mailbox.command.token) != load_relaxed(&slm_mailbox_seen));
}

/* Serve, unless another thread does, or the caller is in a slow path (a handler of it). Only the library's worker
 * may run destructors. */
void slm_mailbox_serve(slm_mailbox_destruct *destruct);

/* In the child of a fork. */
void slm_mailbox_fork_child(void);
