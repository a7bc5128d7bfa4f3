/* Memory of per-CPU objects: what takes it, what gives it back, what happens when there is none, and fork.
 *
 * Written in: include/slabmalloc.h ("per-CPU memory": "NULL and ENOMEM: no memory, nothing is half-allocated. What
 * takes memory are the pages of copies that somebody writes to"; "slab_purge: give back to the kernel all that can
 * go"), fork(2). Whether reading memory that nobody has written to takes a page is the kernel's choice; where it
 * takes none from this process, it takes none from per-CPU memory either. */
#include "percpu.h"

static slab_percpu objects[4000];

/* -- what takes memory ------------------------------------------------------------------------------------------- */

enum { COUNTERS = 40000 };

static slab_percpu counters[COUNTERS];

/* KiB that the process had before it made the counters, and that the library's records of them may add to it. */
struct measured {
    size_t before_kib, records_kib;
};

static struct measured make_counters(void)
{
    const size_t slack_kib = 128;
    do_without_huge_pages();
    memset(counters, 1, sizeof counters);
    slab_percpu_free(make_counter());
    struct measured measured = {.before_kib = own_kib()};
    for (size_t i = 0; i < COUNTERS; i++)
        counters[i] = make_counter();
    const slab_stats stats = process_figures();
    require(stats.percpu_objects == COUNTERS && stats.percpu_bytes == COUNTERS * sizeof(uint64_t));
    measured.records_kib = stats.percpu_metadata_bytes / KIB + slack_kib;
    return measured;
}

static void free_counters(void)
{
    for (size_t i = 0; i < COUNTERS; i++)
        slab_percpu_free(counters[i]);
    require(process_figures().percpu_objects == 0 && process_figures().percpu_bytes == 0);
}

/* Forty thousand counters: on a copy that nobody writes to they take nothing. */
static void many_counters(const char *argument)
{
    (void)argument;
    const size_t one_copy_kib = COUNTERS * sizeof(uint64_t) / KIB;
    const struct measured measured = make_counters();
    require(own_kib() <= measured.before_kib + measured.records_kib);
    for (size_t i = 0; i < COUNTERS; i++)
        *(uint64_t *)slab_percpu_ptr(counters[i], 0) = i;
    require(own_kib() >= measured.before_kib + one_copy_kib);
    require(own_kib() <= measured.before_kib + one_copy_kib + measured.records_kib);
    for (size_t i = 0; i < COUNTERS; i++)
        require(slab_percpu_sum_u64(counters[i]) == i);
    free_counters();
}

/* Whether memory of the program's own that it has only read counts as its own: so it does where the kernel has no
 * page of zeros that all share. */
static bool reading_takes_pages(void)
{
    const size_t bytes = 4 * MIB, page = (size_t)sysconf(_SC_PAGESIZE), before = own_kib();
    const volatile char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED);
    for (size_t offset = 0; offset < bytes; offset += page)
        require(memory[offset] == 0);
    const bool taken = own_kib() > before + bytes / KIB / 16;
    require(munmap((void *)memory, bytes) == 0);
    return taken;
}

static void reading_counters_takes_nothing(const char *argument)
{
    (void)argument;
    const struct measured measured = make_counters();
    if (reading_takes_pages())
        skip_role("this kernel gives a process pages of its own for what it only reads");
    for (size_t i = 0; i < COUNTERS; i++)
        require(slab_percpu_sum_u64(counters[i]) == 0);
    require(own_kib() <= measured.before_kib + measured.records_kib);
    free_counters();
}

/* Mappings of the program's own, one page each, wherever behind an object more may come to lie: they are stepped
 * over, and what the kernel says on the way does not show. */
