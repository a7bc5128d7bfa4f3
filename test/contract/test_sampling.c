/* Sampling (README: sample_bytes) changes nothing that a program can see, wherever it allocates: each allocation
 * is sampled here, and the call stack looked at, on stacks of all kinds, with registers that hold anything, in
 * code that no unwinder knows, in children, handlers, sandboxes. Nothing crashes, and nothing waits for a lock
 * that its thread has.
 *
 * Each case runs in a process of its own, with sample_bytes=1; on glibc it shows that the case itself
 * is sound. */
#include "filters.h"

#include <dlfcn.h>
#include <sched.h>
#include <semaphore.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

static void use_heap(unsigned seed)
{
    enum { SOME = 40 };
    static const size_t sizes[] = {1, 16, 100, 1000, 5000, 20000, 40000};
    char *blocks[SOME];
    for (unsigned i = 0; i < SOME; i++) {
        const size_t n = sizes[(i + seed) % COUNT(sizes)];
        blocks[i] = i % 3 == 0 ? calloc(1, n) : malloc(n);
        require(blocks[i] != NULL);
        memset(blocks[i], (int)i, n);
        if (i % 5 == 0)
            require((blocks[i] = realloc(blocks[i], n * 2)) != NULL && blocks[i][0] == (char)i);
    }
    for (unsigned i = 0; i < SOME; i++)
        free(blocks[(i * 7) % SOME]);
}

/* -- stacks -------------------------------------------------------------------------------------------------- */

static size_t page_size;

/* With a page that nobody may touch on both sides. */
static char *guarded(size_t bytes)
{
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, bytes + 2 * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED && mprotect(memory + page_size, bytes, PROT_READ | PROT_WRITE) == 0);
    return memory + page_size;
}

static void drop(char *stack, size_t bytes)
{
    require(munmap(stack - page_size, bytes + 2 * page_size) == 0);
}

static ucontext_t caller, coroutine;

static void run_coroutine(void)
{
    for (unsigned i = 0;; i++) {
        use_heap(i);
        swapcontext(&coroutine, &caller);
    }
}

