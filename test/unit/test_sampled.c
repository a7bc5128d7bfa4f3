/* src/heap/sampled.h: whatever call of malloc's allocates can be sampled, and gives what it always gives;
 * whatever call frees ends the sample; the record follows an object that is resized; figures are exact all the
 * while; and slabs of sampled objects go back as others do. Named caches are in test_sampled_caches.c, intervals in
 * test_sampled_pace.c; misuse is in test/misuse. */
#include "sampled.h"

#include <malloc.h>

/* C23's, which libc's headers may not have. */
void free_sized(void *object, size_t n);
void free_aligned_sized(void *object, size_t alignment, size_t n);

/* It is sampled, and so it is recorded. */
static void check_sampled(void *object, size_t asked)
{
    require(object != NULL && is_sampled(object));
    const struct slm_sample *sample = slm_samples_at(index_of(object));
    require(sample->asked == asked && sample->given >= asked && sample->given <= malloc_usable_size(object));
    require(sample->mean == MEAN && sample->thread == (uint32_t)gettid());
    if (sample->cache == SLM_SAMPLE_LARGE)
        require(slm_large_of(object) != NULL);
    else
        require(slm_cache_of_object(object)->id >= sample->cache);
    memset(object, 0x5a, sample->given);
}

/* -- calls --------------------------------------------------------------------------------------------------- */

static const size_t sizes[] = {1,    7,    8,    16,    24,    100,   1000,   1024,
                               1025, 3000, 8192, 20000, 32768, 32769, 100000, 5000000};

static void free_it(void *object)
{
    const uint32_t index = index_of(object);
    free(object);
    check_ended(index);
}

static void calls_of_malloc(void **state)
{
    (void)state;
    const unsigned before = count_live();
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < COUNT(sizes); i++) {
            const size_t n = sizes[i];
            void *object;
            due();
            check_sampled(object = malloc(n), n);
            free_it(object);
            due();
            object = calloc(1, n);
            require(all_zero(object, malloc_usable_size(object)));
            check_sampled(object, n);
            free_it(object);
            due();
            check_sampled(object = realloc(NULL, n), n);
            free_it(object);
            due();
            check_sampled(object = slab_alloc_node(n, -1), n);
            free_it(object);
            due();
            check_sampled(object = slab_alloc_node(n, 0), n);
            require(slm_node_of(object) == 0 || n > SLM_SMALL_MAX);
            free_it(object);
            for (size_t alignment = 16; alignment <= 1 << 20; alignment *= 16) {
                due();
                require(posix_memalign(&object, alignment, n) == 0 && (uintptr_t)object % alignment == 0);
                check_sampled(object, n);
                free_it(object);
                due();
                check_sampled(object = aligned_alloc(alignment, n), n);
                require((uintptr_t)object % alignment == 0);
                free_it(object);
            }
        }
    }
    assert_int_equal(count_live(), before);
}

/* Where the page map leads to the slow path, sizes are still told, and sized frees still checked. */
static void frees_with_a_size(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        void *object = malloc(sizes[i]);
        const uint32_t index = index_of(object);
        require(malloc_usable_size(object) >= sizes[i]);
        free_sized(object, sizes[i]);
        check_ended(index);
        due();
        object = aligned_alloc(64, sizes[i]);
        const uint32_t other = index_of(object);
        free_aligned_sized(object, 64, sizes[i]);
        check_ended(other);
    }
}

static void errno_is_kept(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        errno = 4711;
        void *object = malloc(sizes[i]);
        require(errno == 4711 && is_sampled(object));
        free(object);
        require(errno == 4711);
    }
}

/* -- realloc ------------------------------------------------------------------------------------------------- */

