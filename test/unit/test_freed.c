/* src/thread/freed.h: free objects are found wherever they lie, live ones never, whatever they contain. What ends the
 * process does so in a child, which writes before what the library will have to say. */
#include "nodes.h"
#include "unit.h"

#include "heap/cache_object.h"
#include "thread/freed.h"

enum { SIZE = 128, ROUNDS = 20, MANY = 3 * ROUNDS };

static struct slab_cache *name;
static struct slm_cache *cache;

static void create(size_t size, const struct slab_cache_attr *attr)
{
    name = named("sought", size, attr);
    cache = cache_of(name);
}

static int begin_test(void **state)
{
    (void)state;
    create(SIZE, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE, .magazine_rounds = ROUNDS});
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    return slab_cache_destroy(name);
}

static void *alloc(void)
{
    void *object = slm_cache_object_alloc(name);
    require(object != NULL);
    return object;
}

static void imitate(void *object)
{
    slm_key_set(object, slm_key_of(object));
}

static bool has_key(const void *object)
{
    return slm_key_is_set(object, slm_key_of(object));
}

static struct slm_slot *slot(void)
{
    return slm_slot_of(slm_tls.self, cache->id);
}

static void announce(const char *call, const void *pointer, const char *what)
{
    dprintf(STDERR_FILENO, "slabmalloc: %s(" POINTER "): %s of cache sought (thread %d)\n", call, pointer_of(pointer),
            what, (int)gettid());
}

static void assert_announced(void (*run)(void))
{
    const struct outcome outcome = in_child(run);
    const size_t half = strlen(outcome.said) / 2;
    if (outcome.signal != SIGABRT || half == 0 || memcmp(outcome.said, outcome.said + half, half) != 0)
        fail_msg("the child ended with status %d, signal %d, and said: %s", outcome.status, outcome.signal,
                 outcome.said);
}

/* -- places: each function puts a free object there, and returns it ---------------------------------------------- */

static void free_many(void)
{
    void *objects[MANY];
    for (size_t i = 0; i < MANY; i++)
        objects[i] = alloc();
    for (size_t i = 0; i < MANY; i++)
        slm_cache_object_free(name, objects[i]);
}

static void *on_top(void)
{
    void *object = alloc();
    slm_cache_object_free(name, object);
    require(slot()->top[-1] == object);
    return object;
}

static void *at_bottom(void)
{
    free_many();
    require(slm_slot_rounds(slot()) > 4);
    return *slot()->bottom;
}

static void *in_previous(void)
{
    free_many();
    require(slot()->previous && slot()->previous->count == ROUNDS);
    return slot()->previous->rounds[ROUNDS / 2];
}

static void *in_reserve(void)
{
    void *object = on_top();
    require(!slm_reserve_pop(cache));
    struct slm_thread *thread = slm_thread_enter(true);
    require(thread != NULL);
    slm_thread_leave(thread);
    require(slm_reserve_has(slm_tls.self, cache, object));
    return object;
}

static void *in_stock(void)
{
    free_many();
    const struct slm_magazine *full = slm_cache_depot(cache, load_relaxed(&slm_tls.self->node))->full;
    require(full && full->count == ROUNDS);
    return full->rounds[ROUNDS - 1];
}

static void *in_slab(void)
{
    void *object = on_top();
    struct slm_thread *thread = slm_thread_enter(false);
    require(thread != NULL);
    slm_thread_empty_slot(thread, cache->id, SLM_TO_SLABS);
    slm_thread_leave(thread);
    require(slm_slab_has(slm_slab_of(object), object));
    return object;
}

static unsigned another_node(void)
{
    return (load_relaxed(&slm_tls.self->node) + 1) % slm_nodes;
}

static void *in_remote(void)
{
    void *object = slm_cache_object_alloc_node(name, (int)another_node());
    slm_cache_object_free(name, object);
    const struct slm_magazine *remote = slm_remote_of(slm_tls.self, cache->id);
    require(remote && remote->count == 1 && remote->rounds[0] == object);
    return object;
}

