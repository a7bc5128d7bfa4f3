/* src/heap/slow.h and resize.h, with the hot paths in alloc.h and free.h: from malloc to the kernel and back. */
#include "unit.h"

#include "process/give_back.h"
#include "heap_check.h"

#include "base/bits.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/resize.h"
#include "heap/cache_object.h"
#include "nodes.h"
#include "os/topology.h"
#include "page/free_spans.h"
#include "slab/large.h"

/* From nothing to beyond the largest class, every edge of a class among them. */
static size_t next_size(size_t n)
{
    return n < 1200 ? n + 1 : n < 40000 ? n + n % 17 + 16 : n * 3 / 2;
}

static void every_size_is_served(void **state)
{
    (void)state;
    for (size_t n = 0; n < 3 * MIB; n = next_size(n)) {
        char *object = slm_alloc(n);
        assert_non_null(object);
        assert_int_equal((uintptr_t)object % 16, 0);
        const size_t usable = slm_usable(object);
        assert_true(usable >= n && usable > 0);
        assert_true(n < 128 || usable <= n + n / 4 + 4096);
        memset(object, 1, usable);
        slm_free(object);
    }
    check_heap();
}

static void classes_and_their_neighbours(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        for (size_t n = slm_class_size[class] - 1u; n <= slm_class_size[class] + 1u; n++) {
            void *object = slm_alloc(n);
            const size_t usable = slm_usable(object);
            if (n <= slm_class_size[class])
                assert_int_equal(usable, slm_class_size[class]);
            else
                assert_true(usable > slm_class_size[class]);
            slm_free(object);
        }
}

static void nothing_is_freed_and_measured(void **state)
{
    (void)state;
    slm_free(NULL);
    assert_int_equal(slm_usable(NULL), 0);
    assert_null(slm_resize(slm_alloc(10), 0));
}

static void cleared_memory_is_zero(void **state)
{
    (void)state;
    for (size_t n = 0; n < 3 * MIB; n = next_size(n)) {
        char *object = slm_alloc(n);
        memset(object, 0xff, slm_usable(object));
        slm_free(object);
        object = slm_zeroed_alloc(n, 1);
        assert_true(all_zero(object, n));
        slm_free(object);
    }
}

static void products_are_checked(void **state)
{
    (void)state;
    static const size_t factors[][2] = {{SIZE_MAX, 2},     {2, SIZE_MAX},    {(size_t)1 << 32, (size_t)1 << 32},
                                        {SIZE_MAX / 2, 3}, {PTRDIFF_MAX, 1}, {SIZE_MAX, 1}};
    for (size_t i = 0; i < COUNT(factors); i++) {
        errno = 0;
        assert_null(slm_zeroed_alloc(factors[i][0], factors[i][1]));
        assert_int_equal(errno, ENOMEM);
    }
}

static void alignments_are_kept(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= 16 * MIB; alignment *= 2)
        for (size_t n = 0; n < 200000; n = n * 2 + 7) {
            char *object = slm_aligned_alloc(alignment, n);
            assert_non_null(object);
            assert_int_equal((uintptr_t)object % alignment, 0);
            assert_true(slm_usable(object) >= n);
            memset(object, 1, n);
            slm_free(object);
        }
    check_heap();
}

static void fill(char *object, size_t n)
{
    for (size_t i = 0; i < n; i++)
        object[i] = (char)(i ^ i >> 8);
}

static void check(const char *object, size_t n)
{
    for (size_t i = 0; i < n; i++)
        require(object[i] == (char)(i ^ i >> 8));
}

static void resizing_keeps_what_fits(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,    1,     16,    17,    64,    100,   300,    1000, 1024,   1025,
                                   4096, 10000, 32768, 32769, 65536, 65537, 200000, MIB,  3 * MIB};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t k = 1; k < COUNT(sizes); k++) {
            char *object = slm_alloc(sizes[i]);
            fill(object, sizes[i]);
            object = slm_resize(object, sizes[k]);
            assert_non_null(object);
            assert_true(slm_usable(object) >= sizes[k]);
            check(object, slm_min(sizes[i], sizes[k]));
            memset(object, 1, slm_usable(object));
            slm_free(object);
        }
    char *object = slm_resize(NULL, 100);
    assert_non_null(object);
    slm_free(object);
    check_heap();
}

static void growing_to_the_usable_size_stays(void **state)
{
    (void)state;
    for (size_t n = 0; n < 3 * MIB; n = next_size(n)) {
        char *object = slm_alloc(n);
        assert_ptr_equal(slm_resize(object, slm_usable(object)), object);
        slm_free(object);
    }
}

