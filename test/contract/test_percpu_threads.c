/* Many threads change the same per-CPU objects, more of them than there are CPUs, move from CPU to CPU, and are
 * interrupted by handlers that do the same. In the end the books balance: each value and each node that was put in
 * has come out, or is still there, once.
 *
 * Written in: include/slabmalloc.h ("per-CPU memory": "Changes of this CPU's copy, each whole on one CPU, whatever
 * interrupts or moves the thread: nothing is lost"; "a popped node may be freed at once"; "at any time not less than
 * what had been added before the call"). */
#include "percpu.h"

enum { THREADS = 5, MOVES = 150, STEPS_BETWEEN = 1500 };

/* -- items in a list --------------------------------------------------------------------------------------------- */

enum { ITEMS_OF_A_THREAD = 64, ITEMS = THREADS * ITEMS_OF_A_THREAD };

struct item {
    slab_percpu_node node;
    bool listed, found;
};

static struct item items[ITEMS];

static struct item *item_of(slab_percpu_node *node)
{
    return (struct item *)(void *)node;
}

/* -- threads that do everything ---------------------------------------------------------------------------------- */

static slab_percpu counter, swapped, compared, list;

/* What a thread and its handlers have put in and taken out. Handlers interrupt the thread itself, so that their
 * changes pair with the thread's own only. */
struct worker {
    pthread_t thread;
    uint64_t random;
    uint64_t added, swapped_in, swapped_out, compared;
    struct item *mine[ITEMS];
    size_t count;        /* of mine, which handlers leave alone */
    struct item *pocket; /* the handlers' */
    unsigned handled;
    bool started;
};

static struct worker workers[THREADS];
static __thread struct worker *self;

static void book(uint64_t *account, uint64_t value)
{
    __atomic_fetch_add(account, value, __ATOMIC_RELAXED);
}

static void change_numbers(uint64_t random)
{
    const uint64_t value = random >> 20;
    if (random & 1)
        slab_percpu_add_u64(counter, value);
    else
        slab_percpu_add_long(counter, (long)value);
    book(&self->added, value);
    book(&self->swapped_in, value);
    book(&self->swapped_out, slab_percpu_xchg(swapped, value));
    const uintptr_t seen = __atomic_load_n((uintptr_t *)slab_percpu_this(compared), __ATOMIC_RELAXED);
    if (slab_percpu_cmpxchg(compared, seen, seen + value) == seen)
        book(&self->compared, value);
}

static struct item *pop(void)
{
    slab_percpu_node *node = slab_percpu_list_pop(list);
    if (node == NULL)
        return NULL;
    require(__atomic_exchange_n(&item_of(node)->listed, false, __ATOMIC_RELAXED)); /* pairs with the one in push */
    node->next = (slab_percpu_node *)(uintptr_t)0xdead0000;                        /* nobody may follow it any more */
    return item_of(node);
}

static void push(struct item *item)
{
    require(!__atomic_exchange_n(&item->listed, true, __ATOMIC_RELAXED));
    slab_percpu_list_push(list, &item->node);
}

static void step(void)
{
    const uint64_t random = random_next(&self->random);
    change_numbers(random);
    if (random >> 8 & 1) {
        struct item *item = pop();
        if (item != NULL)
            self->mine[self->count++] = item;
    } else if (self->count > 0) {
        push(self->mine[--self->count]);
    }
}

/* A handler takes two items, keeps the second until the next handler, and puts the first one back on top: whoever was
 * interrupted in a pop finds the head as it was, and what is below it not. */
static void step_in_handler(int number)
{
    const int kept = errno;
    errno = EDOM + number;
    uint64_t random = (uint64_t)self->handled * 2654435761u + 1;
    change_numbers(random_next(&random));
    struct item *first = pop(), *second = pop();
    if (self->pocket != NULL)
        push(self->pocket);
    if (first != NULL)
        push(first);
    self->pocket = second;
    require(errno == EDOM + number);
    errno = kept;
    __atomic_store_n(&self->handled, self->handled + 1, __ATOMIC_RELAXED); /* read by who sends the signals */
}

