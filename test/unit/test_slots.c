/* src/thread/slots.h: what a thread's block looks like, with its second half for what is retired, the idle block, and
 * the walk over the slots. The blocks here belong to no thread. */
#include "unit.h"

#include <fcntl.h>

#include "caches.h"
#include "heap/cache_object.h"
#include "os/topology.h"
#include "thread/thread_cache.h"

enum { PAGE = 4096, LAST = SLM_CACHE_IDS - 1, BYTES = SLM_SLOTS * SLM_SLOT_SIZE };

static struct slm_thread *block;

static int fresh_block(void **state)
{
    (void)state;
    block = slm_thread_block_make();
    return block ? 0 : -1;
}

static int end_block(void **state)
{
    (void)state;
    slm_thread_block_free(block);
    return 0;
}

/* Zero, except that it may have cursors from an earlier life. */
static bool is_unused(struct slm_thread *thread, unsigned number)
{
    const struct slm_slot *slot = slm_slot_at(thread, (size_t)number * SLM_SLOT_SIZE);
    return all_zero(slot, sizeof *slot) || is_dismantled(slot);
}

/* Its own part says how many slots have cursors, and nothing else. */
static bool is_fresh(struct slm_thread *thread)
{
    struct slm_thread own = *thread;
    for (unsigned number = 0; number <= SLM_CLASSES; number++)
        if (!is_dismantled(&thread->slots[number]))
            return false;
    for (unsigned number = SLM_NAMED_FIRST + 1; number < SLM_SLOTS; number++)
        if (!is_unused(thread, number))
            return false;
    own.covered = 0;
    return thread->covered == SLM_NAMED_FIRST + 1 &&
           all_zero((char *)&own + offsetof(struct slm_thread, link),
                    sizeof own - offsetof(struct slm_thread, link)) &&
           all_zero(slm_retired_half(thread), SLM_SLOT_BYTES);
}

static bool is_empty_and_full(const struct slm_slot *slot)
{
    return slot->top == slot->bottom && *slot->top == NULL && slm_slot_rounds(slot) == 0 && slm_slot_room(slot) == 0;
}

/* Size classes' from the start, named caches' once they are covered. */
static void every_slot_of_a_fresh_block_is_empty_and_full(void **state)
{
    (void)state;
    assert_int_equal((uintptr_t)block % PAGE, 0);
    assert_true(is_fresh(block));
    for (unsigned number = 0; number <= SLM_CLASSES; number++)
        assert_true(is_empty_and_full(&block->slots[number]));
    slm_slots_cover(block, SLM_SLOTS);
    for (unsigned id = SLM_NAMED_FIRST; id < SLM_CACHE_IDS; id++)
        assert_true(is_empty_and_full(slm_slot_of(block, id)));
}

static void covering_leaves_what_has_cursors_alone(void **state)
{
    (void)state;
    static void *rounds[2];
    const uint32_t end = SLM_NAMED_FIRST + 64;
    slm_slots_cover(block, end);
    assert_int_equal(block->covered, end);
    struct slm_slot *last = slm_slot_of(block, end - 2), *beyond = slm_slot_of(block, end - 1);
    const struct slm_slot before = *beyond;
    assert_true(is_clear(last));
    last->top = rounds + 1;
    last->bottom = rounds;
    slm_slots_cover(block, end);
    slm_slots_cover(block, end - 7);
    slm_slots_cover(block, SLM_CLASSES + 1);
    assert_int_equal(block->covered, end);
    assert_memory_equal(beyond, &before, sizeof before);
    slm_slots_cover(block, end + 1);
    assert_true(is_clear(beyond));
    assert_true(last->top == rounds + 1 && last->bottom == rounds);
    slm_slot_clear_cursors(last);
    assert_true(is_clear(last));
}

static void slots_do_not_touch_the_thread_s_own_part(void **state)
{
    (void)state;
    const char *own = (char *)&block->link, *own_end = (char *)(block + 1);
    assert_true((char *)(slm_slot_of(block, SLM_CLASSES - 1) + 1) <= own);
    assert_true((char *)slm_slot_of(block, SLM_NAMED_FIRST) >= own_end);
    assert_ptr_equal(slm_slot_of(block, LAST) + 1, (char *)block + SLM_SLOT_BYTES);
    assert_true((char *)slm_retired_slot_at(block, 0) >= (char *)block + SLM_SLOT_BYTES);
    assert_true((char *)slm_slot_of(block, SLM_NAMED_FIRST) >= (char *)block + PAGE); /* the first page is spared */
}

