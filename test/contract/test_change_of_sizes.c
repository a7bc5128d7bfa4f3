/* Programs whose sizes change: a range of sizes is made, a half freed, and the room filled with another range, again
 * and again. What an allocator makes of the holes must not show.
 *
 * Written in: malloc(3) (the contents of an object are the program's alone, from any thread, in a child too;
 * realloc keeps them, calloc's are zero; the alignment asked for), malloc_usable_size(3), and in slabmalloc.h for
 * the figures. */
#include "common.h"

#include <slabmalloc.h>

enum { MOST = 60000, FULL = 4 << 20, ROUNDS = 12 };

struct object {
    unsigned char *bytes;
    size_t size, alignment; /* alignment: 0: as malloc has it */
};

struct crowd {
    struct object objects[MOST];
    unsigned count, seed;
    size_t live;
    uint64_t random;
};

static const struct {
    size_t least, most;
} ranges[] = {{16, 255}, {300, 1500}, {1024, 9000}, {100, 200}, {4096, 32768}, {16, 1000}};

static size_t draw(struct crowd *crowd, size_t least, size_t most)
{
    return least + random_next(&crowd->random) % (most - least + 1);
}

static void own(struct crowd *crowd, struct object *object)
{
    require(object->bytes != NULL && malloc_usable_size(object->bytes) >= object->size);
    require(is_aligned(object->bytes, object->alignment ? object->alignment : NATURAL_ALIGNMENT));
    pattern_fill(object->bytes, object->size, crowd->seed + (unsigned)object->size);
}

static void check(const struct crowd *crowd, const struct object *object)
{
    require(pattern_holds(object->bytes, object->size, crowd->seed + (unsigned)object->size));
}

static void make(struct crowd *crowd, size_t size)
{
    struct object *object = &crowd->objects[crowd->count++];
    require(crowd->count <= MOST);
    *object = (struct object){.size = size};
    switch (random_next(&crowd->random) % 8) {
    case 0:
        object->bytes = calloc(1, size);
        for (size_t i = 0, end = malloc_usable_size(object->bytes); i < end; i++)
            require(object->bytes[i] == 0 || (on_glibc() && i >= size));
        break;
    case 1:
        object->alignment = (size_t)16 << random_next(&crowd->random) % 9;
        object->bytes = aligned_alloc(object->alignment, size);
        break;
    default:
        object->bytes = malloc(size);
    }
    own(crowd, object);
    crowd->live += size;
}

static void drop(struct crowd *crowd, unsigned which)
{
    struct object *object = &crowd->objects[which];
    check(crowd, object);
    crowd->live -= object->size;
    if (object->alignment == 0 && free_sized && which % 2)
        free_sized(object->bytes, object->size);
    else if (object->alignment != 0 && free_aligned_sized && which % 2)
        free_aligned_sized(object->bytes, object->alignment, object->size);
    else
        free(object->bytes);
    *object = crowd->objects[--crowd->count];
}

static void resize(struct crowd *crowd, unsigned which, size_t size)
{
    struct object *object = &crowd->objects[which];
    const size_t kept = size < object->size ? size : object->size;
    unsigned char *before = malloc(object->size);
    check(crowd, object);
    memcpy(before, object->bytes, object->size);
    crowd->live += size - object->size;
    object->bytes = realloc(object->bytes, size);
    require(object->bytes != NULL && memcmp(object->bytes, before, kept) == 0);
    free(before);
    *object = (struct object){.bytes = object->bytes, .size = size};
    own(crowd, object);
}

static void change(struct crowd *crowd, unsigned round)
{
    const size_t least = ranges[round % COUNT(ranges)].least, most = ranges[round % COUNT(ranges)].most;
    while (crowd->live < FULL)
        make(crowd, draw(crowd, least, most));
    for (unsigned i = 0; i < crowd->count / 16; i++)
        resize(crowd, (unsigned)draw(crowd, 0, crowd->count - 1), draw(crowd, least, most));
    for (unsigned i = 0; i < crowd->count; i++)
        check(crowd, &crowd->objects[i]);
}

static void drop_half(struct crowd *crowd)
{
    for (unsigned left = crowd->count; left > 0; left--)
        if (random_next(&crowd->random) % 2)
            drop(crowd, left - 1);
}

static void drop_all(struct crowd *crowd)
{
    while (crowd->count > 0)
        drop(crowd, crowd->count - 1);
}

static void begin(struct crowd *crowd, unsigned seed)
{
    *crowd = (struct crowd){.seed = seed, .random = seed};
}

