/* src/thread/thread_list.h: the list of live threads' blocks. The blocks here belong to no thread. */
#include "unit.h"

#include "caches.h"
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

/* Its list was locked by nobody that it has. */
static void look_alone(void)
{
    require(slm_thread_list_count() == 1);
    require(look().count == 1 && look().mask == 0);
    slm_thread_list_remove(blocks[0]); /* a fork has dropped it: no harm */
    require(slm_thread_list_count() == 1 && look().count == 1);
    slm_thread_list_add(blocks[1]); /* again */
    require(slm_thread_list_count() == 2 && look().mask == 2);
    slm_thread_list_remove(blocks[1]);
    require(load_relaxed(&slm_orphans) == 0);
}

static void be_alone_with_orphans(void)
{
    require(slm_thread_list_count() == 1 && load_relaxed(&slm_orphans) > 1);
    require(look().count == 4 && look().mask == 7);
    slm_thread_list_lock();
    for (size_t i = 0; i < COUNT(blocks); i++) {
        require(slm_thread_tls(blocks[i]) == &slm_gone_tls && blocks[i]->tls == &slm_tls); /* it is not touched */
        require(slm_thread_list_orphan() == blocks[i]);
        slm_thread_list_unlink(blocks[i]);
    }
    require(slm_thread_list_orphan() == NULL && load_relaxed(&slm_orphans) == 0);
    slm_thread_list_unlock();
    require(slm_thread_list_count() == 1 && look().count == 1);
}

static void be_parent_of_a_child_with_orphans(void)
{
    require(slm_thread_list_count() == 1);
    require(in_child(be_alone_with_orphans).status == 0);
    require(look().mask == 7);
    require(in_child(be_alone_with_orphans).status == 0);
}

static void fork_under_the_lock(void)
{
    slm_thread_list_lock();
    const struct outcome outcome = in_child(look_alone);
    slm_thread_list_unlock();
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
}

static void a_child_has_one_thread_and_orphans(void **state)
{
    (void)state;
    make_blocks();
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_add(blocks[i]);
    assert_child_silent(be_alone_with_orphans);
    assert_child_silent(be_parent_of_a_child_with_orphans);
    assert_child_silent(fork_under_the_lock);
    assert_int_equal(look().mask, 7);
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_list_remove(blocks[i]);
    free_blocks();
}

/* -- cursors for named caches; children, as what is covered stays so --------------------------------------------- */

static bool is_covered(struct slm_thread *block, unsigned end)
{
    for (unsigned number = SLM_NAMED_FIRST + 1; number < end; number++)
        if (!is_clear(slm_slot_at(block, (size_t)number * SLM_SLOT_SIZE)))
            return false;
    return block->covered == end;
}

/* The idle block has no slots of caches that there are not. */
static bool is_idle_covered(unsigned end)
{
    struct slm_thread *const idle[] = {slm_nothing, slm_taken, slm_detour};
    const char *rest = slm_idle_block + end * sizeof(struct slm_slot);
    for (size_t i = 0; i < COUNT(idle); i++)
        for (unsigned number = SLM_NAMED_FIRST + 1; number < end; number++)
            if (!is_clear(slm_slot_at(idle[i], (size_t)number * SLM_SLOT_SIZE)))
                return false;
    return all_zero(rest, (size_t)(slm_idle_block + SLM_BLOCK_BYTES - rest));
}

/* Groups of 64, whichever cache comes first; what is covered stays. */
static const struct {
    unsigned id, end;
} covers[] = {
    {85, 128},      {86, 128},
    {126, 128},     {127, 192},
    {90, 192},      {190, 192},
    {213, 256},     {149, 256},
    {400, 448},     {10084, 10112},
    {10110, 10112}, {10111, 10176},
    {10900, 10922}, {SLM_CACHE_IDS - 1, SLM_SLOTS},
};

static void cover_groups(void)
{
    make_blocks();
    slm_thread_list_add(blocks[0]);
    require(is_covered(blocks[0], SLM_NAMED_FIRST + 1) && is_idle_covered(SLM_NAMED_FIRST + 1));
    for (size_t i = 0; i < COUNT(covers); i++) {
        slm_thread_list_cover(covers[i].id);
        require(is_idle_covered(covers[i].end));
        require(is_covered(blocks[0], covers[i].end) && is_covered(slm_tls.self, covers[i].end));
        require(blocks[1]->covered == SLM_NAMED_FIRST + 1); /* nobody's */
        slm_thread_list_add(blocks[1]);
        require(is_covered(blocks[1], covers[i].end));
        slm_thread_list_remove(blocks[1]);
        slm_thread_block_free(blocks[1]);
        blocks[1] = slm_thread_block_make(); /* mostly the same one */
        require(blocks[1] != NULL);
        blocks[1]->tls = &slm_tls;
    }
    slm_thread_list_remove(blocks[0]);
    free_blocks();
}

static void caches_slots_are_covered_by_groups(void **state)
{
    (void)state;
    assert_child_silent(cover_groups);
}

