/* Nodes in per-CPU lists; see percpu.h.
 *
 * There are two lists, of which each CPU has a stack. What is in a node is written plainly by the one who pushes it
 * and read plainly by the one who pops it: a list that hands a node to two, or hands it over before it is whole, is
 * found by the next look. How many nodes live is bounded, so that stacks run empty all the time.
 *
 * Promised: a node that was pushed is popped once, as it was; nobody looks at a node behind its pop. */
#include "percpu.h"

#include <sys/mman.h>

enum { LISTS = 2, MOST_NODES = 128, NODE_WORDS = 6, JUGGLED = 16 };

/* Owners that are no hands. */
#define IN_LIST UINT64_C(0x1157000000000000)
#define SEEN UINT64_C(0x5ee0000000000000)

#define POISON 0xdd

struct node {
    slab_percpu_node link;
    /* Relaxed: it is a mark. What orders two owners' accesses are the push of one and the pop of the next. */
    _Atomic uint64_t owner;
    uint64_t serial, check;
    uint64_t mapped; /* it has a page of its own */
    uint64_t words[NODE_WORDS];
};

static slab_percpu lists[LISTS];
static _Atomic int64_t live_nodes; /* a count; whoever needs it exactly has joined the threads */

/* -- one node ---------------------------------------------------------------------------------------------------- */

static uint64_t word_of(const struct node *node, unsigned index)
{
    return mix((uintptr_t)node ^ mix(node->serial + index));
}

static void node_stamp(struct node *node, uint64_t owner, uint64_t serial)
{
    atomic_store_explicit(&node->owner, owner, memory_order_relaxed);
    node->serial = serial;
    node->check = word_of(node, NODE_WORDS);
    for (unsigned i = 0; i < NODE_WORDS; i++)
        node->words[i] = word_of(node, i);
}

/* The node is where it should be, and as it was left; it has a new owner now. */
static void node_take(struct node *node, uint64_t from, uint64_t to)
{
    const uint64_t owner = atomic_exchange_explicit(&node->owner, to, memory_order_relaxed);
    if (owner != from)
        fail(FOUND_BROKEN, "broken: node %p has owner %#" PRIx64 ", not %#" PRIx64, (void *)node, owner, from);
    bool good = node->check == word_of(node, NODE_WORDS);
    for (unsigned i = 0; i < NODE_WORDS; i++)
        good &= node->words[i] == word_of(node, i);
    if (!good)
        fail(FOUND_BROKEN, "broken: node %p of serial %#" PRIx64 ", from %#" PRIx64 ", was written to", (void *)node,
             node->serial, from);
}

static void node_unmap(struct node *node)
{
    if (munmap(node, sizeof *node) != 0)
        fail(FOUND_WRONG, "no unmapping: %s", strerror(errno));
    atomic_fetch_sub_explicit(&live_nodes, 1, memory_order_relaxed);
}

static void node_free(struct node *node)
{
    memset(node, POISON, sizeof *node);
    free(node);
    atomic_fetch_sub_explicit(&live_nodes, 1, memory_order_relaxed);
}

bool nodes_are_unmapped(void)
{
    static _Atomic int balancing = -1;
    int mode = atomic_load_explicit(&balancing, memory_order_relaxed);
    if (mode < 0) {
        FILE *file = fopen("/proc/sys/kernel/numa_balancing", "re");
        if (file == NULL || fscanf(file, "%d", &mode) != 1)
            mode = 0; /* a kernel without it */
        if (file != NULL)
            fclose(file);
        atomic_store_explicit(&balancing, mode, memory_order_relaxed);
    }
    return mode == 0;
}

