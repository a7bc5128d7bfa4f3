/* Plug-ins: what is opened with RTLD_DEEPBIND has the program's malloc all the same, and dlopen is otherwise what it
 * was, although the library stands in front of libc's.
 *
 * Written in: README.md (the option clear_deepbind); dlopen(3): $ORIGIN and DT_RUNPATH are those of the object that
 * calls, and what goes wrong is in dlerror(3). Nothing here asks for more than glibc gives its own malloc. */
#include "common.h"

static char path_buffer[PATH_MAX];

static void *open_or_say(const char *file, int mode)
{
    void *library = dlopen(file, mode);
    if (library == NULL)
        print_error("%s\n", dlerror());
    require(library != NULL);
    return library;
}

static void *open_plugin(int mode)
{
    char path[PATH_MAX];
    return open_or_say(sibling("libplugin.so", path, sizeof path), RTLD_NOW | mode);
}

/* What test/contract/plugin.c has. */
struct plugin {
    void *library;
    int (*constructed)(void);
    void *(*make)(size_t size);
    void (*release)(void *object);
    void *(*open)(const char *file, int mode);
    const char *(*malloc_file)(void);
};

static struct plugin plugin_in(void *library)
{
    struct plugin plugin = {.library = library};
    *(void **)&plugin.constructed = dlsym(library, "plugin_constructed");
    *(void **)&plugin.make = dlsym(library, "plugin_makes");
    *(void **)&plugin.release = dlsym(library, "plugin_frees");
    *(void **)&plugin.open = dlsym(library, "plugin_opens");
    *(void **)&plugin.malloc_file = dlsym(library, "plugin_malloc_file");
    require(plugin.constructed != NULL && plugin.make != NULL && plugin.release != NULL && plugin.open != NULL &&
            plugin.malloc_file != NULL);
    require(plugin.constructed() == 1);
    return plugin;
}

/* -- one malloc -------------------------------------------------------------------------------------------------- */

static void exchange_objects(const struct plugin *plugin)
{
    static const size_t sizes[] = {0, 1, 24, 100, 1000, 5000, 40000, 300000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *theirs = plugin->make(sizes[i]);
        require(malloc_usable_size(theirs) >= sizes[i]);
        free(memset(theirs, 1, sizes[i]));
        free(realloc(plugin->make(sizes[i]), 2 * sizes[i] + 1));
        plugin->release(opaque(malloc(sizes[i])));
        plugin->release(opaque(calloc(3, sizes[i])));
        plugin->release(opaque(aligned_alloc(64, sizes[i])));
    }
    free(strcpy(plugin->make(10), "a string"));
    plugin->release(strdup("a string"));
}

static const int deep_modes[] = {RTLD_NOW, RTLD_LAZY, RTLD_NOW | RTLD_GLOBAL, RTLD_NOW | RTLD_NODELETE};

static void role_exchange(const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < COUNT(deep_modes); i++) {
        const struct plugin plugin = plugin_in(open_plugin(deep_modes[i] | RTLD_DEEPBIND));
        if (!on_glibc())
            require(strcmp(plugin.malloc_file(), loaded_library()) == 0);
        exchange_objects(&plugin);
        require(dlclose(plugin.library) == 0);
    }
}

static void test_objects_go_both_ways(void **state)
{
    (void)state;
    assert_role_succeeds("exchange", NULL);
}

static void *open_again_and_again(void *argument)
{
    for (unsigned i = 0; i < scaled(50); i++) {
        const struct plugin plugin = plugin_in(open_plugin(RTLD_DEEPBIND));
        exchange_objects(&plugin);
        require(dlclose(plugin.library) == 0);
    }
    return argument;
}

static void role_threads(const char *argument)
{
    pthread_t threads[3];
    (void)argument;
    watchdog("threads that open a plug-in hang");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, open_again_and_again, NULL) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static void test_threads_open_it_at_once(void **state)
{
    (void)state;
    assert_role_succeeds("threads", NULL);
}

static void role_deep(const char *argument)
{
    (void)argument;
    const struct plugin plugin = plugin_in(open_plugin(RTLD_DEEPBIND));
    require(strstr(plugin.malloc_file(), "/libc.so") != NULL);
    void *object = plugin.make(100);
    require(object != NULL);
    plugin.release(object);
    require(dlclose(plugin.library) == 0);
}

