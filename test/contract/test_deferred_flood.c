/* More is retired than may wait: the bound (deferred_max_bytes), and readers that stay (epoch_stall_ms).
 *
 * While readers come and go, what waits beyond the bound has been paid for by waiting, magazine by magazine: a reader
 * that the kernel has stopped inside its section makes it more, and nobody can tell how much. Where one stays, a
 * one-argument retire waits for 10 ms at most and goes on, the form with a head and a thread inside its own section
 * do not wait at all; the counters of slab_stats say so, not the clock. Whatever happens, a barrier finds everything
 * freed in the end. */
#include "epochs.h"

/* -- the bound --------------------------------------------------------------------------------------------------- */

enum { MAGAZINE_MOST = 64 * 1024 }; /* bytes of small objects */

struct flood {
    size_t size;
    size_t count;
    bool head;
    uint64_t bound; /* where not 0: what waits beyond it is checked */
    size_t writers; /* that retire objects of up to this size beside each other */
    uint64_t waits; /* of the process before it, when nothing waited */
    uint64_t most;  /* bytes that waited at any time that somebody looked */
};

/* Whoever puts more than the bound on the queue waits, before it puts more. What is not paid for is a magazine or a
 * large object that each writer is about to wait for, and two magazines that each has not filled yet. */
static void note_waiting(struct flood *flood)
{
    const slab_stats stats = process_figures();
    const uint64_t at_once = flood->size + MAGAZINE_MOST;
    flood->most = stats.deferred_bytes > flood->most ? stats.deferred_bytes : flood->most;
    if (flood->bound == 0)
        return;
    const uint64_t waits = stats.deferred_waits - flood->waits;
    const uint64_t most = flood->bound + (waits + 3 * flood->writers) * at_once;
    if (stats.deferred_bytes > most)
        fprintf(stderr, "%zu bytes each: %zu bytes wait behind %zu waits\n", flood->size,
                (size_t)stats.deferred_bytes, (size_t)waits);
    require(stats.deferred_bytes <= most && stats.deferred_excesses == 0);
}

static void retire_flood(struct flood *flood)
{
    for (size_t i = 0; i < flood->count; i++) {
        char *object = malloc(flood->size);
        require(object != NULL);
        object[0] = object[flood->size - 1] = 1;
        if (flood->head)
            slab_free_deferred_head(object, (slab_epoch_head *)(void *)object);
        else
            slab_free_deferred(object);
        if (i % (1 + flood->count / 1000) == 0)
            note_waiting(flood);
    }
}

/* Many times the bound, in small, middle and large objects. Returns the most bytes that waited. When the readers have
 * gone, what waits comes down to the bound while the thread goes on. */
static uint64_t flood_with_readers(uint64_t bound)
{
    static const size_t sizes[] = {64, 1000, 16 * KIB, 200 * KIB, 3 * MIB};
    uint64_t most = 0;
    struct readers readers;
    start_readers(&readers);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct flood flood = {sizes[i], scaled(48) * MIB / sizes[i], .bound = bound, .writers = 1};
        flood.waits = process_figures().deferred_waits;
        retire_flood(&flood);
        slab_epoch_barrier();
        most = flood.most > most ? flood.most : most;
    }
    stop_readers(&readers);
    do
        retire_some(1000, 100);
    while (process_figures().deferred_bytes > bound);
    slab_epoch_barrier();
    require_nothing_waits();
    require(process_figures().deferred_unfreed == 0);
    return most;
}

static void a_bound_of_a_mebibyte(const char *argument)
{
    (void)argument;
    flood_with_readers(MIB);
}

/* 8 MiB, as the heap is small: so is the process, but for what has waited at once. */
static void the_usual_bound(const char *argument)
{
    (void)argument;
    do_without_huge_pages();
    const size_t before = rss_kib(), most_kib = flood_with_readers(8 * MIB) / KIB;
    require(rss_kib() < before + most_kib + 96 * KIB);
}

/* Writers in many threads share the bound. */
enum { WRITERS = 4 };

