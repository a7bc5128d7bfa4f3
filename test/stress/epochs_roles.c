/* What the crew of the torture does: reading, writing, waiting, and the duel; see epochs_torture.c.
 *
 * In the duel the writer makes a grace period begin right behind the moment at which it hides a node, and the
 * reader's stores are slow: as they stand behind many others that miss the cache, its loads slip ahead of them by a
 * microsecond. A grace period that trusts a section which it does not see, but for a barrier, overlooks that reader,
 * and the node is overwritten under its eyes. */
#include "epochs_torture.h"

enum {
    MOST_FOUND = 6,
    PUMPED = 400,
    BEHIND_BARRIER = 40,
    STUFFED = 160, /* stores; a store buffer has 40 to 110 places */
    STUFFING_BYTES = 32 << 20,
};

static const double GRACE_PERIOD_SECONDS = 1.1e-3;

static enum mood mood_now(void)
{
    return atomic_load_explicit(&mood, memory_order_relaxed);
}

struct kind *any_kind(uint64_t *random)
{
    if (once_in(random, 3))
        return &kinds[atomic_load_explicit(&focus, memory_order_relaxed)];
    return &kinds[draw(random) % (kinds_count - (once_in(random, 24) ? 0 : DEAR_KINDS))];
}

/* -- reading ----------------------------------------------------------------------------------------------------- */

struct finding find(struct kind *kind, unsigned slot)
{
    struct node *node = atomic_load_explicit(&kind->slots[slot], memory_order_acquire);
    return (struct finding){kind, node, node != NULL ? node_check(kind, node, 0) : 0};
}

void look_again(const struct finding found[], unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (found[i].node != NULL)
            node_check(found[i].kind, found[i].node, found[i].serial);
}

/* Spend time inside a section. */
static void dwell(uint64_t *random)
{
    const unsigned how = draw(random) % 32;
    doing("dwelling");
    if (how < 8)
        spin_for(1e-6 * (double)draw_between(random, 0, 30));
    else if (how < 10)
        sched_yield();
    else if (how < 12 && mood_now() == MOOD_CALM)
        sleep_for(1e-6 * (double)draw_between(random, 10, 2500));
}

void read_section(struct crewman *self)
{
    struct finding found[MOST_FOUND];
    const unsigned depth = once_in(&self->random, 64) ? 40 : draw_between(&self->random, 1, 3);
    const unsigned count = draw_between(&self->random, 1, MOST_FOUND);
    doing("entering");
    for (unsigned i = 0; i < depth; i++)
        slab_epoch_enter();
    for (unsigned i = 0; i < count; i++) {
        found[i] = find(any_kind(&self->random), draw(&self->random) % SLOTS);
        if (once_in(&self->random, 4)) {
            slab_epoch_enter();
            look_again(found, i);
            slab_epoch_leave();
        }
    }
    dwell(&self->random);
    for (unsigned i = 1; i < depth; i++)
        slab_epoch_leave();
    look_again(found, count);
    doing("leaving");
    slab_epoch_leave();
    tally(&self->reads, count);
}

void read_in_handler(int signal_number)
{
    (void)signal_number;
    const char *before = atomic_load_explicit(&at_work->doing, memory_order_relaxed);
    uint64_t random = mix(atomic_fetch_add_explicit(&handler_reads, 1, memory_order_relaxed));
    slab_epoch_enter();
    const struct finding found = find(any_kind(&random), draw(&random) % SLOTS);
    spin_for(1e-6 * (double)draw_between(&random, 0, 10));
    look_again(&found, 1);
    slab_epoch_leave();
    doing(before);
}

/* -- writing ----------------------------------------------------------------------------------------------------- */

static uint64_t next_serial(struct crewman *self)
{
    return self->ordinal << 32 | ++self->serial;
}

static void take_what_is_free(struct kind *kind, uint64_t *random)
{
    doing("slab_epoch_poll");
    slab_epoch_poll();
    scribble(kind, kind->size > 20000 ? 1 : draw_between(random, 1, 12), random);
}

/* Inside a section of its own a writer is a reader of what it has retired. */
void replace(struct crewman *self, bool may_wait)
{
    struct kind *kind = any_kind(&self->random);
    struct node *node = node_make(kind, next_serial(self), &self->random);
    const bool inside = once_in(&self->random, 4);
    if (inside)
        slab_epoch_enter();
    struct node *old =
        atomic_exchange_explicit(&kind->slots[draw(&self->random) % SLOTS], node, memory_order_acq_rel);
    if (old != NULL) {
        const uint64_t serial = node_check(kind, old, 0);
        node_retire(&self->retirer, kind, old, draw_form(kind, may_wait && !inside, &self->random));
        if (inside) {
            dwell(&self->random);
            take_what_is_free(kind, &self->random);
            node_check(kind, old, serial);
        }
    }
    if (inside)
        slab_epoch_leave();
}

void write_step(struct crewman *self)
{
    replace(self, true);
    const unsigned what = draw(&self->random) % 2048;
    if (what < 512)
        take_what_is_free(any_kind(&self->random), &self->random);
    else if (what < 520)
        sleep_for(1e-6 * (double)draw_between(&self->random, 100, 3000));
    else if (what == 520) {
        doing("slab_epoch_barrier");
        slab_epoch_barrier();
        tally(&self->retirer.barriers, 1);
    }
}

