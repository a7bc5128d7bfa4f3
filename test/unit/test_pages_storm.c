/* src/slab/pages.h under a storm: threads take from a depot and give back, with a signal handler that gives without
 * a lock, while another one sweeps, and holds what is marked against what is resident. Children of forks do so with
 * no other thread. */
#include "checks.h"
#include "depot/sweep.h"
#include "one_depot.h"

#include <signal.h>
#include <sys/mman.h>

#include "os/vm.h"
#include "slab/key.h"

enum { TAKERS = 3, TURNS = 150, HELD = 16 * A_SLAB, FORKS = 4 };

static _Atomic unsigned working;
static __thread void *_Atomic handed; /* to the handler, which gives it back */

static void give_handed(int number)
{
    (void)number;
    void *object = atomic_exchange(&handed, NULL);
    if (object)
        require(slm_depot_give_nolock(object, "free"));
}

static unsigned char mark_of(const void *object)
{
    return (unsigned char)((uintptr_t)object / SIZE * 7 + 1);
}

/* As free does it, having looked at what is in the object. */
static void check_and_give(void *object, uint64_t *seed)
{
    const unsigned char *bytes = object;
    for (unsigned at = 0; at < SIZE; at++)
        require(bytes[at] == mark_of(object));
    slm_key_set(object, slm_key_of(object));
    if (random_below(seed, 16) == 0 && !load_relaxed(&handed))
        store_relaxed(&handed, object);
    else
        slm_depot_give(&object, 1, "free");
}

static void take_and_give(uint64_t *seed, unsigned turns)
{
    static __thread void *held[HELD];
    unsigned count = 0;
    for (unsigned turn = 0; turn < turns; turn++) {
        const unsigned more = (unsigned)random_below(seed, HELD - count + 1);
        fill(held + count, more);
        for (unsigned end = count + more; count < end; count++)
            memset(held[count], mark_of(held[count]), SIZE);
        for (unsigned fewer = (unsigned)random_below(seed, count + 1); fewer > 0; fewer--) {
            const size_t which = random_below(seed, count);
            void *object = held[which];
            held[which] = held[--count];
            check_and_give(object, seed);
        }
        if (turn % 4 == 0)
            raise(SIGUSR1);
    }
    while (count > 0)
        check_and_give(held[--count], seed);
    raise(SIGUSR1);
}

static void check_slab(const struct slm_slab *slab, bool resident_too)
{
    unsigned char resident[SLM_GRANULE / 4096];
    slm_pages_check(slab);
    require(mincore(slm_slab_start(slab), SLM_GRANULE, resident) == 0);
    for (size_t page = 0; resident_too && page < SLM_GRANULE / slm_page_size; page++)
        require(!slm_pages_is_purged(slab, page) || !(resident[page] & 1));
}

/* Under the lock nobody takes from what is listed, nor purges it. */
static unsigned check_marks_of(struct slm_depot *shard, bool resident_too)
{
    unsigned marked = 0;
    slm_depot_lock(shard);
    for (unsigned bucket = 0; bucket < SLM_DEPOT_BUCKETS; bucket++) {
        const struct slm_list *head = &shard->buckets[bucket];
        for (struct slm_list *at = head->next; shard->occupied >> bucket & 1 && at != head; at = at->next) {
            const struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
            check_slab(slab, resident_too);
            marked += slab->span.some_purged;
        }
    }
    slm_lock_release(&shard->lock);
    return marked;
}

static unsigned check_marks(bool resident_too)
{
    unsigned marked = 0;
    for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at))
        marked += check_marks_of(at, resident_too);
    return marked;
}

static void sweep(void)
{
    for (struct slm_depot *at = &depot; at; at = slm_depot_shard_after(at))
        slm_depot_sweep(at, true);
}

/* Here a page may be marked that another thread was about to purge. */
static void live_in_child(void)
{
    uint64_t seed = 99;
    check_marks(false);
    take_and_give(&seed, 20);
    sweep();
    check_marks(false);
    slm_depot_relink_pending();
}

static void sweep_meanwhile(void)
{
    unsigned marked = 0;
    for (unsigned round = 0, forks = 0; load_relaxed(&working) > 0 || marked == 0; round++) {
        sweep();
        marked += check_marks(true);
        if (round % 64 == 0 && forks < FORKS && forks++ < FORKS)
            assert_child_silent(live_in_child);
        if (load_relaxed(&working) == 0)
            break;
    }
    require(marked > 0);
}

static void *work(void *number)
{
    uint64_t seed = (uintptr_t)number;
    if (number == NULL) {
        sweep_meanwhile();
        return NULL;
    }
    take_and_give(&seed, (unsigned)scaled(TURNS));
    sub_relaxed(&working, 1);
    return NULL;
}

static void marks_hold_in_a_storm(void **state)
{
    (void)state;
    const struct sigaction action = {.sa_handler = give_handed};
    require(sigaction(SIGUSR1, &action, NULL) == 0);
    store_relaxed(&working, TAKERS);
    on_threads(TAKERS + 1, work);
    slm_depot_relink_pending();
    assert_int_equal(objects_out(), 0);
    check_depot(&depot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {depot_test(marks_hold_in_a_storm)};
    return cmocka_run_group_tests(tests, begin, NULL);
}