static void small_ones_are_resized(void **state)
{
    (void)state;
    due();
    char *object = malloc(100), *same;
    const uint32_t index = index_of(object);
    memset(object, 7, 100);
    const size_t own = slm_class_size[slm_class_of_size(100)]; /* not of the class that it comes from */
    require((same = realloc(object, own)) == object);
    require(slm_samples_at(index)->asked == own && slm_samples_at(index)->weighed == 100);
    require((same = realloc(object, 70)) == object && slm_samples_at(index)->asked == 70);
    require(slm_samples_at(index)->given == own);
    require((same = realloc(object, own)) == object); /* as one that is not sampled, which would not be drawn anew */
    require((same = realloc(object, 70)) == object);

    set_mean(MEAN);
    char *moved = realloc(object, own + 1);
    require(moved != object && index_of(moved) == 0 && moved[69] == 7);
    check_ended(index);
    due();
    object = realloc(moved, 9000);
    check_sampled(object, 9000);
    due();
    moved = realloc(object, 9300); /* it grows by little: it gets more than that, for the next time */
    check_sampled(moved, 9300);
    require(slm_samples_at(index_of(moved))->given == slm_class_size[slm_class_of_size(9300 + 9300 / 4)]);
    set_mean(MEAN);
    require((same = realloc(moved, 9300 + 9300 / 4)) == moved);
    due();
    object = realloc(moved, 200000);
    check_sampled(object, 200000);
    due();
    moved = realloc(object, 100);
    check_sampled(moved, 100);
    const uint32_t last = index_of(moved);
    require(realloc(moved, 0) == NULL);
    check_ended(last);
}

static uint32_t resize(char **object, size_t n, bool is_due)
{
    if (is_due)
        due();
    else
        set_mean(MEAN);
    *object = realloc(*object, n);
    require(*object != NULL);
    const uint32_t index = index_of(*object);
    if (index)
        require(is_sampled(*object) && slm_samples_at(index)->asked == n);
    return index;
}

/* Up to twice as long, or half, it is the same object, wherever it goes; beyond that it is decided anew. */
static void large_ones_are_resized(void **state)
{
    (void)state;
    for (size_t size = 100000; size < 100 << 20; size *= 8) {
        due();
        char *object = malloc(size);
        check_sampled(object, size);
        const uint32_t index = index_of(object);
        for (size_t n = size; n <= size * 2; n += size / 4)
            require(resize(&object, n, true) == index && slm_samples_at(index)->weighed == size);
        require(resize(&object, size / 2, true) == index);
        require(resize(&object, size * 2 + 2, false) == 0);
        check_ended(index);
        require(resize(&object, size * 4 + 5, true) == 0); /* not yet */
        const uint32_t second = resize(&object, size * 4 + 6, true);
        require(second != 0 && slm_samples_at(second)->weighed == size * 4 + 6);
        free(object);
        check_ended(second);
    }
}

/* What moves by its pages, and by a copy, with a neighbour in the way. */
static void large_ones_move(void **state)
{
    (void)state;
    due();
    char *object = malloc(3 << 20);
    const uint32_t index = index_of(object);
    memset(object, 1, 3 << 20);
    char *volatile neighbours[20];
    unsigned moves = 0;
    for (unsigned i = 0; i < COUNT(neighbours); i++) {
        const char *before = object;
        neighbours[i] = malloc(100000);
        require(resize(&object, (3 << 20) + i * 100000, false) == index);
        moves += object != before;
        require(object[0] == 1 && object[(3 << 20) - 1] == 1);
    }
    require(moves > 0);
    free(object);
    check_ended(index);
    for (unsigned i = 0; i < COUNT(neighbours); i++)
        free(neighbours[i]);
}

/* A buffer that a thread keeps is no sample while it is free; and may be one again. */
static void kept_ones(void **state)
{
    (void)state;
    void *volatile base = malloc(64 << 20);
    for (unsigned i = 0; i < 100; i++) {
        due();
        void *object = malloc(100000);
        check_sampled(object, 100000);
        free_it(object);
        set_mean(MEAN);
        require((object = malloc(99000)) != NULL && index_of(object) == 0);
        free(object);
    }
    free(base);
}

/* -- retiring ------------------------------------------------------------------------------------------------ */

static sem_t entered, leave_now;

static void *read_for_long(void *nothing)
{
    slab_epoch_enter();
    sem_post(&entered);
    while (sem_wait(&leave_now) != 0)
        ;
    slab_epoch_leave();
    return nothing;
}

