/* slab_percpu_alloc and slab_percpu_free: which sizes and alignments there are, that every copy is zero, aligned and
 * nobody else's, at the same distance from the one before, and what is said of them in errno and in the figures.
 *
 * Written in: include/slabmalloc.h ("per-CPU memory"). Patterns that differ between objects, and between the copies
 * of one, tell whether two overlap anywhere. */
#include "percpu.h"

/* -- sizes and alignments ---------------------------------------------------------------------------------------- */

static const size_t sizes[] = {1,    2,    3,    4,    5,    7,    8,     9,     15,    16,    17,
                               24,   31,   63,   64,   65,   100,  255,   256,   1000,  1024,  2047,
                               2048, 2049, 4095, 4096, 4097, 8192, 10000, 16384, 20000, 32767, 32768};

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void require_aligned(slab_percpu object, size_t align)
{
    unsigned char *copy;
    slab_percpu_for_each (cpu, copy, object)
        require(is_aligned(copy, align) && is_aligned(copy, 4));
}

/* All are live together, so that neither may touch its neighbours. */
static void sizes_and_alignments(const char *argument)
{
    (void)argument;
    slab_percpu objects[COUNT(sizes) * 17];
    size_t count = 0;
    for (size_t align = 1; align <= page_size(); align *= 2)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            require(count < COUNT(objects));
            slab_percpu object = objects[count] = make_object(sizes[i], align);
            require_aligned(object, align);
            require(copies_are_zero(object, sizes[i]));
            fill_copies(object, sizes[i], (unsigned)count++);
        }
    for (size_t i = 0; i < count; i++)
        require(copies_hold(objects[i], sizes[i % COUNT(sizes)], (unsigned)i));
    for (size_t i = 0; i < count; i++)
        slab_percpu_free(objects[i]);
    require(process_figures().percpu_objects == 0);
}

static void require_refused(size_t size, size_t align)
{
    errno = 0;
    require(slab_percpu_alloc(opaque_size(size), opaque_size(align)) == NULL && errno == EINVAL);
}

static void what_there_is_not(const char *argument)
{
    const size_t bad_sizes[] = {
        0, LARGEST + 1, LARGEST + 4, 64 * KIB, MIB, (size_t)1 << 32, SIZE_MAX / 2, SIZE_MAX - 3, SIZE_MAX};
    const size_t bad_aligns[] = {
        0, 3, 5, 12, 24, 4095, page_size() + 1, 2 * page_size(), 64 * MIB, SIZE_MAX / 2 + 1, SIZE_MAX};
    (void)argument;
    for (unsigned round = 0; round < 2; round++) { /* as the first calls in a process, and later */
        const slab_stats before = process_figures();
        for (size_t align = 1; align <= page_size(); align *= 2)
            for (size_t i = 0; i < COUNT(bad_sizes); i++)
                require_refused(bad_sizes[i], align);
        for (size_t i = 0; i < COUNT(bad_aligns); i++)
            for (size_t j = 0; j < COUNT(sizes); j++)
                require_refused(sizes[j], bad_aligns[i]);
        require_refused(0, 0);
        require_refused(SIZE_MAX, SIZE_MAX);
        require(same_percpu_figures(before, process_figures()));
        slab_percpu_free(make_counter());
    }
}

/* -- errno ------------------------------------------------------------------------------------------------------- */

static void errno_is_kept(const char *argument)
{
    (void)argument;
    slab_percpu objects[500];
    errno = EDOM;
    slab_percpu_free(NULL);
    require(errno == EDOM);
    for (size_t i = 0; i < COUNT(objects); i++) { /* the first one reads a file */
        objects[i] = make_object(1000, 8);
        require(errno == EDOM);
    }
    require(slab_percpu_cpus() > 0 && errno == EDOM);
    for (size_t i = 0; i < COUNT(objects); i++) {
        slab_percpu_free(objects[i]);
        require(errno == EDOM);
    }
    slab_purge();
    slab_percpu_free(make_counter());
    require(errno == EDOM);
}