static void errno_is_kept_or_enomem(void **state)
{
    (void)state;
    static const size_t wishes[] = {(size_t)PTRDIFF_MAX + 1, SIZE_MAX, SIZE_MAX - 65536, PTRDIFF_MAX, 1ul << 46};
    char *object = slm_alloc(100), *large = slm_alloc(100000);
    for (size_t i = 0; i < COUNT(wishes); i++) {
        errno = 0;
        assert_null(slm_alloc(wishes[i]));
        assert_int_equal(errno, ENOMEM);
        errno = 0;
        assert_null(slm_aligned_alloc(64, wishes[i]));
        assert_int_equal(errno, ENOMEM);
        errno = 0;
        assert_null(slm_resize(object, wishes[i]));
        assert_int_equal(errno, ENOMEM);
        errno = 0;
        assert_null(slm_resize(large, wishes[i]));
        assert_int_equal(errno, ENOMEM);
    }
    errno = 0;
    assert_null(slm_aligned_alloc((size_t)1 << 63, 1));
    assert_int_equal(errno, ENOMEM);
    errno = EDOM;
    for (size_t n = 0; n < 3 * MIB; n = next_size(n))
        slm_free(slm_resize(slm_zeroed_alloc(1, n), n + 30000));
    slm_free(object);
    slm_free(large);
    slm_free(NULL);
    slm_give_back_all();
    assert_int_equal(errno, EDOM);
}

static void *misused;

static void free_misused(void)
{
    slm_free(misused);
}

static void resize_misused(void)
{
    slm_resize(misused, 10);
}

static void measure_misused(void)
{
    slm_usable(misused);
}

/* All three calls refuse the pointer in the same words. */
static void assert_refused(void *pointer, const char *what)
{
    static const struct {
        void (*run)(void);
        const char *name;
    } calls[] = {{free_misused, "free"}, {resize_misused, "realloc"}, {measure_misused, "malloc_usable_size"}};
    misused = pointer;
    for (size_t i = 0; i < COUNT(calls); i++)
        assert_child_aborts(calls[i].run,
                            text("slabmalloc: %s(" POINTER "): %s", calls[i].name, pointer_of(pointer), what));
}

static void foreign_pointers_are_refused(void **state)
{
    (void)state;
    static char data;
    char stack, *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_refused(&stack, "not allocated by this library");
    assert_refused(&data, "not allocated by this library");
    assert_refused(mapped, "not allocated by this library");
    assert_refused((void *)8, "not allocated by this library");
    assert_refused((void *)UINTPTR_MAX, "not allocated by this library");
    assert_refused(slm_range.descriptors, "not allocated by this library");
    assert_refused(slm_range.heap - 1, "not allocated by this library");
    munmap(mapped, 4096);
}

static void large_objects_are_refused_but_by_their_start(void **state)
{
    (void)state;
    char *large = slm_alloc(MIB);
    assert_refused(large + 16, "no object, or one that is free already");
    assert_refused(large + SLM_GRANULE, "no object, or one that is free already");
    slm_free(large);
    assert_refused(large, "no object, or one that is free already");
}

/* In every class, at once. */
static void pointers_into_small_objects_are_refused(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class += 5) {
        const uint32_t size = slm_class_size[class];
        const uint32_t inside[] = {1, 8, size / 2, size - 1};
        char *object = slm_alloc(size);
        for (size_t i = 0; i < COUNT(inside); i++) {
            static char what[64];
            snprintf(what, sizeof what, "not the start of an object of %u bytes", size);
            assert_refused(object + inside[i], what);
        }
        slm_free(object);
    }
}

static void free_small_objects_are_refused(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class += 5) {
        const uint32_t size = slm_class_size[class];
        misused = slm_alloc(size);
        slm_free(misused);
        assert_child_aborts(free_misused, text("slabmalloc: free(" POINTER "): double free of an object of %u bytes",
                                               pointer_of(misused), size));
        assert_child_aborts(
            resize_misused,
            text("slabmalloc: realloc(" POINTER "): use of a freed object of %u bytes", pointer_of(misused), size));
        assert_child_aborts(measure_misused,
                            text("slabmalloc: malloc_usable_size(" POINTER "): use of a freed object of %u bytes",
                                 pointer_of(misused), size));
    }
}

/* What has the key in its second word by accident is freed like any other, and not lost. */
static void objects_that_imitate_the_key_are_served(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const uint32_t size = slm_class_size[class];
        if (size < 16)
            continue;
        void *object = slm_alloc(size);
        slm_key_set(object, slm_key_of(object));
        assert_int_equal(slm_usable(object), size);
        assert_ptr_equal(slm_resize(object, size), object);
        slm_free(object);
        assert_ptr_equal(slm_alloc(size), object);
        assert_false(slm_key_is_set(object, slm_key_of(object)));
        slm_free(object);
    }
    check_heap();
}

