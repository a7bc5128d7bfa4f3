/* src/thread/thread_cache.h: many objects at once, in and out of a thread's magazines, and magazines of a cache that
 * is tuned. The blocks here belong to no thread and are worked on directly; the caches are named ones. */
#include "checks.h"
#include "unit.h"

#include "caches.h"
#include "page/page_map.h"
#include "thread/thread_cache.h"

enum { SIZE = 128, MOST = 3000 };

static struct slm_thread *block;
static struct slab_cache *name;
static struct slm_cache *cache;
static void *objects[MOST];

static int begin_test(void **state)
{
    (void)state;
    name = named("bulk", SIZE, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE});
    cache = cache_of(name);
    block = slm_thread_block_make();
    if (!block)
        return -1;
    slm_slots_cover(block, cache->id + 2);
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    slm_thread_check(block);
    slm_thread_empty(block, SLM_TO_SLABS);
    assert_int_equal(block->target_bytes, 0);
    slm_thread_block_free(block);
    for (unsigned node = 0; node < slm_nodes; node++)
        check_depot(slm_cache_depot(cache, node));
    return slab_cache_destroy(name);
}

static struct slm_slot *slot(void)
{
    return slm_slot_of(block, cache->id);
}

static uint64_t trips(void)
{
    return load_relaxed(&block->refills) + load_relaxed(&block->drains);
}

static size_t pop_bulk(size_t n, void **out)
{
    const size_t got = slm_thread_pop_bulk(block, cache->id, n, out);
    slm_thread_check(block);
    return got;
}

static void push_bulk(size_t n, void *const *from)
{
    for (size_t i = 0; i < n; i++)
        slm_thread_push(block, cache->id, from[i]);
    slm_thread_check(block);
}

/* What a program gets has no key. */
static void clear_keys(size_t n, void *const *from)
{
    for (size_t i = 0; i < n; i++)
        slm_key_clear(from[i]);
}

/* As often as it takes: each call pushes one at least. */
static unsigned push_runs(size_t n, void *const *from)
{
    unsigned runs = 0;
    clear_keys(n, from);
    for (size_t done = 0; done < n; runs++) {
        const size_t some = slm_thread_push_run(block, cache->id, n - done, from + done);
        require(some > 0 && some <= n - done);
        for (size_t i = done; i < done + some; i++)
            require(slm_granule_of(from[i]) == slm_granule_of(from[done]));
        done += some;
    }
    slm_thread_check(block);
    return runs;
}

/* Write to all of them; then each is as it was written: none is there twice. */
static void are_apart(size_t n)
{
    for (size_t i = 0; i < n; i++)
        memset(objects[i], (int)i, SIZE);
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < SIZE; at++)
            require(((unsigned char *)objects[i])[at] == (i & 255));
    for (size_t i = 0; i < n; i++)
        *(size_t *)objects[i] = i;
    for (size_t i = 0; i < n; i++)
        require(*(size_t *)objects[i] == i);
}

/* What is neither in the magazines nor in the stock is ours. */
static uint64_t live(void)
{
    return cache_out(cache) - slm_thread_rounds(block, cache->id) - cache_stock(cache);
}

static void as_many_as_asked_for(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 7, 64, 253, 254, 1000, MOST};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        assert_int_equal(pop_bulk(sizes[i], objects), sizes[i]);
        are_apart(sizes[i]);
        assert_int_equal(live(), sizes[i]);
        push_bulk(sizes[i], objects);
        assert_int_equal(live(), 0);
    }
    assert_int_equal(pop_bulk(0, objects), 0);
    push_bulk(0, objects);
}

static void single_calls_and_bulks_mix(void **state)
{
    (void)state;
    uint64_t seed = 5;
    size_t n = 0;
    for (unsigned turn = 0; turn < 4000; turn++) {
        const size_t some = random_below(&seed, 80), dice = random_below(&seed, 6);
        if (dice == 0 && n < MOST) {
            require((objects[n++] = slm_thread_pop(block, cache->id)) != NULL);
        } else if (dice == 1 && n > 0) {
            slm_thread_push(block, cache->id, objects[--n]);
        } else if (dice < 4 && n + some <= MOST) {
            require(pop_bulk(some, objects + n) == some);
            n += some;
        } else if (some <= n) {
            n -= some;
            dice == 4 ? push_bulk(some, objects + n) : (void)push_runs(some, objects + n);
        }
        if (turn % 200 == 0)
            slm_thread_adapt(block);
        require(live() == n);
    }
    are_apart(n);
    push_runs(n, objects);
    assert_int_equal(live(), 0);
}

/* Sixty-four up and down again, after a while, without a trip to the depot. */
static void magazines_grow_to_what_is_moved_at_once(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(pop_bulk(64, objects), 64);
        push_runs(64, objects);
    }
    const uint64_t before = trips();
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(pop_bulk(64, objects), 64);
        push_runs(64, objects);
    }
    assert_int_equal(trips(), before);
    assert_true(load_relaxed(&slot()->target) <= load_relaxed(&cache->most_rounds));
}

