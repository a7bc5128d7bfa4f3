/* src/os/background.h: how the library's own thread is scheduled, whatever its creator is. */
#include "unit.h"

#include <sched.h>

#include "os/background.h"

/* What a thread inherits, as sched_getattr(2) and the others tell it. */
struct scheduling {
    int policy, nice;
    cpu_set_t cpus;
    char name[16];
};

static struct scheduling now(void)
{
    struct scheduling now = {sched_getscheduler(0), getpriority(PRIO_PROCESS, 0), {{0}}, ""};
    require(sched_getaffinity(0, sizeof now.cpus, &now.cpus) == 0);
    prctl(PR_GET_NAME, now.name, 0, 0, 0);
    return now;
}

static struct scheduling at_start;

/* A container's filter leaves some things as they are. */
static void skip_in_sandbox(void)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0)
        skip();
}

/* A batch thread that is kept on the CPU where it is, and nicer than the process. */
static void become_another(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    require(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}) == 0);
    require(sched_setaffinity(0, sizeof one, &one) == 0);
    require(setpriority(PRIO_PROCESS, 0, at_start.nice + 3) == 0);
}

static void require_background(const struct scheduling *is)
{
    require(is->policy == at_start.policy && CPU_EQUAL(&is->cpus, &at_start.cpus));
    require(is->nice == (at_start.nice > 9 ? 19 : at_start.nice + 10));
    require(strcmp(is->name, "slabmalloc") == 0);
}

static void enter_from_elsewhere(void)
{
    become_another();
    errno = EDOM;
    require(slm_background_enter() == (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0));
    require(errno == EDOM);
    const struct scheduling is = now();
    require_background(&is);
}

static void nothing_is_inherited(void **state)
{
    (void)state;
    skip_in_sandbox();
    assert_child_silent(enter_from_elsewhere);
}

static void enter_from_real_time(void)
{
    const struct sched_param urgent = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &urgent) != 0)
        return; /* only root may */
    slm_background_enter();
    const struct scheduling is = now();
    require_background(&is);
}

static void it_is_no_real_time_thread(void **state)
{
    (void)state;
    skip_in_sandbox();
    assert_child_silent(enter_from_real_time);
}

/* Only a privileged thread may become less nice: the rest is as it should be. */
static void enter_from_the_nicest(void)
{
    if (setgid(65534) != 0 || setuid(65534) != 0)
        return;
    become_another();
    require(setpriority(PRIO_PROCESS, 0, 19) == 0);
    slm_background_enter();
    const struct scheduling is = now();
    require(is.policy == at_start.policy && CPU_EQUAL(&is.cpus, &at_start.cpus));
    require(is.nice == 19);
}

static void what_is_refused_stays(void **state)
{
    (void)state;
    skip_in_sandbox();
    assert_child_silent(enter_from_the_nicest);
}

static void require_unchanged(void)
{
    become_another();
    const struct scheduling before = now();
    require(!slm_background_enter());
    const struct scheduling after = now();
    require(after.policy == before.policy && after.nice == before.nice);
    require(CPU_EQUAL(&after.cpus, &before.cpus));
}

static void a_call_under_way_is_waited_for(void)
{
    require(!slm_background_busy() && slm_background_begin() && slm_background_busy());
    slm_background_forbid();
    require(slm_background_busy());
    slm_background_end();
    require(!slm_background_busy() && !slm_background_begin());
    slm_background_end();
}

static void enter_where_forbidden(void)
{
    char name[16] = "";
    slm_background_forbid();
    require_unchanged();
    prctl(PR_GET_NAME, name, 0, 0, 0);
    require(strcmp(name, "slabmalloc") != 0);
}

/* As a container's, of which the library has not heard. */
static void install_filter(void)
{
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &all};
    require(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void enter_behind_a_filter(void)
{
    install_filter();
    const struct scheduling before = now();
    require(!slm_background_enter());
    const struct scheduling after = now();
    require(after.policy == before.policy && after.nice == before.nice && CPU_EQUAL(&after.cpus, &before.cpus));
}

static void enter_from_elsewhere_behind_a_filter(void)
{
    install_filter();
    enter_from_elsewhere();
}

static void a_sandbox_is_left_alone(void **state)
{
    (void)state;
    assert_child_silent(enter_where_forbidden);
    assert_child_silent(a_call_under_way_is_waited_for);
    assert_child_silent(enter_behind_a_filter);
}

static void what_the_creator_has_changed_is_set_back_in_a_container(void **state)
{
    (void)state;
    assert_child_silent(enter_from_elsewhere_behind_a_filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_inherited),
        cmocka_unit_test(it_is_no_real_time_thread),
        cmocka_unit_test(what_is_refused_stays),
        cmocka_unit_test(a_sandbox_is_left_alone),
        cmocka_unit_test(what_the_creator_has_changed_is_set_back_in_a_container),
    };
    at_start = now();
    return cmocka_run_group_tests(tests, start_library, NULL);
}
