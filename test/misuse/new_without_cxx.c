/* C++'s operator new without memory, in a program that has no C++ library to throw std::bad_alloc. */
#include "misuse.h"

extern void *_Znwm(unsigned long n); /* operator new(unsigned long) */

int main(void)
{
    puts("slabmalloc: operator new: out of memory, and no C++ library to throw std::bad_alloc");
    fflush(stdout);
    void *volatile object = _Znwm((unsigned long)-1 / 2);
    return object != NULL;
}
