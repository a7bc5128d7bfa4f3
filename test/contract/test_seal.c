/* What the library writes only at start, its options and addresses, is read-only from then on: a wild write that
 * meets it ends the process. No manual promises that; glibc does the same with what its loader writes (RELRO).
 *
 * The section "slm_once" is found by the library's file. An archive in a program is not sealed. */
#include "common.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>

static struct {
    char *start;
    size_t bytes;
} once;

static uintptr_t base_of_library(void)
{
    Dl_info info;
    require(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) != 0 && strcmp(info.dli_fname, loaded_library()) == 0);
    return (uintptr_t)info.dli_fbase;
}

static void find_section(void)
{
    struct stat status;
    const int file = open(loaded_library(), O_RDONLY | O_CLOEXEC);
    require(file >= 0 && fstat(file, &status) == 0);
    const char *image = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    require(image != MAP_FAILED);
    const ElfW(Ehdr) *header = (const void *)image;
    const ElfW(Shdr) *sections = (const void *)(image + header->e_shoff);
    const char *names = image + sections[header->e_shstrndx].sh_offset;
    for (unsigned i = 0; i < header->e_shnum; i++)
        if (strcmp(names + sections[i].sh_name, "slm_once") == 0) {
            once.start = (char *)base_of_library() + sections[i].sh_addr;
            once.bytes = sections[i].sh_size;
        }
    require(once.start != NULL && once.bytes > 0);
    munmap((void *)image, (size_t)status.st_size);
    close(file);
}

static bool is_sealed;

static void note_fault(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_addr != once.start)
        _exit(2);
    is_sealed = true;
    require(mprotect(once.start, once.bytes, PROT_READ | PROT_WRITE) == 0); /* the write is tried again */
}

/* With the value that is there. */
static void write_first_byte(void)
{
    const struct sigaction action = {.sa_sigaction = note_fault, .sa_flags = SA_SIGINFO};
    volatile char *byte = once.start;
    require(sigaction(SIGSEGV, &action, NULL) == 0);
    *byte = *byte;
}

/* -- sealed ------------------------------------------------------------------------------------------------------ */

static void require_read_only_pages(void)
{
    char line[PATH_MAX + 100];
    uintptr_t next = (uintptr_t)once.start;
    FILE *maps = fopen("/proc/self/maps", "re");
    require(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t start, end;
        char rights[5];
        require(sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3);
        if (start <= next && next < end) {
            require(strcmp(rights, "r--p") == 0);
            next = end;
        }
        if (next >= (uintptr_t)once.start + once.bytes)
            break;
    }
    fclose(maps);
    require(next >= (uintptr_t)once.start + once.bytes);
}

static void *allocate(void *nothing)
{
    exercise();
    return nothing;
}

static void role_sealed(const char *argument)
{
    pthread_t thread;
    (void)argument;
    find_section();
    require((uintptr_t)once.start % (size_t)sysconf(_SC_PAGESIZE) == 0);
    require(once.bytes % (size_t)sysconf(_SC_PAGESIZE) == 0);
    require_read_only_pages();
    exercise();
    require(pthread_create(&thread, NULL, allocate, NULL) == 0 && pthread_join(thread, NULL) == 0);
    const pid_t child = fork();
    if (child == 0) {
        exercise();
        require_read_only_pages();
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    require_read_only_pages();
    write_first_byte();
    require(is_sealed);
}

static void test_what_is_written_at_start_is_sealed(void **state)
{
    (void)state;
    skip_on_glibc("it has no such section");
    assert_role_succeeds("sealed", NULL);
    assert_role_succeeds(
        "sealed", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=stats_file=/dev/null,purge_delay_ms=1"}});
}

/* -- unsealed ---------------------------------------------------------------------------------------------------- */

/* After ld.so, which cannot start a program without, and before the library's constructor: no page becomes
 * read-only any more. The guards of threads' stacks are protected otherwise. */
static void refuse_sealing(int argc, char **argv, char **environment)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PROT_READ, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {COUNT(filter), filter};
    (void)environment;
    if (argc < 2 || strcmp(argv[1], "unsealed") != 0)
        return;
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

__attribute__((section(".preinit_array"), used)) static void (*const preinit_entry)(int, char **,
                                                                                    char **) = refuse_sealing;

static void role_unsealed(const char *argument)
{
    (void)argument;
    find_section();
    exercise();
    write_first_byte();
    require(!is_sealed);
    exercise();
}

static void test_without_mprotect_it_works_unsealed(void **state)
{
    (void)state;
    skip_on_glibc("it has no such section");
    assert_role_succeeds("unsealed", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"sealed", role_sealed}, {"unsealed", role_unsealed}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_at_start_is_sealed),
        cmocka_unit_test(test_without_mprotect_it_works_unsealed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
