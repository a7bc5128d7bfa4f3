/* Does what malloc returns lie on the node of the thread that asked? Asked of the kernel, under a server's load.
 *
 *     numa_load --pinned | --unpinned | --moved | --producer [--seconds S] [--handed PERCENT] [--move-after REQUESTS]
 *
 * Worker threads, two for each CPU, serve requests. A request makes some buffers of a size that Redis was recorded to
 * ask for, and a session, which replaces a random one of the worker's; then its buffers and the old session go. Of
 * what goes, PERCENT (10) is handed to whichever thread next begins a request on another node, which looks at it and
 * frees it; the worker frees the rest itself. Now and then it sleeps, as one that waits for a client.
 *
 *     --pinned      each worker stays on one CPU
 *     --unpinned    workers are where the kernel puts them
 *     --moved       pinned, and moved to a CPU of another node after every REQUESTS (1000), in the middle of one
 *     --producer    pinned; every other node's workers hand all that they make to the next node's, who keep theirs
 *
 * Moves go by requests and not by time, as emulated CPUs are as slow as their host is busy.
 *
 * Fresh objects: whoever makes an object writes to each of its pages. Of one object in SAMPLE_ONE_IN the program then
 * asks, by move_pages(2), where the page of a random byte lies. The worker's node is asked for before the call and
 * after writing; where the two differ the sample is dropped. NUMA balancing takes pages away for a moment to see who
 * uses them: those are touched again, and asked for again.
 *
 * Remote frees: all are counted whose thread runs on another node than the one that made the object did.
 *
 * The first half of the time is for the heap to age. Figures are of the second half, but for frees, which count all:
 *
 *     nodeN_astray        of the fresh objects of threads on node N, those that lie on another one
 *     nodeN_resident      what the process has on node N in the end, some tables of the program's own included
 *     nodeN_grown         that, less what it had at half-time
 *     astray_worst        the largest of the nodes'; and grown_max
 *     remote_frees        of all frees
 *     rss, requests       of the whole process
 *
 * Workers' counters are their own, and read by the main thread when they have ended. */
#include "bench.h"
#include "sizes.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>

enum {
    NODES_MAX = 64,
    WORKERS_MAX = 256,
    WORKERS_A_CPU = 2,
    SESSIONS = 3000, /* a worker's */
    SESSION_SMALLEST = 128,
    SESSION_DOUBLINGS = 4,
    BUFFERS_MIN = 4, /* a request's */
    BUFFERS_MAX = 16,
    PARCEL_OBJECTS = 64,
    INBOX_PARCELS = 32,     /* a power of two */
    LEAST_REQUESTS = 20000, /* in each half, of all: a busy host may leave emulated CPUs without time for seconds */
    SLEEP_ONE_IN = 64,      /* requests */
    SLEEP_US = 1000,
    SAMPLE_ONE_IN = 61,
    TRIES = 16,
    WRITTEN_BYTES = 64,
    PAGE_BYTES = 4096,
    MIB_PAGES = (1 << 20) / PAGE_BYTES,
    MARK = 1, /* an object's first byte */
};

struct object {
    void *memory;
    uint32_t bytes, node; /* node: its maker's at that moment */
};

struct parcel {
    struct object objects[PARCEL_OBJECTS];
};

/* What threads of other nodes have handed to those of this node; each parcel is full. */
struct inbox {
    pthread_mutex_t lock;
    uint64_t put, taken; /* parcels, since the start */
    struct parcel parcels[INBOX_PARCELS];
};

struct node {
    unsigned cpus[CPU_SETSIZE], cpu_count;
    struct inbox *inbox;
};

/* Of what was done on one node. */
struct tally {
    uint64_t samples, astray, straddled, unanswered, frees, remote_frees;
};

