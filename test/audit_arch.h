/* The architecture of this build, as seccomp(2) calls it: for tests that make filters. */
#pragma once

#include <linux/audit.h>

#if defined __x86_64__
#define AUDIT_ARCH_HERE AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define AUDIT_ARCH_HERE AUDIT_ARCH_AARCH64
#else
#error "name this architecture for seccomp"
#endif
