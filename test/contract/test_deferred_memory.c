/* Retiring where there is no memory: RLIMIT_AS lies below what the process has, and what it has is full. Nothing is
 * lost, and nothing waits for ever: what has a head waits by it; the form without waits for a grace period, a
 * millisecond or more for each object; inside a section of the thread's own, where neither will do, objects are
 * left unfreed, and counted. All is told by the figures of the objects' cache, after the limit has been lifted and
 * a barrier. */
#include "epochs.h"

enum { OBJECTS = 100000, WAITS = 1000, SIZE = 72, LARGE = 20 };

/* The list goes through the objects, behind the head: a program without memory has no array of them. */
struct node {
    slab_epoch_head head;
    struct node *next;
    unsigned char load[SIZE - sizeof(slab_epoch_head) - sizeof(struct node *)];
};

static slab_cache *cache;

static struct node *make_nodes(void)
{
    struct node *first = NULL;
    for (unsigned i = 0; i < OBJECTS; i++) {
        struct node *node = (struct node *)take(cache);
        node->next = first;
        pattern_fill(node->load, sizeof node->load, 9);
        first = node;
    }
    return first;
}

/* -- no memory --------------------------------------------------------------------------------------------------- */

struct filler {
    struct filler *next;
};

/* What the process has, and how to have more again. */
struct exhausted {
    struct rlimit before;
    struct filler *fillers;
    void *large[LARGE];
};

static void exhaust(struct exhausted *exhausted)
{
    struct rlimit limit;
    exhausted->fillers = NULL;
    for (size_t i = 0; i < LARGE; i++)
        require((exhausted->large[i] = malloc(100 * KIB)) != NULL);
    slab_purge();
    require(getrlimit(RLIMIT_AS, &exhausted->before) == 0);
    limit = exhausted->before;
    limit.rlim_cur = MIB; /* less than there is: nothing more can be mapped */
    require(setrlimit(RLIMIT_AS, &limit) == 0);
    for (size_t size = MIB; size >= 16; size /= 2)
        for (struct filler *filler; (filler = malloc(size)) != NULL; exhausted->fillers = filler)
            filler->next = exhausted->fillers;
}

static void have_memory_again(struct exhausted *exhausted)
{
    require(setrlimit(RLIMIT_AS, &exhausted->before) == 0);
    while (exhausted->fillers != NULL) {
        struct filler *next = exhausted->fillers->next;
        free(exhausted->fillers);
        exhausted->fillers = next;
    }
}

static void check_all_is_freed(uint64_t unfreed)
{
    slab_epoch_barrier();
    require_nothing_waits();
    require(process_figures().deferred_unfreed == unfreed && active(cache) == unfreed);
    require(unfreed > 0 || slab_cache_destroy(cache) == 0);
}

/* -- retiring ---------------------------------------------------------------------------------------------------- */

/* The reader stays, so that nothing comes back meanwhile. */
static void heads_wait_without_memory(const char *argument)
{
    (void)argument;
    struct parked reader;
    struct exhausted exhausted;
    cache = make_own("poor", SIZE);
    struct node *nodes = make_nodes();
    park_inside(&reader);
    exhaust(&exhausted);
    for (struct node *node = nodes, *next; node != NULL; node = next) {
        next = node->next;
        slab_free_deferred_head(node, &node->head);
    }
    for (size_t i = 0; i < LARGE; i++)
        slab_free_deferred_head(exhausted.large[i], (slab_epoch_head *)exhausted.large[i]);
    for (const struct node *node = nodes; node != NULL; node = node->next)
        require(pattern_holds(node->load, sizeof node->load, 9));
    require(active(cache) == OBJECTS);
    have_memory_again(&exhausted);
    unpark(&reader);
    check_all_is_freed(0);
}

/* All nodes of a list, the last ones by the form without a head: what room there was for pointers has been used
 * by then. */
static void retire_list(struct node *node, unsigned without_head)
{
    unsigned left = 0;
    for (const struct node *at = node; at != NULL; at = at->next)
        left++;
    for (struct node *next; node != NULL; node = next, left--) {
        next = node->next;
        if (left > without_head)
            slab_free_deferred_head(node, &node->head);
        else
            slab_free_deferred(node);
    }
}

/* Without a head and with readers that leave: it goes on, at the price of waiting. */
static void one_argument_goes_on_without_memory(const char *argument)
{
    (void)argument;
    struct readers readers;
    struct exhausted exhausted;
    cache = make_own("poor", SIZE);
    struct node *nodes = make_nodes();
    start_readers(&readers);
    exhaust(&exhausted);
    retire_list(nodes, WAITS);
    for (size_t i = 0; i < LARGE; i++)
        slab_free_deferred(exhausted.large[i]);
    have_memory_again(&exhausted);
    stop_readers(&readers);
    check_all_is_freed(0);
}