struct worker {
    pthread_t thread;
    struct node *home;     /* where it was pinned last; for the main thread alone once it runs */
    struct node *peer;     /* to whom it hands things, if it is always the same */
    uint64_t moved_at;     /* its requests at that moment; likewise */
    atomic_ulong requests; /* relaxed: the main thread looks now and then, it orders nothing */
    uint64_t random, made, handed_percent;
    unsigned first_cpu, parcel_count;
    struct object *sessions;
    struct tally tallies[NODES_MAX];
    struct parcel parcel; /* filled before it is handed on */
};

static const double LOOK_SECONDS = 0.005; /* how often the main thread looks around */

enum mode { NONE, PINNED, UNPINNED, MOVED, PRODUCER };

static enum mode mode;
static double seconds = 10;
static uint64_t handed_percent = 10, move_after = 1000, moves;
static struct sizes sizes;
static struct node nodes[NODES_MAX];
static struct node *populated[NODES_MAX]; /* those with CPUs */
static unsigned populated_count, cpu_count, worker_count;
static struct worker *workers;
static pthread_barrier_t barrier;
static atomic_bool measuring, stop; /* relaxed: set by the main thread, read by workers; they order nothing */

static bool is_set(atomic_bool *flag)
{
    return atomic_load_explicit(flag, memory_order_relaxed);
}

static unsigned node_here(void)
{
    unsigned cpu, node;
    if (getcpu(&cpu, &node) != 0 || node >= NODES_MAX)
        bench_die("getcpu knows no node below %d", NODES_MAX);
    return node;
}

// -- objects --------------------------------------------------------------------------------------------------------

/* The node of an address's page, which has been written to; -1: the kernel has not told. */
static int node_of_page(volatile char *address)
{
    for (unsigned try = 0; try < TRIES; try++) {
        int status;
        void *page = (void *)((uintptr_t)address & ~(uintptr_t)(PAGE_BYTES - 1));
        if (syscall(SYS_move_pages, 0, 1ul, &page, NULL, &status, 0) != 0)
            bench_die("move_pages: %s", strerror(errno));
        if (status >= 0)
            return status;
        *address = *address; /* NUMA balancing has marked it: ENOENT */
    }
    return -1;
}

static void sample(struct worker *self, const struct object *object)
{
    struct tally *tally = &self->tallies[object->node];
    if (node_here() != object->node) {
        tally->straddled++;
        return;
    }
    const int node = node_of_page((char *)object->memory + bench_random(&self->random) % object->bytes);
    tally->unanswered += node < 0;
    tally->samples += node >= 0;
    tally->astray += node >= 0 && (unsigned)node != object->node;
}

static struct object make(struct worker *self, size_t bytes)
{
    const unsigned node = node_here();
    char *memory = bench_check(malloc(bytes));
    memset(memory, MARK, bytes < WRITTEN_BYTES ? bytes : WRITTEN_BYTES);
    for (size_t at = PAGE_BYTES; at < bytes; at += PAGE_BYTES)
        memory[at] = MARK;
    memory[bytes - 1] = MARK;
    const struct object object = {memory, (uint32_t)bytes, node};
    if (++self->made % SAMPLE_ONE_IN == 0 && is_set(&measuring))
        sample(self, &object);
    return object;
}

static void dispose(struct worker *self, const struct object *object)
{
    const unsigned here = node_here();
    if (*(const volatile char *)object->memory != MARK)
        bench_die("an object has changed under way");
    self->tallies[here].frees++;
    self->tallies[here].remote_frees += object->node != here;
    free(object->memory);
}

// -- objects that are handed on -------------------------------------------------------------------------------------

static bool put_parcel(struct inbox *inbox, const struct parcel *parcel)
{
    pthread_mutex_lock(&inbox->lock);
    const bool has_room = inbox->put - inbox->taken < INBOX_PARCELS;
    if (has_room)
        inbox->parcels[inbox->put++ % INBOX_PARCELS] = *parcel;
    pthread_mutex_unlock(&inbox->lock);
    return has_room;
}

