/* Commands from outside: a process is asked, through the mailbox that its slab_inspect leads to, and answers.
 *
 * Written in: src/base/inspect.h, which is all that a tool knows; process_vm_writev(2), futex(2), seccomp(2). Each
 * scenario is a role that forks: the child is the process that is asked, the parent the tool. Both have slab_inspect
 * at the same address, but the tool reads and writes nothing except through the kernel. */
#include "filters.h"

#include <linux/futex.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <slabmalloc.h>

#include "base/inspect.h"

/* -- the tool ---------------------------------------------------------------------------------------------------- */

/* What the two share apart from that. */
static struct shared {
    _Atomic bool is_up, is_closed, stop;
    _Atomic unsigned long rounds;
} * shared;

static pid_t target;
static struct slm_inspect inspect;
static const uint32_t *bell; /* in the tool's own mapping of the file */

static void read_target(const void *from, void *to, size_t bytes)
{
    const struct iovec here = {to, bytes}, there = {(void *)from, bytes};
    require(process_vm_readv(target, &here, 1, &there, 1, 0) == (ssize_t)bytes);
}

static void write_target(const void *from, void *to, size_t bytes)
{
    const struct iovec here = {(void *)from, bytes}, there = {to, bytes};
    require(process_vm_writev(target, &here, 1, &there, 1, 0) == (ssize_t)bytes);
}

static void map_bell(void)
{
    const uintptr_t at = (uintptr_t)inspect.bell;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char path[64], line[PATH_MAX + 100], name[PATH_MAX];
    unsigned long start, end, offset;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)target);
    FILE *maps = fopen(path, "re");
    require(maps != NULL);
    while (bell == NULL && fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %4095s", &start, &end, &offset, name) == 4 && start <= at &&
            at < end) {
            const int file = open(name, O_RDONLY | O_CLOEXEC);
            const char *mapped =
                mmap(NULL, page, PROT_READ, MAP_SHARED, file, (off_t)(offset + (at - start) / page * page));
            require(file >= 0 && mapped != MAP_FAILED);
            bell = (const uint32_t *)(const void *)(mapped + at % page);
            close(file);
        }
    fclose(maps);
    require(bell != NULL);
}

static void begin_as_tool(pid_t child)
{
    const struct slm_inspect *there = dlsym(RTLD_DEFAULT, "slab_inspect");
    uint32_t word;
    target = child;
    require(there != NULL);
    while (!atomic_load(&shared->is_up))
        sleep_ms(1);
    read_target(there, &inspect, sizeof inspect);
    require(memcmp(inspect.magic, SLM_INSPECT_MAGIC, sizeof inspect.magic) == 0);
    require(inspect.version == SLM_INSPECT_VERSION && inspect.bytes == sizeof inspect && inspect.mailbox != NULL);
    map_bell();
    read_target(inspect.bell, &word, sizeof word);
    require(word == *bell);
}

static uint64_t new_token(void)
{
    static uint64_t state = 88172645463325252u;
    return random_next(&state);
}

