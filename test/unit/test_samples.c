/* src/sample/samples.h: records come and go, are used again, grow in number without moving, and add up at their
 * stacks; free ones are purged; many threads at once, and without memory. */
#include "resident.h"
#include "unit.h"

#include "base/bits.h"
#include "sample/interval.h"
#include "sample/samples.h"
#include "sample/stacks.h"

enum { MEAN = 1 << 20, THREADS = 8, HELD = 300 };

static struct slm_sample_of sample_of(uintptr_t object, uint64_t asked, uint32_t stack)
{
    const struct slm_sample_of of = {(void *)object, asked, asked + 8, MEAN, stack, 5};
    return of;
}

static uint32_t add(uintptr_t object, uint64_t asked, uint32_t stack)
{
    const struct slm_sample_of of = sample_of(object, asked, stack);
    return slm_samples_add(&of);
}

static struct slm_stack *stack_named(uint64_t name)
{
    union slm_stack_record record;
    memset(&record, 0, sizeof record);
    record.stack.kind = SLM_STACK_IMAGE;
    record.stack.registers = SLM_STACK_REGISTERS;
    record.stack.values[0] = name;
    record.stack.hash = (uint32_t)(name * 2654435761u);
    struct slm_stack *stack = slm_stack_of(slm_stacks_intern(&record.stack));
    assert_non_null(stack);
    return stack;
}

/* What a stack counts of live objects. */
static void assert_live(const struct slm_stack *stack, uint64_t samples, uint64_t objects_1024, uint64_t bytes)
{
    assert_int_equal(load_relaxed(&stack->live_samples), samples);
    assert_int_equal(load_relaxed(&stack->live_objects_1024), objects_1024);
    assert_int_equal(load_relaxed(&stack->live_bytes), bytes);
}

