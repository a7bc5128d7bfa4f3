/* Preloaded into slabctl: a rename that takes for ever, so that there is time to end the tool before it. */
#include <stdio.h>
#include <unistd.h>

int rename(const char *from, const char *to)
{
    (void)from, (void)to;
    for (;;)
        pause();
}
