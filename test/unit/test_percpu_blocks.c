/* src/percpu/blocks.h: where objects go among several blocks, beside a naive model; blocks that come and go, what
 * lies in their way, and what an address says. What a fork in the middle leaves is in test_percpu_torn.c. */
#include "os/vm.h"
#include "percpu_blocks.h"
#include "percpu_model.h"

/* -- the best place ---------------------------------------------------------------------------------------------- */

enum { BLOCKS = 6, OBJECTS_MOST = 3000, TURNS = 6000 };

static struct {
    struct model model;
    unsigned touched; /* behind the last unit that was taken since it was mapped */
    bool mapped;
} blocks[BLOCKS];

static struct object {
    struct slm_percpu_place place;
    unsigned units;
} objects[OBJECTS_MOST];
static size_t objects_count;

/* How long the shortest run is that has room; 0: none, and there is no further block for the test. */
static unsigned shortest_run(unsigned units, unsigned align)
{
    struct slm_percpu_run run = {0, 0};
    unsigned shortest = 0, mapped = 0;
    for (unsigned n = 0; n < BLOCKS; n++) {
        mapped += blocks[n].mapped;
        if (blocks[n].mapped && model_find(&blocks[n].model, units, align, &run) &&
            (shortest == 0 || run.units < shortest))
            shortest = run.units;
    }
    return shortest == 0 && mapped < BLOCKS ? SLM_PERCPU_UNITS : shortest;
}

static void note_block(unsigned number)
{
    if (blocks[number].mapped)
        return;
    for (unsigned n = 0; n < number; n++)
        require(blocks[n].mapped); /* the lowest number */
    memset(&blocks[number], 0, sizeof blocks[number]);
    blocks[number].mapped = true;
}

static void take_as_in_model(unsigned units, unsigned align, uint16_t name)
{
    struct object *object = &objects[objects_count];
    struct slm_percpu_place *place = &object->place;
    unsigned touched = ~0u;
    const unsigned shortest = shortest_run(units, align);
    if (shortest == 0)
        return;
    require(slm_percpu_blocks_take(units, align, place, &touched));
    slm_percpu_blocks_check(place->block);
    const unsigned number = number_of(place), at = place->at, end = at + units;
    require(number < BLOCKS && at % align == 0 && end <= SLM_PERCPU_UNITS);
    note_block(number);
    require(blocks[number].model.object[at] == 0);
    const struct slm_percpu_run run = model_run(&blocks[number].model, at);
    require(run.at <= at && end <= run.at + run.units);
    require(run.units == shortest);
    require(touched == (blocks[number].touched <= at ? 0 : slm_min(blocks[number].touched - at, units)));
    blocks[number].touched = (unsigned)slm_max(blocks[number].touched, end);
    model_set(&blocks[number].model, at, units, name);
    object->units = units;
    objects_count++;
}

static void put_as_in_model(size_t i)
{
    const struct object object = objects[i];
    const unsigned number = number_of(&object.place);
    require(slm_percpu_map_object(object.place.block->map, object.place.at) == object.units);
    put(object.place, object.units);
    model_set(&blocks[number].model, object.place.at, object.units, 0);
    objects[i] = objects[--objects_count];
}

/* The first of those that are vacant is told of, and can go. */
static void drop_as_in_model(bool drop)
{
    struct slm_percpu_place vacant;
    unsigned expected = 0;
    while (expected < BLOCKS &&
           !(blocks[expected].mapped && model_count_free(&blocks[expected].model) == SLM_PERCPU_UNITS))
        expected++;
    require(slm_percpu_blocks_vacant(&vacant) == (expected < BLOCKS));
    if (expected == BLOCKS)
        return;
    require(number_of(&vacant) == expected);
    if (drop) {
        require(slm_percpu_blocks_drop(&vacant));
        blocks[expected].mapped = false;
    }
}

