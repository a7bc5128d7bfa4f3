/* realloc and reallocarray: contents kept, failures harmless, zero frees, and huge blocks that do not get copied.
 *
 * Written in: malloc(3) ("the contents will be unchanged ... up to the minimum of the old and new sizes", "if
 * these functions fail, the original block is left untouched", "NULL if ptr is not NULL and the requested size is
 * zero"). That huge blocks grow without being copied is a habit of glibc (mremap) which programs with one growing
 * buffer have come to need: a copy would hold both blocks in memory at once. */
#include "common.h"

#include <sys/mman.h>
#include <sys/resource.h>

/* -- contents ---------------------------------------------------------------------------------------------------- */

static void test_contents_survive_growing_and_shrinking(void **state)
{
    (void)state;
    size_t size = 1;
    char *block = malloc(size);
    pattern_fill(block, size, 1);
    for (size_t next = 2; next < 20 * MIB; next += 1 + next / 17) {
        block = realloc(block, next);
        assert_true(block != NULL && is_aligned(block, NATURAL_ALIGNMENT) && malloc_usable_size(block) >= next);
        assert_true(next > MIB ? pattern_holds(block, 4096, 1) : pattern_holds(block, size, 1));
        pattern_fill(block, next, 1);
        size = next;
    }
    while (size > 1) {
        size -= 1 + size / 19;
        block = realloc(block, size);
        assert_true(block != NULL && pattern_holds(block, size, 1));
    }
    free(block);
}

/* From each size to each other, with neighbours that must not feel it. */
static void test_every_pair_of_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {1,         8,         15,        16,    17,        24,    32,        48,
                                   64,        100,       128,       200,   256,       500,   512,       1000,
                                   1024,      1500,      2048,      3000,  4096,      5000,  8192,      12000,
                                   16384,     30000,     32768,     33000, 65536,     70000, KIB * 100, KIB * 128,
                                   KIB * 200, KIB * 256, KIB * 512, MIB,   MIB + 4096};
    for (size_t from = 0; from < COUNT(sizes); from++)
        for (size_t to = 0; to < COUNT(sizes); to++) {
            size_t kept = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            unsigned seed = (unsigned)(from * 41 + to);
            char *before = malloc(sizes[from]), *block = malloc(sizes[from]), *after = malloc(sizes[to]);
            pattern_fill(before, sizes[from], seed + 1);
            pattern_fill(block, sizes[from], seed);
            pattern_fill(after, sizes[to], seed + 2);
            block = realloc(block, sizes[to]);
            assert_true(block != NULL && pattern_holds(block, kept, seed));
            memset(block, 0xFF, sizes[to]);
            assert_true(pattern_holds(before, sizes[from], seed + 1));
            assert_true(pattern_holds(after, sizes[to], seed + 2));
            free(before);
            free(block);
            free(after);
        }
}

static void test_aligned_blocks_may_be_resized(void **state)
{
    (void)state;
    for (size_t alignment = 16; alignment <= 4 * MIB; alignment *= 4)
        for (size_t size = 1; size < 300000; size = size * 3 + 5) {
            char *block = memalign(alignment, size);
            pattern_fill(block, size, 77);
            block = realloc(block, size * 2);
            assert_true(block != NULL && pattern_holds(block, size, 77));
            pattern_fill(block, size * 2, 78);
            block = realloc(block, size / 2 + 1);
            assert_true(block != NULL && pattern_holds(block, size / 2 + 1, 78));
            free(block);
        }
}

static void test_null_is_malloc(void **state)
{
    (void)state;
    for (size_t size = 0; size < MIB; size = size * 2 + 1) {
        void *plain = realloc(NULL, size), *array = reallocarray(NULL, size, 2);
        assert_true(plain != NULL && malloc_usable_size(plain) >= size);
        assert_true(array != NULL && malloc_usable_size(array) >= 2 * size);
        assert_ptr_not_equal(plain, array);
        free(plain);
        free(array);
    }
}