static void mappings_in_the_way(const char *argument)
{
    (void)argument;
    static unsigned char *pages[200];
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), step = 64 * KIB;
    size_t own = 0;
    uintptr_t place = (uintptr_t)slab_percpu_ptr(make_object(LARGEST, 8), slab_percpu_cpus() - 1) & -step;
    for (size_t i = 0; i < COUNT(pages); i++) {
        place += (i % 3 + 1) * step;
        pages[own] = (unsigned char *)mmap((void *)place, page, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        require(pages[own] != MAP_FAILED || errno == EEXIST);
        if (pages[own] == MAP_FAILED)
            continue;
        pattern_fill(pages[own], page, (unsigned)own);
        own++;
    }
    require(own > COUNT(pages) / 2);
    errno = EDOM;
    for (unsigned i = 0; i < 300; i++) {
        objects[i] = make_object(LARGEST, 8);
        require(errno == EDOM);
        require(copies_are_zero(objects[i], LARGEST));
        fill_copies(objects[i], 100, i);
    }
    for (unsigned i = 0; i < own; i++)
        require(pattern_holds(pages[i], page, i) && munmap(pages[i], page) == 0);
    for (unsigned i = 0; i < 300; i++) {
        require(copies_hold(objects[i], 100, i));
        slab_percpu_free(objects[i]);
    }
}

/* -- giving it back ---------------------------------------------------------------------------------------------- */

/* Some 32 MiB of copies, however many CPUs there are. */
static void purge_gives_it_back(const char *argument)
{
    (void)argument;
    const size_t cpus = (size_t)slab_percpu_cpus(), count = 32 * MIB / (LARGEST * cpus) + 1;
    const size_t dirtied_kib = count * cpus * (LARGEST / KIB);
    require(count <= COUNT(objects));
    do_without_huge_pages();
    slab_percpu_free(make_counter());
    slab_purge();
    const size_t before = own_kib();
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            objects[i] = make_object(LARGEST, 8);
            require(copies_are_zero(objects[i], LARGEST));
            fill_copies(objects[i], LARGEST, (unsigned)i);
        }
        require(own_kib() >= before + dirtied_kib);
        for (size_t i = 0; i < count; i++)
            slab_percpu_free(objects[i]);
        slab_purge();
        require(process_figures().percpu_mapped_bytes == 0 && process_figures().percpu_objects == 0);
        require(own_kib() <= before + dirtied_kib / 16);
    }
}

/* What lives among freed objects, of which only the first byte was dirtied, is as it was. */
static void purge_leaves_the_living(const char *argument)
{
    (void)argument;
    enum { MADE = 400, LIVING = 20, EACH = MADE / LIVING };
    for (unsigned i = 0; i < MADE; i++) {
        objects[i] = make_object(LARGEST, 4);
        fill_copies(objects[i], i % EACH == 0 ? LARGEST : 1, i);
    }
    const slab_stats full = process_figures();
    for (unsigned i = 0; i < MADE; i++)
        if (i % EACH != 0)
            slab_percpu_free(objects[i]);
    slab_purge();
    const slab_stats purged = process_figures();
    require(purged.percpu_objects == LIVING && purged.percpu_bytes == LIVING * LARGEST);
    require(purged.percpu_mapped_bytes < full.percpu_mapped_bytes / 2);
    for (unsigned i = 0; i < MADE; i++)
        if (i % EACH != 0)
            require(copies_are_zero(objects[i] = make_object(LARGEST, 4), LARGEST));
    for (unsigned i = 0; i < MADE; i += EACH)
        require(copies_hold(objects[i], LARGEST, i));
    for (unsigned i = 0; i < MADE; i++)
        slab_percpu_free(objects[i]);
}

/* -- when there is none ------------------------------------------------------------------------------------------ */

