/* src/slab/guard.h: where objects lie, what can be accessed, the pattern, the ring, and what is refused. */
#include "heap_check.h"
#include "unit.h"

#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "slab/guard.h"

static struct slm_guard *make(size_t n, size_t alignment)
{
    struct slm_guard *guard = slm_guard_make(n, alignment, slm_area_for_large(0));
    require(guard != NULL);
    return guard;
}

static void give(struct slm_guard *guard)
{
    require(slm_guard_end(guard, SLM_SPAN_GUARDED_FREE));
    slm_guard_put_away(guard, false);
}

static char *data_end(const struct slm_guard *guard)
{
    return slm_span_start(&guard->large.span) + slm_guard_data(guard) + guard->data_bytes;
}

static bool accessible(const void *address)
{
    return slm_sys_readable((const void *)((uintptr_t)address & ~(uintptr_t)7));
}

static const size_t sizes[] = {0, 1, 15, 16, 40, 4000, 4096, 4097, 32768, 65536, 100000, MIB - 1, MIB};

static void objects_end_at_an_inaccessible_page(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= SLM_GRANULE; alignment *= 4)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            struct slm_guard *guard = make(sizes[i], alignment);
            char *object = guard->object, *end = object + guard->large.usable;
            assert_int_equal(guard->large.usable, sizes[i] == 0 ? 1 : sizes[i]);
            assert_true((uintptr_t)object % alignment == 0);
            assert_true((size_t)(data_end(guard) - end) < slm_max(alignment, 1));
            assert_true(accessible(object) && accessible(end - 1));
            assert_false(accessible(data_end(guard)));
            assert_false(accessible((char *)((uintptr_t)object & ~(slm_page_size - 1)) - 1));
            give(guard);
        }
    slm_guard_drain();
}

static void each_address_leads_to_its_place(void **state)
{
    (void)state;
    struct slm_guard *guard = make(200000, 16);
    char *start = slm_span_start(&guard->large.span);
    for (size_t at = 0; at < slm_span_bytes(&guard->large.span); at += slm_page_size)
        assert_ptr_equal(slm_guard_at(start + at), guard);
    assert_true(slm_guard_at(start + slm_span_bytes(&guard->large.span)) != guard);
    assert_true(slm_guard_at(start - 1) != guard);
    give(guard);
    assert_ptr_equal(slm_guard_at(start + SLM_GRANULE), guard); /* while it is in the ring */
    slm_guard_drain();
    assert_null(slm_guard_at(start + SLM_GRANULE));
    char *volatile other = malloc(40);
    assert_null(slm_guard_at(other));
    assert_null(slm_guard_at(NULL));
    assert_null(slm_guard_at((void *)UINTPTR_MAX));
    free(other);
}

static void what_is_beside_an_object_is_seen(void **state)
{
    (void)state;
    struct slm_guard *guard = make(40, 16);
    char *end = guard->object + 40;
    memset(guard->object, 0x5a, 40);
    assert_null(slm_guard_damage(guard));
    for (char *at = end; at < data_end(guard); at++) {
        (*at)++;
        assert_non_null(strstr(slm_guard_damage(guard), "behind"));
        (*at)--;
    }
    for (char *at = guard->object - 1; at >= data_end(guard) - guard->data_bytes; at -= 7) {
        (*at)++;
        assert_non_null(strstr(slm_guard_damage(guard), "before"));
        (*at)--;
    }
    assert_null(slm_guard_damage(guard));
    give(guard);
    slm_guard_drain();
}

static void who_ends_it_first_has_it(void **state)
{
    (void)state;
    struct slm_guard *guard = make(40, 16);
    assert_true(slm_guard_end(guard, SLM_SPAN_GUARDED_RETIRED));
    assert_false(slm_guard_end(guard, SLM_SPAN_GUARDED_FREE));
    guard->object[0] = 1; /* until it is put away */
    slm_guard_put_away(guard, false);
    assert_int_equal(slm_guard_kind(guard), SLM_SPAN_GUARDED_FREE);
    assert_false(accessible(guard->object));
    slm_guard_drain();
}

/* The oldest is used first, and none before so many were freed. */
static void addresses_are_used_again_late(void **state)
{
    (void)state;
    static struct slm_guard *order[SLM_GUARDS_FREED];
    slm_guard_drain();
    for (unsigned i = 0; i < SLM_GUARDS_FREED; i++) {
        give(order[i] = make(100, 16));
        assert_false(accessible(order[i]->object));
    }
    for (unsigned i = 0; i < SLM_GUARDS_FREED; i++) {
        const size_t n = i % 2 == 0 ? 100 : 9000; /* another layout */
        struct slm_guard *guard = make(n, 16);
        assert_ptr_equal(guard, order[i]);
        memset(guard->object, 1, n);
        assert_null(slm_guard_damage(guard));
        give(guard);
    }
    slm_guard_drain();
    for (unsigned i = 0; i < SLM_GUARDS_FREED; i++)
        assert_null(slm_guard_at(order[i]->object));
}

static void the_ring_is_bounded_in_bytes(void **state)
{
    (void)state;
    enum { MANY = 40 };
    unsigned there = 0;
    struct slm_guard *guards[MANY];
    for (unsigned i = 0; i < MANY; i++)
        guards[i] = make(MIB, 16);
    for (unsigned i = 0; i < MANY; i++)
        give(guards[i]);
    for (unsigned i = 0; i < MANY; i++)
        there += slm_guard_at(guards[i]->object) == guards[i];
    assert_true(there >= 4 && there <= 6);
    assert_false(accessible(guards[MANY - 1]->object));
    slm_guard_drain();
}

