/* Constructors, destructors and functions of slab_epoch_call that are left: by an exception, or because the thread
 * ends there. */
#include <pthread.h>
#include <slabmalloc.h>
#include <unistd.h>
#include <unwind.h>

#include "misuse.h"

/* As other languages raise theirs. What comes back has found nobody who catches it. */
static void leave(const struct misuse_case *row)
{
    static struct _Unwind_Exception exception = {.exception_class = 1};
    if (is_kind(row, "pthread_exit"))
        pthread_exit(NULL);
    _Unwind_RaiseException(&exception);
    puts("nobody was asked");
    _exit(1);
}

static void leave_hook(void *object, void *row)
{
    (void)object;
    leave(row);
}

static const struct misuse_case *row_of_function;

static void leave_function(slab_epoch_head *head)
{
    (void)head;
    leave(row_of_function);
}

static void say(const char *what)
{
    printf("slabmalloc: an exception or pthread_exit left %s (thread %d)\n", what, (int)gettid());
    fflush(stdout);
}

static void allocate(const struct misuse_case *row)
{
    void *objects[1000];
    const slab_cache_attr attr = {.ctor = leave_hook, .context = (void *)row};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    say("the constructor of cache apples");
    if (is_call(row, "slab_cache_alloc_bulk"))
        slab_cache_alloc_bulk(cache, 1000, objects);
    else if (is_call(row, "slab_cache_alloc_node"))
        slab_cache_alloc_node(cache, 0);
    else
        slab_cache_alloc(cache);
}

/* The first slab is made in peace; its objects are asked for without a lock until another one is needed, which some
 * malloc or free makes. */
static _Atomic bool in_peace;

static void leave_later(void *object, void *row)
{
    if (!in_peace)
        leave_hook(object, row);
}

static void allocate_nolock(const struct misuse_case *row)
{
    const slab_cache_attr attr = {.ctor = leave_later, .context = (void *)row};
    slab_cache *cache = slab_cache_create("apples", 10000, &attr);
    in_peace = true;
    slab_cache_alloc(cache);
    in_peace = false;
    say("the constructor of cache apples");
    for (;;) {
        slab_cache_alloc_nolock(cache);
        free(hidden(malloc(64)));
    }
}

static void give_back(const struct misuse_case *row)
{
    const slab_cache_attr attr = {.dtor = leave_hook, .context = (void *)row};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    slab_cache_free(cache, slab_cache_alloc(cache));
    say("the destructor of cache apples");
    if (is_call(row, "slab_cache_shrink"))
        slab_cache_shrink(cache);
    else
        slab_cache_destroy(cache);
}

static void call_later(const struct misuse_case *row)
{
    static slab_epoch_head head;
    row_of_function = row;
    say("a function of slab_epoch_call");
    slab_epoch_call(&head, leave_function);
    while (is_call(row, "slab_epoch_poll"))
        slab_epoch_poll();
    slab_epoch_barrier();
}

const struct misuse_case misuse_of_hooks[] = {
    {"hook_left-alloc", allocate, .call = "slab_cache_alloc"},
    {"hook_left-alloc-exit", allocate, .call = "slab_cache_alloc", .kind = "pthread_exit"},
    {"hook_left-alloc_bulk", allocate, .call = "slab_cache_alloc_bulk"},
    {"hook_left-alloc_node", allocate, .call = "slab_cache_alloc_node"},
    {"hook_left-alloc_nolock", .commit = allocate_nolock},
    {"hook_left-shrink", give_back, .call = "slab_cache_shrink"},
    {"hook_left-destroy", give_back, .call = "slab_cache_destroy"},
    {"hook_left-destroy-exit", give_back, .call = "slab_cache_destroy", .kind = "pthread_exit"},
    {"hook_left-barrier", call_later, .call = "slab_epoch_barrier"},
    {"hook_left-barrier-exit", call_later, .call = "slab_epoch_barrier", .kind = "pthread_exit"},
    {"hook_left-poll", call_later, .call = "slab_epoch_poll"},
    {0},
};