static void a_life(void **state)
{
    (void)state;
    struct slm_stack *stack = stack_named(1);
    const struct slm_weight weight = slm_interval_weigh(1000, 1000, MEAN),
                            longer = slm_interval_weigh(1000, 1008, MEAN);
    const uint32_t index = add(0x1000, 1000, stack->number);
    assert_true(index != 0);
    struct slm_sample *sample = slm_samples_at(index);
    assert_int_equal(load_relaxed(&sample->object), 0x1000);
    assert_int_equal(sample->asked, 1000);
    assert_int_equal(sample->given, 1008);
    assert_int_equal(sample->mean, MEAN);
    assert_int_equal(sample->cache, 5);
    assert_int_equal(sample->weighed, 1000);
    assert_int_equal(sample->stack, stack->number);
    assert_int_equal(sample->thread, gettid());
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    assert_in_range(sample->time_ns, 1, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    assert_live(stack, 1, weight.objects_1024, weight.bytes);

    const uint32_t serial = load_relaxed(&sample->serial);
    assert_int_equal(serial % 2, 0);
    slm_samples_change(index, NULL, 1008, 1008);
    assert_int_equal(load_relaxed(&sample->object), 0x1000);
    assert_int_equal(load_relaxed(&sample->serial), serial + 2);
    assert_live(stack, 1, weight.objects_1024, longer.bytes);
    slm_samples_change(index, (void *)0x2000, 10, 16);
    assert_int_equal(load_relaxed(&sample->object), 0x2000);
    assert_int_equal(sample->asked, 10);
    assert_int_equal(sample->weighed, 1000); /* what it stands for was decided then */
    assert_live(stack, 1, weight.objects_1024, slm_interval_weigh(1000, 10, MEAN).bytes);

    slm_samples_end(index);
    assert_int_equal(load_relaxed(&sample->object), 0);
    assert_int_equal(load_relaxed(&sample->serial), serial + 6);
    assert_live(stack, 0, 0, 0);
    assert_int_equal(load_relaxed(&stack->samples), 1);
    assert_int_equal(load_relaxed(&stack->objects_1024), weight.objects_1024);
    assert_int_equal(load_relaxed(&stack->bytes), slm_interval_weigh(1000, 10, MEAN).bytes); /* what it had at last */
}

static void the_index_0_is_none(void **state)
{
    (void)state;
    slm_samples_end(0);
    slm_samples_change(0, NULL, 1, 1);
}

/* The last one that ended comes first; what is used again is new in all. */
static void records_are_used_again(void **state)
{
    (void)state;
    uint32_t indexes[10];
    for (unsigned i = 0; i < 10; i++)
        indexes[i] = add(0x10000 + i, 100, 0);
    const uint32_t top = load_relaxed(&slm_sample_counts.top);
    for (unsigned i = 0; i < 10; i++)
        slm_samples_end(indexes[i]);
    for (unsigned i = 10; i-- > 0;) {
        assert_int_equal(add(0x20000 + i, 200, 0), indexes[i]);
        assert_int_equal(load_relaxed(&slm_samples_at(indexes[i])->object), 0x20000 + i);
        assert_int_equal(slm_samples_at(indexes[i])->asked, 200);
    }
    assert_int_equal(load_relaxed(&slm_sample_counts.top), top);
    for (unsigned i = 0; i < 10; i++)
        slm_samples_end(indexes[i]);
}

/* Of each index, the place is a tool's: chunk after chunk, none twice. */
static void chunks_grow(void **state)
{
    (void)state;
    enum { MANY = 70000 };
    static uint32_t indexes[MANY];
    for (unsigned i = 0; i < MANY; i++)
        assert_true((indexes[i] = add(0x100000 + i, 1, 0)) != 0);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(load_relaxed(&slm_samples_at(indexes[i])->object), 0x100000 + i);
    const struct slm_sample *next = NULL;
    uint32_t index = 0;
    const uint32_t top = load_relaxed(&slm_sample_counts.top);
    for (unsigned chunk = 0; index < top; chunk++) {
        next = load_relaxed(&slm_samples_chunks[chunk]);
        for (uint32_t i = 0; i < slm_samples_in(chunk) && index < top; i++)
            assert_ptr_equal(slm_samples_at(++index), next + i);
    }
    for (unsigned i = 0; i < MANY; i++)
        slm_samples_end(indexes[i]);
    assert_int_equal(load_relaxed(&slm_sample_counts.top), top);
}

/* -- purging --------------------------------------------------------------------------------------------------- */

enum { SPIKE = 5000 };

static unsigned count_resident(const uint32_t *indexes, unsigned n)
{
    unsigned resident = 0;
    for (unsigned i = 0; i < n; i++)
        resident += is_resident(slm_samples_at(indexes[i]));
    return resident;
}

/* What is behind the last one that lives goes; that one, and those before it, stay as they are. */
static void free_records_are_purged(void **state)
{
    (void)state;
    static uint32_t indexes[SPIKE];
    const uint32_t live = add(0x1000, 1000, 0), serial = load_relaxed(&slm_samples_at(live)->serial);
    for (unsigned i = 0; i < SPIKE; i++)
        indexes[i] = add(0x100000 + i, 1, 0);
    assert_int_equal(count_resident(indexes, SPIKE), SPIKE);
    for (unsigned i = 0; i < SPIKE; i++)
        slm_samples_end(indexes[i]);
    slm_samples_purge();
    assert_int_equal(load_relaxed(&slm_sample_counts.top), live);
    assert_true(count_resident(indexes, SPIKE) <= 2 * slm_page_size / sizeof(struct slm_sample) + live);
    assert_int_equal(load_relaxed(&slm_samples_at(live)->object), 0x1000);
    assert_int_equal(load_relaxed(&slm_samples_at(live)->serial), serial);
    for (unsigned i = 0; i < SPIKE; i++)
        assert_in_range(indexes[i] = add(0x200000 + i, 2, 0), 1, live + SPIKE);
    for (unsigned i = 0; i < SPIKE; i++)
        assert_int_equal(load_relaxed(&slm_samples_at(indexes[i])->object), 0x200000 + i); /* each its own */
    slm_samples_purge(); /* there is nothing to give */
    for (unsigned i = 0; i < SPIKE; i++) {
        assert_int_equal(load_relaxed(&slm_samples_at(indexes[i])->object), 0x200000 + i);
        slm_samples_end(indexes[i]);
    }
    slm_samples_end(live);
    slm_samples_purge();
    assert_int_equal(load_relaxed(&slm_sample_counts.top), 0);
    assert_int_equal(add(0x3000, 1, 0), 1);
    slm_samples_end(1);
}

/* -- many threads ---------------------------------------------------------------------------------------------- */

static uint32_t shared_stack;

/* Each has some of its own that nobody else has, while all take from one list and put back to it. */
static void *come_and_go(void *number)
{
    uint64_t random = (uintptr_t)number + 1;
    uint32_t held[HELD] = {0};
    for (unsigned long i = 0; i < scaled(100000); i++) {
        const size_t at = random_below(&random, HELD);
        const uintptr_t object = ((uintptr_t)number + 1) << 32 | at << 8;
        if (held[at]) {
            struct slm_sample *sample = slm_samples_at(held[at]);
            require(load_relaxed(&sample->object) == object && sample->asked == at + 1);
            require(sample->thread == (uint32_t)gettid());
            slm_samples_end(held[at]);
            held[at] = 0;
        } else {
            require((held[at] = add(object, at + 1, shared_stack)) != 0);
        }
        if (i % 1024 == 0 && (uintptr_t)number < THREADS / 2)
            slm_samples_purge();
    }
    for (unsigned at = 0; at < HELD; at++)
        slm_samples_end(held[at]);
    return NULL;
}

static unsigned count_live(void)
{
    unsigned live = 0;
    for (uint32_t index = 1; index <= load_relaxed(&slm_sample_counts.top); index++) {
        const struct slm_sample *sample = slm_samples_at(index);
        live += load_relaxed(&sample->object) != 0;
        assert_int_equal(load_relaxed(&sample->serial) % 2, 0);
    }
    return live;
}

static void many_threads(void **state)
{
    (void)state;
    struct slm_stack *stack = stack_named(2);
    shared_stack = stack->number;
    assert_int_equal(count_live(), 0);
    on_threads(THREADS, come_and_go);
    assert_int_equal(count_live(), 0);
    assert_live(stack, 0, 0, 0);
    assert_true(load_relaxed(&slm_sample_counts.top) <= 70000 + THREADS * HELD);
}

/* -- a child of fork ------------------------------------------------------------------------------------------- */

static uint32_t before_fork;

static void go_on(void)
{
    struct slm_sample *sample = slm_samples_at(before_fork);
    require(load_relaxed(&sample->object) == 0x7000 && sample->thread == (uint32_t)getppid());
    const uint32_t own = add(0x8000, 10, 0);
    require(own != 0 && own != before_fork && slm_samples_at(own)->thread == (uint32_t)getpid());
    slm_samples_end(before_fork);
    require(add(0x9000, 10, 0) == before_fork);
}

static void a_child_keeps_them(void **state)
{
    (void)state;
    before_fork = add(0x7000, 10, 0);
    assert_int_equal(slm_samples_at(before_fork)->thread, getpid());
    assert_child_silent(go_on);
    assert_int_equal(load_relaxed(&slm_samples_at(before_fork)->object), 0x7000);
    slm_samples_end(before_fork);
}

/* -- no memory ------------------------------------------------------------------------------------------------- */

static void without_memory(void)
{
    struct slm_stack *stack = slm_stack_of(shared_stack);
    uint32_t last = 0, index;
    forbid_memory();
    const uint64_t lost = load_relaxed(&slm_sample_counts.losses), samples = load_relaxed(&stack->samples);
    uint64_t added = 0;
    while ((index = add(0xa000, 10, shared_stack)) != 0 && added < 20000000) {
        last = index;
        added++;
    }
    require(index == 0 && last != 0 && load_relaxed(&slm_sample_counts.losses) == lost + 1);
    require(load_relaxed(&stack->samples) == samples + added); /* the lost one stands for nothing */
    slm_samples_end(last);
    require(add(0xb000, 10, 0) == last);
    require(add(0xb000, 10, 0) == 0 && load_relaxed(&slm_sample_counts.losses) == lost + 2);
}

static void no_memory(void **state)
{
    (void)state;
    assert_child_silent(without_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_life),
        cmocka_unit_test(the_index_0_is_none),
        cmocka_unit_test(records_are_used_again),
        cmocka_unit_test(chunks_grow),
        cmocka_unit_test(free_records_are_purged),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(a_child_keeps_them),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
