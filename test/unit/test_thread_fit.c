/* src/thread/thread_cache.c: which magazines of the stock a thread takes as they are, and which arrays it keeps:
 * those of a thread with a higher target are welcome where they are little, and are cut down to its own where they
 * are not. */
#include "unit.h"

#include "nodes.h"
#include "thread/thread_cache.h"

enum { SMALL = 104, LARGE = 2048 };

static struct slab_cache *name;
static struct slm_cache *cache;
static struct slm_thread *block; /* of no thread, on node 0 */

static void begin_cache(size_t size, unsigned fixed)
{
    const struct slab_cache_attr attr = {.flags = SLAB_NO_MERGE, .magazine_rounds = fixed};
    name = named("fit", size, &attr);
    cache = cache_of(name);
    block = slm_thread_block_make();
    require(block != NULL);
    slm_slots_cover(block, cache->id + 2);
}

/* Nothing is lost or doubled: all that is out of the slabs is in the block or in the stock. */
static void end_cache(void)
{
    slm_thread_check(block);
    assert_int_equal(cache_out(cache), slm_thread_rounds(block, cache->id) + cache_stock(cache));
    slm_thread_empty(block, SLM_TO_SLABS);
    slm_thread_block_free(block);
    assert_int_equal(slab_cache_destroy(name), 0);
}

/* Put a magazine with that many rounds into the stock, as a thread with a higher target would. */
static struct slm_magazine *stock(unsigned n)
{
    struct slm_magazine *full = slm_magazine_make(n), *slot = full;
    require(full != NULL);
    take_from_node(cache, 0, n, full->rounds);
    full->count = n;
    slm_magazine_put(cache, 0, &slot, UINT64_MAX);
    slm_magazine_free(slot);
    return full;
}

static struct slm_slot *slot(void)
{
    return slm_slot_of(block, cache->id);
}

/* How many rounds the loaded magazine may have. */
static size_t room_of_all(void)
{
    return slm_slot_rounds(slot()) + slm_slot_room(slot());
}

static void refill(void)
{
    void *object = slm_thread_pop(block, cache->id);
    require(object != NULL);
    slm_thread_push(block, cache->id, object);
}

/* What a block's first refill has of a magazine with n rounds. */
static void refill_from(unsigned n, struct slm_magazine **full)
{
    *full = stock(n);
    refill();
}

static void what_is_little_is_taken_whole(void **state)
{
    (void)state;
    struct slm_magazine *full;
    begin_cache(SMALL, 0);
    refill_from(78, &full); /* 8112 bytes */
    assert_true(load_relaxed(&slot()->target) * 2 + 2 < 78);
    assert_ptr_equal(slot()->loaded, full);
    assert_int_equal(slm_thread_rounds(block, cache->id), 78);
    assert_int_equal(cache_stock(cache), 0);
    end_cache();
}

/* The target's worth of it; the rest is handed on. */
static void what_is_not_little_is_taken_in_part(void **state)
{
    (void)state;
    static const size_t sizes[] = {SMALL, LARGE};
    static const unsigned rounds[] = {79, 20};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct slm_magazine *full;
        begin_cache(sizes[i], 0);
        refill_from(rounds[i], &full);
        const uint32_t target = load_relaxed(&slot()->target);
        assert_true(rounds[i] - target > SLM_MAGAZINE_SMALL);
        assert_ptr_not_equal(slot()->loaded, full);
        assert_int_equal(slot()->loaded->capacity, slm_magazine_capacity(target));
        assert_int_equal(slm_thread_rounds(block, cache->id), target);
        assert_int_equal(cache_stock(cache), rounds[i] - target);
        end_cache();
    }
}

static void little_more_than_the_own_is_taken_whole(void **state)
{
    (void)state;
    struct slm_magazine *full;
    begin_cache(LARGE, 0);
    const uint32_t target = load_relaxed(&cache->start_rounds);
    assert_true((target * 2 + 3) * LARGE > 8192);
    refill_from(target * 2 + 3, &full);
    assert_ptr_equal(slot()->loaded, full);
    assert_int_equal(slm_thread_rounds(block, cache->id), target * 2 + 3);
    slm_thread_empty(block, SLM_TO_SLABS);
    refill_from(target * 2 + 4, &full);
    assert_int_equal(slm_thread_rounds(block, cache->id), target);
    end_cache();
}

static void fixed_rounds_are_kept_to(void **state)
{
    (void)state;
    static const unsigned rounds[] = {4, 5, 20};
    for (size_t i = 0; i < COUNT(rounds); i++) {
        struct slm_magazine *full;
        begin_cache(SMALL, 4);
        refill_from(rounds[i], &full);
        assert_int_equal(slm_thread_rounds(block, cache->id), 4);
        assert_true((slot()->loaded == full) == (rounds[i] == 4));
        assert_int_equal(room_of_all(), 4);
        end_cache();
    }
}

/* An array that is larger than wanted is used on, as far as the target goes. */
static void larger_arrays_stay(void **state)
{
    (void)state;
    struct slm_magazine *full;
    void *objects[78];
    begin_cache(SMALL, 0);
    refill_from(COUNT(objects), &full);
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = slm_thread_pop(block, cache->id);
    assert_int_equal(slm_thread_rounds(block, cache->id), 0);
    refill(); /* from slabs */
    const uint32_t target = load_relaxed(&slot()->target);
    assert_ptr_equal(slot()->loaded, full);
    assert_true(full->capacity > slm_magazine_capacity(target));
    assert_int_equal(room_of_all(), target);
    assert_int_equal(slm_thread_rounds(block, cache->id), target);
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_thread_push(block, cache->id, objects[i]);
    end_cache();
}

/* With no memory for an array of its own it has the other one's. */
static void fit_without_memory(void)
{
    begin_cache(LARGE, 0);
    refill();
    struct slm_magazine *full = stock(40);
    while (slot()->top != slot()->bottom)
        require(slm_slot_pop(slot(), slot()->top));
    forbid_memory();
    while (slm_magazine_make(1))
        ;
    require(slm_thread_pop(block, cache->id));
    require(slot()->loaded == full && slm_thread_rounds(block, cache->id) == 39);
    slm_thread_check(block);
}

static void without_memory_all_are_welcome(void **state)
{
    (void)state;
    assert_child_silent(fit_without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_little_is_taken_whole),
        cmocka_unit_test(what_is_not_little_is_taken_in_part),
        cmocka_unit_test(little_more_than_the_own_is_taken_whole),
        cmocka_unit_test(fixed_rounds_are_kept_to),
        cmocka_unit_test(larger_arrays_stay),
        cmocka_unit_test(without_memory_all_are_welcome),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
