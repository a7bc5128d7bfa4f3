/* src/depot/pending_slabs.h: vacant slabs that wait for readers or for their destructors. The depot here is none of a
 * cache's; objects of 4096 bytes, sixteen to a slab. */
#include "unit.h"

#include "depot/depot.h"
#include "depot/pending_slabs.h"
#include "depot/shards.h"
#include "epochs.h"
#include "os/topology.h"
#include "spans.h"

enum { SIZE = 4096, A_SLAB = 16, SLABS = 4 };

static void destruct(void *object, void *context);

static struct slm_object_hooks life = {.destructor = destruct};
static struct slm_slab_shape shape = {.object_size = SIZE, .hooks = &life};
static struct slm_depot depot;

static char *destructed[64 * A_SLAB];
static _Atomic unsigned destructed_count;
static void (*further)(void); /* what else the destructor does */

static void destruct(void *object, void *context)
{
    require(context == life.context && slm_pending_slabs_is_releasing());
    destructed[add_relaxed(&destructed_count, 1)] = object;
    if (further)
        further();
}

static int begin(void **state)
{
    const int started = start_unnamed(state);
    slm_slab_shape_fill(&shape);
    return started || shape.objects != A_SLAB ? -1 : 0;
}

static int fresh_depot(void **state)
{
    (void)state;
    slm_depot_init(&depot, &shape, "test", slm_nodes - 1);
    life = (struct slm_object_hooks){.destructor = destruct, .context = &depot};
    store_relaxed(&destructed_count, 0);
    further = NULL;
    return 0;
}

static uint64_t released(void)
{
    return load_relaxed(&depot.slabs_released);
}

static int all_has_gone(void **state)
{
    (void)state;
    slm_span_check(slm_nodes - 1);
    return released() == load_relaxed(&depot.slabs_made) && load_relaxed(&slm_pending_slabs_due) == 0 ? 0 : -1;
}

/* Make n slabs vacant, and have them leave the depot. */
static void make_pending(unsigned n)
{
    void *rounds[SLABS * A_SLAB];
    require(n <= SLABS);
    for (unsigned got = 0; got < n * A_SLAB;)
        got += slm_depot_fill(&depot, rounds + got, n * A_SLAB - got);
    slm_depot_give(rounds, n * A_SLAB, "free");
    slm_depot_trim(&depot, true);
}

static void a_destructor_alone_is_due_at_once(void **state)
{
    (void)state;
    make_pending(1);
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 1);
    assert_int_equal(released(), 0);
    assert_false(slm_pending_slabs_poll()); /* nothing waits for time to pass */
    assert_int_equal(load_relaxed(&destructed_count), 0);
    assert_false(slm_pending_slabs_is_releasing());
    slm_pending_slabs_release(NULL);
    assert_false(slm_pending_slabs_is_releasing());
    assert_int_equal(load_relaxed(&destructed_count), A_SLAB);
    for (unsigned i = 1; i < A_SLAB; i++)
        assert_ptr_equal(destructed[i], destructed[0] + i * SIZE); /* the lowest first */
    assert_int_equal(released(), 1);
    assert_null(slm_slab_of(destructed[0]));
    slm_pending_slabs_release(NULL);
    assert_int_equal(load_relaxed(&destructed_count), A_SLAB);
}

static void the_oldest_goes_first(void **state)
{
    (void)state;
    char *first[SLABS];
    for (unsigned i = 0; i < SLABS; i++) {
        void *rounds[A_SLAB];
        require(slm_depot_fill(&depot, rounds, A_SLAB) == A_SLAB);
        first[i] = rounds[A_SLAB - 1];
        slm_depot_give(rounds, A_SLAB, "free");
        slm_depot_trim(&depot, true);
    }
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), SLABS);
    slm_pending_slabs_release(NULL);
    for (unsigned i = 0; i < SLABS; i++)
        assert_ptr_equal(destructed[i * A_SLAB], first[i]);
}

static void a_vacant_slab_is_kept_as_it_is(void **state)
{
    (void)state;
    void *object;
    assert_int_equal(slm_depot_fill(&depot, &object, 1), 1);
    slm_depot_give(&object, 1, "free");
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 0); /* the depot keeps it, its objects with their state */
    slm_depot_trim(&depot, true);
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 1);
    slm_pending_slabs_release(NULL);
}

/* -- type-safe: readers ------------------------------------------------------------------------------------------ */

static void without_readers_time_has_passed(void)
{
    life.typesafe = true;
    require(slm_epoch_nobody_reads());
    make_pending(2);
    slm_pending_slabs_release(NULL);
    require(load_relaxed(&destructed_count) == 0 &&
            load_relaxed(&slm_pending_slabs_due) == 0); /* they wait for a look */
    require(!slm_pending_slabs_poll());
    require(load_relaxed(&slm_pending_slabs_due) == 2 && released() == 0);
    slm_pending_slabs_release(NULL);
    require(released() == 2 && barriers() == 0);
}

