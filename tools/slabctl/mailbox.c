/* The tool's side of the mailbox (base/inspect.h).
 *
 *     command: everything but the token, then the token ---> library: looks whether the sum fits, works
 *     bell: FUTEX_WAKE, again and again                      answer: everything but the token, then the token
 *     token of the answer is ours? then the data, and is it still ours? <---
 *
 * Tools do not lock each other out. One whose command was overwritten before it was answered finds other bytes
 * there, waits for a while, and tries again. A command that is not answered in time is taken back, so that it is
 * not obeyed hours later; if the tool is killed before, a child of its does so. */
#include "mailbox.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "process.h"

enum { RING_EVERY_MS = 50, LOOK_EVERY_US = 500, OTHERS_MS = 250, BEGUN_MS = 60000, GUARD_S = 5 };

struct asking {
    struct target *target;
    uint64_t command_at, answer_at;
    struct slm_command command; /* as it was written */
    int lock;                   /* -1: there is none to be had */
    bool others;                /* had the lock before, or have overwritten the command */
    int guard;                  /* to the child; -1: there is none */
    pid_t guard_pid;
    void *bell_page; /* NULL: it cannot be rung */
    const uint32_t *bell;
    uint64_t deadline_ns, ring_ns;
    uint64_t begun_deadline_ns; /* once the command is being carried out */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t random_token(void)
{
    uint64_t token = 0;
    while (!token)
        if (getrandom(&token, sizeof token, 0) != sizeof token)
            token = now_ns() ^ ((uint64_t)getpid() << 32);
    return token;
}

/* -- the bell ------------------------------------------------------------------------------------------------- */

/* A futex in a file is the same whoever maps it. The page is never touched here: if the file has become shorter
 * the kernel says so, and there is no SIGBUS. */
static void bell_open(struct asking *asking)
{
    uint64_t address = (uint64_t)(uintptr_t)target_inspect(asking->target)->bell;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const struct mapping *mapping = target_mapping_at(asking->target, address);
    if (!mapping || address % sizeof(uint32_t))
        return;
    int file = target_open_file(asking->target, mapping);
    if (file < 0)
        return;
    uint64_t offset = mapping->offset + (address - mapping->start);
    void *at = mmap(NULL, page, PROT_READ, MAP_SHARED, file, (off_t)(offset / page * page));
    close(file);
    if (at == MAP_FAILED)
        return;
    asking->bell_page = at;
    asking->bell = (const uint32_t *)(const void *)((const char *)at + offset % page);
}

static void bell_ring(struct asking *asking)
{
    if (asking->bell)
        syscall(SYS_futex, asking->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void bell_close(struct asking *asking)
{
    if (asking->bell_page)
        munmap(asking->bell_page, (size_t)sysconf(_SC_PAGESIZE));
}

/* -- is it still there ---------------------------------------------------------------------------------------- */

/* The process is the one that was opened, its library too, and it runs. Asked before each write: a number that has
 * gone to another process gets nothing of ours. */
static bool is_well(struct target *target, struct problem *problem)
{
    struct process_stat stat;
    if (!target_is_same(target, problem))
        return false;
    if (process_stat_read(target_pid(target), &stat, problem) && (stat.state == 'T' || stat.state == 't'))
        return problem_set(problem, PROBLEM_OTHER, "%s: is stopped%s", target_name(target),
                           stat.state == 't' ? " by a debugger" : "");
    struct slm_inspect now = {0};
    if (!target_inspect_again(target, &now) || now.mailbox != target_inspect(target)->mailbox)
        return target_is_same(target, problem) &&
               problem_set(problem, PROBLEM_ENDED, "%s: the library in it has changed meanwhile",
                           target_name(target));
    return true;
}

/* Something could not be read or written: has it ended, or is it hostile? */
static bool is_lost(struct target *target, struct problem *problem)
{
    return is_well(target, problem) &&
           problem_set(problem, PROBLEM_OTHER, "%s: what it answers cannot be read", target_name(target));
}

/* -- one command ---------------------------------------------------------------------------------------------- */

static bool command_read(struct asking *asking, struct slm_command *command)
{
    return target_read(asking->target, asking->command_at, command, sizeof *command);
}

static bool answer_read(struct asking *asking, struct slm_answer *answer)
{
    return target_read(asking->target, asking->answer_at, answer, sizeof *answer);
}

static bool is_over(const struct asking *asking)
{
    return now_ns() >= asking->deadline_ns;
}

static void pause_us(unsigned us)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)us * 1000}, NULL);
}