static void *retire_flood_in_a_thread(void *unused)
{
    struct flood flood = {.size = 500, .count = scaled(40000), .bound = MIB, .writers = WRITERS};
    retire_flood(&flood);
    return unused;
}

static void many_writers_share_the_bound(const char *argument)
{
    (void)argument;
    struct readers readers;
    pthread_t writers[WRITERS];
    start_readers(&readers);
    for (size_t i = 0; i < COUNT(writers); i++)
        require(pthread_create(&writers[i], NULL, retire_flood_in_a_thread, NULL) == 0);
    for (size_t i = 0; i < COUNT(writers); i++)
        require(pthread_join(writers[i], NULL) == 0);
    stop_readers(&readers);
    slab_epoch_barrier();
    require_nothing_waits();
}

/* -- readers that stay ------------------------------------------------------------------------------------------- */

/* The bound is 1 MiB. The thread waits now and then, and never for as long as the reader stays: that would be
 * for ever. */
static void one_argument_waits_a_little(const char *argument)
{
    (void)argument;
    struct parked reader;
    struct flood small = {.size = 1000, .count = 2000}, large = {.size = 200 * KIB, .count = 20};
    park_inside(&reader);
    retire_flood(&small);
    retire_flood(&large);
    const slab_stats stats = process_figures();
    require(stats.deferred_objects == 2020 && stats.deferred_bytes >= 2000 * 1000 + 20 * 200 * KIB);
    require(stats.deferred_waits > 0 && stats.deferred_waits <= 2020);
    unpark(&reader);
    slab_epoch_barrier();
    require_nothing_waits();
}

static void two_arguments_never_wait(const char *argument)
{
    (void)argument;
    struct parked reader;
    struct flood small = {.size = 1000, .count = 50000, .head = true}, large = {300 * KIB, 200, .head = true};
    park_inside(&reader);
    retire_flood(&small);
    retire_flood(&large);
    const slab_stats stats = process_figures();
    require(stats.deferred_objects == 50200 && stats.deferred_waits == 0 && stats.deferred_excesses > 0);
    unpark(&reader);
    slab_epoch_barrier();
    require_nothing_waits();
}

static void own_sections_never_wait(const char *argument)
{
    (void)argument;
    struct parked reader;
    struct flood small = {.size = 1000, .count = 50000}, large = {.size = 300 * KIB, .count = 200};
    park_outside(&reader);
    slab_epoch_enter();
    retire_flood(&small);
    retire_flood(&large);
    const slab_stats stats = process_figures();
    require(stats.deferred_objects == 50200 && stats.deferred_waits == 0 && stats.deferred_excesses > 0);
    slab_epoch_leave();
    unpark(&reader);
    slab_epoch_barrier();
    require_nothing_waits();
}

/* Not faster than memory lasts while readers are stopped inside. */
static void *flood_by_heads(void *over)
{
    while (!__atomic_load_n((bool *)over, __ATOMIC_RELAXED)) {
        struct flood flood = {.size = 100, .count = 10000, .head = true};
        retire_flood(&flood);
        if (flood.most > 32 * MIB)
            sleep_ms(1);
    }
    return NULL;
}

/* The bound is 64 KiB, and a thread that does not wait keeps more waiting than that, however fast grace periods come:
 * whoever waits gives up after its time. */
static void one_argument_beside_a_flood_of_heads(const char *argument)
{
    (void)argument;
    struct readers readers;
    pthread_t flooder;
    bool over = false;
    struct flood own = {.size = 1000, .count = scaled(2000)};
    start_readers(&readers);
    require(pthread_create(&flooder, NULL, flood_by_heads, &over) == 0);
    while (process_figures().deferred_excesses < 1000)
        sleep_ms(1);
    retire_flood(&own);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    require(pthread_join(flooder, NULL) == 0);
    stop_readers(&readers);
    slab_epoch_barrier();
    require_nothing_waits();
}

/* -- stalls ------------------------------------------------------------------------------------------------------ */

#define STALL_MS 100

/* A thread that enters a section or leaves it each time that it is its turn, until it has done so often enough. */
struct stalled {
    pthread_t thread;
    pid_t tid;
    unsigned sections;
    sem_t turn, done;
};

