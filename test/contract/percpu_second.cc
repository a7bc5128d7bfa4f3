/* The second file of test_percpu_cxx: what percpu_cxx.h declares of it. */
#include "percpu_cxx.h"

void second_adds(per_cpu_counter<long> &counter, long times)
{
    for (long i = 0; i < times; i++)
        counter += -3;
}

void second_bumps(slab_percpu object, long times)
{
    for (long i = 0; i < times; i++)
        bump_twice(object);
}

int second_copies(const per_cpu<short> &object)
{
    int copies = 0;
    object.for_each([&](int, short &) { copies++; });
    return copies;
}
