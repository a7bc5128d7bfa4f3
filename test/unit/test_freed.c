/* src/thread/freed.h: free objects are found wherever they lie, live ones never, whatever they contain. */
#include "unit.h"

#include "places.h"

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
    slm_freed_check_offset(object, "other test", slm_use_after_free);
}

static void seek_twice(void)
{
    assert_child_aborts_as_announced(seek);
    assert_child_aborts_as_announced(seek_word);
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
    assert_child_aborts_as_announced(seek_nolock);
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
    assert_child_aborts_as_announced(seek_beside_a_slow_path);
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
    slm_thread_worked(block);
    slm_thread_unhide(self);
    munmap(page, 4096);
    announce("test", object, slm_double_free);
    slm_freed_check(object, "test", slm_double_free);
}

static void threads_that_are_gone_are_looked_at(void **state)
{
    (void)state;
    assert_child_aborts_as_announced(seek_in_thread_that_is_gone);
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
    slm_freed_check_offset(misused, "test", slm_use_after_free);
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
            assert_child_aborts_as_announced(check_misused);
            assert_child_aborts_as_announced(check_misused_nolock);
        }
        if (turn == 0)
            slm_cache_object_free(name, object);
    }
    assert_child_aborts_as_announced(classes_are_told_by_their_size);
}

/* -- live objects ------------------------------------------------------------------------------------------------ */

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
        assert_ptr_equal(slm_freed_check(object, "test", slm_double_free), slm_class_cache(class));
        assert_int_equal(slm_freed_check_offset(object, "test", slm_double_free), slm_slot_offset_of(class));
        memset(object, 0xff, slm_class_size[class]);
        imitate(object);
        assert_int_equal(slm_freed_check_offset(object, "test", slm_double_free), slm_slot_offset_of(class));
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
        assert_int_equal(slm_freed_check_offset(pointers[i], "test", slm_double_free), 0);
    }
    free(large);
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
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
