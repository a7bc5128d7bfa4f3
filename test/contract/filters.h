/* Filters of system calls (seccomp(2)): sandboxes, and kernels that know fewer calls. */
#pragma once

#include "common.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "../audit_arch.h"

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define IF_EQUAL(value, action) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(value), 0, 1), RETURN(action)
#define IF_AT_LEAST(value, action) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (unsigned)(value), 0, 1), RETURN(action)
#define UNLESS_ARCHITECTURE_HERE(action)                                                                             \
    LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 1, 0), RETURN(action)

/* Around this thread; with SECCOMP_FILTER_FLAG_TSYNC around all. It is announced as programs do, by prctl. */
static inline void install_filter(const struct sock_filter *filter, size_t length, unsigned flags)
{
    struct sock_fprog program = {.len = (unsigned short)length, .filter = (struct sock_filter *)filter};
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

/* What is not needed to allocate, or to say that something went wrong and end, ends the process. */
static inline void kill_on_other_calls(unsigned flags)
{
    const struct sock_filter filter[] = {
        UNLESS_ARCHITECTURE_HERE(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
        IF_EQUAL(__NR_mmap, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_munmap, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_mremap, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_mprotect, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_madvise, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_futex, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_write, SECCOMP_RET_ALLOW),
        IF_EQUAL(__NR_exit_group, SECCOMP_RET_ALLOW),
        IF_EQUAL(on_glibc() ? __NR_brk : __NR_mmap, SECCOMP_RET_ALLOW),
        RETURN(SECCOMP_RET_KILL_PROCESS),
    };
    install_filter(filter, COUNT(filter), flags);
}