static void compare_with_model(void)
{
    uint64_t units = 0;
    size_t mapped = 0;
    for (unsigned n = 0; n < BLOCKS; n++)
        if (blocks[n].mapped) {
            struct slm_percpu_place place;
            unsigned piece;
            require(slm_percpu_blocks_at(pieces_of(n), &place, &piece));
            require(model_differences(&blocks[n].model, place.block->map) == 0);
            units += SLM_PERCPU_UNITS - model_count_free(&blocks[n].model);
            mapped++;
        }
    const struct slm_percpu_figures figures = count();
    require(figures.objects == objects_count && figures.units == units);
    require(figures.mapped_bytes == mapped * cpus * SLM_PERCPU_PIECE);
}

static void work_at_random(void)
{
    uint64_t seed = cpus;
    for (unsigned turn = 1; turn <= TURNS; turn++) {
        const size_t takes = turn / 1000 % 2 ? 40 : 75; /* of 100: they fill, and become fewer */
        if (random_below(&seed, 100) < takes && objects_count < OBJECTS_MOST)
            take_as_in_model(random_units(&seed), random_align(&seed), (uint16_t)turn);
        else if (objects_count > 0)
            put_as_in_model(random_below(&seed, objects_count));
        drop_as_in_model(turn % 16 == 0);
        if (turn % 200 == 0)
            compare_with_model();
    }
    while (objects_count > 0)
        put_as_in_model(0);
    compare_with_model();
}

static void objects_go_to_the_shortest_run_of_all_blocks(void **state)
{
    (void)state;
    in_child_with(2, work_at_random);
    in_child_with(64, work_at_random);
}

/* Two blocks, all of whose units are taken but for these runs, of which the first begins behind `lead` units. */
static void leave_runs(unsigned lead, unsigned first, unsigned second, unsigned of_other_block)
{
    const unsigned parts[] = {lead, first, 1, second, SLM_PERCPU_UNITS - lead - first - 1 - second};
    struct slm_percpu_place places[COUNT(parts)], other;
    for (size_t i = 0; i < COUNT(parts); i++)
        places[i] = take(parts[i]);
    other = take(of_other_block);
    take(SLM_PERCPU_UNITS - of_other_block);
    require(number_of(&places[4]) == 0 && places[1].at == lead && number_of(&other) == 1 && other.at == 0);
    put(places[1], first);
    put(places[3], second);
    put(other, of_other_block);
}

static void require_in_other_block(unsigned units, unsigned align)
{
    struct slm_percpu_place place;
    unsigned touched;
    require(slm_percpu_blocks_take(units, align, &place, &touched));
    require(number_of(&place) == 1 && place.at == 0);
}

/* Runs of 64 and of 71 units are of one class: a block may have the class and no room in it. */
static void look_beyond_the_class(void)
{
    leave_runs(1, 65, 1000, 100);
    require_in_other_block(70, 1);
}

/* A run of the right length may lie where the alignment is not to be had. */
static void look_beyond_the_alignment(void)
{
    leave_runs(1, 40, 1000, 100);
    require_in_other_block(33, 32);
}

/* A block may be said to have a class that it has no more. */
static void look_beyond_what_has_been_taken(void)
{
    leave_runs(1, 40, 1000, 100);
    require(take(40).at == 1);
    require_in_other_block(40, 1);
}

static void a_block_without_room_in_the_class_is_not_the_best(void **state)
{
    (void)state;
    in_child_with(2, look_beyond_the_class);
    in_child_with(2, look_beyond_the_alignment);
    in_child_with(2, look_beyond_what_has_been_taken);
}

/* -- blocks come and go ------------------------------------------------------------------------------------------ */

/* What manages a block does not know how many CPUs there are: a map of 4 KiB each, and rows of 32 bytes, 4 KiB of
 * them at a time. */
