/* What wild writes meet. What the library writes only at start, its options and addresses, is read-only from then on,
 * and such a write ends the process. So does one to the library's addresses that are not in use. No manual promises
 * that; glibc does the same with what its loader writes (RELRO).
 *
 * The section "slm_once" is found by the library's file. An archive in a program is not sealed. */
#include "filters.h"

#include <inttypes.h>
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

struct mapping {
    uintptr_t start, end;
    char rights[5];
};

static bool read_mapping(FILE *maps, struct mapping *mapping)
{
    char line[PATH_MAX + 100];
    if (fgets(line, sizeof line, maps) == NULL)
        return false;
    require(sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &mapping->start, &mapping->end, mapping->rights) == 3);
    return true;
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
    struct mapping mapping;
    uintptr_t next = (uintptr_t)once.start;
    FILE *maps = fopen("/proc/self/maps", "re");
    require(maps != NULL);
    while (next < (uintptr_t)once.start + once.bytes && read_mapping(maps, &mapping))
        if (mapping.start <= next && next < mapping.end) {
            require(strcmp(mapping.rights, "r--p") == 0);
            next = mapping.end;
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
    const struct sock_filter filter[] = {
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
        LOAD(args[2]),
        IF_EQUAL(PROT_READ, SECCOMP_RET_ERRNO | EPERM),
        RETURN(SECCOMP_RET_ALLOW),
    };
    (void)environment;
    if (argc < 2 || strcmp(argv[1], "unsealed") != 0)
        return;
    install_filter(filter, COUNT(filter), 0);
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

/* -- unused addresses -------------------------------------------------------------------------------------------- */

/* The library's addresses lie far from all others. */
#define RANGE_MOST ((uintptr_t)16 << 40)

/* What is accessible in them, and how far below the object's own mapping the next accessible byte lies. */
static void look_around(const void *object, size_t *accessible, size_t *gap)
{
    const uintptr_t at = (uintptr_t)object;
    struct mapping mapping;
    uintptr_t before = 0, last = 0; /* the ends of the mapping before a gap, and of the last mapping */
    FILE *maps = fopen("/proc/self/maps", "re");
    require(maps != NULL);
    *accessible = *gap = 0;
    while (read_mapping(maps, &mapping)) {
        if (strncmp(mapping.rights, "---", 3) == 0 || mapping.end + RANGE_MOST < at ||
            mapping.start > at + RANGE_MOST)
            continue;
        *accessible += mapping.end - mapping.start;
        if (mapping.start != last)
            before = last;
        last = mapping.end;
        if (mapping.start <= at && at < mapping.end)
            *gap = at - before;
    }
    fclose(maps);
}

static void role_small(const char *argument)
{
    size_t accessible, gap;
    (void)argument;
    exercise();
    void *object = malloc(100), *large = malloc(1 << 30);
    require(object != NULL && large != NULL);
    free(large);
    look_around(object, &accessible, &gap);
    require(accessible < (1 << 30) + 80 * MIB); /* the large object, and 64 MiB mapped ahead */
    require(gap > 200 * MIB);                   /* an underflow does not meet the library's state */
    free(object);
}

static void test_unused_addresses_are_inaccessible(void **state)
{
    (void)state;
    skip_on_glibc("its heap lies among other mappings");
    assert_role_succeeds("small", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"sealed", role_sealed}, {"unsealed", role_unsealed}, {"small", role_small}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_at_start_is_sealed),
        cmocka_unit_test(test_without_mprotect_it_works_unsealed),
        cmocka_unit_test(test_unused_addresses_are_inaccessible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