static __attribute__((noinline)) void make_coroutine(char *stack, size_t bytes)
{
    require(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = bytes;
    makecontext(&coroutine, run_coroutine, 0);
}

/* The coroutine's stack is unmapped while what it has allocated lives, and another is mapped in its place. */
static void role_coroutines(const char *argument)
{
    static const size_t sizes[] = {16 << 10, 20 << 10, 64 << 10, 256 << 10};
    (void)argument;
    for (unsigned i = 0; i < 200; i++) {
        const size_t bytes = sizes[i % COUNT(sizes)];
        char *stack = guarded(bytes);
        make_coroutine(stack, bytes);
        for (unsigned turn = 0; turn < 3; turn++)
            require(swapcontext(&caller, &coroutine) == 0);
        use_heap(i);
        drop(stack, bytes);
    }
}

#ifdef __x86_64__
/* Call a function on a stack that ends there, with that frame pointer. */
void *call_on(void *(*function)(size_t n), size_t n, void *stack_end, uintptr_t frame_pointer);
__asm__(".text\n\t.type call_on, @function\ncall_on:\n\t"
        "push %rbp\n\tpush %rbx\n\tsub $8, %rsp\n\t"
        "mov %rsp, %rbx\n\tmov %rdx, %rsp\n\tmov %rcx, %rbp\n\t"
        "mov %rdi, %rax\n\tmov %rsi, %rdi\n\tcall *%rax\n\t"
        "mov %rbx, %rsp\n\tadd $8, %rsp\n\tpop %rbx\n\tpop %rbp\n\tret\n\t"
        ".size call_on, . - call_on");

static void allocate_on(char *stack_end, size_t n, uintptr_t frame_pointer)
{
    char *object = call_on(malloc, n, stack_end, frame_pointer);
    require(object != NULL);
    memset(object, 1, n);
    free(object);
}

/* The first frame is the stack's very last word, and nothing can be read behind it, as much as there is below. */
static void role_edge(const char *argument)
{
    (void)argument;
    char *stack = guarded(64 << 10), *end = stack + (64 << 10);
    for (unsigned i = 0; i < 200; i++)
        allocate_on(end - 16 * (i % 50), i * 300 + 1, (uintptr_t)end - 8 * (i % 7));
    for (unsigned i = 0; i < 50; i++) /* 3 KiB will do */
        allocate_on(stack + 3072, i * 300 + 1, 0);
    drop(stack, 64 << 10);
}

/* rbp is a number, or an address where nothing is, or one of this stack, or leads in circles. */
static void role_frame_pointer(const char *argument)
{
    (void)argument;
    char *edge = guarded(4096), *stack = guarded(64 << 10), *end = stack + (64 << 10) - 512;
    uintptr_t *const words = (uintptr_t *)(void *)end;
    words[0] = words[2] = (uintptr_t)words;
    words[1] = words[3] = (uintptr_t)malloc;
    const uintptr_t at = (uintptr_t)end, here = (uintptr_t)__builtin_frame_address(0);
    const uintptr_t values[] = {0,
                                1,
                                8,
                                UINTPTR_MAX,
                                UINTPTR_MAX - 7,
                                (uintptr_t)1 << 63,
                                (uintptr_t)1 << 47,
                                ((uintptr_t)1 << 47) - 8,
                                at,
                                at + 1,
                                at + 8,
                                at + 16,
                                at - 8,
                                at - 16,
                                at + 512,
                                at + 504,
                                at + 496,
                                (uintptr_t)stack,
                                (uintptr_t)stack - 8,
                                here,
                                (uintptr_t)edge,
                                (uintptr_t)edge + 4096,
                                (uintptr_t)edge - 8,
                                (uintptr_t)edge + 4088,
                                (uintptr_t)malloc,
                                (uintptr_t)words};
    for (unsigned i = 0; i < COUNT(values) * 10; i++)
        allocate_on(end, 100 + i, values[i % COUNT(values)]);
    for (unsigned i = 0; i < COUNT(values); i++) { /* on the thread's own stack, too */
        char room[16 << 10];
        allocate_on(room + sizeof room - (uintptr_t)room % 16, 100, values[i]);
    }
}

/* Code that no file has: a frame of its own, with a frame pointer or without, which calls malloc. */
static void role_made_code(const char *argument)
{
    (void)argument;
    static const unsigned char without[] = {0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0xf0,
                                            0xff, 0xd0, 0x48, 0x83, 0xc4, 0x18, 0xc3};
    static const unsigned char with[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20,
                                         0x48, 0x89, 0xf0, 0xff, 0xd0, 0xc9, 0xc3};
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(code != MAP_FAILED);
    memcpy(code, without, sizeof without);
    memcpy(code + 4096 - sizeof with, with, sizeof with); /* nothing is mapped behind it, perhaps */
    require(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
    for (unsigned i = 0; i < 100; i++) {
        void *(*function)(size_t, void *(*)(size_t));
        unsigned char *start = i % 2 ? code : code + 4096 - sizeof with;
        memcpy(&function, &start, sizeof function);
        void *object = function(i * 50 + 1, malloc);
        require(object != NULL);
        free(object);
    }
    require(munmap(code, 4096) == 0);
    use_heap(1);
}
#endif

static void *on_small_stack(void *seed)
{
    use_heap((unsigned)(uintptr_t)seed);
    return NULL;
}

static void role_small_stacks(const char *argument)
{
    pthread_attr_t attributes;
    (void)argument;
    require(pthread_attr_init(&attributes) == 0);
    const int error = pthread_attr_setstacksize(&attributes, 16 << 10);
    if (error) /* threads' own data need more */
        skip_role("no thread has a stack of 16 KiB here");
    for (uintptr_t i = 0; i < 100; i++) {
        pthread_t thread;
        require(pthread_create(&thread, &attributes, on_small_stack, (void *)i) == 0);
        require(pthread_join(thread, NULL) == 0);
    }
}

static void *on_given_stack(void *stack)
{
    (void)stack;
    for (unsigned i = 0; i < 20; i++)
        use_heap(i);
    return NULL;
}

/* The thread's stack is the program's own, and gone right after it. */
static void role_own_stacks(const char *argument)
{
    (void)argument;
    for (unsigned i = 0; i < 50; i++) {
        pthread_attr_t attributes;
        pthread_t thread;
        char *stack = guarded(64 << 10);
        require(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, 64 << 10) == 0);
        require(pthread_create(&thread, &attributes, on_given_stack, stack) == 0);
        require(pthread_join(thread, NULL) == 0);
        drop(stack, 64 << 10);
    }
}

/* -- signals ------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t handled;

static void only_count(int number)
{
    (void)number;
    handled++;
}

/* A handler that allocates interrupts code that does not: what libc allows. Its stack is as small as can be. */
static void allocate_in_handler(int number)
{
    (void)number;
    free(malloc(100));
    free(malloc(3000));
    handled++;
}

static void role_alternate_stack(const char *argument)
{
    (void)argument;
    use_heap(1);
    const long least = sysconf(_SC_MINSIGSTKSZ);
    const size_t bytes = ((size_t)(least > 0 ? least : MINSIGSTKSZ) + 4095 + 4096) & ~(size_t)4095;
    char *stack = guarded(bytes);
    const stack_t alternate = {.ss_sp = stack, .ss_size = bytes};
    const struct sigaction action = {.sa_handler = allocate_in_handler, .sa_flags = SA_ONSTACK};
    require(sigaltstack(&alternate, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    for (unsigned i = 0; i < 100; i++)
        require(raise(SIGUSR1) == 0);
    require(handled == 100);
}

/* Handlers come at any instruction of malloc and free, and end by themselves. */
static void role_handlers(const char *argument)
{
    (void)argument;
    const struct sigaction action = {.sa_handler = only_count, .sa_flags = SA_RESTART};
    const struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
    require(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (unsigned i = 0; handled < 2000 || i < 500; i++)
        use_heap(i);
    require(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* -- processes and threads ----------------------------------------------------------------------------------- */

static void end_well(pid_t child)
{
    int status;
    require(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static volatile int stop;

static void *keep_busy(void *seed)
{
    for (unsigned i = (unsigned)(uintptr_t)seed; !stop; i++)
        use_heap(i);
    return NULL;
}

/* Each child, and one of its own, goes on with what the parent has allocated, while other threads were at it. */
static void role_forks(const char *argument)
{
    (void)argument;
    pthread_t threads[3];
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, keep_busy, (void *)i) == 0);
    for (unsigned i = 0; i < 60; i++) {
        char *object = malloc(1000), *large = malloc(100000);
        const pid_t child = fork();
        if (child == 0) {
            free(object);
            use_heap(i);
            const pid_t grandchild = fork();
            free(large);
            use_heap(i);
            if (grandchild == 0)
                _exit(0);
            end_well(grandchild);
            _exit(0);
        }
        end_well(child);
        free(large);
        free(object);
    }
    stop = 1;
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

/* What begins as another program, and what borrows the parent's memory until then. */
static void role_exec(const char *argument)
{
    if (strcmp(argument, "again") == 0) {
        use_heap(1);
        return;
    }
    for (unsigned i = 0; i < 20; i++) {
        use_heap(i);
        char *const words[] = {(char *)"/proc/self/exe", (char *)"exec", (char *)"again", NULL};
        const pid_t child = vfork();
        if (child == 0) {
            execv("/proc/self/exe", words);
            _exit(9);
        }
        end_well(child);
        pid_t spawned;
        require(posix_spawn(&spawned, "/proc/self/exe", NULL, NULL, words, environ) == 0);
        end_well(spawned);
    }
}

static pthread_key_t key;
static volatile unsigned destroyed;

static void destroy(void *value)
{
    free(value);
    use_heap(2);
    if (destroyed % 3 == 0)
        pthread_setspecific(key, malloc(100)); /* once more */
    __atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED);
}

static void *live_and_leave(void *nothing)
{
    (void)nothing;
    pthread_setspecific(key, malloc(500));
    use_heap(1);
    return NULL;
}

static void role_thread_ends(const char *argument)
{
    (void)argument;
    require(pthread_key_create(&key, destroy) == 0);
    for (unsigned i = 0; i < 100; i++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, live_and_leave, NULL) == 0);
        if (i % 2)
            require(pthread_join(thread, NULL) == 0);
        else
            require(pthread_detach(thread) == 0);
    }
    while (destroyed < 100)
        sleep_ms(1);
}

static void *live_in_sandbox(void *nothing)
{
    (void)nothing;
    kill_on_other_calls(0);
    for (unsigned i = 0; i < 200; i++)
        use_heap(i);
    _exit(0);
}

/* A filter around one thread ends the process at what malloc does not need. */
static void role_sandboxed_thread(const char *argument)
{
    pthread_t thread;
    if (on_glibc())
        skip_role("an arena's birth looks for CPUs");
    if (strcmp(argument, "warm") == 0)
        use_heap(1);
    require(pthread_create(&thread, NULL, live_in_sandbox, NULL) == 0);
    for (;;)
        use_heap(2);
}

/* Code that is unloaded while what it has allocated lives, and loaded again, elsewhere perhaps. */
static void role_plugins(const char *argument)
{
    (void)argument;
    char *kept[60];
    for (unsigned i = 0; i < COUNT(kept); i++) {
        char path[512];
        void *plugin = dlopen(sibling("libplugin.so", path, sizeof path), RTLD_NOW | RTLD_LOCAL);
        require(plugin != NULL);
        void *(*makes)(size_t) = (void *(*)(size_t))(uintptr_t)dlsym(plugin, "plugin_makes");
        require(makes != NULL && (kept[i] = makes(i * 100 + 1)) != NULL);
        require(dlclose(plugin) == 0);
        use_heap(i);
    }
    for (unsigned i = 0; i < COUNT(kept); i++)
        free(kept[i]);
}

/* -- all of it ----------------------------------------------------------------------------------------------- */

static const struct role roles[] = {
    {"coroutines", role_coroutines},
#ifdef __x86_64__
    {"edge", role_edge},
    {"frame-pointer", role_frame_pointer},
    {"made-code", role_made_code},
#endif
    {"small-stacks", role_small_stacks},
    {"own-stacks", role_own_stacks},
    {"alternate-stack", role_alternate_stack},
    {"handlers", role_handlers},
    {"forks", role_forks},
    {"exec", role_exec},
    {"thread-ends", role_thread_ends},
    {"sandboxed-thread", role_sandboxed_thread},
    {"plugins", role_plugins},
};

static void play(void **state)
{
    assert_role_succeeds(*state, &(struct launch){.environment = {"SLABMALLOC_OPTIONS=sample_bytes=1"}});
    assert_role_succeeds(*state, &(struct launch){.environment = {"SLABMALLOC_OPTIONS=sample_bytes=300"}});
    assert_role_succeeds(*state,
                         &(struct launch){.argument = "warm", .environment = {"SLABMALLOC_OPTIONS=sample_bytes=1"}});
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[COUNT(roles)];
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    for (size_t i = 0; i < COUNT(roles); i++)
        tests[i] = (struct CMUnitTest){roles[i].name, play, NULL, NULL, (void *)(uintptr_t)roles[i].name};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