static void ring(void)
{
    syscall(SYS_futex, bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void post(struct slm_command *command, uint64_t token)
{
    const size_t first = offsetof(struct slm_command, sum);
    command->sum = slm_command_sum(command, token);
    write_target((char *)command + first, (char *)&inspect.mailbox->command + first, sizeof *command - first);
    write_target(&token, &inspect.mailbox->command.token, sizeof token);
}

static struct slm_answer answer_to(uint64_t token)
{
    struct slm_answer answer;
    for (unsigned wait = 0;; wait++) {
        ring();
        read_target(&inspect.mailbox->answer, &answer, sizeof answer);
        if (atomic_load(&answer.token) ==
            token) { /* then the rest is there; but the kernel may have copied it before */
            read_target(&inspect.mailbox->answer, &answer, sizeof answer);
            return answer;
        }
        sleep_ms(wait > 20);
    }
}

static struct slm_answer ask(uint32_t what, const char *text, uint64_t first, uint64_t second)
{
    struct slm_command command = {.what = what, .number = {first, second}};
    const uint64_t token = new_token();
    strcpy(command.text, text);
    post(&command, token);
    return answer_to(token);
}

static void require_done(uint32_t what, const char *text, uint64_t first, uint64_t second)
{
    const struct slm_answer answer = ask(what, text, first, second);
    require(answer.error == 0);
}

static void require_stats(void)
{
    struct slab_stats stats;
    const struct slm_answer answer = ask(SLM_COMMAND_STATS, "", 0, 0);
    require(answer.error == 0 && answer.bytes == sizeof stats);
    read_target((const void *)(uintptr_t)answer.address, &stats, sizeof stats);
    require(stats.threads > 0 && stats.nodes > 0 && stats.reserved_bytes > 0);
}

/* As tools do, on from where the part before has ended: a class that has just been made may have moved the cache out
 * of that. */
static void require_cache(const char *name)
{
    static struct slm_command_cache records[1000];
    uint64_t told = 0, count = 1;
    bool found = false;
    while (!found && count > 0) {
        const struct slm_answer answer = ask(SLM_COMMAND_CACHES, "", told, 0);
        count = answer.bytes / sizeof records[0];
        require(answer.error == 0 && answer.bytes <= sizeof records && answer.bytes % sizeof records[0] == 0);
        require(answer.number[0] >= told + count);
        read_target((const void *)(uintptr_t)answer.address, records, answer.bytes);
        for (size_t i = 0; i < count; i++)
            found = found || strcmp(records[i].stats.name, name) == 0;
        told += count;
    }
    require(found);
}

/* Also each command's effect, where it can be seen from outside. */
static void ask_everything(unsigned turn)
{
    char option[64];
    require_stats();
    require_cache("loaded");
    require_done(SLM_COMMAND_PURGE, "", 0, 0);
    require_done(SLM_COMMAND_LIMIT, "", (uint64_t)1 << (33 + turn % 8), 0);
    require_done(SLM_COMMAND_SHRINK, turn % 8 ? "loaded" : "", 0, 0);
    require_done(SLM_COMMAND_TUNE, "loaded", turn % 100, turn % 10);
    snprintf(option, sizeof option, "thread_bytes=%u", 4096 + turn);
    const struct slm_answer answer = ask(SLM_COMMAND_OPTION, option, 0, 0);
    require(answer.error == 0 && strcmp(answer.text, option) == 0);
    const struct slm_answer unknown = ask(1000 + turn, "", 0, 0);
    require(unknown.error == ENOSYS);
}

/* -- who is asked ------------------------------------------------------------------------------------------------ */

static slab_cache *loaded;

/* Blocks keep what was written to them. There may be no memory: a hostile command limits it. */
static void *be_busy(void *number)
{
    struct block blocks[300] = {{NULL, 0, 0}};
    uint64_t state = (uintptr_t)number + 1;
    while (!atomic_load(&shared->stop)) {
        struct block *block = &blocks[random_next(&state) % COUNT(blocks)];
        if (block->ptr != NULL)
            require(pattern_holds(block->ptr, block->size, block->seed));
        free(block->ptr);
        const bool of_cache = random_next(&state) % 4 == 0;
        block->size = of_cache ? 200 : random_size(&state);
        block->seed = (unsigned)random_next(&state);
        block->ptr = of_cache ? slab_cache_alloc(loaded) : malloc(block->size);
        if (block->ptr != NULL)
            pattern_fill(block->ptr, block->size, block->seed);
        atomic_fetch_add(&shared->rounds, 1);
    }
    for (unsigned i = 0; i < COUNT(blocks); i++)
        free(blocks[i].ptr);
    return NULL;
}

static void *be_idle(void *nothing)
{
    free(opaque(malloc(100)));
    while (!atomic_load(&shared->stop))
        sleep_ms(50);
    return nothing;
}

/* All threads are at work before a sandbox closes around them, which has not even what a thread needs to end. So the
 * first one ends the process, as programs end. */
static pthread_barrier_t closing;

static void *be_sandboxed(void *number)
{
    free(opaque(malloc(100)));
    pthread_barrier_wait(&closing);
    if (number == NULL) {
        kill_on_other_calls(SECCOMP_FILTER_FLAG_TSYNC);
        atomic_store(&shared->is_closed, true);
    }
    pthread_barrier_wait(&closing);
    be_busy(number);
    if (number == NULL)
        exit(0);
    pthread_barrier_wait(&closing);
    return NULL;
}

static _Noreturn void be_target(unsigned threads, void *(*run)(void *))
{
    pthread_t others[16];
    require(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0);
    loaded = slab_cache_create("loaded", 200, NULL);
    require(loaded != NULL && threads <= COUNT(others));
    void *object = slab_cache_alloc(loaded);
    require(pthread_barrier_init(&closing, NULL, threads) == 0);
    for (uintptr_t i = 1; i < threads; i++)
        require(pthread_create(&others[i], NULL, run, (void *)i) == 0);
    atomic_store(&shared->is_up, true);
    run(0);
    for (uintptr_t i = 1; i < threads; i++)
        require(pthread_join(others[i], NULL) == 0);
    slab_cache_free(loaded, object);
    require(slab_cache_destroy(loaded) == 0);
    _exit(0);
}

/* In the tool: the child is up. */
static void start_target(unsigned threads, void *(*run)(void *))
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(shared != MAP_FAILED);
    const pid_t child = fork();
    require(child >= 0);
    if (child == 0)
        be_target(threads, run);
    begin_as_tool(child);
}

static void end_target(void)
{
    atomic_store(&shared->stop, true);
    require(ended_well(wait_for(target)));
}

/* -- scenarios --------------------------------------------------------------------------------------------------- */

static void role_loaded(const char *threads)
{
    start_target((unsigned)atoi(threads), be_busy);
    for (unsigned turn = 0; turn < scaled(125); turn++)
        ask_everything(turn);
    end_target();
}

static void test_a_loaded_process_answers_a_thousand_times(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    assert_role_succeeds("loaded", &(struct launch){.argument = "3"});
}

static void test_one_thread_answers_for_itself(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    assert_role_succeeds("loaded", &(struct launch){.argument = "1"});
}

static void test_without_a_worker_slow_paths_answer(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    assert_role_succeeds("loaded", &(struct launch){.argument = "3", .environment = {"SLABMALLOC_OPTIONS=worker=0"}});
}

static long call_of(pid_t thread)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", (int)target, (int)thread);
    return read_proc(path, text, sizeof text) ? atol(text) : -1;
}

