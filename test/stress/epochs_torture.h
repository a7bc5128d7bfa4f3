/* The crew of the torture: threads that take steps of one kind until they end; see epochs_torture.c. */
#pragma once

#include "epochs.h"

#include <time.h>

enum { DEAR_KINDS = 4 /* the last of them, which are drawn less often */ };

/* They take turns. */
enum mood { MOOD_CALM, MOOD_BRISK, MOOD_DUEL };

extern atomic_bool stopping;
extern _Atomic unsigned mood, focus; /* the kind that most look at */
extern _Atomic uint64_t handler_reads;

static inline bool is_stopping(void)
{
    return atomic_load_explicit(&stopping, memory_order_relaxed);
}

/* Of crewmen. */
enum {
    MAN_STAYS = 1u << 0,       /* lives until the end */
    MAN_DUELS = 1u << 1,       /* is at work in the duel alone */
    MAN_UNDISTURBED = 1u << 2, /* is not interrupted by signals */
};

struct crewman {
    pthread_t thread;
    void (*step)(struct crewman *self);
    unsigned flags, place;
    timer_t timer;
    bool timed, inside; /* interrupted by signals; ending inside a section */
    unsigned later;     /* so many times more its destructor runs */
    atomic_bool done;   /* set at the end, for the one who joins it */
    uint64_t ordinal, random, serial;
    _Atomic uint64_t reads, children; /* tallies */
    struct retirer retirer;
};

/* A node that a reader has found, and must find again. */
struct finding {
    struct kind *kind;
    struct node *node; /* NULL: none */
    uint64_t serial;
};

struct kind *any_kind(uint64_t *random);
struct finding find(struct kind *kind, unsigned slot);
void look_again(const struct finding found[], unsigned count);

/* Enter, find, stay, look again, leave. And what signal handlers do: the same, in short. */
void read_section(struct crewman *self);
void read_in_handler(int signal_number);

/* Put a new node into a slot and retire the one that was there; `may_wait`: in ways that wait, too. */
void replace(struct crewman *self, bool may_wait);

/* Steps. */
void write_step(struct crewman *self);
void pump_step(struct crewman *self);
void poll_step(struct crewman *self);
void wait_step(struct crewman *self);
void shrink_step(struct crewman *self);
void duel_read(struct crewman *self);
void duel_write(struct crewman *self);
