/* src/slab/pages.h: pages of a slab go back and are remembered. Each test holds a slab that nobody else knows. */
#include "unit.h"

#include <sys/mman.h>

#include "os/topology.h"
#include "page/page_map.h"
#include "slab/key.h"
#include "slab/pages.h"

enum { MOST_OBJECTS = 65536 / 16, MOST_PAGES = 256, STEPS = 400 };

static struct slm_slab_shape shape;
static struct slm_slab *slab;
static unsigned char *out[MOST_OBJECTS]; /* each filled with its own mark */
static unsigned out_count;
static unsigned random_state = 1;

static unsigned draw(unsigned n)
{
    random_state = random_state * 1103515245 + 12345;
    return random_state / 65536 % n;
}

static void make(uint32_t size)
{
    shape = (struct slm_slab_shape){.object_size = size, .slot_offset = slm_slot_offset_of(3)};
    slm_slab_shape_fill(&shape);
    assert_non_null(slab = slm_slab_make(&shape, slm_nodes - 1, false));
    out_count = 0;
}

static unsigned char mark_of(const void *object)
{
    return (unsigned char)(slm_slab_index(slab, object) * 7 + 1);
}

static void keep(void **rounds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        memset(rounds[i], mark_of(rounds[i]), shape.object_size);
        out[out_count++] = rounds[i];
    }
}

/* As free and the depot do it. */
static void give(unsigned which)
{
    void *object = out[which];
    out[which] = out[--out_count];
    if (shape.keyed)
        slm_key_set(object, slm_key_of(object));
    require(slm_slab_give(slab, &object, 1, "free", "test") == 1);
    slm_slab_count(slab, 1);
}

static void take_some(unsigned n)
{
    void *rounds[MOST_OBJECTS];
    keep(rounds, slab->span.some_purged ? slm_pages_take(slab, n, rounds) : slm_slab_take(slab, n, rounds));
}

static unsigned count_purged(void)
{
    unsigned purged = 0;
    for (size_t page = 0; page < slm_span_bytes(&slab->span) / slm_page_size; page++)
        purged += slm_pages_is_purged(slab, page);
    return purged;
}

/* Free objects on resident pages have what free left in them, unless they were never in use. */
static bool has_key(const char *object)
{
    const size_t page = (size_t)(object + sizeof(void *) - slm_slab_start(slab)) / slm_page_size;
    return slm_pages_is_purged(slab, page) || slm_key_is_set(object, slm_key_of(object));
}

static void check(bool all_were_used)
{
    unsigned char resident[MOST_PAGES];
    const size_t bytes = slm_span_bytes(&slab->span);
    slm_slab_check(slab);
    slm_pages_check(slab);
    require(mincore(slm_slab_start(slab), bytes, resident) == 0);
    for (size_t page = 0; page < bytes / slm_page_size; page++)
        require(!slm_pages_is_purged(slab, page) || !(resident[page] & 1));
    for (unsigned i = 0; i < out_count; i++)
        for (uint32_t at = 0; at < shape.object_size; at++)
            require(out[i][at] == mark_of(out[i]));
    for (unsigned i = 0; all_were_used && shape.keyed && i < slab->objects; i++) {
        const char *object = slm_slab_start(slab) + (size_t)i * shape.object_size;
        require(!slm_slab_has(slab, object) || has_key(object));
    }
    require(slab->span.some_purged == (count_purged() > 0));
    const size_t normal = slm_slab_map_offset(&shape);
    require(slm_page_map_slot_offset(slm_slab_start(slab)) ==
            (slab->span.some_purged && normal != 0 ? SLM_MAP_HIDDEN : normal));
}

static void release(void)
{
    while (out_count > 0)
        give(0);
    slm_slab_release(slab);
}

static void step(void)
{
    switch (draw(4)) {
    case 0:
        take_some(1 + draw(slab->objects));
        break;
    case 1:
        if (slab->span.some_purged)
            slm_pages_touch(slab, &shape);
        break;
    case 2:
        for (unsigned n = draw(out_count + 1); n > 0; n--)
            give(draw(out_count));
        break;
    default:
        slm_pages_purge(slab);
        require(slm_pages_purge(slab) == 0);
    }
}

static void pages_come_and_go(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {16, 24, 48, 112, 1024, 1032, 3072, 4096, 6144, 20480, 32768, 49152, 100000};
    for (unsigned i = 0; i < COUNT(sizes); i++) {
        make(sizes[i]);
        take_some(slab->objects);
        for (unsigned n = 0; n < STEPS; n++) {
            step();
            check(true);
        }
        release();
    }
}

static void a_refill_takes_from_resident_pages(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    make(1024);
    take_some(64);
    for (unsigned i = 64; i-- > 0;)
        if (i != 17)
            give(i);
    assert_int_equal(slm_pages_purge(slab), 15 * 4096);
    void *rounds[64];
    assert_int_equal(slm_pages_take(slab, 64, rounds), 3); /* beside the live one */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(slm_slab_index(slab, rounds[i]) / 4, 17 / 4);
    keep(rounds, 3);
    assert_int_equal(slm_pages_take(slab, 64, rounds), 0);
    const uint64_t touched = load_relaxed(&slm_pages_touched_bytes);
    slm_pages_touch(slab, &shape);
    assert_int_equal(load_relaxed(&slm_pages_touched_bytes) - touched, 4096);
    assert_int_equal(count_purged(), 14);
    assert_int_equal(slm_pages_take(slab, 64, rounds), 4);
    assert_ptr_equal(rounds[0], slm_slab_start(slab));
    keep(rounds, 4);
    check(true);
    release();
}

static void with_the_last_purged_page_hot_paths_are_back(void **state)
{
    (void)state;
    make(1024);
    take_some(64);
    while (out_count > 0)
        give(0);
    slm_pages_purge(slab);
    check(true);
    assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab)), SLM_MAP_HIDDEN);
    while (slab->span.some_purged)
        slm_pages_touch(slab, &shape);
    check(true);
    assert_int_equal(slm_page_map_slot_offset(slm_slab_start(slab)), slm_slab_map_offset(&shape));
    release();
}

static void what_is_locked_stays(void **state)
{
    (void)state;
    make(4096);
    take_some(slab->objects);
    give(0);
    char *start = slm_slab_start(slab);
    if (mlock(start, SLM_GRANULE) == 0) {
        slm_pages_purge(slab);
        check(false); /* a kernel from 5.18 on gives it back all the same */
        munlock(start, SLM_GRANULE);
    }
    release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_and_go),
        cmocka_unit_test(a_refill_takes_from_resident_pages),
        cmocka_unit_test(with_the_last_purged_page_hot_paths_are_back),
        cmocka_unit_test(what_is_locked_stays),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
