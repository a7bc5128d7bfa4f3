/* Huge pages: dense memory has them where that is asked for, and what is freed here and there goes back all the same.
 *
 * Written in: README (the option `thp`), CHANGELOG ("RSS does not depend on .../transparent_hugepage/enabled"), and
 * madvise(2) for what the kernel needs: it has huge pages where `enabled` says always or madvise. */
#include "common.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { OBJECTS = 96 << 10, OBJECT_BYTES = 512, KEPT_EVERY = 64 }; /* 48 MiB */

static char **objects;

static size_t rollup_kib(const char *row)
{
    char text[4096];
    require(read_proc("/proc/self/smaps_rollup", text, sizeof text));
    return number_behind(text, row);
}

/* Are there any, for this process, at the moment? */
static bool kernel_has_huge_pages(void)
{
    char *pages = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(pages != MAP_FAILED);
    const bool has = madvise(pages, 8 * MIB, MADV_HUGEPAGE) == 0;
    const size_t before = rollup_kib("\nAnonHugePages:");
    memset(pages, 1, 8 * MIB);
    const size_t after = rollup_kib("\nAnonHugePages:");
    munmap(pages, 8 * MIB);
    return has && after > before;
}

static void make_objects(void)
{
    objects = mmap(NULL, OBJECTS * sizeof *objects, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(objects != MAP_FAILED);
    for (size_t i = 0; i < OBJECTS; i++)
        objects[i] = memset(malloc(OBJECT_BYTES), (int)(i % 127 + 1), OBJECT_BYTES);
}

/* Of those that are there. */
static void check_objects(void)
{
    for (size_t i = 0; i < OBJECTS; i++)
        for (size_t at = 0; objects[i] && at < OBJECT_BYTES; at += 73)
            require(objects[i][at] == (char)(i % 127 + 1));
}

/* Ten thousand slow paths and a hundredth of a second: the library looks, in whichever thread. */
static void go_on(void)
{
    for (size_t i = 0; i < 100; i++) {
        void *some[300];
        for (size_t n = 0; n < 300; n++)
            require((some[n] = malloc(4096)) != NULL);
        for (size_t n = 0; n < 300; n++)
            free(some[n]);
    }
    usleep(10000);
}

static void await_huge_kib(size_t kib)
{
    while (rollup_kib("\nAnonHugePages:") < kib)
        go_on();
}

/* What is left lies on next to each 8th page. */
static void free_most(void)
{
    for (size_t i = 0; i < OBJECTS; i++)
        if (i % KEPT_EVERY != 0) {
            free(objects[i]);
            objects[i] = NULL;
        }
}

static void *be_second(void *told)
{
    char byte;
    require(read(((int *)told)[0], &byte, 1) == 1);
    return NULL;
}

static void role_dense(const char *threads)
{
    pthread_t second;
    int ends[2];
    if (!kernel_has_huge_pages())
        skip_role(
            "the kernel has no huge pages here (/sys/kernel/mm/transparent_hugepage/enabled), or too little RAM");
    if (threads) { /* so there is a worker */
        require(pipe(ends) == 0);
        require(pthread_create(&second, NULL, be_second, ends) == 0);
    }
    make_objects();
    await_huge_kib(32 * KIB);
    check_objects();
    free_most();
    malloc_trim(0);
    check_objects();
    require(rss_kib() < 24 * KIB);
    for (unsigned i = 0; i < 20; i++) /* nor does it come back */
        go_on();
    malloc_trim(0);
    require(rss_kib() < 24 * KIB);
    check_objects();
    if (threads) {
        require(write(ends[1], "", 1) == 1);
        require(pthread_join(second, NULL) == 0);
    }
}

static void role_small(const char *argument)
{
    (void)argument;
    const size_t before = rollup_kib("\nAnonHugePages:");
    make_objects();
    for (unsigned i = 0; i < 20; i++)
        go_on();
    require(rollup_kib("\nAnonHugePages:") <= before);
}

static void test_dense_memory_has_huge_pages(void **state)
{
    (void)state;
    skip_on_glibc("it has huge pages as the system's policy is");
    const struct launch alone = {.environment = {"SLABMALLOC_OPTIONS=thp=on,purge_delay_ms=100"}};
    const struct launch helped = {.argument = "threads", .environment = {alone.environment[0]}};
    assert_role_succeeds("dense", &alone);
    assert_role_succeeds("dense", &helped);
}

static void test_small_heaps_have_none(void **state)
{
    (void)state;
    skip_on_glibc("it has huge pages as the system's policy is");
    assert_role_succeeds("small", NULL);
    assert_role_succeeds("small", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=thp=off"}});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"dense", role_dense}, {"small", role_small}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_memory_has_huge_pages),
        cmocka_unit_test(test_small_heaps_have_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