/* A word that is not as expected is no reason to sleep. */
static bool kernel_has_futex_waitv(void)
{
    static const uint32_t word;
    const struct {
        uint64_t value, address, flags;
    } wrong = {1, (uintptr_t)&word, 2};
    return syscall(449, &wrong, 1, 0, NULL, 0) == -1 && errno == EAGAIN;
}

/* All threads of the process sleep, the library's own on its bell. Nobody but the tool wakes it. */
static void await_sleep(void)
{
    char path[64], name[64];
    for (pid_t thread = target;; thread++) { /* its threads' ids come after its own, as a rule */
        if (thread - target > 1000) {
            thread = target;
            sleep_ms(5);
        }
        snprintf(path, sizeof path, "/proc/%d/task/%d/comm", (int)target, (int)thread);
        if (read_proc(path, name, sizeof name) && strcmp(name, "slabmalloc\n") == 0 && call_of(thread) == 449)
            return;
    }
}

static void role_idle(const char *argument)
{
    (void)argument;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0 || !kernel_has_futex_waitv())
        skip_role("the worker does without the bell under a filter, and on kernels that lack futex_waitv");
    start_target(2, be_idle);
    for (unsigned turn = 0; turn < 2; turn++) {
        await_sleep();
        require_stats();
        require_done(SLM_COMMAND_PURGE, "", 0, 0);
        require_cache("loaded");
    }
    end_target();
}

static void test_the_bell_wakes_an_idle_process(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    assert_role_succeeds("idle", NULL);
}

/* -- a sandbox --------------------------------------------------------------------------------------------------- */

static void set_option(const char *text)
{
    require_done(SLM_COMMAND_OPTION, text, 0, 0);
}

static void await_rounds(unsigned long count)
{
    const unsigned long before = atomic_load(&shared->rounds);
    uint32_t word;
    while (atomic_load(&shared->rounds) < before + count) {
        read_target(inspect.bell, &word, sizeof word); /* it lives */
        sched_yield();
    }
}

