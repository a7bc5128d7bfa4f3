/* The program's own functions that the library calls: constructors, destructors, those of slab_epoch_call. They must
 * return: what is half done around them would stay so.
 *
 * An exception that none of their own frames catches ends the process with one line, at the throw: an unwinder first
 * asks every frame that it would leave, before it leaves any. So does pthread_exit. Cancellation is off meanwhile: a
 * request waits until the function has returned. Only longjmp asks nobody. */
#pragma once

struct slm_hook {
    void (*work)(const struct slm_hook *hook); /* calls the functions; often a part of what it needs for that */
    const char *what;                          /* the line, if one of them is left */
    const char *cache;                         /* as in slm_panic */
};

void slm_hook_run(const struct slm_hook *hook);
