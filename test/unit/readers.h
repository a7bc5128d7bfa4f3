/* What the tests of src/sync/epoch.h share beside epochs.h: threads that enter and leave sections as they are told,
 * and looks at whether a grace period passes. */
#pragma once

#include "epochs.h"

#include <semaphore.h>

/* Not every poll looks: that comes when it comes. */
static inline void poll_until_passed(uint64_t stamp)
{
    while (!slm_epoch_passed(stamp)) {
        sleep_ms(1);
        slm_epoch_poll();
    }
}

/* Of so many polls, a millisecond apart, some look. */
static inline bool is_held_up(uint64_t stamp)
{
    for (unsigned i = 0; i < 10 && !slm_epoch_passed(stamp); i++) {
        sleep_ms(1);
        slm_epoch_poll();
    }
    return !slm_epoch_passed(stamp);
}

/* A thread that does as it is told. */
struct reader {
    pthread_t thread;
    sem_t told, done;
    char what; /* 'e'nter, 'v'isit, 'l'eave, 'g'o */
};

static inline void await_post(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0) /* a signal's handler has come in between */
        ;
}

static inline void *obey(void *argument)
{
    struct reader *reader = argument;
    char what;
    do {
        await_post(&reader->told);
        what = reader->what;
        if (what == 'e')
            enter();
        else if (what == 'v')
            slm_epoch_enter_slow(false);
        else if (what == 'l')
            leave();
        else
            slm_epoch_thread_exit(); /* before anybody hears of it */
        require(sem_post(&reader->done) == 0);
    } while (what != 'g');
    return NULL;
}

static inline void tell(struct reader *reader, char what)
{
    reader->what = what;
    require(sem_post(&reader->told) == 0);
    await_post(&reader->done);
}

static inline void start(struct reader *reader)
{
    require(sem_init(&reader->told, 0, 0) == 0 && sem_init(&reader->done, 0, 0) == 0);
    require(pthread_create(&reader->thread, NULL, obey, reader) == 0);
}

static inline void end(struct reader *reader)
{
    tell(reader, 'g');
    require(pthread_join(reader->thread, NULL) == 0);
}
