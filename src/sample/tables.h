/* From a frame to its caller's, by the unwinding tables in the files: those which C++ uses for its exceptions
 * (.eh_frame; Linux Standard Base, "Exception Frames"; DWARF 4, 6.4).
 *
 * A table says for each address how the frame's base (DWARF's canonical frame address) is found from the stack or
 * frame pointer, and where the return address and the caller's frame pointer lie below it. That is all that it takes
 * from one frame to the next in what compilers make; what takes more is left to tools. For a thousand addresses it is
 * remembered: then a step costs some ten nanoseconds, and no page of the tables is touched. A file without a build ID
 * has none of these, as nothing tells it from one that comes in its place.
 *
 * Nothing beyond the tables' segment is read, whatever they say. A file that is held (sample/code.h) cannot be closed
 * meanwhile. Of others the kernel copies the tables, unless a sandbox is near: some twenty calls for an address that
 * is not remembered. Any thread, no lock, a signal handler too. */
#pragma once

#include "sample/code.h"

enum slm_step_kind {
    SLM_STEP_NONE,     /* no table has the address */
    SLM_STEP_MORE,     /* it takes more than this knows */
    SLM_STEP_LOST,     /* the tables cannot be read */
    SLM_STEP_END,      /* the outermost frame */
    SLM_STEP_STACK,    /* the base is the stack pointer and `base` */
    SLM_STEP_FRAME,    /* the frame pointer and `base` */
    SLM_STEP_INDIRECT, /* what lies at the frame pointer and `base` */
};

enum slm_step_frame {
    SLM_STEP_SAME,     /* the caller's frame pointer is the same */
    SLM_STEP_AT_BASE,  /* it lies at the base and `frame` */
    SLM_STEP_AT_FRAME, /* it lies at the frame pointer and `frame` */
};

/* Distances are in bytes. */
struct slm_step {
    enum slm_step_kind kind;
    enum slm_step_frame how;
    int32_t base, frame, back; /* the return address lies at the base and `back` */
};

/* Room for a piece of tables that may be unmapped at any time. */
struct slm_tables_window {
    uintptr_t from, bytes;
    uint8_t copy[240];
};

/* What to do in the frame that goes on behind that address, in this file. The window's contents do not matter. */
struct slm_step slm_tables_step(const struct slm_code_file *file, uintptr_t address,
                                struct slm_tables_window *window);
