/* The calls that allocate and free: alignment, refusals, zero sizes, usable sizes, errno, zeroed memory.
 *
 * Written in: malloc(3), posix_memalign(3), malloc_usable_size(3); POSIX.1-2008 TC2 (posix_memalign leaves
 * *memptr alone on failure); C17 7.22.3 (every pointer is aligned for any fundamental type); C23 7.24.3.4 to
 * 7.24.3.5 (free_sized, free_aligned_sized); glibc's manual, "Replacing malloc" (the whole family belongs together).
 * realloc has a file of its own, and so have the calls that inform. */
#include "common.h"

#include <link.h>

/* Each of these is over PTRDIFF_MAX; some of them wrap round when they are rounded up. */
static const size_t sizes_refused[] = {
    (size_t)PTRDIFF_MAX + 1,
    (size_t)PTRDIFF_MAX + 4096,
    (size_t)-1 << 62,
    (size_t) - (1 << 30),
    (size_t) - (512 << 10),
    (size_t) - (64 << 10),
    (size_t)-8192,
    (size_t)-4097,
    (size_t)-4096,
    (size_t)-4095,
    (size_t)-65,
    (size_t)-32,
    (size_t)-17,
    (size_t)-16,
    (size_t)-15,
    (size_t)-9,
    (size_t)-1,
};

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* -- who answers ------------------------------------------------------------------------------------------------- */

static const char *const family[] = {
    "malloc",      "calloc",       "realloc",     "reallocarray",       "free",     "posix_memalign", "aligned_alloc",
    "memalign",    "valloc",       "pvalloc",     "malloc_usable_size", "mallinfo", "mallinfo2",      "mallopt",
    "malloc_trim", "malloc_stats", "malloc_info",
};
static const char *const family_beyond_glibc[] = {"cfree", "free_sized", "free_aligned_sized"};

/* A program may bring its own malloc for these; a preload that exports them would cut it off. */
static const char *const not_family[] = {
    "strdup", "strndup", "asprintf", "vasprintf", "getline",        "mmap",     "munmap",
    "mremap", "brk",     "sbrk",     "fork",      "_exit",          "dlsym",    "memcpy",
    "memset", "abort",   "fclose",   "realpath",  "open_memstream", "reallocf",
};

static void test_one_library_serves_the_whole_family(void **state)
{
    (void)state;
    const char *library = provider_of("malloc");
    if (!on_glibc())
        assert_non_null(strstr(library, "slabmalloc"));
    for (size_t i = 0; i < COUNT(family); i++) {
        if (strcmp(provider_of(family[i]), library) != 0)
            print_error("%s comes from \"%s\"\n", family[i], provider_of(family[i]));
        assert_string_equal(provider_of(family[i]), library);
    }
    for (size_t i = 0; !on_glibc() && i < COUNT(family_beyond_glibc); i++)
        assert_string_equal(provider_of(family_beyond_glibc[i]), library);
}

/* But for pthread_create and dlopen, which go on in libc, and glibc's own names for malloc. */
static void test_nothing_beyond_the_family_is_replaced(void **state)
{
    (void)state;
    skip_on_glibc("the names are its own");
    for (size_t i = 0; i < COUNT(not_family); i++) {
        const char *library = provider_of(not_family[i]);
        if (strstr(library, "slabmalloc") != NULL)
            print_error("%s is exported\n", not_family[i]);
        assert_null(strstr(library, "slabmalloc"));
    }
}

static int is_libstdcxx(struct dl_phdr_info *info, size_t size, void *found)
{
    (void)size;
    *(bool *)found |= strstr(info->dlpi_name, "libstdc++") != NULL;
    return 0;
}

static void test_a_c_program_never_loads_libstdcxx(void **state)
{
    (void)state;
    bool found = false;
    assert_null(malloc(opaque_size(SIZE_MAX)));
    dl_iterate_phdr(is_libstdcxx, &found);
    assert_false(found);
}

/* -- alignment --------------------------------------------------------------------------------------------------- */

