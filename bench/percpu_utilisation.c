/* How much of the pages that per-CPU memory takes holds live bytes: percpu_utilisation [ROUNDS]
 *
 * Objects of random sizes, 4 to 2048 bytes and every byte count as likely, are made until 16 MiB of them live on each
 * CPU. A round frees half of them at random and fills up again. Then the copies of one CPU are written, all bytes of
 * every live object, and the kernel is asked by mincore(2) which pages are resident in all pieces of 64 KiB in which
 * a copy of that CPU has ever lain: these are the pages in use. So pages count that hold nothing any more, and what
 * has been unmapped does not.
 *
 * Two runs: `any` has all objects aligned to 4 bytes; `natural` has them aligned as malloc's callers expect, to the
 * largest power of two up to 16 that their size allows. Beside each round stands what would be used if every size
 * were rounded up to a power of two, and nothing else were lost: live bytes over rounded ones.
 *
 * Each byte of an object has the object's own mark and is looked at before the object is freed: objects that overlap
 * would use pages well. */
#include "bench.h"

#include <errno.h>
#include <slabmalloc.h>
#include <stdbool.h>

enum {
    LEAST_BYTES = 4,
    MOST_BYTES = 2048,
    LIVE_BYTES = 16 << 20,
    MAX_OBJECTS = LIVE_BYTES / LEAST_BYTES,
    PIECE_BYTES = 64 << 10,
    MAX_PIECES = 1 << 14, /* a power of two */
    MOST_ALIGNED = 16,
    CPU = 0, /* whose copies are looked at */
    SEED = 1,
};

struct object {
    slab_percpu handle;
    uint16_t bytes;
    unsigned char mark;
};

static struct object *objects;
static size_t live, live_bytes, rounded_bytes;
static uintptr_t pieces[MAX_PIECES]; /* a hash table: where copies of this CPU have lain */
static uint64_t random_state;

// -- objects --------------------------------------------------------------------------------------------------------

static size_t round_to_power(size_t bytes)
{
    size_t power = LEAST_BYTES;
    while (power < bytes)
        power *= 2;
    return power;
}

static size_t alignment_of(size_t bytes, bool natural)
{
    size_t align = LEAST_BYTES;
    while (natural && align < MOST_ALIGNED && 2 * align <= bytes)
        align *= 2;
    return align;
}

static unsigned char *copy_of(const struct object *object)
{
    return slab_percpu_ptr(object->handle, CPU);
}

static void remember_piece(uintptr_t address)
{
    const uintptr_t piece = address / PIECE_BYTES;
    size_t at = piece * 0x9e3779b97f4a7c15u >> 40;
    for (unsigned tries = 0; tries < MAX_PIECES; tries++, at++) {
        uintptr_t *place = &pieces[at % MAX_PIECES];
        if (*place == 0)
            *place = piece;
        if (*place == piece)
            return;
    }
    bench_die("copies lie in more than %d pieces", MAX_PIECES);
}

static void make_object(bool natural)
{
    const uint64_t number = bench_random(&random_state);
    const size_t bytes = LEAST_BYTES + (number >> 32) % (MOST_BYTES - LEAST_BYTES + 1);
    struct object *object = &objects[live++];
    object->handle = slab_percpu_alloc(bytes, alignment_of(bytes, natural));
    if (object->handle == NULL)
        bench_die("no per-CPU object of %zu bytes", bytes);
    object->bytes = (uint16_t)bytes;
    object->mark = (unsigned char)(number % UINT8_MAX + 1); /* never that of fresh memory */
    const uintptr_t copy = (uintptr_t)copy_of(object);
    if (copy % alignment_of(bytes, natural) != 0)
        bench_die("an object of %zu bytes is not aligned", bytes);
    remember_piece(copy);
    remember_piece(copy + bytes - 1);
    memset((void *)copy, object->mark, bytes);
    live_bytes += bytes;
    rounded_bytes += round_to_power(bytes);
}

/* Its slot is the last one's from then on. */
static void free_object(size_t i)
{
    struct object *object = &objects[i];
    const unsigned char *copy = copy_of(object);
    if (copy[0] != object->mark || memcmp(copy, copy + 1, object->bytes - 1u) != 0)
        bench_die("an object of %u bytes has been written by another one", object->bytes);
    slab_percpu_free(object->handle);
    live_bytes -= object->bytes;
    rounded_bytes -= round_to_power(object->bytes);
    *object = objects[--live];
}

static void fill(bool natural)
{
    while (live_bytes < LIVE_BYTES)
        make_object(natural);
}

static void free_all_but(size_t left)
{
    while (live > left)
        free_object((bench_random(&random_state) >> 32) * live >> 32);
}

// -- pages ----------------------------------------------------------------------------------------------------------

static void write_copies(void)
{
    for (size_t i = 0; i < live; i++)
        memset(copy_of(&objects[i]), objects[i].mark, objects[i].bytes);
}

static size_t resident_bytes(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t found = 0;
    for (size_t i = 0; i < MAX_PIECES; i++) {
        unsigned char resident[PIECE_BYTES / 4096];
        if (pieces[i] == 0)
            continue;
        if (mincore((void *)(pieces[i] * PIECE_BYTES), PIECE_BYTES, resident) != 0) {
            if (errno != ENOMEM) /* unmapped by now */
                bench_die("the kernel does not say which pages are resident: %m");
            continue;
        }
        for (size_t k = 0; k < PIECE_BYTES / page; k++)
            found += resident[k] & 1 ? page : 0;
    }
    if (found < live_bytes)
        bench_die("%zu bytes are resident, and %zu live in them", found, live_bytes);
    return found;
}

// -- the run --------------------------------------------------------------------------------------------------------

static double percent(size_t part, size_t whole)
{
    return 100 * (double)part / (double)whole;
}

static void run(const char *name, bool natural, unsigned rounds)
{
    char figure[64];
    double least = 100, powers = 0;
    random_state = SEED;
    memset(pieces, 0, sizeof pieces);
    for (unsigned round = 0; round <= rounds; round++) {
        if (round > 0)
            free_all_but(live / 2);
        fill(natural);
        write_copies();
        const double used = percent(live_bytes, resident_bytes());
        powers = percent(live_bytes, rounded_bytes);
        least = used < least ? used : least;
        bench_point(name, round, "round", used, "%");
        printf("%s, round %u: %zu objects, %.2f %% of the pages in use are live; with powers of two %.2f %%\n", name,
               round, live, used, powers);
    }
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    snprintf(figure, sizeof figure, "%s_unused", name);
    bench_figure(figure, 100 - least, "%");
    snprintf(figure, sizeof figure, "%s_unused_by_powers_of_two", name);
    bench_figure(figure, 100 - powers, "%");
    snprintf(figure, sizeof figure, "%s_management", name);
    bench_figure(figure, percent(stats.percpu_metadata_bytes, live_bytes), "%");
    free_all_but(0);
}

int main(int count, char **words)
{
    if (count > 2)
        bench_die("usage: %s [ROUNDS]", words[0]);
    const unsigned rounds = count == 2 ? (unsigned)bench_number(words[1]) : 100;
    objects = mmap(NULL, MAX_OBJECTS * sizeof *objects, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (objects == MAP_FAILED)
        bench_die("no memory for a table");
    printf("seed %d\n", SEED);
    run("any", false, rounds);
    run("natural", true, rounds);
    return 0;
}