static void whole_magazines_come_from_the_stock(void **state)
{
    (void)state;
    slm_cache_lock();
    slm_cache_tune(cache, 50, 20);
    slm_cache_unlock();
    assert_int_equal(pop_bulk(600, objects), 600);
    push_bulk(600, objects);
    const uint64_t out = cache_out(cache), stock = cache_stock(cache);
    assert_true(stock >= 400);
    assert_int_equal(pop_bulk(600, objects), 600);
    assert_int_equal(cache_out(cache), out); /* no slab was asked */
    are_apart(600);
    push_bulk(600, objects);
}

/* An empty magazine with room for so many, in place of what the slot has, which has nothing. */
static struct slm_magazine *load_empty(uint32_t room)
{
    struct slm_magazine *magazine = slm_magazine_make(room);
    assert_non_null(magazine);
    magazine->count = room;
    magazine->rounds[room] = NULL;
    *slot() = (struct slm_slot){.top = magazine->rounds,
                                .bottom = magazine->rounds,
                                .start_factor = slm_start_factor(SIZE),
                                .loaded = magazine};
    return magazine;
}

/* It was there only to be looked at. */
static void unload(struct slm_magazine *magazine)
{
    memset(slot(), 0, sizeof *slot());
    slm_slot_clear_cursors(slot());
    slm_magazine_free(magazine);
}

/* Objects of several slabs, in every order of lengths. */
static void runs_end_where_the_granule_does(void **state)
{
    (void)state;
    void *mixed[80];
    const unsigned granule = SLM_GRANULE / SIZE;
    assert_int_equal(pop_bulk(MOST, objects), MOST);
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    for (size_t first = 1; first < COUNT(mixed); first++) {
        size_t n = 0;
        for (size_t i = 0; i < MOST && n < first; i++)
            if (slm_granule_of(objects[i]) == slm_granule_of(objects[0]))
                mixed[n++] = objects[i];
        assert_true(n == first && n < granule);
        for (size_t i = 0; i < MOST && n < COUNT(mixed); i++)
            if (slm_granule_of(objects[i]) == slm_granule_of(objects[MOST - 1]))
                mixed[n++] = objects[i];
        assert_true(n == COUNT(mixed) && slm_granule_of(mixed[0]) != slm_granule_of(mixed[n - 1]));
        clear_keys(n, mixed);
        struct slm_magazine *magazine = load_empty(253);
        assert_int_equal(slm_thread_push_run(block, cache->id, COUNT(mixed), mixed), first);
        assert_int_equal(slm_slot_rounds(slot()), first);
        assert_memory_equal(magazine->rounds, mixed, first * sizeof(void *));
        assert_int_equal(slm_thread_push_run(block, cache->id, COUNT(mixed) - first, mixed + first),
                         COUNT(mixed) - first);
        assert_memory_equal(magazine->rounds, mixed, sizeof mixed);
        unload(magazine);
    }
    push_runs(MOST, objects);
}

static void runs_stay_within_their_room(void **state)
{
    (void)state;
    assert_int_equal(pop_bulk(100, objects), 100);
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    for (uint32_t room = 1; room <= 40; room++) {
        struct slm_magazine *magazine = load_empty(61);
        magazine->count = room;
        magazine->rounds[room] = NULL;
        clear_keys(60, objects);
        assert_int_equal(slm_thread_push_run(block, cache->id, 60, objects), room);
        assert_memory_equal(magazine->rounds, objects, room * sizeof(void *));
        assert_null(magazine->rounds[room]);
        for (uint32_t i = room + 1; i < magazine->capacity; i++)
            assert_ptr_equal(magazine->rounds[i], SLM_NO_ROUND);
        unload(magazine);
    }
    push_runs(100, objects);
}

/* What is pushed has the key from then on. */
static void assert_run(size_t n, void *const *from, size_t expected)
{
    struct slm_magazine *magazine = load_empty(61);
    assert_int_equal(slm_thread_push_run(block, cache->id, n, from), expected);
    assert_int_equal(slm_slot_rounds(slot()), expected);
    assert_memory_equal(magazine->rounds, from, expected * sizeof(void *));
    for (size_t i = 0; i < expected; i++)
        assert_true(slm_key_is_set(from[i], slm_tls.key));
    unload(magazine);
}

/* At any place in it, even the first. */
static void runs_end_at_what_is_no_start(void **state)
{
    (void)state;
    enum { SOME = 20 };
    static const size_t inside[] = {1, 8, 16, SIZE / 2, SIZE - 8, SIZE - 1};
    assert_int_equal(pop_bulk(SOME, objects), SOME);
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    for (size_t at = 0; at < SOME; at++)
        for (size_t i = 0; i < COUNT(inside); i++) {
            void *const kept = objects[at];
            clear_keys(SOME, objects);
            memset((char *)kept + 16, 0x5a, SIZE - 16);
            objects[at] = (char *)kept + inside[i];
            assert_run(SOME, objects, at);
            objects[at] = kept;
            for (size_t byte = 16; byte < SIZE; byte++)
                require(((char *)kept)[byte] == 0x5a);
        }
    push_runs(SOME, objects);
}