static void check_alignment_of_size(size_t size)
{
    void *blocks[] = {malloc(size), calloc(1, size), realloc(NULL, size), reallocarray(NULL, size, 1), malloc(size)};
    for (size_t i = 0; i < COUNT(blocks); i++) {
        assert_non_null(blocks[i]);
        if (!is_aligned(blocks[i], NATURAL_ALIGNMENT))
            print_error("block %zu of size %zu: %p\n", i, size, blocks[i]);
        assert_true(is_aligned(blocks[i], NATURAL_ALIGNMENT));
        assert_true(malloc_usable_size(blocks[i]) >= size);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
}

static void test_every_size_is_aligned_to_16(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 9000; size++)
        check_alignment_of_size(size);
    for (size_t size = 9001; size < 5 * MIB; size += size / 61)
        check_alignment_of_size(size);
}

/* Every way to ask for an alignment, as one function. */
static void *aligned_by(unsigned way, size_t alignment, size_t size)
{
    void *block = NULL;
    switch (way) {
    case 0:
        return memalign(alignment, size);
    case 1:
        return aligned_alloc(alignment, size);
    default:
        return posix_memalign(&block, alignment < sizeof(void *) ? sizeof(void *) : alignment, size) == 0 ? block
                                                                                                          : NULL;
    }
}

#define ALIGNED_WAYS 3

static void check_aligned(size_t alignment, size_t size)
{
    void *blocks[ALIGNED_WAYS];
    for (unsigned way = 0; way < ALIGNED_WAYS; way++) {
        blocks[way] = aligned_by(way, alignment, size);
        if (blocks[way] == NULL || !is_aligned(blocks[way], alignment))
            print_error("way %u, alignment %zu, size %zu: %p\n", way, alignment, size, blocks[way]);
        assert_non_null(blocks[way]);
        assert_true(is_aligned(blocks[way], alignment) && is_aligned(blocks[way], alignment < 16 ? 1 : 16));
        assert_true(malloc_usable_size(blocks[way]) >= size);
        if (size <= MIB)
            pattern_fill(blocks[way], size, way);
    }
    for (unsigned way = 0; way < ALIGNED_WAYS; way++) {
        assert_true(size > MIB || pattern_holds(blocks[way], size, way));
        free(blocks[way]);
    }
}

static void test_aligned_calls_with_every_power_of_two(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= 64 * MIB; alignment *= 2) {
        const size_t sizes[] = {0,         1,
                                15,        16,
                                17,        48,
                                100,       1000,
                                4096,      5000,
                                32 * KIB,  70000,
                                MIB + 1,   alignment - 1,
                                alignment, alignment + 1};
        for (size_t i = 0; i < COUNT(sizes); i++)
            check_aligned(alignment, sizes[i]);
    }
}

/* Up to where memory ends: an alignment of a GiB must be had, a greater one may fail, but with ENOMEM. */
static void test_enormous_alignments(void **state)
{
    (void)state;
    check_aligned((size_t)1 << 30, 1);
    for (unsigned bit = 31; bit < 63; bit++) {
        size_t alignment = (size_t)1 << bit;
        errno = 0;
        void *block = memalign(alignment, 100);
        assert_true(block != NULL ? is_aligned(block, alignment) : errno == ENOMEM);
        free(block);
        void *unmoved = &block;
        int error = posix_memalign(&unmoved, alignment, 100);
        assert_true(error == 0 ? is_aligned(unmoved, alignment) : error == ENOMEM && unmoved == &block);
        free(error == 0 ? unmoved : NULL);
    }
}

/* A program may free what it aligned in any order, and gets distinct blocks. */
static void test_many_aligned_blocks_do_not_overlap(void **state)
{
    (void)state;
    enum { BLOCKS = 2000 };
    static struct block blocks[BLOCKS];
    uint64_t random = 99;
    for (unsigned i = 0; i < BLOCKS; i++) {
        size_t alignment = (size_t)8 << random_next(&random) % 12;
        blocks[i].size = random_next(&random) % 3000;
        blocks[i].seed = i;
        blocks[i].ptr = aligned_by(i % ALIGNED_WAYS, alignment, blocks[i].size);
        assert_true(blocks[i].ptr != NULL && is_aligned(blocks[i].ptr, alignment));
        pattern_fill(blocks[i].ptr, malloc_usable_size(blocks[i].ptr), i);
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        struct block *block = &blocks[i * 7919u % BLOCKS];
        assert_true(pattern_holds(block->ptr, malloc_usable_size(block->ptr), block->seed));
        free(block->ptr);
    }
}

