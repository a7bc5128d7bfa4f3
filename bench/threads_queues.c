/* Objects that change threads: `handoff`, `ring` and `exchange` of the program `threads`. Sizes are 16 bytes to
 * 1 KiB, each doubling as likely; of `exchange` 8 to 16,000 bytes, each as likely.
 *
 * handoff: half of the threads make objects and write their first bytes; each has one consumer, which reads and frees
 * them. An operation is one object, made by one thread and freed by the other.
 *
 * ring: every thread takes objects from its predecessor in a ring. An object says in its first bytes how many hops it
 * has left, one to four when it is made; the thread that gets it after the last frees it and makes another one
 * in its place. All are passed on to the successor. An operation is one such replacement, that is an object's whole
 * life: malloc, 2.5 hops on average, free.
 *
 * exchange: a thread replaces random objects of a table. After five hundred replacements it lays the table down
 * and goes on with the one that lies there, which another thread has left, as a rule. An operation is a
 * replacement; half of what it frees was made by another thread where there are two.
 *
 * A queue (of the first two) is a ring of batches, filled and emptied in place. Whoever finds it full, or
 * empty, sleeps until it is half full, and is then woken once for two thousand objects: with more threads than
 * CPUs a wake-up for every batch would be what is measured. */
#include "threads.h"

enum { BATCHES = 64, BATCH_OBJECTS = 64, SMALLEST = 16, DOUBLINGS = 6, MOST_HOPS = 4 };

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t half_full;
    uint64_t filled, emptied; /* batches, since the start */
    bool ended;
    void *batches[BATCHES][BATCH_OBJECTS];
};

static struct queue *queues;

static void make_queues(void)
{
    queues = bench_pages(lane_count * sizeof *queues);
    for (unsigned i = 0; i < lane_count; i++) {
        pthread_mutex_init(&queues[i].lock, NULL);
        pthread_cond_init(&queues[i].half_full, NULL);
    }
}

/* The next batch to be filled, or NULL when the queue has ended. */
static void **empty_batch(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    if (queue->filled - queue->emptied == BATCHES) {
        while (!queue->ended && queue->filled - queue->emptied > BATCHES / 2)
            pthread_cond_wait(&queue->half_full, &queue->lock);
    }
    void **batch = queue->ended ? NULL : queue->batches[queue->filled % BATCHES];
    pthread_mutex_unlock(&queue->lock);
    return batch;
}

/* The next batch to be emptied, or NULL when the queue has ended and nothing is left in it. */
static void **full_batch(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    if (queue->filled == queue->emptied) {
        while (!queue->ended && queue->filled - queue->emptied < BATCHES / 2)
            pthread_cond_wait(&queue->half_full, &queue->lock);
    }
    void **batch = queue->filled == queue->emptied ? NULL : queue->batches[queue->emptied % BATCHES];
    pthread_mutex_unlock(&queue->lock);
    return batch;
}

/* The batch that one of the two above gave out is done: `*counter` is the queue's filled or emptied. Only one side
 * can be asleep, since a queue is not full and empty at once and both wait for the same. */
static void batch_is_done(struct queue *queue, uint64_t *counter)
{
    pthread_mutex_lock(&queue->lock);
    ++*counter;
    bool half_full = queue->filled - queue->emptied == BATCHES / 2;
    pthread_mutex_unlock(&queue->lock);
    if (half_full)
        pthread_cond_signal(&queue->half_full);
}

static void end_queue(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->ended = true;
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_broadcast(&queue->half_full);
}

static void prepare_handoff(struct lane *lane)
{
    if (lane->index == 0)
        make_queues();
    lane->state = &queues[lane->index / 2];
}

static void produce(struct lane *lane)
{
    struct queue *queue = lane->state;
    while (!stopped()) {
        void **batch = empty_batch(queue);
        for (unsigned i = 0; i < BATCH_OBJECTS; i++)
            batch[i] = make_object(bench_size(&lane->random, SMALLEST, DOUBLINGS));
        batch_is_done(queue, &queue->filled);
    }
    end_queue(queue);
}

