/* src/heap/sampled.h: which mean an interval has. A thread whose samples come fast lengthens its own; an option that
 * changes counts from the next interval on; and each sample has the mean of the interval that it ends. */
#include "sampled.h"

#include "os/background.h"

static uint64_t clock_us, step_us; /* the clock that the library reads; 0: the real one */
static unsigned looks;

uint64_t __real_slm_sys_now_us(void);
uint64_t __wrap_slm_sys_now_us(void);
uint64_t __wrap_slm_sys_now_us(void)
{
    looks++;
    return step_us == 0 ? __real_slm_sys_now_us() : clock_us;
}

/* So many samples of this thread's, so far apart; the mean of the next one's interval. */
static uint64_t mean_after(unsigned samples, uint64_t apart_us)
{
    step_us = apart_us;
    for (unsigned i = 0; i < samples; i++) {
        clock_us += step_us;
        slm_tls.sample_left = 0;
        void *object = malloc(1000);
        assert_true(is_sampled(object));
        free(object);
    }
    step_us = 0;
    return slm_interval_mean(slm_tls.sample_mean);
}

static void samples_that_come_fast_become_fewer(void **state)
{
    (void)state;
    const uint64_t usual = 2 << 20, longest = 64 << 20;
    set_mean(usual);
    clock_us = 1000000;
    assert_int_equal(mean_after(1, 1000), usual);
    assert_int_equal(mean_after(1, 50), usual);    /* a single one says little */
    assert_int_equal(mean_after(100, 260), usual); /* neither close nor far apart */
    assert_int_equal(mean_after(100, 1), longest);
    assert_int_equal(mean_after(1, 10000), longest / 2);
    assert_int_equal(mean_after(1, 260), longest / 2);
    assert_int_equal(mean_after(100, 1000), usual);
    assert_true((uint64_t)load_relaxed(&slm_sample_counts.longest_mean_kib) << 10 == longest);
}

/* Each sample has the mean of its own interval, which had begun before it was known when that would end. */
static void a_sample_has_the_mean_of_its_interval(void **state)
{
    (void)state;
    set_mean(2 << 20);
    clock_us += 1000000;
    for (unsigned i = 0; i < 5; i++) {
        const uint64_t before = mean_after(10, i % 2 ? 1000 : 1);
        clock_us += step_us = 1;
        slm_tls.sample_left = 0;
        void *object = malloc(1000);
        assert_int_equal(slm_samples_at(index_of(object))->mean, before);
        step_us = 0;
        free(object);
    }
    mean_after(100, 1000);
}

/* So has the last one before the option changes, and the next interval is by the new mean. */
static void a_change_of_the_option_loses_no_sample(void **state)
{
    (void)state;
    set_mean(MEAN);
    store_relaxed(&slm_settings.sample_bytes, 2 * MEAN);
    slm_tls.sample_left = 0;
    void *object = malloc(1000);
    assert_true(is_sampled(object) && slm_samples_at(index_of(object))->mean == MEAN);
    assert_int_equal(slm_interval_mean(slm_tls.sample_mean), 2 * MEAN);
    free(object);
    store_relaxed(&slm_sample_counts.gaps, 0);
    store_relaxed(&slm_settings.sample_bytes, 0);
    slm_tls.sample_left = 0;
    object = malloc(1000);
    assert_false(is_sampled(object));
    assert_int_equal(load_relaxed(&slm_sample_counts.gaps), 1);
    assert_true(slm_tls.sample_left > 0 && slm_tls.sample_left <= 64 << 20); /* it may be switched on again */
    free(object);
}

/* Who asks for more samples than are usual gets them, and who asks for none gets none. */
static void what_was_asked_for_is_kept(void **state)
{
    (void)state;
    set_mean(64 << 10);
    assert_int_equal(mean_after(100, 1), 64 << 10);
    set_mean(64 << 20);
    assert_int_equal(mean_after(100, 1), 64 << 20);
    set_mean(0);
    slm_tls.sample_left = 0;
    void *object = malloc(1000);
    assert_false(is_sampled(object));
    free(object);
}

/* The exact clock may take a system call, which a sandbox need not know. */
static void sample_by_coarse_clock(void)
{
    slm_background_forbid();
    looks = 0;
    for (unsigned i = 0; i < 10; i++) {
        slm_tls.sample_left = 0;
        void *object = malloc(1000);
        require(is_sampled(object) && slm_samples_at(index_of(object))->time_ns != 0);
    }
    require(looks == 0);
}

static void a_sandbox_need_not_know_the_clock(void **state)
{
    (void)state;
    set_mean(2 << 20);
    clock_us += 1000000;
    looks = 0;
    mean_after(1, 1000);
    assert_in_range(looks, 1, 2);
    assert_child_silent(sample_by_coarse_clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(samples_that_come_fast_become_fewer, fresh),
        cmocka_unit_test_setup(a_sample_has_the_mean_of_its_interval, fresh),
        cmocka_unit_test_setup(a_change_of_the_option_loses_no_sample, fresh),
        cmocka_unit_test_setup(what_was_asked_for_is_kept, fresh),
        cmocka_unit_test_setup(a_sandbox_need_not_know_the_clock, fresh),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
