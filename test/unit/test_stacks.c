/* src/sample/stacks.h: equal stacks are stored once, by any number of threads; how many there may be; counts. */
#include "unit.h"

#include "page/demand.h"
#include "page/metadata.h"
#include "sample/stacks.h"

enum { THREADS = 6, COMMON = 60, OWN = 20, ROUNDS = 50 };

/* A stack of that name, with that many words. */
static const struct slm_stack *stack_named(union slm_stack_record *record, uint64_t name, unsigned words)
{
    struct slm_stack *stack = &record->stack;
    memset(record, 0, sizeof *record);
    stack->kind = SLM_STACK_IMAGE;
    stack->registers = SLM_STACK_REGISTERS;
    stack->words = (uint16_t)words;
    stack->covered = 4096;
    stack->values[0] = name;
    stack->hash = (uint32_t)(name * 2654435761u);
    return stack;
}

static uint32_t intern(uint64_t name, unsigned words)
{
    union slm_stack_record record;
    return slm_stacks_intern(stack_named(&record, name, words));
}

static void store_once(void **state)
{
    (void)state;
    union slm_stack_record record;
    assert_null(slm_stack_of(0));
    const uint32_t first = intern(1, 10), second = intern(2, 10), longer = intern(1, 11);
    assert_true(first && second && longer && first != second && first != longer && second != longer);
    assert_int_equal(intern(1, 10), first);
    assert_int_equal(intern(1, 11), longer);
    stack_named(&record, 1, 10);
    record.stack.covered = record.stack.cut = 1; /* how much was looked at makes no difference */
    assert_int_equal(slm_stacks_intern(&record.stack), first);
    record.stack.relative = 1;
    const uint32_t relative = slm_stacks_intern(&record.stack);
    assert_true(relative && relative != first);
    ((uint16_t *)slm_stack_offsets(&record.stack))[9] = 3;
    const uint32_t elsewhere = slm_stacks_intern(&record.stack);
    assert_true(elsewhere && elsewhere != relative);
    const struct slm_stack *stored = slm_stack_of(elsewhere);
    assert_int_equal(stored->number, elsewhere);
    assert_memory_equal(stored->values, record.stack.values, slm_stack_value_bytes(stored));
    assert_int_equal(load_relaxed(&stored->samples), 0);
    slm_stacks_check();
}

/* Of hashes that are equal, too, each finds its own. */
static void tell_equal_hashes_apart(void **state)
{
    (void)state;
    union slm_stack_record record;
    uint32_t numbers[10];
    for (unsigned i = 0; i < 20; i++) {
        stack_named(&record, 1000 + i % 10, 5);
        record.stack.hash = 7;
        const uint32_t number = slm_stacks_intern(&record.stack);
        if (i < 10)
            numbers[i] = number;
        assert_true(number != 0 && number == numbers[i % 10]);
        assert_int_equal(slm_stack_of(number)->values[0], 1000 + i % 10);
    }
    slm_stacks_check();
}

/* Between other metadata, which goes, each would keep a page for itself. */
static void lie_together(void **state)
{
    (void)state;
    enum { MANY = 40, BETWEEN = 4032 };
    uintptr_t pages[MANY] = {0};
    unsigned number = 0;
    const uint64_t before = load_relaxed(&slm_stacks_bytes);
    for (unsigned i = 0; i < MANY; i++) {
        const uint32_t stack = intern(5000 + i, 20);
        assert_true(stack != 0 && slm_metadata_alloc(BETWEEN) != NULL);
        const uintptr_t page = (uintptr_t)slm_stack_of(stack) / 4096;
        unsigned known = 0;
        while (known < number && pages[known] != page)
            known++;
        pages[known] = page;
        number = known == number ? number + 1 : number;
    }
    const uint64_t bytes = load_relaxed(&slm_stacks_bytes) - before, few = 4096;
    assert_true(bytes > 2 * few);
    assert_true(number <= bytes / 4096 + 2 + few / (bytes / MANY)); /* of a process's first ones each may */
    slm_stacks_check();
}

static void count_objects(void **state)
{
    (void)state;
    struct slm_stack *stack = slm_stack_of(intern(3, 4));
    assert_non_null(stack);
    slm_stack_count(stack, 2048, 100);
    slm_stack_count(stack, 1024, 50);
    slm_stack_count_free(stack, 2048, 100);
    assert_int_equal(load_relaxed(&stack->samples), 2);
    assert_int_equal(load_relaxed(&stack->objects_1024), 3072);
    assert_int_equal(load_relaxed(&stack->bytes), 150);
    assert_int_equal(load_relaxed(&stack->live_samples), 1);
    assert_int_equal(load_relaxed(&stack->live_objects_1024), 1024);
    assert_int_equal(load_relaxed(&stack->live_bytes), 50);
}

/* -- the bound --------------------------------------------------------------------------------------------------- */

static uint64_t bound(void)
{
    return SLM_STACKS_BYTES + slm_demand_used() / 1024;
}