/* -- one thread -------------------------------------------------------------------------------------------------- */

static struct crowd crowds[4];

static void test_contents_are_the_programs(void **state)
{
    (void)state;
    begin(&crowds[0], 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        change(&crowds[0], round);
        drop_half(&crowds[0]);
    }
    drop_all(&crowds[0]);
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static uint64_t live_bytes(void)
{
    slab_stats stats;
    require(slab_get_stats(&stats, sizeof stats) == 0);
    return stats.live_bytes;
}

/* The row of a size class: live objects, all there is room for, and their size. */
static void require_row(const char *row, const unsigned *live)
{
    size_t active, all, size;
    if (sscanf(row, "size-%*u %zu %zu %zu", &active, &all, &size) != 3)
        return;
    require(active <= all);
    require(active >= live[size / 16]);
    require(active < live[size / 16] + 100); /* libc's and cmocka's */
}

static void test_figures_count_objects_by_their_size(void **state)
{
    (void)state;
    skip_on_glibc("it has no such figures");
    static unsigned live[32768 / 16 + 1];
    static char table[1 << 16];
    struct crowd *crowd = &crowds[0];
    begin(crowd, 2);
    const uint64_t before = live_bytes();
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t usable = 0;
        change(crowd, round);
        memset(live, 0, sizeof live);
        for (unsigned i = 0; i < crowd->count; i++) {
            const size_t bytes = malloc_usable_size(crowd->objects[i].bytes);
            usable += bytes;
            if (bytes <= 32768)
                live[bytes / 16]++;
        }
        assert_true(live_bytes() == before + usable);
        FILE *memory = fmemopen(table, sizeof table, "w");
        require(memory && slab_info(memory) == 0 && fclose(memory) == 0);
        for (char *row = strtok(table, "\n"); row; row = strtok(NULL, "\n"))
            require_row(row, live);
        drop_half(crowd);
    }
    drop_all(crowd);
    assert_true(live_bytes() == before);
}

/* -- threads and children ---------------------------------------------------------------------------------------- */

static pthread_barrier_t turn;

/* Each drops what the one before has made. */
static void *change_and_hand_over(void *ordinal)
{
    const size_t mine = (uintptr_t)ordinal;
    for (unsigned round = 0; round < ROUNDS; round++) {
        change(&crowds[(mine + round) % COUNT(crowds)], round + (unsigned)mine);
        drop_half(&crowds[(mine + round) % COUNT(crowds)]);
        pthread_barrier_wait(&turn);
    }
    return NULL;
}

static void change_in_threads(void)
{
    pthread_t threads[COUNT(crowds)];
    pthread_barrier_init(&turn, NULL, COUNT(threads));
    for (unsigned i = 0; i < COUNT(threads); i++)
        begin(&crowds[i], i + 10);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, change_and_hand_over, (void *)(uintptr_t)i) == 0);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static void test_threads_drop_what_others_have_made(void **state)
{
    (void)state;
    change_in_threads();
    for (unsigned i = 0; i < COUNT(crowds); i++)
        drop_all(&crowds[i]);
}

static void *change_for_ever(void *crowd)
{
    for (unsigned round = 0;; round++) {
        change(crowd, round);
        drop_half(crowd);
    }
    return NULL;
}

/* The child goes on with what was made before, while in the parent others were at it. */
static void role_fork(const char *nothing)
{
    pthread_t threads[2];
    (void)nothing;
    opaque(malloc(8 * MIB));
    begin(&crowds[0], 20);
    for (unsigned i = 0; i < COUNT(threads); i++) {
        begin(&crowds[i + 1], i + 21);
        require(pthread_create(&threads[i], NULL, change_for_ever, &crowds[i + 1]) == 0);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        int status = 0;
        change(&crowds[0], round);
        drop_half(&crowds[0]);
        const pid_t child = fork();
        if (child == 0) {
            for (unsigned i = 1; i < 4; i++) {
                change(&crowds[0], round + i);
                drop_half(&crowds[0]);
            }
            drop_all(&crowds[0]);
            _exit(0);
        }
        require(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
    _exit(0);
}

static void test_children_go_on_in_the_middle(void **state)
{
    (void)state;
    assert_role_succeeds("fork", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"fork", role_fork},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    opaque(malloc(8 * MIB)); /* a process of a few megabytes takes no pains */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents_are_the_programs),
        cmocka_unit_test(test_figures_count_objects_by_their_size),
        cmocka_unit_test(test_threads_drop_what_others_have_made),
        cmocka_unit_test(test_children_go_on_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