static void begin(size_t number)
{
    struct worker *worker = &workers[number];
    worker->thread = pthread_self();
    worker->random = number * 2654435761u + 88172645463325252u;
    for (size_t i = 0; i < ITEMS_OF_A_THREAD; i++)
        worker->mine[worker->count++] = &items[number * ITEMS_OF_A_THREAD + i];
    self = worker;
    __atomic_store_n(&worker->started, true, __ATOMIC_RELEASE); /* pairs with who sends the signals */
}

static void *move_and_change(void *number)
{
    begin((size_t)number);
    for (int i = 0, moves = (int)scaled(MOVES), cpu = (int)(size_t)number; i < moves; i++) {
        move_to(cpu = cpu_behind(cpu));
        for (unsigned j = 0; j < STEPS_BETWEEN; j++)
            step();
    }
    return NULL;
}

static bool over;

static void *change_until_over(void *number)
{
    begin((size_t)number);
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) /* set when all have had their signals */
        step();
    return NULL;
}

/* -- the books --------------------------------------------------------------------------------------------------- */

static void open_books(void)
{
    counter = make_counter();
    swapped = make_object(sizeof(uintptr_t), sizeof(uintptr_t));
    compared = make_object(sizeof(uintptr_t), sizeof(uintptr_t));
    list = make_object(sizeof(void *), sizeof(void *));
}

static void find_item(struct item *item, bool listed)
{
    require(item >= items && item < items + ITEMS && !item->found && item->listed == listed);
    item->found = true;
}

static void require_all_items(void)
{
    size_t found = 0;
    slab_percpu_node **head;
    slab_percpu_for_each (cpu, head, list)
        for (slab_percpu_node *node = *head; node != NULL; node = node->next, found++)
            find_item(item_of(node), true);
    for (size_t i = 0; i < THREADS; i++)
        for (size_t j = 0; j < workers[i].count; j++, found++)
            find_item(workers[i].mine[j], false);
    for (size_t i = 0; i < THREADS; i++)
        if (workers[i].pocket != NULL) {
            find_item(workers[i].pocket, false);
            found++;
        }
    require(found == ITEMS);
}

static void close_books(void)
{
    uint64_t added = 0, swapped_in = 0, swapped_out = 0, compared_in = 0;
    for (size_t i = 0; i < THREADS; i++) {
        added += workers[i].added;
        swapped_in += workers[i].swapped_in;
        swapped_out += workers[i].swapped_out;
        compared_in += workers[i].compared;
    }
    require(added != 0 && slab_percpu_sum_u64(counter) == added && slab_percpu_sum_long(counter) == (long)added);
    require(swapped_in == swapped_out + slab_percpu_sum_u64(swapped));
    require(compared_in != 0 && compared_in == slab_percpu_sum_u64(compared));
    require_all_items();
    slab_percpu_free(counter);
    slab_percpu_free(swapped);
    slab_percpu_free(compared);
    slab_percpu_free(list);
}

static void threads_that_move(const char *argument)
{
    (void)argument;
    open_books();
    run_threads(THREADS, move_and_change);
    close_books();
}

static unsigned handled_by_all(void)
{
    unsigned sum = 0;
    for (size_t i = 0; i < THREADS; i++)
        sum += __atomic_load_n(&workers[i].handled, __ATOMIC_RELAXED); /* pairs with their handlers */
    return sum;
}

/* Interrupts the workers, those most that are running, until they have handled so many signals together. */
static void send_signals(unsigned signals)
{
    const struct timespec nap = {0, 20000};
    for (size_t i = 0; i < THREADS; i++)
        while (!__atomic_load_n(&workers[i].started, __ATOMIC_ACQUIRE)) /* pairs with its begin */
            sched_yield();
    while (handled_by_all() < signals) {
        for (size_t i = 0; i < THREADS; i++)
            require(pthread_kill(workers[i].thread, SIGUSR1) == 0);
        nanosleep(&nap, NULL);
    }
    __atomic_store_n(&over, true, __ATOMIC_RELAXED); /* read by the workers */
}

