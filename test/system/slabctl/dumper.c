/* A program that dumps what it has sampled: it allocates in some functions, from malloc and from a cache with a name,
 * and then does what it reads, a letter a line: d dumps to the file "dump", f frees what one function has made, h
 * makes records of samples unreadable and stops before the library misses them, e exits. A second thread waits, so
 * that the worker is there. After each it says "done". */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <slabmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/inspect.h"

#pragma weak slab_inspect /* which makes the compiler ask where it lies: it would have a copy of its own */

enum { MANY = 20000, FEW = 3 };
#define KEEP __attribute__((noinline, noclone))

static void *objects[MANY], *large[FEW];
static volatile int done;

KEEP void *buffer_new(size_t bytes)
{
    void *buffer = malloc(bytes);
    done = 1;
    return buffer;
}

KEEP void *table_new(size_t bytes)
{
    void *table = calloc(1, bytes);
    done = 2;
    return table;
}

KEEP void *session_new(slab_cache *cache)
{
    void *session = slab_cache_alloc(cache);
    done = 3;
    return session;
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void say(const char *word)
{
    static char line[16];
    write(STDOUT_FILENO, line, (size_t)snprintf(line, sizeof line, "%s\n", word));
}

/* Those of the chunk with index 8, which are 2048 from the 2041st on, but for some at either end. */
static void hide(void)
{
    const uint64_t chunk = ((const uint64_t *)slab_inspect.sample_chunks)[8], page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t first = (chunk + page - 1) / page * page,
                   end = (chunk + 2048 * sizeof(struct slm_sample)) / page * page;
    if (!chunk || mprotect((void *)first, end - first, PROT_NONE) != 0)
        exit(1);
    raise(SIGSTOP);
}

static void obey(char letter)
{
    switch (letter) {
    case 'd':
        done = open("dump", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (slab_profile_dump(done) != 0)
            exit(1);
        close(done);
        break;
    case 'f':
        for (int i = 0; i < MANY; i++)
            free(objects[i]);
        break;
    case 'h':
        hide();
        break;
    default:
        exit(0);
    }
}

int main(void)
{
    static char lines[4096]; /* stdio allocates nothing */
    slab_cache *cache = slab_cache_create("session", 300, &(slab_cache_attr){.flags = SLAB_NO_MERGE});
    pthread_t thread;
    setvbuf(stdin, lines, _IOFBF, sizeof lines);
    for (int i = 0; i < MANY; i++) {
        objects[i] = buffer_new(500);
        session_new(cache);
    }
    for (int i = 0; i < FEW; i++)
        large[i] = table_new(10 << 20);
    if (pthread_create(&thread, NULL, wait_for_ever, NULL) != 0)
        return 1;
    say("ready");
    for (char line[16]; fgets(line, sizeof line, stdin); say("done"))
        obey(line[0]);
    return 0;
}
