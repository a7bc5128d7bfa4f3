/* Per-CPU objects of all sizes and alignments, allocated and freed by all threads at once.
 *
 *     thread: hand of holdings  -- mail -->  another's hand
 *        |
 *        +-- a child now and then: looks at what its parent's thread holds and what is in the mail, frees it, goes on
 *
 *     holding: | object | size | align | serial | share |
 *
 * Whoever gets an object finds zero in every byte of every copy, and aligned copies; then he writes a pattern that
 * follows from the holding's serial number and the CPU into all copies or a share of them. Before an object is freed,
 * by whomever, every byte of every copy is compared: those that nobody wrote to must be zero still. Hands are emptied
 * now and then, so that whole blocks become vacant, and what can go is given back to the kernel.
 *
 * Promised: objects are zero at birth, nobody else's, and as they were left; errno is kept; at the end the figures
 * count what is held, then nothing, and no address stays mapped behind a purge. */
#include "percpu.h"

#include <unistd.h>

enum {
    HELD = 96,
    LETTERS = 16,
    LARGEST = 32 << 10,
    MOST_SHARES = 8,
    STEPS_AT_ONCE = 32, /* between two looks at the end */
    CHILD_STEPS = 200,  /* of each of a child's two threads */
    LEAST_MADE = 300,   /* objects, by all threads */
    LEAST_OTHERS = 2,   /* of whatever else must have happened */
};

struct holding {
    slab_percpu object;
    size_t size, align;
    uint64_t serial; /* never comes again */
    unsigned share;  /* one of so many copies is written to, as the serial has it; 1: all */
};

struct holder {
    pthread_t thread;
    unsigned place;
    uint64_t random, serial;
    struct holding *held[HELD];
    unsigned count;
    _Atomic uint64_t made, freed, letters, purges, children; /* tallies */
};

static struct holder holders[MAX_THREADS];
static _Atomic(struct holding *) mail[LETTERS]; /* an exchange, acquire and release, is the partner of another */
static pthread_barrier_t all_are_there;
static atomic_bool stopping; /* relaxed: a thread that sees it later goes on for longer */
static size_t page;

/* -- copies ------------------------------------------------------------------------------------------------------ */

/* What starts the pattern of a copy; 0 where nothing was written. */
static uint64_t pattern_of(const struct holding *holding, int cpu)
{
    const uint64_t drawn = mix(holding->serial ^ mix((uint64_t)cpu + 1));
    return drawn % holding->share == 0 ? drawn | 1 : 0;
}

/* The words of a pattern of 0 are 0. */
static uint64_t word_of(uint64_t pattern, size_t offset)
{
    return pattern * (2 * offset + 1);
}

static void write_copies(const struct holding *holding)
{
    char *copy;
    doing("writing to copies");
    slab_percpu_for_each (cpu, copy, holding->object) {
        const uint64_t pattern = pattern_of(holding, cpu);
        if (pattern == 0)
            continue;
        for (size_t i = 0; i < holding->size; i += sizeof(uint64_t)) {
            const uint64_t word = word_of(pattern, i);
            memcpy(copy + i, &word, holding->size - i < sizeof word ? holding->size - i : sizeof word);
        }
    }
}

static void check_copy(const struct holding *holding, const char *copy, int cpu, uint64_t pattern)
{
    for (size_t i = 0; i < holding->size; i += sizeof(uint64_t)) {
        const size_t bytes = holding->size - i < sizeof(uint64_t) ? holding->size - i : sizeof(uint64_t);
        uint64_t word = word_of(pattern, i), found = 0;
        memcpy(&found, copy + i, bytes);
        if (bytes < sizeof word)
            word &= (UINT64_C(1) << 8 * bytes) - 1; /* all machines that run this are little-endian */
        if (found != word)
            fail(FOUND_BROKEN,
                 "broken: object %p (%zu bytes, serial %#" PRIx64 "), CPU %d, byte %zu: %#" PRIx64 ", not %#" PRIx64,
                 (void *)(uintptr_t)holding->object, holding->size, holding->serial, cpu, i, found, word);
    }
}

static void check_copies(const struct holding *holding)
{
    const char *copy;
    doing("looking at copies");
    slab_percpu_for_each (cpu, copy, holding->object)
        check_copy(holding, copy, cpu, pattern_of(holding, cpu));
}

static void check_birth(const struct holding *holding)
{
    const char *copy;
    doing("looking at new copies");
    slab_percpu_for_each (cpu, copy, holding->object) {
        if ((uintptr_t)copy % holding->align != 0)
            fail(FOUND_BROKEN, "broken: copy %p of CPU %d is not aligned to %zu", (const void *)copy, cpu,
                 holding->align);
        check_copy(holding, copy, cpu, 0);
    }
}

