/* What is said of an access that was stopped by the pages around a guarded object, or a freed one's own; slab/guard.h
 * has these:
 *
 *     slabmalloc: it was allocated by thread 4711 at: /usr/bin/program 0x11d5 0x1204 /lib/libc.so.6 0x2724a
 *     slabmalloc: it was freed by thread 4712 at: ...
 *     slabmalloc: a write 0 bytes behind an object of 40 bytes at 0x1a40200003d8 (thread 4711)
 *
 * addr2line -Cfe FILE ADDRESS... has names for that. Nothing is unwound here: the first address is the call, the
 * others are what lay on the stack and looks like a return address, in its order, of which some are of older
 * calls. What slabctl needs to unwind is left in slm_fault_facts.
 *
 * The handler of SIGSEGV is there with guard=1 alone, from the start of the library on. A handler that was
 * there before is called after the lines; without one the access is repeated under the default action, so that
 * a core has the registers and siginfo of the access itself. A program that sets a handler of its own later has
 * that in the place of this one, and no line. */
#pragma once

#include "base/inspect.h"
#include "slab/guard.h"

/* Install the handler; once, at start. */
void slm_fault_start(void);

/* The same lines, and the end of the process as by slm_panic, for a call that misuses the place's object. */
_Noreturn void slm_fault_refuse(const struct slm_guard *guard, const void *pointer, const char *call,
                                const char *what);

extern slm_hidden struct slm_inspect_fault slm_fault_facts;
