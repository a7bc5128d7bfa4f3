/* src/process/lifecycle.h: the process's start, the birth and exit of threads. */
#include "unit.h"
#include "heap_check.h"

#include <limits.h>

#include "base/options.h"
#include "base/panic.h"
#include "heap/slow.h"
#include "process/lifecycle.h"
#include "os/topology.h"
#include "page/reservation.h"
#include "page/free_spans.h"
#include "page/span.h"
#include "thread/thread_list.h"
#include "caches.h"

/* First use, before any constructor: the program's own are run after these. */
static char *early;

static void use_early(void)
{
    early = malloc(1000);
    if (early)
        memset(early, 0x5a, 1000);
}

__attribute__((section(".preinit_array"), used)) static void (*const before_all)(void) = use_early;

static void what_was_made_before_constructors_stays(void **state)
{
    (void)state;
    assert_non_null(early);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(early[i], 0x5a);
    free(early);
    check_heap();
}

static void the_process_has_started(void **state)
{
    (void)state;
    errno = EDOM;
    assert_true(slm_process_started());
    assert_int_equal(errno, EDOM);
    assert_true(slm_direct_node() < slm_nodes);
}

static void standard_error_is_remembered_at_start(void **state)
{
    (void)state;
    assert_true(slm_stderr_is(STDERR_FILENO));
}

static void this_thread_is_live(void **state)
{
    (void)state;
    assert_int_equal(slm_tls.state, SLM_THREAD_LIVE);
    assert_non_null(slm_tls.self);
    assert_ptr_equal(slm_tls.hot, slm_tls.self);
    assert_int_equal(slm_tls.busy, 0);
}

static void a_block_is_entered_once(void **state)
{
    (void)state;
    struct slm_thread *thread = slm_thread_enter(true);
    assert_ptr_equal(thread, slm_tls.self);
    assert_null(slm_thread_enter(true)); /* a handler that comes in between must leave it alone */
    assert_null(slm_thread_enter(false));
    slm_thread_leave(thread);
    assert_ptr_equal(slm_thread_enter(false), thread);
    slm_thread_leave(thread);
}

static void attend_to(uint8_t what)
{
    atomic_fetch_or(&slm_tls.self->attention, what);
}

static void leaving_attends_to_what_is_asked(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    struct slm_cache *cache = slm_class_cache(30);
    struct slm_thread *thread = slm_thread_enter(true);
    slm_thread_push(thread, 30, slm_thread_pop(thread, 30));
    attend_to(SLM_ATTEND_RECALL);
    errno = EDOM;
    slm_thread_leave(thread);
    assert_int_equal(errno, EDOM);
    assert_int_equal(load_relaxed(&self->attention), 0);
    assert_int_equal(slm_thread_rounds(self, 30), 0);
    assert_null(slm_reserve_pop(cache));
    slm_thread_unhide(slm_thread_hide()); /* no user's code may run at its end: it does not */
    assert_int_equal(load_relaxed(&self->attention), SLM_ATTEND_RESERVE);
    assert_int_equal(slm_reserve_rounds(self, cache), 0);
    slm_thread_leave(slm_thread_enter(false));
    assert_true(slm_reserve_rounds(self, cache) > 0);
    attend_to(SLM_ATTEND_RECALL);
    slm_thread_leave(slm_thread_enter(false));
    assert_int_equal(slm_reserve_rounds(self, cache), 0);
}

static void all_that_is_asked_at_once_is_attended_to(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    const uint32_t recall = slm_take_recall() + 1;
    slm_thread_list_lock();
    store_relaxed(&slm_thread_recalls, recall);
    slm_thread_list_unlock();
    attend_to(SLM_ATTEND_RECALL | SLM_ATTEND_RESERVE | SLM_ATTEND_PAUSE);
    slm_thread_leave(slm_thread_enter(false));
    assert_int_equal(load_relaxed(&self->attention), 0);
    assert_int_equal(load_relaxed(&self->recalled), recall);
    assert_ptr_equal(slm_tls.hot, self);
    assert_int_equal(slm_tls.busy, 0);
}

static _Atomic unsigned constructing_depth;

