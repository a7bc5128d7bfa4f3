/* Threads with a pending cancellation: no call of the library's is a cancellation point.
 *
 * Written in: pthreads(7) and POSIX 2.9.5 (the calls that are, and those that may be: all of stdio's); glibc's bug
 * 22830 (malloc_stats is none); include/slabmalloc.h. glibc's malloc_info is one, when the stream is written. */
#include "caches.h"

#include <sys/stat.h>

static const char *call;
static FILE *stream;
static bool came_back;

static void nothing_more(slab_epoch_head *head)
{
    free(head);
}

static void print(void)
{
    if (strcmp(call, "malloc_stats") == 0)
        malloc_stats();
    else if (strcmp(call, "malloc_info") == 0)
        require(malloc_info(0, stream) == 0);
    else if (strcmp(call, "slab_info") == 0)
        require(slab_info(stream) == 0);
}

/* The first of their kind in the process: they read files, start the worker, register with the kernel, and wait. */
static void call_the_rest(void)
{
    void *objects[] = {malloc(100), malloc(100000)};
    slab_cache *cache = slab_cache_create("cancelled", 100, &(slab_cache_attr){.flags = SLAB_NO_MERGE});
    void *object = slab_cache_alloc(cache);
    require(slab_cache_destroy(cache) == -1 && errno == EBUSY); /* which prints a line */
    slab_cache_free(cache, object);
    slab_epoch_enter();
    slab_free_deferred(objects[0]);
    slab_free_deferred(objects[1]);
    slab_epoch_leave();
    slab_epoch_call(malloc(sizeof(slab_epoch_head)), nothing_more);
    slab_epoch_synchronize();
    slab_epoch_poll();
    slab_epoch_barrier();
    slab_percpu_free(slab_percpu_alloc(8, 8));
    slab_cache_shrink(cache);
    require(slab_cache_tune(cache, 10, 0) == 0 && slab_cache_destroy(cache) == 0);
    malloc_trim(0);
    slab_purge();
    process_figures();
    mallinfo2();
}

static void *run_cancelled(void *type)
{
    require(pthread_setcanceltype((int)(intptr_t)type, NULL) == 0);
    if ((intptr_t)type == PTHREAD_CANCEL_ASYNCHRONOUS) { /* else nothing is pending: it would end at once */
        print();
    } else {
        pthread_cancel(pthread_self());
        print();
        if (call[0] == 0)
            call_the_rest();
    }
    came_back = true;
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
    pthread_cancel(pthread_self());
    pthread_testcancel();
    return NULL;
}

/* Whoever is cancelled while it prints does not leave its standing. */
static void cancel(const char *which, intptr_t type)
{
    pthread_t thread;
    void *result;
    call = which;
    came_back = false;
    require(pthread_create(&thread, NULL, run_cancelled, (void *)type) == 0);
    require(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED && came_back);
}

static size_t bytes_of(const char *which, intptr_t type)
{
    stream = tmpfile();
    require(stream != NULL);
    setvbuf(stream, NULL, _IONBF, 0);
    const int before = dup(STDERR_FILENO);
    require(before >= 0 && dup2(fileno(stream), STDERR_FILENO) == STDERR_FILENO);
    cancel(which, type);
    require(dup2(before, STDERR_FILENO) == STDERR_FILENO && close(before) == 0);
    struct stat file;
    require(fstat(fileno(stream), &file) == 0 && fclose(stream) == 0);
    return (size_t)file.st_size;
}

static void printing(const char *argument)
{
    (void)argument;
    static const char *const all[] = {"malloc_stats", "malloc_info", "slab_info"};
    for (size_t i = 0; i < COUNT(all); i++) {
        const size_t before = bytes_of(all[i], PTHREAD_CANCEL_ASYNCHRONOUS);
        const size_t cancelled = bytes_of(all[i], PTHREAD_CANCEL_DEFERRED);
        require(before > 50 && cancelled > 50);
    }
}

static void all_other_calls(const char *argument)
{
    (void)argument;
    cancel("", PTHREAD_CANCEL_DEFERRED);
}

/* The state is as it was: one that had disabled cancellation is not cancelled, one that had not is. */
static void *print_disabled(void *nothing)
{
    int state;
    require(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    pthread_cancel(pthread_self());
    print();
    pthread_testcancel();
    require(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state) == 0 && state == PTHREAD_CANCEL_DISABLE);
    return nothing;
}

static void the_state_is_kept(const char *argument)
{
    (void)argument;
    pthread_t thread;
    stream = tmpfile();
    call = "slab_info";
    require(stream != NULL && pthread_create(&thread, NULL, print_disabled, NULL) == 0);
    require(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"printing", printing},
        {"all-other-calls", all_other_calls},
        {"the-state-is-kept", the_state_is_kept},
    };
    return run_scenarios("cancel", scenarios, COUNT(scenarios), argc, argv);
}