static void fill_many_blocks(void)
{
    enum { MANY = 130, ROWS_BYTES = 4096, ROWS = ROWS_BYTES / 32 };
    static struct slm_percpu_place places[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        places[i] = take(SLM_PERCPU_UNITS);
        require(number_of(&places[i]) == i && places[i].at == 0);
        const struct slm_percpu_figures figures = count();
        require(figures.objects == i + 1 && figures.units == (i + 1) * (uint64_t)SLM_PERCPU_UNITS);
        require(figures.mapped_bytes == (i + 1) * (uint64_t)cpus * SLM_PERCPU_PIECE);
        require(figures.metadata_bytes == (i + 1) * 4096 + (i / ROWS + 1) * ROWS_BYTES);
    }
    for (unsigned i = 0; i < MANY; i++) {
        put(places[i], SLM_PERCPU_UNITS);
        require(slm_percpu_blocks_drop(&places[i]));
    }
    const struct slm_percpu_figures figures = count();
    require(figures.objects == 0 && figures.units == 0 && figures.mapped_bytes == 0);
    require(figures.metadata_bytes == (MANY / ROWS + 1) * ROWS_BYTES);
}

static void management_does_not_grow_with_cpus(void **state)
{
    (void)state;
    with_few_and_many_cpus(fill_many_blocks);
}

/* Pages are there for every CPU, and apart; before the first one there are none. */
static void write_to_every_copy(void)
{
    const struct slm_percpu_place place = take(SLM_PERCPU_UNITS / 4);
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        require(all_zero(copy(&place, cpu), SLM_PERCPU_PIECE / 4));
        memset(copy(&place, cpu), (int)cpu + 1, SLM_PERCPU_PIECE / 4);
    }
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        require(*copy(&place, cpu) == (char)(cpu + 1));
        require(memcmp(copy(&place, cpu), copy(&place, cpu) + 1, SLM_PERCPU_PIECE / 4 - 1) == 0);
        require(all_zero(copy(&place, cpu) + SLM_PERCPU_PIECE / 4, SLM_PERCPU_PIECE / 4 * 3));
    }
}

static void every_cpu_has_a_copy(void **state)
{
    (void)state;
    with_few_and_many_cpus(write_to_every_copy);
}

static void dereference_the_object(void)
{
    const struct slm_percpu_place place = take(1);
    *(volatile char *)place.pieces = 1;
}

static void dereferencing_an_object_ends_the_process(void **state)
{
    (void)state;
    cpus = 2;
    running = dereference_the_object;
    assert_int_equal(in_child(start_and_run).signal, SIGSEGV);
}

static void drop_and_take_again(void)
{
    const struct slm_percpu_place first = take(SLM_PERCPU_UNITS), second = take(10);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        memset(copy(&first, cpu), 1, SLM_PERCPU_PIECE);
    *copy(&second, 0) = 1;
    put(first, SLM_PERCPU_UNITS);
    errno = EDOM;
    require(slm_percpu_blocks_drop(&first));
    require(errno == EDOM);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        if (!slm_vm_is_mapped(pieces_of(0))) /* else the kernel holds the whole range for us */
            require(!slm_vm_is_mapped(copy(&first, cpu)));
    require(count().mapped_bytes == cpus * (uint64_t)SLM_PERCPU_PIECE);
    struct slm_percpu_place again;
    unsigned touched = 1, piece;
    require(!slm_percpu_blocks_at(first.pieces, &again, &piece));
    require(slm_percpu_blocks_take(SLM_PERCPU_UNITS, 1, &again, &touched));
    require(number_of(&again) == 0 && touched == 0);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        require(all_zero(copy(&again, cpu), SLM_PERCPU_PIECE));
    require(*copy(&second, 0) == 1);
}

static void a_dropped_block_comes_again_and_is_zero(void **state)
{
    (void)state;
    with_few_and_many_cpus(drop_and_take_again);
}

/* False where the range is a mapping of ours: nothing of others can lie in it. */
static bool map_foreign(char *address, size_t bytes)
{
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void *foreign = mmap(address, bytes, PROT_READ | PROT_WRITE, how, -1, 0);
    require(foreign == address || (foreign == MAP_FAILED && errno == EEXIST));
    return foreign == address;
}