/* -- what lies behind a slab's last object, where it has no key: free takes it, malloc must not give it ---------- */

static char *rest;
static uint32_t size; /* of the objects before it */
static void *many[400];

static void alloc_many(void)
{
    for (size_t i = 0; i < COUNT(many); i++)
        require((many[i] = slm_alloc(size)) != NULL);
}

static void pop_rest(void)
{
    slm_free(rest);
    slm_alloc(size);
}

/* It is the top round of a magazine when that is full, and of long objects the one below the top then. */
static void pop_rest_from_previous(void)
{
    const struct slm_slot *slot = slm_slot_of(slm_tls.self, slm_class_of_size(size));
    size_t i = 0;
    alloc_many();
    while (slm_slot_room(slot) != 1)
        slm_free(many[i++]);
    slm_free(rest);
    slm_free(many[i]);
    const bool is_long = size > SLM_TABLE_MAX;
    require(is_long || (slot->previous && slot->previous->rounds[slot->previous->count - 1] == rest));
    require(slm_alloc(size) == many[i]);
    slm_alloc(size);
}

/* It is in a magazine that no check has looked at. */
static void put_rest_into_stock(void)
{
    struct slm_magazine *magazine = slm_magazine_make(SLM_MAGAZINE_ROUNDS_MAX);
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(size));
    struct slm_depot *depot = slm_cache_depot(cache, slm_node_of(rest));
    require(magazine != NULL);
    alloc_many();
    magazine->count = 20;
    memcpy(magazine->rounds, many, magazine->count * sizeof *many);
    magazine->rounds[magazine->count - 1] = rest;
    store_relaxed(&depot->exchanges, 1);
    slm_magazine_put(cache, depot->node, &magazine, UINT64_MAX);
    require(load_relaxed(&depot->stock_rounds) > 0);
}

static void pop_rest_from_stock(void)
{
    put_rest_into_stock();
    alloc_many();
}

static void pop_rest_from_other_node(void)
{
    const unsigned node = slm_node_of(rest);
    put_rest_into_stock();
    go_to((node + 1) % slm_nodes);
    for (size_t i = 0; i < COUNT(many); i++)
        require(slm_alloc_node(size, (int)node) != NULL);
}

static void assert_rests_seen(void (*run)(void))
{
    unsigned classes = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        size = slm_class_size[class];
        const size_t left = SLM_GRANULE % size;
        if (left == 0 || (SLM_GRANULE - left) % 4096 != 0)
            continue;
        void *object = slm_alloc(size);
        rest = (char *)((uintptr_t)object & ~(SLM_GRANULE - 1)) + SLM_GRANULE - left;
        assert_child_aborts(run, text("slabmalloc: free(" POINTER "): not the start of an object of %u bytes",
                                      pointer_of(rest), size));
        slm_free(object);
        classes++;
    }
    assert_true(classes > 10);
}

static void rests_that_were_freed_are_not_handed_out(void **state)
{
    (void)state;
    assert_rests_seen(pop_rest);
    assert_rests_seen(pop_rest_from_previous);
    assert_rests_seen(pop_rest_from_stock);
}

static void nor_are_those_of_other_nodes(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    assert_rests_seen(pop_rest_from_other_node);
}

/* -- much memory, and none --------------------------------------------------------------------------------------- */

static void purging_gives_the_peak_back(void **state)
{
    (void)state;
    static void *objects[20000];
    slm_settings.dirty_bytes = UINT64_MAX / 2; /* nothing goes at once */
    for (size_t i = 0; i < COUNT(objects); i++)
        memset(objects[i] = slm_alloc(1 + i % 2000), 1, 1 + i % 2000);
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_free(objects[i]);
    struct slm_span_figures before = {0};
    slm_span_add_figures(slm_area_for_slabs(0), &before); /* what was due in between has gone by itself */
    assert_true(before.purged_bytes + slm_give_back_all() > 10 * MIB);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    assert_int_equal(slm_give_back_all(), 0);
    check_heap();
}

static void live_without_memory(void)
{
    static void *objects[100000];
    size_t got = 0;
    const struct rlimit none = {1, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &none);
    for (unsigned turn = 0; turn < 20; turn++) {
        while (got < COUNT(objects) && (objects[got] = slm_alloc(1 + got * 77 % 30000)))
            got++;
        require(got < COUNT(objects) && errno == ENOMEM);
        check_heap();
        for (size_t i = got / 2; i < got; i++)
            slm_free(objects[i]);
        got /= 2;
        void *object = slm_alloc(100);
        require(object || got == 0);
        slm_free(object);
    }
}

