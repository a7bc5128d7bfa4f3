/* Per-CPU memory in C++: wrapped in templates and inline functions that two files use (percpu_cxx.h), in lambdas, and
 * with for_each over structs.
 *
 * Written in: include/slabmalloc.h ("C and C++ can include it"). */
#include "percpu.h"
#include "percpu_cxx.h"

#include <thread>
#include <vector>

static void counters_of_two_files(const char *)
{
    constexpr long times = 20000;
    per_cpu_counter<long> counter;
    slab_percpu bumped = make_counter();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            for (long j = 0; i % 2 == 0 && j < times; j++) {
                counter += 5;
                bump_twice(bumped);
            }
            if (i % 2 != 0) {
                second_adds(counter, times);
                second_bumps(bumped, times);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    require(counter == 2 * times * (5 - 3));
    require(slab_percpu_sum_u64(bumped) == 4 * times * 2);
    slab_percpu_free(bumped);
}

struct hits {
    unsigned char kind;
    double seconds;
    long misses[3];
};

static void copies_of_structs(const char *)
{
    per_cpu<hits> all;
    per_cpu<short> small;
    int visited = 0;
    all.here().misses[2] = 1;
    all.for_each([&](int cpu, hits &copy) {
        require(cpu == visited++ && &copy == &all[cpu]);
        require(copy.kind == 0 && copy.misses[0] == 0 && is_aligned(&copy, alignof(hits)));
        copy.seconds = 0.5 * cpu;
    });
    require(visited == slab_percpu_cpus() && second_copies(small) == visited);
    long misses = 0;
    double seconds = 0;
    for (int cpu = 0; cpu < visited; cpu++) {
        misses += all[cpu].misses[2];
        seconds += all[cpu].seconds;
    }
    require(misses == 1 && seconds == 0.25 * visited * (visited - 1));
}

/* Nodes that are C++'s own objects, in a list of each CPU. */
struct task : slab_percpu_node {
    explicit task(long number) : slab_percpu_node(), number(number) {}
    long number;
};

static void lists_of_objects(const char *)
{
    constexpr long tasks = 1000;
    slab_percpu list = make_object(sizeof(void *), alignof(void *));
    long sum = 0;
    for (long i = 1; i <= tasks; i++) {
        slab_percpu_list_push(list, new task(i));
        if (i % 3 == 0) {
            task *popped = static_cast<task *>(slab_percpu_list_pop(list));
            sum += popped != nullptr ? popped->number : 0;
            delete popped;
        }
    }
    slab_percpu_node **head;
    slab_percpu_for_each (cpu, head, list)
        while (*head != nullptr) {
            task *first = static_cast<task *>(*head);
            *head = first->next;
            sum += first->number;
            delete first;
        }
    require(sum == tasks * (tasks + 1) / 2);
    slab_percpu_free(list);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"counters_of_two_files", counters_of_two_files},
        {"copies_of_structs", copies_of_structs},
        {"lists_of_objects", lists_of_objects},
    };
    return run_scenarios("per-CPU memory in C++", scenarios, COUNT(scenarios), argc, argv);
}
