/* src/percpu/percpu.h: objects with a copy for each CPU - zeroed, apart, aligned, refused - what memory they take,
 * and the vacant block that is kept. It runs on this machine and on simulated ones of 1, 64 and 512 CPUs; blocks are
 * counted from none, so most tests have children. */
#include "unit.h"

#include "os/vm.h"
#include "page/reservation.h"
#include "percpu/percpu.h"

enum { LARGEST = SLM_PERCPU_PIECE / 2 };

static char *copy(slab_percpu object, unsigned cpu)
{
    return slab_percpu_ptr(object, (int)cpu);
}

static slab_percpu make(size_t size)
{
    slab_percpu object = slm_percpu_alloc(size, 4);
    require(object);
    return object;
}

static struct slm_percpu_figures count(void)
{
    struct slm_percpu_figures figures;
    slm_percpu_count(&figures);
    return figures;
}

/* How many blocks are mapped. */
static uint64_t blocks(void)
{
    const uint64_t block_bytes = (uint64_t)slm_percpu_cpus() * SLM_PERCPU_PIECE, mapped = count().mapped_bytes;
    require(mapped % block_bytes == 0);
    return mapped / block_bytes;
}

/* -- objects ----------------------------------------------------------------------------------------------------- */

static struct object {
    slab_percpu object;
    size_t size;
    unsigned char mark;
} objects[100];

static void require_marked(const struct object *object)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++) {
        const char *bytes = copy(object->object, cpu);
        require((unsigned char)bytes[0] == (unsigned char)(object->mark + cpu));
        require(memcmp(bytes, bytes + 1, object->size - 1) == 0);
    }
}

static void make_marked(struct object *object, uint64_t *seed)
{
    const size_t align = (size_t)1 << random_below(seed, 13);
    object->size = 1 + random_below(seed, (size_t)1 << random_below(seed, 12));
    object->mark = (unsigned char)random_next(seed);
    object->object = slm_percpu_alloc(object->size, align);
    require(object->object && (uintptr_t)object->object % align == 0 && (uintptr_t)object->object % 4 == 0);
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++) {
        require(all_zero(copy(object->object, cpu), object->size));
        memset(copy(object->object, cpu), (unsigned char)(object->mark + cpu), object->size);
    }
}

static void make_or_free(struct object *object, uint64_t *seed)
{
    if (object->object) {
        require_marked(object);
        slm_percpu_free(object->object);
        object->object = NULL;
    } else
        make_marked(object, seed);
}

static void work_at_random(void)
{
    uint64_t seed = 1;
    for (unsigned turn = 0; turn < 1000; turn++) {
        make_or_free(&objects[random_below(&seed, COUNT(objects))], &seed);
    }
    for (size_t i = 0; i < COUNT(objects); i++)
        if (objects[i].object) {
            require_marked(&objects[i]);
            slm_percpu_free(objects[i].object);
        }
    require(count().objects == 0 && count().units == 0);
}

static void copies_are_zero_at_first_and_apart(void **state)
{
    (void)state;
    assert_child_silent(work_at_random);
}

static void *work_beside_others(void *number)
{
    enum { LIVE = 20 };
    struct object own[LIVE];
    uint64_t seed = (uintptr_t)number;
    memset(own, 0, sizeof own);
    for (unsigned turn = 0; turn < 10000 / slm_percpu_cpus() + 100; turn++) {
        make_or_free(&own[random_below(&seed, LIVE)], &seed);
    }
    for (size_t i = 0; i < LIVE; i++)
        slm_percpu_free(own[i].object);
    return NULL;
}

static void work_on_threads(void)
{
    on_threads(4, work_beside_others);
    require(count().objects == 0 && blocks() <= 1);
}

static void threads_have_different_objects(void **state)
{
    (void)state;
    assert_child_silent(work_on_threads);
}

static void every_size_and_alignment_is_had(void **state)
{
    (void)state;
    for (size_t align = 1; align <= slm_page_size; align *= 2) {
        errno = EDOM;
        slab_percpu object = slm_percpu_alloc(LARGEST, align);
        assert_non_null(object);
        assert_int_equal((uintptr_t)object % align, 0);
        assert_int_equal((uintptr_t)copy(object, slm_percpu_cpus() - 1) % align, 0);
        slm_percpu_free(object);
        assert_int_equal(errno, EDOM);
    }
    for (size_t size = 1; size <= 64; size++) {
        slab_percpu object = slm_percpu_alloc(size, 1);
        assert_int_equal(count().units, (size + 3) / 4);
        slm_percpu_free(object);
    }
}

static void what_cannot_be_is_einval(void **state)
{
    (void)state;
    const size_t wishes[][2] = {
        {0, 4},  {LARGEST + 1, 4},        {SIZE_MAX, 4},       {4, 0}, {4, 3}, {4, 2 * slm_page_size},
        {4, 12}, {4, SIZE_MAX / 2 + 1ul}, {SIZE_MAX, SIZE_MAX}};
    const struct slm_percpu_figures before = count();
    for (size_t i = 0; i < COUNT(wishes); i++) {
        errno = 0;
        assert_null(slm_percpu_alloc(wishes[i][0], wishes[i][1]));
        assert_int_equal(errno, EINVAL);
    }
    const struct slm_percpu_figures after = count();
    assert_memory_equal(&before, &after, sizeof before);
}