static void construct(void *object, void *context)
{
    (void)context;
    require(load_relaxed(&slm_tls.busy) == 0 && slm_tls.hot == slm_tls.self); /* in the middle of nothing */
    atomic_fetch_add(&constructing_depth, 1);
    memset(object, 1, 100);
    free(malloc(100000)); /* passes a slow path, which attends to no more than it can */
    atomic_fetch_sub(&constructing_depth, 1);
}

static void constructors_run_behind_the_slow_path(void **state)
{
    (void)state;
    struct slab_cache *name = named("constructed", 200, &(struct slab_cache_attr){.ctor = construct});
    assert_null(slm_reserve_pop(cache_of(name)));
    slm_thread_leave(slm_thread_enter(false));
    assert_true(slm_reserve_rounds(slm_tls.self, cache_of(name)) > 0);
    assert_int_equal(load_relaxed(&constructing_depth), 0);
    assert_int_equal(slab_cache_destroy(name), 0);
}

static uint64_t rounds_of(struct slm_thread *thread)
{
    uint64_t rounds = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        rounds += slm_thread_rounds(thread, class);
    return rounds;
}

/* What a signal handler does that interrupts a slow path: the magazines may be torn, it must not touch them. */
static void a_busy_thread_goes_to_the_depots(void **state)
{
    (void)state;
    char *objects[200];
    struct slm_thread *thread = slm_thread_enter(true);
    assert_non_null(thread);
    const uint64_t rounds = rounds_of(thread);
    for (size_t i = 0; i < COUNT(objects); i++) {
        objects[i] = malloc(i * 50);
        require(objects[i] != NULL);
        memset(objects[i], (int)i, i * 50);
    }
    for (size_t i = 0; i < COUNT(objects); i += 2) {
        require(i == 0 || (unsigned char)objects[i][i * 50 - 1] == i);
        free(objects[i]);
    }
    const uint64_t rounds_after = rounds_of(thread);
    slm_thread_leave(thread);
    for (size_t i = 1; i < COUNT(objects); i += 2)
        free(objects[i]);
    assert_int_equal(rounds_after, rounds);
}

static void *be_born(void *nothing)
{
    require(slm_tls.state == SLM_THREAD_NONE && slm_tls.armed && !slm_tls.self);
    void *volatile object = malloc(100);
    require(object && slm_tls.state == SLM_THREAD_LIVE && slm_tls.hot == slm_tls.self);
    require(slm_thread_list_count() >= 2);
    free(object);
    return nothing;
}

static void the_first_use_is_a_birth(void **state)
{
    (void)state;
    on_threads(1, be_born);
    assert_int_equal(slm_thread_list_count(), 1);
}

static void *foreign[1000];

static void *free_only(void *nothing)
{
    free(foreign[0]);
    require(slm_tls.state == SLM_THREAD_NONE); /* it may be at its very end */
    for (size_t i = 1; i < COUNT(foreign); i++)
        free(foreign[i]);
    require(slm_tls.state == SLM_THREAD_LIVE);
    return nothing;
}

static void a_thread_that_frees_much_is_born_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(foreign); i++)
        foreign[i] = malloc(100);
    on_threads(1, free_only);
    assert_int_equal(slm_thread_list_count(), 1);
}

static uint64_t stock_and_out(unsigned class, uint64_t *stock)
{
    uint64_t out = *stock = 0;
    slm_for_each_depot (depot, slm_class_cache(class)) {
        out += load_relaxed(&depot->objects_out);
        *stock += load_relaxed(&depot->stock_rounds);
    }
    return out;
}

