/* A process to look into: it has a cache with a name, live objects of some sizes, and two threads, so that the
 * library has its worker. It says "ready", waits, and does what it reads on standard input, a letter a line, with
 * a "done" to it:
 *
 *     m   makes 32 MiB of objects and frees them
 *     f   forks a child that lives on, and says its number
 *     w   works on in a third thread
 *     t   ends the main thread alone
 *     c   makes two caches called "conn", and some that are called nearly like others, with objects that are sampled
 *     b   has 512 MiB more, in small pages, which take long to free
 *     x   executes `sleep`
 */
#include <errno.h>
#include <pthread.h>
#include <slabmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OBJECTS = 1000, BYTES = 1000, MANY = 32 * 1024 };

static void *objects[OBJECTS], *many[MANY];

/* A program that links the archive has libc's pthread_create: there a thread is noticed by its first call. */
static void *wait_for_ever(void *unused)
{
    void *volatile object = malloc(100);
    free(object);
    for (;;)
        pause();
    return unused;
}

static void *work_for_ever(void *unused)
{
    for (;;)
        for (int i = 0; i < 64; i++)
            free(objects[i]), objects[i] = malloc(BYTES);
    return unused;
}

static void add_much(void)
{
    const size_t bytes = (size_t)512 << 20;
    char *much = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (much == MAP_FAILED || (madvise(much, bytes, MADV_NOHUGEPAGE) != 0 && errno != EINVAL))
        exit(1);
    memset(much, 1, bytes);
}

/* A megabyte each: at sample_bytes=1K as good as all that is said of them is so. */
static void add_caches(void)
{
    static const char *const names[] = {"conn", "conn", "size-1024", "size-64foo", "cache-945"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        slab_cache *cache = slab_cache_create(names[i], 2048 + 64 * i, &(slab_cache_attr){.flags = SLAB_NO_MERGE});
        for (int j = 0; j < 512; j++)
            if (!slab_cache_alloc(cache))
                exit(1);
    }
    for (int i = 0; i < 1024; i++)
        many[i] = malloc(1024);
}

static void say(const char *word, int number)
{
    printf("%s %d\n", word, number);
    fflush(stdout);
}

static void obey(char letter)
{
    pthread_t thread;
    pid_t child = 0;
    switch (letter) {
    case 'm':
        for (int i = 0; i < MANY; i++)
            many[i] = memset(malloc(1024), 1, 1024);
        for (int i = 0; i < MANY; i++)
            free(many[i]);
        break;
    case 'f':
        child = fork();
        if (child == 0)
            wait_for_ever(NULL);
        break;
    case 'w':
        pthread_create(&thread, NULL, work_for_ever, NULL);
        break;
    case 't':
        say("done", 0);
        pthread_exit(NULL);
    case 'c':
        add_caches();
        break;
    case 'b':
        add_much();
        break;
    case 'x':
        execlp("sleep", "sleep", "1000", NULL);
        break;
    default:
        exit(0);
    }
    say("done", (int)child);
}

int main(void)
{
    slab_cache *cache = slab_cache_create("victim", 200, &(slab_cache_attr){.flags = SLAB_ACCOUNT});
    for (int i = 0; i < OBJECTS; i++) {
        objects[i] = malloc(BYTES);
        if (!slab_cache_alloc(cache))
            return 1;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_for_ever, NULL) != 0)
        return 1;
    say("ready", (int)getpid());
    for (char line[16]; fgets(line, sizeof line, stdin);)
        obey(line[0]);
    return 0;
}