static void limit_addresses(rlim_t bytes)
{
    struct rlimit limit;
    require(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    require(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Objects of the size, until there is no more memory; the figures are then as they were before the last call. */
static size_t make_until_refused(slab_percpu *made, size_t most, size_t size)
{
    for (size_t count = 0; count < most; count++) {
        const slab_stats before = process_figures();
        errno = 0;
        made[count] = slab_percpu_alloc(size, 8);
        if (made[count] == NULL) {
            require(errno == ENOMEM);
            require(same_percpu_figures(before, process_figures()));
            return count;
        }
        require(errno == 0);
        fill_copies(made[count], size, (unsigned)count);
    }
    require(!"the limit was met");
    return most;
}

static void out_of_memory(const char *argument)
{
    (void)argument;
    const size_t size = LARGEST / 2;
    slab_percpu_free(make_counter());
    const size_t cpus = (size_t)slab_percpu_cpus(), room = 32 * MIB + 2 * cpus * 64 * KIB;
    limit_addresses(status_number("VmSize:") * KIB + 4 * MIB + room);
    const size_t count = make_until_refused(objects, COUNT(objects), size);
    require(count * size * cpus >= room / 2);
    const slab_stats full = process_figures();
    for (unsigned i = 0; i < 1000; i++) {
        errno = 0;
        require(slab_percpu_alloc(LARGEST, 8) == NULL && errno == ENOMEM);
    }
    require(same_percpu_figures(full, process_figures()));
    for (unsigned i = 0; i < count; i += 2) { /* what is given back can be had again */
        slab_percpu_free(objects[i]);
        objects[i] = make_object(size, 8);
        require(copies_are_zero(objects[i], size));
        fill_copies(objects[i], size, i);
    }
    limit_addresses(RLIM_INFINITY);
    const size_t more = 10;
    for (size_t i = count; i < count + more; i++)
        fill_copies(objects[i] = make_object(size, 8), size, (unsigned)i);
    for (size_t i = 0; i < count + more; i++)
        require(copies_hold(objects[i], size, (unsigned)i));
    for (size_t i = 0; i < count + more; i++)
        slab_percpu_free(objects[i]);
    require(process_figures().percpu_objects == 0 && process_figures().percpu_bytes == 0);
}

/* Not even for the first one of a process, and for none afterwards, until there is some. */
static void out_of_memory_at_first(const char *argument)
{
    (void)argument;
    const slab_stats before = process_figures();
    limit_addresses(status_number("VmSize:") * KIB);
    for (unsigned i = 0; i < 100; i++) {
        errno = 0;
        require(slab_percpu_alloc(LARGEST, 8) == NULL && errno == ENOMEM);
        const slab_stats after = process_figures();
        require(after.percpu_objects == 0 && after.percpu_bytes == 0 && after.percpu_mapped_bytes == 0);
    }
    require(before.percpu_mapped_bytes == 0);
    limit_addresses(RLIM_INFINITY);
    slab_percpu object = make_object(LARGEST, 8);
    require(copies_are_zero(object, LARGEST));
    slab_percpu_free(object);
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

enum { INHERITED = 50, INHERITED_SIZE = 1200 };

static slab_percpu inherited[INHERITED], tally;

static void make_inherited(void)
{
    tally = make_counter();
    for (unsigned i = 0; i < INHERITED; i++)
        fill_copies(inherited[i] = make_object(INHERITED_SIZE, 16), INHERITED_SIZE, i);
    slab_percpu_add_long(tally, 1000);
}

static bool inherited_hold(void)
{
    bool whole = true;
    for (unsigned i = 0; i < INHERITED; i++)
        whole &= copies_hold(inherited[i], INHERITED_SIZE, i);
    return whole;
}

/* Makes, changes and frees objects, as many as it had. */
static void work_with_objects(unsigned seed)
{
    slab_percpu mine[40];
    for (unsigned i = 0; i < COUNT(mine); i++) {
        const size_t size = 8 + (seed + i) * 97 % 5000;
        mine[i] = make_object(size, 8);
        require(copies_are_zero(mine[i], size));
        for (unsigned j = 0; j < 50; j++)
            slab_percpu_add_long(mine[i], 2);
        require(slab_percpu_sum_long(mine[i]) == 100);
    }
    for (unsigned i = 0; i < COUNT(mine); i++)
        slab_percpu_free(mine[i]);
}

static void *work_in_thread(void *number)
{
    for (unsigned i = 0; i < 20; i++)
        work_with_objects((unsigned)(size_t)number + i);
    return NULL;
}

/* In a child: all that a process may do. */
static void live_as_child(unsigned number)
{
    require(inherited_hold() && slab_percpu_sum_long(tally) >= 1000);
    const uint64_t before = process_figures().percpu_objects;
    work_with_objects(number);
    require(process_figures().percpu_objects == before);
    const long sum = slab_percpu_sum_long(tally);
    for (unsigned i = 0; i < 1000; i++)
        slab_percpu_add_long(tally, 3);
    require(slab_percpu_sum_long(tally) == sum + 3000);
    if (number % 20 == 0)
        run_threads(3, work_in_thread);
    require(inherited_hold());
    for (unsigned i = 0; i < INHERITED; i++)
        slab_percpu_free(inherited[i]);
    slab_purge();
    work_with_objects(number);
    slab_percpu_free(tally);
}

static void fork_and_wait(unsigned number)
{
    const pid_t child = fork();
    require(child >= 0);
    if (child == 0) {
        watchdog("a child hangs");
        live_as_child(number);
        _exit(0);
    }
    const int status = wait_for(child);
    explain_status("child", status);
    require(ended_well(status));
}

static void fork_of_a_quiet_process(const char *argument)
{
    (void)argument;
    make_inherited();
    const slab_stats before = process_figures();
    for (unsigned i = 0; i < 20; i++) {
        fork_and_wait(i);
        require(inherited_hold() && slab_percpu_sum_long(tally) == 1000);
    }
    require(same_percpu_figures(before, process_figures()));
    work_with_objects(1);
}

static bool over;
static unsigned long tallied;

static void *work_until_over(void *number)
{
    for (unsigned i = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED); i++) {
        work_with_objects((unsigned)(size_t)number * 1000 + i);
        slab_percpu_add_long(tally, 1);
        __atomic_fetch_add(&tallied, 1, __ATOMIC_RELAXED); /* read when the threads have been joined */
        if (i % 16 == 0)
            slab_purge();
    }
    return NULL;
}

static void *fork_beside_others(void *nothing)
{
    for (unsigned i = 0; i < scaled(60); i++)
        fork_and_wait(i);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED); /* read by the threads that work */
    return nothing;
}

static void *fork_or_work(void *number)
{
    return number == NULL ? fork_beside_others(NULL) : work_until_over(number);
}

static void fork_of_a_busy_process(const char *argument)
{
    (void)argument;
    watchdog("forks of a busy process hang");
    make_inherited();
    run_threads(4, fork_or_work);
    require(inherited_hold() && slab_percpu_sum_long(tally) == 1000 + (long)tallied);
    require(process_figures().percpu_objects == INHERITED + 1);
}

/* -- a thread that is cancelled ---------------------------------------------------------------------------------- */

static void *allocate_when_cancelled(void *nothing)
{
    pthread_cancel(pthread_self()); /* acted on by the next call that is a cancellation point: no call of ours is */
    slab_percpu_free(make_object(8, 8));
    pthread_testcancel();
    return nothing;
}

static void cancelled_at_first(const char *argument)
{
    (void)argument;
    pthread_t thread;
    void *result;
    watchdog("a call hangs after a thread was cancelled");
    require(pthread_create(&thread, NULL, allocate_when_cancelled, NULL) == 0);
    require(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    work_with_objects(1);
    require(process_figures().percpu_objects == 0);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"many_counters", many_counters},
        {"reading_counters_takes_nothing", reading_counters_takes_nothing},
        {"mappings_in_the_way", mappings_in_the_way},
        {"purge_gives_it_back", purge_gives_it_back},
        {"purge_leaves_the_living", purge_leaves_the_living},
        {"out_of_memory", out_of_memory},
        {"out_of_memory_at_first", out_of_memory_at_first},
        {"cancelled_at_first", cancelled_at_first},
        {"fork_of_a_quiet_process", fork_of_a_quiet_process},
        {"fork_of_a_busy_process", fork_of_a_busy_process},
    };
    return run_scenarios("per-CPU memory", scenarios, COUNT(scenarios), argc, argv);
}
