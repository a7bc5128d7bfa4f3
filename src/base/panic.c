/* One-line messages; see panic.h. */
#include "base/panic.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/call.h"

/* No file has inode 0, so 0 stands for a standard error that was closed at start. */
static struct {
    bool known;
    dev_t device;
    ino_t inode;
} stderr_at_start slm_once;

void slm_line_text(struct slm_line *line, const char *text)
{
    while (*text && line->length < sizeof line->text - 1)
        line->text[line->length++] = *text++;
}

static void add_digits(struct slm_line *line, uint64_t number, unsigned base)
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
    add_digits(line, number, 10);
}

void slm_line_add(struct slm_line *line, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    for (; *format; format++) {
        const char plain[] = {*format, 0};
        switch (*format == '%' ? *++format : 0) {
        case 's':
            slm_line_text(line, va_arg(values, const char *));
            break;
        case 'u':
            slm_line_number(line, va_arg(values, unsigned));
            break;
        case 'l':
            slm_line_number(line, va_arg(values, unsigned long));
            format++; /* the u */
            break;
        case 'p':
            slm_line_text(line, "0x");
            add_digits(line, (uintptr_t)va_arg(values, void *), 16);
            break;
        default:
            slm_line_text(line, plain);
        }
    }
    va_end(values);
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
    struct stat file = {0}; /* as it stays where the descriptor is closed */
    look_at(STDERR_FILENO, &file);
    stderr_at_start.known = true;
    stderr_at_start.device = file.st_dev;
    stderr_at_start.inode = file.st_ino;
}

slm_seldom bool slm_stderr_is(int descriptor)
{
    struct stat file;
    return look_at(descriptor, &file) && was_stderr(&file);
}

/* A pipe in its place collects the messages of a server and its children; a file would be the program's data. */
static slm_seldom bool stderr_takes_lines(void)
{
    struct stat file;
    return !stderr_at_start.known || (stderr_at_start.inode != 0 && look_at(STDERR_FILENO, &file) &&
                                      (was_stderr(&file) || S_ISFIFO(file.st_mode)));
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
    slm_line_add(&line, "slabmalloc: %s%s", text, detail ? detail : "");
    slm_line_write(&line, STDERR_FILENO);
}

_Noreturn void slm_panic(const char *call, const void *pointer, const char *what, const char *cache, const void *slab)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: ");
    if (call)
        slm_line_add(&line, "%s(%p): ", call, pointer);
    slm_line_text(&line, what);
    if (cache)
        slm_line_add(&line, " of cache %s", cache);
    if (slab)
        slm_line_add(&line, " (slab %p)", slab);
    write_line(&line, STDERR_FILENO);
    abort();
}
