/* Limits: address space, data, locked memory, mappings, strict overcommit. Out of memory is NULL and ENOMEM, and the
 * process goes on.
 *
 * Written in: malloc(3) ("ENOMEM: possibly, the application hit the RLIMIT_AS or RLIMIT_DATA limit described in
 * getrlimit(2)"; "free preserves errno"), mlockall(2), munmap(2) (ENOMEM at the limit of mappings), proc(5)
 * (max_map_count, overcommit_memory).
 *
 * Strict overcommit is a setting of the whole machine, which a test must not change: that test runs where it is set
 * already, and says otherwise how to get there. */
#include "filling.h"

#include <sys/mman.h>
#include <sys/prctl.h>

/* glibc reserves 64 MiB of addresses for each of the first threads, which is more than these tests allow. */
static void spare_addresses_on_glibc(void)
{
    if (on_glibc())
        mallopt(M_ARENA_MAX, 1);
}

/* -- filling memory up ------------------------------------------------------------------------------------------- */

/* Frees every other block, or the older half. Returns how many. */
static size_t free_half(struct link **list, size_t count, bool every_other)
{
    struct link **place = list, *block;
    size_t freed = 0;
    if (!every_other) {
        for (size_t i = 0; i < count / 2; i++)
            place = &(*place)->next;
        for (block = *place, *place = NULL; block != NULL; freed++) {
            struct link *next = block->next;
            free(block);
            block = next;
        }
        return freed;
    }
    while ((block = *place) != NULL && block->next != NULL) {
        *place = block->next;
        place = &(*place)->next;
        free(block);
        freed++;
    }
    return freed;
}

/* Fills memory, then frees half and fills again, round after round: what was freed must be had again. */
static void fill_in_rounds(size_t size, unsigned rounds, size_t least)
{
    struct link *list = NULL;
    size_t count = fill(&list, size, SIZE_MAX);
    if (count * size < least)
        fprintf(stderr, "only %zu blocks of %zu bytes fit into the limit\n", count, size);
    require(count * size >= least);
    for (unsigned round = 0; round < rounds; round++) {
        size_t freed = free_half(&list, count, round % 2 == 0);
        size_t regained = fill(&list, size, SIZE_MAX);
        if (regained < freed - freed / 8)
            fprintf(stderr, "%zu bytes, round %u: %zu freed, %zu regained\n", size, round, freed, regained);
        require(regained >= freed - freed / 8);
        count = count - freed + regained;
    }
    empty(&list, size);
}

/* -- RLIMIT_AS --------------------------------------------------------------------------------------------------- */

static void limit_address_space(void *bytes)
{
    set_limit(RLIMIT_AS, *(size_t *)bytes);
    do_without_huge_pages(); /* one a touch would only take time */
}

static size_t quarter_of_a_gib = 256 * MIB, half_a_gib = 512 * MIB;

static void role_many_rounds(const char *argument)
{
    (void)argument;
    static const struct {
        size_t size;
        unsigned rounds;
    } schedule[] = {{16 * MIB, 60}, {MIB, 56},    {300 * KIB, 40}, {100 * KIB, 20}, {3 * MIB + 1, 12},
                    {32 * KIB, 6},  {5 * KIB, 4}, {1000, 2},       {160, 2},        {MIB, 2}};
    for (size_t i = 0; i < COUNT(schedule); i++)
        fill_in_rounds(schedule[i].size, scaled(schedule[i].rounds), 128 * MIB);
    churn(1, 5000);
}

static void test_full_half_free_again_and_again(void **state)
{
    (void)state;
    assert_role_succeeds("many-rounds",
                         &(struct launch){.prepare = limit_address_space, .context = &quarter_of_a_gib});
}

/* Blocks whose sizes are no powers of two do not waste addresses. */
static void role_odd_sizes(const char *argument)
{
    (void)argument;
    static const size_t sizes[] = {100000, 40000, 70000, 150000};
    for (size_t i = 0; i < COUNT(sizes); i++)
        fill_in_rounds(sizes[i], 2, 420 * MIB);
    churn(1, 5000);
}