static void consume(struct lane *lane)
{
    struct queue *queue = lane->state;
    void **batch;
    while ((batch = full_batch(queue)) != NULL) {
        for (unsigned i = 0; i < BATCH_OBJECTS; i++) {
            if (*(const volatile char *)batch[i] != 1)
                bench_die("an object has changed under way");
            free(batch[i]);
        }
        batch_is_done(queue, &queue->emptied);
        lane->operations += BATCH_OBJECTS;
    }
}

static void produce_or_consume(struct lane *lane)
{
    (lane->index % 2 == 0 ? produce : consume)(lane);
}

const struct workload handoff = {"handoff", 1, prepare_handoff, produce_or_consume};

static unsigned char *make_traveller(struct lane *lane)
{
    unsigned char *hops = make_object(bench_size(&lane->random, SMALLEST, DOUBLINGS));
    *hops = (unsigned char)(1 + bench_random(&lane->random) % MOST_HOPS);
    return hops;
}

/* Every queue starts half full, and whoever sleeps waits for just that: were all asleep, there would have to be more
 * batches than there are, or fewer. */
static void prepare_ring(struct lane *lane)
{
    if (lane->index == 0)
        make_queues();
    struct queue *queue = &queues[lane->index];
    for (unsigned i = 0; i < BATCHES / 2; i++) {
        for (unsigned j = 0; j < BATCH_OBJECTS; j++)
            queue->batches[i][j] = make_traveller(lane);
    }
    queue->filled = BATCHES / 2;
}

/* Object by object from one batch to the other. */
static void pass_on(struct lane *lane, void *const *from, void **to)
{
    for (unsigned i = 0; i < BATCH_OBJECTS; i++) {
        unsigned char *hops = from[i];
        if (--*hops == 0) {
            free(hops);
            hops = make_traveller(lane);
            lane->operations++;
        }
        to[i] = hops;
    }
}

static void bounce(struct lane *lane)
{
    struct queue *from = &queues[lane->index], *to = &queues[(lane->index + 1) % lane_count];
    while (!stopped()) {
        void **full = full_batch(from);
        void **empty = full == NULL ? NULL : empty_batch(to);
        if (empty == NULL)
            break; /* one of the neighbours has stopped */
        pass_on(lane, full, empty);
        batch_is_done(from, &from->emptied);
        batch_is_done(to, &to->filled);
    }
    end_queue(from);
    end_queue(to);
}

const struct workload ring = {"ring", 1, prepare_ring, bounce};

enum { TABLE_OBJECTS = 500, EXCHANGE_AFTER = 500, EXCHANGE_SMALLEST = 8, EXCHANGE_LARGEST = 16000 };

static _Atomic(void **) lying; /* the table that no thread has; who takes one sees what was done to it before */

static void *make_exchanged(uint64_t *random)
{
    return make_object(EXCHANGE_SMALLEST + bench_random(random) % (EXCHANGE_LARGEST - EXCHANGE_SMALLEST + 1));
}

static void **make_table(uint64_t *random)
{
    void **objects = bench_pages(TABLE_OBJECTS * sizeof *objects);
    for (unsigned i = 0; i < TABLE_OBJECTS; i++)
        objects[i] = make_exchanged(random);
    return objects;
}

static void prepare_exchange(struct lane *lane)
{
    if (lane->index == 0)
        lying = make_table(&lane->random);
    lane->state = make_table(&lane->random);
}

static void replace_and_exchange(struct lane *lane)
{
    void **objects = lane->state;
    uint64_t done = 0, random = lane->random;
    while (!stopped()) {
        void **object = &objects[bench_random(&random) % TABLE_OBJECTS];
        free(*object);
        *object = make_exchanged(&random);
        if (++done % EXCHANGE_AFTER == 0)
            objects = atomic_exchange(&lying, objects);
    }
    lane->operations += done;
}

const struct workload exchange = {"exchange", 1, prepare_exchange, replace_and_exchange};