static void test_without_the_option_the_flag_is_in_force(void **state)
{
    (void)state;
    assert_role_succeeds("deep", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=clear_deepbind=0"}});
}

/* -- who calls --------------------------------------------------------------------------------------------------- */

/* A folder with the plug-in under two names; one of them is the name of nothing else. */
static const char *const names[] = {"opener.so", "only_here.so"};

static const char *path_in(const char *folder, size_t i)
{
    snprintf(path_buffer, sizeof path_buffer, "%s/%s", folder, names[i]);
    return path_buffer;
}

static void open_where_the_plugin_lies(const char *folder, int mode)
{
    static const char *const files[] = {"only_here.so", "$ORIGIN/only_here.so", "${ORIGIN}/only_here.so"};
    const struct plugin opener = plugin_in(open_or_say(path_in(folder, 0), mode));
    for (size_t i = 0; i < COUNT(files); i++) {
        require(dlopen(files[i], mode) == NULL && strstr(dlerror(), "only_here.so") != NULL);
        void *found = opener.open(files[i], mode);
        if (found == NULL)
            print_error("%s\n", dlerror());
        require(found != NULL);
        const struct plugin other = plugin_in(found);
        require(other.make != opener.make);
        exchange_objects(&other);
        require(dlclose(other.library) == 0);
    }
    require(dlclose(opener.library) == 0);
}

static void role_callers(const char *argument)
{
    char folder[] = "/tmp/slabmalloc-plugins-XXXXXX", plugin[PATH_MAX];
    (void)argument;
    require(mkdtemp(folder) != NULL);
    sibling("libplugin.so", plugin, sizeof plugin);
    for (size_t i = 0; i < COUNT(names); i++)
        copy_file(plugin, path_in(folder, i));
    for (size_t i = 0; i < COUNT(deep_modes) && !(deep_modes[i] & RTLD_NODELETE);
         i++) /* or it would stay, and be found */
        open_where_the_plugin_lies(folder, deep_modes[i] | RTLD_DEEPBIND);
    open_where_the_plugin_lies(folder, RTLD_NOW);
    require(dlclose(open_or_say("$ORIGIN/libplugin.so", RTLD_NOW | RTLD_DEEPBIND)) == 0); /* the program calls */
    for (size_t i = 0; i < COUNT(names); i++)
        require(unlink(path_in(folder, i)) == 0);
    require(rmdir(folder) == 0);
}

static void test_the_caller_is_who_called(void **state)
{
    (void)state;
    assert_role_succeeds("callers", NULL);
}

/* A namespace of its own has a libc of its own, whose malloc the plug-in there uses. */
static void role_namespace(const char *argument)
{
    (void)argument;
    void *library = dlmopen(LM_ID_NEWLM, sibling("libplugin.so", path_buffer, sizeof path_buffer), RTLD_NOW);
    if (library == NULL)
        print_error("%s\n", dlerror());
    require(library != NULL);
    const struct plugin plugin = plugin_in(library);
    void *object = plugin.make(100);
    require(object != NULL);
    plugin.release(object);
    void *again = plugin.open(path_buffer, RTLD_NOW | RTLD_DEEPBIND);
    require(again == library); /* in its own namespace */
    require(dlclose(again) == 0 && dlclose(library) == 0);
    exercise();
}

static void test_another_namespace(void **state)
{
    (void)state;
    assert_role_succeeds("namespace", NULL);
}

/* -- the rest of dlopen ------------------------------------------------------------------------------------------ */

static void role_answers(const char *argument)
{
    (void)argument;
    static const int modes[] = {RTLD_NOW, RTLD_NOW | RTLD_DEEPBIND};
    for (size_t i = 0; i < COUNT(modes); i++) {
        require(dlopen("libabsent.so", modes[i]) == NULL && strstr(dlerror(), "libabsent.so") != NULL);
        require(dlerror() == NULL);
        require(dlopen("libabsent.so", modes[i] & ~RTLD_NOW) == NULL && strstr(dlerror(), "mode") != NULL);
        require(dlopen(sibling("libplugin.so", path_buffer, sizeof path_buffer), modes[i] | RTLD_NOLOAD) == NULL);
        void *program = dlopen(NULL, modes[i]), *library = open_plugin(modes[i]);
        require(program != NULL && dlsym(program, "malloc") == dlsym(RTLD_DEFAULT, "malloc"));
        require(open_plugin(modes[i] | RTLD_NOLOAD) == library);
        require(dlclose(library) == 0 && dlclose(library) == 0 && dlclose(program) == 0);
    }
}

static void test_answers_and_errors(void **state)
{
    (void)state;
    assert_role_succeeds("answers", NULL);
}

/* -- the library as a plug-in's ---------------------------------------------------------------------------------- */

/* In a program on libc's malloc (plain.c); the argument is for the plug-in, plugin_slab.c. */
static void check_plain(const char *role)
{
    char plain[PATH_MAX];
    sibling("plain", plain, sizeof plain);
    assert_role_succeeds(role,
                         &(struct launch){.program = plain,
                                          .argument = sibling("libplugin_slab.so", path_buffer, sizeof path_buffer)});
}

static void test_a_plugin_with_objects_of_ours(void **state)
{
    (void)state;
    skip_on_glibc("it has no objects of ours");
    check_plain("plugin-of-ours");
}

static void test_in_another_malloc_s_program_the_flag_is_in_force(void **state)
{
    (void)state;
    skip_on_glibc("it has one malloc alone");
    check_plain("deep-plugin-of-ours");
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"exchange", role_exchange}, {"threads", role_threads},     {"deep", role_deep},
        {"callers", role_callers},   {"namespace", role_namespace}, {"answers", role_answers},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_go_both_ways),
        cmocka_unit_test(test_threads_open_it_at_once),
        cmocka_unit_test(test_without_the_option_the_flag_is_in_force),
        cmocka_unit_test(test_the_caller_is_who_called),
        cmocka_unit_test(test_another_namespace),
        cmocka_unit_test(test_answers_and_errors),
        cmocka_unit_test(test_a_plugin_with_objects_of_ours),
        cmocka_unit_test(test_in_another_malloc_s_program_the_flag_is_in_force),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