static void *in_stock_elsewhere(void)
{
    struct slm_magazine *magazine = slm_magazine_make(ROUNDS);
    require(magazine != NULL);
    take_from_node(cache, another_node(), ROUNDS, magazine->rounds);
    for (size_t i = 0; i < ROUNDS; i++)
        imitate(magazine->rounds[i]);
    void *object = magazine->rounds[3];
    magazine->count = ROUNDS;
    slm_magazine_hand_on(cache, magazine, UINT64_MAX);
    require(stock_at_home(cache, another_node()) == ROUNDS);
    return object;
}

static void *(*const places[])(void) = {on_top, at_bottom, in_previous, in_reserve, in_stock, in_slab};
static void *(*const places_of_nodes[])(void) = {in_remote, in_stock_elsewhere};

static void *(*place)(void);
static bool by_other; /* thread */
static struct helper helper;

static void put(void *object)
{
    *(void **)object = place();
}

/* On this thread or on the helper. */
static void *put_there(void)
{
    void *object = NULL;
    if (by_other) {
        start_live_helper(&helper);
        tell(&helper, put, &object);
    } else {
        put(&object);
    }
    require(object && has_key(object));
    return object;
}

static void for_each_place(void (*try)(void))
{
    for (unsigned other = 0; other < 2; other++) {
        by_other = other;
        for (size_t i = 0; i < COUNT(places); i++) {
            place = places[i];
            try();
        }
        for (size_t i = 0; i < COUNT(places_of_nodes) && slm_nodes > 1; i++) {
            place = places_of_nodes[i];
            try();
        }
    }
}

/* -- free objects ------------------------------------------------------------------------------------------------ */

static void seek(void)
{
    void *object = put_there();
    announce("test", object, slm_double_free);
    slm_freed_check(object, "test", slm_double_free);
}

static void seek_word(void)
{
    void *object = put_there();
    announce("other test", object, slm_use_after_free);
    slm_freed_check_word(object, "other test", slm_use_after_free);
}

static void seek_twice(void)
{
    assert_announced(seek);
    assert_announced(seek_word);
}

static void free_objects_are_found_wherever_they_lie(void **state)
{
    (void)state;
    for_each_place(seek_twice);
}

/* Without a lock: what the thread has, and what slabs have. */
static void seek_nolock(void)
{
    void *object = put_there();
    const bool in_a_stock = place == in_stock || place == in_stock_elsewhere;
    if (place == in_slab || (!by_other && !in_a_stock)) {
        announce("slab_free_nolock", object, slm_double_free);
        slm_freed_check_nolock(slm_slab_of(object), object, "slab_free_nolock");
    }
    require(slm_freed_check_nolock(slm_slab_of(object), object, "slab_free_nolock"));
    announce("slab_free_nolock", object, slm_double_free);
    announce("slab_free_nolock", object, slm_double_free);
    abort();
}

static void try_nolock(void)
{
    assert_announced(seek_nolock);
}

static void without_a_lock_near_ones_are_found(void **state)
{
    (void)state;
    for_each_place(try_nolock);
}

/* It may have interrupted the very change of the magazines. */
static void inside_a_slow_path_magazines_are_not_looked_at_without_a_lock(void **state)
{
    (void)state;
    void *object = on_top();
    struct slm_thread *self = slm_thread_hide();
    const bool doubtful = slm_freed_check_nolock(slm_slab_of(object), object, "test");
    slm_thread_unhide(self);
    assert_true(doubtful);
}

static void seek_beside_a_slow_path(void)
{
    place = on_top;
    by_other = true;
    void *object = put_there();
    tell(&helper, enter_slow_path, NULL);
    require(slm_freed_check(object, "test", slm_double_free) == cache);
    tell(&helper, leave_slow_path, NULL);
    announce("test", object, slm_double_free);
    slm_freed_check(object, "test", slm_double_free);
}

/* What lies there may be older than it seems. Later it is found. */
static void threads_in_a_slow_path_are_left_alone(void **state)
{
    (void)state;
    assert_announced(seek_beside_a_slow_path);
}