static void places_lead_to_numbers_and_back(void **state)
{
    (void)state;
    for (unsigned number = 0; number < SLM_CACHE_IDS; number++) {
        const unsigned slot_offset = slm_slot_offset_of(number);
        assert_int_equal(slm_cache_id_of(slot_offset), number);
        assert_ptr_equal(slm_slot_at(block, slot_offset), slm_slot_of(block, number));
        assert_true(slot_offset > 0 && slot_offset < BYTES);
    }
}

static struct slm_thread *const idle[] = {slm_nothing, slm_taken, slm_detour};

/* However far into it `hot` points: each word is the same address. */
static bool is_idle(unsigned number)
{
    bool is = true;
    for (size_t i = 0; i < COUNT(idle); i++) {
        const struct slm_slot *slot = slm_slot_at(idle[i], (size_t)number * SLM_SLOT_SIZE);
        is = is && is_clear(slot) && slot->start_factor == (uintptr_t)slm_no_rounds;
    }
    return is;
}

static void the_idle_block_s_slots_of_size_classes_are_empty_and_full(void **state)
{
    (void)state;
    for (unsigned number = 0; number <= SLM_CLASSES; number++)
        assert_true(is_idle(number));
    for (size_t i = 0; i < COUNT(idle); i++)
        for (size_t k = 0; k < i; k++)
            assert_ptr_not_equal(idle[i], idle[k]);
}

/* In groups, as caches come: nothing before the first one's, nothing behind the last one's. */
static void cover_idle(void)
{
    const unsigned ends[] = {SLM_NAMED_FIRST + 2, 128, 171, 192, 10048, SLM_SLOTS};
    for (unsigned i = 0, first = SLM_NAMED_FIRST + 1; i < COUNT(ends); first = ends[i++]) {
        const char *end = slm_idle_block + ends[i] * sizeof(struct slm_slot);
        require(all_zero(end, (size_t)(slm_idle_block + SLM_BLOCK_BYTES + PAGE - end)));
        slm_slots_cover_idle(first, ends[i]);
        for (unsigned number = SLM_NAMED_FIRST + 1; number < ends[i]; number++)
            require(is_idle(number));
        require(all_zero(end, (size_t)(slm_idle_block + SLM_BLOCK_BYTES + PAGE - end)));
    }
}

static void the_idle_block_s_other_slots_are_so_when_they_are_covered(void **state)
{
    (void)state;
    assert_child_silent(cover_idle);
}

static bool is_closed(const struct slm_retired_slot *slot)
{
    return slot->top >= slot->limit;
}

/* So that whoever retires goes to the slow path. */
static void retired_slots_are_closed_until_they_are_opened(void **state)
{
    (void)state;
    struct slm_thread *const all[] = {block, slm_nothing, slm_taken, slm_detour};
    for (size_t i = 0; i < COUNT(all); i++)
        for (size_t slot_offset = 0; slot_offset < BYTES; slot_offset += SLM_SLOT_SIZE)
            assert_true(is_closed(slm_retired_slot_at(all[i], slot_offset)));
}

static void retired_slots_lie_at_the_same_places(void **state)
{
    (void)state;
    struct slm_retired_half *half = slm_retired_half(block);
    assert_ptr_equal(half, (char *)block + SLM_RETIRED_OFFSET);
    for (size_t slot_offset = 0; slot_offset < BYTES; slot_offset += SLM_SLOT_SIZE)
        assert_ptr_equal(slm_retired_slot_at(block, slot_offset),
                         (char *)slm_slot_at(block, slot_offset) + SLM_RETIRED_OFFSET);
    assert_true((char *)slm_retired_slot_at(block, 0) >= (char *)(slm_slot_of(block, LAST) + 1));
    assert_true((char *)(slm_retired_slot_of(block, LAST) + 1) <= (char *)block + SLM_BLOCK_BYTES);
    /* its own part, where no place of a cache is */
    assert_true((char *)(slm_retired_slot_at(block, slm_slot_offset_of(SLM_CLASSES - 1)) + 1) <=
                (char *)(half->slots + COUNT(half->slots)));
    assert_true((char *)slm_retired_slot_at(block, slm_slot_offset_of(SLM_NAMED_FIRST)) >= (char *)(half + 1));
}