/* Every option that can change; those that switch something on have nothing to do with what the program began. */
static void role_sandboxed(const char *threads)
{
    start_target((unsigned)atoi(threads), be_sandboxed);
    while (!atomic_load(&shared->is_closed))
        sleep_ms(1);
    for (unsigned turn = 0; turn < scaled(10); turn++) {
        set_option(turn % 2 == 0 ? "sample_bytes=1K" : "sample_bytes=2M");
        await_rounds(5000);
        ask_everything(turn);
        set_option("soft_limit_bytes=1");
        await_rounds(1000);
        set_option("soft_limit_bytes=0");
        set_option("magazine_bytes=8K");
        set_option("depot_bytes=1M");
        set_option("purge_delay_ms=0");
        set_option("dirty_bytes=0");
        set_option("deferred_max_delay_ms=10");
        set_option("epoch_stall_ms=1");
        await_rounds(1000);
        set_option("sample_bytes=0");
    }
    set_option("stats=1");
    end_target();
}

/* The filter kills on all but memory calls, futex and write. */
static void test_no_command_breaks_a_sandbox(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    static const char *const options[] = {"SLABMALLOC_OPTIONS=sample_bytes=0",
                                          "SLABMALLOC_OPTIONS=sample_bytes=0,guard=1"};
    for (unsigned i = 0; i < COUNT(options); i++) {
        assert_role_succeeds("sandboxed", &(struct launch){.argument = "1", .environment = {options[i]}});
        assert_role_succeeds("sandboxed", &(struct launch){.argument = "3", .environment = {options[i]}});
    }
}

/* -- a hostile tool ---------------------------------------------------------------------------------------------- */

/* Any bytes, but most with what makes them a command; also in the answer, and in the middle of commands. */
static void write_garbage(uint64_t *state)
{
    static const char *const texts[] = {"",         "loaded", "size-64",       "stats=1",          "limit_bytes=1",
                                        "worker=0", "stats",  "depot_bytes=0", "magazine_bytes=1", "thread_bytes=4K"};
    struct slm_mailbox box;
    uint64_t *word = (uint64_t *)(void *)&box;
    for (size_t i = 0; i < sizeof box / sizeof *word; i++)
        word[i] = random_next(state);
    struct slm_command *command = &box.command;
    if (random_next(state) % 8 != 0)
        command->what = (uint32_t)(random_next(state) % 9);
    if (random_next(state) % 4 != 0)
        strcpy(command->text, texts[random_next(state) % COUNT(texts)]);
    command->number[0] >>= random_next(state) % 64;
    command->number[1] >>= random_next(state) % 64;
    switch (random_next(state) % 4) {
    case 0: /* the token of something else */
        write_target(command, &inspect.mailbox->command, sizeof *command);
        break;
    case 1: /* only a part */
        write_target(command, &inspect.mailbox->command, random_next(state) % sizeof *command);
        break;
    case 2:
        write_target(&box.answer, &inspect.mailbox->answer, sizeof box.answer);
        break;
    default:
        post(command, random_next(state));
    }
    ring();
}

static void role_hostile(const char *threads)
{
    uint64_t state = 1234567;
    start_target((unsigned)atoi(threads), be_busy);
    for (unsigned turn = 0; turn < scaled(100); turn++) {
        for (unsigned i = 0; i < 50; i++) {
            const unsigned long before = atomic_load(&shared->rounds);
            write_garbage(&state);
            while (i % 8 == 0 && atomic_load(&shared->rounds) < before + 100) /* it goes on */
                sched_yield();
        }
        require_done(SLM_COMMAND_LIMIT, "", 0, 0);
        require_stats();
    }
    require_cache("loaded");
    end_target();
}

static void test_garbage_does_no_harm(void **state)
{
    (void)state;
    skip_on_glibc("it has no mailbox");
    assert_role_succeeds("hostile", &(struct launch){.argument = "3"});
    assert_role_succeeds("hostile", &(struct launch){.argument = "1"});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"loaded", role_loaded}, {"idle", role_idle}, {"sandboxed", role_sandboxed}, {"hostile", role_hostile}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_loaded_process_answers_a_thousand_times),
        cmocka_unit_test(test_one_thread_answers_for_itself),
        cmocka_unit_test(test_without_a_worker_slow_paths_answer),
        cmocka_unit_test(test_the_bell_wakes_an_idle_process),
        cmocka_unit_test(test_no_command_breaks_a_sandbox),
        cmocka_unit_test(test_garbage_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