static struct node *node_make(bool mapped)
{
    mapped = mapped && nodes_are_unmapped();
    struct node *node = mapped ? mmap(NULL, sizeof *node, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                               : malloc(sizeof *node);
    if (node == MAP_FAILED || node == NULL)
        fail(FOUND_WRONG, "no node: %s", strerror(errno));
    node->mapped = mapped;
    return node;
}

/* -- hands ------------------------------------------------------------------------------------------------------- */

static uint64_t next_serial(struct hand *self)
{
    return self->number << 40 | ++self->serial;
}

static void hand_put(struct hand *self, struct node *node)
{
    memset(&node->link, POISON, sizeof node->link);
    node_stamp(node, self->number, next_serial(self));
    self->nodes[self->count++] = node;
}

static void hand_push(struct hand *self, uint64_t *random)
{
    const unsigned index = (unsigned)(draw(random) % self->count), list = (unsigned)(draw(random) % LISTS);
    struct node *node = self->nodes[index];
    self->nodes[index] = self->nodes[--self->count];
    node_take(node, self->number, IN_LIST + list);
    slab_percpu_list_push(lists[list], &node->link);
    tally(&self->pushes, 1);
}

/* Pops a node, NULL if there is none. It is the hand's, but not in it. */
static struct node *hand_pop(struct hand *self, uint64_t *random)
{
    const unsigned list = (unsigned)(draw(random) % LISTS);
    slab_percpu_node *link = slab_percpu_list_pop(lists[list]);
    if (link == NULL)
        return NULL;
    struct node *node = (struct node *)((char *)link - offsetof(struct node, link));
    node_take(node, IN_LIST + list, self->number);
    tally(&self->pops, 1);
    return node;
}

static bool wants_push(const struct hand *self, uint64_t *random)
{
    return self->count == HAND || (self->count != 0 && once_in(random, 2));
}

void hand_step_in_handler(struct hand *self, uint64_t *random)
{
    if (wants_push(self, random)) {
        hand_push(self, random);
        return;
    }
    struct node *node = hand_pop(self, random);
    if (node != NULL && node->mapped && once_in(random, 8)) {
        node_unmap(node);
        tally(&self->unmapped, 1);
    } else if (node != NULL) {
        hand_put(self, node);
    }
}

static void hand_make(struct hand *self, uint64_t *random)
{
    if (self->count == HAND)
        return;
    if (atomic_fetch_add_explicit(&live_nodes, 1, memory_order_relaxed) < MOST_NODES)
        hand_put(self, node_make(once_in(random, 2)));
    else
        atomic_fetch_sub_explicit(&live_nodes, 1, memory_order_relaxed);
}

/* Pop and push with nothing in between, so that a thread is mostly found doing that. The node goes to the list that
 * it names; whose it was meanwhile nobody sees. */
static void hand_juggle(struct hand *self, uint64_t *random)
{
    const slab_percpu list = lists[draw(random) % LISTS];
    for (unsigned i = 0; i < JUGGLED; i++) {
        slab_percpu_node *link = slab_percpu_list_pop(list);
        if (link == NULL)
            return;
        slab_percpu_list_push(list, link);
        tally(&self->pops, 1);
        tally(&self->pushes, 1);
    }
}

void hand_step(struct hand *self, uint64_t *random)
{
    if (once_in(random, 2)) {
        hand_juggle(self, random);
        return;
    }
    if (wants_push(self, random)) {
        hand_push(self, random);
        return;
    }
    struct node *node = hand_pop(self, random);
    if (node == NULL) {
        hand_make(self, random);
    } else if (!once_in(random, 32)) {
        hand_put(self, node);
    } else if (node->mapped) {
        node_unmap(node);
        tally(&self->unmapped, 1);
    } else {
        node_free(node);
        tally(&self->freed, 1);
    }
}

/* -- all of them ------------------------------------------------------------------------------------------------- */

/* A list with a loop in it comes to a node that has been seen. */
static uint64_t list_see(unsigned list, struct node *seen[], uint64_t count)
{
    slab_percpu_node **head;
    slab_percpu_for_each (cpu, head, lists[list]) {
        for (slab_percpu_node *link = *head; link != NULL; link = link->next) {
            struct node *node = (struct node *)((char *)link - offsetof(struct node, link));
            node_take(node, IN_LIST + list, SEEN);
            if (count == MOST_NODES)
                fail(FOUND_BROKEN, "broken: there are more nodes than were made");
            seen[count++] = node;
        }
    }
    return count;
}

static uint64_t lists_see(struct node *seen[])
{
    uint64_t count = 0;
    for (unsigned i = 0; i < LISTS; i++)
        count = list_see(i, seen, count);
    return count;
}

void nodes_begin(void)
{
    atomic_store(&live_nodes, 0);
    nodes_are_unmapped(); /* asked by handlers later, which open no file */
    for (unsigned i = 0; i < LISTS; i++)
        lists[i] = make_object(sizeof(slab_percpu_node *), _Alignof(slab_percpu_node *));
}

void nodes_forget(void)
{
    struct node *seen[MOST_NODES];
    lists_see(seen);
    for (unsigned i = 0; i < LISTS; i++)
        slab_percpu_free(lists[i]);
}

void nodes_settle(struct hand *const hands[], unsigned count)
{
    struct node *seen[MOST_NODES];
    uint64_t found = lists_see(seen);
    for (unsigned i = 0; i < count; i++)
        for (unsigned k = 0; k < hands[i]->count; k++) {
            node_take(hands[i]->nodes[k], hands[i]->number, SEEN);
            if (found == MOST_NODES)
                fail(FOUND_BROKEN, "broken: there are more nodes than were made");
            seen[found++] = hands[i]->nodes[k];
        }
    const int64_t live = atomic_load(&live_nodes);
    if ((int64_t)found != live)
        fail(FOUND_BROKEN, "broken: %" PRId64 " nodes live, %" PRIu64 " are in hands and lists", live, found);
    for (uint64_t i = 0; i < found; i++)
        (seen[i]->mapped ? node_unmap : node_free)(seen[i]);
    for (unsigned i = 0; i < LISTS; i++)
        slab_percpu_free(lists[i]);
}