static void test_valloc_and_pvalloc_give_pages(void **state)
{
    (void)state;
    size_t page = page_size();
    const size_t sizes[] = {0, 1, 100, page - 1, page, page + 1, 3 * page, 100 * page + 1, 3 * MIB};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *plain = valloc(sizes[i]), *rounded = pvalloc(sizes[i]);
        size_t whole_pages = (sizes[i] + page - 1) / page * page;
        assert_true(plain != NULL && is_aligned(plain, page) && malloc_usable_size(plain) >= sizes[i]);
        assert_true(rounded != NULL && is_aligned(rounded, page) && malloc_usable_size(rounded) >= whole_pages);
        memset(rounded, 1, whole_pages);
        free(plain);
        free(rounded);
    }
}

/* -- bad alignments ---------------------------------------------------------------------------------------------- */

static void test_posix_memalign_refuses_bad_alignments(void **state)
{
    (void)state;
    const size_t bad[] = {
        0, 1, 2, 4, 3, 5, 7, 12, 24, 48, 100, 4095, 4097, 3 * 4096, SIZE_MAX, SIZE_MAX - 7, ((size_t)1 << 63) + 8};
    for (size_t i = 0; i < COUNT(bad); i++) {
        void *unmoved = (void *)&bad;
        errno = EDOM;
        assert_int_equal(posix_memalign(&unmoved, opaque_size(bad[i]), 64), EINVAL);
        assert_int_equal(errno, EDOM);
        assert_ptr_equal(unmoved, &bad);
    }
}

static void test_absurd_alignments_of_memalign_are_invalid(void **state)
{
    (void)state;
    const size_t absurd[] = {SIZE_MAX, SIZE_MAX - 4095, ((size_t)1 << 63) + 1, ((size_t)1 << 63) + ((size_t)1 << 62)};
    for (size_t i = 0; i < COUNT(absurd); i++) {
        for (unsigned way = 0; way < 2; way++) {
            errno = 0;
            assert_null(aligned_by(way, opaque_size(absurd[i]), 64));
            assert_int_equal(errno, EINVAL);
        }
    }
}

/* memalign(3): need not check. glibc's rounds up to a power of two (aligned_alloc until 2.38); others refuse. */
static void test_odd_alignments_are_rounded_up_or_refused(void **state)
{
    (void)state;
    const size_t odd[] = {3, 24, 48, 100, 1000, 4097, 70000};
    for (size_t i = 0; i < COUNT(odd); i++)
        for (unsigned way = 0; way < 2; way++) {
            size_t alignment = 1;
            while (alignment < odd[i])
                alignment *= 2;
            errno = 0;
            void *block = aligned_by(way, opaque_size(odd[i]), 500);
            assert_true(block == NULL ? errno == EINVAL : is_aligned(block, alignment));
            free(block);
        }
}

/* -- refusals ---------------------------------------------------------------------------------------------------- */

static void expect_no_memory(const char *call, size_t size, void *result)
{
    if (result != NULL || errno != ENOMEM)
        print_error("%s with size %#zx: %p, errno %d\n", call, size, result, errno);
    assert_null(result);
    assert_int_equal(errno, ENOMEM);
    errno = 0;
}

static void check_plain_calls_refuse(size_t size)
{
    errno = 0;
    expect_no_memory("malloc", size, malloc(size));
    expect_no_memory("calloc(1, n)", size, calloc(1, size));
    expect_no_memory("calloc(n, 1)", size, calloc(size, 1));
    expect_no_memory("realloc(NULL, n)", size, realloc(NULL, size));
    expect_no_memory("reallocarray(NULL, 1, n)", size, reallocarray(NULL, 1, size));
    expect_no_memory("reallocarray(NULL, n, 1)", size, reallocarray(NULL, size, 1));
    expect_no_memory("valloc", size, valloc(size));
    expect_no_memory("pvalloc", size, pvalloc(size));
}

static void check_aligned_calls_refuse(size_t size)
{
    for (unsigned bit = 0; bit < 63; bit += bit < 24 ? 1 : 6) {
        size_t alignment = (size_t)1 << bit;
        errno = 0;
        expect_no_memory("memalign", size, memalign(alignment, size));
        expect_no_memory("aligned_alloc", size, aligned_alloc(alignment, size));
        if (alignment < sizeof(void *))
            continue;
        void *unmoved = (void *)&alignment;
        assert_int_equal(posix_memalign(&unmoved, alignment, size), ENOMEM);
        assert_ptr_equal(unmoved, &alignment);
    }
}

static void test_sizes_over_ptrdiff_max_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(sizes_refused); i++) {
        check_plain_calls_refuse(opaque_size(sizes_refused[i]));
        check_aligned_calls_refuse(opaque_size(sizes_refused[i]));
    }
}

