/* One-line messages; see panic.h. */
#include "base/panic.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "base/call.h"

/* No file has inode 0, so where standard error was closed at start no descriptor is open on it. */
static struct {
    bool known;
    dev_t device;
    ino_t inode;
} stderr_at_start;

void slm_line_text(struct slm_line *line, const char *text)
{
    while (*text && line->length < sizeof line->text - 1)
        line->text[line->length++] = *text++;
}

static void line_digits(struct slm_line *line, uint64_t number, unsigned base)
{
    char digits[24];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do
        digits[--at] = "0123456789abcdef"[number % base];
    while ((number /= base) != 0);
    slm_line_text(line, digits + at);
}

void slm_line_number(struct slm_line *line, uint64_t number)
{
    line_digits(line, number, 10);
}

void slm_line_pointer(struct slm_line *line, const void *pointer)
{
    slm_line_text(line, "0x");
    line_digits(line, (uintptr_t)pointer, 16);
}

static slm_seldom bool look_at(int descriptor, struct stat *file)
{
    return slm_call(SYS_fstat, descriptor, file) == 0;
}

static slm_seldom bool was_stderr(const struct stat *file)
{
    return file->st_ino != 0 && file->st_ino == stderr_at_start.inode && file->st_dev == stderr_at_start.device;
}

slm_seldom void slm_stderr_remember(void)
{
    struct stat file;
    const bool is_open = look_at(STDERR_FILENO, &file);
    stderr_at_start.known = true;
    stderr_at_start.device = is_open ? file.st_dev : 0;
    stderr_at_start.inode = is_open ? file.st_ino : 0;
}

slm_seldom bool slm_stderr_is(int descriptor)
{
    struct stat file;
    return look_at(descriptor, &file) && was_stderr(&file);
}

/* A pipe in its place collects what a server and its children say; a file is data. */
static slm_seldom bool stderr_takes_lines(void)
{
    struct stat file;
    if (!stderr_at_start.known)
        return true;
    return stderr_at_start.inode != 0 && look_at(STDERR_FILENO, &file) &&
           (was_stderr(&file) || S_ISFIFO(file.st_mode));
}

slm_seldom int slm_write_all(int descriptor, const char *text, size_t length)
{
    long wrote;
    do {
        wrote = slm_call(SYS_write, descriptor, text, length);
        text += wrote > 0 ? wrote : 0;
        length -= wrote > 0 ? (size_t)wrote : 0;
    } while (length > 0 && (wrote > 0 || wrote == -EINTR));
    return wrote < 0 ? (int)-wrote : 0;
}

static void write_line(struct slm_line *line, int descriptor)
{
    line->text[line->length] = '\n';
    slm_write_all(descriptor, line->text, line->length + 1);
}

void slm_line_write(struct slm_line *line, int descriptor)
{
    if (descriptor != STDERR_FILENO || stderr_takes_lines())
        write_line(line, descriptor);
}

void slm_warn(const char *text, const char *detail)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: ");
    slm_line_text(&line, text);
    slm_line_text(&line, detail ? detail : "");
    slm_line_write(&line, STDERR_FILENO);
}

_Noreturn void slm_panic(const char *call, const void *pointer, const char *what, const char *cache, const void *slab)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: ");
    if (call) {
        slm_line_text(&line, call);
        slm_line_text(&line, "(");
        slm_line_pointer(&line, pointer);
        slm_line_text(&line, "): ");
    }
    slm_line_text(&line, what);
    if (cache) {
        slm_line_text(&line, " of cache ");
        slm_line_text(&line, cache);
    }
    if (slab) {
        slm_line_text(&line, " (slab ");
        slm_line_pointer(&line, slab);
        slm_line_text(&line, ")");
    }
    write_line(&line, STDERR_FILENO);
    abort();
}