static bool take_parcel(struct inbox *inbox, struct parcel *parcel)
{
    pthread_mutex_lock(&inbox->lock);
    const bool has_one = inbox->put != inbox->taken;
    if (has_one)
        *parcel = inbox->parcels[inbox->taken++ % INBOX_PARCELS];
    pthread_mutex_unlock(&inbox->lock);
    return has_one;
}

static void dispose_all(struct worker *self, const struct parcel *parcel)
{
    for (unsigned i = 0; i < PARCEL_OBJECTS; i++)
        dispose(self, &parcel->objects[i]);
}

/* Any populated node but this one. */
static struct node *another_node(const struct node *node, uint64_t *random)
{
    struct node *other;
    do
        other = populated[bench_random(random) % populated_count];
    while (other == node);
    return other;
}

/* Where nobody takes what has been sent, a producer waits; others keep it. */
static void send_parcel(struct worker *self)
{
    struct node *to = self->peer != NULL ? self->peer : another_node(&nodes[node_here()], &self->random);
    self->parcel_count = 0;
    while (!put_parcel(to->inbox, &self->parcel)) {
        if (self->peer == NULL || is_set(&stop)) {
            dispose_all(self, &self->parcel);
            return;
        }
        usleep(SLEEP_US);
    }
}

static void part_with(struct worker *self, const struct object *object)
{
    if (bench_random(&self->random) % 100 >= self->handed_percent) {
        dispose(self, object);
        return;
    }
    self->parcel.objects[self->parcel_count++] = *object;
    if (self->parcel_count == PARCEL_OBJECTS)
        send_parcel(self);
}

// -- workers --------------------------------------------------------------------------------------------------------

static struct object make_session(struct worker *self)
{
    return make(self, bench_size(&self->random, SESSION_SMALLEST, SESSION_DOUBLINGS));
}

static void serve(struct worker *self)
{
    struct object buffers[BUFFERS_MAX];
    struct parcel received;
    const uint64_t random = bench_random(&self->random);
    unsigned count = BUFFERS_MIN + (unsigned)(random % (BUFFERS_MAX - BUFFERS_MIN + 1));
    struct object *session = &self->sessions[(random >> 32) % SESSIONS], old = *session;
    if (take_parcel(nodes[node_here()].inbox, &received))
        dispose_all(self, &received);
    for (unsigned i = 0; i < count; i++)
        buffers[i] = make(self, sizes_draw(&sizes, self->made));
    *session = make_session(self);
    while (count > 0)
        part_with(self, &buffers[--count]);
    part_with(self, &old);
    atomic_fetch_add_explicit(&self->requests, 1, memory_order_relaxed);
}

static void set_cpus(pthread_t thread, const cpu_set_t *set)
{
    const int error = pthread_setaffinity_np(thread, sizeof *set, set);
    if (error != 0)
        bench_die("a thread cannot be pinned: %s", strerror(error));
}

static void pin(pthread_t thread, unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    set_cpus(thread, &set);
}

