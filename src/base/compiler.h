/* Hints and attributes for the compiler, and the assertion of checked builds. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* The cold half of a function: never inlined into the hot one, and placed away from it. */
#define slm_slow __attribute__((noinline, cold))
/* A function whose first instructions decide what a call costs: they do not straddle a line. */
#define slm_hot_path __attribute__((aligned(16)))
/* A function that runs once or twice in a process: compiled for size and placed apart. */
#define slm_cold __attribute__((cold))
/* A function that few processes ever call. It lies in a mapping of its own (preload/sections.ld), which others never
 * have in memory. */
#define slm_seldom __attribute__((cold, section("slm_seldom")))
/* The same, where speed counts for those that do. */
#define slm_for_few __attribute__((section("slm_seldom")))
/* A function that takes or ends samples: in another such mapping, as most processes that are not small come to it. */
#define slm_sampling __attribute__((section("slm_sampling")))
/* A function in a file that lies there, which every process with several threads calls. */
#define slm_often __attribute__((section(".text")))
/* A function that reads without order what other threads write, on purpose: hidden from ThreadSanitizer. */
#define slm_unordered __attribute__((no_sanitize_thread))
/* Read-only data that every process reads. It is placed with what the loader writes to, so that the nine pages of
 * messages and unwinding tables stay out of memory until one is needed. */
#define slm_always_read __attribute__((section(".data.rel.ro.slm")))
/* A variable of which most processes use little or nothing. It lies behind all others (preload/sections.ld), so that
 * these share few pages. */
#define slm_sparse __attribute__((section(".bss.slm_sparse")))
/* One that sampling writes, on a page with the others. */
#define slm_sampled_state __attribute__((section(".bss.slm_sampled_state")))
/* What is written at start and then only read lies together in one section, which is sealed at the end of the start
 * (process/lifecycle.c): a later write ends the process. */
#define slm_once __attribute__((section("slm_once")))

#define slm_inline static inline __attribute__((always_inline))
#define slm_public __attribute__((visibility("default")))

/* A further name for a function that the same file defines. */
#define slm_text_of(name) #name
#if __has_attribute(copy)
#define slm_alias_of(name) __attribute__((alias(slm_text_of(name)), copy(name)))
#else
#define slm_alias_of(name) __attribute__((alias(slm_text_of(name))))
#endif

/* For variables of other files that hot paths read: without it the compiler would use the global offset table. */
#define slm_hidden __attribute__((visibility("hidden")))

/* Make the compiler forget how a register got its value; no instruction. Hot paths use it where keeping an address in
 * a register would cost an instruction, and x86's scaled addressing computes it for free. */
#define slm_hide_value(variable) __asm__("" : "+r"(variable))
#define slm_cacheline __attribute__((aligned(64)))

/* True in checked builds (test/variants); an ordinary constant, so that the code is always compiled. */
#ifdef SLM_CHECKED
enum { slm_checked = 1 };
#else
enum { slm_checked = 0 };
#endif

/* True in the bench's build (test/variants), which times its locks by rank. */
#ifdef SLM_BENCH
enum { slm_bench = 1 };
#else
enum { slm_bench = 0 };
#endif

/* An invariant that holds whatever a client does; checked builds stop where it does not. */
#define slm_assert(condition) assert(!slm_checked || (condition))
