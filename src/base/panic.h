/* Messages without memory: one line on standard error by write(2) alone, and the end of the process.
 *
 * A program may close standard error, and open something of its own in its place. So the file that it was at start is
 * remembered: lines go only there, or to a pipe in its place. The last line of a process goes to descriptor 2,
 * whatever that is. All functions here keep errno, and are legal in signal handlers. */
#pragma once

#include "base/compiler.h"

/* A line under construction; what does not fit is cut off. */
struct slm_line {
    size_t length;
    char text[1024];
};

/* Add text; a number; or, as printf does, what the format says: it knows %s, %u, %lu and %p. */
void slm_line_text(struct slm_line *line, const char *text);
void slm_line_number(struct slm_line *line, uint64_t number);
void slm_line_add(struct slm_line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Write the whole line and its end to a descriptor, unless that is 2 and now a file of the program. */
void slm_line_write(struct slm_line *line, int descriptor);

/* The last line of the process, wherever descriptor 2 leads; it is left for debuggers, too: see slm_panic. */
void slm_line_last(struct slm_line *line);

/* Write all of the text. Returns 0, or an errno if that failed. */
int slm_write_all(int descriptor, const char *text, size_t length);

/* Write all of it if that can be done; no SIGPIPE where nobody reads any more. */
void slm_write_quietly(int descriptor, const char *text, size_t length);

/* At start, once libc is ready: find where slm_panic leaves its line. */
void slm_panic_start(void);

/* At start, while the descriptor is the one that the process inherited. */
void slm_stderr_remember(void);

/* Is the descriptor open on the file that standard error was at start? */
bool slm_stderr_is(int descriptor);

/* "slabmalloc: TEXT" and, if not NULL, "DETAIL", on standard error. */
void slm_warn(const char *text, const char *detail);

/* Misuse or corruption: "slabmalloc: [CALL(POINTER): ]WHAT[ of cache CACHE| of SIZE bytes] (thread ID)" on standard
 * error, then abort(). `call` and `cache` may be NULL. The size, if it is not 0, stands where there is no cache: it
 * names malloc's objects. Before, the line is left where glibc leaves its own for debuggers and crash reporters: in
 * gdb, `x/s (char *)__abort_msg + 4`; in static programs `p abort_message.text`. */
_Noreturn void slm_panic(const char *call, const void *pointer, const char *what, const char *cache,
                         size_t object_size);