/* -- steps ------------------------------------------------------------------------------------------------------- */

static size_t draw_size(uint64_t *random)
{
    const size_t most = once_in(random, 128) ? LARGEST : once_in(random, 8) ? 4096 : once_in(random, 2) ? 512 : 48;
    return draw_between(random, 1, most);
}

static size_t draw_align(uint64_t *random)
{
    const size_t most = once_in(random, 32) ? page : once_in(random, 4) ? 256 : 8;
    size_t align = 1;
    while (align < most && !once_in(random, 4))
        align *= 2;
    return align;
}

static void make(struct holder *self)
{
    struct holding *holding = malloc(sizeof *holding);
    if (holding == NULL)
        fail(FOUND_WRONG, "no holding");
    holding->size = draw_size(&self->random);
    holding->align = draw_align(&self->random);
    holding->serial = (uint64_t)self->place << 40 | ++self->serial;
    holding->share = once_in(&self->random, 2) ? 1 : (unsigned)draw_between(&self->random, 2, MOST_SHARES);
    doing("slab_percpu_alloc");
    holding->object = make_object(holding->size, holding->align);
    check_birth(holding);
    write_copies(holding);
    self->held[self->count++] = holding;
    tally(&self->made, 1);
}

static struct holding *take_any(struct holder *self)
{
    const unsigned index = (unsigned)(draw(&self->random) % self->count);
    struct holding *holding = self->held[index];
    self->held[index] = self->held[--self->count];
    return holding;
}

static void end(struct holder *self, struct holding *holding)
{
    check_copies(holding);
    doing("slab_percpu_free");
    errno = 4711;
    slab_percpu_free(holding->object);
    if (errno != 4711)
        fail(FOUND_WRONG, "freeing has set errno to %d", errno);
    free(holding);
    tally(&self->freed, 1);
}

static void empty_hand(struct holder *self)
{
    while (self->count != 0)
        end(self, take_any(self));
}

/* Whoever finds a letter frees it, or keeps it if he has given one for it. */
static void write_letter(struct holder *self)
{
    struct holding *given = self->count != 0 && once_in(&self->random, 2) ? take_any(self) : NULL;
    struct holding *found =
        atomic_exchange_explicit(&mail[draw(&self->random) % LETTERS], given, memory_order_acq_rel);
    if (found == NULL)
        return;
    tally(&self->letters, 1);
    if (given != NULL)
        self->held[self->count++] = found;
    else
        end(self, found);
}

static void empty_mail(struct holder *self)
{
    struct holding *left;
    for (unsigned i = 0; i < LETTERS; i++)
        if ((left = atomic_exchange_explicit(&mail[i], NULL, memory_order_acquire)) != NULL)
            end(self, left);
}

static void step(struct holder *self)
{
    const unsigned drawn = (unsigned)(draw(&self->random) % 1024);
    if (drawn < 2) {
        doing("slab_purge");
        slab_purge();
        tally(&self->purges, 1);
    } else if (drawn < 6) {
        empty_hand(self);
    } else if (drawn < 500 && self->count < HELD) {
        make(self);
    } else if (drawn < 900 && self->count != 0) {
        end(self, take_any(self));
    } else {
        write_letter(self);
    }
}

/* -- forks ------------------------------------------------------------------------------------------------------- */

static void *step_in_child(void *argument)
{
    struct holder *self = argument;
    start_work(self->place + 1, self->place);
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        step(self);
    empty_hand(self);
    return NULL;
}

/* Alone in its process: what has been made since then is counted to the object. */
static void expect_count(struct holder *self)
{
    make(self); /* the library has seen the fork by now */
    const uint64_t before = figures().percpu_objects;
    const unsigned most = self->count;
    while (self->count < HELD)
        make(self);
    if (figures().percpu_objects != before + HELD - most)
        fail(FOUND_WRONG, "%" PRIu64 " objects were there, and %u came: there are %" PRIu64, before, HELD - most,
             (uint64_t)figures().percpu_objects);
}

/* What other threads had in hand is lost; what is in the mail is there. */
__attribute__((noreturn)) static void live_as_child(struct holder *self)
{
    static struct holder other;
    empty_mail(self);
    for (unsigned i = 0; i < self->count; i++)
        check_copies(self->held[i]);
    if (self->count == HELD)
        end(self, take_any(self));
    expect_count(self);
    other.place = MAX_THREADS + 1;
    other.random = self->random + 1;
    other.thread = start_thread(step_in_child, &other);
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        step(self);
    empty_hand(self);
    pthread_join(other.thread, NULL);
    _exit(FOUND_NOTHING);
}

