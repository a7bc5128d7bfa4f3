/* src/depot/cache_name.h: names and the caches that they lead to: what merges, which numbers caches have, how names
 * and numbers are used again, and what a destroyed cache waits for. */
#include "unit.h"

#include "caches.h"
#include "page/page_map.h"
#include "page/reservation.h"

enum { ASIDE = 256, LINE = 64 };

static const struct slab_cache_attr apart = {.flags = SLAB_NO_MERGE};
static const struct slab_cache_attr accounted = {.flags = SLAB_ACCOUNT};

static void nothing(void *object, void *context)
{
    (void)object;
    (void)context;
}

/* As slab_cache_destroy does for one that nothing is out of. */
static void destroyed(struct slab_cache *name)
{
    struct slm_cache *cache = cache_of(name);
    slm_cache_lock();
    if (cache->names > 1) {
        slm_cache_name_drop(name);
    } else {
        slm_cache_name_destroy(name, 0);
        cache->attended = false;
        slm_cache_name_sweep(0);
    }
    slm_cache_unlock();
}

static void settle_and_sweep(struct slm_cache *cache, uint32_t recalled)
{
    slm_cache_lock();
    cache->attended = false;
    slm_cache_name_sweep(recalled);
    slm_cache_unlock();
}

static struct slm_cache *destroyed_only(struct slab_cache *name, uint32_t recall)
{
    struct slm_cache *cache = cache_of(name);
    slm_cache_lock();
    slm_cache_name_destroy(name, recall);
    slm_cache_unlock();
    return cache;
}

static bool is_listed(const struct slm_cache *cache)
{
    return slm_cache_of(cache->id) == cache;
}

/* -- merging ----------------------------------------------------------------------------------------------------- */

static void alike_caches_are_one(void **state)
{
    (void)state;
    struct slab_cache *first = named("first", 200, NULL), *second = named("second", 193, NULL);
    struct slab_cache *zero = named("zero", 200, &(struct slab_cache_attr){.flags = SLAB_ZERO});
    struct slab_cache *aligned = named("aligned", 200, &(struct slab_cache_attr){.align = 8});
    struct slm_cache *cache = cache_of(first);
    assert_ptr_equal(cache_of(second), cache);
    assert_ptr_equal(cache_of(zero), cache);
    assert_ptr_equal(cache_of(aligned), cache);
    assert_int_equal(cache->names, 4);
    assert_ptr_equal(cache->first_name, first);
    assert_string_equal(slm_cache_own(cache)->name, "first");
    assert_true(zero->zero && !first->zero);
    assert_int_equal(zero->alloc_slot_offset, 0);
    assert_int_equal(zero->free_slot_offset, cache->shape.slot_offset);
    destroyed(first);
    assert_ptr_equal(cache->first_name, second); /* the oldest that is left */
    destroyed(aligned);
    destroyed(second);
    assert_ptr_equal(cache->first_name, zero);
    assert_int_equal(cache->names, 1);
    assert_string_equal(slm_cache_own(cache)->name, "first"); /* it keeps its name */
    destroyed(zero);
}

/* In whatever order they come. */
static void each_reason_keeps_apart(void **state)
{
    (void)state;
    static const struct slab_cache_attr reasons[] = {
        {.flags = SLAB_NO_MERGE}, {.flags = SLAB_TYPESAFE_BY_EPOCH}, {.flags = SLAB_ACCOUNT}, {.ctor = nothing},
        {.dtor = nothing},        {.limit_bytes = 1 << 20},          {.magazine_rounds = 10}, {.align = 32},
    };
    struct slab_cache *before = named("before", 1600, NULL), *names[2 * COUNT(reasons)];
    for (size_t i = 0; i < COUNT(names); i++) {
        names[i] = named("apart", 1600, &reasons[i / 2]);
        for (size_t k = 0; k < i; k++)
            assert_int_equal(cache_of(names[i]) == cache_of(names[k]), reasons[i / 2].align != 0 && i / 2 == k / 2);
        assert_ptr_not_equal(cache_of(names[i]), cache_of(before));
    }
    struct slab_cache *after = named("after", 1600, NULL);
    assert_ptr_equal(cache_of(after), cache_of(before));
    for (size_t i = 0; i < COUNT(names); i++)
        destroyed(names[i]);
    destroyed(before);
    destroyed(after);
}