/* In the last page of the last CPU's piece of block 1. */
static void have_a_foreign_mapping(void)
{
    char *foreign = pieces_of(2) - slm_page_size;
    require(map_foreign(foreign, slm_page_size));
    memset(foreign, 7, slm_page_size);
    struct slm_percpu_place places[3];
    for (unsigned i = 0; i < COUNT(places); i++)
        places[i] = take(SLM_PERCPU_UNITS);
    require(number_of(&places[0]) == 0 && number_of(&places[1]) == 2 && number_of(&places[2]) == 3);
    for (size_t i = 0; i < COUNT(places); i++)
        memset(copy(&places[i], cpus - 1), 1, SLM_PERCPU_PIECE);
    require(foreign[0] == 7 && memcmp(foreign, foreign + 1, slm_page_size - 1) == 0);
    struct slm_percpu_place place;
    unsigned piece;
    require(!slm_percpu_blocks_at(foreign, &place, &piece));
    require(munmap(foreign, slm_page_size) == 0);
    place = take(SLM_PERCPU_UNITS); /* it is tried again */
    require(number_of(&place) == 1);
}

/* Then the range is used up, and what is there can be used nevertheless. */
static void have_foreign_mappings_everywhere(void)
{
    require(map_foreign(pieces_of(2), slm_range.percpu_bytes - 2 * block_bytes()));
    struct slm_percpu_place places[2], place;
    unsigned touched;
    for (size_t i = 0; i < COUNT(places); i++)
        places[i] = take(SLM_PERCPU_UNITS - 1);
    const struct slm_percpu_figures before = count();
    errno = 0;
    require(!slm_percpu_blocks_take(2, 1, &place, &touched) && errno == ENOMEM);
    require(count().mapped_bytes == before.mapped_bytes && count().objects == 2);
    require(take(1).at == SLM_PERCPU_UNITS - 1);
    put(places[1], SLM_PERCPU_UNITS - 1);
    require(take(2).at == 0);
}

static void what_lies_in_the_way_is_stepped_over(void **state)
{
    (void)state;
    if (slm_vm_is_mapped(slm_range.percpu)) {
        print_message("the whole range is held: nothing of others can lie in it\n");
        skip();
    }
    with_few_and_many_cpus(have_a_foreign_mapping);
    in_child_with(8192, have_foreign_mappings_everywhere);
}

static void have_no_memory(void)
{
    struct slm_percpu_place place, other;
    unsigned touched;
    const struct slm_percpu_place kept = take(SLM_PERCPU_UNITS - 100);
    memset(copy(&kept, 0), 1, 100);
    const struct slm_percpu_figures before = count();
    forbid_memory();
    for (unsigned i = 0; i < 3; i++) {
        errno = 0;
        require(!slm_percpu_blocks_take(101, 1, &place, &touched) && errno == ENOMEM);
    }
    const struct slm_percpu_figures after = count();
    require(memcmp(&before, &after, sizeof before) == 0);
    require(slm_percpu_blocks_take(100, 1, &place, &touched) && number_of(&place) == 0);
    put(place, 100);
    put(kept, SLM_PERCPU_UNITS - 100);
    require(slm_percpu_blocks_vacant(&other) && other.block == kept.block);
}

static void have_no_memory_from_the_first(void)
{
    struct slm_percpu_place place;
    unsigned touched;
    forbid_memory();
    errno = 0;
    require(!slm_percpu_blocks_take(1, 1, &place, &touched) && errno == ENOMEM);
    require(count().mapped_bytes == 0 && !slm_percpu_blocks_vacant(&place));
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    with_few_and_many_cpus(have_no_memory);
    with_few_and_many_cpus(have_no_memory_from_the_first);
}