/* Rings if it is time to; then looks whether anybody is there to hear it. */
static bool pass_time(struct asking *asking, struct problem *problem)
{
    uint64_t now = now_ns();
    if (now >= asking->ring_ns) {
        if (!is_well(asking->target, problem))
            return false;
        bell_ring(asking);
        asking->ring_ns = now + RING_EVERY_MS * 1000000ull;
    }
    pause_us(LOOK_EVERY_US);
    return true;
}

/* Until the deadline; without it the tool would only be slower. */
static void lock_take(struct asking *asking)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)target_pid(asking->target));
    asking->lock = open(path, O_RDONLY | O_CLOEXEC);
    while (asking->lock >= 0 && flock(asking->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK &&
           !is_over(asking)) {
        asking->others = true;
        pause_us(1000);
    }
}

/* Is it a command that the library would look at? Two tools that write at once leave a mixture. */
static bool command_fits(const struct slm_command *command)
{
    return command->token && command->sum == slm_command_sum(command, command->token);
}

/* Waits while another tool's command is under way. One that nobody answers does not stand in the way for long. */
static bool others_wait(struct asking *asking, struct problem *problem)
{
    uint64_t until = now_ns() + OTHERS_MS * 1000000ull;
    while (now_ns() < until && !is_over(asking)) {
        struct slm_command command;
        struct slm_answer answer;
        if (!command_read(asking, &command) || !answer_read(asking, &answer))
            return is_lost(asking->target, problem);
        if (!command_fits(&command) || command.token == answer.token)
            return true;
        if (!pass_time(asking, problem))
            return false;
    }
    return true;
}

static void guard_tell(const struct asking *asking, uint64_t token)
{
    if (asking->guard >= 0)
        send(asking->guard, &token, sizeof token, MSG_NOSIGNAL);
}

static bool command_write(struct asking *asking, struct problem *problem)
{
    struct slm_command *command = &asking->command;
    uint64_t token = random_token();
    store_relaxed(&command->token, token);
    command->sum = slm_command_sum(command, token);
    if (!is_well(asking->target, problem))
        return false;
    guard_tell(asking, token);
    enum { BEHIND = sizeof command->token };
    if (!target_write(asking->target, asking->command_at + BEHIND, (const char *)command + BEHIND,
                      sizeof *command - BEHIND) ||
        !target_write(asking->target, asking->command_at, &token, sizeof token))
        return is_lost(asking->target, problem);
    bell_ring(asking);
    asking->ring_ns = now_ns() + RING_EVERY_MS * 1000000ull;
    return true;
}

static void command_take_back(struct asking *asking)
{
    struct slm_command there;
    uint64_t none = 0;
    struct problem problem;
    if (is_well(asking->target, &problem) && command_read(asking, &there) && there.token == asking->command.token)
        target_write(asking->target, asking->command_at, &none, sizeof none);
}

/* All but standard input. */
static void files_close(void)
{
    enum { FILES_MOST = 1024 };
#ifdef SYS_close_range /* Linux 5.9 */
    if (syscall(SYS_close_range, STDIN_FILENO + 1u, ~0u, 0u) == 0)
        return;
#endif
    for (int i = STDIN_FILENO + 1; i < FILES_MOST; i++)
        close(i);
}