static void sizes_are_rounded_to_the_alignment(void **state)
{
    (void)state;
    static const struct {
        size_t size, align, rounded;
        unsigned flags;
    } cases[] = {
        {1, 0, 8, 0},
        {8, 0, 8, 0},
        {12, 0, 16, 0},
        {24, 0, 24, 0},
        {40, 16, 48, 0},
        {48, 0, 48, 0},
        {100, 64, 128, 0},
        {100, 4096, 4096, 0},
        {7, 1, 8, 0},
        {1 << 20, 0, 1 << 20, 0},
        {16, 0, 16, 1},
        {17, 0, 32, 1},
        {20, 0, 32, 1},
        {32, 0, 32, 1},
        {33, 0, 64, 1},
        {65, 0, 128, 1},
        {3, 0, 8, 1},
        {100, 256, 256, 1},
        {1, 1 << 20, 1 << 20, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct slab_cache_attr attr = {.align = cases[i].align,
                                             .flags = cases[i].flags ? SLAB_CACHELINE_ALIGN : 0};
        struct slab_cache *name = named("rounded", cases[i].size, &attr);
        const struct slm_slab_shape *shape = &cache_of(name)->shape;
        assert_int_equal(shape->object_size, cases[i].rounded);
        if (cases[i].align > SLM_GRANULE)
            assert_int_equal(shape->alignment, cases[i].align / SLM_GRANULE);
        assert_true(shape->objects >= 1 &&
                    (size_t)shape->granules * SLM_GRANULE >= (size_t)shape->objects * shape->object_size);
        assert_int_equal(slm_page_map_size(shape->slot_offset), cases[i].rounded);
        destroyed(name);
    }
}

static void names_are_copied(void **state)
{
    (void)state;
    char text_of_name[100];
    memset(text_of_name, 'x', sizeof text_of_name - 1);
    text_of_name[sizeof text_of_name - 1] = 0;
    struct slab_cache *name = named(text_of_name, 100, &apart);
    memset(text_of_name, 'y', 10);
    assert_int_equal(strlen(name->name), 63);
    assert_int_equal(name->name[0], 'x');
    assert_string_equal(slm_cache_own(cache_of(name))->name, name->name);
    destroyed(name);
}

static void what_was_asked_for_is_set(void **state)
{
    (void)state;
    int context;
    const struct slab_cache_attr attr = {.ctor = nothing,
                                         .dtor = nothing,
                                         .context = &context,
                                         .flags = SLAB_TYPESAFE_BY_EPOCH,
                                         .magazine_rounds = 33,
                                         .limit_bytes = 1050};
    struct slab_cache *name = named("all", 100, &attr);
    struct slm_cache *cache = cache_of(name);
    const struct slm_object_hooks *life = cache->shape.hooks;
    assert_true(life && life->constructor == nothing && life->destructor == nothing && life->typesafe);
    assert_ptr_equal(life->context, &context);
    assert_int_equal(load_relaxed(&cache->fixed_rounds), 33);
    assert_int_equal(load_relaxed(&cache->most_rounds), 1); /* a small limit has small magazines */
    assert_int_equal(load_relaxed(&cache->start_rounds), 1);
    assert_ptr_equal(cache->shape.limit, &slm_cache_own(cache)->limit);
    assert_int_equal(slm_cache_own(cache)->limit.objects, 1050 / cache->shape.object_size);
    assert_int_equal(slm_cache_own(cache)->limit.bytes, 1050);
    destroyed(name);
    name = named("none", 100, &apart); /* in the same memory */
    assert_ptr_equal(cache_of(name), cache);
    assert_null(cache->shape.hooks);
    assert_null(cache->shape.limit);
    assert_int_equal(load_relaxed(&cache->fixed_rounds), 0);
    assert_int_equal(cache->shape.alignment, 0);
    destroyed(name);
}

/* -- numbers ----------------------------------------------------------------------------------------------------- */

static void a_number_s_place_is_its_objects(void **state)
{
    (void)state;
    struct slab_cache *name = named("plain", 100, &apart);
    struct slm_cache *cache = cache_of(name);
    assert_true(cache->id >= SLM_NAMED_FIRST && cache->id < SLM_CACHE_IDS);
    assert_int_equal(cache->shape.slot_offset, slm_slot_offset_of(cache->id));
    assert_int_equal(name->alloc_slot_offset, cache->shape.slot_offset);
    assert_int_equal(name->free_slot_offset, cache->shape.slot_offset);
    assert_int_equal(name->marked_slot_offset, 0);
    assert_ptr_equal(slm_cache_of(cache->id), cache);
    destroyed(name);
    assert_false(is_listed(cache));
}

/* Accounted ones are like others; a limited one's pops are marked, and zeroed objects take the slow path. */
static void slow_allocations_have_no_slot_in_their_name(void **state)
{
    (void)state;
    const struct slab_cache_attr limits = {.limit_bytes = 1000}, zeroes = {.flags = SLAB_ZERO, .limit_bytes = 1000};
    struct slab_cache *counted = named("counted", 100, &accounted), *limited = named("limited", 100, &limits);
    struct slab_cache *zeroed = named("zeroed", 100, &zeroes);
    assert_int_equal(counted->marked_slot_offset, 0);
    assert_int_equal(limited->marked_slot_offset, cache_of(limited)->shape.slot_offset);
    assert_int_equal(zeroed->marked_slot_offset, 0);
    assert_int_equal(counted->alloc_slot_offset, cache_of(counted)->shape.slot_offset);
    assert_int_equal(limited->alloc_slot_offset, 0);
    assert_int_equal(zeroed->alloc_slot_offset, 0);
    assert_int_equal(limited->free_slot_offset, cache_of(limited)->shape.slot_offset);
    assert_int_equal(zeroed->free_slot_offset, cache_of(zeroed)->shape.slot_offset);
    destroyed(counted);
    destroyed(limited);
    destroyed(zeroed);
}

static void numbers_are_used_again_the_lowest_first(void **state)
{
    (void)state;
    struct slab_cache *names[6];
    for (size_t i = 0; i < COUNT(names); i++)
        names[i] = named("six", 100, &apart);
    const uint32_t first = cache_of(names[0])->id;
    for (size_t i = 0; i < COUNT(names); i++)
        assert_int_equal(cache_of(names[i])->id, first + i);
    destroyed(names[4]);
    destroyed(names[1]);
    names[1] = named("again", 100, &accounted);
    names[4] = named("again", 100, &apart);
    assert_int_equal(cache_of(names[1])->id, first + 1);
    assert_int_equal(cache_of(names[4])->id, first + 4);
    for (size_t i = 0; i < COUNT(names); i++)
        destroyed(names[i]);
}

static struct slab_cache *many[SLM_CACHE_IDS - SLM_NAMED_FIRST + 1];

static void exhaust_numbers(void)
{
    size_t n = 0;
    errno = 0;
    while (n < COUNT(many) && (many[n] = named("many", 64, &apart)))
        n++;
    require(n == COUNT(many) - 1 && n >= 10000 && errno == ENOMEM);
    struct slab_cache *merged = named("merges", 64, NULL);
    require(!merged); /* there is none yet to merge with */
    destroyed(many[9000]);
    require((merged = named("merges", 64, NULL)) != NULL);
    struct slab_cache *too = named("too", 64, NULL); /* and now there is */
    require(too && cache_of(too) == cache_of(merged));
    require(!named("none left", 64, &apart));
}

static void numbers_run_out(void **state)
{
    (void)state;
    assert_child_silent(exhaust_numbers);
}

/* -- names that were destroyed ----------------------------------------------------------------------------------- */

static void a_destroyed_name_leads_nowhere(void **state)
{
    (void)state;
    struct slab_cache *name = named("gone", 100, &accounted);
    destroyed(name);
    assert_null(load_relaxed(&name->cache));
    assert_int_equal(name->alloc_slot_offset, 0);
    assert_int_equal(name->free_slot_offset, SLM_SLOT_OFFSET_NEVER);
    assert_string_equal(name->name, "gone"); /* for messages */
}

static void a_name_stays_aside_for_256_more(void **state)
{
    (void)state;
    struct slab_cache *name = named("aside", 100, &apart);
    destroyed(name);
    for (unsigned i = 0; i < ASIDE; i++) {
        struct slab_cache *other = named("other", 100, &apart);
        assert_ptr_not_equal(other, name);
        destroyed(other);
    }
    bool came_back = false;
    for (unsigned i = 0; i < 2 * ASIDE; i++) {
        struct slab_cache *other = named("other", 100, &apart);
        came_back |= other == name;
        destroyed(other);
    }
    assert_true(came_back);
}

/* A creation that fails is no destruction. */
static void fail_to_create(void)
{
    size_t n = 0;
    while (n < COUNT(many) && (many[n] = named("many", 64, &apart)))
        n++;
    for (unsigned i = 0; i < ASIDE; i++) /* the aside are as many as there may be */
        destroyed(many[i]);
    for (unsigned i = 0; i < ASIDE; i++)
        require((many[i] = named("again", 64, &apart)) != NULL);
    struct slab_cache *name = many[1000];
    destroyed(name);
    struct slab_cache *last = named("last", 64, &apart);
    require(last && last != name);
    for (unsigned i = 0; i < ASIDE; i++)
        require(!named("none left", 64, &apart));
    destroyed(many[0]);
    require(named("another", 64, &apart) != name); /* one destruction after its own */
}

static void failing_creations_do_not_bring_names_back(void **state)
{
    (void)state;
    assert_child_silent(fail_to_create);
}

static void caches_that_come_and_go_cost_no_memory(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < 5000; i++) {
        const struct slab_cache_attr *attrs[] = {NULL, &apart, &accounted};
        struct slab_cache *name = named("brief", 100 + i % 7 * 50, attrs[i % 3]);
        assert_non_null(name);
        destroyed(name);
        if (i == 1000)
            bytes = slm_reservation_metadata_bytes();
    }
    assert_int_equal(slm_reservation_metadata_bytes(), bytes);
}