static void *change_or_signal(void *number)
{
    if ((size_t)number < THREADS)
        return change_until_over(number);
    send_signals(scaled(8000));
    return NULL;
}

static void handlers_change_too(const char *argument)
{
    (void)argument;
    watchdog("signals do not arrive");
    require(signal(SIGUSR1, step_in_handler) != SIG_ERR);
    open_books();
    run_threads(THREADS + 1, change_or_signal);
    close_books();
}

/* -- nodes that go at once --------------------------------------------------------------------------------------- */

static unsigned long pages_made, pages_gone, pages_to_go;

/* Each node is a page of its own. A thread that looked at a node which another one has popped would fall. They go on
 * until so many have been popped, in however many attempts. */
static void *map_and_unmap(void *number)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t random = (size_t)number * 2654435761u + 88172645463325252u;
    while (__atomic_load_n(&pages_gone, __ATOMIC_RELAXED) < pages_to_go) {
        if (random_next(&random) & 256) {
            void *node = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            require(node != MAP_FAILED);
            slab_percpu_list_push(list, (slab_percpu_node *)node);
            __atomic_fetch_add(&pages_made, 1, __ATOMIC_RELAXED); /* all are read behind the joins */
        } else {
            slab_percpu_node *node = slab_percpu_list_pop(list);
            require(node == NULL || munmap(node, page) == 0);
            __atomic_fetch_add(&pages_gone, node != NULL, __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

static void popped_nodes_may_go(const char *argument)
{
    (void)argument;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    list = make_object(sizeof(void *), sizeof(void *));
    pages_to_go = scaled(10000);
    run_threads(THREADS, map_and_unmap);
    slab_percpu_node **head;
    slab_percpu_for_each (cpu, head, list)
        for (slab_percpu_node *node = *head, *next; node != NULL; node = next, pages_gone++) {
            next = node->next;
            require(munmap(node, page) == 0);
        }
    require(pages_gone == pages_made);
    slab_percpu_free(list);
}

/* -- reading while others add ------------------------------------------------------------------------------------ */

static unsigned long added_by[THREADS];

static void *add_and_tell(void *number)
{
    for (unsigned i = 0; i < 300000; i++) {
        slab_percpu_add_long(counter, 1);
        __atomic_fetch_add(&added_by[(size_t)number], 1, __ATOMIC_RELEASE); /* pairs with the sum's */
    }
    return NULL;
}

static void *watch_the_sum(void *nobody)
{
    for (unsigned long before = 0; before < THREADS * 300000ul;) {
        before = 0;
        for (size_t i = 0; i < THREADS; i++)
            before += __atomic_load_n(&added_by[i], __ATOMIC_ACQUIRE); /* pairs with who has added */
        const long sum = slab_percpu_sum_long(counter);
        require(sum >= (long)before && sum <= THREADS * 300000l);
    }
    return nobody;
}

static void *add_or_watch(void *number)
{
    return (size_t)number < THREADS ? add_and_tell(number) : watch_the_sum(NULL);
}

static void sums_never_lag(const char *argument)
{
    (void)argument;
    counter = make_counter();
    run_threads(THREADS + 1, add_or_watch);
    require(slab_percpu_sum_long(counter) == THREADS * 300000l);
    slab_percpu_free(counter);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"threads_that_move", threads_that_move},
        {"handlers_change_too", handlers_change_too},
        {"popped_nodes_may_go", popped_nodes_may_go},
        {"sums_never_lag", sums_never_lag},
    };
    return run_scenarios("threads and per-CPU memory", scenarios, COUNT(scenarios), argc, argv);
}
