/* What a frame answers to an unwinder; see hook.h.
 *
 * Compilers give only frames that catch something a personality, the routine that answers; so slm_hook_run names its
 * own. A C program needs no library for it: who throws has brought an unwinder. */
#include "base/hook.h"

#include <pthread.h>
#include <stddef.h>

#include "base/panic.h"

static __thread const struct slm_hook *running; /* the innermost of this thread */

/* An _Unwind_Personality_Fn. */
static slm_seldom __attribute__((used, noreturn)) void refuse_to_leave(void)
{
    slm_panic(NULL, NULL, running->what, running->cache, 0);
}

__attribute__((noinline)) void slm_hook_run(const struct slm_hook *hook)
{
    int state;
    const struct slm_hook *outer = running;
    __asm__ volatile(".cfi_personality 0x1b, refuse_to_leave"); /* by its distance */
    running = hook;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    hook->work(hook);
    pthread_setcancelstate(state, NULL);
    running = outer;
}