static void test_odd_sizes_waste_no_addresses(void **state)
{
    (void)state;
    assert_role_succeeds("odd-sizes", &(struct launch){.prepare = limit_address_space, .context = &half_a_gib});
}

/* Where nothing is left, each call says so in its own way, and nothing else changes. */
static void role_exhausted(const char *argument)
{
    (void)argument;
    struct link *large = NULL, *middle = NULL, *small = NULL;
    char *kept = malloc(40 * KIB), *text = malloc(100);
    void *unmoved = &large;
    pattern_fill(kept, 40 * KIB, 3);
    strcpy(text, "text");
    fill(&large, MIB, SIZE_MAX);
    fill(&middle, 8 * KIB, SIZE_MAX);
    fill(&small, 64, SIZE_MAX);
    for (unsigned i = 0; i < 3; i++) {
        errno = 0;
        require(realloc(opaque(kept), 4 * MIB) == NULL && errno == ENOMEM);
        require(pattern_holds(kept, 40 * KIB, 3));
        errno = 0;
        require(calloc(4, MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(memalign(64 * KIB, 2 * MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(pvalloc(4 * MIB) == NULL && errno == ENOMEM);
        require(posix_memalign(&unmoved, 4096, 2 * MIB) == ENOMEM && unmoved == &large);
    }
    empty(&middle, 8 * KIB);
    require((kept = realloc(kept, 41 * KIB)) != NULL && pattern_holds(kept, 40 * KIB, 3));
    empty(&small, 64);
    empty(&large, MIB);
    require(strcmp(text, "text") == 0);
    free(kept);
    free(text);
    churn(1, 5000);
}

static void test_every_call_when_nothing_is_left(void **state)
{
    (void)state;
    assert_role_succeeds("exhausted", &(struct launch){.prepare = limit_address_space, .context = &half_a_gib});
}

/* Addresses that malloc no longer needs are the program's again: for its threads' stacks, for its mappings. (glibc
 * keeps the promise for blocks that are mapped one by one, not for small ones.) */
static void role_space_comes_back(const char *argument)
{
    (void)argument;
    struct link *list = NULL;
    for (size_t size = on_glibc() ? 256 * KIB : 64; size <= 8 * MIB; size *= 32) {
        fill(&list, size, SIZE_MAX);
        require(mmap(NULL, 100 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
        empty(&list, size);
        malloc_trim(0);
        void *mapping = mmap(NULL, 100 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(mapping != MAP_FAILED && munmap(mapping, 100 * MIB) == 0);
    }
    exercise();
}

static void test_address_space_comes_back(void **state)
{
    (void)state;
    assert_role_succeeds("space-comes-back",
                         &(struct launch){.prepare = limit_address_space, .context = &half_a_gib});
}

static void limit_address_space_to_200_mb(void *nothing)
{
    (void)nothing;
    set_limit(RLIMIT_AS, 200 * 1000 * 1000);
}

enum { ROUNDS_IN_LITTLE_SPACE = 13 }; /* one for each size */

static pthread_barrier_t all_threads;

static void *fill_beside_others(void *total)
{
    struct link *list = NULL;
    pthread_barrier_wait(&all_threads); /* those that are there already leave no room for the last ones' stacks */
    for (unsigned round = 0; round < ROUNDS_IN_LITTLE_SPACE; round++) {
        size_t size = (size_t)64 << round;
        size_t count = fill(&list, size, 20 * MIB / size);
        __atomic_add_fetch((size_t *)total, count * size, __ATOMIC_RELAXED);
        pthread_barrier_wait(&all_threads);
        empty(&list, size);
        pthread_barrier_wait(&all_threads);
    }
    return NULL;
}

/* Eight threads with the usual stacks (8 MiB each) and a heap, in 200 MB. What the heap filled when it was full is
 * the program's again as soon as all is freed. */
static void role_threads_in_little_space(const char *argument)
{
    (void)argument;
    struct churner churners[8];
    pthread_t threads[8];
    size_t total = 0;
    spare_addresses_on_glibc();
    churners_start(churners, COUNT(churners), 5000, NULL);
    churners_join(churners, COUNT(churners));
    require(pthread_barrier_init(&all_threads, NULL, COUNT(threads)) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, fill_beside_others, &total) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    require(total / ROUNDS_IN_LITTLE_SPACE > 40 * MIB); /* on average over the rounds */
    void *mapping = mmap(NULL, 100 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(mapping != MAP_FAILED && munmap(mapping, 100 * MIB) == 0);
    churners_start(churners, COUNT(churners), 5000, NULL);
    churners_join(churners, COUNT(churners));
}

static void test_threads_in_200_mb(void **state)
{
    (void)state;
    assert_role_succeeds("threads-in-little-space", &(struct launch){.prepare = limit_address_space_to_200_mb});
}

/* -- RLIMIT_DATA, and limits that fall later --------------------------------------------------------------------- */

static void limit_data_to_100_mib(void *nothing)
{
    (void)nothing;
    set_limit(RLIMIT_DATA, 100 * MIB);
}

static void role_little_data(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {2 * MIB, 200 * KIB, 64 * KIB, 4000, 300};
    for (size_t i = 0; i < COUNT(sizes); i++)
        fill_in_rounds(sizes[i], sizes[i] < 1000 ? 4 : 20, 50 * MIB);
    churn(1, 5000);
}

static void test_rlimit_data(void **state)
{
    (void)state;
    assert_role_succeeds("little-data", &(struct launch){.prepare = limit_data_to_100_mib});
}

/* A limit set by the program itself, after start. Address space that malloc had before need not count. */
static void role_limit_falls(const char *resource)
{
    struct link *list = NULL;
    spare_addresses_on_glibc();
    churn(1, 2000);
    if (strcmp(resource, "address-space") == 0)
        set_limit(RLIMIT_AS, status_number("VmSize:") * KIB + 100 * MIB);
    else
        set_limit(RLIMIT_DATA, status_number("VmData:") * KIB + 60 * MIB);
    for (unsigned round = 0; round < scaled(4); round++)
        for (size_t size = 1000; size <= 10 * MIB; size *= 10) {
            size_t count = fill(&list, size, 300 * MIB / size);
            require(count * size >= 20 * MIB);
            empty(&list, size);
        }
    churn(1, 5000);
}

static void test_limits_that_fall_later(void **state)
{
    (void)state;
    assert_role_succeeds("limit-falls", &(struct launch){.argument = "address-space"});
    assert_role_succeeds("limit-falls", &(struct launch){.argument = "data"});
}

/* What is free serves a request that is many times as large. */
static void role_large_behind_small(const char *argument)
{
    const size_t more = 800 * MIB, size = strtoul(argument, NULL, 10);
    struct link *list = NULL;
    fill(&list, size, 64 * MIB / size);
    empty(&list, size);
    set_limit(RLIMIT_AS, status_number("VmSize:") * KIB + more);
    void *large = malloc(more + 20 * MIB);
    require(large != NULL);
    free(large);
    require(malloc(opaque_size(more * 1000)) == NULL && errno == ENOMEM);
    churn(1, 2000);
}

static void test_large_behind_small(void **state)
{
    (void)state;
    skip_on_glibc("what is freed goes back at once, or not at all");
    assert_role_succeeds("large-behind-small", &(struct launch){.argument = "100"});
    assert_role_succeeds("large-behind-small", &(struct launch){.argument = "5000"});
    assert_role_succeeds("large-behind-small", &(struct launch){.argument = "100000"});
    assert_role_succeeds("large-behind-small", &(struct launch){.argument = "5000000"});
}

/* -- locked memory ----------------------------------------------------------------------------------------------- */

/* MADV_DONTNEED fails on locked pages: calloc must not take them for cleared. */
static void check_calloc_is_zero(void)
{
    for (size_t size = 100; size < 20 * MIB; size = size * 3 + 1)
        for (unsigned i = 0; i < 5; i++) {
            void *dirty = malloc(size);
            require(dirty != NULL);
            free(memset(dirty, 0xDD, size));
            malloc_trim(0);
            void *clean = calloc(1, size);
            require(clean != NULL && all_zero(clean, size));
            free(clean);
        }
}

/* What is freed goes back though it is locked. */
static void check_locked_memory_goes_back(void)
{
    char *blocks[20];
    malloc_trim(0);
    size_t before = rss_kib();
    for (unsigned i = 0; i < COUNT(blocks); i++)
        blocks[i] = memset(malloc(2 * MIB), 1, 2 * MIB);
    for (unsigned i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
    malloc_trim(0);
    require(rss_kib() < before + 4 * KIB);
}

static void role_lock_everything(const char *flags)
{
    watchdog("mlockall takes for ever");
    churn(1, 2000);
    require(mlockall(atoi(flags)) == 0);
    require(rss_kib() < 200 * KIB);
    check_locked_memory_goes_back();
    check_calloc_is_zero();
    exercise();
    require(rss_kib() < 400 * KIB);
    check_locked_memory_goes_back();
    require(munlockall() == 0);
    check_calloc_is_zero();
}

static void lift_memlock_limit(void *nothing)
{
    (void)nothing;
    set_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
}

static void test_mlockall_as_root(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: not root\n");
        skip();
    }
    char now_and_later[8], on_fault[8];
    snprintf(now_and_later, sizeof now_and_later, "%d", MCL_CURRENT | MCL_FUTURE);
    snprintf(on_fault, sizeof on_fault, "%d", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
    assert_role_succeeds("lock-everything",
                         &(struct launch){.argument = now_and_later, .prepare = lift_memlock_limit});
    assert_role_succeeds("lock-everything", &(struct launch){.argument = on_fault, .prepare = lift_memlock_limit});
}

/* The kernel may refuse to lock what exceeds the limit; whatever it says, the program goes on. */
static void role_lock_a_little(const char *argument)
{
    struct link *list = NULL;
    struct rlimit limit;
    (void)argument;
    watchdog("mlockall takes for ever");
    require(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    churn(1, 2000);
    bool locked = mlockall(MCL_CURRENT | MCL_FUTURE) == 0;
    fprintf(stderr, "mlockall with RLIMIT_MEMLOCK of %zu KiB: %s; VmSize %zu KiB\n", (size_t)limit.rlim_cur / KIB,
            locked ? "done" : strerror(errno), status_number("VmSize:"));
    require(locked || errno == ENOMEM || errno == EPERM);
    for (size_t size = 100; size < 2 * MIB; size *= 10)
        for (unsigned round = 0; round < 4; round++) {
            size_t count = fill(&list, size, 100 * MIB / size);
            require(count * size >= (locked ? 256 * KIB : 90 * MIB) || size > 100 * KIB);
            empty(&list, size);
        }
    if (!locked) {
        exercise();
        check_calloc_is_zero();
    }
}

static void be_nobody_with_64_mib(void *nothing)
{
    (void)nothing;
    set_limit(RLIMIT_MEMLOCK, 64 * MIB);
    become_nobody();
}

static void be_nobody_with_8_mib(void *nothing)
{
    (void)nothing;
    set_limit(RLIMIT_MEMLOCK, 8 * MIB);
    become_nobody();
}

static void test_mlockall_of_an_unprivileged_user(void **state)
{
    (void)state;
    if (geteuid() != 0 || !ended_well(run_role("noop", &(struct launch){.prepare = be_nobody_with_8_mib}))) {
        print_message("skipped: cannot run this program as nobody\n");
        skip();
    }
    assert_role_succeeds("lock-a-little", &(struct launch){.prepare = be_nobody_with_64_mib});
    assert_role_succeeds("lock-a-little", &(struct launch){.prepare = be_nobody_with_8_mib});
}

/* -- the limit of mappings --------------------------------------------------------------------------------------- */

static size_t max_map_count(void)
{
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    size_t count = 0;
    if (file == NULL || fscanf(file, "%zu", &count) != 1)
        count = SIZE_MAX;
    if (file != NULL)
        fclose(file);
    return count;
}

/* Every other page of a region gets a protection of its own, until the kernel allows no more mappings. */
static void use_up_mappings(char *region, size_t pages)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 1; i < pages; i += 2)
        if (mprotect(region + i * page, page, PROT_READ) != 0) {
            require(errno == ENOMEM);
            return;
        }
    require(!"the limit of mappings was reached");
}

static void free_keeping_errno(void *block)
{
    errno = EDOM;
    free(block);
    require(errno == EDOM);
}

static void role_mappings(const char *argument)
{
    (void)argument;
    char *blocks[120];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 2 * max_map_count();
    for (unsigned i = 0; i < COUNT(blocks); i++) {
        size_t size = i < 60 ? 4 * MIB : 300 * KIB;
        require((blocks[i] = malloc(size)) != NULL);
        memset(blocks[i], 1, size);
    }
    char *region = mmap(NULL, pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(region != MAP_FAILED);
    use_up_mappings(region, pages);
    for (unsigned i = 1; i < COUNT(blocks); i += 2)
        free_keeping_errno(blocks[i]);
    for (size_t size = 1; size < 100 * MIB; size *= 4) {
        errno = 0;
        char *block = malloc(size);
        require(block != NULL || errno == ENOMEM);
        if (block != NULL)
            block[0] = block[size - 1] = 1;
        char *larger = realloc(block, size * 2);
        free_keeping_errno(larger != NULL ? larger : block);
    }
    for (unsigned i = 0; i < COUNT(blocks); i += 2)
        free_keeping_errno(blocks[i]);
    require(munmap(region, pages * page) == 0);
    exercise();
    check_calloc_is_zero();
}

static void test_free_keeps_errno_at_the_limit_of_mappings(void **state)
{
    (void)state;
    if (max_map_count() > 2000000) {
        print_message("skipped: vm.max_map_count is too high to reach\n");
        skip();
    }
    assert_role_succeeds("mappings", NULL);
}

/* -- strict overcommit ------------------------------------------------------------------------------------------- */

static bool overcommit_is_strict(void)
{
    char setting = 0;
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, &setting, 1);
    close(fd);
    return length == 1 && setting == '2';
}

static void role_strict_overcommit(const char *argument)
{
    (void)argument;
    for (size_t size = 16 * MIB; size >= 64 * KIB; size /= 4)
        fill_in_rounds(size, 10, 64 * MIB);
    exercise();
}

static void test_strict_overcommit(void **state)
{
    (void)state;
    if (!overcommit_is_strict()) {
        print_message("skipped: vm.overcommit_memory is not 2 on this machine; where it may be changed:\n"
                      "  sh -c 'echo 2 >/proc/sys/vm/overcommit_memory; exec test_limits'\n");
        skip();
    }
    assert_role_succeeds("strict-overcommit", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"many-rounds", role_many_rounds},
        {"odd-sizes", role_odd_sizes},
        {"exhausted", role_exhausted},
        {"space-comes-back", role_space_comes_back},
        {"threads-in-little-space", role_threads_in_little_space},
        {"little-data", role_little_data},
        {"limit-falls", role_limit_falls},
        {"large-behind-small", role_large_behind_small},
        {"lock-everything", role_lock_everything},
        {"lock-a-little", role_lock_a_little},
        {"noop", role_noop},
        {"mappings", role_mappings},
        {"strict-overcommit", role_strict_overcommit},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_half_free_again_and_again),
        cmocka_unit_test(test_odd_sizes_waste_no_addresses),
        cmocka_unit_test(test_every_call_when_nothing_is_left),
        cmocka_unit_test(test_address_space_comes_back),
        cmocka_unit_test(test_threads_in_200_mb),
        cmocka_unit_test(test_rlimit_data),
        cmocka_unit_test(test_limits_that_fall_later),
        cmocka_unit_test(test_large_behind_small),
        cmocka_unit_test(test_mlockall_as_root),
        cmocka_unit_test(test_mlockall_of_an_unprivileged_user),
        cmocka_unit_test(test_free_keeps_errno_at_the_limit_of_mappings),
        cmocka_unit_test(test_strict_overcommit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
