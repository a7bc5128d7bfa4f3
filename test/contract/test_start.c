/* Start and loading: the first allocation before any constructor, plug-ins, preloading, dlopen of the library itself,
 * a bare environment, descriptors.
 *
 * Written in: glibc's manual, "Replacing malloc" (the loader itself calls malloc, for TLS among others, and before
 * constructors have run); dlopen(3); ld.so(8) (LD_PRELOAD, .preinit_array through System V's gABI: "before all other
 * initialisation functions"); the habit that a library keeps no descriptor of its own, as daemons close them all. */
#include "common.h"

#include <sys/auxv.h>

static char path_buffer[PATH_MAX];

static const char *beside(const char *name)
{
    return sibling(name, path_buffer, sizeof path_buffer);
}

static void *symbol(void *library, const char *name)
{
    void *address = dlsym(library, name);
    require(address != NULL);
    return address;
}

typedef int (*plugin_question)(void);

static bool plugin_says_yes(void *library, const char *name)
{
    plugin_question question;
    *(void **)&question = symbol(library, name);
    return question() == 1;
}

/* -- before main ------------------------------------------------------------------------------------------------- */

static void test_first_use_before_any_constructor(void **state)
{
    (void)state;
    char setting[PATH_MAX + 40];
    snprintf(setting, sizeof setting, "%s=%s", LIBRARY_VARIABLE, loaded_library());
    assert_role_succeeds("", &(struct launch){.program = beside("early"), .environment = {setting}});
}

static void check_preloaded(const char *program, const char *libraries)
{
    char setting[2 * PATH_MAX], expected[PATH_MAX];
    snprintf(setting, sizeof setting, "LD_PRELOAD=%s", libraries);
    snprintf(expected, sizeof expected, "%s", provider_of("malloc"));
    assert_role_succeeds(
        "work",
        &(struct launch){.program = program, .argument = on_glibc() ? "" : expected, .environment = {setting}});
}

/* Preloaded, with other preloads before and after, whose constructors (priority 101) allocate and start threads. */
static void test_preloaded_among_others(void **state)
{
    (void)state;
    char plain[PATH_MAX], plugin[PATH_MAX], libraries[2 * PATH_MAX];
    const char *ours = on_glibc() ? "" : provider_of("malloc");
    sibling("plain", plain, sizeof plain);
    sibling("libplugin.so", plugin, sizeof plugin);
    check_preloaded(plain, ours);
    snprintf(libraries, sizeof libraries, "%s:%s", ours, plugin);
    check_preloaded(plain, libraries);
    snprintf(libraries, sizeof libraries, "%s:%s", plugin, ours);
    check_preloaded(plain, libraries);
}

static void role_early_preload(const char *argument)
{
    (void)argument;
    require(plugin_says_yes(RTLD_DEFAULT, "plugin_constructed"));
    exercise();
}

static void test_linked_with_a_preloaded_constructor(void **state)
{
    (void)state;
    char setting[PATH_MAX + 20];
    snprintf(setting, sizeof setting, "LD_PRELOAD=%s", beside("libplugin.so"));
    assert_role_succeeds("early-preload", &(struct launch){.environment = {setting}});
}

/* -- plug-ins ---------------------------------------------------------------------------------------------------- */

static void *open_plugin(const char *name, int flags)
{
    void *library = dlopen(beside(name), RTLD_NOW | flags);
    if (library == NULL)
        print_error("%s\n", dlerror());
    require(library != NULL);
    return library;
}

static void role_plugin(const char *argument)
{
    bool deep = strcmp(argument, "deep") == 0;
    watchdog("dlopen hangs: the plug-in's constructor joins a thread that allocates");
    for (unsigned i = 0; i < scaled(60); i++) {
        void *library = open_plugin("libplugin.so", deep ? RTLD_DEEPBIND : RTLD_LOCAL);
        require(plugin_says_yes(library, "plugin_constructed") && plugin_says_yes(library, "plugin_round_trip"));
        churn(i, 100);
        require(dlclose(library) == 0);
    }
}

