/* A plug-in with calls on this CPU's copy compiled into it, always with optimisation: so it has restartable sequences
 * of its own, where there are any, which the kernel reads while they are announced. test_percpu_calls.c opens it,
 * uses it, and closes it. */
#include <slabmalloc.h>

void plugin_adds(slab_percpu object, long times);
const void *plugin_sequence(void);

void plugin_adds(slab_percpu object, long times)
{
    for (long i = 0; i < times; i++)
        slab_percpu_add_long(object, 1);
}

#ifdef SLAB_PERCPU_SEQUENCES
/* The linker's name for the section's start; it does not link where nothing was compiled in. */
extern const char __start___rseq_cs[] __attribute__((visibility("hidden")));
#define SEQUENCE __start___rseq_cs
#else
#define SEQUENCE plugin_sequence /* calls alone: any address of the plug-in's */
#endif

/* An address that goes when the plug-in goes. */
const void *plugin_sequence(void)
{
    return (const void *)SEQUENCE;
}
