/* A library in front of libc that has hooked its calls, and allocates in the hooks.
 *
 * Written in: ld.so(8) (LD_PRELOAD: the names of the libraries in front win). That malloc may be called from a hooked
 * mmap, munmap or madvise is a habit of registration caches (UCX, MPI), of tracers and of faked clocks; glibc's
 * malloc makes its own calls past them. */
#include "common.h"

#include <sys/mman.h>

static char path_buffer[PATH_MAX];

static unsigned long hooks_called(void)
{
    unsigned long (*ask)(void);
    *(void **)&ask = dlsym(RTLD_DEFAULT, "hooks_called");
    require(ask != NULL);
    return ask();
}

/* Of all sizes, so that the heap is extended, purged and cut, blocks move, and threads come and go. */
static void *work(void *seed)
{
    churn((uintptr_t)seed, 3000);
    char *block = memset(malloc(3 * MIB), 1, 3 * MIB);
    for (size_t size = 6 * MIB; size < 100 * MIB; size *= 2)
        require((block = realloc(block, size)) != NULL && block[3 * MIB - 1] == 1);
    free(block);
    return NULL;
}

static void role_work(const char *argument)
{
    (void)argument;
    watchdog("malloc hangs beside hooks that allocate");
    for (unsigned round = 0; round < 3; round++) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < COUNT(threads); i++)
            require(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_join(threads[i], NULL) == 0);
        malloc_trim(0);
        pid_t child = fork();
        if (child == 0) {
            work((void *)9);
            _exit(0);
        }
        require(ended_well(wait_for(child)));
    }
    /* the hooks are there */
    const unsigned long before = hooks_called();
    void *page = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED && munmap(page, 1) == 0 && hooks_called() >= before + 2);
}

static void role_start(const char *argument)
{
    pthread_t thread;
    watchdog(argument);
    require(pthread_create(&thread, NULL, work, (void *)1) == 0 && pthread_join(thread, NULL) == 0);
    malloc_trim(0);
    free(calloc(1, 1000));
}

static void run_beside_hooks(const char *role, const char *argument, const char *setting)
{
    char preload[PATH_MAX + 20];
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", sibling("libhooks.so", path_buffer, sizeof path_buffer));
    assert_role_succeeds(role, &(struct launch){.argument = argument, .environment = {preload, setting}});
}

/* The process's first allocation comes in another call each time. */
static void test_one_hook_that_allocates(void **state)
{
    static const char *const names[] = {
        "syscall",           "mmap",          "mremap",    "munmap",         "madvise",
        "mprotect",          "clock_gettime", "getauxval", "pthread_create", "pthread_setspecific",
        "pthread_key_create"};
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        char setting[40];
        snprintf(setting, sizeof setting, "HOOKED=%s", names[i]);
        run_beside_hooks("start", names[i], setting);
    }
}

static void test_hooks_that_allocate(void **state)
{
    (void)state;
    run_beside_hooks("work", NULL, NULL);
}

/* Pages go back, and retired objects are looked after, all the time. */
static void test_hooks_that_allocate_while_all_is_given_back(void **state)
{
    (void)state;
    run_beside_hooks("work", NULL,
                     "SLABMALLOC_OPTIONS=purge_delay_ms=0,dirty_bytes=0,depot_bytes=0,stats_file=/dev/null");
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"work", role_work}, {"start", role_start}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_hook_that_allocates),
        cmocka_unit_test(test_hooks_that_allocate),
        cmocka_unit_test(test_hooks_that_allocate_while_all_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