static void where_nobody_reads_they_wait_for_a_look_alone(void **state)
{
    (void)state;
    assert_child_silent(without_readers_time_has_passed);
}

static void their_own_reader_has_left(void)
{
    life.typesafe = true;
    enter();
    make_pending(2);
    require(slm_pending_slabs_poll() && load_relaxed(&slm_pending_slabs_due) == 0);
    leave();
    require(slm_epoch_nobody_reads() && !slm_pending_slabs_poll());
    require(load_relaxed(&slm_pending_slabs_due) == 2);
    slm_pending_slabs_release(NULL);
    require(released() == 2);
}

static void what_became_vacant_in_a_section_goes_at_a_look_after_it(void **state)
{
    (void)state;
    assert_child_silent(their_own_reader_has_left);
}

static _Atomic int stage; /* of the reader */

static void reach(int next)
{
    store_release(&stage, next);
}

static void wait_for(int wanted)
{
    while (load_acquire(&stage) < wanted)
        sleep_ms(1);
}

static void *read_for_a_while(void *nothing)
{
    enter();
    reach(1);
    wait_for(2);
    leave();
    slm_epoch_thread_exit(); /* as at the end of a thread that has allocated */
    return nothing;
}

/* Look for so many milliseconds: is there something that waits all the time? */
static bool waits_for(unsigned ms)
{
    for (unsigned waited = 0; waited < ms; waited++) {
        if (!slm_pending_slabs_poll())
            return false;
        sleep_ms(1);
    }
    return true;
}

static void poll_until_due(void)
{
    while (slm_pending_slabs_poll())
        sleep_ms(1);
}

static void an_open_section_holds_slabs_back(void **state)
{
    (void)state;
    pthread_t reader;
    life.typesafe = true;
    reach(0);
    assert_int_equal(pthread_create(&reader, NULL, read_for_a_while, NULL), 0);
    wait_for(1);
    make_pending(3);
    assert_true(waits_for(30));
    slm_pending_slabs_release(NULL);
    assert_int_equal(load_relaxed(&destructed_count), 0);
    assert_int_equal(released(), 0);
    life.typesafe = false; /* what does not wait for readers overtakes */
    make_pending(1);
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 1);
    assert_int_equal(load_relaxed(&destructed_count), A_SLAB);
    reach(2);
    poll_until_due();
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 3);
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 4);
    assert_int_equal(load_relaxed(&destructed_count), 4 * A_SLAB);
    pthread_join(reader, NULL);
}

/* A section that begins behind a slab's end does not hold it back, as long as the slab is the older one. */
static void a_later_section_holds_only_later_slabs(void **state)
{
    (void)state;
    pthread_t reader;
    enter(); /* so that there are readers at all */
    leave();
    life.typesafe = true;
    make_pending(1);
    slm_epoch_synchronize("test"); /* its stamp has passed */
    reach(0);
    assert_int_equal(pthread_create(&reader, NULL, read_for_a_while, NULL), 0);
    wait_for(1);
    make_pending(2);
    assert_true(slm_pending_slabs_poll());
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 1);
    assert_true(waits_for(20));
    assert_int_equal(load_relaxed(&slm_pending_slabs_due), 1);
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 1);
    reach(2);
    poll_until_due();
    slm_pending_slabs_release(NULL);
    pthread_join(reader, NULL);
}

/* Only a look: the caller may be inside a section itself, which holds its own slabs back. */
static void polls_inside_a_section_do_not_wait(void **state)
{
    (void)state;
    life.typesafe = true;
    enter();
    make_pending(2);
    assert_true(waits_for(20));
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 0);
    leave();
    poll_until_due();
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 2);
}

static void type_safe_objects_need_no_destructor(void **state)
{
    (void)state;
    life = (struct slm_object_hooks){.typesafe = true};
    make_pending(2);
    assert_int_equal(released(), 0);
    poll_until_due();
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 2);
}

/* -- what destructors may do ------------------------------------------------------------------------------------- */

static struct slm_lock first_rank = {.rank = SLM_RANK_START};

/* No lock is held: the lowest in rank can be taken. And slow paths that end in here release nothing. */
static void do_anything(void)
{
    static unsigned calls;
    slm_lock_acquire(&first_rank);
    slm_lock_release(&first_rank);
    const unsigned before = load_relaxed(&destructed_count);
    if (calls++ == 2)
        make_pending(2);
    slm_pending_slabs_release(NULL);
    require(load_relaxed(&destructed_count) == before);
    void *volatile objects[10];
    for (size_t i = 0; i < COUNT(objects); i++)
        require((objects[i] = malloc(10000 * i + 1)) != NULL);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
}