/* -- what a destroyed cache waits for ---------------------------------------------------------------------------- */

static void it_waits_until_it_is_settled(void **state)
{
    (void)state;
    struct slab_cache *name = named("held", 712, NULL);
    struct slm_cache *cache = destroyed_only(name, 0);
    assert_true(slm_cache_name_some_leave());
    assert_null(cache->first_name);
    assert_int_equal(cache->names, 0);
    slm_cache_lock();
    slm_cache_name_sweep(UINT32_MAX);
    slm_cache_unlock();
    assert_true(is_listed(cache));
    struct slab_cache *alike = named("alike", 712, NULL); /* is no name of one that is leaving */
    assert_ptr_not_equal(cache_of(alike), cache);
    assert_true(slm_cache_name_some_leave());
    settle_and_sweep(cache, 0);
    assert_false(slm_cache_name_some_leave());
    assert_false(is_listed(cache));
    destroyed(alike);
}

static void it_waits_for_a_recall(void **state)
{
    (void)state;
    struct slm_cache *cache = destroyed_only(named("recalled", 720, &apart), 7);
    struct slm_cache *other = destroyed_only(named("not recalled", 720, &apart), 0);
    settle_and_sweep(other, 6);
    settle_and_sweep(cache, 6);
    assert_true(is_listed(cache) && slm_cache_name_some_leave());
    assert_false(is_listed(other));
    settle_and_sweep(cache, 7);
    assert_false(is_listed(cache) || slm_cache_name_some_leave());
}

