/* What is printed to a stream of the program's goes through stdio, whose calls are cancellation points. No call of
 * ours is one: a thread with a pending cancellation prints all of it, and leaves nothing pinned or half written. */
#pragma once

#include <pthread.h>

#include "base/compiler.h"

slm_inline void slm_cancel_restore(const int *state)
{
    pthread_setcancelstate(*state, NULL);
}

slm_inline int slm_cancel_disable(void)
{
    int state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    return state;
}

/* From here to the end of the block. */
#define slm_keep_from_cancel()                                                                                       \
    const int cancel_state __attribute__((cleanup(slm_cancel_restore), unused)) = slm_cancel_disable()