static void *take_turns(void *argument)
{
    struct stalled *self = argument;
    self->tid = (pid_t)syscall(SYS_gettid);
    for (unsigned i = 0; i < 2 * self->sections; i++) {
        require(sem_wait(&self->turn) == 0);
        if (i % 2 == 0)
            slab_epoch_enter();
        else
            slab_epoch_leave();
        require(sem_post(&self->done) == 0);
    }
    return NULL;
}

static void start_stalled(struct stalled *self, unsigned sections)
{
    self->sections = sections;
    require(sem_init(&self->turn, 0, 0) == 0 && sem_init(&self->done, 0, 0) == 0);
    require(pthread_create(&self->thread, NULL, take_turns, self) == 0);
}

/* Returns when the thread has entered its section, or left it. */
static void give_turn(struct stalled *self)
{
    require(sem_post(&self->turn) == 0 && sem_wait(&self->done) == 0);
}

static void let_a_millisecond_pass(bool polls)
{
    if (polls)
        slab_epoch_poll(); /* there is no worker that helps time along */
    sleep_ms(1);
}

static void await_lines(struct listening *listening, bool polls, size_t lines)
{
    for (size_t said = 0; said < lines; let_a_millisecond_pass(polls)) {
        listen_on(listening);
        said = 0;
        for (size_t i = 0; i < listening->length; i++)
            said += listening->said[i] == '\n';
    }
}

/* What is left of the text behind a line about the thread, which has been inside for longer than it may. */
static const char *behind_stall_line(const char *text, pid_t tid, uint64_t least, uint64_t most)
{
    unsigned said_tid, ms;
    unsigned long said_bytes;
    char line[512];
    require(sscanf(text, "slabmalloc: thread %u has been inside an epoch section for over %u ms: %lu bytes",
                   &said_tid, &ms, &said_bytes) == 3);
    require(said_tid == (unsigned)tid && ms >= STALL_MS && said_bytes >= least && said_bytes <= most);
    snprintf(
        line, sizeof line,
        "slabmalloc: thread %d has been inside an epoch section for over %u ms: %lu bytes wait for it to leave\n",
        tid, ms, said_bytes);
    require(strncmp(text, line, strlen(line)) == 0);
    return text + strlen(line);
}

/* Once a section, however long it lasts, while anybody waits for it: a large object for the first, and exactly its
 * bytes are told of; small ones for the second, of which some may be retired when that has been told; nobody for
 * the third. */
static void told_once_a_section(bool polls)
{
    struct stalled reader;
    struct listening listening;
    char said[1024];
    start_stalled(&reader, 3);
    for (unsigned section = 1; section <= 3; section++) {
        give_turn(&reader);
        listen_start(&listening);
        if (section < 3) {
            retire_some(section == 1 ? 100 * KIB : 1000, section == 1 ? 1 : 300);
            await_lines(&listening, polls, 1);
        }
        for (unsigned ms = 0; ms < 3 * STALL_MS; ms++)
            let_a_millisecond_pass(polls);
        const uint64_t bytes = process_figures().deferred_bytes;
        listen_end(&listening, said, sizeof said);
        require(section == 3 ? bytes == 0 : bytes >= 100 * KIB);
        require(*(section < 3 ? behind_stall_line(said, reader.tid, section == 1 ? bytes : 1000, bytes) : said) ==
                '\0');
        give_turn(&reader);
        slab_epoch_barrier();
    }
    require(pthread_join(reader.thread, NULL) == 0);
    require(process_figures().epoch_stalls == 2);
}

static void stalls_told_by_the_worker(const char *argument)
{
    (void)argument;
    told_once_a_section(false);
}

static void stalls_told_by_one_that_polls(const char *argument)
{
    (void)argument;
    told_once_a_section(true);
}

