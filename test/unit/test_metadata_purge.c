/* src/page/metadata.h: slm_metadata_purge gives back what has only free small pieces, and nothing else. */
#include "resident.h"
#include "unit.h"

#include "base/bits.h"
#include "page/metadata.h"
#include "page/reservation.h"

enum { PIECES = 3000 };

struct piece {
    unsigned char *bytes;
    size_t size;
    unsigned char mark;
};

static struct piece pieces[PIECES];

static void take(struct piece *piece, size_t size, unsigned char mark)
{
    *piece = (struct piece){slm_metadata_alloc(size), size, mark};
    require(piece->bytes && (uintptr_t)piece->bytes % 64 == 0);
    memset(piece->bytes, mark, size);
}

static void check(const struct piece *piece)
{
    for (size_t i = 0; i < piece->size; i++)
        require(piece->bytes[i] == piece->mark);
}

static void give(struct piece *piece)
{
    check(piece);
    slm_metadata_free(piece->bytes, piece->size);
}

static size_t any_size(unsigned i)
{
    static const size_t sizes[] = {64, 192, 512, 256, 1088, 4032, 320, 2048};
    return sizes[i % COUNT(sizes)];
}

/* How many of the pages that those pieces begin in are resident. */
static unsigned count_resident(unsigned first, unsigned end)
{
    unsigned resident = 0;
    for (unsigned i = first; i < end; i++)
        resident += is_resident(pieces[i].bytes);
    return resident;
}

/* Those in the middle are free, those at both ends are not. */
static void free_pages_go_and_others_stay(void **state)
{
    (void)state;
    for (unsigned i = 0; i < PIECES; i++)
        take(&pieces[i], any_size(i), (unsigned char)i);
    for (unsigned i = PIECES / 4; i < PIECES * 3 / 4; i++)
        give(&pieces[i]);
    assert_int_equal(count_resident(PIECES / 4, PIECES * 3 / 4), PIECES / 2);
    slm_metadata_purge();
    assert_true(count_resident(PIECES / 4, PIECES * 3 / 4) < PIECES / 50);
    for (unsigned i = 0; i < PIECES; i++)
        if (i < PIECES / 4 || i >= PIECES * 3 / 4)
            check(&pieces[i]);

    const uint64_t before = slm_reservation_metadata_bytes();
    for (unsigned i = PIECES / 4; i < PIECES * 3 / 4; i++)
        take(&pieces[i], any_size(i), (unsigned char)(i + 1));
    assert_true(slm_reservation_metadata_bytes() - before < MIB); /* what was purged is used again, but for ends */
    for (unsigned i = 0; i < PIECES; i++)
        give(&pieces[i]);
}

/* One live piece of each page keeps it. */
static void pages_in_use_stay(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        take(&pieces[i], 512, (unsigned char)i);
    for (unsigned i = 0; i < 1000; i++)
        if (i % 4 != 0)
            give(&pieces[i]);
    slm_metadata_purge();
    for (unsigned i = 0; i < 1000; i += 4)
        give(&pieces[i]);
}

static void again_and_again(void **state)
{
    (void)state;
    const uint64_t before = slm_reservation_metadata_bytes();
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < PIECES; i++)
            take(&pieces[i], any_size(i + round), (unsigned char)(i + round));
        for (unsigned i = 0; i < PIECES; i++)
            give(&pieces[i]);
        slm_metadata_purge();
    }
    assert_true(slm_reservation_metadata_bytes() - before < 5 * MIB); /* one round has 3 MiB */
}

static _Atomic bool stop;

static void *work(void *mark)
{
    struct piece own[64];
    for (unsigned turn = 0; !atomic_load(&stop) || turn == 0; turn++) {
        for (unsigned i = 0; i < COUNT(own); i++)
            take(&own[i], any_size(turn + i), (unsigned char)(uintptr_t)mark);
        for (unsigned i = 0; i < COUNT(own); i++)
            give(&own[i]);
    }
    return NULL;
}

static void *purge_often(void *nothing)
{
    for (unsigned i = 0; i < 100; i++)
        slm_metadata_purge();
    return nothing;
}

static void while_others_work(void **state)
{
    (void)state;
    pthread_t workers[3], purgers[2];
    atomic_store(&stop, false);
    for (uintptr_t i = 0; i < COUNT(workers); i++)
        assert_int_equal(pthread_create(&workers[i], NULL, work, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < COUNT(purgers); i++)
        assert_int_equal(pthread_create(&purgers[i], NULL, purge_often, NULL), 0);
    for (unsigned i = 0; i < COUNT(purgers); i++)
        pthread_join(purgers[i], NULL);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < COUNT(workers); i++)
        pthread_join(workers[i], NULL);
}

/* A child that forks in the middle of a purge has lost free pieces, no more, and purges itself. */
static void purge_in_child(void)
{
    work((void *)77);
    slm_metadata_purge();
    work((void *)78);
}

static void forks_in_between(void **state)
{
    (void)state;
    pthread_t purger;
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(pthread_create(&purger, NULL, purge_often, NULL), 0);
        in_child(purge_in_child);
        pthread_join(purger, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(free_pages_go_and_others_stay),
        cmocka_unit_test(pages_in_use_stay),
        cmocka_unit_test(again_and_again),
        cmocka_unit_test(while_others_work),
        cmocka_unit_test(forks_in_between),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
