/* Waiting, barriers, clock, entropy, processor, files; see sys.h. */
#include "os/sys.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>

#include "base/bits.h"
#include "base/call.h"
#include "base/errno.h"
#include "base/panic.h"

void slm_sys_wait(_Atomic uint32_t *word, uint32_t expected, unsigned timeout_ms)
{
    const struct timespec limit = {timeout_ms / 1000, (long)(timeout_ms % 1000) * 1000000};
    if (slm_call(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ms ? &limit : NULL, NULL, 0) == -ENOSYS)
        slm_call(SYS_sched_yield); /* a filter took futex away: waiting becomes polling */
}

/* By number, as libc's headers may not have futex_waitv(2). */
slm_cold bool slm_sys_wait_any(const struct slm_sys_word *words, unsigned count)
{
    enum { futex_waitv = 449 };
    const long result = slm_call(futex_waitv, words, count, 0, NULL, 0);
    return result >= 0 || result == -EAGAIN || result == -EINTR;
}

void slm_sys_sleep_ms(unsigned ms)
{
    static _Atomic uint32_t nobody_wakes;
    slm_sys_wait(&nobody_wakes, 0, ms);
}

slm_cold uint64_t slm_sys_block_signals(void)
{
    const uint64_t all = ~((uint64_t)3 << 31);
    uint64_t before = 0;
    slm_call(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof all);
    return before;
}

slm_cold void slm_sys_restore_signals(uint64_t before)
{
    slm_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

void slm_sys_wake(_Atomic uint32_t *word)
{
    slm_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void slm_sys_wake_all(_Atomic uint32_t *word)
{
    slm_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

_Atomic uint64_t slm_sys_membarriers;
_Atomic bool slm_sys_has_membarrier = true;

static long membarrier(int command)
{
    return slm_call(SYS_membarrier, command, 0, 0);
}

bool slm_sys_membarrier_register(void)
{
    const bool done = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    if (!done)
        store_relaxed(&slm_sys_has_membarrier, false);
    return done;
}

bool slm_sys_membarrier(void)
{
    long result = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    if (result == -EPERM && slm_sys_membarrier_register())
        result = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    if (result == 0)
        add_relaxed(&slm_sys_membarriers, 1);
    else
        store_relaxed(&slm_sys_has_membarrier, false);
    return result == 0;
}

static struct timespec read_clock(clockid_t clock)
{
    slm_keep_errno();
    struct timespec now = {0, 0};
    clock_gettime(clock, &now);
    return now;
}

uint64_t slm_sys_now_us(void)
{
    const struct timespec now = read_clock(CLOCK_MONOTONIC);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t slm_sys_now_ms(void)
{
    const struct timespec now = read_clock(CLOCK_MONOTONIC_COARSE);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* AT_RANDOM has the stack protector's secret too: hide it. */
uint64_t slm_sys_entropy(uint64_t number)
{
    uint64_t bits[2] = {0, 0};
    if (slm_call(SYS_getrandom, bits, sizeof bits, 1 /* GRND_NONBLOCK */) != (long)sizeof bits) {
        const void *random = (const void *)getauxval(AT_RANDOM); /* sixteen bytes from the kernel */
        if (random)
            memcpy(bits, random, sizeof bits);
    }
    return slm_mix(bits[0] + slm_mix(bits[1] + number * 0x9e3779b97f4a7c15u));
}

void slm_sys_where(unsigned *cpu, unsigned *node)
{
    slm_keep_errno();
    *cpu = *node = 0;
    getcpu(cpu, node);
}

/* The kernel reads the set of signals before it looks at what is to be done with it, and -1 is nothing. */
slm_sampling bool slm_sys_readable(const void *address)
{
    return slm_call(SYS_rt_sigprocmask, -1, address, NULL, sizeof(uint64_t)) != -EFAULT;
}

slm_sampling size_t slm_sys_copy(void *to, const void *from, size_t bytes)
{
    const struct iovec local = {to, bytes}, remote = {(void *)(uintptr_t)from, bytes};
    const long copied = slm_call(SYS_process_vm_readv, slm_call(SYS_getpid), &local, 1, &remote, 1, 0);
    return copied > 0 ? (size_t)copied : 0;
}

slm_sampling bool slm_sys_is_filtered(void)
{
    return slm_call(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
}

bool slm_sys_is_sysfs(const char *path)
{
    struct statfs where = {0};
    return slm_call(SYS_statfs, path, &where) == 0 && where.f_type == SYSFS_MAGIC;
}

bool slm_sys_read_file(const char *path, char *text, size_t size)
{
    long length = -1;
    const long file = slm_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        length = slm_call(SYS_read, file, text, size - 1);
        slm_call(SYS_close, file);
    }
    if (length >= 0)
        text[length] = 0;
    return length > 0;
}

slm_seldom bool slm_sys_each_line(const char *path, slm_line_reader *reader, void *context)
{
    char text[2048], *from;
    size_t held = 0;
    bool whole = true; /* the line that is held has its beginning */
    const long file = slm_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    for (long got; (got = slm_call(SYS_read, file, text + held, sizeof text - held)) > 0;
         held -= (size_t)(from - text)) {
        from = text;
        held += (size_t)got;
        for (char *end; (end = memchr(from, '\n', (size_t)(text + held - from))); from = end + 1) {
            *end = 0;
            if (whole)
                reader(from, context);
            whole = true;
        }
        whole = whole && !(from == text && held == sizeof text);
        from = whole ? from : text + held;
        memmove(text, from, (size_t)(text + held - from));
    }
    slm_call(SYS_close, file);
    return true;
}

/* The kernel's table of open files is as long as the highest descriptor, so that stays below 1024. Where a process
 * may have only few files, all of them are left to the program. */
slm_seldom int slm_sys_duplicate(int descriptor)
{
    enum { highest = 1024, lowest = 16 };
    int made = -1;
    struct {
        uint64_t soft, hard;
    } files = {highest, highest};
    slm_call(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &files);
    const int end = files.soft < highest ? (int)files.soft : highest;
    for (int least = end - end / 16 - 1; made < 0 && least >= lowest; least /= 2) /* the higher ones are in use */
        made = (int)slm_call(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, least);
    return made;
}

slm_seldom int slm_sys_open_to_append(const char *path, bool create)
{
    const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | (create ? O_CREAT : O_NONBLOCK);
    return (int)slm_call(SYS_openat, AT_FDCWD, path, flags, 0644);
}

slm_seldom void slm_sys_close(int descriptor)
{
    slm_call(SYS_close, descriptor);
}

slm_seldom int slm_sys_access_to_make(const char *folder)
{
    return (int)-slm_call(SYS_faccessat, AT_FDCWD, folder, W_OK | X_OK);
}

uint32_t slm_sys_thread_id(void)
{
    return (uint32_t)slm_call(SYS_gettid);
}

bool slm_sys_is_main_thread(void)
{
    return slm_sys_thread_id() == (uint32_t)slm_call(SYS_getpid);
}
