/* src/process/mailbox.h: which commands are carried out, by whom, and that each is answered once. What they do is no
 * concern here: a server of the tests' takes them. */
#include "mail.h"

#include <elf.h>
#include <link.h>
#include <linux/futex.h>

#include "depot/cache.h"
#include "inspect/commands.h"
#include "os/background.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "worker.h"

static struct slm_command carried_out; /* the last one */
static _Atomic unsigned served;        /* how many were */
static pthread_t server_thread;
static _Atomic bool could_destruct;
static void (*within)(void); /* what the server does meanwhile */

static void take(const struct slm_command *command, struct slm_answer *answer, slm_mailbox_destruct *destruct)
{
    const struct slm_answer nothing = {0};
    require(memcmp(answer, &nothing, sizeof nothing) == 0);
    carried_out = *command;
    server_thread = pthread_self();
    store_relaxed(&could_destruct, destruct != NULL);
    if (within)
        within();
    answer->error = (int32_t)command->number[0];
    answer->number[0] = command->number[1];
    strcpy(answer->text, "done");
    add_relaxed(&served, 1);
}

static int begin(void **state)
{
    const int started = start_library(state);
    slm_mailbox_open(take);
    slm_settings.purge_delay_ms = 50;
    return started;
}

/* -- which ------------------------------------------------------------------------------------------------------- */

static void a_command_is_answered_once(void **state)
{
    (void)state;
    store_relaxed(&served, 0);
    errno = EDOM;
    const struct slm_answer *answer = ask(77, "some text", 5, 6);
    assert_int_equal(errno, EDOM);
    assert_int_equal(answer->error, 5);
    assert_int_equal(answer->number[0], 6);
    assert_string_equal(answer->text, "done");
    assert_int_equal(carried_out.what, 77);
    assert_string_equal(carried_out.text, "some text");
    assert_false(slm_mailbox_waits());
    assert_false(load_relaxed(&could_destruct));
    slm_mailbox_serve(NULL);
    slm_mailbox_serve(NULL);
    assert_int_equal(served, 1);
    const uint64_t same = slm_mailbox.command.token; /* as a tool may write it once more */
    struct slm_command command = command_of(1, "", 0, 0);
    put_command(&command, slm_command_sum(&command, same), same);
    slm_mailbox_serve(NULL);
    assert_int_equal(served, 1);
}

static void mixtures_are_not_looked_at(void **state)
{
    (void)state;
    const uint64_t answered = load_relaxed(&slm_mailbox.answer.token);
    struct slm_command command = command_of(1, "one", 2, 3);
    store_relaxed(&served, 0);
    for (size_t byte = offsetof(struct slm_command, what); byte < sizeof command; byte++) {
        const uint64_t token = new_token(), sum = slm_command_sum(&command, token);
        ((char *)&command)[byte] ^= 1;
        put_command(&command, sum, token);
        assert_true(slm_mailbox_waits());
        slm_mailbox_serve(NULL);
        assert_false(slm_mailbox_waits()); /* it is no matter any more */
    }
    put_command(&command, slm_command_sum(&command, new_token()), new_token()); /* another's token */
    slm_mailbox_serve(NULL);
    put_command(&command, slm_command_sum(&command, 0), 0);
    slm_mailbox_serve(NULL);
    assert_int_equal(served, 0);
    assert_int_equal(load_relaxed(&slm_mailbox.answer.token), answered);
    ask(1, "", 0, 0);
    assert_int_equal(served, 1);
}

static void before_it_is_open_commands_are_dropped(void **state)
{
    (void)state;
    slm_mailbox_open(NULL);
    const uint64_t token = post(command_of(1, "", 0, 0));
    slm_mailbox_serve(NULL);
    slm_mailbox_open(take);
    slm_mailbox_serve(NULL);
    assert_false(is_answered(token) || slm_mailbox_waits());
}

/* -- when -------------------------------------------------------------------------------------------------------- */

static void nobody_serves_in_a_slow_path(void **state)
{
    (void)state;
    const uint64_t token = post(command_of(1, "", 0, 0));
    struct slm_thread *thread = slm_thread_hide();
    slm_mailbox_serve(NULL);
    assert_false(is_answered(token));
    slm_thread_unhide(thread);
    slm_cache_lock(); /* whose handler this may be */
    slm_mailbox_serve(NULL);
    assert_false(is_answered(token));
    slm_cache_unlock();
    slm_mailbox_serve(NULL);
    assert_true(is_answered(token));
}