/* -- copies ------------------------------------------------------------------------------------------------------ */

/* What the kernel says: "0-7" or, where some are missing, "0,2-3". */
static void copies_for_possible_cpus(const char *argument)
{
    (void)argument;
    int first, last, cpus = slab_percpu_cpus();
    char rest;
    FILE *possible = fopen("/sys/devices/system/cpu/possible", "re");
    if (possible == NULL)
        skip_role("no /sys says which CPUs are possible");
    require(fscanf(possible, "%d", &first) == 1);
    for (last = first; fscanf(possible, "%c%d", &rest, &last) == 2;)
        continue;
    fclose(possible);
    require(cpus == last + 1);
    slab_percpu counter = make_counter();
    require(slab_percpu_cpus() == cpus);
    move_to(cpu_behind(0));
    require(slab_percpu_cpus() == cpus);
    slab_percpu_free(counter);
}

static void copies_at_a_constant_distance(const char *argument)
{
    (void)argument;
    slab_percpu objects[400];
    const ptrdiff_t distance = distance_of_copies(objects[0] = make_object(1, 1));
    require(distance >= (ptrdiff_t)LARGEST);
    for (size_t i = 1; i < COUNT(objects); i++) {
        objects[i] = make_object(1 + i * i % LARGEST, 4);
        char *first = (char *)slab_percpu_ptr(objects[i], 0), *copy;
        slab_percpu_for_each (cpu, copy, objects[i])
            require(copy == first + cpu * distance);
    }
    for (size_t i = 0; i < COUNT(objects); i++)
        slab_percpu_free(objects[i]);
}

