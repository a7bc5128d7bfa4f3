/* A program whose first allocations come before any constructor has run, the library's own included: from
 * .preinit_array (before all constructors) and from a constructor of the highest priority. Each stage also frees what
 * an earlier one made. (Earlier still, in an ifunc resolver of the program, ld.so has not yet filled in thread-local
 * storage, and slabmalloc cannot be called: README.md names the limit.) test_start.c runs it. */
#include "common.h"

static struct block made[3];
static unsigned stages;

/* -- stage 1: before all constructors ---------------------------------------------------------------------------- */

static void *thread_of_preinit(void *argument)
{
    churn(3, 1000);
    return argument;
}

static void use_everything(unsigned stage)
{
    pthread_t thread;
    uint64_t random = stage + 1;
    churn(stage, 1000);
    block_make(&made[stage], &random);
    require(pthread_create(&thread, NULL, thread_of_preinit, NULL) == 0);
    require(pthread_join(thread, NULL) == 0);
    require(dlclose(dlopen(NULL, RTLD_NOW)) == 0);
    require(dlopen("libabsent.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    stages |= 1u << stage;
}

static void preinit(void)
{
    require(stages == 0);
    if (made[0].ptr == NULL)
        made[0].ptr = malloc(1000);
    require(made[0].ptr != NULL && is_aligned(made[0].ptr, NATURAL_ALIGNMENT));
    pattern_fill(made[0].ptr, 1000, 5);
    use_everything(1);
}

__attribute__((section(".preinit_array"), used)) static void (*const preinit_entry)(void) = preinit;

/* -- stage 2 and main -------------------------------------------------------------------------------------------- */

__attribute__((constructor(101))) static void constructor(void)
{
    require(stages == 2 && pattern_holds(made[0].ptr, 1000, 5));
    made[0].ptr = realloc(made[0].ptr, 20000);
    require(made[0].ptr != NULL && pattern_holds(made[0].ptr, 1000, 5));
    block_free(&made[1]);
    use_everything(2);
}

int main(void)
{
    require(stages == 6);
    require_same_library();
    require(pattern_holds(made[0].ptr, 1000, 5));
    free(made[0].ptr);
    block_free(&made[2]);
    exercise();
    return 0;
}