static void retire_all(void)
{
    void *objects[COUNT(sizes)];
    pthread_t reader;
    require(sem_init(&entered, 0, 0) == 0 && sem_init(&leave_now, 0, 0) == 0);
    require(pthread_create(&reader, NULL, read_for_long, NULL) == 0 && sem_wait(&entered) == 0);
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        objects[i] = malloc(sizes[i]);
        require(is_sampled(objects[i]));
        memset(objects[i], 0x77, sizes[i]);
        const uint32_t index = index_of(objects[i]);
        slab_free_deferred(objects[i]);
        check_ended(index);
    }
    for (unsigned i = 0; i < 1000; i++) { /* nobody else gets them meanwhile */
        due();
        void *object = malloc(sizes[i % COUNT(sizes)]);
        for (unsigned j = 0; j < COUNT(sizes); j++)
            require(object != objects[j]);
        free(object);
    }
    for (unsigned i = 0; i < COUNT(sizes); i++)
        require(all_zero(memchr(objects[i], 0x77, 1), 0) && *(char *)objects[i] == 0x77);
    sem_post(&leave_now);
    require(pthread_join(reader, NULL) == 0);
    slab_epoch_barrier();
    for (unsigned i = 0; i < 3000; i++) /* as ordinary rounds they may come and go now, and still be sampled */
        free(malloc(sizes[i % COUNT(sizes)]));
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        check_sampled(objects[i] = malloc(sizes[i]), sizes[i]);
    }
    for (unsigned i = 0; i < COUNT(sizes); i++)
        free_it(objects[i]);
}

static void retired_ones(void **state)
{
    (void)state;
    assert_child_silent(retire_all);
}

/* -- other threads ------------------------------------------------------------------------------------------- */

static void *volatile passed_on[COUNT(sizes)];

static void *allocate_and_end(void *nothing)
{
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        check_sampled(passed_on[i] = malloc(sizes[i]), sizes[i]);
    }
    return nothing;
}

static void *free_them(void *nothing)
{
    for (unsigned i = 0; i < COUNT(sizes); i++)
        free_it(passed_on[i]);
    return nothing;
}

/* By a thread whose objects they are not, that has never allocated, after the one that has is gone. */
static void other_threads_free(void **state)
{
    (void)state;
    const unsigned before = count_live();
    for (unsigned i = 0; i < 20; i++) {
        on_threads(1, allocate_and_end);
        for (unsigned j = 0; j < COUNT(sizes); j++)
            require(is_sampled(passed_on[j]));
        on_threads(1, free_them);
    }
    assert_int_equal(count_live(), before);
}

static void *new_threads_look(void *nothing)
{
    void *object = malloc(100); /* the very first of a thread's life */
    require(is_sampled(object));
    free(object);
    return nothing;
}

static void a_thread_begins(void **state)
{
    (void)state;
    store_relaxed(&slm_settings.sample_bytes, 1);
    on_threads(4, new_threads_look);
}

/* -- nodes --------------------------------------------------------------------------------------------------- */

static void on_its_node(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    for (unsigned on = 0; on < slm_nodes; on++) {
        go_to(on);
        for (unsigned i = 0; i < COUNT(sizes); i++) {
            due();
            void *object = malloc(sizes[i]);
            check_sampled(object, sizes[i]);
            require(slm_node_of(object) == on || sizes[i] > SLM_SMALL_MAX);
            go_to((on + 1) % slm_nodes); /* a remote one is found, too */
            free_it(object);
            go_to(on);
        }
    }
    go_to(0);
}

/* -- figures ------------------------------------------------------------------------------------------------- */

static uint64_t in_use(void)
{
    slab_stats stats;
    require(slab_get_stats(&stats, sizeof stats) == 0);
    return stats.live_bytes;
}

/* A sampled object takes more than its owner is told. */
static size_t taken_by(const void *object)
{
    const struct slm_cache *cache = object ? slm_cache_of_object(object) : NULL;
    return cache ? cache->shape.object_size : malloc_usable_size((void *)object);
}