static void test_reallocarray_multiplies(void **state)
{
    (void)state;
    uint32_t *numbers = reallocarray(NULL, 10, sizeof *numbers);
    for (uint32_t i = 0; i < 10; i++)
        numbers[i] = i;
    for (uint32_t count = 11; count < 100000; count += 1 + count / 5) {
        numbers = reallocarray(numbers, count, sizeof *numbers);
        assert_true(numbers != NULL && malloc_usable_size(numbers) >= count * sizeof *numbers);
        for (uint32_t i = 0; i < 10; i++)
            assert_int_equal(numbers[i], i);
    }
    assert_null(reallocarray(numbers, 0, sizeof *numbers));
}

/* -- failures ---------------------------------------------------------------------------------------------------- */

static void test_a_failing_realloc_leaves_the_block(void **state)
{
    (void)state;
    static const size_t too_large[] = {
        SIZE_MAX,    (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX, (size_t)-512 * 1024, (size_t)-4096,
        (size_t)-15, (size_t)1 << 56};
    for (size_t size = 1; size < 40 * MIB; size = size * 3 + 1) {
        char *block = size % 2 ? malloc(size) : memalign(512, size);
        pattern_fill(block, size, 21);
        uintptr_t address = (uintptr_t)block;
        for (size_t i = 0; i < COUNT(too_large); i++) {
            errno = 0;
            assert_null(realloc(opaque(block), opaque_size(too_large[i])));
            assert_int_equal(errno, ENOMEM);
            errno = 0;
            assert_null(reallocarray(opaque(block), opaque_size(too_large[i]), opaque_size(3)));
            assert_int_equal(errno, ENOMEM);
        }
        assert_true(address == (uintptr_t)block && pattern_holds(block, size, 21));
        block = realloc(block, size + 100);
        assert_true(block != NULL && pattern_holds(block, size, 21));
        free(block);
    }
}

/* A program tells "freed" from "failed" by errno, which realloc(p, 0) does not touch. */
static void test_zero_frees_and_returns_null(void **state)
{
    (void)state;
    for (size_t size = 1; size < 10 * MIB; size = size * 2 + 1) {
        errno = 0;
        assert_null(realloc(malloc(size), opaque_size(0)));
        assert_null(reallocarray(malloc(size), opaque_size(0), 8));
        assert_null(reallocarray(malloc(size), 8, opaque_size(0)));
        assert_null(realloc(memalign(4096, size), opaque_size(0)));
        assert_int_equal(errno, 0);
    }
    size_t before = rss_kib();
    for (unsigned i = 0; i < 1000; i++)
        assert_null(realloc(memset(malloc(100000), 1, 100000), opaque_size(0)));
    assert_true(rss_kib() < before + 20 * KIB);
}

/* -- huge blocks ------------------------------------------------------------------------------------------------- */

static void reset_peak(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "5", 1) != 1)
        skip_role("the peak of what is resident cannot be reset (/proc/self/clear_refs)");
    close(fd);
}

static bool page_stamps_hold(const char *block, size_t from, size_t to)
{
    for (size_t offset = from; offset < to; offset += 4096)
        if (*(const size_t *)(block + offset) != offset)
            return false;
    return true;
}

static void stamp_pages(char *block, size_t from, size_t to)
{
    for (size_t offset = from; offset < to; offset += 4096)
        *(size_t *)(block + offset) = offset;
}

/* 100 MiB of content and growth by as much again: had it been copied, both would have been resident at once. */
static void role_huge_growth(const char *blockade)
{
    size_t size = 100 * MIB;
    do_without_huge_pages();
    char *block = malloc(size);
    require(block != NULL);
    stamp_pages(block, 0, size);
    char *in_the_way = *blockade ? malloc(30 * MIB) : NULL;
    reset_peak();
    size_t before = status_number("VmHWM:");
    block = realloc(block, 2 * size);
    require(block != NULL && page_stamps_hold(block, 0, size));
    require(status_number("VmHWM:") < before + 20 * KIB);
    stamp_pages(block, size, 2 * size);
    block = realloc(block, size / 2);
    require(block != NULL && page_stamps_hold(block, 0, size / 2));
    malloc_trim(0);
    require(rss_kib() < before - 30 * KIB);
    free(block);
    free(in_the_way);
}