static void a_destructor_may_call_anything(void **state)
{
    (void)state;
    further = do_anything;
    make_pending(1);
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 3); /* those that it has made vacant come behind it */
    assert_int_equal(load_relaxed(&destructed_count), 3 * A_SLAB);
    assert_false(slm_pending_slabs_is_releasing());
}

static _Atomic unsigned inside;
static _Atomic bool met;

/* Two threads are in destructors at once. */
static void meet(void)
{
    atomic_fetch_add(&inside, 1);
    while (!load_relaxed(&met)) {
        if (load_relaxed(&inside) >= 2)
            store_relaxed(&met, true);
        sleep_ms(1);
    }
}

static void *release_some(void *nothing)
{
    slm_pending_slabs_release(NULL);
    require(!slm_pending_slabs_is_releasing());
    return nothing;
}

static void threads_release_side_by_side(void **state)
{
    (void)state;
    further = meet;
    make_pending(SLABS);
    on_threads(2, release_some);
    assert_int_equal(released(), SLABS);
    assert_int_equal(load_relaxed(&destructed_count), SLABS * A_SLAB);
    for (size_t i = 0; i < SLABS * A_SLAB; i++)
        for (size_t k = 0; k < i; k++)
            assert_ptr_not_equal(destructed[i], destructed[k]);
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

static void go_on(void)
{
    store_relaxed(&destructed_count, 0);
    slm_pending_slabs_poll();
    slm_pending_slabs_release(NULL);
    const uint64_t before = released();
    make_pending(2);
    slm_pending_slabs_release(NULL);
    require(released() == before + 2 && load_relaxed(&slm_pending_slabs_due) == 0);
}

static _Atomic bool enough;

static struct slm_depot busy_depot;
static struct slm_object_hooks busy_life = {.typesafe = true};
static struct slm_slab_shape busy_shape = {.object_size = SIZE, .hooks = &busy_life};

static void *vacate_all_the_time(void *nothing)
{
    void *object;
    while (!load_relaxed(&enough)) {
        require(slm_depot_fill(&busy_depot, &object, 1) == 1);
        slm_depot_give(&object, 1, "free");
        for (struct slm_depot *at = &busy_depot; at; at = slm_depot_shard_after(at))
            slm_depot_trim(at, true);
        slm_pending_slabs_poll();
        slm_pending_slabs_release(NULL);
    }
    return nothing;
}

/* What other threads were in the middle of is lost; the queues are whole. */
static void children_go_on(void **state)
{
    (void)state;
    pthread_t busy[2];
    slm_slab_shape_fill(&busy_shape);
    slm_depot_init(&busy_depot, &busy_shape, "busy", 0);
    for (size_t i = 0; i < COUNT(busy); i++)
        assert_int_equal(pthread_create(&busy[i], NULL, vacate_all_the_time, NULL), 0);
    for (unsigned long i = 0; i < scaled(30); i++) {
        sleep_ms(1);
        assert_child_silent(go_on);
    }
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(busy); i++)
        pthread_join(busy[i], NULL);
    poll_until_due();
    slm_pending_slabs_release(NULL);
    uint64_t slabs = 0;
    for (struct slm_depot *at = &busy_depot; at; at = slm_depot_shard_after(at))
        slabs += slm_depot_slabs(at);
    assert_int_equal(slabs, 0);
}

static void release_all(void)
{
    slm_pending_slabs_release(NULL);
}

static void children_inherit_what_waits(void **state)
{
    (void)state;
    make_pending(2);
    assert_child_silent(release_all);
    assert_int_equal(released(), 0);
    slm_pending_slabs_release(NULL);
    assert_int_equal(released(), 2);
}

#define pending_test(name) cmocka_unit_test_setup_teardown(name, fresh_depot, all_has_gone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        pending_test(where_nobody_reads_they_wait_for_a_look_alone),           /* before there is a reader */
        pending_test(what_became_vacant_in_a_section_goes_at_a_look_after_it), /* before there is a reader */
        pending_test(a_destructor_alone_is_due_at_once),
        pending_test(the_oldest_goes_first),
        pending_test(a_vacant_slab_is_kept_as_it_is),
        pending_test(an_open_section_holds_slabs_back),
        pending_test(a_later_section_holds_only_later_slabs),
        pending_test(polls_inside_a_section_do_not_wait),
        pending_test(type_safe_objects_need_no_destructor),
        pending_test(a_destructor_may_call_anything),
        pending_test(threads_release_side_by_side),
        pending_test(children_go_on),
        pending_test(children_inherit_what_waits),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
