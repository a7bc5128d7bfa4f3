/* Keeps the moment at which most was alive, to within a thirty-second, and writes what was recorded; see record.h.
 *
 * Each process that ends by exit() (also in a signal's handler) writes PREFIX.PID.csv:
 *
 *     # PROGRAM: N calls, M bytes alive at most
 *     row,ASKED,CALLS,LIVE                                  calls since the start; alive when most was
 *     MOMENT,given,GIVEN,OBJECTS,ASKED                      MOMENT: `peak` or `end`; above 32 KiB GIVEN is the sum
 *     MOMENT,NAME,SIZE,SLABS,MAPPED,RESIDENT,FREE,ROUNDS    with a census: NAME is class, named, large or spans
 *     MOMENT,resident,NAME,BYTES                            the library's own
 *
 * Sizes above 64 KiB are told by the mean of their row. A forked child starts with what is alive, and no calls. What
 * a process has recorded before it runs another program by exec is not told. */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEP = 32, LEAST_STEP = 4 << 10 };

static struct moment {
    struct record_live live;
    struct census census;
} peak, end;

static _Atomic uint64_t look_from = LEAST_STEP; /* bytes alive from which on the moment is kept */
static atomic_flag looking = ATOMIC_FLAG_INIT;
static census_function *take_census;

/* Kept from the start: servers write over their arguments, where the name lies, to show in ps what they do, and make
 * environments of their own. */
static char program[64], prefix[PATH_MAX - 32];
static bool told; /* is the end? */

void record_census_by(census_function *function)
{
    take_census = function;
}

static void keep(struct moment *moment)
{
    memcpy(&moment->live, &record_live, sizeof record_live);
    if (take_census != NULL)
        take_census(&moment->census);
}

void record_look(uint64_t asked_bytes)
{
    if (asked_bytes < atomic_load_explicit(&look_from, memory_order_relaxed) || prefix[0] == '\0' ||
        atomic_flag_test_and_set(&looking))
        return;
    atomic_store(&look_from, asked_bytes + asked_bytes / STEP + LEAST_STEP);
    keep(&peak);
    atomic_flag_clear(&looking);
}

void record_look_again(void)
{
    atomic_store(&look_from, LEAST_STEP);
    atomic_flag_clear(&looking);
}

__attribute__((constructor)) static void start(void)
{
    const char *wanted = getenv("RECORD");
    snprintf(program, sizeof program, "%s", program_invocation_short_name);
    snprintf(prefix, sizeof prefix, "%s", wanted != NULL ? wanted : "");
    record_live_start();
}

/* dprintf has its buffer on the stack: nothing here is counted, and stdio may have been shut down already. */
static void write_rows(int file)
{
    uint64_t calls = 0;
    for (unsigned i = 0; i < RECORD_ROWS; i++)
        calls += record_row_calls[i];
    dprintf(file, "# %s: %" PRIu64 " calls, %" PRIu64 " bytes alive at most\n", program, calls,
            peak.live.asked_bytes);
    for (unsigned i = 0; i < RECORD_ROWS; i++) {
        const uint64_t of_row = record_row_calls[i], live = peak.live.rows[i];
        if (of_row != 0)
            dprintf(file, "row,%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", record_row_bytes[i] / of_row, of_row, live);
    }
}

static void write_census_row(int file, const char *moment, const char *name, const struct census_row *row)
{
    if (row->mapped != 0)
        dprintf(file, "%s,%s,%lu,%lu,%lu,%lu,%lu,%lu\n", moment, name, row->object_size, row->slabs, row->mapped,
                row->resident, row->free, row->rounds);
}

static void write_moment(int file, const char *name, const struct moment *moment)
{
    const struct record_live *live = &moment->live;
    const struct census *census = &moment->census;
    for (unsigned i = 0; i < RECORD_BUCKETS; i++) {
        const uint64_t given = i < RECORD_BUCKETS - 1 ? i * 8 : live->large_given;
        if (live->objects[i] != 0)
            dprintf(file, "%s,given,%lu,%lu,%lu\n", name, given, live->objects[i], live->asked[i]);
    }
    if (take_census == NULL)
        return;
    for (unsigned i = 0; i < CENSUS_CLASSES; i++)
        write_census_row(file, name, "class", &census->classes[i]);
    write_census_row(file, name, "named", &census->named);
    write_census_row(file, name, "large", &census->large);
    write_census_row(file, name, "spans", &census->spans);
    const struct {
        const char *name;
        uint64_t bytes;
    } own[] = {{"descriptors", census->descriptors},
               {"map", census->map},
               {"sizes", census->sizes},
               {"pieces", census->pieces},
               {"bits", census->bits},
               {"magazines", census->magazines},
               {"blocks", census->blocks},
               {"threads", census->threads},
               {"named", census->named_bytes},
               {"named_objects", census->named_objects}};
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
        dprintf(file, "%s,resident,%s,%lu\n", name, own[i].name, own[i].bytes);
}

__attribute__((destructor)) static void finish(void)
{
    char path[PATH_MAX];
    if (prefix[0] == '\0' || told || atomic_flag_test_and_set(&looking))
        return;
    told = true;
    keep(&end);
    snprintf(path, sizeof path, "%s.%d.csv", prefix, (int)getpid());
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) {
        dprintf(STDERR_FILENO, "record: cannot write %s: %s\n", path, strerror(errno));
        return;
    }
    if (peak.live.asked_bytes < end.live.asked_bytes)
        peak = end;
    write_rows(file);
    write_moment(file, "peak", &peak);
    write_moment(file, "end", &end);
    close(file);
}