/* A buffer that grows a MiB at a time to 300 MiB, as a reader of a stream does it. Were it copied, 299 MiB would lie
 * beside 300. */
static void role_steady_growth(const char *argument)
{
    (void)argument;
    size_t size = 0;
    char *block = NULL;
    do_without_huge_pages();
    while (size < 300 * MIB) {
        block = realloc(block, size + MIB);
        require(block != NULL);
        stamp_pages(block, size, size + MIB);
        size += MIB;
    }
    require(page_stamps_hold(block, 0, size));
    require(status_number("VmHWM:") < 360 * KIB);
    free(block);
    malloc_trim(0);
    require(rss_kib() < 60 * KIB);
}

/* Huge blocks of four threads that grow and shrink through each other; what a move leaves behind is nobody's. */
static void *huge_mover(void *argument)
{
    uint64_t random = *(const unsigned *)argument * 7919u + 1;
    size_t size = 2 * MIB;
    char *block = malloc(size);
    require(block != NULL);
    stamp_pages(block, 0, size);
    for (unsigned i = 0, moves = scaled(120); i < moves; i++) {
        size_t next = MIB + random_next(&random) % (24 * MIB) / 4096 * 4096;
        block = realloc(block, next);
        require(block != NULL && page_stamps_hold(block, 0, next < size ? next : size));
        stamp_pages(block, 0, next);
        size = next;
        void *mapping = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(mapping != MAP_FAILED);
        memset(mapping, 0xCC, 4096);
        require(munmap(mapping, 2 * MIB) == 0);
    }
    free(block);
    return NULL;
}

