/* src/page/metadata.h: the allocator's own memory. */
#include "unit.h"
#include "machine.h"

#include "base/atomic.h"
#include "base/bits.h"
#include "page/metadata.h"
#include "page/reservation.h"

enum { PIECES = 4000, THREADS = 4 };

struct piece {
    unsigned char *bytes;
    size_t size;
    unsigned char mark;
};

static void take(struct piece *piece, size_t size, unsigned char mark)
{
    *piece = (struct piece){slm_metadata_alloc(size), size, mark};
    require(piece->bytes && (uintptr_t)piece->bytes % 64 == 0);
    memset(piece->bytes, mark, size);
}

static void give(struct piece *piece)
{
    for (size_t i = 0; i < piece->size; i++)
        require(piece->bytes[i] == piece->mark);
    slm_metadata_free(piece->bytes, piece->size);
    piece->bytes = NULL;
}

static void pieces_of_all_sizes_are_apart(void **state)
{
    (void)state;
    static struct piece pieces[1024];
    size_t n = 0;
    for (size_t size = 8; size <= SLM_METADATA_MAX; size += size < 2048 ? 8 : size / 64, n++)
        take(&pieces[n], size, (unsigned char)n);
    while (n > 0)
        give(&pieces[--n]);
}

static void what_was_freed_is_used_again(void **state)
{
    (void)state;
    slm_metadata_free(slm_metadata_alloc(SLM_METADATA_MAX), SLM_METADATA_MAX);
    const uint64_t before = slm_reservation_metadata_bytes();
    for (unsigned i = 0; i < 10000; i++) /* of sizes that are rounded to the same */
        slm_metadata_free(slm_metadata_alloc(SLM_METADATA_MAX), SLM_METADATA_MAX - i % 64);
    assert_int_equal(slm_reservation_metadata_bytes(), before);
}

/* Whoever frees it: else what one node's threads make for those of another would pile up there. Threads that ask here
 * are on node 0. */
static void a_piece_goes_back_to_its_node(void **state)
{
    (void)state;
    if (slm_nodes < 2 || !slm_topology_is_simulated()) {
        print_message("for simulated machines with several nodes\n");
        skip();
    }
    static const size_t sizes[] = {128, SLM_METADATA_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *far = slm_reservation_metadata(1, SLM_METADATA_MAX), *near = slm_metadata_alloc(sizes[i]);
        require(far && near);
        assert_int_equal(slm_reservation_metadata_node(near), 0);
        slm_metadata_free(near, sizes[i]);
        slm_metadata_free(far, sizes[i]);
        void *again = slm_metadata_alloc(sizes[i]);
        assert_ptr_equal(again, near);
        slm_metadata_free(again, sizes[i]);
    }
}

enum { AT_ONCE = 100, TRADES = 1000 };

static void *traded[AT_ONCE];
static pthread_barrier_t trade;

static void *free_traded(void *nothing)
{
    for (unsigned turn = 0; turn < TRADES; turn++) {
        pthread_barrier_wait(&trade);
        for (unsigned i = 0; i < AT_ONCE; i++)
            slm_metadata_free(traded[i], 256);
        pthread_barrier_wait(&trade);
    }
    return nothing;
}

/* Allocated here, freed by a thread that may be on another node. */
static void what_others_free_is_used_again(void **state)
{
    (void)state;
    pthread_t thread;
    uint64_t before = 0;
    assert_int_equal(pthread_barrier_init(&trade, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, free_traded, NULL), 0);
    for (unsigned turn = 0; turn < TRADES; turn++) {
        for (unsigned i = 0; i < AT_ONCE; i++)
            require((traded[i] = slm_metadata_alloc(256)) != NULL);
        if (turn == 0)
            before = slm_reservation_metadata_bytes();
        pthread_barrier_wait(&trade);
        pthread_barrier_wait(&trade);
    }
    pthread_join(thread, NULL);
    assert_int_equal(slm_reservation_metadata_bytes(), before);
}

static void it_lies_outside_the_heap(void **state)
{
    (void)state;
    void *piece = slm_metadata_alloc(64);
    assert_false(slm_granule_valid(slm_granule_of(piece)));
    slm_metadata_free(piece, 64);
}

static void work_for(uintptr_t number, unsigned turns)
{
    static struct piece all[THREADS][PIECES / THREADS];
    struct piece *pieces = all[number];
    uint64_t seed = number;
    for (unsigned turn = 0; turn < turns; turn++) {
        const size_t i = random_below(&seed, COUNT(all[0]));
        if (pieces[i].bytes)
            give(&pieces[i]);
        else
            take(&pieces[i], 1 + random_below(&seed, turn % 8 ? 256 : SLM_METADATA_MAX), (unsigned char)turn);
    }
    for (size_t i = 0; i < COUNT(all[0]); i++)
        if (pieces[i].bytes)
            give(&pieces[i]);
}

