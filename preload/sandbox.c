/* prctl(2) goes through the library, which only looks: a program that gives up new privileges is about to install a
 * seccomp filter, as a rule. Whether one is in force cannot be asked without a call that it may not know; so the
 * library's own thread makes none from then on (os/background.h, process/worker.h). */
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process/worker.h"

slm_public slm_seldom int prctl(int option, ...)
{
    unsigned long more[4];
    va_list list;
    va_start(list, option);
    for (unsigned i = 0; i < 4; i++) /* as libc does it, however many there are */
        more[i] = va_arg(list, unsigned long);
    va_end(list);
    if (option == PR_SET_NO_NEW_PRIVS || option == PR_SET_SECCOMP)
        slm_worker_forbid();
    return (int)syscall(SYS_prctl, option, more[0], more[1], more[2], more[3]);
}
#endif
