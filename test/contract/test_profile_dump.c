/* slab_profile_dump: onto descriptors of all kinds, from signal handlers, in children, beside threads that allocate.
 *
 * Written in: include/slabmalloc.h; elf(5) and core(5) for the form; write(2) for the errors. That slabctl reads what
 * is in there is another test's (test/system/test_slabctl_dump.py). */
#include "common.h"

#include <elf.h>
#include <slabmalloc.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define EACH_IS_SAMPLED "SLABMALLOC_OPTIONS=sample_bytes=1"

/* Is a dump: headers, and behind them segments, one behind the other, up to the end. Legal in signal handlers. */
static void require_dump(const char *bytes, size_t size)
{
    Elf64_Ehdr header;
    require(size > sizeof header);
    memcpy(&header, bytes, sizeof header);
    require(memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_type == ET_CORE && header.e_phnum > 2);
    require(header.e_phentsize == sizeof(Elf64_Phdr));
    uint64_t end = header.e_phoff + header.e_phnum * sizeof(Elf64_Phdr);
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        require(header.e_phoff + (i + 1) * sizeof segment <= size);
        memcpy(&segment, bytes + header.e_phoff + i * sizeof segment, sizeof segment);
        require(segment.p_type == (i == 0 ? PT_NOTE : PT_LOAD) && segment.p_offset == end);
        end += segment.p_filesz;
    }
    require(end == size);
}

/* The same of a file's contents. */
static void require_file_is_dump(int file)
{
    const off_t size = lseek(file, 0, SEEK_END);
    require(size > 0);
    char *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, file, 0);
    require(bytes != MAP_FAILED);
    require_dump(bytes, (size_t)size);
    munmap(bytes, (size_t)size);
}

/* Dumps into a file in memory. */
static void require_dumps(void)
{
    const int file = memfd_create("dump", MFD_CLOEXEC), before = errno;
    require(file >= 0);
    require(slab_profile_dump(file) == 0 && errno == before);
    require_file_is_dump(file);
    close(file);
}

/* -- descriptors ------------------------------------------------------------------------------------------------- */

static void role_first_call(const char *argument)
{
    (void)argument;
    require_dumps();
}

static void test_a_process_that_has_done_nothing_dumps(void **state)
{
    (void)state;
    assert_role_succeeds("first-call", NULL);
}

static void *dump_and_close(void *end)
{
    const int descriptor = *(int *)end;
    require(slab_profile_dump(descriptor) == 0);
    close(descriptor);
    return NULL;
}

static void require_comes_through(int reading, int writing)
{
    static char bytes[4 * MIB];
    size_t size = 0;
    pthread_t thread;
    require(pthread_create(&thread, NULL, dump_and_close, &writing) == 0);
    for (ssize_t got; (got = read(reading, bytes + size, size % 1000 + 1)) != 0; size += (size_t)got)
        require(got > 0 && size < sizeof bytes - KIB);
    require(pthread_join(thread, NULL) == 0);
    close(reading);
    require_dump(bytes, size);
}

static void role_pipes(const char *argument)
{
    (void)argument;
    int ends[2];
    churn(1, 2000);
    require(pipe(ends) == 0);
    require_comes_through(ends[0], ends[1]);
    require(pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 0);
    require_comes_through(ends[0], ends[1]);
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    require_comes_through(ends[0], ends[1]);
}

static void test_pipes_and_sockets_are_good_enough(void **state)
{
    (void)state;
    assert_role_succeeds("pipes", &(struct launch){.environment = {EACH_IS_SAMPLED}});
}

static void require_fails(int descriptor, int error)
{
    errno = 0;
    require(slab_profile_dump(descriptor) == -1);
    require(errno == error);
}

static void role_errors(const char *argument)
{
    (void)argument;
    int ends[2];
    churn(2, 500);
    require_fails(-1, EBADF);
    require_fails(999, EBADF);
    require(pipe(ends) == 0);
    require_fails(ends[0], EBADF); /* it is for reading */
    require(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 0);
    require_fails(ends[1], EAGAIN);
    signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    require_fails(ends[1], EPIPE);
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    require(full >= 0);
    require_fails(full, ENOSPC);
    require_dumps();
}

static void test_errors_are_those_of_write(void **state)
{
    (void)state;
    assert_role_succeeds("errors", NULL);
}

/* Where there is something already it is written behind that. */
static void role_position(const char *argument)
{
    (void)argument;
    const int file = memfd_create("dump", MFD_CLOEXEC);
    char *bytes = calloc(1, MIB);
    require(bytes && write(file, "head", 4) == 4 && slab_profile_dump(file) == 0);
    const ssize_t size = pread(file, bytes, MIB, 0);
    require(size > 4 && size < (ssize_t)MIB && memcmp(bytes, "head", 4) == 0);
    require_dump(bytes + 4, (size_t)size - 4);
}