static void test_a_plugins_constructor_starts_a_thread(void **state)
{
    (void)state;
    assert_role_succeeds("plugin", NULL);
}

static void test_a_plugin_bound_deeply(void **state)
{
    (void)state;
    assert_role_succeeds("plugin", &(struct launch){.argument = "deep"});
}

/* ld.so calls malloc from inside __tls_get_addr: as a thread's first call, and in a destructor as its last. */
static pthread_key_t touch_at_end;

static void touch_tls(void *library)
{
    require(plugin_says_yes(library, "plugin_touches_tls"));
    free(malloc(100));
}

static void *touch_tls_early(void *library)
{
    touch_tls(library);
    return NULL;
}

static void *touch_tls_late(void *library)
{
    require(pthread_setspecific(touch_at_end, library) == 0);
    return NULL;
}

static void threads_touch_tls(void *library)
{
    pthread_t threads[8];
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_create(&threads[i], NULL, i % 2 ? touch_tls_early : touch_tls_late, library) == 0);
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_join(threads[i], NULL) == 0);
    }
}

static void role_tls(const char *argument)
{
    (void)argument;
    void *library = open_plugin("libplugin.so", RTLD_LOCAL);
    do_without_huge_pages();
    require(pthread_key_create(&touch_at_end, touch_tls) == 0);
    touch_tls(library);
    require_no_growth(threads_touch_tls, library, 2 * KIB); /* of 16 MB that are made */
}

static void test_dynamic_tls_is_made_inside_the_loader(void **state)
{
    (void)state;
    assert_role_succeeds("tls", NULL);
}