/* What has no RAM is not dirty, and what has some is given back. */
static void what_leaves_the_ring_is_clean(void **state)
{
    (void)state;
    enum { MANY = SLM_GUARDS_FREED + 100 };
    static struct slm_guard *guards[MANY];
    slm_guard_drain();
    slm_span_purge(0, SLM_PURGE_TRIM);
    const uint64_t dirty = slm_span_dirty_bytes(), charged = load_relaxed(&slm_charge.bytes);
    for (unsigned i = 0; i < MANY; i++)
        guards[i] = make(100, 16);
    char *const object = guards[0]->object;
    for (unsigned i = 0; i < MANY; i++)
        give(guards[i]);
    assert_null(slm_guard_at(object));
    assert_in_range(slm_span_dirty_bytes(), 0, dirty);
    assert_int_equal(*(volatile char *)object, 0);
    slm_guard_drain();
    assert_in_range(slm_span_dirty_bytes(), 0, dirty);
    assert_in_range(load_relaxed(&slm_charge.bytes), 0, charged);
}

static void sums_are_as_before(void **state)
{
    (void)state;
    slm_guard_drain();
    slm_span_purge(0, SLM_PURGE_TRIM);
    const uint64_t charged = load_relaxed(&slm_charge.bytes), used = slm_demand_used();
    struct slm_guard *one = make(10, 16), *other = make(100000, 16);
    assert_int_equal(slm_demand_used() - used, slm_align_up(10, slm_page_size) + slm_align_up(100000, slm_page_size));
    give(one);
    give(other);
    slm_guard_drain();
    assert_int_equal(slm_demand_used(), used);
    assert_in_range(load_relaxed(&slm_charge.bytes), 0, charged);
    assert_int_equal(load_relaxed(&slm_guards_live), 0);
}

static void handlers_need_no_lock(void **state)
{
    (void)state;
    struct slm_guard *guard = make(40, 16);
    assert_true(slm_guard_end(guard, SLM_SPAN_GUARDED_FREE));
    slm_guard_put_away(guard, true);
    assert_false(accessible(guard->object));
    give(make(40, 16)); /* enters those of handlers, too */
    slm_guard_drain();
    assert_null(slm_guard_at(guard->object));
}

static void too_many_are_refused(void)
{
    static struct slm_guard *guards[SLM_GUARDS_LIVE];
    for (unsigned i = 0; i < SLM_GUARDS_LIVE; i++)
        guards[i] = make(40, 16);
    require(!slm_guard_make(40, 16, 0));
    give(guards[17]);
    require(slm_guard_make(40, 16, 0) != NULL);
    require(!slm_guard_make(40, 16, 0));
}

static void what_is_too_much_is_refused(void **state)
{
    (void)state;
    assert_null(slm_guard_make(MIB + 1, 16, 0));
    assert_null(slm_guard_make(SIZE_MAX, 16, 0));
    assert_null(slm_guard_make(40, 2 * SLM_GRANULE, 0));
    assert_child_silent(too_many_are_refused);
}

static void near_a_limit(void)
{
    struct slm_guard *guard = make(40, 16);
    slm_charge_limit(load_relaxed(&slm_charge.bytes), UINT64_MAX, 1 << 20);
    require(!slm_guard_make(40, 16, 0));
    give(guard);
}

static void near_a_sandbox(void)
{
    struct slm_guard *guard = make(40, 16);
    slm_background_forbid();
    require(!slm_guard_make(40, 16, 0));
    give(guard);
    require(accessible(guard->object) && slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE);
    slm_guard_drain();
}

static void limits_and_sandboxes(void **state)
{
    (void)state;
    assert_child_silent(near_a_limit);
    assert_child_silent(near_a_sandbox);
}

enum { THREADS = 4, ROUNDS = 3000, EACH = 50 };

static void *make_and_give(void *number)
{
    uint64_t random = (uintptr_t)number;
    struct slm_guard *mine[EACH] = {0};
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct slm_guard **at = &mine[random_below(&random, EACH)];
        if (*at) {
            require(!slm_guard_damage(*at) && *(*at)->object == (char)(uintptr_t)number);
            give(*at);
        }
        *at = make(random_below(&random, 10000), 16);
        *(*at)->object = (char)(uintptr_t)number;
    }
    for (unsigned i = 0; i < EACH; i++)
        if (mine[i])
            give(mine[i]);
    return NULL;
}

static void threads_share_the_ring(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, make_and_give, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    slm_guard_drain();
    assert_int_equal(load_relaxed(&slm_guards_live), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_end_at_an_inaccessible_page),
        cmocka_unit_test(each_address_leads_to_its_place),
        cmocka_unit_test(what_is_beside_an_object_is_seen),
        cmocka_unit_test(who_ends_it_first_has_it),
        cmocka_unit_test(addresses_are_used_again_late),
        cmocka_unit_test(the_ring_is_bounded_in_bytes),
        cmocka_unit_test(what_leaves_the_ring_is_clean),
        cmocka_unit_test(sums_are_as_before),
        cmocka_unit_test(handlers_need_no_lock),
        cmocka_unit_test(what_is_too_much_is_refused),
        cmocka_unit_test(limits_and_sandboxes),
        cmocka_unit_test(threads_share_the_ring),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