static uint32_t passes_since(uint32_t before)
{
    return slm_tls.self->passes - before;
}

/* So that a search that began before it, and ends after it, knows of it. */
static void every_slow_path_is_counted(void **state)
{
    (void)state;
    uint32_t before = slm_tls.self->passes;
    slm_thread_leave(slm_thread_enter(false));
    assert_int_not_equal(passes_since(before), 0);
    before = slm_tls.self->passes;
    slm_thread_unhide(slm_thread_hide());
    assert_int_not_equal(passes_since(before), 0);
    assert_null(slm_reserve_pop(cache)); /* asks for rounds: at the end of the slow path there is another one */
    before = slm_tls.self->passes;
    slm_thread_leave(slm_thread_enter(false));
    assert_true(slm_reserve_rounds(slm_tls.self, cache) > 0);
    assert_int_equal(passes_since(before), 1 + SLM_PASSES_HIDDEN);
}

/* A thread whose life began in its last destructor has no exit: its block stays in the list, its TLS goes. */
static void seek_in_thread_that_is_gone(void)
{
    struct slm_thread *block = slm_thread_block_make();
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(block && page != MAP_FAILED);
    block->tls = page;
    slm_thread_list_add(block);
    void *object = alloc();
    imitate(object);
    struct slm_thread *self = slm_thread_hide();
    slm_thread_push(block, cache->id, object);
    slm_thread_unhide(self);
    munmap(page, 4096);
    announce("test", object, slm_double_free);
    slm_freed_check(object, "test", slm_double_free);
}

static void threads_that_are_gone_are_looked_at(void **state)
{
    (void)state;
    assert_announced(seek_in_thread_that_is_gone);
}

static void classes_are_told_by_their_size(void)
{
    void *object = malloc(40);
    free(object);
    dprintf(STDERR_FILENO, "slabmalloc: test(" POINTER "): double free of an object of 48 bytes (thread %d)\n",
            pointer_of(object), (int)gettid());
    slm_freed_check(object, "test", slm_double_free);
}

static char *misused;

static void check_misused(void)
{
    announce("test", misused, "not the start of an object");
    slm_freed_check_word(misused, "test", slm_use_after_free);
}

static void check_misused_nolock(void)
{
    announce("test", misused, "not the start of an object");
    slm_freed_check_nolock(slm_slab_of(misused), misused, "test");
}

/* Whether the object is free or not. */
static void pointers_into_objects_end_the_process(void **state)
{
    (void)state;
    static const size_t inside[] = {1, 8, 16, SIZE / 2, SIZE - 8, SIZE - 1};
    char *object = alloc();
    for (unsigned turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < COUNT(inside); i++) {
            misused = object + inside[i];
            assert_announced(check_misused);
            assert_announced(check_misused_nolock);
        }
        if (turn == 0)
            slm_cache_object_free(name, object);
    }
    assert_announced(classes_are_told_by_their_size);
}

/* -- live objects ------------------------------------------------------------------------------------------------ */

static void assert_live(const void *object)
{
    require(slm_freed_check(object, "test", slm_double_free) == cache);
    require(slm_freed_check_word(object, "test", slm_double_free) == cache->shape.slot_word);
    require(slm_freed_check_nolock(slm_slab_of(object), object, "test") == (cache->shape.keyed && has_key(object)));
}

static void check_live_beside_free(void)
{
    void *live[2] = {alloc(), alloc()};
    imitate(live[0]);
    slm_key_clear(live[1]);
    put_there();
    assert_live(live[0]);
    assert_live(live[1]);
    require(has_key(live[0]) && !has_key(live[1]));
}

static void try_live(void)
{
    assert_child_silent(check_live_beside_free);
}

static void live_objects_are_never_found(void **state)
{
    (void)state;
    for_each_place(try_live);
}

/* Above the top of a magazine they stay readable. */
static void nor_where_they_once_lay(void **state)
{
    (void)state;
    void *objects[MANY];
    free_many();
    for (size_t i = 0; i < MANY; i++) {
        imitate(objects[i] = alloc());
        assert_live(objects[i]);
    }
    for (size_t i = 0; i < MANY; i++) {
        assert_live(objects[i]);
        slm_key_clear(objects[i]);
        slm_cache_object_free(name, objects[i]);
    }
}

