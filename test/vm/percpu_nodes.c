/* Where the pages of per-CPU copies lie. Promised: on the node of the CPU whose copies they are, whoever writes to
 * them first, as far as that node has memory.
 *
 * Objects are of one page each, so that every copy is a page of its own. They are written
 *
 *   by one     thread on CPU 0, all copies
 *   by each    CPU's own thread, its copy
 *   again      when every second object has been freed and its place handed out anew: one thread on CPU 0 has written
 * to some copies, the allocation by a thread on the last CPU makes them all zero, and that one writes to all
 *
 * Which node a CPU belongs to the kernel tells of CPUs that are online, so those that are not are brought online for
 * that, but last of all: when their copies have been written, the library could not have read it there. Of a CPU that
 * is possible but not present no one knows a node; its copies may lie anywhere. */
#include "machine.h"

enum { OBJECTS = 40 }; /* of each kind: more than two blocks of 64 KiB a CPU */

static int cpus, last_online;
static size_t page_bytes;
static bool was_online[CPUS_MAX];
static slab_percpu by_one[OBJECTS], by_each[OBJECTS], again[OBJECTS];

static void alloc_all(slab_percpu *objects)
{
    for (int i = 0; i < OBJECTS; i++)
        objects[i] = alloc_object(page_bytes, page_bytes);
}

/* -- writing ----------------------------------------------------------------------------------------------------- */

static void write_all(slab_percpu *objects)
{
    long *copy;
    for (int i = 0; i < OBJECTS; i++) {
        slab_percpu_for_each (cpu, copy, objects[i]) {
            *copy = cpu + 1;
        }
    }
}

static void *add_on_cpu(void *number)
{
    pin(pthread_self(), (int)(intptr_t)number);
    for (int i = 0; i < OBJECTS; i++)
        slab_percpu_add_long(by_each[i], 1);
    return NULL;
}

static void write_by_each(void)
{
    long adders = 0;
    for (int cpu = 0; cpu < cpus; cpu++) {
        if (was_online[cpu]) {
            join(start(add_on_cpu, (void *)(intptr_t)cpu));
            adders++;
        }
    }
    for (int i = 0; i < OBJECTS; i++) {
        if (slab_percpu_sum_long(by_each[i]) != adders)
            fail("%ld adders, but the sum is %ld", adders, slab_percpu_sum_long(by_each[i]));
    }
}

/* -- memory that is handed out again ----------------------------------------------------------------------------- */

static bool is_among(slab_percpu object, slab_percpu *objects)
{
    for (int i = 0; i < OBJECTS; i++) {
        if (objects[i] == object)
            return true;
    }
    return false;
}

static void check_zero(slab_percpu object)
{
    const char *copy;
    slab_percpu_for_each (cpu, copy, object) {
        for (size_t i = 0; i < page_bytes; i++) {
            if (copy[i] != 0)
                fail("handed out again and not zero: byte %zu on CPU %d", i, cpu);
        }
    }
}

static void *alloc_again(void *freed)
{
    int reused = 0;
    pin(pthread_self(), last_online);
    for (int i = 0; i < OBJECTS; i += 2) {
        again[i] = alloc_object(page_bytes, page_bytes);
        reused += is_among(again[i], freed);
        check_zero(again[i]);
    }
    if (reused == 0)
        fail("no place of a freed object was handed out again: this shows nothing");
    write_all(again);
    return NULL;
}

/* Odd CPUs' copies are dirty when the object is freed, even CPUs' have no page yet. */
static void write_again(void)
{
    slab_percpu freed[OBJECTS] = {NULL};
    for (int i = 0; i < OBJECTS; i += 2) {
        for (int cpu = 1; cpu < cpus; cpu += 2)
            memset(slab_percpu_ptr(again[i], cpu), 0xa5, page_bytes);
        slab_percpu_free(again[i]);
        freed[i] = again[i];
    }
    join(start(alloc_again, freed));
}

/* -- the verdict ------------------------------------------------------------------------------------------------- */

/* Returns how many pages of that CPU's copies lie elsewhere than on the node (-1: any will do), and counts all. */
static int count_astray(slab_percpu *objects, int cpu, int node, int *pages)
{
    int astray = 0;
    for (int i = 0; i < OBJECTS; i++) {
        int found = node_of_page(slab_percpu_ptr(objects[i], cpu));
        if (found < 0)
            fail("a copy of CPU %d has been written, and has no page: %s", cpu, strerror(-found));
        ++*pages;
        astray += node >= 0 && found != node;
    }
    return astray;
}

/* Prints what the copies of a CPU are like; returns how many lie astray. */
static int judge(int cpu)
{
    int node = node_of_cpu(cpu), pages = 0;
    bool bound = node >= 0 && node_has_memory(node);
    int wanted = bound ? node : -1;
    int one = count_astray(by_one, cpu, wanted, &pages);
    int each = was_online[cpu] ? count_astray(by_each, cpu, wanted, &pages) : 0;
    int reused = count_astray(again, cpu, wanted, &pages);
    printf("cpu %d node %d memory %s%s pages %d\n", cpu, node, bound ? "own" : "others'",
           was_online[cpu] ? "" : " offline", pages);
    if (one + each + reused != 0)
        fprintf(stderr,
                "of CPU %d's copies lie on other nodes: %d written by one thread, %d by its own, %d used again\n",
                cpu, one, each, reused);
    return one + each + reused;
}

static void look_at_the_machine(void)
{
    cpus = slab_percpu_cpus();
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (cpus > CPUS_MAX || !cpu_is_possible(cpus - 1) || cpu_is_possible(cpus))
        fail("%d copies are not one for each possible CPU, or too many for this test", cpus);
    for (int cpu = 0; cpu < cpus; cpu++) {
        was_online[cpu] = cpu_is_online(cpu);
        last_online = was_online[cpu] ? cpu : last_online;
    }
}

int main(void)
{
    int astray = 0;
    look_at_the_machine();
    pin(pthread_self(), 0);
    alloc_all(by_one);
    alloc_all(by_each);
    alloc_all(again);
    write_all(by_one);
    write_by_each();
    write_again();
    for (int cpu = 0; cpu < cpus; cpu++) {
        if (!was_online[cpu] && cpu_is_present(cpu))
            set_online(cpu, true);
    }
    for (int cpu = 0; cpu < cpus; cpu++)
        astray += judge(cpu);
    for (int cpu = 0; cpu < cpus; cpu++) { /* as it was found */
        if (!was_online[cpu] && cpu_is_present(cpu))
            set_online(cpu, false);
    }
    printf("%d pages astray; by %s\n", astray, ways());
    return astray != 0;
}
