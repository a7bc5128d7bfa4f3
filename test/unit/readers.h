/* What the tests of src/sync/epoch.h share beside epochs.h: threads that enter and leave sections as they are told,
 * and looks at whether a grace period passes. */
#pragma once

#include "epochs.h"

#include <sched.h>

/* Not every poll looks. */
static inline bool polls_pass(uint64_t stamp)
{
    for (unsigned i = 0; i < 20 && !slm_epoch_passed(stamp); i++) {
        sleep_ms(1);
        slm_epoch_poll();
    }
    return slm_epoch_passed(stamp);
}

/* A thread that does as it is told. */
struct reader {
    pthread_t thread;
    _Atomic char told; /* 'e'nter, 'v'isit, 'l'eave, 'g'o; 0: done */
};

static inline void *obey(void *argument)
{
    struct reader *reader = argument;
    char told;
    do {
        while ((told = load_acquire(&reader->told)) == 0)
            sched_yield();
        if (told == 'e')
            enter();
        else if (told == 'v')
            slm_epoch_enter_slow(false);
        else if (told == 'l')
            leave();
        else
            slm_epoch_thread_exit(); /* before anybody hears of it */
        store_release(&reader->told, 0);
    } while (told != 'g');
    return NULL;
}

static inline void tell(struct reader *reader, char what)
{
    store_release(&reader->told, what);
    while (load_acquire(&reader->told) != 0)
        sched_yield();
}

static inline void start(struct reader *reader)
{
    store_relaxed(&reader->told, 0);
    require(pthread_create(&reader->thread, NULL, obey, reader) == 0);
}

static inline void end(struct reader *reader)
{
    tell(reader, 'g');
    require(pthread_join(reader->thread, NULL) == 0);
}