static void *work(void *argument)
{
    struct worker *self = argument;
    if (mode != UNPINNED)
        pin(pthread_self(), self->first_cpu);
    self->sessions = bench_pages(SESSIONS * sizeof *self->sessions);
    for (unsigned i = 0; i < SESSIONS; i++)
        self->sessions[i] = make_session(self);
    pthread_barrier_wait(&barrier);
    for (unsigned turn = 1; !is_set(&stop); turn++) {
        serve(self);
        if (turn % SLEEP_ONE_IN == 0)
            usleep(SLEEP_US);
    }
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void start_worker(unsigned index, unsigned place, unsigned cpu)
{
    struct worker *worker = &workers[index];
    worker->random = index;
    worker->home = populated[place];
    worker->first_cpu = cpu;
    worker->handed_percent = handed_percent;
    if (mode == PRODUCER) {
        worker->handed_percent = place % 2 == 0 ? 100 : 0;
        worker->peer = populated[place ^ 1];
    }
    if (pthread_create(&worker->thread, NULL, work, worker) != 0)
        bench_die("cannot start worker %u", index);
}

static void start_workers(void)
{
    unsigned index = 0;
    worker_count = cpu_count * WORKERS_A_CPU;
    if (worker_count > WORKERS_MAX)
        bench_die("more than %d workers", WORKERS_MAX);
    workers = bench_pages(worker_count * sizeof *workers);
    pthread_barrier_init(&barrier, NULL, worker_count + 1);
    for (unsigned i = 0; i < populated_count; i++) {
        for (unsigned j = 0; j < populated[i]->cpu_count * WORKERS_A_CPU; j++)
            start_worker(index++, i, populated[i]->cpus[j / WORKERS_A_CPU]);
    }
}

// -- the machine ----------------------------------------------------------------------------------------------------

/* Goes to every CPU that this process may use, and looks what its node is. */
static void find_nodes(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("cannot ask which CPUs there are");
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed))
            continue;
        pin(pthread_self(), cpu);
        struct node *node = &nodes[node_here()];
        node->cpus[node->cpu_count++] = cpu;
        cpu_count++;
    }
    set_cpus(pthread_self(), &allowed);
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (nodes[i].cpu_count == 0)
            continue;
        populated[populated_count++] = &nodes[i];
        nodes[i].inbox = bench_pages(sizeof *nodes[i].inbox);
        pthread_mutex_init(&nodes[i].inbox->lock, NULL);
    }
    if (populated_count < 2 || (mode == PRODUCER && populated_count % 2 != 0)) {
        fprintf(stderr, "skip: %u NUMA nodes with CPUs\n", populated_count);
        exit(1);
    }
}

/* By node, from the words "N0=123" (pages) of numa_maps. */
static void read_resident(double mib[NODES_MAX])
{
    static char text[1 << 20];
    memset(mib, 0, NODES_MAX * sizeof mib[0]);
    bench_read("/proc/self/numa_maps", text, sizeof text);
    for (char *word = strtok(text, " \n"); word != NULL; word = strtok(NULL, " \n")) {
        unsigned node;
        unsigned long pages;
        if (sscanf(word, "N%u=%lu", &node, &pages) == 2 && node < NODES_MAX)
            mib[node] += (double)pages / MIB_PAGES;
    }
}

// -- the run --------------------------------------------------------------------------------------------------------

static uint64_t requests_of(struct worker *worker)
{
    return atomic_load_explicit(&worker->requests, memory_order_relaxed);
}

static uint64_t sum_requests(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < worker_count; i++)
        sum += requests_of(&workers[i]);
    return sum;
}

static void move_who_is_due(void)
{
    static uint64_t random = 1;
    for (unsigned i = 0; i < worker_count; i++) {
        struct worker *worker = &workers[i];
        if (requests_of(worker) < worker->moved_at + move_after)
            continue;
        worker->moved_at = requests_of(worker);
        worker->home = another_node(worker->home, &random);
        pin(worker->thread, worker->home->cpus[bench_random(&random) % worker->home->cpu_count]);
        moves++;
    }
}

/* Half of the run: so much time, and longer where that does not make LEAST_REQUESTS. */
static void pass_half(void)
{
    const uint64_t enough = sum_requests() + LEAST_REQUESTS;
    const double begin = bench_seconds(CLOCK_MONOTONIC);
    for (double now = begin; now < begin + seconds / 2 || sum_requests() < enough;
         now = bench_seconds(CLOCK_MONOTONIC)) {
        bench_sleep_until(now + LOOK_SECONDS);
        if (mode == MOVED)
            move_who_is_due();
    }
}

/* Of all workers. */
static struct tally sum_tallies(unsigned node)
{
    struct tally sum = {0};
    for (unsigned i = 0; i < worker_count; i++) {
        const struct tally *one = &workers[i].tallies[node];
        sum.samples += one->samples;
        sum.astray += one->astray;
        sum.straddled += one->straddled;
        sum.unanswered += one->unanswered;
        sum.frees += one->frees;
        sum.remote_frees += one->remote_frees;
    }
    return sum;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100 * (double)part / (double)whole;
}