/* heap/free.h, heap/alloc.h, heap/cache_object.h: with any of the three as `hot` they fall into their slow halves. */
static void use_idle_block(void)
{
    struct slm_thread *const own = slm_tls.hot;
    uint64_t words[2] = {1, 2};
    void *round = NULL;
    slm_slots_cover_idle(SLM_NAMED_FIRST + 1, SLM_SLOTS);
    for (size_t i = 0; i < COUNT(idle); i++) {
        slm_tls.hot = idle[i];
        for (unsigned number = 0; number < SLM_SLOTS; number++) {
            const size_t slot_offset = (size_t)number * SLM_SLOT_SIZE;
            if (number > SLM_CLASSES && number <= SLM_NAMED_FIRST)
                continue; /* no cache's */
            require(!slm_push_keyed(slot_offset, slm_tls.key, words));
            require(!slm_pop_marked(slot_offset, &round) && !round);
        }
        slm_tls.hot = own;
    }
    require(words[0] == 1 && words[1] == 2);
}

static void hot_paths_find_nothing_in_the_idle_block(void **state)
{
    (void)state;
    assert_child_silent(use_idle_block);
}

/* At any offset in a granule, and for what has the key. */
static void no_hot_path_writes_the_idle_block(void **state)
{
    (void)state;
    struct slm_thread *const own = slm_tls.hot;
    char *granule = malloc(2 * SLM_GRANULE); /* large, so that nothing else is there */
    assert_non_null(granule);
    for (size_t i = 0; i < COUNT(idle); i++)
        for (size_t at = 0; at < SLM_GRANULE; at += 8) {
            slm_key_set(granule + at, slm_tls.key);
            slm_tls.hot = idle[i];
            const bool keyed = slm_push_keyed(SLM_SLOT_SIZE, slm_tls.key, granule + at);
            slm_key_clear(granule + at);
            const bool clear = slm_push_keyed(SLM_SLOT_SIZE, slm_tls.key, granule + at);
            slm_tls.hot = own;
            assert_false(keyed || clear || slm_key_is_set(granule + at, slm_tls.key));
        }
    free(granule);
}

static void write_first_byte(void)
{
    *(volatile char *)slm_nothing = 1;
}

static void write_last_class(void)
{
    ((struct slm_slot volatile *)slm_slot_of(slm_detour, SLM_CLASSES - 1))->misses = 1;
}

/* Only the first page, which every page size can have. */
static void the_idle_block_is_read_only_where_size_classes_have_slots(void **state)
{
    (void)state;
    assert_int_equal(in_child(write_first_byte).signal, SIGSEGV);
    assert_int_equal(in_child(write_last_class).signal, SIGSEGV);
}

/* Does the page have memory, in RAM or swapped? A kernel that does not tell says no of all. */
static bool is_used(const void *page)
{
    const int map = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0;
    const ssize_t got = pread(map, &entry, sizeof entry, (off_t)((uintptr_t)page / PAGE * sizeof entry));
    close(map);
    return got == sizeof entry && entry >> 62 != 0;
}