static void it_waits_for_its_slabs(void **state)
{
    (void)state;
    struct slab_cache *name = named("slabs", 728, &apart);
    struct slm_cache *cache = cache_of(name);
    struct slm_depot *depot = slm_cache_depot(cache, slm_nodes - 1);
    void *object;
    assert_int_equal(slm_depot_fill(depot, &object, 1), 1);
    destroyed_only(name, 0);
    settle_and_sweep(cache, 0);
    assert_true(is_listed(cache)); /* an object is out */
    slm_depot_give(&object, 1, "free");
    settle_and_sweep(cache, 0);
    assert_true(is_listed(cache)); /* a slab is kept */
    slm_depot_trim(depot, true);
    settle_and_sweep(cache, 0);
    assert_false(is_listed(cache));
    name = named("again", 728, &apart); /* the same memory, and its depots are as new */
    assert_ptr_equal(cache_of(name), cache);
    assert_int_equal(slm_cache_slabs(cache), 0);
    assert_int_equal(load_relaxed(&slm_cache_depot(cache, slm_nodes - 1)->slabs_made), 0);
    destroyed(name);
}

/* -- visiting ---------------------------------------------------------------------------------------------------- */

static struct slab_cache *next_of(struct slab_cache *after)
{
    slm_cache_lock();
    struct slab_cache *next = slm_cache_name_next(after);
    slm_cache_unlock();
    return next;
}