/* Each that stays is named, in any order. */
static void stalls_of_several_threads(const char *argument)
{
    (void)argument;
    struct stalled readers[3];
    struct listening listening;
    char said[2048], name[64];
    for (size_t i = 0; i < COUNT(readers); i++) {
        start_stalled(&readers[i], 1);
        give_turn(&readers[i]);
    }
    listen_start(&listening);
    retire_some(1000, 300);
    await_lines(&listening, false, COUNT(readers));
    listen_end(&listening, said, sizeof said);
    for (size_t i = 0; i < COUNT(readers); i++) {
        snprintf(name, sizeof name, "slabmalloc: thread %d has been", readers[i].tid);
        require(strstr(said, name) != NULL);
        give_turn(&readers[i]);
        require(pthread_join(readers[i].thread, NULL) == 0);
    }
    require(process_figures().epoch_stalls == COUNT(readers));
    slab_epoch_barrier();
}

static void leave_when_told(void *stalls)
{
    while (process_figures().epoch_stalls < *(uint64_t *)stalls)
        sleep_ms(1);
    slab_epoch_leave();
}

/* Whoever waits for the section itself says so as well. */
static void stalls_told_by_one_that_waits(const char *argument)
{
    struct parked reader;
    struct listening listening;
    char said[512];
    (void)argument;
    for (uint64_t i = 1; i <= 3; i++) {
        park(&reader, enter_section, leave_when_told, &i);
        require(sem_post(&reader.wake) == 0);
        retire_some(1000, 10);
        listen_start(&listening);
        if (i == 1)
            slab_epoch_synchronize();
        else if (i == 2)
            slab_epoch_barrier();
        else
            drop(make_own("dropped", 72));
        listen_end(&listening, said, sizeof said);
        require(pthread_join(reader.thread, NULL) == 0);
        require(strncmp(said, "slabmalloc: thread ", 19) == 0 && strchr(said, '\n') == said + strlen(said) - 1);
        require(process_figures().epoch_stalls == i);
        slab_epoch_barrier();
    }
}

static void no_stalls_told(const char *argument)
{
    (void)argument;
    struct listening listening;
    struct parked reader;
    char said[512];
    listen_start(&listening);
    park_inside(&reader);
    retire_some(1000, 3000);
    for (unsigned ms = 0; ms < 3 * STALL_MS; ms++)
        let_a_millisecond_pass(true);
    unpark(&reader);
    slab_epoch_barrier();
    listen_end(&listening, said, sizeof said);
    require(strcmp(said, "") == 0 && process_figures().epoch_stalls == 0);
}

#define NO_WORKER ",worker=0"
#define A_MEBIBYTE "SLABMALLOC_OPTIONS=deferred_max_bytes=1M"
#define SOON "SLABMALLOC_OPTIONS=epoch_stall_ms=100"

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"a_bound_of_a_mebibyte", a_bound_of_a_mebibyte, A_MEBIBYTE},
        {"a_bound_of_a_mebibyte_without_a_worker", a_bound_of_a_mebibyte, A_MEBIBYTE NO_WORKER},
        {"the_usual_bound", the_usual_bound, NULL},
        {"many_writers_share_the_bound", many_writers_share_the_bound, A_MEBIBYTE},
        {"one_argument_waits_a_little", one_argument_waits_a_little, A_MEBIBYTE},
        {"one_argument_waits_a_little_without_a_worker", one_argument_waits_a_little, A_MEBIBYTE NO_WORKER},
        {"one_argument_beside_a_flood_of_heads", one_argument_beside_a_flood_of_heads,
         "SLABMALLOC_OPTIONS=deferred_max_bytes=64K"},
        {"two_arguments_never_wait", two_arguments_never_wait, A_MEBIBYTE},
        {"own_sections_never_wait", own_sections_never_wait, A_MEBIBYTE},
        {"stalls_told_by_the_worker", stalls_told_by_the_worker, SOON},
        {"stalls_told_by_one_that_polls", stalls_told_by_one_that_polls, SOON NO_WORKER},
        {"stalls_of_several_threads", stalls_of_several_threads, SOON},
        {"stalls_told_by_one_that_waits", stalls_told_by_one_that_waits, SOON NO_WORKER},
        {"no_stalls_told", no_stalls_told, "SLABMALLOC_OPTIONS=epoch_stall_ms=0"},
    };
    return run_epoch_scenarios("a flood of deferred frees", scenarios, COUNT(scenarios), argc, argv);
}