/* Does the kernel tell, and give memory to what is written to and to nothing else? */
static bool use_is_told(void)
{
    char *pages = mmap(NULL, 2ul * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(pages != MAP_FAILED);
    *pages = 1;
    const bool told = is_used(pages) && !is_used(pages + PAGE);
    munmap(pages, 2ul * PAGE);
    return told;
}

static unsigned used_pages(void)
{
    unsigned pages = 0;
    for (size_t at = 0; at < SLM_BLOCK_BYTES; at += PAGE)
        pages += is_used((char *)block + at);
    return pages;
}

static struct slm_slot *use(struct slm_thread *thread, unsigned number)
{
    slm_slot_use(&thread->used, number);
    return slm_slot_of(thread, number);
}

/* Which blocks are fresh is not known: the last of many, all of them in use, is. */
static void a_block_costs_what_is_used_of_it(void **state)
{
    (void)state;
    if (sysconf(_SC_PAGESIZE) != PAGE || !use_is_told()) {
        print_message("for pages of 4 KiB, and a kernel that tells which are used\n");
        skip();
    }
    struct slm_thread *blocks[64];
    for (size_t i = 0; i < COUNT(blocks); i++)
        blocks[i] = block = slm_thread_block_make();
    assert_int_equal(used_pages(), 1);
    use(block, SLM_CLASSES - 1)->misses = 1;
    assert_int_equal(used_pages(), 1);
    use(block, LAST)->misses = 1;
    assert_int_equal(used_pages(), 2);
    assert_int_equal(slm_slot_next(&block->used, LAST + 1), SLM_CACHE_IDS);
    assert_int_equal(used_pages(), 2);
    slm_slots_cover(block, 2 * PAGE / sizeof(struct slm_slot)); /* 85 named caches or so */
    assert_int_equal(used_pages(), 3);
    /* Its own part is in the first page of the half, as the size classes' slots are. */
    slm_slot_use(&slm_retired_half(block)->used, SLM_CLASSES - 1);
    assert_int_equal(used_pages(), 4);
    slm_retired_slot_at(block, slm_slot_offset_of(SLM_CLASSES - 1))->target = 1;
    assert_int_equal(used_pages(), 4);
    for (size_t i = 0; i < COUNT(blocks); i++)
        slm_thread_block_free(blocks[i]);
}

static void blocks_are_clear_again_when_they_come_back(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 20; turn++) {
        struct slm_thread *again = slm_thread_block_make();
        assert_non_null(again);
        assert_true(is_fresh(again));
        slm_slots_cover(again, SLM_NAMED_FIRST + 1 + turn * 300);
        for (unsigned number = turn; number < SLM_CACHE_IDS; number += 370)
            memset(use(again, number < SLM_CLASSES ? number : number | 128), 0x5a, sizeof(struct slm_slot));
        memset(&again->refills, 0x5a, sizeof again->refills);
        if (turn % 2) {
            const unsigned number = turn % 4 == 1 ? LAST : turn;
            struct slm_retired_half *half = slm_retired_half(again);
            memset(half, 0x5a, sizeof *half);
            memset(&half->used, 0, sizeof half->used);
            memset(slm_retired_slot_of(again, number), 0x5a, sizeof half->slots[0]);
            slm_slot_use(&half->used, number);
        }
        slm_thread_block_free(again);
    }
}

/* The numbers that a walk comes to, which rise. */
static unsigned walk(bool *seen)
{
    unsigned steps = 0, last = 0;
    memset(seen, 0, SLM_CACHE_IDS * sizeof *seen);
    slm_for_each_slot (n, &block->used) {
        assert_true(steps == 0 || n > last);
        assert_false(n >= SLM_CLASSES && n < SLM_NAMED_FIRST);
        seen[n] = true;
        last = n;
        steps++;
    }
    return steps;
}

static void a_walk_comes_to_every_slot_that_was_made(void **state)
{
    (void)state;
    static bool seen[SLM_CACHE_IDS], made[SLM_CACHE_IDS];
    static const unsigned order[] = {0, 5, SLM_CLASSES - 1, SLM_NAMED_FIRST, 300, 5000, 99, 1, 64 * 64, LAST};
    assert_int_equal(walk(seen), 0);
    for (size_t i = 0; i < COUNT(order); i++) {
        slm_slot_use(&block->used, order[i]);
        made[order[i]] = true;
        walk(seen);
        for (unsigned number = 0; number < SLM_CACHE_IDS; number++)
            assert_true(!made[number] || seen[number]);
    }
    assert_true(walk(seen) <= 7 * SLM_GROUP_SLOTS);
}

static void a_walk_over_few_slots_is_short(void **state)
{
    (void)state;
    static bool seen[SLM_CACHE_IDS];
    slm_slot_use(&block->used, 3);
    assert_true(walk(seen) <= SLM_GROUP_SLOTS);
    slm_slot_use(&block->used, 10000);
    assert_true(walk(seen) <= 2 * SLM_GROUP_SLOTS);
    assert_true(seen[3] && seen[10000]);
}

/* What is popped stays readable above the new top, where a taker reads it. */
static void hot_halves_move_the_top_alone(void **state)
{
    (void)state;
    static char objects[3];
    void *rounds[4] = {&objects[0], &objects[1], SLM_NO_ROUND, NULL};
    struct slm_slot slot = {.top = rounds + 2, .bottom = rounds};
    slm_slot_push(&slot, slot.top, &objects[2]);
    assert_ptr_equal(slot.top, rounds + 3);
    assert_int_equal(slm_slot_rounds(&slot), 3);
    assert_ptr_equal(slm_slot_pop(&slot, slot.top), &objects[2]);
    assert_ptr_equal(slm_slot_pop(&slot, slot.top), &objects[1]);
    assert_ptr_equal(slot.top, rounds + 1);
    assert_ptr_equal(rounds[1], &objects[1]);
    assert_ptr_equal(rounds[2], &objects[2]);
    assert_null(rounds[3]);
    assert_ptr_equal(slot.bottom, rounds);
}

