/* This CPU's copy; see here.h.
 *
 * With restartable sequences plain instructions change a copy: two threads are never on its CPU at once, and one that
 * is interrupted halfway restarts (percpu/sequences.h). The same holds with concurrency ids: no two running threads
 * have the same one, and a thread's id changes only while it does not run.
 *
 * Without sequences a thread may be moved between finding its copy and changing it, so changes are atomic, and copies
 * only make collisions rare. Pop takes the whole stack, keeps its first node and puts the rest back. So it never
 * looks into a node that another thread could still take. Other threads, and handlers that interrupt it, find the
 * stack empty meanwhile.
 *
 * Plain and atomic changes of one word would overwrite each other. So the whole process uses one kind, chosen before
 * the first object exists. `slab_percpu_here` is written then, and read by threads that have an object. */
#include "percpu/here.h"

#include "os/rseq.h"
#include "os/sys.h"
#include "percpu/sequences.h"

slm_public struct slab_percpu_here slab_percpu_here;

static unsigned copies;

slm_seldom bool slm_here_start(unsigned cpus, bool by_cid)
{
    copies = cpus;
#ifdef SLAB_PERCPU_SEQUENCES
    struct slm_rseq rseq = {0};
    const bool found = slm_rseq_find(&rseq), cid = by_cid && rseq.cid != 0;
    slab_percpu_here.index = rseq.cpu;
    if (found && (int)slab_percpu_index() >= 0) { /* else the kernel, or a setting, has refused */
        slab_percpu_here.index = cid ? rseq.cid : rseq.cpu;
        slab_percpu_here.sequence = rseq.sequence;
        return !cid;
    }
#endif
    (void)by_cid;
    return true;
}

static bool by_sequences(void)
{
    return likely(slab_percpu_here.sequence != 0);
}

void *slm_here_copy(slab_percpu object)
{
    unsigned cpu, node;
#ifdef SLAB_PERCPU_SEQUENCES
    if (by_sequences())
        return slm_here_copy_of(object, slab_percpu_index());
#endif
    slm_sys_where(&cpu, &node);
    return slm_here_copy_of(object, likely(cpu < copies) ? cpu : cpu % copies);
}

/* Called even with sequences by a thread that has not seen slab_percpu_here yet, as it got the object relaxed. */
void slm_here_add(slab_percpu object, uint64_t value)
{
    uintptr_t was = 0, expected;
    if (by_sequences()) {
        do
            expected = was;
        while ((was = slm_sequence_compare_exchange(object, expected, expected + (uintptr_t)value)) != expected);
        return;
    }
    atomic_fetch_add_explicit((_Atomic uint64_t *)slm_here_copy(object), value, memory_order_relaxed);
}

uintptr_t slm_here_exchange(slab_percpu object, uintptr_t value)
{
    if (by_sequences())
        return slm_sequence_exchange(object, value);
    return atomic_exchange((_Atomic uintptr_t *)slm_here_copy(object), value);
}

uintptr_t slm_here_compare_exchange(slab_percpu object, uintptr_t expected, uintptr_t value)
{
    if (by_sequences())
        return slm_sequence_compare_exchange(object, expected, value);
    atomic_compare_exchange_strong((_Atomic uintptr_t *)slm_here_copy(object), &expected, value);
    return expected;
}

typedef _Atomic(slab_percpu_node *) head_word;

/* Push the nodes from `first` to `last`. Release pairs with pop's acquire, for the nodes' contents. */
static void push_chain(head_word *head, slab_percpu_node *first, slab_percpu_node *last)
{
    slab_percpu_node *below = atomic_load_explicit(head, memory_order_relaxed);
    do
        last->next = below;
    while (!atomic_compare_exchange_weak_explicit(head, &below, first, memory_order_release, memory_order_relaxed));
}

void slm_here_push(slab_percpu head, slab_percpu_node *node)
{
    if (by_sequences())
        slm_sequence_push(head, node);
    else
        push_chain(slm_here_copy(head), node, node);
}

slab_percpu_node *slm_here_pop(slab_percpu head)
{
    if (by_sequences())
        return slm_sequence_pop(head);
    head_word *word = slm_here_copy(head);
    slab_percpu_node *node = atomic_exchange_explicit(word, NULL, memory_order_acquire); /* pairs with push_chain */
    slab_percpu_node *rest = node ? node->next : NULL, *nothing = NULL;
    if (!rest ||
        atomic_compare_exchange_strong_explicit(word, &nothing, rest, memory_order_release, memory_order_relaxed))
        return node;
    slab_percpu_node *last = rest; /* another thread has pushed meanwhile */
    while (last->next)
        last = last->next;
    push_chain(word, rest, last);
    return node;
}