static void freeing_null_is_nothing(void **state)
{
    (void)state;
    errno = EDOM;
    slm_percpu_free(NULL);
    assert_int_equal(errno, EDOM);
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

/* Whoever does to a copy of it what it may not, here or in the library, ends the child. */
static void protect(uintptr_t object, int access, unsigned but)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        if (cpu != but)
            require(mprotect(copy((slab_percpu)object, cpu), LARGEST, access) == 0);
}

/* What is read takes no memory, where the kernel has one page of zeros for all. */
static void have_it_zeroed(void)
{
    const unsigned written = slm_percpu_cpus() / 2, none = slm_percpu_cpus();
    slab_percpu object = make(LARGEST);
    protect((uintptr_t)object + LARGEST, PROT_NONE, none); /* fresh memory is not even looked at */
    slab_percpu neighbour = make(LARGEST);
    require((uintptr_t)neighbour == (uintptr_t)object + LARGEST);
    memset(copy(object, written), 1, LARGEST);
    slm_percpu_free(object);
    protect((uintptr_t)object, PROT_READ, written); /* what nobody wrote to is looked at */
    slab_percpu again = make(LARGEST);
    require(again == object); /* the shortest run */
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        require(all_zero(copy(again, cpu), LARGEST));
    protect((uintptr_t)object, PROT_READ | PROT_WRITE, none);
    slm_percpu_free(neighbour);
    copy(again, 0)[LARGEST - 1] = 1; /* the last byte alone */
    slm_percpu_free(again);
    require(all_zero(copy(make(LARGEST), 0), LARGEST));
}

static void only_what_was_written_is_cleared(void **state)
{
    (void)state;
    assert_child_silent(have_it_zeroed);
}

/* One object that comes and goes costs no system call; a second vacant block is too much. */
static void make_blocks_vacant(void)
{
    slab_percpu fill[2], more;
    require(count().mapped_bytes == 0);
    for (unsigned i = 0; i < 3; i++) {
        more = make(1);
        require(blocks() == 1);
        slm_percpu_free(more);
        require(blocks() == 1);
    }
    for (size_t i = 0; i < COUNT(fill); i++)
        fill[i] = make(LARGEST);
    more = make(1);
    require(blocks() == 2);
    slm_percpu_free(more);
    require(blocks() == 2);
    slm_percpu_free(fill[0]);
    require(blocks() == 2);
    slm_percpu_free(fill[1]);
    require(blocks() == 1 && count().units == 0);
    memset(copy(more = make(LARGEST), 0), 1, LARGEST);
    require(blocks() == 1);
    slm_percpu_free(more);
}

static void a_vacant_block_is_kept_and_no_second_one(void **state)
{
    (void)state;
    assert_child_silent(make_blocks_vacant);
}

static void trim(void)
{
    require(!slm_percpu_trim(false) && !slm_percpu_trim(true)); /* before there is anything */
    slab_percpu object = make(1);
    require(!slm_percpu_trim(true) && blocks() == 1);
    slm_percpu_free(object);
    require(slm_percpu_trim(false) && blocks() == 1); /* it has just become vacant */
    slm_percpu_free(make(1));
    require(slm_percpu_trim(false) && blocks() == 1); /* and again */
    require(slm_percpu_trim(false) && blocks() == 0);
    require(!slm_percpu_trim(false));
    slm_percpu_free(make(1));
    require(slm_percpu_trim(true) && blocks() == 0);
    object = make(1);
    require(all_zero(copy(object, 0), 4) && !slm_percpu_trim(true));
    slm_percpu_free(object);
    slab_purge();
    require(blocks() == 0);
}

static void what_nobody_wants_goes_back(void **state)
{
    (void)state;
    assert_child_silent(trim);
}

static void count_all(void)
{
    slab_percpu some[3] = {make(1), make(100), make(LARGEST)};
    struct slm_percpu_figures figures = count();
    require(figures.objects == 3 && figures.units == 1 + 25 + LARGEST / 4);
    require(figures.metadata_bytes == 2 * 4096); /* one map, and rows */
    slm_percpu_free(some[1]);
    figures = count();
    require(figures.objects == 2 && figures.units == 1 + LARGEST / 4);
    struct slab_stats stats;
    require(slab_get_stats(&stats, sizeof stats) == 0);
    require(stats.percpu_objects == 2 && stats.percpu_bytes == 4 + LARGEST);
    require(stats.percpu_mapped_bytes == figures.mapped_bytes);
    require(stats.percpu_metadata_bytes == figures.metadata_bytes);
}

static void figures_follow(void **state)
{
    (void)state;
    assert_child_silent(count_all);
}