static void live_objects_of_malloc_are_known(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        char *object = malloc(slm_class_size[class]);
        assert_ptr_equal(slm_freed_check(object, "test", slm_double_free), &slm_class_caches[class]);
        assert_int_equal(slm_freed_check_word(object, "test", slm_double_free), slm_slot_word_of(class));
        memset(object, 0xff, slm_class_size[class]);
        imitate(object);
        assert_int_equal(slm_freed_check_word(object, "test", slm_double_free), slm_slot_word_of(class));
        slm_key_clear(object);
        free(object);
    }
}

static void check_before_birth(void *live)
{
    require(slm_tls.state == SLM_THREAD_NONE);
    assert_live(live);
}

static void threads_without_a_block_look_too(void **state)
{
    (void)state;
    void *live = alloc();
    start_helper(&helper);
    tell(&helper, check_before_birth, live);
    imitate(live);
    tell(&helper, check_before_birth, live);
    slm_key_clear(live);
    end_helper(&helper);
    slm_cache_object_free(name, live);
}

static void where_no_slab_is_there_is_no_cache(void **state)
{
    (void)state;
    static uint64_t data[2];
    uint64_t stack[2] = {0, 0};
    char *large = malloc(MIB);
    const void *const pointers[] = {NULL, (void *)8, (void *)UINTPTR_MAX, data, stack, large, large + SLM_GRANULE};
    for (size_t i = 0; i < COUNT(pointers); i++) {
        assert_null(slm_freed_check(pointers[i], "test", slm_double_free));
        assert_int_equal(slm_freed_check_word(pointers[i], "test", slm_double_free), 0);
    }
    free(large);
}

/* -- objects without a key --------------------------------------------------------------------------------------- */

static void construct(void *object, void *context)
{
    (void)context;
    memset(object, 0x5a, 8);
}

static const struct {
    size_t size;
    struct slab_cache_attr attr;
} unkeyed[] = {
    {8, {.flags = SLAB_NO_MERGE}},
    {SIZE, {.flags = SLAB_TYPESAFE_BY_EPOCH}},
    {SIZE, {.ctor = construct}},
};

enum { LAST = 4, FREED = LAST + 3 };

static void *freed[FREED];

static void check_freed(void)
{
    announce("test", misused, slm_double_free);
    slm_freed_check_word(misused, "test", slm_double_free);
}

static void check_own(void *object)
{
    require(slm_freed_check(object, "test", slm_double_free) == cache);
}

static void try_unkeyed(void)
{
    for (size_t i = 0; i < FREED; i++)
        memset(freed[i] = alloc(), 0xa5, cache->shape.object_size);
    for (size_t i = 0; i < FREED; i++) {
        assert_live(freed[i]);
        slm_cache_object_free(name, freed[i]);
    }
    for (size_t i = 0; i < FREED; i++) {
        misused = freed[i];
        if (i < FREED - LAST)
            assert_live(misused);
        else
            assert_announced(check_freed);
        tell(&helper, check_own, misused); /* another thread */
        for (size_t at = 0; at < cache->shape.object_size; at++)
            assert_int_equal((unsigned char)misused[at], 0xa5);
    }
    for (size_t i = FREED; i > 0; i--) { /* again, the last first; no more than there are is looked at */
        assert_ptr_equal(alloc(), freed[i - 1]);
        assert_live(freed[i - 1]);
    }
    for (size_t i = 0; i < FREED; i++)
        slm_cache_object_free(name, freed[i]);
}

static void of_objects_without_a_key_the_last_four_are_found(void **state)
{
    (void)state;
    start_live_helper(&helper);
    for (size_t i = 0; i < COUNT(unkeyed); i++) {
        create(unkeyed[i].size, &unkeyed[i].attr);
        assert_false(cache->shape.keyed);
        try_unkeyed();
        assert_int_equal(slab_cache_destroy(name), 0);
    }
    end_helper(&helper);
}

