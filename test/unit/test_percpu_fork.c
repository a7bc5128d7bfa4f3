/* src/percpu/percpu.h: a child of fork that finds the lock held by a thread that it does not have. A handler forks in
 * the middle of a call, whenever the block's map or a row has changed, and now and then: whatever state there is has
 * a child, which must find that what lived lives on and is nobody else's, and that one object is lost at most. */
#include "trap.h"

#include "percpu/percpu.h"

enum { LARGEST = SLM_PERCPU_PIECE / 2, BEFORE_UNITS = 37, TORN_UNITS = 200, BEHIND_UNITS = 50 };
enum { EVERY = 1999, QUIET = 4000 }; /* instructions: from fork to fork; behind the last change */

static slab_percpu before, torn, behind;     /* neighbours; the one between is being made, or freed */
static uint64_t kept_units, lost_units_most; /* of objects that nobody changes, and of the other */
static struct slm_percpu_block *rows;        /* that of the block that they lie in, and the next one's */

static struct {
    struct slm_percpu_map map;
    struct slm_percpu_block rows[2];
} seen;

/* Some of the copies: on machines of many CPUs, eight. */
static unsigned next_cpu(unsigned cpu)
{
    return cpu + (slm_percpu_cpus() + 7) / 8;
}

static void mark(slab_percpu object, unsigned units, unsigned char byte)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu = next_cpu(cpu))
        memset(slab_percpu_ptr(object, (int)cpu), byte, (size_t)units * SLM_PERCPU_UNIT);
}

static void require_all(slab_percpu object, unsigned units, unsigned char byte)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu = next_cpu(cpu)) {
        const unsigned char *bytes = slab_percpu_ptr(object, (int)cpu);
        require(bytes[0] == byte && memcmp(bytes, bytes + 1, (size_t)units * SLM_PERCPU_UNIT - 1) == 0);
    }
}

static slab_percpu make(unsigned units)
{
    slab_percpu object = slm_percpu_alloc((size_t)units * SLM_PERCPU_UNIT, SLM_PERCPU_UNIT);
    require(object);
    return object;
}

/* -- the child --------------------------------------------------------------------------------------------------- */

static void live_on(void)
{
    enum { OBJECTS = 20 };
    slab_percpu objects[OBJECTS];
    unsigned units[OBJECTS];
    uint64_t seed = 1;
    struct slm_percpu_figures figures;
    alarm(CHILD_SECONDS);
    slm_fork_check(); /* as every slow path does first */
    slm_percpu_count(&figures);
    for (size_t i = 0; i < COUNT(seen.rows); i++)
        if (rows[i].map)
            slm_percpu_blocks_check(&rows[i]);
    require(figures.units >= kept_units && figures.units <= kept_units + lost_units_most);
    for (unsigned i = 0; i < OBJECTS; i++) {
        objects[i] = make(units[i] = 1 + (unsigned)random_below(&seed, 300));
        require_all(objects[i], units[i], 0);
        mark(objects[i], units[i], (unsigned char)(i + 3));
    }
    for (unsigned i = 0; i < OBJECTS; i++) {
        require_all(objects[i], units[i], (unsigned char)(i + 3));
        slm_percpu_free(objects[i]);
    }
    require_all(before, BEFORE_UNITS, 1);
    require_all(behind, BEHIND_UNITS, 2);
    slm_percpu_free(before);
    slm_percpu_free(behind);
    slm_percpu_trim(true);
}

static bool has_changed(void)
{
    if (memcmp(&seen.map, rows[0].map, sizeof seen.map) == 0 && memcmp(seen.rows, rows, sizeof seen.rows) == 0)
        return false;
    seen.map = *rows[0].map;
    memcpy(seen.rows, rows, sizeof seen.rows);
    return true;
}

static unsigned children;
static unsigned long changed_at; /* the instruction; 0: not yet */

static void fork_in_the_middle(void)
{
    int how = 0;
    if (has_changed())
        changed_at = traced.step;
    else if (traced.step % EVERY != 0)
        return;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* as _Fork does in a handler */
    if (child == 0) {
        live_on();
        _exit(0);
    }
    children++;
    require(waitpid((pid_t)child, &how, 0) == child && how == 0);
    if (changed_at != 0 && traced.step > changed_at + QUIET) /* the rest is the checked build's walk */
        traced.over = true;
}

/* Do it, with children; at how many instructions. */
static unsigned fork_while(void (*run)(void))
{
    children = 0;
    changed_at = 0;
    has_changed();
    interrupt_each(run, fork_in_the_middle);
    return children;
}

/* -- the calls --------------------------------------------------------------------------------------------------- */

/* All units of the block have been in use before: what it looks through is soon done. */
static void prepare(void)
{
    struct slm_percpu_place place;
    unsigned piece;
    slab_percpu halves[] = {make(LARGEST / SLM_PERCPU_UNIT), make(LARGEST / SLM_PERCPU_UNIT)};
    slm_percpu_free(halves[0]);
    slm_percpu_free(halves[1]);
    mark(before = make(BEFORE_UNITS), BEFORE_UNITS, 1);
    mark(torn = make(TORN_UNITS), TORN_UNITS, 9);
    mark(behind = make(BEHIND_UNITS), BEHIND_UNITS, 2);
    require((uintptr_t)behind - (uintptr_t)before == (BEFORE_UNITS + TORN_UNITS) * SLM_PERCPU_UNIT);
    require(slm_percpu_blocks_at((void *)before, &place, &piece));
    rows = place.block;
    kept_units = BEFORE_UNITS + BEHIND_UNITS;
    lost_units_most = TORN_UNITS;
}

static void free_torn(void)
{
    slm_percpu_free(torn);
}

static void make_torn(void)
{
    torn = make(TORN_UNITS);
}

static void fork_while_it_is_freed_and_made(void)
{
    prepare();
    require(fork_while(free_torn) >= 8); /* the first unit's bit, and those of four words at least; the row */
    require(fork_while(make_torn) >= 8);
    require_all(torn, TORN_UNITS, 0);
}

static void a_child_in_the_middle_of_an_object_loses_it_at_most(void **state)
{
    (void)state;
    begin_tracing();
    assert_child_silent(fork_while_it_is_freed_and_made);
    signal(SIGTRAP, SIG_DFL);
}

static slab_percpu large;

static void make_large(void)
{
    large = make(LARGEST / SLM_PERCPU_UNIT);
}

static void trim(void)
{
    require(slm_percpu_trim(true));
}

static void fork_while_a_block_comes_and_goes(void)
{
    prepare();
    make_large(); /* for another there is no room */
    kept_units += TORN_UNITS + LARGEST / SLM_PERCPU_UNIT;
    lost_units_most = LARGEST / SLM_PERCPU_UNIT;
    require(fork_while(make_large) >= 8 && rows[1].map);
    slm_percpu_free(large);
    lost_units_most = 0;
    require(fork_while(trim) >= 1 && !rows[1].map);
}

static void a_child_in_the_middle_of_a_block_loses_it_at_most(void **state)
{
    (void)state;
    begin_tracing();
    assert_child_silent(fork_while_a_block_comes_and_goes);
    signal(SIGTRAP, SIG_DFL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_in_the_middle_of_an_object_loses_it_at_most),
        cmocka_unit_test(a_child_in_the_middle_of_a_block_loses_it_at_most),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