static void have_no_memory(void)
{
    slab_percpu object = make(LARGEST), other = make(LARGEST - 8);
    const struct slm_percpu_figures before = count();
    forbid_memory();
    errno = 0;
    require(!slm_percpu_alloc(12, 4) && errno == ENOMEM);
    const struct slm_percpu_figures after = count();
    require(memcmp(&before, &after, sizeof before) == 0);
    errno = EDOM;
    require(slm_percpu_alloc(8, 8) && errno == EDOM); /* for which there is room */
    slm_percpu_free(other);
    require(slm_percpu_alloc(12, 4) && errno == EDOM);
    slm_percpu_free(object);
}

static void have_no_memory_from_the_first(void)
{
    forbid_memory();
    for (unsigned i = 0; i < 3; i++) {
        errno = 0;
        require(!slm_percpu_alloc(1, 1) && errno == ENOMEM);
    }
    require(count().objects == 0 && count().mapped_bytes == 0);
}

static void no_memory_is_enomem(void **state)
{
    (void)state;
    assert_child_silent(have_no_memory);
    assert_child_silent(have_no_memory_from_the_first);
}

/* -- addresses --------------------------------------------------------------------------------------------------- */

static void the_range_is_ours(void **state)
{
    (void)state;
    const char *start = slm_range.percpu, *end = start + slm_range.percpu_bytes;
    slab_percpu object = slm_percpu_alloc(4, 4);
    assert_true(slm_percpu_owns((void *)object));
    assert_true(slm_percpu_owns(copy(object, 0)));
    assert_true(slm_percpu_owns(copy(object, slm_percpu_cpus() - 1) + 3));
    assert_true(slm_percpu_owns(start) && slm_percpu_owns(end - 1)); /* also where nothing is mapped */
    assert_false(slm_percpu_owns(start - 1) || slm_percpu_owns(end));
    assert_false(slm_percpu_owns(NULL) || slm_percpu_owns(&object) || slm_percpu_owns((void *)UINTPTR_MAX));
    slm_percpu_free(object);
}

static const void *wrong;

static void free_wrong(void)
{
    slm_percpu_free((slab_percpu)(uintptr_t)wrong);
}

static void assert_refused(const void *pointer, const char *what)
{
    wrong = pointer;
    assert_child_aborts(free_wrong, text("slabmalloc: slab_percpu_free(" POINTER "): %s", pointer_of(pointer), what));
}

static void what_is_no_object_is_not_freed(void **state)
{
    (void)state;
    static const char no_object[] = "no per-CPU object, or one that is free already";
    static const char no_start[] = "not the start of a per-CPU object";
    static const char a_copy[] = "a copy, not the per-CPU object";
    slab_percpu first = slm_percpu_alloc(100, 4), second = slm_percpu_alloc(100, 4);
    const char *bytes = (const char *)(uintptr_t)first;
    slm_percpu_free(second);
    assert_refused(&bytes, no_object);
    assert_refused((void *)second, no_object); /* twice */
    assert_refused((char *)(uintptr_t)second + 4, no_object);
    assert_refused(slm_range.percpu - 4, no_object);
    assert_refused(slm_range.percpu + slm_range.percpu_bytes - 4, no_object);
    assert_refused(bytes + 1, no_start);
    assert_refused(bytes + 4, no_start);
    assert_refused(bytes + 99, no_start);
    assert_refused(copy(first, 0), a_copy);
    assert_refused(copy(first, slm_percpu_cpus() - 1), a_copy);
    slm_percpu_free(first);
    slm_percpu_trim(true);
    assert_refused(bytes, no_object); /* nor is it mapped any more */
}

static void cpus_are_the_machine_s(void **state)
{
    (void)state;
    unsigned nodes, cpus;
    const char *options = getenv("SLABMALLOC_OPTIONS");
    if (options && sscanf(options, "topology=%ux%u", &nodes, &cpus) == 2)
        assert_int_equal(slm_percpu_cpus(), nodes * cpus);
    assert_true(slm_percpu_cpus() >= (unsigned)sysconf(_SC_NPROCESSORS_ONLN) || options);
    errno = EDOM;
    assert_int_equal(slm_percpu_cpus(), (unsigned)slab_percpu_cpus());
    assert_int_equal(errno, EDOM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_zero_at_first_and_apart),
        cmocka_unit_test(threads_have_different_objects),
        cmocka_unit_test(only_what_was_written_is_cleared),
        cmocka_unit_test(a_vacant_block_is_kept_and_no_second_one),
        cmocka_unit_test(what_nobody_wants_goes_back),
        cmocka_unit_test(figures_follow),
        cmocka_unit_test(no_memory_is_enomem),
        /* from here on there are blocks in this process, too */
        cmocka_unit_test(every_size_and_alignment_is_had),
        cmocka_unit_test(what_cannot_be_is_einval),
        cmocka_unit_test(freeing_null_is_nothing),
        cmocka_unit_test(the_range_is_ours),
        cmocka_unit_test(what_is_no_object_is_not_freed),
        cmocka_unit_test(cpus_are_the_machine_s),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