static void print_node_figure(unsigned node, const char *name, double value, const char *unit)
{
    char text[64];
    snprintf(text, sizeof text, "node%u_%s", node, name);
    bench_figure(text, value, unit);
}

static void print_node(unsigned node, const struct tally *tally, double resident, double before)
{
    printf("node %u: %lu samples, %lu astray; %lu straddled a move, %lu unanswered; %lu frees, %lu remote\n", node,
           tally->samples, tally->astray, tally->straddled, tally->unanswered, tally->frees, tally->remote_frees);
    if (tally->samples > 0)
        print_node_figure(node, "astray", percent(tally->astray, tally->samples), "%");
    print_node_figure(node, "resident", resident, "MiB");
    print_node_figure(node, "grown", resident - before, "MiB");
}

static double larger(double one, double other)
{
    return one > other ? one : other;
}

static void print_all(const double before[NODES_MAX], const double resident[NODES_MAX], double request_rate)
{
    uint64_t frees = 0, remote_frees = 0;
    double worst = 0, most_grown = -INFINITY;
    char balancing[8];
    bench_read("/proc/sys/kernel/numa_balancing", balancing, sizeof balancing);
    printf("NUMA balancing: %s\n", *balancing == '0' ? "off" : "on");
    if (mode == MOVED)
        printf("%lu moves\n", moves);
    for (unsigned node = 0; node < NODES_MAX; node++) {
        const struct tally tally = sum_tallies(node);
        if (nodes[node].cpu_count == 0 && resident[node] == 0)
            continue;
        print_node(node, &tally, resident[node], before[node]);
        worst = larger(worst, percent(tally.astray, tally.samples));
        most_grown = larger(most_grown, resident[node] - before[node]);
        frees += tally.frees;
        remote_frees += tally.remote_frees;
    }
    bench_figure("astray_worst", worst, "%");
    bench_figure("remote_frees", percent(remote_frees, frees), "%");
    bench_figure("grown_max", most_grown, "MiB");
    bench_figure("rss", (double)bench_rss_kib() / 1024, "MiB");
    bench_figure("requests", request_rate, "requests/s");
}

static void run(void)
{
    double before[NODES_MAX], resident[NODES_MAX];
    start_workers();
    pthread_barrier_wait(&barrier);
    pass_half();
    read_resident(before);
    const double half = bench_seconds(CLOCK_MONOTONIC), served = (double)sum_requests();
    moves = 0;
    atomic_store_explicit(&measuring, true, memory_order_relaxed);
    pass_half();
    atomic_store_explicit(&stop, true, memory_order_relaxed);
    pthread_barrier_wait(&barrier);
    const double end = bench_seconds(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < worker_count; i++)
        pthread_join(workers[i].thread, NULL);
    read_resident(resident);
    print_all(before, resident, ((double)sum_requests() - served) / (end - half));
}

int main(int count, char **words)
{
    static const struct option options[] = {
        {"pinned", no_argument, NULL, PINNED},        {"unpinned", no_argument, NULL, UNPINNED},
        {"moved", no_argument, NULL, MOVED},          {"producer", no_argument, NULL, PRODUCER},
        {"seconds", required_argument, NULL, 's'},    {"handed", required_argument, NULL, 'h'},
        {"move-after", required_argument, NULL, 'm'}, {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        if (option == 's')
            seconds = bench_decimal(optarg);
        else if (option == 'h')
            handed_percent = bench_number(optarg);
        else if (option == 'm')
            move_after = bench_number(optarg);
        else if (option == '?')
            exit(2);
        else
            mode = (enum mode)option;
    }
    if (mode == NONE || optind != count || handed_percent > 100)
        bench_die("usage: numa_load --pinned | --unpinned | --moved | --producer [--seconds S] [--handed PERCENT] "
                  "[--move-after REQUESTS]");
    sizes_load("redis", &sizes);
    find_nodes();
    run();
    return 0;
}
