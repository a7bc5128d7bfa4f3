/* A file is replaced, or where that cannot be written in place.
 *
 *     contents, a file in memory --- copied ---> FOLDER/.slabctl.XXXXXX --- rename(2) ---> FILE
 *                                      \ or ---> FILE: another kind of file; a file with other names; one in a
 *                                                folder that lets nothing be made or renamed in it
 *
 * The temporary file goes with whatever ends the tool: at its exit, by signals that ask for the end, which the child
 * gets also when the tool is killed, and by the tool when the child is killed. */
#include "save.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"
#include "watch.h"

/* -- the temporary file --------------------------------------------------------------------------------------- */

enum { NAME_MOST = PATH_MAX }; /* no longer one can be opened */

static char
    *temporary; /* its name, "" if there is none; written by the child, read by the tool when that has ended */

void save_share(void)
{
    temporary = watch_memory(NAME_MOST);
}

void save_clean(void)
{
    if (temporary && temporary[0])
        unlink(temporary);
}

/* For signal handlers. */
static void clean_and_end(int number)
{
    save_clean();
    signal(number, SIG_DFL);
    raise(number);
}

/* Those that would end the tool; some are ignored by nohup and the like. */
static void signals_catch(sigset_t *caught)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    sigemptyset(caught);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction is;
        if (sigaction(numbers[i], NULL, &is) == 0 && is.sa_handler == SIG_DFL) {
            sigaddset(caught, numbers[i]);
            sigaction(numbers[i], &(struct sigaction){.sa_handler = clean_and_end}, NULL);
        }
    }
    int at_end = 0;
    if (prctl(PR_GET_PDEATHSIG, &at_end) == 0 && at_end)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
}

/* Beside `path`. Returns -1 with errno. */
static int temporary_open(const char *path)
{
    char name[NAME_MOST];
    sigset_t caught, before;
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    if (snprintf(name, sizeof name, "%.*s.slabctl.XXXXXX", folder, path) >= (int)sizeof name) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (!temporary)
        save_share();
    atexit(save_clean);
    signals_catch(&caught);
    sigprocmask(SIG_BLOCK, &caught, &before);
    int file = mkostemp(name, O_CLOEXEC), error = errno;
    if (file >= 0)
        memcpy(temporary, name, strlen(name) + 1);
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return file;
}

static void temporary_remove(void)
{
    save_clean();
    temporary[0] = '\0';
}

/* -- in its place --------------------------------------------------------------------------------------------- */

/* The new file is as readable as the one in whose place it comes, or as the user's files are. It has the owner and
 * group of that, if this user may give it away; to a group that it should not be of it is not readable. */
static bool rights_set(int file, const struct stat *older)
{
    struct stat now;
    mode_t mask = umask(0);
    umask(mask);
    if (!older->st_mode)
        return fchmod(file, 0666 & ~mask) == 0;
    if (fchown(file, older->st_uid, older->st_gid) != 0)
        (void)!fchown(file, (uid_t)-1, older->st_gid);
    if (fstat(file, &now) != 0)
        return false;
    return fchmod(file, older->st_mode & (now.st_gid == older->st_gid ? 0777 : 0707)) == 0;
}

/* Closes the file. False with errno. */
static bool contents_write(int contents, int file)
{
    bool written = file_copy(contents, file);
    int error = errno;
    if (close(file) != 0)
        return false;
    errno = error;
    return written;
}

static bool in_place_write(const char *path, int contents, int flags)
{
    int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | flags);
    return file >= 0 && contents_write(contents, file);
}

/* Whether it is the folder that does not allow it: a file in it may be writable for all that, or be mounted there. */
static bool is_of_folder(int error)
{
    return error == EACCES || error == EPERM || error == EROFS || error == EBUSY || error == ENAMETOOLONG;
}

/* False with errno. `older`: of what is there; zeros: nothing is. */
static bool replace(const char *path, int contents, const struct stat *older)
{
    int file = temporary_open(path);
    if (file >= 0 && !rights_set(file, older)) {
        close(file);
        return false;
    }
    if (file >= 0 && !contents_write(contents, file))
        return false;
    if (file >= 0 && rename(temporary, path) == 0) {
        temporary[0] = '\0';
        return true;
    }
    int error = errno;
    if (file >= 0)
        temporary_remove();
    errno = error;
    return is_of_folder(error) && older->st_mode && in_place_write(path, contents, O_NOFOLLOW);
}

/* -- all ------------------------------------------------------------------------------------------------------ */

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

/* A symbolic link is not replaced. A file that has no path any more, as it was deleted, is written to in place. */
static bool file_write(const char *path, int contents)
{
    struct stat older = {0};
    char *real = NULL;
    if (stat(path, &older) == 0) {
        if (S_ISREG(older.st_mode) && older.st_nlink == 1)
            real = realpath(path, NULL);
        if (!real)
            return in_place_write(path, contents, 0);
    } else if (errno == ENOENT) {
        older = (struct stat){0};
        real = link_follow(text_copy(path));
    } else {
        return false;
    }
    bool written = replace(real, contents, &older);
    int error = errno;
    free(real);
    errno = error;
    return written;
}

void save(const char *path, int contents)
{
    watch_pause(); /* whoever reads it may take his time */
    if (!file_write(path, contents))
        fail("%s: %s", path, strerror(errno));
}

void save_to_output(int contents)
{
    watch_pause();
    if (!file_copy(contents, STDOUT_FILENO))
        fail("standard output: %s", strerror(errno));
}