static void role_huge_threads(const char *argument)
{
    (void)argument;
    pthread_t threads[4];
    unsigned seeds[4] = {1, 2, 3, 4};
    for (unsigned i = 0; i < 4; i++)
        require(pthread_create(&threads[i], NULL, huge_mover, &seeds[i]) == 0);
    for (unsigned i = 0; i < 4; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static long page_faults(void)
{
    struct rusage usage;
    require(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_minflt;
}

/* Vectors of numbers that grow in turn, by one number each time. All that they touch is little more than what they
 * have in the end. (glibc does the same.) */
static void role_vectors_in_turn(const char *argument)
{
    enum { MOST = 8, NUMBERS = 3200000 };
    const size_t count = (size_t)atoi(argument), each = NUMBERS / count, pages = NUMBERS * sizeof(size_t) / 4096;
    size_t *vectors[MOST] = {NULL};
    do_without_huge_pages();
    const long before = page_faults();
    for (size_t n = 1; n <= each; n++)
        for (size_t i = 0; i < count; i++) {
            vectors[i] = realloc(vectors[i], n * sizeof(size_t));
            require(vectors[i] != NULL && is_aligned(vectors[i], NATURAL_ALIGNMENT));
            vectors[i][n - 1] = n * count + i;
        }
    require((size_t)(page_faults() - before) < pages + pages / 8 + 300);
    require(status_number("VmHWM:") < pages * 4 + 8 * KIB);
    for (size_t i = 0; i < count; i++) {
        for (size_t n = 1; n <= each; n++)
            require(vectors[i][n - 1] == n * count + i);
        vectors[i] = realloc(vectors[i], each * sizeof(size_t) / 2);
        require(vectors[i] != NULL && vectors[i][each / 2 - 1] == each / 2 * count + i);
    }
    malloc_trim(0);
    require(rss_kib() < pages * 2 + 8 * KIB);
    for (size_t i = 0; i < count; i++)
        free(vectors[i]);
}

static void test_vectors_that_grow_in_turn(void **state)
{
    (void)state;
    assert_role_succeeds("vectors-in-turn", &(struct launch){.argument = "1"});
    assert_role_succeeds("vectors-in-turn", &(struct launch){.argument = "2"});
    assert_role_succeeds("vectors-in-turn", &(struct launch){.argument = "8"});
}

/* All that malloc_usable_size grants is the owner's, at every size on the way, and nobody else's. */
static void test_growing_blocks_stay_apart(void **state)
{
    (void)state;
    char *blocks[8] = {NULL};
    size_t sizes[COUNT(blocks)] = {0};
    while (sizes[0] < MIB)
        for (size_t i = 0; i < COUNT(blocks); i++) {
            const size_t n = sizes[i] + 1 + sizes[i] / 20, probe = sizes[i] < 100 ? sizes[i] : 100;
            blocks[i] = realloc(blocks[i], n);
            assert_true(blocks[i] != NULL && is_aligned(blocks[i], NATURAL_ALIGNMENT));
            for (size_t at = 0; at < probe; at++) {
                assert_int_equal(blocks[i][at], (char)(i + 1));
                assert_int_equal(blocks[i][sizes[i] - 1 - at], (char)(i + 1));
            }
            sizes[i] = malloc_usable_size(blocks[i]);
            assert_true(sizes[i] >= n);
            memset(blocks[i], (int)i + 1, sizes[i]);
        }
    for (size_t i = 0; i < COUNT(blocks); i++) {
        for (size_t at = 0; at < sizes[i]; at += 509)
            assert_int_equal(blocks[i][at], (char)(i + 1));
        free(blocks[i]);
    }
}

static void test_huge_blocks_grow_without_a_copy(void **state)
{
    (void)state;
    assert_role_succeeds("huge-growth", NULL);
}

static void test_huge_blocks_move_without_a_copy(void **state)
{
    (void)state;
    assert_role_succeeds("huge-growth", &(struct launch){.argument = "with-a-block-in-the-way"});
}

static void test_steady_growth_is_no_copy(void **state)
{
    (void)state;
    assert_role_succeeds("steady-growth", NULL);
}

static void test_huge_blocks_of_many_threads(void **state)
{
    (void)state;
    assert_role_succeeds("huge-threads", NULL);
}

static void test_a_block_of_gibibytes(void **state)
{
    (void)state;
    size_t size = (size_t)2 << 30;
    char *block = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
        print_message("skipped: this machine maps no 4 GiB of memory\n");
        skip();
    }
    assert_int_equal(munmap(block, 2 * size), 0);
    block = malloc(size);
    assert_non_null(block);
    block[0] = 1;
    block[size - 1] = 2;
    block = realloc(block, size + size / 2);
    assert_true(block != NULL && block[0] == 1 && block[size - 1] == 2);
    free(block);
    block = calloc(size / 16, 16);
    assert_true(block != NULL && block[0] == 0 && block[size / 2] == 0 && block[size - 1] == 0);
    assert_true(rss_kib() < 200 * KIB);
    free(block);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"huge-growth", role_huge_growth},
                                        {"steady-growth", role_steady_growth},
                                        {"huge-threads", role_huge_threads},
                                        {"vectors-in-turn", role_vectors_in_turn}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents_survive_growing_and_shrinking),
        cmocka_unit_test(test_every_pair_of_sizes),
        cmocka_unit_test(test_aligned_blocks_may_be_resized),
        cmocka_unit_test(test_null_is_malloc),
        cmocka_unit_test(test_reallocarray_multiplies),
        cmocka_unit_test(test_a_failing_realloc_leaves_the_block),
        cmocka_unit_test(test_zero_frees_and_returns_null),
        cmocka_unit_test(test_growing_blocks_stay_apart),
        cmocka_unit_test(test_vectors_that_grow_in_turn),
        cmocka_unit_test(test_huge_blocks_grow_without_a_copy),
        cmocka_unit_test(test_huge_blocks_move_without_a_copy),
        cmocka_unit_test(test_steady_growth_is_no_copy),
        cmocka_unit_test(test_huge_blocks_of_many_threads),
        cmocka_unit_test(test_a_block_of_gibibytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
