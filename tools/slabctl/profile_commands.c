/* `profile FILE`, and the table of the commands that read samples.
 *
 * The file is written under another name beside its place, and renamed: it is whole or not there. What is there
 * and no regular file is written to as it is. */
#include "profile_commands.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "mapping.h"
#include "pprof_make.h"
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

struct output {
    int file;
    char *path;        /* NULL: it is written to in place */
    struct stat older; /* of what is there; zeros: nothing is */
};

static char *temporary; /* NULL: there is none */

/* Whatever ends the tool. */
static void temporary_remove(void)
{
    if (temporary)
        unlink(temporary);
}

/* Where a symbolic link leads to, though nothing is there yet. Whether it may be followed stat(2) has said. */
static char *link_follow(char *path)
{
    enum { LINKS_MOST = 40 }; /* as in the kernel */
    char link[PATH_MAX];
    for (int i = 0; i < LINKS_MOST; i++) {
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length < 0)
            break;
        link[length] = '\0';
        const char *slash = link[0] == '/' ? NULL : strrchr(path, '/');
        size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
        char *next = memory(NULL, folder + (size_t)length + 1, 1);
        memcpy(next, path, folder);
        memcpy(next + folder, link, (size_t)length + 1);
        free(path);
        path = next;
    }
    return path;
}

static int temporary_open(const char *path)
{
    size_t bytes = strlen(path) + sizeof ".XXXXXX";
    char *name = memory(NULL, bytes, 1);
    snprintf(name, bytes, "%s.XXXXXX", path);
    int file = mkostemp(name, O_CLOEXEC);
    if (file >= 0) {
        temporary = name;
        atexit(temporary_remove);
    }
    return file;
}

/* Another name of it. What that is here is not what it is for the user (watch.h). */
static bool is_standard_output(const char *path)
{
    struct stat named, standard;
    return stat(path, &named) == 0 && fstat(STDOUT_FILENO, &standard) == 0 && named.st_dev == standard.st_dev &&
           named.st_ino == standard.st_ino;
}

/* A symbolic link is not replaced. A file that has no path any more, as it was deleted, is written to in place. */
static struct output output_open(const char *path)
{
    struct output output = {.file = -1};
    watch_pause(); /* whoever reads it may take his time */
    if (strcmp(path, "-") == 0) {
        output.file = dup(STDOUT_FILENO);
    } else if (stat(path, &output.older) != 0) {
        if (errno == ENOENT) {
            output.path = link_follow(text_copy(path));
            output.file = temporary_open(output.path);
        }
    } else {
        output.path = S_ISREG(output.older.st_mode) ? realpath(path, NULL) : NULL;
        output.file = output.path ? temporary_open(output.path) : open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    }
    if (output.file < 0)
        fail("%s: %s", path, strerror(errno));
    return output;
}

/* The new file is as readable as the one in whose place it comes, or as the user's files are. It has the owner and
 * group of that, if this user may give it away; to a group that it should not be of it is not readable. */
static bool rights_set(const struct output *output)
{
    const struct stat *older = &output->older;
    struct stat now;
    mode_t mask = umask(0);
    umask(mask);
    if (!older->st_mode)
        return fchmod(output->file, 0666 & ~mask) == 0;
    if (fchown(output->file, older->st_uid, older->st_gid) != 0)
        (void)!fchown(output->file, (uid_t)-1, older->st_gid);
    if (fstat(output->file, &now) != 0)
        return false;
    return fchmod(output->file, older->st_mode & (now.st_gid == older->st_gid ? 0777 : 0707)) == 0;
}

static void output_close(struct output *output, const char *path)
{
    if ((output->path && !rights_set(output)) || close(output->file) != 0 ||
        (output->path && rename(temporary, output->path) != 0))
        fail("%s: %s", path, strerror(errno));
    temporary = NULL;
    free(output->path);
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

/* All work is done before the file is opened. */
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
    struct output output = output_open(path);
    if (!(choice.legacy ? legacy_write(profile, choice.allocated, output.file) : pprof_write(&pprof, output.file)))
        fail("%s: %s", path, strerror(errno));
    output_close(&output, path);
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
