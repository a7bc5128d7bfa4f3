/* src/process/fault.h: what becomes of a fault, ours or not, by which disposition; and what is left for tools. */
#include "heap_check.h"
#include "unit.h"

#include <ucontext.h>

#include "process/fault.h"

static char *object;

static struct slm_guard *make(void)
{
    struct slm_guard *guard = slm_guard_make(40, 16, 0);
    require(guard != NULL);
    guard->cache = SLM_SAMPLE_LARGE;
    guard->thread = 17;
    object = guard->object;
    return guard;
}

static void write_behind(void)
{
    make();
    slm_fault_start();
    *(volatile char *)(object + 48) = 1;
}

static void read_what_is_freed(void)
{
    struct slm_guard *guard = make();
    guard->end_thread = 18;
    require(slm_guard_end(guard, SLM_SPAN_GUARDED_FREE));
    slm_guard_put_away(guard, false);
    slm_fault_start();
    (void)*(volatile char *)(object + 3);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    require(number == SIGSEGV && info->si_addr == object + 48 && info->si_code == SEGV_ACCERR);
    require(slm_fault_facts.object == (uintptr_t)object && slm_fault_facts.bytes == 40);
    require(slm_fault_facts.thread == 17 && slm_fault_facts.address == (uintptr_t)object + 48);
    _exit(11);
}

static void write_with_a_handler(void)
{
    const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    write_behind();
}

static void write_with_a_later_handler(void)
{
    const struct sigaction action = {.sa_handler = _exit};
    slm_fault_start();
    sigaction(SIGSEGV, &action, NULL);
    make();
    *(volatile char *)(object + 48) = 1;
}

static void write_to_null(void)
{
    slm_fault_start();
    char *volatile nowhere = NULL;
    *(volatile char *)nowhere = 1;
}

static void raise_it(void)
{
    slm_fault_start();
    raise(SIGSEGV);
}

static void raise_what_is_ignored(void)
{
    signal(SIGSEGV, SIG_IGN);
    slm_fault_start();
    raise(SIGSEGV);
}

static void refuse(void)
{
    struct slm_guard *guard = make();
    slm_fault_refuse(guard, object, "free", "double free of an object");
}

static const char *last_line(const char *text)
{
    const char *line = text, *end;
    while ((end = strchr(line, '\n')) && end[1])
        line = end + 1;
    return line;
}

static void the_last_line_says_what_it_was(void **state)
{
    (void)state;
    struct outcome outcome = in_child(write_behind);
    assert_int_equal(outcome.signal, SIGSEGV);
    assert_non_null(strstr(outcome.said, "slabmalloc: it was allocated by thread 17 at:"));
    assert_non_null(strstr(last_line(outcome.said), " 8 bytes behind an object of 40 bytes at 0x"));
    outcome = in_child(read_what_is_freed);
    assert_int_equal(outcome.signal, SIGSEGV);
    assert_non_null(strstr(outcome.said, "slabmalloc: it was freed by thread 18 at:"));
    assert_non_null(strstr(last_line(outcome.said), " 3 bytes into a freed object of 40 bytes at 0x"));
    outcome = in_child(refuse);
    assert_int_equal(outcome.signal, SIGABRT);
    assert_non_null(strstr(last_line(outcome.said), "): double free of an object of 40 bytes (thread "));
}

static void a_handler_comes_behind_the_line(void **state)
{
    (void)state;
    struct outcome outcome = in_child(write_with_a_handler);
    assert_int_equal(outcome.status, 11);
    assert_non_null(strstr(outcome.said, " 8 bytes behind an object of 40 bytes"));
    outcome = in_child(write_with_a_later_handler);
    assert_int_equal(outcome.status, SIGSEGV);
    assert_string_equal(outcome.said, "");
}

static void other_faults_are_as_ever(void **state)
{
    (void)state;
    struct outcome outcome = in_child(write_to_null);
    assert_int_equal(outcome.signal, SIGSEGV);
    assert_string_equal(outcome.said, "");
    outcome = in_child(raise_it);
    assert_int_equal(outcome.signal, SIGSEGV);
    assert_string_equal(outcome.said, "");
    assert_child_silent(raise_what_is_ignored);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_line_says_what_it_was),
        cmocka_unit_test(a_handler_comes_behind_the_line),
        cmocka_unit_test(other_faults_are_as_ever),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