static void cover_around_slots_in_use(void)
{
    static void *rounds[3];
    make_blocks();
    slm_thread_list_add(blocks[0]);
    slm_thread_list_cover(SLM_NAMED_FIRST);
    struct slm_slot *slot = slm_slot_of(blocks[0], SLM_NAMED_FIRST), before;
    *slot = (struct slm_slot){.top = rounds + 2, .bottom = rounds + 1, .misses = 3};
    before = *slot;
    slm_thread_list_cover(SLM_NAMED_FIRST); /* a second cache of that id */
    slm_thread_list_cover(1000);
    require(memcmp(slot, &before, sizeof before) == 0);
}

static void slots_in_use_are_left_alone(void **state)
{
    (void)state;
    assert_child_silent(cover_around_slots_in_use);
}

/* blocks[0] and [1] were in the list before the fork. */
static void cover_in_child(void)
{
    require(look().mask == 3);
    slm_thread_list_cover(300);
    require(is_idle_covered(320) && is_covered(slm_tls.self, 320));
    for (size_t i = 0; i < 2; i++)
        require(is_covered(blocks[i], SLM_NAMED_FIRST + 1)); /* orphans */
    slm_thread_list_add(blocks[2]);
    require(is_covered(blocks[2], 320) && look().mask == 7);
}

/* They may be those of the thread that forked, until that comes. */
static void cover_before_the_fork_is_noticed(void)
{
    slm_thread_list_fork_child(NULL); /* as if there were another fork, and another thread noticed it */
    require(look().count == 0);
    slm_thread_list_cover(300);
    slm_thread_list_fork_child(NULL); /* and forked in its turn */
    slm_thread_list_cover(400);
    for (size_t i = 0; i < 2; i++)
        require(is_covered(blocks[i], 448));
    require(is_covered(slm_tls.self, 448));
    slm_thread_list_add(blocks[2]); /* a new one */
    slm_thread_list_cover(450);
    require(is_covered(blocks[0], 512) && is_covered(blocks[2], 512));
    slm_thread_list_add(blocks[0]); /* back again: the others have gone */
    slm_thread_list_cover(600);
    require(is_covered(blocks[0], 640) && is_covered(blocks[1], 512) && look().mask == 5);
}

static void find_a_circle(void)
{
    slm_thread_list_add(blocks[0]);
    slm_thread_list_add(blocks[1]);
    blocks[0]->link.next = &blocks[1]->link;
    blocks[1]->link.next = &blocks[0]->link;
    slm_thread_list_fork_child(NULL);
    require(look().count == 0);
    slm_thread_list_cover(300);
    require(is_covered(blocks[0], 320) && is_covered(blocks[1], 320));
}

static void find_a_cleared_block(void)
{
    slm_thread_list_add(blocks[0]);
    slm_thread_list_add(blocks[1]);
    memset(blocks[1], 0, sizeof *blocks[1]);
    slm_thread_list_fork_child(NULL);
    require(look().count == 0);
    slm_thread_list_cover(300);
    require(is_covered(blocks[0], 320));
}

static void a_list_that_is_not_whole_has_an_end(void **state)
{
    (void)state;
    make_blocks();
    assert_child_silent(find_a_circle);
    assert_child_silent(find_a_cleared_block);
    free_blocks();
}

static void blocks_that_a_fork_dropped_are_covered_until_it_is_noticed(void **state)
{
    (void)state;
    make_blocks();
    slm_thread_list_add(blocks[0]);
    slm_thread_list_add(blocks[1]);
    assert_child_silent(cover_in_child);
    assert_child_silent(cover_before_the_fork_is_noticed);
    slm_thread_list_remove(blocks[0]);
    slm_thread_list_remove(blocks[1]);
    free_blocks();
}

static _Atomic bool enough;

static void *be_born_and_look(void *nothing)
{
    unsigned least = 0;
    while (!load_relaxed(&enough)) {
        struct slm_thread *block = slm_thread_block_make();
        require(block != NULL);
        block->tls = &slm_tls;
        slm_thread_list_add(block);
        slm_thread_list_lock();
        require(block->covered >= least && is_covered(block, block->covered));
        least = block->covered;
        slm_thread_list_unlock();
        slm_thread_list_remove(block);
        slm_thread_block_free(block);
    }
    return nothing;
}

static void *cover_all(void *nothing)
{
    for (unsigned id = SLM_NAMED_FIRST; id < SLM_CACHE_IDS; id += 13) {
        slm_thread_list_cover(id);
        require(slm_tls.self == NULL || slm_tls.self->covered > id + 1);
    }
    store_relaxed(&enough, true);
    return nothing;
}

static void *cover_or_be_born(void *number)
{
    return number ? be_born_and_look(NULL) : cover_all(NULL);
}

static void cover_while_threads_come(void)
{
    on_threads(3, cover_or_be_born);
    require(is_covered(slm_tls.self, SLM_SLOTS));
}

static void threads_that_come_meanwhile_are_covered(void **state)
{
    (void)state;
    assert_child_silent(cover_while_threads_come);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_and_go),
        cmocka_unit_test(births_are_numbered),
        cmocka_unit_test(threads_link_and_unlink_together),
        cmocka_unit_test(a_child_has_one_thread_and_orphans),
        cmocka_unit_test(caches_slots_are_covered_by_groups),
        cmocka_unit_test(slots_in_use_are_left_alone),
        cmocka_unit_test(a_list_that_is_not_whole_has_an_end),
        cmocka_unit_test(blocks_that_a_fork_dropped_are_covered_until_it_is_noticed),
        cmocka_unit_test(threads_that_come_meanwhile_are_covered),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