/* A thread that stays has magazines of its own, and a barrier finds no memory for a copy of what is in them. */
static void retire_a_few(void *objects)
{
    for (size_t i = 0; i < LARGE; i++)
        slab_free_deferred(((void **)objects)[i]);
}

static void barriers_end_without_memory(const char *argument)
{
    (void)argument;
    struct parked reader, holder;
    struct exhausted exhausted;
    void *objects[LARGE];
    cache = make_own("poor", SIZE);
    for (size_t i = 0; i < LARGE; i++)
        objects[i] = take(cache);
    park_outside(&reader);
    park(&holder, retire_a_few, NULL, objects);
    require(active(cache) > 0); /* what does not fill a magazine */
    exhaust(&exhausted);
    slab_epoch_barrier();
    require(active(cache) == 0);
    have_memory_again(&exhausted);
    unpark(&holder);
    unpark(&reader);
    check_all_is_freed(0);
}

/* Inside a section of its own the thread cannot wait. What is left unfreed is there for good, and as it was. */
static void own_sections_leave_some_unfreed(const char *argument)
{
    (void)argument;
    struct parked reader;
    struct exhausted exhausted;
    struct listening listening;
    char said[512];
    cache = make_own("poor", SIZE);
    struct node *nodes = make_nodes();
    park_outside(&reader);
    listen_start(&listening);
    exhaust(&exhausted);
    slab_epoch_enter();
    for (struct node *node = nodes; node != NULL; node = node->next)
        slab_free_deferred(node);
    for (size_t i = 0; i < LARGE; i++)
        slab_free_deferred(exhausted.large[i]); /* these need no memory */
    for (const struct node *node = nodes; node != NULL; node = node->next)
        require(pattern_holds(node->load, sizeof node->load, 9));
    require(active(cache) == OBJECTS);
    slab_epoch_leave();
    listen_end(&listening, said, sizeof said);
    have_memory_again(&exhausted);
    const uint64_t unfreed = process_figures().deferred_unfreed;
    require(unfreed > 0 && unfreed < OBJECTS);
    require(strncmp(said, "slabmalloc: ", 12) == 0 && strchr(said, '\n') == said + strlen(said) - 1);
    unpark(&reader);
    check_all_is_freed(unfreed);
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 8 };

struct poor_thread {
    struct parked parked;
    struct node *nodes; /* its own */
};

/* Each with the few objects of an ordinary day. */
static void retire_nodes(void *context)
{
    const struct poor_thread *self = context;
    retire_list(self->nodes, WAITS / THREADS);
}

/* What does not go into a magazine is left unfreed; the section ends with the thread. */
static void retire_nodes_inside(void *context)
{
    const struct poor_thread *self = context;
    slab_epoch_enter();
    retire_list(self->nodes, OBJECTS);
}

/* They retire, and end, when nothing can be had. What they leave behind is freed as well. */
static void end_threads_without_memory(void (*retire)(void *))
{
    struct poor_thread threads[THREADS];
    struct parked reader;
    struct exhausted exhausted;
    cache = make_own("poor", SIZE);
    struct node *nodes = make_nodes();
    park_outside(&reader);
    for (size_t i = 0; i < COUNT(threads); i++) {
        struct node **last = &threads[i].nodes;
        for (unsigned n = 0; n < OBJECTS / COUNT(threads); n++) {
            *last = nodes;
            last = &nodes->next;
            nodes = nodes->next;
        }
        *last = NULL;
        park(&threads[i].parked, enter_and_leave, retire, &threads[i]);
    }
    require(nodes == NULL);
    exhaust(&exhausted);
    for (size_t i = 0; i < COUNT(threads); i++)
        unpark(&threads[i].parked);
    have_memory_again(&exhausted);
    unpark(&reader);
}

static void threads_end_without_memory(const char *argument)
{
    (void)argument;
    end_threads_without_memory(retire_nodes);
    check_all_is_freed(0);
}

static void threads_end_inside_without_memory(const char *argument)
{
    (void)argument;
    end_threads_without_memory(retire_nodes_inside);
    check_all_is_freed(process_figures().deferred_unfreed);
}

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"heads_wait_without_memory", heads_wait_without_memory, NULL},
        {"one_argument_goes_on_without_memory", one_argument_goes_on_without_memory, NULL},
        {"barriers_end_without_memory", barriers_end_without_memory,
         "SLABMALLOC_OPTIONS=deferred_max_delay_ms=60000"},
        {"own_sections_leave_some_unfreed", own_sections_leave_some_unfreed,
         "SLABMALLOC_OPTIONS=epoch_stall_ms=0"}, /* no other line than the one that is looked for */
        {"threads_end_without_memory", threads_end_without_memory, NULL},
        {"threads_end_inside_without_memory", threads_end_inside_without_memory, NULL},
    };
    return run_epoch_scenarios("deferred free without memory", scenarios, COUNT(scenarios), argc, argv);
}
