/* The text of a heap profile, as gperftools writes it and google-pprof reads it:
 *
 *     heap profile: LIVE: BYTES [ALLOCATED: BYTES] @ heapprofile
 *        LIVE: BYTES [ALLOCATED: BYTES] @ ADDRESS...      a line for each stack
 *     MAPPED_LIBRARIES:
 *     START-END r-xp OFFSET 00:00 INODE PATH              as in /proc/PID/maps
 *
 * Its kind is that of a profile of all objects: the figures are estimates for all of them. A sampled kind ("heap_v2")
 * would have the reader make estimates of its own, from the mean size at each stack, which are worse. */
#include "pprof_make.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t rounded(double value)
{
    return (uint64_t)pprof_rounded(value);
}

static void figures_write(FILE *out, const struct estimate *live, const struct estimate *allocated)
{
    fprintf(out, "%6" PRIu64 ": %8" PRIu64 " [%6" PRIu64 ": %8" PRIu64 "] @", rounded(live->objects),
            rounded(live->bytes), rounded(allocated->objects), rounded(allocated->bytes));
}

/* Readers take 1 off all addresses but the innermost one. */
static void site_write(FILE *out, const struct site *site, bool allocated)
{
    const struct estimate *live = allocated ? &site->allocated : &site->live;
    if (!site->live.samples && !site->allocated.samples)
        return;
    figures_write(out, live, &site->allocated);
    for (size_t i = 0; i < site->depth; i++)
        fprintf(out, " 0x%08" PRIx64, site->frames[i] + (i > 0));
    fputs(site->depth ? "\n" : " 0x0\n", out);
}

/* Each file has one line: a newline in its name is as the kernel writes it. */
static void path_write(FILE *out, const char *path)
{
    for (; *path; path++)
        if (*path == '\n')
            fputs("\\012", out);
        else
            putc(*path, out);
    putc('\n', out);
}

bool legacy_write(struct profile *profile, bool allocated, int file)
{
    int copy = dup(file);
    FILE *out = copy >= 0 ? fdopen(copy, "w") : NULL;
    if (!out) {
        if (copy >= 0)
            close(copy);
        return false;
    }
    fputs("heap profile: ", out);
    figures_write(out, allocated ? &profile->allocated : &profile->live, &profile->allocated);
    fputs(" heapprofile\n", out);
    for (size_t i = 0; i < profile_site_count(profile); i++)
        site_write(out, &profile->sites[i], allocated);
    fputs("\nMAPPED_LIBRARIES:\n", out);
    size_t count;
    const struct mapping *mappings = target_mappings(profile->target, &count);
    for (size_t i = 0; i < count; i++) {
        const struct mapping *mapping = &mappings[i];
        if (!mapping->path)
            continue;
        fprintf(out, "%08" PRIx64 "-%08" PRIx64 " %c%c%cp %08" PRIx64 " 00:00 %-10" PRIu64 " ", mapping->start,
                mapping->end, mapping->readable ? 'r' : '-', mapping->writable ? 'w' : '-',
                mapping->executable || modules_at(profile->modules, mapping->start, NULL) ? 'x' : '-',
                mapping->offset, mapping->inode);
        path_write(out, mapping->path);
    }
    bool written = !ferror(out);
    int error = errno;
    if (fclose(out) != 0)
        return false;
    errno = error;
    return written;
}