static void *fill_magazines(void *nothing)
{
    static void *objects[3000];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(1700);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static void an_exit_gives_the_magazines_back(void **state)
{
    (void)state;
    uint64_t stock, stock_before;
    const unsigned class = slm_class_of_size(1700);
    const uint64_t live = stock_and_out(class, &stock_before) - stock_before;
    on_threads(1, fill_magazines);
    assert_int_equal(stock_and_out(class, &stock) - stock, live);
    assert_int_equal(slm_thread_list_count(), 1);
}

static pthread_key_t late_key;
static _Atomic unsigned late_calls;

/* Runs again and again, before and after the library's own destructor. */
static void come_late(void *value)
{
    char *object = malloc(300);
    require(object != NULL);
    memset(object, 1, 300);
    free(object);
    free(value);
    add_relaxed(&late_calls, 1);
    pthread_setspecific(late_key, malloc(10)); /* the last one is lost, as POSIX has it */
}

static void *leave_late_work(void *nothing)
{
    pthread_setspecific(late_key, malloc(10));
    return nothing;
}

static void late_destructors_may_allocate(void **state)
{
    (void)state;
    assert_int_equal(pthread_key_create(&late_key, come_late), 0);
    for (unsigned i = 0; i < 50; i++)
        on_threads(4, leave_late_work);
    assert_true(load_relaxed(&late_calls) >= 200);
    assert_int_equal(slm_thread_list_count(), 1);
    pthread_key_delete(late_key);
    check_heap();
}

static void threads_leave_nothing_behind(void **state)
{
    (void)state;
    uint64_t heap = 0, metadata = 0;
    for (unsigned i = 0; i < 1000; i++) {
        on_threads(1, live_briefly);
        if (i == 100) {
            heap = slm_reservation_heap_bytes();
            metadata = slm_reservation_metadata_bytes();
        }
    }
    assert_int_equal(slm_reservation_metadata_bytes(), metadata);
    assert_true(slm_reservation_heap_bytes() <= heap + 2 * MIB);
    assert_int_equal(slm_thread_list_count(), 1);
}

static void use_without_block(size_t count, enum slm_thread_state state)
{
    char *objects[100];
    for (size_t i = 0; i < count; i++) {
        char **object = &objects[i % COUNT(objects)];
        if (i >= COUNT(objects))
            free(*object);
        *object = malloc(i * 50 % 40000);
        require(*object != NULL && slm_tls.state == state && slm_tls.hot == slm_nothing);
    }
    for (size_t i = 0; i < slm_min(count, COUNT(objects)); i++)
        free(objects[i]);
}

static _Atomic unsigned ends;

static char rounds[PTHREAD_DESTRUCTOR_ITERATIONS]; /* the key's value says in which one its destructor runs */

/* The library's destructor comes first in each round. It leaves a thread that has a block one round with it. */
static void use_after_the_end(void *value)
{
    if (value == &rounds[0] && slm_tls.self) {
        require(slm_tls.state == SLM_THREAD_LIVE && slm_thread_exit_expected());
        free(malloc(100));
    } else {
        require(slm_tls.self == NULL && slm_thread_list_count() == 1);
        use_without_block(300, SLM_THREAD_GONE);
    }
    if (value != &rounds[PTHREAD_DESTRUCTOR_ITERATIONS - 1])
        pthread_setspecific(late_key, (char *)value + 1);
    add_relaxed(&ends, 1);
}

static void *end_with_late_use(void *allocates)
{
    if (allocates)
        free(malloc(100));
    pthread_setspecific(late_key, rounds);
    return NULL;
}

static void an_end_is_final(void **state)
{
    (void)state;
    assert_int_equal(pthread_key_create(&late_key, use_after_the_end), 0);
    for (uintptr_t i = 0; i < 2; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, end_with_late_use, (void *)i), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    assert_int_equal(load_relaxed(&ends), 2 * PTHREAD_DESTRUCTOR_ITERATIONS);
    pthread_key_delete(late_key);
    assert_int_equal(slm_thread_list_count(), 1);
}

/* Made by libc itself it may be in its last round: it gets a block by the last key. */
static void *come_from_elsewhere(void *passes)
{
    require(slm_tls.state == SLM_THREAD_NONE && !slm_tls.armed);
    for (uintptr_t pass = 1; pass <= (uintptr_t)passes; pass++) {
        void *volatile object = malloc(100);
        require(object && slm_tls.armed && slm_tls.self && slm_thread_exit_expected());
    }
    return NULL;
}

static void *come_from_elsewhere_last(void *passes)
{
    pthread_setspecific(late_key, passes);
    return NULL;
}

static void come_from_elsewhere_in_the_last_round(void *value)
{
    const uintptr_t passes = (uintptr_t)value % 1000, round = (uintptr_t)value / 1000 + 1;
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS)
        pthread_setspecific(late_key, (void *)(round * 1000 + passes));
    else
        come_from_elsewhere((void *)passes);
}

