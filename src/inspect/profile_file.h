/* What the options profile_file and profile_signal ask for: a profile (inspect/dump.h) in a file PATH.PID, at exit
 * and on a signal.
 *
 * It is written beside its name and then renamed, so that nobody sees a part of one, and what stands there before is
 * replaced, a link as well. The processes of a server share the option, and children of fork the handler: each has
 * its own PID. One is written at a time in a process; a signal that comes meanwhile asks for nothing more. */
#pragma once

#include "base/inspect.h"

/* At start, if one of the options is set: warn if no file can be made, and take the signal, unless somebody handles
 * or ignores it. A program that sets a handler of its own later has the signal to itself. */
void slm_profile_file_start(const struct slm_inspect *inspect);

/* Write it, or a line that says why not. Any thread, signal handlers too. */
void slm_profile_file_write(const struct slm_inspect *inspect);