/* Legal to ask for, but no machine has it: the largest legal sizes fail for want of memory, not by a crash. */
static void test_sizes_up_to_ptrdiff_max_that_nobody_has(void **state)
{
    (void)state;
    const size_t sizes[] = {PTRDIFF_MAX, PTRDIFF_MAX - 15, PTRDIFF_MAX - 4096, PTRDIFF_MAX / 2, (size_t)1 << 56};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        check_plain_calls_refuse(opaque_size(sizes[i]));
        check_aligned_calls_refuse(opaque_size(sizes[i]));
    }
}

static void test_overflowing_products_are_refused(void **state)
{
    (void)state;
    const size_t half = SIZE_MAX / 2 + 1, root = (size_t)1 << 32;
    const size_t products[][2] = {{half, 2},
                                  {2, half},
                                  {root, root},
                                  {root << 1, root >> 1},
                                  {SIZE_MAX, 2},
                                  {2, SIZE_MAX},
                                  {SIZE_MAX, SIZE_MAX},
                                  {SIZE_MAX / 3 + 1, 3},
                                  {half + 8, 2},
                                  {(size_t)1 << 60, 16},
                                  {48, SIZE_MAX / 48 + 1},
                                  {root + 1, root - 1}};
    char *kept = malloc(100);
    pattern_fill(kept, 100, 3);
    for (size_t i = 0; i < COUNT(products); i++) {
        size_t count = opaque_size(products[i][0]), size = opaque_size(products[i][1]);
        errno = 0;
        expect_no_memory("calloc", count, calloc(count, size));
        expect_no_memory("reallocarray(NULL)", count, reallocarray(NULL, count, size));
        expect_no_memory("reallocarray", count, reallocarray(opaque(kept), count, size));
        assert_true(pattern_holds(kept, 100, 3));
    }
    free(kept);
}

/* -- zero sizes -------------------------------------------------------------------------------------------------- */

static void *zero_sized(unsigned way)
{
    void *block = NULL;
    switch (way) {
    case 0:
        return malloc(opaque_size(0));
    case 1:
        return calloc(opaque_size(0), 5);
    case 2:
        return calloc(5, opaque_size(0));
    case 3:
        return realloc(NULL, opaque_size(0));
    case 4:
        return reallocarray(NULL, opaque_size(0), 7);
    case 5:
        return memalign(64, opaque_size(0));
    case 6:
        return aligned_alloc(32, opaque_size(0));
    case 7:
        return posix_memalign(&block, 128, opaque_size(0)) == 0 ? block : NULL;
    case 8:
        return valloc(opaque_size(0));
    default:
        return pvalloc(opaque_size(0));
    }
}

static int by_address(const void *left, const void *right)
{
    uintptr_t a = (uintptr_t) * (void *const *)left, b = (uintptr_t) * (void *const *)right;
    return a < b ? -1 : a > b;
}

