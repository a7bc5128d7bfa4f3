/* Contenders of epochs.c: userspace RCU, its flavour with membarrier(2), whose sections are inlined as ours are.
 *
 * call_rcu frees in a thread of its own. defer_rcu keeps a ring of 4,096 pointers a thread; where it is full the
 * thread waits for a grace period itself; a thread of the library empties it now and then. Both pass free a pointer
 * at a time. */
#ifndef BENCH_EPOCHS_URCU_H
#define BENCH_EPOCHS_URCU_H

#define _LGPL_SOURCE /* inline sections */
#include <urcu/urcu-memb.h>

_Static_assert(sizeof(struct rcu_head) == sizeof(((struct object *)NULL)->head), "an object has room for a head");

static void free_by_head(struct rcu_head *head)
{
    free((char *)head - offsetof(struct object, head));
}

static inline void retire_by_call(struct object *object)
{
    urcu_memb_call_rcu((struct rcu_head *)object->head, free_by_head);
}

static inline void retire_by_defer(struct object *object)
{
    urcu_memb_defer_rcu(free, object);
}

static void write_call_rcu(struct thread *self)
{
    write_with(self, make_by_malloc, retire_by_call);
}

static void write_defer_rcu(struct thread *self)
{
    write_with(self, make_by_malloc, retire_by_defer);
}

static void read_urcu(struct thread *self)
{
    read_with(self, urcu_memb_read_lock, urcu_memb_read_unlock, find);
}

static void caller_ends(void)
{
    urcu_memb_barrier();
    urcu_memb_unregister_thread();
}

static void deferrer_begins(void)
{
    if (urcu_memb_defer_register_thread() != 0)
        bench_die("defer_rcu takes no thread");
}

#define URCU_CONTENDER                                                                                               \
    .make = make_by_malloc, .read = read_urcu, .open = urcu_memb_init, .reader_begins = urcu_memb_register_thread,   \
    .reader_ends = urcu_memb_unregister_thread, .watch = nothing, .report = nothing_to_report

static const struct contender by_call_rcu = {.name = "call_rcu",
                                             .write = write_call_rcu,
                                             .writer_begins = urcu_memb_register_thread,
                                             .writer_ends = caller_ends,
                                             URCU_CONTENDER};
static const struct contender by_defer_rcu = {.name = "defer_rcu",
                                              .write = write_defer_rcu,
                                              .writer_begins = deferrer_begins,
                                              .writer_ends = urcu_memb_defer_unregister_thread,
                                              URCU_CONTENDER};

#endif
