/* `profile FILE`, and the table of the commands that read samples. */
#include "profile_commands.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "mapping.h"
#include "pprof_make.h"
#include "save.h"
#include "watch.h"

const struct command profile_commands[] = {
    {"top", "", 0, 0, "What holds most memory: call stacks, functions or caches", top_run, &top_argp, NULL},
    {"profile", "FILE", 1, 1, "Write a profile that pprof reads; FILE - is standard output", profile_run,
     &profile_argp, NULL},
    {"leaks", "", 0, 0, "Call stacks whose live bytes only grow for a time", leaks_run, &leaks_argp, NULL},
    {0},
};

enum { KEY_LEGACY = 'l', KEY_ALLOCATED = 'a', KEY_DIFF = 'd' };

static struct {
    bool legacy, allocated;
    const char *older;
} choice;

static error_t parse(int key, char *word, struct argp_state *argp) /* NOLINT(readability-non-const-parameter) */
{
    switch (key) {
    case KEY_LEGACY:
        choice.legacy = true;
        return 0;
    case KEY_ALLOCATED:
        choice.allocated = true;
        return 0;
    case KEY_DIFF:
        choice.older = word;
        return 0;
    case ARGP_KEY_END:
        if (choice.legacy && choice.older)
            argp_error(argp, "the legacy format has no negative numbers, so no --diff (google-pprof has --base)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"legacy", KEY_LEGACY, NULL, 0, "The heap text that google-pprof reads, without names", 0},
    {"allocated", KEY_ALLOCATED, NULL, 0, "Readers show what was allocated since the start first, freed or not", 0},
    {"diff", KEY_DIFF, "OLD", 0, "What has grown since the profile OLD, which slabctl has written", 0},
    {0},
};
const struct argp profile_argp = {.options = options, .parser = parse};

/* -- the file ------------------------------------------------------------------------------------------------- */

/* Another name of it. What that is here is not what it is for the user (watch.h). */
static bool is_standard_output(const char *path)
{
    struct stat named, standard;
    return stat(path, &named) == 0 && fstat(STDOUT_FILENO, &standard) == 0 && named.st_dev == standard.st_dev &&
           named.st_ino == standard.st_ino;
}

static void older_read(struct pprof *older)
{
    int file = regular_open(choice.older);
    if (file < 0)
        fail("%s: %s", choice.older, errno ? strerror(errno) : "not a file");
    pprof_init(older);
    const char *wrong = pprof_read(older, file);
    if (wrong)
        fail("%s: %s", choice.older, wrong);
    close(file);
}

static void written_say(const struct profile *profile, const struct pprof *pprof, const char *path)
{
    double bytes = 0;
    for (size_t i = 0; i < pprof->sample_count; i++)
        bytes += pprof->samples[i].values[pprof->shown];
    if (choice.older)
        printf("%s: %s %s than in %s\n", path, amount_of((uint64_t)fabs(bytes)).text, bytes < 0 ? "less" : "more",
               choice.older);
    else
        printf("%s: %s %s%s, by %ju samples\n", path, amount_of((uint64_t)fabs(bytes)).text,
               choice.allocated ? "allocated since the start" : "live",
               profile_is_short(profile) ? " in what could be read" : "",
               (uintmax_t)(choice.allocated ? profile->allocated : profile->live).samples);
}

/* All is in memory before a file is opened. */
static void pprof_save(struct pprof *pprof, struct profile *profile, const char *path)
{
    int contents = file_behind_standard(memfd_create("profile", MFD_CLOEXEC));
    if (contents < 0 ||
        !(choice.legacy ? legacy_write(profile, choice.allocated, contents) : pprof_write(pprof, contents)))
        fail("%s: %s", path, strerror(errno));
    if (strcmp(path, "-") == 0)
        save_to_output(contents);
    else
        save(path, contents);
    close(contents);
}

void profile_run(const struct request *request)
{
    const char *path = is_standard_output(request->words[0]) ? "-" : request->words[0];
    if (strcmp(path, "-") == 0 && !choice.legacy && output_is_terminal())
        fail("a gzip'ed profile is nothing for a terminal");
    struct pprof pprof, older;
    if (choice.older)
        older_read(&older);
    struct profile *profile = profile_open(request->target);
    profile_look(profile, true);
    pprof_init(&pprof);
    pprof.shown = choice.allocated ? ALLOC_SPACE : INUSE_SPACE;
    pprof_make(&pprof, profile);
    if (choice.older) {
        pprof_subtract(&pprof, &older);
        pprof_free(&older);
    }
    pprof_save(&pprof, profile, path);
    struct notes notes;
    profile_notes(profile, &notes);
    for (unsigned i = profile_is_short(profile); i < notes.count; i++)
        complain("note: %s", notes.text[i]);
    if (strcmp(path, "-") != 0)
        written_say(profile, &pprof, path);
    profile_short_say(profile);
    pprof_free(&pprof);
    profile_close(profile);
}
