/* A plug-in in C. Its constructor starts a thread that allocates, and joins it, all under dlopen's lock; it has much
 * dynamic TLS, which ld.so gets from malloc at a thread's first touch. Also preloaded, as a library whose constructor
 * comes early. It opens others where it lies itself ($ORIGIN is its path of search). test_start.c and test_dlopen.c
 * open it. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

int plugin_constructed(void);
int plugin_touches_tls(void);
int plugin_round_trip(void);
void *plugin_makes(size_t size);
void plugin_frees(void *object);
void *plugin_opens(const char *file, int mode);
const char *plugin_malloc_file(void);

static int constructed;
static __thread unsigned char per_thread[100000] = {1};

static void *use_heap(void *argument)
{
    (void)argument;
    void *blocks[300];
    for (size_t i = 0; i < 300; i++)
        blocks[i] = memset(malloc(i * 37), 3, i * 37);
    for (size_t i = 0; i < 300; i++)
        free(blocks[i]);
    constructed++;
    return NULL;
}

__attribute__((constructor(101))) static void construct(void)
{
    pthread_t thread;
    use_heap(NULL);
    if (pthread_create(&thread, NULL, use_heap, NULL) != 0 || pthread_join(thread, NULL) != 0)
        abort();
}

__attribute__((destructor)) static void destruct(void)
{
    use_heap(NULL);
}

int plugin_constructed(void)
{
    return constructed == 2;
}

int plugin_touches_tls(void)
{
    return per_thread[0] == 1 && per_thread[99999]++ == 0;
}

/* Where RTLD_DEEPBIND is in force, malloc and free are libc's here: together they still fit. */
int plugin_round_trip(void)
{
    use_heap(NULL);
    return 1;
}

void *plugin_makes(size_t size)
{
    return malloc(size);
}

void plugin_frees(void *object)
{
    free(object);
}

/* It is the caller: a jump to dlopen would make another of whoever called this. */
void *plugin_opens(const char *file, int mode)
{
    void *volatile library = dlopen(file, mode);
    return library;
}

/* Where malloc is found. */
const char *plugin_malloc_file(void)
{
    Dl_info found;
    void *(*const make)(size_t size) = malloc;
    return dladdr(*(void *const *)&make, &found) != 0 ? found.dli_fname : "";
}
