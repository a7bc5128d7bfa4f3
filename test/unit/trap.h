/* Signal handlers at any instruction of a function: on x86 the processor is told to trap after each, and the handler
 * is called behind the one of a given number, or behind each. */
#pragma once

#include "unit.h"

#include <ucontext.h>

__attribute__((unused)) static struct {
    unsigned long step, at; /* the handler comes behind this instruction; 0: behind each */
    void (*handler)(void);
    volatile bool over, came;
} traced;

#ifdef __x86_64__
enum { TRAP_FLAG = 0x100 };

/* Traps go on until the handler has come: they are slow. */
static inline void on_trap(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;
    const int kept = errno;
    (void)number;
    (void)info;
    if (!traced.over && (++traced.step == traced.at || traced.at == 0)) {
        traced.handler();
        traced.came = true;
        traced.over |= traced.at != 0;
    }
    if (traced.over)
        interrupted->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    errno = kept;
}

/* Run it with the handler behind its instruction of that number; false: it has not so many. */
static inline bool interrupt_at(unsigned long at, void (*run)(void), void (*handler)(void))
{
    traced.step = 0;
    traced.at = at;
    traced.handler = handler;
    traced.over = traced.came = false;
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torl %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
                     :
                     : "i"(TRAP_FLAG)
                     : "memory", "cc");
    run();
    traced.over = true;
    return traced.came;
}

static inline void begin_tracing(void)
{
    const struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &trap, NULL);
}

/* How many instructions were tried: enough that the traps have come. */
static inline void end_tracing(unsigned long tried)
{
    signal(SIGTRAP, SIG_DFL);
    assert_true(tried > 100);
}
#else
static inline bool interrupt_at(unsigned long at, void (*run)(void), void (*handler)(void))
{
    (void)at;
    run();
    handler();
    return false;
}

static inline void begin_tracing(void)
{
    print_message("for processors that trap after each instruction\n");
    skip();
}

static inline void end_tracing(unsigned long tried)
{
    (void)tried;
}
#endif

/* Run it with the handler behind each of its instructions, until it says that it is over. */
static inline void interrupt_each(void (*run)(void), void (*handler)(void))
{
    interrupt_at(0, run, handler);
}