static void a_process_without_memory_goes_on(void **state)
{
    (void)state;
    assert_child_silent(live_without_memory);
}

/* Threads that hand their objects on: a slot is swapped, and what comes out is checked and freed by another one. */
struct filled {
    size_t n;
    char bytes[];
};

static _Atomic(struct filled *) slots[512];

static struct filled *make_filled(uint64_t *seed)
{
    const size_t n = random_below(seed, random_below(seed, 64) ? 3000 : 300000);
    struct filled *made = slm_alloc(sizeof *made + n);
    require(made != NULL);
    made->n = n;
    fill(made->bytes, n);
    return made;
}

static void *exchange(void *number)
{
    uint64_t seed = (uintptr_t)number + 1;
    for (unsigned turn = 0; turn < 10000; turn++) {
        struct filled *made = make_filled(&seed);
        if (turn % 8 == 0) {
            check(made->bytes, made->n);
            made = slm_resize(made, sizeof *made + made->n / 2);
            made->n /= 2;
        }
        struct filled *got = atomic_exchange(&slots[random_below(&seed, COUNT(slots))], made);
        if (got) {
            check(got->bytes, got->n);
            slm_free(got);
        }
        if (turn % 2500 == 0)
            slm_give_back_all();
    }
    return NULL;
}

static void threads_hand_objects_on(void **state)
{
    (void)state;
    on_threads(6, exchange);
    check_heap();
    for (size_t i = 0; i < COUNT(slots); i++) {
        struct filled *left = load_relaxed(&slots[i]);
        if (left)
            check(left->bytes, left->n);
        slm_free(left);
    }
    slm_give_back_all();
    check_heap();
}

static void *elsewhere[3], *all[4000];
static pthread_barrier_t freed, tried;

static void *free_elsewhere(void *nothing)
{
    slm_free(slm_alloc(1)); /* a thread without a past frees straight into slabs */
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        slm_free(elsewhere[i]);
    pthread_barrier_wait(&freed);
    pthread_barrier_wait(&tried);
    return nothing;
}

static int by_address(const void *one, const void *other)
{
    const uintptr_t a = *(const uintptr_t *)one, b = *(const uintptr_t *)other;
    return (a > b) - (a < b);
}

/* It must not look into another thread's magazine, where it would find it. (Of smaller sizes the object would be
 * in its slab: see slm_partial_share.) */
static void a_second_free_without_a_lock_may_do_nothing(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_barrier_init(&freed, NULL, 2);
    pthread_barrier_init(&tried, NULL, 2);
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        elsewhere[i] = slm_alloc(80);
    pthread_create(&thread, NULL, free_elsewhere, NULL);
    pthread_barrier_wait(&freed);
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        slm_free_nolock(elsewhere[i]);
    pthread_barrier_wait(&tried);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < COUNT(all); i++)
        all[i] = slm_alloc(80);
    qsort(all, COUNT(all), sizeof *all, by_address);
    for (size_t i = 1; i < COUNT(all); i++)
        assert_ptr_not_equal(all[i - 1], all[i]);
    for (size_t i = 0; i < COUNT(all); i++)
        slm_free(all[i]);
    slm_give_back_all();
    check_heap();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_is_served),
        cmocka_unit_test(classes_and_their_neighbours),
        cmocka_unit_test(nothing_is_freed_and_measured),
        cmocka_unit_test(cleared_memory_is_zero),
        cmocka_unit_test(products_are_checked),
        cmocka_unit_test(alignments_are_kept),
        cmocka_unit_test(resizing_keeps_what_fits),
        cmocka_unit_test(growing_to_the_usable_size_stays),
        cmocka_unit_test(errno_is_kept_or_enomem),
        cmocka_unit_test(foreign_pointers_are_refused),
        cmocka_unit_test(large_objects_are_refused_but_by_their_start),
        cmocka_unit_test(pointers_into_small_objects_are_refused),
        cmocka_unit_test(free_small_objects_are_refused),
        cmocka_unit_test(objects_that_imitate_the_key_are_served),
        cmocka_unit_test(rests_that_were_freed_are_not_handed_out),
        cmocka_unit_test(nor_are_those_of_other_nodes),
        cmocka_unit_test(purging_gives_the_peak_back),
        cmocka_unit_test(a_process_without_memory_goes_on),
        cmocka_unit_test(threads_hand_objects_on),
        cmocka_unit_test(a_second_free_without_a_lock_may_do_nothing),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
