/* A program that is not linked against slabmalloc. test_start.c runs it: under LD_PRELOAD (role "work"), and to open
 * the library as if it were a plug-in (role "dlopen PATH"), for which its static TLS must fit into what ld.so keeps
 * in reserve, and what it leaves in threads must survive dlclose. */
#include "common.h"

static struct {
    void *(*make)(size_t size);
    void *(*resize)(void *ptr, size_t size);
    void (*release)(void *ptr);
    pthread_barrier_t used, closed;
} opened;

static void use_opened(unsigned seed)
{
    void *blocks[200];
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = opened.make(i * i);
        require(blocks[i] != NULL);
        pattern_fill(blocks[i], i * i, seed);
    }
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = opened.resize(blocks[i], i * 20 + 1);
        require(blocks[i] != NULL && pattern_holds(blocks[i], i * (i < 20 ? i : 20), seed));
        opened.release(blocks[i]);
    }
}

static void *use_opened_and_outlive_it(void *argument)
{
    use_opened((unsigned)(uintptr_t)argument);
    pthread_barrier_wait(&opened.used);
    pthread_barrier_wait(&opened.closed);
    return NULL;
}

static void role_dlopen(const char *path)
{
    pthread_t threads[4];
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    require(library != NULL);
    *(void **)&opened.make = dlsym(library, "malloc");
    *(void **)&opened.resize = dlsym(library, "realloc");
    *(void **)&opened.release = dlsym(library, "free");
    require(opened.make != NULL && opened.resize != NULL && opened.release != NULL && opened.make != malloc);
    require(pthread_barrier_init(&opened.used, NULL, COUNT(threads) + 1) == 0);
    require(pthread_barrier_init(&opened.closed, NULL, COUNT(threads) + 1) == 0);
    use_opened(1);
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, use_opened_and_outlive_it, (void *)i) == 0);
    exercise(); /* libc's malloc goes on beside it */
    pthread_barrier_wait(&opened.used);
    pid_t child = fork();
    if (child == 0) {
        use_opened(2);
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    require(dlclose(library) == 0);
    pthread_barrier_wait(&opened.closed);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    exercise();
}

static void role_work(const char *expected_library)
{
    if (strcmp(provider_of("malloc"), expected_library) != 0 && *expected_library != '\0')
        fprintf(stderr, "malloc comes from %s\n", provider_of("malloc"));
    require(*expected_library == '\0' || strcmp(provider_of("malloc"), expected_library) == 0);
    exercise();
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"dlopen", role_dlopen}, {"work", role_work}};
    require(argc > 1);
    return play_role(roles, COUNT(roles), argc, argv);
}