/* Random work, of which about one in five is sampled: what is in use is what was not freed, to the byte. */
static void figures_are_exact(void **state)
{
    (void)state;
    enum { SLOTS = 400 };
    static void *held[SLOTS];
    uint64_t random = 6, wanted = in_use(), sampled = 0;
    store_relaxed(&slm_settings.sample_bytes, 10000);
    slm_tls.sample_left = 0;
    for (unsigned i = 0; i < 60000; i++) {
        const size_t at = random_below(&random, SLOTS),
                     n = random_below(&random, (size_t)1 << random_below(&random, 18)) + 1;
        if (held[at] && i % 3 == 0) {
            wanted -= taken_by(held[at]);
            held[at] = realloc(held[at], n);
        } else {
            wanted -= taken_by(held[at]);
            free(held[at]);
            held[at] = i % 5 == 0 ? calloc(1, n) : malloc(n);
        }
        require(held[at] != NULL);
        wanted += taken_by(held[at]);
        sampled += is_sampled(held[at]);
        if (i % 1000 == 0)
            assert_int_equal(in_use(), wanted);
    }
    assert_true(sampled > 5000);
    for (unsigned at = 0; at < SLOTS; at++) {
        wanted -= taken_by(held[at]);
        free(held[at]);
        held[at] = NULL;
    }
    assert_int_equal(in_use(), wanted);
}

/* -- giving back --------------------------------------------------------------------------------------------- */

static uint64_t sampled_slabs(void)
{
    uint64_t slabs = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = load_relaxed(&slm_class_caches[class]);
        if (!cache)
            continue;
        slm_for_each_depot (depot, cache)
            slabs += slm_depot_is_sampled(depot) ? slm_depot_slabs(depot) : 0;
    }
    return slabs;
}

static void slabs_go_back(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    static void *many[MANY];
    malloc_trim(0);
    const uint64_t before = sampled_slabs();
    sample_all();
    for (unsigned i = 0; i < MANY; i++)
        many[i] = malloc(100 + i % 10 * 100);
    const uint64_t full = sampled_slabs();
    assert_true(full >= before + 100);
    for (unsigned i = 0; i < MANY; i++)
        free(many[i]);
    malloc_trim(0);
    assert_true(sampled_slabs() <= before);
}

/* -- fork ---------------------------------------------------------------------------------------------------- */

static void *before_fork[COUNT(sizes)];

static void go_on(void)
{
    const unsigned live = count_live();
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        require(is_sampled(before_fork[i]));
        free_it(before_fork[i]);
        due();
        check_sampled(before_fork[i] = malloc(sizes[i]), sizes[i]);
    }
    require(count_live() == live);
}

static void a_child_keeps_them(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        due();
        before_fork[i] = malloc(sizes[i]);
    }
    assert_child_silent(go_on);
    for (unsigned i = 0; i < COUNT(sizes); i++)
        free_it(before_fork[i]);
}

/* -- no memory ----------------------------------------------------------------------------------------------- */

/* Where there is none for a sample, the call succeeds as long as it would without. */
static void without_memory(void)
{
    forbid_memory();
    for (unsigned i = 0; i < 1000000; i++) {
        if (i % 2 == 0)
            due();
        void *object = malloc(sizes[i % 12]);
        if (!object)
            return;
        memset(object, 1, sizes[i % 12]);
    }
}

static void no_memory(void **state)
{
    (void)state;
    assert_child_silent(without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(calls_of_malloc, fresh),
        cmocka_unit_test_setup(frees_with_a_size, fresh),
        cmocka_unit_test_setup(errno_is_kept, fresh),
        cmocka_unit_test_setup(small_ones_are_resized, fresh),
        cmocka_unit_test_setup(large_ones_are_resized, fresh),
        cmocka_unit_test_setup(large_ones_move, fresh),
        cmocka_unit_test_setup(kept_ones, fresh),
        cmocka_unit_test_setup(retired_ones, fresh),
        cmocka_unit_test_setup(other_threads_free, fresh),
        cmocka_unit_test_setup(a_thread_begins, fresh),
        cmocka_unit_test_setup(on_its_node, fresh),
        cmocka_unit_test_setup(figures_are_exact, fresh),
        cmocka_unit_test_setup(slabs_go_back, fresh),
        cmocka_unit_test_setup(a_child_keeps_them, fresh),
        cmocka_unit_test_setup(no_memory, fresh),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