static void serve_again(void)
{
    post(command_of(2, "inner", 0, 0));
    slm_mailbox_serve(NULL);
    require(carried_out.what == 1);
}

static void one_at_a_time(void **state)
{
    (void)state;
    within = serve_again;
    ask(1, "outer", 0, 0);
    within = NULL;
    assert_true(slm_mailbox_waits());
    slm_mailbox_serve(NULL);
    assert_int_equal(carried_out.what, 2);
}

/* As few as a refill needs, and again until it has come to a pass that looks. */
static void refill_until(uint64_t token)
{
    enum { passes_most = 64, objects = 20000 };
    static void *volatile held[objects];
    const uint32_t before = slm_tls.self->passes;
    for (unsigned i = 0; !is_answered(token) && i < objects; i++)
        held[i] = malloc(500);
    require(is_answered(token) && slm_tls.self->passes - before <= passes_most);
    for (unsigned i = 0; i < objects && held[i]; i++) {
        free(held[i]);
        held[i] = NULL;
    }
}

static void slow_paths_serve(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 20; turn++)
        refill_until(post(command_of(1, "", 0, 0)));
    assert_false(load_relaxed(&could_destruct));
}

static void large_objects_serve(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 20; turn++) {
        const uint64_t token = post(command_of(1, "", 0, 0));
        for (unsigned i = 0; i < 64 && !is_answered(token); i++) {
            char *volatile object = malloc(100 * KIB + i * 20 * KIB); /* each of another length */
            free(object);
        }
        assert_true(is_answered(token));
    }
}

/* -- forks ------------------------------------------------------------------------------------------------------- */

static uint64_t asked_of_parent;

static void answer_as_child(void)
{
    require(!slm_mailbox_waits());
    for (unsigned i = 0; i < 40; i++)
        refill_until(post(command_of(1, "", 0, 0)));
    require(!is_answered(asked_of_parent));
}

static void a_child_is_not_who_was_asked(void **state)
{
    (void)state;
    asked_of_parent = post(command_of(1, "", 0, 0));
    assert_child_silent(answer_as_child);
    assert_true(slm_mailbox_waits());
    slm_mailbox_serve(NULL);
    assert_true(is_answered(asked_of_parent));
}

static pid_t child_of_server;

static void fork_within(void)
{
    child_of_server = fork();
}

/* The child returns out of the server, too. */
static void fork_while_serving(void)
{
    within = fork_within;
    asked_of_parent = post(command_of(1, "", 0, 0));
    slm_mailbox_serve(NULL);
    within = NULL;
    slm_fork_check();
    require(is_answered(asked_of_parent) == (child_of_server != 0));
    ask(1, "", 0, 0); /* it is served in both */
    int how;
    if (child_of_server == 0)
        _exit(0);
    require(waitpid(child_of_server, &how, 0) == child_of_server && how == 0);
}

static void fork_on_another_thread(void)
{
    child_of_server = -1;
    const pid_t child = fork();
    if (child == 0) {
        slm_fork_check();
        ask(1, "", 0, 0);
        _exit(0);
    }
    int how;
    require(waitpid(child, &how, 0) == child && how == 0);
}

static void *fork_meanwhile(void *nothing)
{
    fork_on_another_thread();
    return nothing;
}

