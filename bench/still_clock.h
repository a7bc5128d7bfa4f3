/* The clock of a counted process: a microsecond a look. Under valgrind on a busy machine seconds pass in a loop that
 * takes a millisecond, and what an allocator does each second would be counted with it. The allocator finds it in the
 * program, before libc's. Not for programs whose threads wait for time to pass. */
#pragma once

#include <time.h>

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *now)
{
    static _Atomic long us;
    (void)clock;
    const long passed = ++us;
    *now = (struct timespec){1000 + passed / 1000000, passed % 1000000 * 1000};
    return 0;
}