static void role_cxx_plugin(const char *argument)
{
    int flags = strcmp(argument, "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL;
    int (*catches)(size_t impossible);
    free(malloc(100));
    void *library = open_plugin("libplugin_cxx.so", flags);
    require(plugin_says_yes(library, "plugin_uses_containers"));
    *(void **)&catches = symbol(library, "plugin_catches_bad_alloc");
    require(catches(PTRDIFF_MAX - 4096) == 1);
}

/* libstdc++ was not there when the library was loaded, and with RTLD_LOCAL it is in nobody's scope but its own. */
static void test_a_cxx_plugin_catches_bad_alloc(void **state)
{
    (void)state;
    assert_role_succeeds("cxx-plugin", &(struct launch){.argument = "global"});
    assert_role_succeeds("cxx-plugin", &(struct launch){.argument = "local"});
}

static void test_the_library_itself_may_be_opened(void **state)
{
    (void)state;
    skip_on_glibc("it is always loaded");
    char library[PATH_MAX];
    snprintf(library, sizeof library, "%s", provider_of("malloc"));
    assert_role_succeeds("dlopen", &(struct launch){.program = beside("plain"), .argument = library});
}

/* -- a bare process ---------------------------------------------------------------------------------------------- */

static bool open_descriptors[64];

static void note_descriptors(void)
{
    for (int fd = 0; fd < (int)COUNT(open_descriptors); fd++)
        open_descriptors[fd] = fcntl(fd, F_GETFD) != -1;
}

/* Exit status only: there may be no standard error. */
static void role_descriptors(const char *argument)
{
    int first_closed = atoi(argument);
    exercise();
    free(memset(malloc(64 * MIB), 1, 64 * MIB));
    exercise();
    note_descriptors();
    for (int fd = first_closed; fd < (int)COUNT(open_descriptors); fd++)
        if (open_descriptors[fd])
            _exit(10 + fd);
}

static void close_from(void *first)
{
    for (int fd = *(int *)first; fd < 1024; fd++)
        close(fd);
}

static void test_no_descriptor_is_kept(void **state)
{
    (void)state;
    int three = 3, zero = 0;
    assert_role_succeeds("descriptors", &(struct launch){.argument = "3", .prepare = close_from, .context = &three});
    assert_role_succeeds("descriptors", &(struct launch){.argument = "0", .prepare = close_from, .context = &zero});
}

static void allow_few_descriptors(void *nothing)
{
    (void)nothing;
    int three = 3;
    struct rlimit limit = {4, 4};
    close_from(&three);
    require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = open("/dev/null", O_RDONLY | O_CLOEXEC);
    require(last == 3);
}

/* With the library of that name, if one is given. */
static void role_work(const char *library)
{
    require(*library == '\0' || strcmp(library, loaded_library()) == 0);
    exercise();
}

static void test_descriptors_may_run_out(void **state)
{
    (void)state;
    assert_role_succeeds("work", &(struct launch){.prepare = allow_few_descriptors});
}

/* Starts the role "work" with an empty environment. The loader itself is told in which folder the library lies, which
 * LD_LIBRARY_PATH may have said. */
static void work_in_an_empty_environment(void *nothing)
{
    (void)nothing;
    char library[PATH_MAX], folder[PATH_MAX], program[PATH_MAX];
    Dl_info loader;
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    require(length > 0);
    program[length] = '\0';
    snprintf(library, sizeof library, "%s", loaded_library());
    snprintf(folder, sizeof folder, "%s", library);
    require(clearenv() == 0);
    if (*library == '\0')
        execl(program, program, "work", (char *)NULL); /* glibc is under test */
    require(dladdr((void *)getauxval(AT_BASE), &loader) != 0);
    *strrchr(folder, '/') = '\0';
    execl(loader.dli_fname, loader.dli_fname, "--library-path", folder, program, "work", library, (char *)NULL);
}

static void test_an_empty_environment(void **state)
{
    (void)state;
    assert_role_succeeds("work", &(struct launch){.prepare = work_in_an_empty_environment});
}

/* What a program writes must be its own: nothing is said at start, at exit or in between. */
static void test_nothing_is_printed(void **state)
{
    (void)state;
    FILE *output = tmpfile();
    assert_role_succeeds("work", &(struct launch){.prepare = work_in_an_empty_environment,
                                                  .output_fd = fileno(output),
                                                  .error_fd = fileno(output)});
    fseek(output, 0, SEEK_END);
    assert_int_equal(ftell(output), 0);
    fclose(output);
}

static void unlimit_stack(void *nothing)
{
    (void)nothing;
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    require(setrlimit(RLIMIT_STACK, &limit) == 0);
}

/* An unlimited stack makes the kernel lay mappings out from below, beside the program. */
static void test_the_legacy_layout_of_memory(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: not root, who alone may raise the limit\n");
        skip();
    }
    assert_role_succeeds("work", &(struct launch){.prepare = unlimit_stack});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"early-preload", role_early_preload}, {"plugin", role_plugin},           {"tls", role_tls},
        {"cxx-plugin", role_cxx_plugin},       {"descriptors", role_descriptors}, {"work", role_work},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_use_before_any_constructor),
        cmocka_unit_test(test_preloaded_among_others),
        cmocka_unit_test(test_linked_with_a_preloaded_constructor),
        cmocka_unit_test(test_a_plugins_constructor_starts_a_thread),
        cmocka_unit_test(test_a_plugin_bound_deeply),
        cmocka_unit_test(test_dynamic_tls_is_made_inside_the_loader),
        cmocka_unit_test(test_a_cxx_plugin_catches_bad_alloc),
        cmocka_unit_test(test_the_library_itself_may_be_opened),
        cmocka_unit_test(test_no_descriptor_is_kept),
        cmocka_unit_test(test_descriptors_may_run_out),
        cmocka_unit_test(test_an_empty_environment),
        cmocka_unit_test(test_nothing_is_printed),
        cmocka_unit_test(test_the_legacy_layout_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