static void start_with_too_many(void)
{
    require(!slm_percpu_blocks_start(1u << 27, false));
    require(slm_percpu_blocks_start(2, false));
    require(take(1).at == 0);
}

static void more_cpus_than_the_range_has_room_for_are_refused(void **state)
{
    (void)state;
    cpus = 2;
    assert_child_silent(start_with_too_many);
}

/* -- what an address says ---------------------------------------------------------------------------------------- */

static bool is_at(const char *address, unsigned number, unsigned piece_expected, unsigned unit)
{
    struct slm_percpu_place place;
    unsigned piece = ~0u;
    return slm_percpu_blocks_at(address, &place, &piece) && number_of(&place) == number &&
           place.pieces == pieces_of(number) && place.at == unit && piece == piece_expected && place.block->map;
}

static bool is_nowhere(const void *address)
{
    struct slm_percpu_place place;
    unsigned piece;
    return !slm_percpu_blocks_at(address, &place, &piece);
}

static void ask_before_there_are_blocks(void)
{
    require(is_nowhere(NULL) && is_nowhere(&errno) && is_nowhere(slm_range.percpu));
    require(count().mapped_bytes == 0 && count().metadata_bytes == 0);
    require(slm_percpu_blocks_start(2, false));
    require(is_nowhere(slm_range.percpu));
}

static void ask_for_places(void)
{
    static char data;
    char stack;
    const struct slm_percpu_place first = take(SLM_PERCPU_UNITS), second = take(10), third = take(SLM_PERCPU_UNITS);
    const void *const elsewhere[] = {NULL,
                                     (void *)1,
                                     (void *)UINTPTR_MAX,
                                     &data,
                                     &stack,
                                     (void *)(uintptr_t)start_and_run,
                                     slm_range.heap,
                                     pieces_of(0) - 1,
                                     pieces_of(3),
                                     pieces_of(3) + SLM_PERCPU_PIECE,
                                     slm_range.percpu + slm_range.percpu_bytes - 1,
                                     slm_range.percpu + slm_range.percpu_bytes};
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        require(is_nowhere(elsewhere[i]));
    for (unsigned number = 0; number < 3; number++)
        for (unsigned piece = 0; piece <= cpus; piece++) {
            const char *start = pieces_of(number) + (size_t)piece * SLM_PERCPU_PIECE;
            require(is_at(start, number, piece, 0) && is_at(start + 3, number, piece, 0));
            require(is_at(start + 4, number, piece, 1) && is_at(start + 1023, number, piece, 255));
            require(is_at(start + SLM_PERCPU_PIECE - 1, number, piece, SLM_PERCPU_UNITS - 1));
        }
    put(second, 10);
    require(is_at(second.pieces, 1, 0, 0)); /* mapped, though nobody has it */
    require(slm_percpu_blocks_drop(&second));
    require(is_nowhere(pieces_of(1)) && is_nowhere(pieces_of(2) - 1));
    require(is_at(first.pieces, 0, 0, 0) && is_at(third.pieces, 2, 0, 0));
}

static void an_address_is_known_by_its_block_piece_and_unit(void **state)
{
    (void)state;
    assert_child_silent(ask_before_there_are_blocks);
    with_few_and_many_cpus(ask_for_places);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_go_to_the_shortest_run_of_all_blocks),
        cmocka_unit_test(a_block_without_room_in_the_class_is_not_the_best),
        cmocka_unit_test(management_does_not_grow_with_cpus),
        cmocka_unit_test(every_cpu_has_a_copy),
        cmocka_unit_test(dereferencing_an_object_ends_the_process),
        cmocka_unit_test(a_dropped_block_comes_again_and_is_zero),
        cmocka_unit_test(what_lies_in_the_way_is_stepped_over),
        cmocka_unit_test(no_memory_is_an_answer),
        cmocka_unit_test(more_cpus_than_the_range_has_room_for_are_refused),
        cmocka_unit_test(an_address_is_known_by_its_block_piece_and_unit),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