/* -- retired objects --------------------------------------------------------------------------------------------- */

static void *ripe[MANY];

static void take_ripe(void)
{
    for (size_t i = 0; i < MANY; i++)
        memset(ripe[i] = alloc(), (int)i, SIZE);
}

static void free_ripe(void)
{
    for (size_t i = 0; i < MANY; i++) {
        slm_key_clear(ripe[i]);
        slm_cache_object_free(name, ripe[i]);
    }
}

/* What imitates the key is no free object. */
static void ripe_objects_get_their_keys(void **state)
{
    (void)state;
    take_ripe();
    imitate(ripe[0]);
    imitate(ripe[MANY - 1]);
    slm_freed_ripen(cache, ripe, MANY);
    for (size_t i = 0; i < MANY; i++) {
        const unsigned char *bytes = ripe[i];
        assert_true(has_key(ripe[i]));
        for (size_t at = 0; at < SIZE; at++)
            assert_true(bytes[at] == i || (at >= 8 && at < 16));
    }
    free_ripe();
}

static void others_are_left_as_they_are(void **state)
{
    (void)state;
    uint64_t words[] = {1, 2};
    void *objects[] = {words};
    slm_freed_ripen(NULL, objects, 1);
    create(SIZE, &unkeyed[1].attr);
    void *object = alloc();
    memset(object, 0x5a, SIZE);
    slm_freed_ripen(cache, &object, 1);
    for (size_t at = 0; at < SIZE; at++)
        assert_int_equal(((unsigned char *)object)[at], 0x5a);
    slm_cache_object_free(name, object);
    assert_int_equal(slab_cache_destroy(name), 0);
    assert_true(words[0] == 1 && words[1] == 2);
}

static size_t wrong_at;

static void ripen_with_free_one(void)
{
    take_ripe();
    ripe[wrong_at] = put_there();
    announce("slab_free_deferred", ripe[wrong_at], slm_double_free);
    slm_freed_ripen(cache, ripe, MANY);
}

static void ripen_with_twin(void)
{
    take_ripe();
    ripe[MANY - 1] = ripe[wrong_at];
    announce("slab_free_deferred", ripe[wrong_at], slm_double_free);
    slm_freed_ripen(cache, ripe, MANY);
}

static void ripen_with_pointer_into_object(void)
{
    take_ripe();
    ripe[wrong_at] = (char *)ripe[wrong_at] + 16;
    imitate(ripe[wrong_at]);
    announce("slab_free_deferred", ripe[wrong_at], "not the start of an object");
    slm_freed_ripen(cache, ripe, MANY);
}

static void try_ripening(void)
{
    wrong_at = (wrong_at + 7) % (MANY - 1);
    assert_announced(ripen_with_free_one);
}

static void ripe_objects_that_were_freed_are_found(void **state)
{
    (void)state;
    for_each_place(try_ripening);
    for (wrong_at = 0; wrong_at < MANY - 1; wrong_at += 19) {
        assert_announced(ripen_with_twin);
        assert_announced(ripen_with_pointer_into_object);
    }
}

#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cache_test(free_objects_are_found_wherever_they_lie),
        cache_test(without_a_lock_near_ones_are_found),
        cache_test(inside_a_slow_path_magazines_are_not_looked_at_without_a_lock),
        cache_test(threads_in_a_slow_path_are_left_alone),
        cache_test(every_slow_path_is_counted),
        cache_test(threads_that_are_gone_are_looked_at),
        cache_test(pointers_into_objects_end_the_process),
        cache_test(live_objects_are_never_found),
        cache_test(nor_where_they_once_lay),
        cmocka_unit_test(live_objects_of_malloc_are_known),
        cache_test(threads_without_a_block_look_too),
        cmocka_unit_test(where_no_slab_is_there_is_no_cache),
        cmocka_unit_test(of_objects_without_a_key_the_last_four_are_found),
        cache_test(ripe_objects_get_their_keys),
        cmocka_unit_test(others_are_left_as_they_are),
        cache_test(ripe_objects_that_were_freed_are_found),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