/* Whoever waits for a hostile process's memory may wait for ever, as the tool did, which was killed for it. */
static void alarm_set(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    signal(SIGALRM, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    alarm(GUARD_S);
}

/* The child: it has each token before the target has, and 0 at the end. Signals for the tool's group, as by Ctrl-C,
 * do not reach it. Nobody waits for it: not who reads what the tool prints, nor the next tool for the lock. */
static _Noreturn void guard(struct asking *asking, int from)
{
    uint64_t token;
    store_relaxed(&asking->command.token, 0);
    setsid();
    if (dup2(from, STDIN_FILENO) < 0)
        _exit(EXIT_FAILURE);
    files_close();
    while (recv(STDIN_FILENO, &token, sizeof token, 0) == sizeof token)
        store_relaxed(&asking->command.token, token);
    alarm_set();
    if (load_relaxed(&asking->command.token) != 0)
        command_take_back(asking);
    _exit(EXIT_SUCCESS);
}

/* Without one the command stays if the tool is killed. */
static void guard_start(struct asking *asking)
{
    int ends[2];
    asking->guard = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return;
    asking->guard_pid = fork();
    if (asking->guard_pid == 0) {
        close(ends[1]);
        guard(asking, ends[0]);
    }
    close(ends[0]);
    if (asking->guard_pid > 0)
        asking->guard = ends[1];
    else
        close(ends[1]);
}

static void guard_end(struct asking *asking)
{
    if (asking->guard < 0)
        return;
    guard_tell(asking, 0);
    close(asking->guard);
    waitpid(asking->guard_pid, NULL, 0);
}

enum outcome { ANSWERED, AGAIN, NO_ANSWER, LOST };

/* What the answer points to, while it is still ours. */
static enum outcome data_read(struct asking *asking, struct slm_answer *answer, void *data, size_t *bytes,
                              struct problem *problem)
{
    struct slm_answer again;
    struct slm_command command;
    bool read = true;
    if (data && bytes && !answer->error) {
        if (answer->bytes < *bytes)
            *bytes = (size_t)answer->bytes;
        read = target_read(asking->target, answer->address, data, *bytes);
    }
    if (!answer_read(asking, &again) || again.token != asking->command.token || !command_read(asking, &command) ||
        command.token != asking->command.token)
        return AGAIN;
    if (read)
        return ANSWERED;
    is_lost(asking->target, problem);
    return LOST;
}

static bool is_begun(const struct asking *asking, const struct slm_answer *answer)
{
    return answer->begun == (uint32_t)asking->command.token;
}

static enum outcome answer_wait(struct asking *asking, struct slm_answer *answer, void *data, size_t *bytes,
                                struct problem *problem)
{
    for (;;) {
        bool last = is_over(asking); /* a last look comes after the deadline, however long this tool was not run */
        struct slm_command there;
        if (!answer_read(asking, answer)) {
            is_lost(asking->target, problem);
            return LOST;
        }
        if (answer->token == asking->command.token)
            return data_read(asking, answer, data, bytes, problem);
        if (!command_read(asking, &there) || !command_fits(&there) || there.token != asking->command.token)
            return AGAIN;
        if (last && !(is_begun(asking, answer) && now_ns() < asking->begun_deadline_ns))
            return NO_ANSWER;
        if (!pass_time(asking, problem))
            return LOST;
    }
}

static bool asking_start(struct asking *asking, struct problem *problem)
{
    const struct target *target = asking->target;
    uint64_t mailbox = (uint64_t)(uintptr_t)target_inspect(target)->mailbox;
    if (target_is_core(target))
        return problem_set(problem, PROBLEM_OTHER, "%s: a core dump takes no commands", target_name(target));
    if (!mailbox || mailbox % sizeof(uint64_t))
        return problem_set(problem, PROBLEM_OTHER, "%s: its library takes no commands", target_name(target));
    asking->command_at = mailbox + offsetof(struct slm_mailbox, command);
    asking->answer_at = mailbox + offsetof(struct slm_mailbox, answer);
    bell_open(asking);
    return true;
}

static bool no_answer(struct asking *asking, unsigned timeout_ms, struct problem *problem)
{
    command_take_back(asking);
    if (!is_well(asking->target, problem))
        return false;
    const char *more = "; its library's file is not to be had, so that its worker was not woken";
    return problem_set(problem, PROBLEM_OTHER,
                       "%s: no answer within %g s (%sits threads are idle, stopped, or busy "
                       "without the library)%s",
                       target_name(asking->target), timeout_ms / 1000.0,
                       asking->others ? "another slabctl is at it, or " : "", asking->bell ? "" : more);
}

static bool not_done(struct asking *asking, struct problem *problem)
{
    return is_well(asking->target, problem) && problem_set(problem, PROBLEM_OTHER, "%s: still at it after %u s",
                                                           target_name(asking->target), BEGUN_MS / 1000);
}

bool mailbox_ask(struct target *target, struct slm_command *command, struct slm_answer *answer, void *data,
                 size_t *bytes, unsigned timeout_ms, struct problem *problem)
{
    struct asking asking = {.target = target, .command = *command};
    size_t room = bytes ? *bytes : 0;
    if (!asking_start(&asking, problem))
        return false;
    asking.deadline_ns = now_ns() + timeout_ms * 1000000ull;
    asking.begun_deadline_ns = asking.deadline_ns + BEGUN_MS * 1000000ull;
    lock_take(&asking);
    guard_start(&asking);
    enum outcome outcome = AGAIN;
    while (outcome == AGAIN) {
        outcome = LOST;
        if (!others_wait(&asking, problem) || !command_write(&asking, problem))
            break;
        if (bytes)
            *bytes = room;
        outcome = answer_wait(&asking, answer, data, bytes, problem);
        if (outcome == AGAIN && is_over(&asking)) {
            asking.others = true;
            outcome = NO_ANSWER;
        }
        if (outcome == AGAIN) /* not in step with the other tool */
            pause_us((unsigned)(random_token() % 20000));
    }
    bool answered = outcome == ANSWERED;
    if (outcome == NO_ANSWER)
        answered = is_begun(&asking, answer) ? not_done(&asking, problem) : no_answer(&asking, timeout_ms, problem);
    guard_end(&asking);
    bell_close(&asking);
    if (asking.lock >= 0)
        close(asking.lock);
    return answered;
}