/* As thread_cache.c loads one: `count` is what it may have, and 0 stands there. */
static struct slm_magazine *loaded_magazine(struct slm_slot *slot, uint32_t room)
{
    struct slm_magazine *magazine = slm_magazine_make(room);
    assert_non_null(magazine);
    magazine->count = room;
    magazine->rounds[room] = NULL;
    slot->loaded = magazine;
    slot->bottom = slot->top = magazine->rounds;
    return magazine;
}

static void the_word_to_be_written_tells_whether_there_is_room(void **state)
{
    (void)state;
    struct slm_slot *slot = slm_slot_of(block, 7);
    struct slm_magazine *magazine = loaded_magazine(slot, 9);
    for (uint32_t i = 0; i < 9; i++) {
        assert_int_equal(slm_slot_room(slot), 9 - i);
        assert_non_null(*slot->top);
        slm_slot_push(slot, slot->top, magazine);
    }
    assert_int_equal(slm_slot_room(slot), 0);
    assert_null(*slot->top);
    slm_magazine_free(magazine);
    memset(slot, 0, sizeof *slot);
}

static void what_is_unloaded_counts_its_rounds_again(void **state)
{
    (void)state;
    char objects[5];
    struct slm_slot *slot = slm_slot_of(block, 7);
    struct slm_magazine *magazine = loaded_magazine(slot, 9);
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_slot_push(slot, slot->top, &objects[i]);
    slot->bottom += 2; /* a taker has the first two */
    slm_slot_unload(slot);
    assert_int_equal(magazine->count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(magazine->rounds[i], &objects[i + 2]);
    for (uint32_t i = 0; i <= magazine->capacity; i++)
        assert_non_null(magazine->rounds[i]);
    slm_magazine_free(magazine);
    memset(slot, 0, sizeof *slot);
}

static void rounds_of_both_magazines_are_counted(void **state)
{
    (void)state;
    static const unsigned numbers[] = {7, SLM_NAMED_FIRST + 1, LAST};
    for (size_t i = 0; i < COUNT(numbers); i++) {
        assert_int_equal(slm_thread_rounds(block, numbers[i]), 0);
        struct slm_magazine *loaded = slm_magazine_make(5), *previous = slm_magazine_make(5);
        struct slm_slot *slot = slm_slot_of(block, numbers[i]);
        assert_true(loaded && previous);
        *slot = (struct slm_slot){
            .top = loaded->rounds + 5, .bottom = loaded->rounds + 1, .loaded = loaded, .previous = previous};
        previous->count = 3;
        assert_int_equal(slm_thread_rounds(block, numbers[i]), 0); /* no target: not in use */
        store_relaxed(&slot->target, 5);
        assert_int_equal(slm_thread_rounds(block, numbers[i]), 4 + 3);
        slot->previous = NULL;
        assert_int_equal(slm_thread_rounds(block, numbers[i]), 4);
        slm_magazine_free(loaded);
        slm_magazine_free(previous);
        memset(slot, 0, sizeof *slot);
    }
}

#define block_test(name) cmocka_unit_test_setup_teardown(name, fresh_block, end_block)

int main(void)
{
    const struct CMUnitTest tests[] = {
        block_test(every_slot_of_a_fresh_block_is_empty_and_full),
        block_test(covering_leaves_what_has_cursors_alone),
        block_test(slots_do_not_touch_the_thread_s_own_part),
        block_test(places_lead_to_numbers_and_back),
        cmocka_unit_test(the_idle_block_s_slots_of_size_classes_are_empty_and_full),
        cmocka_unit_test(the_idle_block_s_other_slots_are_so_when_they_are_covered),
        cmocka_unit_test(the_idle_block_is_read_only_where_size_classes_have_slots),
        block_test(retired_slots_are_closed_until_they_are_opened),
        block_test(retired_slots_lie_at_the_same_places),
        cmocka_unit_test(a_block_costs_what_is_used_of_it),
        cmocka_unit_test(blocks_are_clear_again_when_they_come_back),
        block_test(a_walk_comes_to_every_slot_that_was_made),
        block_test(a_walk_over_few_slots_is_short),
        block_test(hot_halves_move_the_top_alone),
        block_test(the_word_to_be_written_tells_whether_there_is_room),
        block_test(what_is_unloaded_counts_its_rounds_again),
        cmocka_unit_test(hot_paths_find_nothing_in_the_idle_block),
        cmocka_unit_test(no_hot_path_writes_the_idle_block),
        block_test(rounds_of_both_magazines_are_counted),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