static void fill_up(void)
{
    uint32_t numbers[400];
    unsigned stored = 0;
    const uint64_t losses = load_relaxed(&slm_sample_counts.stack_losses);
    while (stored < COUNT(numbers) && (numbers[stored] = intern(stored, 100)))
        stored++;
    require(stored > 10 && stored < COUNT(numbers) && load_relaxed(&slm_sample_counts.stack_losses) == losses + 1);
    require(load_relaxed(&slm_stacks_bytes) <= bound() && load_relaxed(&slm_stacks_bytes) > bound() - 2048);
    require(intern(10000, 200) == 0 && load_relaxed(&slm_sample_counts.stack_losses) == losses + 2);
    for (unsigned i = 0; i < stored; i++)
        require(intern(i, 100) == numbers[i]);
    slm_stacks_check();
    char *large = malloc(100 * MIB); /* which leaves room for more */
    require(large);
    for (unsigned i = 0; i < 50; i++)
        require(intern(20000 + i, 100));
    slm_stacks_check();
    free(large);
    require(intern(30000, 100) == 0);
}

static void have_a_bound(void **state)
{
    (void)state;
    assert_child_silent(fill_up);
}

static void have_no_memory(void)
{
    const uint64_t losses = load_relaxed(&slm_sample_counts.stack_losses);
    forbid_memory();
    while (malloc(1 << 16))
        ;
    for (unsigned i = 0; i < 300; i++)
        (void)intern(i, 200);
    require(load_relaxed(&slm_sample_counts.stack_losses) > losses);
    slm_stacks_check();
}

static void do_without_memory(void **state)
{
    (void)state;
    assert_child_silent(have_no_memory);
}

/* -- threads and forks ------------------------------------------------------------------------------------------- */

static _Atomic uint32_t common[COMMON];

static void *store_alike(void *number)
{
    const uintptr_t own = (uintptr_t)number;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < COMMON; i++) {
            const unsigned name = (unsigned)(i + own * 7) % COMMON;
            uint32_t none = 0;
            const uint32_t stored = intern(100 + name, 20);
            require(stored);
            if (!atomic_compare_exchange_strong(&common[name], &none, stored))
                require(none == stored);
            slm_stack_count(slm_stack_of(stored), 1024, 10);
        }
        for (unsigned i = 0; i < OWN; i++)
            require(slm_stack_of(intern(1000 + own * 100 + i, 8))->values[0] == 1000 + own * 100 + i);
    }
    return number;
}

static void store_on_threads(void)
{
    on_threads(THREADS, store_alike);
    slm_stacks_check();
    for (unsigned i = 0; i < COMMON; i++)
        require(load_relaxed(&slm_stack_of(common[i])->samples) == THREADS * ROUNDS);
}

static void agree_on_threads(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++)
        assert_child_silent(store_on_threads);
}

static _Atomic bool enough;

static void *store_until_enough(void *number)
{
    for (uint64_t name = 0; !load_relaxed(&enough); name++)
        (void)intern((uintptr_t)number << 32 | name % 1000, (unsigned)name % 64);
    return number;
}

static void keep_in_child(void)
{
    const uint32_t known = intern(1, 10);
    require(known && slm_stack_of(known)->values[0] == 1);
    (void)intern(77, 3);
    require(intern(1, 10) == known);
}

/* Children that begin while threads store have all that was stored. */
static void keep_over_forks(void **state)
{
    (void)state;
    pthread_t threads[2];
    require(intern(1, 10));
    for (uintptr_t i = 0; i < 2; i++)
        require(pthread_create(&threads[i], NULL, store_until_enough, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < 30; i++)
        assert_child_silent(keep_in_child);
    store_relaxed(&enough, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    slm_stacks_check();
}

/* -- where the caller is ----------------------------------------------------------------------------------------- */

static __attribute__((noinline)) uint32_t here(void)
{
    const uint32_t number = slm_stacks_here();
    __asm__ volatile("");
    return number;
}

/* The same call is the same stack; another one is another. */
static void know_places(void **state)
{
    (void)state;
    uint32_t numbers[2][3];
    for (volatile unsigned i = 0; i < 3; i++) { /* not unrolled */
        numbers[0][i] = here();
        numbers[1][i] = here();
    }
    assert_true(numbers[0][2] != 0 && numbers[0][1] == numbers[0][2]);
    assert_true(numbers[1][2] != 0 && numbers[1][1] == numbers[1][2]);
    assert_true(numbers[0][2] != numbers[1][2]);
    errno = EDOM;
    (void)here();
    assert_int_equal(errno, EDOM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(have_a_bound),     cmocka_unit_test(do_without_memory),
        cmocka_unit_test(agree_on_threads), cmocka_unit_test(know_places),
        cmocka_unit_test(store_once),       cmocka_unit_test(tell_equal_hashes_apart),
        cmocka_unit_test(lie_together),     cmocka_unit_test(count_objects),
        cmocka_unit_test(keep_over_forks),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