static void *work(void *number)
{
    work_for((uintptr_t)number, 20000);
    return NULL;
}

static void threads_do_not_share_pieces(void **state)
{
    (void)state;
    on_threads(THREADS, work);
}

/* -- chunks ------------------------------------------------------------------------------------------------------ */

void *__real_slm_reservation_metadata(unsigned node, size_t bytes);
void *__wrap_slm_reservation_metadata(unsigned node, size_t bytes);

static void (*mapping)(size_t bytes); /* called while the next chunk is being mapped */

void *__wrap_slm_reservation_metadata(unsigned node, size_t bytes)
{
    void (*const now)(size_t) = mapping;
    mapping = NULL;
    if (now)
        now(bytes);
    return __real_slm_reservation_metadata(node, bytes);
}

enum { NESTED = 4 };

static struct piece inside[NESTED];
static size_t inside_size;
static unsigned nested;

/* As other threads would, which find that there is no chunk, either. */
static void take_inside(size_t bytes)
{
    (void)bytes;
    if (nested == NESTED)
        return;
    mapping = take_inside;
    const unsigned number = nested++;
    take(&inside[number], inside_size, (unsigned char)number);
}

static void take_while_a_chunk_is_mapped(void)
{
    static const size_t sizes[] = {64, 192, 4096, 100 * KIB, 256 * KIB, SLM_METADATA_MAX};
    static struct piece pieces[20000];
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t n = 0;
        inside_size = sizes[i];
        nested = 0;
        mapping = take_inside;
        while (nested == 0 || n < 16) {
            take(&pieces[n], sizes[i], (unsigned char)n);
            n++;
        }
        mapping = NULL;
        for (unsigned number = 0; number < nested; number++)
            give(&inside[number]);
        while (n > 0)
            give(&pieces[--n]);
    }
}

static void no_lock_is_held_in_the_kernel(void **state)
{
    (void)state;
    assert_child_silent(take_while_a_chunk_is_mapped);
}

/* Neither of one size nor of two by turns is much more mapped than is used. */
static void chunks_are_used_up(void **state)
{
    (void)state;
    static struct piece pieces[2000];
    const uint64_t before = slm_reservation_metadata_bytes();
    uint64_t used = 0;
    for (size_t i = 0; i < COUNT(pieces); i++) {
        const size_t size = i % 2 ? 3000 : 5 * 4096;
        take(&pieces[i], size, (unsigned char)i);
        used += slm_align_up(size, i % 2 ? 64 : 4096);
    }
    assert_true(slm_reservation_metadata_bytes() - before <= used + used / 8 + MIB);
    for (size_t i = 0; i < COUNT(pieces); i++)
        give(&pieces[i]);
}

static _Atomic bool enough;

static void *take_and_give(void *nothing)
{
    while (!load_relaxed(&enough))
        slm_metadata_free(slm_metadata_alloc(128), 128);
    return nothing;
}

static void work_in_child(void)
{
    work_for(0, 200);
}

static void a_child_may_find_the_lock_held(void **state)
{
    (void)state;
    pthread_t thread;
    store_relaxed(&enough, false);
    assert_int_equal(pthread_create(&thread, NULL, take_and_give, NULL), 0);
    for (unsigned long i = 0; i < scaled(20); i++) {
        const struct outcome outcome = in_child(work_in_child);
        if (outcome.status != 0)
            fail_msg("fork %lu: status %d, signal %d: %s", i, outcome.status, outcome.signal, outcome.said);
    }
    store_relaxed(&enough, true);
    pthread_join(thread, NULL);
}

static void take_all(void)
{
    forbid_memory();
    unsigned got = 0;
    errno = 0;
    while (slm_metadata_alloc(SLM_METADATA_MAX) && got < 1000)
        got++;
    require(got < 1000 && errno == ENOMEM);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(take_all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_all_sizes_are_apart),  cmocka_unit_test(what_was_freed_is_used_again),
        cmocka_unit_test(a_piece_goes_back_to_its_node),  cmocka_unit_test(what_others_free_is_used_again),
        cmocka_unit_test(it_lies_outside_the_heap),       cmocka_unit_test(threads_do_not_share_pieces),
        cmocka_unit_test(no_lock_is_held_in_the_kernel),  cmocka_unit_test(chunks_are_used_up),
        cmocka_unit_test(a_child_may_find_the_lock_held), cmocka_unit_test(no_memory_is_an_answer),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