static void test_zero_sizes_give_unique_pointers(void **state)
{
    (void)state;
    static void *blocks[1000];
    for (unsigned i = 0; i < COUNT(blocks); i++) {
        blocks[i] = zero_sized(i % 10);
        assert_non_null(blocks[i]);
        assert_true(is_aligned(blocks[i], NATURAL_ALIGNMENT));
        if (i % 10 != 9 || !on_glibc())
            assert_true(malloc_usable_size(blocks[i]) > 0);
    }
    qsort(blocks, COUNT(blocks), sizeof blocks[0], by_address);
    for (unsigned i = 1; i < COUNT(blocks); i++)
        assert_ptr_not_equal(blocks[i], blocks[i - 1]);
    for (unsigned i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
}

/* -- usable size ------------------------------------------------------------------------------------------------- */

static void test_usable_size_of_null_is_zero(void **state)
{
    (void)state;
    assert_int_equal(malloc_usable_size(opaque(NULL)), 0);
}

static void test_all_usable_bytes_may_be_written(void **state)
{
    (void)state;
    static struct block blocks[3000];
    uint64_t random = 5;
    for (unsigned i = 0; i < COUNT(blocks); i++) {
        blocks[i].ptr = malloc(random_size(&random) / (1 + i % 4));
        blocks[i].size = malloc_usable_size(blocks[i].ptr);
        blocks[i].seed = i;
        pattern_fill(blocks[i].ptr, blocks[i].size, i);
    }
    for (unsigned i = 0; i < COUNT(blocks); i++) {
        assert_int_equal(malloc_usable_size(blocks[i].ptr), blocks[i].size);
        block_free(&blocks[i]);
    }
}

static void check_growth_stays_in_place(void *block)
{
    size_t usable = malloc_usable_size(block);
    pattern_fill(block, usable, 11);
    uintptr_t address = (uintptr_t)block;
    void *grown = realloc(block, usable);
    assert_true((uintptr_t)grown == address);
    assert_true(malloc_usable_size(grown) >= usable && pattern_holds(grown, usable, 11));
    free(grown);
}

static void test_growing_to_the_usable_size_stays_in_place(void **state)
{
    (void)state;
    for (size_t size = 0; size < 8 * MIB; size += 1 + size / 17) {
        check_growth_stays_in_place(malloc(size));
        check_growth_stays_in_place(calloc(1, size));
        check_growth_stays_in_place(memalign(256, size));
    }
}

/* -- free -------------------------------------------------------------------------------------------------------- */

static void test_free_keeps_errno(void **state)
{
    (void)state;
    for (size_t size = 0; size < 64 * MIB; size = size * 2 + 24) {
        void *blocks[] = {malloc(size), memalign(4096, size), realloc(malloc(1), size + 1), NULL};
        for (size_t i = 0; i < COUNT(blocks); i++) {
            errno = EDOM;
            free(blocks[i]);
            assert_int_equal(errno, EDOM);
        }
    }
}

static void test_free_sized_and_free_aligned_sized(void **state)
{
    (void)state;
    if (on_glibc() && free_sized == NULL)
        skip_on_glibc("no free_sized before 2.42");
    assert_true(free_sized != NULL && free_aligned_sized != NULL);
    errno = EDOM;
    free_sized(NULL, 0);
    free_sized(NULL, 100);
    free_aligned_sized(NULL, 64, 128);
    for (size_t size = 0; size < 8 * MIB; size += 1 + size / 19) {
        free_sized(malloc(size), size);
        free_sized(calloc(1, size), size);
        free_sized(realloc(malloc(3), size + 1), size + 1);
        for (size_t alignment = 8; alignment <= 64 * KIB; alignment *= 8) {
            size_t whole = (size + alignment - 1) / alignment * alignment;
            free_aligned_sized(aligned_alloc(alignment, whole), alignment, whole);
        }
    }
    assert_int_equal(errno, EDOM);
}

static void test_cfree_frees(void **state)
{
    (void)state;
    if (on_glibc())
        skip_on_glibc("no cfree for new programs since 2.26");
    assert_true(cfree != NULL);
    size_t before = rss_kib();
    for (unsigned i = 0; i < 2000; i++)
        cfree(memset(calloc(100, 1000), 1, 100000));
    assert_true(rss_kib() < before + 20 * KIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_library_serves_the_whole_family),
        cmocka_unit_test(test_nothing_beyond_the_family_is_replaced),
        cmocka_unit_test(test_a_c_program_never_loads_libstdcxx),
        cmocka_unit_test(test_every_size_is_aligned_to_16),
        cmocka_unit_test(test_aligned_calls_with_every_power_of_two),
        cmocka_unit_test(test_enormous_alignments),
        cmocka_unit_test(test_many_aligned_blocks_do_not_overlap),
        cmocka_unit_test(test_valloc_and_pvalloc_give_pages),
        cmocka_unit_test(test_posix_memalign_refuses_bad_alignments),
        cmocka_unit_test(test_absurd_alignments_of_memalign_are_invalid),
        cmocka_unit_test(test_odd_alignments_are_rounded_up_or_refused),
        cmocka_unit_test(test_sizes_over_ptrdiff_max_are_refused),
        cmocka_unit_test(test_sizes_up_to_ptrdiff_max_that_nobody_has),
        cmocka_unit_test(test_overflowing_products_are_refused),
        cmocka_unit_test(test_zero_sizes_give_unique_pointers),
        cmocka_unit_test(test_usable_size_of_null_is_zero),
        cmocka_unit_test(test_all_usable_bytes_may_be_written),
        cmocka_unit_test(test_growing_to_the_usable_size_stays_in_place),
        cmocka_unit_test(test_free_keeps_errno),
        cmocka_unit_test(test_free_sized_and_free_aligned_sized),
        cmocka_unit_test(test_cfree_frees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