static void a_thread_from_elsewhere_ends_as_well(void **state)
{
    (void)state;
    thread_creator *const create = creator_in_libc();
    assert_int_equal(pthread_key_create(&late_key, come_from_elsewhere_in_the_last_round), 0);
    for (uintptr_t passes = 0; passes < 5; passes++)
        for (unsigned last = 0; last < 2; last++) {
            pthread_t thread;
            assert_int_equal(
                create(&thread, NULL, last ? come_from_elsewhere_last : come_from_elsewhere, (void *)passes), 0);
            assert_int_equal(pthread_join(thread, NULL), 0);
            assert_int_equal(slm_thread_list_count(), 1);
        }
    pthread_key_delete(late_key);
    check_heap();
}

static void *live_without_block(void *nothing)
{
    use_without_block(1000, SLM_THREAD_NONE);
    return nothing;
}

/* The program has all keys but the library's. */
static void take_all_keys(void)
{
    thread_creator *const create = creator_in_libc();
    unsigned count = 0;
    pthread_key_t key;
    pthread_t thread;
    while (pthread_key_create(&key, NULL) == 0)
        count++;
    require(count >= PTHREAD_KEYS_MAX - 3);
    require(create(&thread, NULL, live_without_block, NULL) == 0 && pthread_join(thread, NULL) == 0);
    require(pthread_key_delete(key) == 0 && pthread_key_create(&key, NULL) == 0);
}

static void a_thread_from_elsewhere_does_without_a_key(void **state)
{
    (void)state;
    assert_child_silent(take_all_keys);
}

static void free_and_go_on(void)
{
    enum { BYTES = 20000, OBJECTS = 3000 };
    static void *objects[OBJECTS];
    slm_settings.purge_delay_ms = 1;
    slm_tls.state = SLM_THREAD_GONE; /* not by the end: this thread has taken nothing yet of this class */
    slm_tls.hot = slm_nothing;
    slm_tls.self = NULL;
    for (size_t i = 0; i < OBJECTS; i++)
        require((objects[i] = malloc(BYTES)) != NULL);
    for (size_t i = 0; i < OBJECTS; i++)
        free(objects[i]);
    while (slm_span_dirty_bytes() > MIB)
        free(malloc(BYTES));
}

static void what_is_freed_without_a_block_goes_back(void **state)
{
    (void)state;
    assert_child_silent(free_and_go_on);
}

static void *look_at_node(void *nothing)
{
    free(malloc(1));
    require(slm_tls.self->node < slm_nodes);
    void *volatile object = malloc(2000);
    require(slm_node_of(object) == slm_tls.self->node);
    free(object);
    return nothing;
}

static void threads_allocate_on_their_node(void **state)
{
    (void)state;
    on_threads(8, look_at_node);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_made_before_constructors_stays),
        cmocka_unit_test(the_process_has_started),
        cmocka_unit_test(standard_error_is_remembered_at_start),
        cmocka_unit_test(this_thread_is_live),
        cmocka_unit_test(a_block_is_entered_once),
        cmocka_unit_test(leaving_attends_to_what_is_asked),
        cmocka_unit_test(all_that_is_asked_at_once_is_attended_to),
        cmocka_unit_test(constructors_run_behind_the_slow_path),
        cmocka_unit_test(a_busy_thread_goes_to_the_depots),
        cmocka_unit_test(the_first_use_is_a_birth),
        cmocka_unit_test(a_thread_that_frees_much_is_born_too),
        cmocka_unit_test(an_exit_gives_the_magazines_back),
        cmocka_unit_test(late_destructors_may_allocate),
        cmocka_unit_test(threads_leave_nothing_behind),
        cmocka_unit_test(an_end_is_final),
        cmocka_unit_test(a_thread_from_elsewhere_does_without_a_key),
        cmocka_unit_test(a_thread_from_elsewhere_ends_as_well),
        cmocka_unit_test(what_is_freed_without_a_block_goes_back),
        cmocka_unit_test(threads_allocate_on_their_node),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
