/* CPUs that come and go under per-CPU objects. Promised: a CPU that comes online has had its copy all along, and no
 * change is lost when a CPU goes offline under the threads that work there, or comes back.
 *
 * The machine has a CPU that is offline at first, "late" here. It comes online; a thread there finds its copy zero,
 * and its own. Then it goes and comes, round by round, while five threads change objects all the time, three of them
 * pinned to it whenever it is there: the kernel moves them off, wherever they are in a change. When it has gone, and
 * every thread has begun a new step since, nobody touches its copies any more: they must stay as they are.
 *
 *   plain     one added by slab_percpu_add_long
 *   traded    one more put there by slab_percpu_cmpxchg, tried until nobody was in between
 *   head      lists: nodes pushed on this CPU, and popped on this or another one */
#include "machine.h"

#include <stdatomic.h>

enum { ADDERS = 5, PINNED = 3, NODES = 12, ROUNDS = 5, FIRST_ADDS = 100000 };

static int late = -1;
static slab_percpu plain, traded, head;
static atomic_bool stop; /* relaxed, set by main, read by adders: it orders nothing */

static struct adder {
    pthread_t thread;
    atomic_long steps; /* released by its adder after a step, acquired by main in wait_for_steps */
    slab_percpu_node *held;
    slab_percpu_node nodes[NODES];
} adders[ADDERS];

/* -- a CPU that comes online ------------------------------------------------------------------------------------- */

static void *add_there(void *unused)
{
    (void)unused;
    pin(pthread_self(), late);
    long *copy = slab_percpu_this(plain);
    if (copy != slab_percpu_ptr(plain, late))
        fail("on CPU %d, slab_percpu_this is not its copy", late);
    if (*copy != 0)
        fail("CPU %d came online, and its copy was not zero", late);
    for (int i = 0; i < FIRST_ADDS; i++)
        slab_percpu_add_long(plain, 1);
    if (*copy != FIRST_ADDS)
        fail("CPU %d came online, and of %d adds its copy has %ld", late, FIRST_ADDS, *copy);
    return NULL;
}

static void come_online(void)
{
    set_online(late, true);
    join(start(add_there, NULL));
    if (slab_percpu_sum_long(plain) != FIRST_ADDS)
        fail("%d adds, but the sum is %ld", FIRST_ADDS, slab_percpu_sum_long(plain));
}

/* -- a CPU that goes and comes ----------------------------------------------------------------------------------- */

static void add_by_trade(void)
{
    uintptr_t seen = 0, found;
    while ((found = slab_percpu_cmpxchg(traded, seen, seen + 1)) != seen)
        seen = found;
}

/* Puts all nodes in its hands on this CPU's list, then takes as many as it had from what lists it meets. */
static void pass_nodes_on(struct adder *self)
{
    int wanted = 0;
    for (slab_percpu_node *node; (node = self->held) != NULL; wanted++) {
        self->held = node->next;
        slab_percpu_list_push(head, node);
    }
    for (slab_percpu_node *node; wanted > 0 && (node = slab_percpu_list_pop(head)) != NULL; wanted--) {
        node->next = self->held;
        self->held = node;
    }
}

static void *add_until_stopped(void *argument)
{
    struct adder *self = argument;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        slab_percpu_add_long(plain, 1);
        add_by_trade();
        pass_nodes_on(self);
        atomic_fetch_add_explicit(&self->steps, 1, memory_order_release);
    }
    return NULL;
}

static void start_adders(void)
{
    for (int i = 0; i < ADDERS; i++) {
        for (int n = 0; n < NODES; n++) {
            adders[i].nodes[n].next = adders[i].held;
            adders[i].held = &adders[i].nodes[n];
        }
        adders[i].thread = start(add_until_stopped, &adders[i]);
    }
}

/* Until every adder has ended two more steps: one of them began after the call. */
static void wait_for_steps(void)
{
    for (int i = 0; i < ADDERS; i++) {
        long seen = atomic_load_explicit(&adders[i].steps, memory_order_acquire);
        while (atomic_load_explicit(&adders[i].steps, memory_order_acquire) < seen + 2)
            usleep(1000);
    }
}

/* What the late CPU's copies are at the moment. */
struct copies {
    long plain, traded;
    void *head;
};

static struct copies look(void)
{
    return (struct copies){
        *(volatile long *)slab_percpu_ptr(plain, late),
        *(volatile long *)slab_percpu_ptr(traded, late),
        *(void *volatile *)slab_percpu_ptr(head, late),
    };
}

static void go_and_come(void)
{
    long before = look().plain;
    for (int i = 0; i < PINNED; i++)
        pin(adders[i].thread, late);
    wait_for_steps();
    if (look().plain == before)
        fail("%d threads are pinned to CPU %d, and its copy has not grown", PINNED, late);
    set_online(late, false);
    wait_for_steps();
    struct copies gone = look();
    wait_for_steps();
    struct copies still = look();
    if (memcmp(&gone, &still, sizeof gone) != 0)
        fail("CPU %d is offline, and its copies change", late);
    set_online(late, true);
}

/* -- the count --------------------------------------------------------------------------------------------------- */

static long count_nodes(void)
{
    long count = 0;
    slab_percpu_node **first;
    for (int i = 0; i < ADDERS; i++) {
        for (slab_percpu_node *node = adders[i].held; node != NULL && count <= ADDERS * NODES; node = node->next)
            count++;
    }
    slab_percpu_for_each (cpu, first, head) {
        for (slab_percpu_node *node = *first; node != NULL && count <= ADDERS * NODES; node = node->next)
            count++;
    }
    return count;
}

static long stop_adders(void)
{
    long steps = 0;
    atomic_store_explicit(&stop, true, memory_order_relaxed);
    for (int i = 0; i < ADDERS; i++) {
        join(adders[i].thread);
        steps += adders[i].steps;
    }
    return steps;
}

int main(void)
{
    for (int cpu = 0; cpu < slab_percpu_cpus() && late < 0; cpu++)
        late = cpu_is_present(cpu) && !cpu_is_online(cpu) ? cpu : -1;
    if (late < 0)
        fail("no CPU is offline: boot with maxcpus=N");
    plain = alloc_object(sizeof(long), sizeof(long));
    traded = alloc_object(sizeof(uintptr_t), sizeof(uintptr_t));
    head = alloc_object(sizeof(void *), sizeof(void *));
    come_online();
    start_adders();
    for (int round = 0; round < ROUNDS; round++)
        go_and_come();
    long steps = stop_adders();
    if (slab_percpu_sum_long(plain) != steps + FIRST_ADDS)
        fail("%ld adds, but the sum is %ld", steps + FIRST_ADDS, slab_percpu_sum_long(plain));
    if (slab_percpu_sum_long(traded) != steps)
        fail("%ld trades, but the sum is %ld", steps, slab_percpu_sum_long(traded));
    if (count_nodes() != ADDERS * NODES)
        fail("%d nodes, but %ld in lists and hands", ADDERS * NODES, count_nodes());
    set_online(late, false); /* as it was found */
    printf("CPU %d came and went %d times under %ld steps; by %s\n", late, ROUNDS, steps, ways());
    return 0;
}
