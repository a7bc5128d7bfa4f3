/* Recording what a program asks its allocator for: LD_PRELOAD=librecord.so RECORD=PREFIX PROGRAM.
 *
 *     calls.c    stands in front of malloc and its family, and passes each call on to the next malloc
 *     live.c     which objects are alive, of how many bytes that were asked for and given
 *     write.c    counts calls, keeps the moment of the largest sum, and writes all at the end of the process
 *     census.c   linked into the library itself: what of its memory is resident, and for what
 *
 * Locks and counters are shared by all threads: this is for counting, never for timing. None of the recorder's memory
 * is malloc's. */
#ifndef RECORD_H
#define RECORD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

enum { RECORD_SMALL = 32768 }; /* what is given that is larger is not told by its size */

/* -- calls.c tells live.c ------------------------------------------------------------------------------------- */

/* An object has been made, or made anew by realloc: so many bytes were asked for, and malloc_usable_size given. */
void record_made(void *object, size_t asked, size_t given);

/* It is about to go. Returns what was asked for it, and *given; *given is 0 if it is not known. */
size_t record_gone(void *object, size_t *given);

/* -- live.c --------------------------------------------------------------------------------------------------- */

/* Sizes up to 64 KiB have a row each; above, eight to each power of two. */
enum {
    RECORD_EXACT = 1 << 16,
    RECORD_ROWS = RECORD_EXACT + 1 + 48 * 8,
    RECORD_BUCKETS = RECORD_SMALL / 8 + 2 /* by given bytes, and one for larger objects */
};

/* At a moment. */
struct record_live {
    _Atomic uint64_t asked_bytes;                                                 /* of all */
    _Atomic uint64_t objects[RECORD_BUCKETS], asked[RECORD_BUCKETS], large_given; /* by given bytes / 8 */
    _Atomic uint64_t rows[RECORD_ROWS];                                           /* objects by asked bytes */
};
extern struct record_live record_live;
extern _Atomic uint64_t record_row_calls[RECORD_ROWS], record_row_bytes[RECORD_ROWS]; /* since the start */

void record_live_start(void);

/* -- write.c -------------------------------------------------------------------------------------------------- */

/* So many bytes are alive: is that the most? */
void record_look(uint64_t asked_bytes);

/* In the child of a fork, which may have lost a thread that was at it. */
void record_look_again(void);

/* -- census.c ------------------------------------------------------------------------------------------------- */

enum { CENSUS_CLASSES = 75 };

/* Memory of one kind, in bytes. */
struct census_row {
    uint64_t object_size, slabs, mapped, resident;
    uint64_t free, rounds; /* objects: free in slabs; in magazines and depots */
};

struct census {
    struct census_row classes[CENSUS_CLASSES];
    struct census_row named; /* caches that the program has made, all together */
    struct census_row large, spans;
    uint64_t named_bytes, named_objects;       /* that are out of slabs */
    uint64_t descriptors, map, sizes, pieces;  /* resident: the library's own */
    uint64_t bits, magazines, blocks, threads; /* of the pieces */
};

typedef void census_function(struct census *census);

/* The library that is recorded has a census, and says so when it is loaded. */
EXPORTED void record_census_by(census_function *function);

#endif
