/* A program that holds objects through a plug-in, which is this file, too, compiled with PLUGIN. Its argument is the
 * plug-in's file. It says "ready" when it has them, and obeys the letters that it reads, with a "done" to each:
 *
 *     c   closes the plug-in
 *     e   exits
 *     m   maps a page of its own code a second time
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))

#ifndef BYTES
#define BYTES 5000
#endif
enum { OBJECTS = 2000 };

void *volatile objects[OBJECTS];

#ifdef PLUGIN
static KEEP void inner_new(void)
{
    for (int i = 0; i < OBJECTS; i++)
        objects[i] = malloc(BYTES);
}

void plug_new(void);
void plug_new(void)
{
    inner_new();
    objects[0] = objects[1];
}

const char plug_kind[] = PLUGIN;
#else
static KEEP void *load(const char *file)
{
    void *plugin = dlopen(file, RTLD_NOW);
    void (*make)(void) = plugin ? (void (*)(void))dlsym(plugin, "plug_new") : NULL;
    if (!make)
        exit(1);
    make();
    return plugin;
}

static KEEP void code_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "re");
    unsigned long start, end, offset;
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx r-xp %lx", &start, &end, &offset) == 3 && start <= (unsigned long)&code_map &&
            end > (unsigned long)&code_map &&
            mmap(NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, (off_t)offset) == MAP_FAILED)
            exit(1);
}

int main(int argc, char **argv)
{
    void *plugin = argc > 1 ? load(argv[1]) : NULL;
    puts("ready");
    fflush(stdout);
    for (char line[16] = ""; line[0] != 'e' && fgets(line, sizeof line, stdin);) {
        if (line[0] == 'c' && dlclose(plugin) != 0)
            return 1;
        if (line[0] == 'm')
            code_map();
        puts("done");
        fflush(stdout);
    }
    return 0;
}
#endif