/* Retiring with nothing in between: so a thread is often interrupted in the middle of the hot path, and that is where
 * others take what it has retired. */
void pump_step(struct crewman *self)
{
    struct node *nodes[PUMPED];
    for (unsigned i = 0; i < PUMPED; i++)
        nodes[i] = node_make(pumped_kind, next_serial(self), &self->random);
    for (unsigned i = 0; i < PUMPED; i++)
        node_check(pumped_kind, nodes[i], nodes[i]->serial);
    doing("pumping");
    for (unsigned i = 0; i < PUMPED; i++)
        slab_free_deferred(nodes[i]);
    tally(&self->retirer.retired[FORM_ONE], PUMPED);
    if (once_in(&self->random, 32))
        sleep_for(1e-6 * (double)draw_between(&self->random, 0, 1000));
}

/* What one thread has retired is free behind its barrier, in whosever hands it was. A free object counts as active
 * while a thread moves it, from a magazine to its slab for one. What is never free hangs here, and says so. */
static void retire_behind_barrier(struct crewman *self)
{
    for (size_t i = draw_between(&self->random, 1, BEHIND_BARRIER); i > 0; i--) {
        struct node *node = node_make(barrier_kind, next_serial(self), &self->random);
        node_retire(&self->retirer, barrier_kind, node, draw_form(barrier_kind, false, &self->random));
    }
    retire_bulk(&self->retirer);
    sleep_for(1e-6 * (double)draw_between(&self->random, 0, 2000));
    doing("slab_epoch_barrier");
    slab_epoch_barrier();
    tally(&self->retirer.barriers, 1);
    doing("waiting for what is behind a barrier");
    while (active_objects(barrier_kind) != 0)
        sleep_for(1e-4);
}

void poll_step(struct crewman *self)
{
    struct kind *kind = any_kind(&self->random);
    take_what_is_free(kind, &self->random);
    if (once_in(&self->random, 4))
        read_section(self);
    if (once_in(&self->random, 64))
        retire_behind_barrier(self);
    sleep_for(1e-6 * (double)draw_between(&self->random, 10, 500));
}

/* It enters so rarely that those who wait for it have to do without. */
void wait_step(struct crewman *self)
{
    for (unsigned i = 0; i < 10 && !is_stopping(); i++) {
        doing("slab_epoch_synchronize, waiting");
        slab_epoch_synchronize();
    }
    if (once_in(&self->random, 100))
        read_section(self);
}

/* It looks at the figures, too: whoever retires goes on meanwhile. */
void shrink_step(struct crewman *self)
{
    struct kind *kind = any_kind(&self->random);
    read_section(self);
    doing("slab_get_stats");
    figures();
    doing("giving memory back");
    if (kind->flags & KIND_MALLOC || once_in(&self->random, 4))
        slab_purge();
    else
        slab_cache_shrink(kind->cache);
    sleep_for(1e-6 * (double)draw_between(&self->random, 100, 4000));
}

/* -- the duel ---------------------------------------------------------------------------------------------------- */

static _Atomic(struct node *) *duel_slot(struct kind **kind)
{
    *kind = &kinds[atomic_load_explicit(&focus, memory_order_relaxed)];
    return &(*kind)->slots[DUEL_SLOT];
}

static volatile uint64_t stuffing[STUFFING_BYTES / 8]; /* of the one reading duelist */

/* Stores that take long to be seen by others; what follows in the program waits in line behind them. */
static void stuff_store_buffer(uint64_t *random)
{
    uint64_t at = draw(random);
    for (unsigned i = 0; i < STUFFED; i++) {
        at = at * 6364136223846793005u + 1442695040888963407u;
        stuffing[at >> 32 & (STUFFING_BYTES / 8 - 1)] = at;
    }
}

void duel_read(struct crewman *self)
{
    struct kind *kind;
    _Atomic(struct node *) *slot = duel_slot(&kind);
    const double stay = 1e-6 * (double)draw_between(&self->random, 1, 12);
    doing("duelling");
    stuff_store_buffer(&self->random);
    slab_epoch_enter();
    struct node *node = atomic_load_explicit(slot, memory_order_acquire);
    if (node != NULL) {
        const uint64_t serial = node_check(kind, node, 0);
        spin_for(stay);
        node_check(kind, node, serial);
    }
    slab_epoch_leave();
    tally(&self->reads, 1);
}

/* Half of the time it waits until a grace period may begin at once. A plain store, no exchange, hides the node: the
 * slot has no other writer, and it is the library's business to order the store. */
void duel_write(struct crewman *self)
{
    struct kind *kind;
    _Atomic(struct node *) *slot = duel_slot(&kind);
    const bool waits = once_in(&self->random, 2);
    struct node *node = node_make(kind, next_serial(self), &self->random);
    const enum form form = once_in(&self->random, 2) ? FORM_SYNCHRONIZE : draw_form(kind, true, &self->random);
    if (waits)
        sleep_for(GRACE_PERIOD_SECONDS);
    struct node *old = atomic_load_explicit(slot, memory_order_acquire);
    atomic_store_explicit(slot, node, memory_order_release);
    if (old != NULL)
        node_retire(&self->retirer, kind, old, form);
    for (unsigned i = 0; i < 4; i++)
        take_what_is_free(kind, &self->random);
}
