/* src/thread/thread_list.h: the list of live threads' blocks. The blocks here belong to no thread. */
#include "unit.h"

#include "thread/thread_list.h"

static struct slm_thread *blocks[3];

static void make_blocks(void)
{
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = slm_thread_block_make();
        require(blocks[i] != NULL);
        blocks[i]->tls = &slm_tls;
    }
}

static void free_blocks(void)
{
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_block_free(blocks[i]);
}

struct seen {
    unsigned count, mask; /* all, and which of ours */
};

static void see(struct slm_thread *thread, void *context)
{
    struct seen *seen = context;
    seen->count++;
    for (size_t i = 0; i < COUNT(blocks); i++)
        if (thread == blocks[i])
            seen->mask |= 1u << i;
}

static struct seen look(void)
{
    struct seen seen = {0, 0};
    slm_thread_list_foreach(see, &seen);
    return seen;
}

static void blocks_come_and_go(void **state)
{
    (void)state;
    const unsigned before = slm_thread_list_count();
    assert_int_equal(before, 1); /* this thread's own */
    make_blocks();
    for (size_t i = 0; i < COUNT(blocks); i++) {
        slm_thread_list_add(blocks[i]);
        assert_int_equal(slm_thread_list_count(), before + i + 1);
        assert_int_equal(look().count, before + i + 1);
    }
    assert_int_equal(look().mask, 7);
    slm_thread_list_remove(blocks[1]);
    assert_int_equal(look().mask, 5);
    slm_thread_list_remove(blocks[0]);
    slm_thread_list_remove(blocks[2]);
    assert_int_equal(look().mask, 0);
    assert_int_equal(slm_thread_list_count(), before);
    free_blocks();
}

static void births_are_numbered(void **state)
{
    (void)state;
    make_blocks();
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_add(blocks[i]);
    assert_int_equal(blocks[1]->ordinal, blocks[0]->ordinal + 1);
    assert_int_equal(blocks[2]->ordinal, blocks[0]->ordinal + 2);
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_remove(blocks[i]);
    free_blocks();
}

static void *add_and_remove(void *nothing)
{
    (void)nothing;
    for (unsigned i = 0; i < 2000; i++) {
        struct slm_thread *block = slm_thread_block_make();
        require(block != NULL);
        block->tls = &slm_tls;
        slm_thread_list_add(block);
        if (i % 64 == 0)
            require(look().count > 0);
        slm_thread_list_remove(block);
        slm_thread_block_free(block);
    }
    return NULL;
}

static void threads_link_and_unlink_together(void **state)
{
    (void)state;
    on_threads(4, add_and_remove);
    assert_int_equal(slm_thread_list_count(), 1);
    assert_int_equal(look().count, 1);
}

static void be_alone(void)
{
    require(slm_thread_list_count() == 1);
    require(look().count == 1 && look().mask == 0);
    slm_thread_list_remove(blocks[0]); /* a fork has dropped it: no harm */
    require(slm_thread_list_count() == 1 && look().count == 1);
    slm_thread_list_add(blocks[1]); /* again */
    require(slm_thread_list_count() == 2 && look().mask == 2);
    slm_thread_list_remove(blocks[1]);
}

static void a_child_has_one_thread(void **state)
{
    (void)state;
    make_blocks();
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_add(blocks[i]);
    assert_child_silent(be_alone);
    assert_int_equal(look().mask, 7);
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_remove(blocks[i]);
    free_blocks();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_and_go),
        cmocka_unit_test(births_are_numbered),
        cmocka_unit_test(threads_link_and_unlink_together),
        cmocka_unit_test(a_child_has_one_thread),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
