/* What calloc promises, and that its memory is zero up to its usable size, whatever lay there before.
 *
 * Written in: calloc(3) ("the memory is set to zero"); malloc_usable_size(3). That all usable bytes of a new block of
 * calloc's are zero is a habit of glibc's and bionic's, which bionic tests. */
#include "common.h"

static void check_calloc_after_dirt(size_t size, size_t count)
{
    void *blocks[64];
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(size);
        memset(blocks[i], 0xA5, malloc_usable_size(blocks[i]));
    }
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = calloc(1, size);
        assert_true(blocks[i] != NULL && all_zero(blocks[i], malloc_usable_size(blocks[i])));
        memset(blocks[i], 0x5A, size);
    }
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
}

static void test_calloc_is_zero_after_dirt(void **state)
{
    (void)state;
    for (size_t size = 1; size <= 256 * KIB; size += 1 + size / 11)
        check_calloc_after_dirt(size, 64);
    for (size_t size = 256 * KIB; size <= 40 * MIB; size = size * 3 / 2 + 4097)
        check_calloc_after_dirt(size, 3);
    malloc_trim(0);
    for (size_t size = 100; size <= 10 * MIB; size *= 3)
        check_calloc_after_dirt(size, 4);
}

/* Up to its usable size: programs grow in place so far. */
static void test_calloc_is_zero_to_the_usable_size(void **state)
{
    (void)state;
    for (size_t size = 0; size <= 4 * KIB; size++)
        check_calloc_after_dirt(size, 2);
    for (size_t count = 1; count <= 20000; count += 1 + count / 3)
        for (size_t size = 1; size <= 33; size += 2) {
            char *dirty = malloc(count * size);
            memset(dirty, 0xA5, malloc_usable_size(dirty));
            free(dirty);
            char *block = calloc(count, size);
            assert_true(block != NULL && all_zero(block, malloc_usable_size(block)));
            free(block);
        }
}

/* What realloc cuts off is dirty, and what has been moved. */
static void test_calloc_is_zero_where_blocks_were_cut_off(void **state)
{
    (void)state;
    for (size_t size = 100; size <= 8 * MIB; size *= 3) {
        char *cut = malloc(size);
        memset(cut, 0xA5, malloc_usable_size(cut));
        cut = realloc(cut, size / 3 + 1);
        for (size_t wanted = size / 3; wanted > 16; wanted = wanted * 2 / 3) {
            char *block = calloc(1, wanted);
            assert_true(block != NULL && all_zero(block, malloc_usable_size(block)));
            memset(block, 0xA5, malloc_usable_size(block));
            free(block);
        }
        cut = realloc(cut, 2 * size);
        free(cut);
    }
}

/* Dirt of one size under zeroes of another: what is split, joined and cut anew must be cleared as well. */
static void test_calloc_is_zero_across_sizes(void **state)
{
    (void)state;
    uint64_t random = 4711;
    struct block blocks[100];
    memset(blocks, 0, sizeof blocks);
    for (unsigned step = 0; step < 6000; step++) {
        struct block *block = &blocks[random_next(&random) % COUNT(blocks)];
        free(block->ptr);
        block->size = random_next(&random) % 8 ? random_size(&random) : random_next(&random) % (2 * MIB);
        block->ptr = calloc(1, block->size);
        assert_true(block->ptr != NULL && all_zero(block->ptr, malloc_usable_size(block->ptr)));
        memset(block->ptr, 0xEE, malloc_usable_size(block->ptr));
        if (step % 500 == 0)
            malloc_trim(0);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i].ptr);
}

/* Tables of which little is written take little memory, also where dirty memory was. (glibc clears it.) */
static void role_sparse_tables(const char *argument)
{
    enum { TABLES = 100 };
    char *tables[TABLES];
    (void)argument;
    do_without_huge_pages();
    for (unsigned i = 0; i < TABLES; i++)
        tables[i] = memset(malloc(MIB), 7, MIB);
    for (unsigned i = 0; i < TABLES; i++)
        free(tables[i]);
    for (size_t i = 0; i < TABLES; i++) {
        tables[i] = calloc(1, MIB);
        require(tables[i] != NULL);
        tables[i][i * 10000] = 1;
    }
    malloc_trim(0);
    require(on_glibc() || rss_kib() < 8 * KIB);
    for (size_t i = 0; i < TABLES; i++) {
        require(tables[i][i * 10000] == 1);
        tables[i][i * 10000] = 0;
        require(all_zero(tables[i], MIB));
        free(tables[i]);
    }
}

static void test_sparse_tables_take_little_memory(void **state)
{
    (void)state;
    assert_role_succeeds("sparse-tables", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"sparse-tables", role_sparse_tables}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calloc_is_zero_after_dirt),
        cmocka_unit_test(test_calloc_is_zero_to_the_usable_size),
        cmocka_unit_test(test_calloc_is_zero_where_blocks_were_cut_off),
        cmocka_unit_test(test_calloc_is_zero_across_sizes),
        cmocka_unit_test(test_sparse_tables_take_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