/* A program that takes the object for an address ends: neither the first byte nor the last may be read. */
static void an_object_is_no_address(const char *argument)
{
    (void)argument;
    for (size_t size = 1; size <= LARGEST; size *= 32) {
        slab_percpu object = make_object(size, 1);
        for (unsigned end = 0; end < 2; end++) {
            const pid_t child = fork();
            require(child >= 0);
            if (child == 0) {
                const volatile char *bytes = (const volatile char *)opaque((void *)object);
                _exit(bytes[end ? size - 1 : 0]);
            }
            const int status = wait_for(child);
            require(status != -1 && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        }
    }
}

/* -- contents ---------------------------------------------------------------------------------------------------- */

/* Memory that was dirtied on every CPU is handed out again in pieces of other sizes: zero, each time. */
static void zero_again(const char *argument)
{
    (void)argument;
    slab_percpu objects[64];
    uint64_t random = 11;
    for (unsigned round = 0; round < 60; round++) {
        const size_t size = round == 0 ? LARGEST : 1 + random_next(&random) % (round % 2 ? 300 : LARGEST);
        for (size_t i = 0; i < COUNT(objects); i++) {
            objects[i] = make_object(size, 1);
            require(copies_are_zero(objects[i], size));
            char *copy;
            slab_percpu_for_each (cpu, copy, objects[i])
                memset(copy, 0xff, size);
        }
        for (size_t i = 0; i < COUNT(objects); i++)
            slab_percpu_free(objects[i]);
    }
}

/* One of many objects of all sizes that come and go. */
struct piece {
    slab_percpu object;
    size_t size;
    unsigned seed;
};

static void piece_make(struct piece *piece, uint64_t *random)
{
    const uint64_t dice = random_next(random);
    const size_t most = dice % 50 == 0 ? LARGEST : dice % 5 == 0 ? 2048 : 64;
    const size_t align = (size_t)1 << (dice >> 8) % (dice % 7 == 0 ? 13 : 5);
    piece->size = 1 + (dice >> 16) % most;
    piece->seed = (unsigned)random_next(random);
    piece->object = make_object(piece->size, align);
    require_aligned(piece->object, align);
    require(copies_are_zero(piece->object, piece->size));
    fill_copies(piece->object, piece->size, piece->seed);
}

static void piece_free(struct piece *piece)
{
    require(copies_hold(piece->object, piece->size, piece->seed));
    slab_percpu_free(piece->object);
    piece->object = NULL;
}

/* Makes pieces in free places of an array of them and frees those in others, `steps` times. */
static void come_and_go(struct piece *pieces, size_t count, unsigned steps, uint64_t seed)
{
    uint64_t random = seed * 2654435761u + 88172645463325252u;
    for (unsigned step = 0; step < steps; step++) {
        struct piece *piece = &pieces[random_next(&random) % count];
        if (piece->object == NULL)
            piece_make(piece, &random);
        else
            piece_free(piece);
    }
}

static void free_pieces(struct piece *pieces, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (pieces[i].object != NULL)
            piece_free(&pieces[i]);
}

static void objects_never_overlap(const char *argument)
{
    (void)argument;
    static struct piece pieces[3000];
    come_and_go(pieces, COUNT(pieces), 30000, 1);
    free_pieces(pieces, COUNT(pieces));
    require(process_figures().percpu_objects == 0 && process_figures().percpu_bytes == 0);
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, PIECES_OF_A_THREAD = 200 };

static struct piece handed[THREADS][PIECES_OF_A_THREAD];
static pthread_barrier_t all_have_made;

/* Makes and frees beside the others, then frees what its neighbour has left. */
static void *make_and_free_the_neighbours(void *number)
{
    const size_t self = (size_t)number;
    come_and_go(handed[self], PIECES_OF_A_THREAD, 5000, self + 1);
    pthread_barrier_wait(&all_have_made);
    free_pieces(handed[(self + 1) % THREADS], PIECES_OF_A_THREAD);
    return NULL;
}

static void threads_free_what_others_made(const char *argument)
{
    (void)argument;
    require(pthread_barrier_init(&all_have_made, NULL, THREADS) == 0);
    for (unsigned round = 0; round < 3; round++) {
        run_threads(THREADS, make_and_free_the_neighbours);
        require(process_figures().percpu_objects == 0 && process_figures().percpu_bytes == 0);
    }
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static void figures_of_live_objects(const char *argument)
{
    (void)argument;
    slab_percpu objects[COUNT(sizes)];
    const slab_stats nothing = process_figures();
    require(nothing.percpu_objects == 0 && nothing.percpu_bytes == 0 && nothing.percpu_mapped_bytes == 0);
    slab_stats now = nothing;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const slab_stats before = now;
        objects[i] = make_object(sizes[i], 4);
        now = process_figures();
        const uint64_t bytes = now.percpu_bytes - before.percpu_bytes;
        require(now.percpu_objects == before.percpu_objects + 1);
        require(bytes >= sizes[i] && bytes < sizes[i] + 4); /* whole words */
        require(now.percpu_mapped_bytes >= now.percpu_bytes * (uint64_t)slab_percpu_cpus());
        require(now.percpu_metadata_bytes > 0 && now.percpu_metadata_bytes <= now.metadata_bytes);
    }
    for (size_t i = COUNT(sizes); i-- > 0;) {
        slab_percpu_free(objects[i]);
        now = process_figures();
        require(now.percpu_objects == i && now.percpu_bytes <= nothing.percpu_bytes + i * (LARGEST + 3));
    }
    require(now.percpu_bytes == 0);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"sizes_and_alignments", sizes_and_alignments},
        {"what_there_is_not", what_there_is_not},
        {"errno_is_kept", errno_is_kept},
        {"copies_for_possible_cpus", copies_for_possible_cpus},
        {"copies_at_a_constant_distance", copies_at_a_constant_distance},
        {"an_object_is_no_address", an_object_is_no_address},
        {"zero_again", zero_again},
        {"objects_never_overlap", objects_never_overlap},
        {"threads_free_what_others_made", threads_free_what_others_made},
        {"figures_of_live_objects", figures_of_live_objects},
    };
    return run_scenarios("per-CPU objects", scenarios, COUNT(scenarios), argc, argv);
}
