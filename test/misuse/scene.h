/* How an object is freed, and where it lies when the misuse comes. */
#pragma once

#include "things.h"

/* Make the row's thing, have it freed by the call row->first (NULL: it stays live), and `commit`. In between come, as
 * the row has it, frees of others (after), the way of all free objects to their slabs (trimmed), and kind "refilled":
 * the committing thread takes an object of the kind. row->who says who does it:
 *
 *     NULL      one thread does all
 *     other     another thread commits; the one that has freed waits
 *     fresh     the same, and the other has allocated nothing before
 *     living    another thread has freed, and lives
 *     exited    another thread has freed, and has ended
 *     child     the child of a fork commits
 *
 * With row->section the main thread is inside a section from the start, so that what is retired waits. Returns
 * the thing. */
struct thing *play(const struct misuse_case *row, void (*commit)(const struct misuse_case *row, struct thing *thing));

/* Leave the section, and wait until what was retired has been freed. */
void end_section(void);
