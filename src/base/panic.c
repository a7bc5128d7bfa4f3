/* One-line messages; see panic.h. */
#include "base/panic.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/atomic.h"
#include "base/call.h"

/* What tells files apart. A file system may give the inode of one that was removed to the next that is made. No file
 * has inode 0, so 0 stands for a descriptor that is closed. */
struct file {
    uint64_t inode;
    int64_t born_s;
    uint32_t born_ns, device_major, device_minor, type;
};

static struct {
    bool known;
    struct file file;
} stderr_at_start slm_once;

/* As glibc leaves the line that it aborts with. It would unmap so many bytes at its next message: none. */
static struct {
    unsigned mapped_bytes;
    char text[sizeof((struct slm_line *)0)->text + 1];
} abort_message slm_sparse;

static void *_Atomic *glibc_abort_message slm_once; /* NULL: this libc has none, or it was not found */

/* Absent from static programs. A reference to glibc's variable would bind the library to GLIBC_PRIVATE. */
extern void *dlvsym(void *restrict handle, const char *restrict name, const char *restrict version)
    __attribute__((weak));

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

slm_seldom void slm_line_add(struct slm_line *line, const char *format, ...)
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

static slm_cold struct file look_at(int descriptor)
{
    slm_always_read static const char itself[] = "";
    struct statx all = {0}; /* as it stays where the descriptor is closed */
    slm_call(SYS_statx, descriptor, itself, AT_EMPTY_PATH, STATX_TYPE | STATX_INO | STATX_BTIME, &all);
    return (struct file){.inode = all.stx_ino,
                         .born_s = all.stx_btime.tv_sec,
                         .born_ns = all.stx_btime.tv_nsec,
                         .device_major = all.stx_dev_major,
                         .device_minor = all.stx_dev_minor,
                         .type = all.stx_mode & S_IFMT};
}

static slm_seldom bool was_stderr(const struct file *file)
{
    return file->inode != 0 && memcmp(file, &stderr_at_start.file, sizeof *file) == 0;
}

slm_cold void slm_stderr_remember(void)
{
    stderr_at_start.file = look_at(STDERR_FILENO);
    stderr_at_start.known = true;
}

slm_seldom bool slm_stderr_is(int descriptor)
{
    const struct file file = look_at(descriptor);
    return was_stderr(&file);
}

/* A pipe in its place collects the messages of a server and its children; a file would be the program's data. */
static slm_seldom bool stderr_takes_lines(void)
{
    if (!stderr_at_start.known)
        return true;
    const struct file file = look_at(STDERR_FILENO);
    return was_stderr(&file) || (stderr_at_start.file.inode != 0 && file.type == S_IFIFO);
}

slm_seldom int slm_write_all(int descriptor, const char *text, size_t length)
{
    long wrote;
    do {
        wrote = slm_call(SYS_write, descriptor, text, length);
        text += wrote > 0 ? wrote : 0;
        length -= wrote > 0 ? (size_t)wrote : 0;
    } while (length > 0 && (wrote > 0 || wrote == -EINTR));
    return wrote < 0 ? (int)-wrote : length > 0 ? EIO : 0;
}

/* The kernel's masks of signals, whatever libc's sigset_t is. */
slm_seldom void slm_write_quietly(int descriptor, const char *text, size_t length)
{
    static const struct timespec at_once;
    const uint64_t broken = (uint64_t)1 << (SIGPIPE - 1);
    uint64_t before = 0, pending = 0;
    slm_call(SYS_rt_sigpending, &pending, sizeof pending);
    slm_call(SYS_rt_sigprocmask, SIG_BLOCK, &broken, &before, sizeof broken);
    if (slm_write_all(descriptor, text, length) == EPIPE && !(pending & broken))
        slm_call(SYS_rt_sigtimedwait, &broken, NULL, &at_once, sizeof broken); /* ours: none was pending before */
    slm_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

slm_seldom void slm_line_write(struct slm_line *line, int descriptor)
{
    line->text[line->length] = '\n';
    if (descriptor != STDERR_FILENO || stderr_takes_lines())
        slm_write_quietly(descriptor, line->text, line->length + 1);
}

void slm_warn(const char *text, const char *detail)
{
    struct slm_line line = {0};
    slm_line_add(&line, "slabmalloc: %s%s", text, detail ? detail : "");
    slm_line_write(&line, STDERR_FILENO);
}

slm_cold void slm_panic_start(void)
{
    slm_always_read static const char name[] = "__abort_msg", version[] = "GLIBC_PRIVATE";
    if (dlvsym)
        glibc_abort_message = dlvsym(RTLD_DEFAULT, name, version);
}

/* Of threads that panic at once, the first one leaves its line. */
static void leave_for_debuggers(const struct slm_line *line)
{
    static _Atomic bool left;
    if (atomic_exchange(&left, true))
        return;
    memcpy(abort_message.text, line->text, line->length);
    abort_message.text[line->length] = '\n';
    if (glibc_abort_message)
        store_relaxed(glibc_abort_message, &abort_message);
}

slm_seldom void slm_line_last(struct slm_line *line)
{
    leave_for_debuggers(line);
    line->text[line->length] = '\n';
    slm_write_all(STDERR_FILENO, line->text, line->length + 1);
}

_Noreturn void slm_panic(const char *call, const void *pointer, const char *what, const char *cache,
                         size_t object_size)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: ");
    if (call)
        slm_line_add(&line, "%s(%p): ", call, pointer);
    slm_line_text(&line, what);
    if (cache)
        slm_line_add(&line, " of cache %s", cache);
    else if (object_size != 0)
        slm_line_add(&line, " of %lu bytes", object_size);
    slm_line_add(&line, " (thread %u)", (unsigned)slm_call(SYS_gettid));
    slm_line_last(&line);
    abort();
}