static void have_another_thread_fork(void)
{
    pthread_t thread;
    within = NULL;
    require(pthread_create(&thread, NULL, fork_meanwhile, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void a_fork_leaves_nothing_locked(void **state)
{
    (void)state;
    assert_child_silent(fork_while_serving);
    within = have_another_thread_fork;
    ask(1, "", 0, 0);
    assert_null(within);
}

/* -- the worker and its bell ------------------------------------------------------------------------------------- */

static long worker; /* its id */

static void begin_with_worker(void)
{
    slm_options.worker = 1;
    slm_settings.purge_delay_ms = 50;
    start_second();
    wait_until(worker_there);
    count_tasks(&worker);
}

static uint64_t waited_for;

static bool answer_has_come(void)
{
    return is_answered(waited_for);
}

static bool answer_comes(void)
{
    slm_worker_note_active(); /* so it does not sleep */
    return answer_has_come();
}

static void ask_the_worker(void)
{
    begin_with_worker();
    for (unsigned turn = 0; turn < 10; turn++) {
        waited_for = post(command_of(1, "", 0, 0));
        wait_until(answer_comes);
        require(load_relaxed(&could_destruct) && !pthread_equal(server_thread, pthread_self()));
    }
    end_second();
    require(worker_gone()); /* who has asked is no reason to stay */
}

static void the_worker_serves_while_it_is_awake(void **state)
{
    (void)state;
    assert_child_silent(ask_the_worker);
}

/* The bell in a mapping of one's own of the file that it lies in. */
static const uint32_t *map_bell(void)
{
    const uintptr_t bell = (uintptr_t)&slm_mailbox_note.bell;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char line[1024], path[512];
    unsigned long start, end, offset;
    const char *mapped = MAP_FAILED;
    FILE *maps = fopen("/proc/self/maps", "r");
    require(maps != NULL);
    while (mapped == MAP_FAILED && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx r-%*c%*c %lx %*s %*s %511s", &start, &end, &offset, path) == 4 && start <= bell &&
            bell < end) {
            const int file = open(path, O_RDONLY);
            mapped = mmap(NULL, page, PROT_READ, MAP_SHARED, file, (off_t)(offset + (bell - start) / page * page));
            close(file);
        }
    fclose(maps);
    require(mapped != MAP_FAILED);
    return (const uint32_t *)(const void *)(mapped + bell % page);
}

static long ring(const uint32_t *bell)
{
    return syscall(SYS_futex, bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static bool is_rung(void)
{
    static const uint32_t *bell;
    if (!bell)
        bell = map_bell();
    ring(bell);
    return answer_has_come();
}

/* Where the worker may not hear the bell the test is of no use. */
static bool knows_bell(void)
{
    const struct slm_sys_word wrong = {1, &slm_mailbox_note.bell, SLM_SYS_SHARED};
    return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0 && slm_sys_wait_any(&wrong, 1);
}

static void ring_for_the_worker(void)
{
    begin_with_worker();
    for (unsigned turn = 0; turn < 3; turn++) {
        wait_until_asleep(worker);
        waited_for = post(command_of(1, "", 0, 0));
        wait_until(is_rung);
        require(load_relaxed(&could_destruct));
    }
    end_second();
}

static void the_bell_wakes_the_worker(void **state)
{
    (void)state;
    if (!knows_bell())
        skip();
    assert_child_silent(ring_for_the_worker);
}

static void wake_for_nothing(void)
{
    begin_with_worker();
    const uint32_t *bell = map_bell();
    wait_until_asleep(worker);
    const unsigned long before = count_sleeps(worker);
    for (unsigned i = 0; i < 10; i++) {
        while (ring(bell) == 0) /* until it sleeps again */
            sleep_ms(1);
        sleep_ms(2);
    }
    wait_until_asleep(worker);
    require(count_sleeps(worker) <= before + 10); /* it looks, and does not begin to look around */
    end_second();
}

static void the_bell_of_others_is_slept_through(void **state)
{
    (void)state;
    if (!knows_bell())
        skip();
    assert_child_silent(wake_for_nothing);
}

/* Slow paths only wake it. */
static void let_slow_paths_pass(void)
{
    begin_with_worker();
    wait_until_asleep(worker);
    waited_for = post(command_of(1, "", 0, 0));
    while (!answer_has_come())
        for (unsigned i = 0; i < 1000; i++) {
            char *volatile object = malloc(100 * KIB + i * KIB);
            free(object);
        }
    require(load_relaxed(&could_destruct));
    end_second();
}

static void slow_paths_leave_it_to_the_worker(void **state)
{
    (void)state;
    assert_child_silent(let_slow_paths_pass);
}

/* -- sandboxes --------------------------------------------------------------------------------------------------- */

/* Does the worker sleep in that call, and without a limit? /proc has its number and arguments, unless it runs. */
static bool worker_sleeps_in(long call, const char *format)
{
    char line[256] = "";
    long number;
    unsigned long limit = 1;
    const int file = open(text("/proc/self/task/%ld/syscall", worker), O_RDONLY);
    require(file >= 0 && read(file, line, sizeof line - 1) > 0);
    close(file);
    return sscanf(line, format, &number, &limit) == 2 && number == call && limit == 0;
}

enum { FUTEX_WAITV = 449 };

static bool sleeps_on_one(void)
{
    return worker_sleeps_in(SYS_futex, "%ld %*s %*s %*s %lx");
}

static bool sleeps_on_both(void)
{
    return worker_sleeps_in(FUTEX_WAITV, "%ld %*s %*s %*s %lx");
}

static void announce(void)
{
    begin_with_worker();
    wait_until(sleeps_on_both);
    require(slm_background_busy());
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(!slm_background_busy()); /* it is out of the call before the program goes on */
    wait_until(sleeps_on_one);
    waited_for = post(command_of(1, "", 0, 0));
    while (!answer_has_come())
        for (unsigned i = 0; i < 1000; i++) {
            char *volatile object = malloc(100 * KIB + i * KIB);
            free(object);
        }
    end_second();
}

static void a_sandbox_takes_the_bell_away(void **state)
{
    (void)state;
    if (!knows_bell())
        skip();
    assert_child_silent(announce);
}

static void install(struct sock_filter *filter, unsigned short length)
{
    struct sock_fprog program = {length, filter};
    require(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Which it is born with, as in a container: the filter may end the process for a call that it does not know. */
static void be_born_filtered(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FUTEX_WAITV, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, COUNT(filter));
    begin_with_worker();
    wait_until(sleeps_on_one);
    end_second();
}

static void a_worker_that_is_born_filtered_hears_no_bell(void **state)
{
    (void)state;
    assert_child_silent(be_born_filtered);
}

/* Of which it does not know. */
static void refuse_the_call(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FUTEX_WAITV, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(filter), filter};
    begin_with_worker();
    require(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
    wait_until(sleeps_on_one);
    end_second();
    require(worker_gone());
}

static void without_the_call_it_sleeps_as_ever(void **state)
{
    (void)state;
    assert_child_silent(refuse_the_call);
}

/* -- the notes --------------------------------------------------------------------------------------------------- */

struct notes {
    const uint32_t *bell;
    const struct slm_inspect *inspect;
};

static void read_notes(const char *from, size_t bytes, struct notes *notes)
{
    const ElfW(Nhdr) * note;
    for (size_t at = 0; at + sizeof *note <= bytes;) {
        note = (const void *)(from + at);
        const char *name = (const char *)(note + 1), *content = name + (note->n_namesz + 3) / 4 * 4;
        if (strcmp(name, SLM_INSPECT_NOTE) == 0 && note->n_descsz == 4) {
            int32_t distance;
            memcpy(&distance, content, sizeof distance);
            if (note->n_type == SLM_INSPECT_NOTE_BELL)
                notes->bell = (const uint32_t *)(const void *)content;
            if (note->n_type == SLM_INSPECT_NOTE_DISTANCE)
                notes->inspect = (const struct slm_inspect *)(const void *)(content + distance);
        }
        at = (size_t)(content - from) + (note->n_descsz + 3) / 4 * 4;
    }
}

static int look_at_program(struct dl_phdr_info *info, size_t size, void *notes)
{
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_NOTE && info->dlpi_phdr[i].p_align == 4)
            read_notes((const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr), info->dlpi_phdr[i].p_memsz,
                       notes);
    return 1; /* the program comes first */
}

static void notes_lead_to_both(void **state)
{
    (void)state;
    struct notes notes = {NULL, NULL};
    dl_iterate_phdr(look_at_program, &notes);
    assert_ptr_equal(notes.bell, slab_inspect.bell);
    assert_ptr_equal(notes.inspect, &slab_inspect);
    assert_ptr_equal(slab_inspect.mailbox, &slm_mailbox);
    assert_memory_equal(slab_inspect.magic, SLM_INSPECT_MAGIC, 8);
    assert_int_equal(slab_inspect.bytes, sizeof slab_inspect);
    assert_int_equal(*slab_inspect.bell, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_is_answered_once),
        cmocka_unit_test(mixtures_are_not_looked_at),
        cmocka_unit_test(before_it_is_open_commands_are_dropped),
        cmocka_unit_test(nobody_serves_in_a_slow_path),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(slow_paths_serve),
        cmocka_unit_test(large_objects_serve),
        cmocka_unit_test(a_child_is_not_who_was_asked),
        cmocka_unit_test(a_fork_leaves_nothing_locked),
        cmocka_unit_test(the_worker_serves_while_it_is_awake),
        cmocka_unit_test(the_bell_wakes_the_worker),
        cmocka_unit_test(the_bell_of_others_is_slept_through),
        cmocka_unit_test(slow_paths_leave_it_to_the_worker),
        cmocka_unit_test(a_sandbox_takes_the_bell_away),
        cmocka_unit_test(a_worker_that_is_born_filtered_hears_no_bell),
        cmocka_unit_test(without_the_call_it_sleeps_as_ever),
        cmocka_unit_test(notes_lead_to_both),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