static void fork_here(struct holder *self)
{
    doing("forking");
    const pid_t child = fork();
    if (child == 0)
        live_as_child(self);
    await_child(child);
    tally(&self->children, 1);
    for (unsigned i = 0; i < self->count; i++)
        check_copies(self->held[i]); /* the child has written to its own */
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

static void *hold(void *argument)
{
    struct holder *self = argument;
    start_work(self->place + 1, self->place);
    pthread_barrier_wait(&all_are_there); /* the first allocations of the process come at once */
    while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
        for (unsigned i = 0; i < STEPS_AT_ONCE; i++)
            step(self);
        if (options.forks && self->place == 1)
            fork_here(self);
    }
    return NULL;
}

/* The figures count what is held, and its bytes: sizes are rounded up by less than 4. */
static void expect_held(void)
{
    uint64_t held = 0, bytes = 0;
    const struct holding *letter;
    for (unsigned i = 0; i < options.threads; i++) {
        held += holders[i].count;
        for (unsigned k = 0; k < holders[i].count; k++)
            bytes += holders[i].held[k]->size;
    }
    for (unsigned i = 0; i < LETTERS; i++)
        if ((letter = atomic_load(&mail[i])) != NULL) {
            held++;
            bytes += letter->size;
        }
    const slab_stats stats = figures();
    if (stats.percpu_objects != held || stats.percpu_bytes < bytes || stats.percpu_bytes > bytes + 3 * held)
        fail(FOUND_WRONG,
             "%" PRIu64 " objects of %" PRIu64 " bytes are held, the library counts %" PRIu64 " of %" PRIu64, held,
             bytes, stats.percpu_objects, stats.percpu_bytes);
}

/* Threads have ended, and what they held is left: it is freed by this one, and then there is nothing. */
static void expect_nothing_stays(struct holder *sweeper)
{
    empty_mail(sweeper);
    for (unsigned i = 0; i < options.threads; i++)
        empty_hand(&holders[i]);
    doing("counting at the end");
    slab_purge();
    const slab_stats stats = figures();
    if (stats.percpu_objects != 0 || stats.percpu_bytes != 0 || stats.percpu_mapped_bytes != 0)
        fail(FOUND_WRONG,
             "all is freed, but there are %" PRIu64 " objects of %" PRIu64 " bytes, and %" PRIu64 " bytes mapped",
             stats.percpu_objects, stats.percpu_bytes, stats.percpu_mapped_bytes);
}

/* -- the mode ---------------------------------------------------------------------------------------------------- */

struct sums {
    uint64_t made, freed, letters, purges, children;
};

static void add_tallies(struct sums *sums, const struct holder *holder)
{
    sums->made += tallied(&holder->made);
    sums->freed += tallied(&holder->freed);
    sums->letters += tallied(&holder->letters);
    sums->purges += tallied(&holder->purges);
    sums->children += tallied(&holder->children);
}

static struct sums sums_of_all(void)
{
    struct sums sums = {0, 0, 0, 0, 0};
    for (unsigned i = 0; i < options.threads; i++)
        add_tallies(&sums, &holders[i]);
    return sums;
}

static const char *what_is_missing(void)
{
    const struct sums sums = sums_of_all();
    return sums.made < LEAST_MADE                          ? "waiting for objects to be made"
           : sums.letters < LEAST_OTHERS                   ? "waiting for letters"
           : sums.purges < LEAST_OTHERS                    ? "waiting for purges"
           : options.forks && sums.children < LEAST_OTHERS ? "waiting for children"
                                                           : NULL;
}

static void report(const struct holder *sweeper)
{
    struct sums sums = sums_of_all();
    add_tallies(&sums, sweeper);
    printf("percpu: %" PRIu64 " objects made, %" PRIu64 " freed, %" PRIu64 " letters, %" PRIu64 " purges, %" PRIu64
           " children; %d CPUs\n",
           sums.made, sums.freed, sums.letters, sums.purges, sums.children, slab_percpu_cpus());
    fflush(stdout);
    if (sums.made != sums.freed)
        fail(FOUND_WRONG, "the test has lost objects");
}

void run_alloc(void)
{
    static struct holder sweeper;
    const double end = now_in_seconds() + options.seconds;
    page = (size_t)sysconf(_SC_PAGESIZE);
    if (pthread_barrier_init(&all_are_there, NULL, (unsigned)options.threads) != 0)
        fail(FOUND_WRONG, "no barrier");
    for (unsigned i = 0; i < options.threads; i++) {
        holders[i].place = i + 1;
        holders[i].random = random_of(i + 1);
        holders[i].thread = start_thread(hold, &holders[i]);
    }
    doing("working");
    while (!is_over(end, what_is_missing))
        sleep_for(2e-3);
    doing("waiting for the threads to end");
    atomic_store_explicit(&stopping, true, memory_order_relaxed);
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(holders[i].thread, NULL);
    expect_held();
    expect_nothing_stays(&sweeper);
    report(&sweeper);
}