static struct slab_cache *behind_classes(void)
{
    struct slab_cache *at = NULL;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        at = next_of(at);
        assert_non_null(at);
        assert_string_equal(at->name, text("size-%u", slm_class_size[class]));
        assert_ptr_equal(cache_of(at), slm_class_cache(class));
        assert_null(cache_of(at)->first_name);
    }
    return at;
}

static void classes_come_first_then_the_oldest(void **state)
{
    (void)state;
    struct slab_cache *first = named("a", 100, NULL), *second = named("b", 100, NULL), *third = named("c", 40, NULL);
    for (unsigned turn = 0; turn < 2; turn++) {
        struct slab_cache *at = next_of(behind_classes());
        assert_ptr_equal(at, first);
        at = next_of(at);
        assert_ptr_equal(at, second);
        at = next_of(at);
        assert_ptr_equal(at, third);
        assert_null(next_of(at));
    }
    assert_int_equal(first->pins + second->pins + third->pins, 0);
    destroyed(first);
    destroyed(second);
    destroyed(third);
    assert_null(next_of(behind_classes()));
}

static void a_visitor_finds_its_way_from_a_destroyed_name(void **state)
{
    (void)state;
    struct slab_cache *names[4];
    for (size_t i = 0; i < COUNT(names); i++)
        names[i] = named("visited", 100, NULL);
    struct slab_cache *at = next_of(behind_classes());
    assert_ptr_equal(at, names[0]);
    destroyed(names[1]); /* left out, and aside at once */
    destroyed(names[0]);
    struct slab_cache *later = named("later", 100, NULL);
    struct slab_cache *other = next_of(behind_classes()); /* another visitor does not see the destroyed */
    assert_ptr_equal(other, names[2]);
    for (unsigned i = 0; i < 2 * ASIDE; i++) { /* where one stands, the name is not given out anew */
        struct slab_cache *brief = named("brief", 100, &apart);
        assert_ptr_not_equal(brief, names[0]);
        destroyed(brief);
    }
    at = next_of(at);
    assert_ptr_equal(at, names[2]);
    assert_int_equal(at->pins, 2);
    slm_cache_lock();
    slm_cache_name_unpin(other);
    slm_cache_unlock();
    at = next_of(at);
    assert_ptr_equal(at, names[3]);
    at = next_of(at);
    assert_ptr_equal(at, later);
    assert_null(next_of(at));
    destroyed(names[2]);
    destroyed(names[3]);
    destroyed(later);
}

static void create_without_memory(void)
{
    forbid_memory();
    size_t n = 0;
    while (n < COUNT(many) && (many[n] = named("many", 64, &apart)))
        n++;
    require(n > 0 && n < COUNT(many) && errno == ENOMEM);
    destroyed(many[0]);
    struct slab_cache *name = NULL;
    for (unsigned i = 0; !name && i <= ASIDE; i++) { /* with its memory, once a name is free */
        if (i > 0)
            destroyed(many[i]);
        name = named("again", 64, &apart);
    }
    require(name != NULL);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(create_without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alike_caches_are_one),
        cmocka_unit_test(each_reason_keeps_apart),
        cmocka_unit_test(sizes_are_rounded_to_the_alignment),
        cmocka_unit_test(names_are_copied),
        cmocka_unit_test(what_was_asked_for_is_set),
        cmocka_unit_test(a_number_s_place_is_its_objects),
        cmocka_unit_test(slow_allocations_have_no_slot_in_their_name),
        cmocka_unit_test(numbers_are_used_again_the_lowest_first),
        cmocka_unit_test(numbers_run_out),
        cmocka_unit_test(a_destroyed_name_leads_nowhere),
        cmocka_unit_test(a_name_stays_aside_for_256_more),
        cmocka_unit_test(failing_creations_do_not_bring_names_back),
        cmocka_unit_test(caches_that_come_and_go_cost_no_memory),
        cmocka_unit_test(it_waits_until_it_is_settled),
        cmocka_unit_test(it_waits_for_a_recall),
        cmocka_unit_test(it_waits_for_its_slabs),
        cmocka_unit_test(classes_come_first_then_the_oldest),
        cmocka_unit_test(a_visitor_finds_its_way_from_a_destroyed_name),
        cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