static void runs_end_at_what_has_the_key(void **state)
{
    (void)state;
    enum { SOME = 20 };
    assert_int_equal(pop_bulk(SOME, objects), SOME);
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    for (size_t at = 0; at < SOME; at++) {
        clear_keys(SOME, objects);
        slm_key_set(objects[at], slm_tls.key);
        assert_run(SOME, objects, at);
        void *const kept = objects[at]; /* and at one that was in the run already */
        objects[at] = objects[0];
        clear_keys(SOME, objects);
        assert_run(SOME, objects, at == 0 ? SOME : at);
        objects[at] = kept;
    }
    push_runs(SOME, objects);
}

static void runs_of_a_full_magazine_without_another_are_empty(void)
{
    require(pop_bulk(20, objects) == 20);
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    clear_keys(20, objects);
    forbid_memory();
    for (uint32_t rounds = SLM_MAGAZINE_ROUNDS_MAX; rounds > 0; rounds /= 2)
        while (slm_magazine_make(rounds))
            ;
    require(slm_thread_push_run(block, cache->id, 20, objects) == 0);
    for (size_t i = 0; i < 20; i++)
        require(!slm_key_is_set(objects[i], slm_tls.key));
}

static void without_a_magazine_nothing_is_pushed(void **state)
{
    (void)state;
    assert_child_silent(runs_of_a_full_magazine_without_another_are_empty);
}

/* -- tuning ------------------------------------------------------------------------------------------------------ */

static void tune(unsigned rounds)
{
    slm_cache_lock();
    slm_cache_tune(cache, rounds, 4);
    slm_cache_unlock();
}

static void a_tuned_slot_starts_anew_at_its_next_trip(void **state)
{
    (void)state;
    assert_int_equal(pop_bulk(200, objects), 200);
    push_bulk(200, objects);
    const uint32_t before = load_relaxed(&slot()->target);
    tune(9);
    assert_int_equal(load_relaxed(&slot()->target), before); /* nobody touches it but the owner */
    assert_int_equal(pop_bulk(200, objects), 200);
    assert_int_equal(load_relaxed(&slot()->target), 9);
    assert_true(slm_slot_rounds(slot()) + slm_slot_room(slot()) <= 9);
    assert_int_equal(slot()->tuned, load_relaxed(&cache->tuned));
    are_apart(200);
    push_bulk(200, objects);
    assert_true(slm_thread_rounds(block, cache->id) <= 2 * 9);
    assert_true(cache_stock(cache) <= 4 * 9);
    assert_int_equal(live(), 0);
    slm_thread_adapt(block);
    slm_thread_adapt(block);
    assert_int_equal(load_relaxed(&slot()->target), 9); /* what is fixed does not adapt */
}

static void it_is_handed_on_by_frees_too(void **state)
{
    (void)state;
    assert_int_equal(pop_bulk(300, objects), 300);
    tune(200);
    push_bulk(300, objects);
    assert_int_equal(load_relaxed(&slot()->target), 200);
    assert_int_equal(live(), 0);
    tune(1);
    for (unsigned turn = 0; turn < 50; turn++) {
        objects[turn] = slm_thread_pop(block, cache->id);
        assert_non_null(objects[turn]);
    }
    are_apart(50);
    for (unsigned turn = 0; turn < 50; turn++)
        slm_thread_push(block, cache->id, objects[turn]);
    assert_true(slm_thread_rounds(block, cache->id) <= 2);
    tune(0);
    push_bulk(pop_bulk(MOST, objects), objects);
    assert_true(load_relaxed(&slot()->target) >= load_relaxed(&cache->start_rounds));
    assert_int_equal(live(), 0);
}

static void bulks_without_memory(void)
{
    const struct slab_cache_attr huge = {.flags = SLAB_NO_MERGE};
    struct slm_cache *large = cache_of(named("large", 1 << 20, &huge));
    size_t n = 0, got;
    forbid_memory();
    errno = 0;
    while ((got = slm_thread_pop_bulk(block, large->id, 10, objects + n)) == 10 && n + 20 < MOST)
        n += 10;
    require(got < 10 && errno == ENOMEM);
    n += got;
    for (size_t i = 0; i < n; i++)
        slm_thread_push(block, large->id, objects[i]);
    slm_thread_check(block);
    require(n == 0 || slm_thread_pop_bulk(block, large->id, 1, objects) == 1);
}

static void without_memory_there_are_fewer(void **state)
{
    (void)state;
    assert_child_silent(bulks_without_memory);
}

#define bulk_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        bulk_test(as_many_as_asked_for),
        bulk_test(single_calls_and_bulks_mix),
        bulk_test(magazines_grow_to_what_is_moved_at_once),
        bulk_test(whole_magazines_come_from_the_stock),
        bulk_test(runs_end_where_the_granule_does),
        bulk_test(runs_stay_within_their_room),
        bulk_test(runs_end_at_what_is_no_start),
        bulk_test(runs_end_at_what_has_the_key),
        bulk_test(without_a_magazine_nothing_is_pushed),
        bulk_test(a_tuned_slot_starts_anew_at_its_next_trip),
        bulk_test(it_is_handed_on_by_frees_too),
        bulk_test(without_memory_there_are_fewer),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
