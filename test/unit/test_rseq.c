/* src/os/rseq.h: the C library's registration, and where its fields lie. It runs with the registration that the C
 * library has made, if any, and where a setting has told it to make none. */
#include "rseq.h"

static uint32_t field(ptrdiff_t offset)
{
    return *(volatile uint32_t *)(thread_pointer() + offset);
}

static void it_is_found_where_the_c_library_has_it(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    errno = EDOM;
    assert_int_equal(slm_rseq_find(&rseq), rseq_is_there());
    assert_int_equal(errno, EDOM);
    if (rseq_is_unwanted())
        assert_false(rseq_is_there());
    if (!rseq_is_there())
        return;
    assert_int_equal(rseq.cpu, __rseq_offset + 4);
    assert_int_equal(rseq.sequence, __rseq_offset + 8);
    assert_true(rseq.cid == 0 || rseq.cid == __rseq_offset + 24);
}

static void skip_without(struct slm_rseq *rseq)
{
    if (slm_rseq_find(rseq))
        return;
    print_message("the C library has registered nothing\n");
    skip();
}

static void look(unsigned cpu)
{
    struct slm_rseq rseq;
    require(slm_rseq_find(&rseq));
    require(field(rseq.cpu) == cpu);
    require(*(volatile uint64_t *)(thread_pointer() + rseq.sequence) == 0); /* we are in none */
    require(rseq.cid == 0 || field(rseq.cid) < (unsigned)sysconf(_SC_NPROCESSORS_CONF));
}

static void the_cpu_is_told(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    skip_without(&rseq);
    on_each_cpu(look);
}

static void *look_on_thread(void *nothing)
{
    on_each_cpu(look);
    return nothing;
}

static void every_thread_has_it_in_the_same_place(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    skip_without(&rseq);
    on_threads(4, look_on_thread);
}

static pthread_barrier_t all_run;
static _Atomic uint32_t ids_seen;

static void *note_id(void *nothing)
{
    struct slm_rseq rseq;
    pthread_barrier_wait(&all_run);
    require(slm_rseq_find(&rseq) && field(rseq.cid) < 32);
    atomic_fetch_or(&ids_seen, 1u << field(rseq.cid));
    return nothing;
}

/* Of many threads as many run at once as there are CPUs, and no more have numbers. */
static void concurrency_ids_are_fewer_than_cpus(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    skip_without(&rseq);
    if (rseq.cid == 0) {
        print_message("the kernel tells none\n");
        skip();
    }
    const unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_CONF);
    pthread_barrier_init(&all_run, NULL, 8);
    on_threads(8, note_id);
    assert_true(load_relaxed(&ids_seen) != 0);
    assert_true(cpus >= 32 || load_relaxed(&ids_seen) >> cpus == 0);
}

static void take_it_away(void)
{
    struct slm_rseq rseq;
    require(slm_rseq_find(&rseq) && (int)field(rseq.cpu) >= 0);
    unregister_rseq();
    require((int)field(rseq.cpu) < 0);
}

static void a_thread_that_is_not_registered_is_on_no_cpu(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    skip_without(&rseq);
    assert_child_silent(take_it_away);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_found_where_the_c_library_has_it),
        cmocka_unit_test(the_cpu_is_told),
        cmocka_unit_test(every_thread_has_it_in_the_same_place),
        cmocka_unit_test(concurrency_ids_are_fewer_than_cpus),
        cmocka_unit_test(a_thread_that_is_not_registered_is_on_no_cpu),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
