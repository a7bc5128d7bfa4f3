/* The call stacks that the library has kept, as addresses of code.
 *
 * An image is unwound by libdwfl, which is shown a thread that has the image's registers and, at an address that no
 * process has, the image's words; .eh_frame of the mapped files says how. What has none (code that was made at run
 * time) is left by its frame pointer. */
#pragma once

#include "modules.h"
#include "samples.h"

struct unwinder;

enum { FRAMES_MOST = 512 };

struct unwinder *unwinder_open(struct modules *modules);
void unwinder_close(struct unwinder *unwinder);
/* Why no image can be unwound; NULL if they can be. */
const char *unwinder_problem(const struct unwinder *unwinder);

/* The addresses, the innermost first; how many is returned. Those of calls are one less than the return addresses,
 * and so lie in the calling instruction. `cut` tells that the stack went on, or could not
 * be followed. */
size_t unwind(struct unwinder *unwinder, const struct stack *stack, uint64_t frames[FRAMES_MOST], bool *cut);
