/* A program that is not linked against slabmalloc. test_start.c runs it: under LD_PRELOAD (role "work"), and to open
 * the library as if it were a plug-in (role "dlopen PATH"), for which its static TLS must fit into what ld.so keeps
 * in reserve, and what it leaves in threads must survive dlclose. test_dlopen.c runs it to open plug-ins that are
 * linked with the library (roles "plugin-of-ours PATH" and "deep-plugin-of-ours PATH"). */
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

/* -- plug-ins that bring the library ----------------------------------------------------------------------------- */

enum { ROUNDS = 50 };

static int ask(void *library, const char *question)
{
    int (*function)(void);
    *(void **)&function = dlsym(library, question);
    require(function != NULL);
    return function();
}

static void *open_plugin(const char *path, int mode)
{
    void *library = dlopen(path, RTLD_NOW | mode);
    if (library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    require(library != NULL);
    return library;
}

static void *use_plugin(void *path)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        void *library = open_plugin(path, RTLD_LOCAL);
        require(ask(library, "plugin_uses_slabs") == 1 && ask(library, "plugin_has_malloc_of_ours") == 0);
        free(strcpy(malloc(10), "a string"));
        require(dlclose(library) == 0);
    }
    return NULL;
}

static void role_plugin_of_ours(const char *path)
{
    pthread_t threads[3];
    watchdog("threads hang that open a plug-in with the library");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, use_plugin, (void *)(uintptr_t)path) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    exercise();
}

/* Bound deeply, a plug-in finds the library's malloc before libc's, and what it opens deeply, a second one, too. */
static void role_deep_plugin_of_ours(const char *path)
{
    char copy[] = "/tmp/slabmalloc-plugin-XXXXXX";
    void *(*open_deeply)(const char *file);
    require(close(mkstemp(copy)) == 0);
    copy_file(path, copy);
    void *first = open_plugin(path, RTLD_DEEPBIND);
    require(ask(first, "plugin_has_malloc_of_ours") == 1 && ask(first, "plugin_uses_slabs") == 1);
    *(void **)&open_deeply = dlsym(first, "plugin_opens_deeply");
    void *second = open_deeply(copy);
    require(second != NULL && second != first && unlink(copy) == 0);
    require(ask(second, "plugin_has_malloc_of_ours") == 1 && ask(second, "plugin_uses_slabs") == 1);
    require(dlclose(second) == 0 && dlclose(first) == 0);
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
    static const struct role roles[] = {
        {"dlopen", role_dlopen},
        {"work", role_work},
        {"plugin-of-ours", role_plugin_of_ours},
        {"deep-plugin-of-ours", role_deep_plugin_of_ours},
    };
    require(argc > 1);
    return play_role(roles, COUNT(roles), argc, argv);
}