static void test_it_begins_where_the_descriptor_stands(void **state)
{
    (void)state;
    assert_role_succeeds("position", NULL);
}

/* -- threads, handlers, children --------------------------------------------------------------------------------- */

static void role_beside_busy_threads(const char *argument)
{
    (void)argument;
    struct churner churners[4];
    bool stop = false;
    watchdog("slab_profile_dump hangs beside busy threads");
    churners_start(churners, COUNT(churners), 0, &stop);
    for (unsigned i = 0; i < scaled(30); i++)
        require_dumps();
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
    require_dumps();
}

static void test_threads_that_allocate_disturb_nothing(void **state)
{
    (void)state;
    assert_role_succeeds("beside-busy-threads", &(struct launch){.environment = {EACH_IS_SAMPLED}});
    assert_role_succeeds("beside-busy-threads",
                         &(struct launch){.environment = {"SLABMALLOC_OPTIONS=sample_bytes=4K"}});
}

static volatile unsigned dumped;

static void dump_in_handler(int number)
{
    (void)number;
    const int before = errno;
    require_dumps();
    errno = before;
    __atomic_fetch_add(&dumped, 1, __ATOMIC_RELEASE);
}

/* A thread is interrupted anywhere, most often in malloc and free; it waits in its handler until all is written. */
static void role_in_handlers(const char *argument)
{
    (void)argument;
    struct churner churners[2];
    bool stop = false;
    const struct sigaction action = {.sa_handler = dump_in_handler, .sa_flags = SA_RESTART};
    watchdog("slab_profile_dump hangs in a signal handler");
    require(sigaction(SIGUSR1, &action, NULL) == 0);
    churners_start(churners, COUNT(churners), 0, &stop);
    for (unsigned i = 0; i < scaled(100); i++) {
        require(pthread_kill(churners[i % COUNT(churners)].thread, SIGUSR1) == 0);
        while (__atomic_load_n(&dumped, __ATOMIC_ACQUIRE) <= i)
            sched_yield();
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
}

static void test_handlers_that_interrupt_malloc_may_dump(void **state)
{
    (void)state;
    assert_role_succeeds("in-handlers", &(struct launch){.environment = {EACH_IS_SAMPLED}});
}

static void role_in_children(const char *argument)
{
    (void)argument;
    struct churner churners[3];
    bool stop = false;
    watchdog("slab_profile_dump hangs in a child of fork");
    churners_start(churners, COUNT(churners), 0, &stop);
    for (unsigned i = 0; i < scaled(20); i++) {
        const pid_t child = fork();
        if (child == 0) {
            require_dumps();
            churn(i, 100);
            require_dumps();
            _exit(0);
        }
        require(ended_well(wait_for(child)));
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
}

static void test_children_of_fork_may_dump(void **state)
{
    (void)state;
    assert_role_succeeds("in-children", &(struct launch){.environment = {EACH_IS_SAMPLED}});
}

/* No byte of the heap, nor a descriptor. */
static void role_costs_nothing(const char *argument)
{
    (void)argument;
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    churn(3, 1000);
    require(slab_profile_dump(null) == 0);
    const size_t before = in_use();
    for (unsigned i = 0; i < 100; i++)
        require(slab_profile_dump(null) == 0);
    require(in_use() == before);
    const int next = open("/dev/null", O_WRONLY | O_CLOEXEC);
    require(next == null + 1);
}

static void test_a_dump_leaves_nothing_behind(void **state)
{
    (void)state;
    assert_role_succeeds("costs-nothing",
                         &(struct launch){.environment = {"SLABMALLOC_OPTIONS=sample_bytes=1,worker=0"}});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"first-call", role_first_call},
        {"pipes", role_pipes},
        {"errors", role_errors},
        {"position", role_position},
        {"in-handlers", role_in_handlers},
        {"beside-busy-threads", role_beside_busy_threads},
        {"costs-nothing", role_costs_nothing},
        {"in-children", role_in_children},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_that_has_done_nothing_dumps),
        cmocka_unit_test(test_pipes_and_sockets_are_good_enough),
        cmocka_unit_test(test_errors_are_those_of_write),
        cmocka_unit_test(test_it_begins_where_the_descriptor_stands),
        cmocka_unit_test(test_threads_that_allocate_disturb_nothing),
        cmocka_unit_test(test_handlers_that_interrupt_malloc_may_dump),
        cmocka_unit_test(test_children_of_fork_may_dump),
        cmocka_unit_test(test_a_dump_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
