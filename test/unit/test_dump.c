/* src/inspect/dump.h: a dump has what tools look for, whatever comes and goes while it is written; what cannot be
 * written is told. That slabctl reads it test/system/test_slabctl_dump.py sees. */
#include "unit.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/procfs.h>

#include "depot/cache.h"
#include "inspect/dump.h"
#include "page/demand.h"
#include "sample/samples.h"
#include "sample/stacks.h"
#include "os/sys.h"

enum { PAGE = 4096, MEAN = 1000 };

/* -- what comes in between --------------------------------------------------------------------------------------- */

/* Mappings are read twice, first of all, and then when it is already known how long the dump becomes. */
static void (*in_between)(void);
static unsigned times_read;

bool __real_slm_sys_each_line(const char *path, slm_line_reader *reader, void *context);
bool __wrap_slm_sys_each_line(const char *path, slm_line_reader *reader, void *context);
bool __wrap_slm_sys_each_line(const char *path, slm_line_reader *reader, void *context)
{
    if (strcmp(path, "/proc/self/maps") == 0 && ++times_read % 2 == 0 && in_between)
        in_between();
    return __real_slm_sys_each_line(path, reader, context);
}

/* -- reading a dump ---------------------------------------------------------------------------------------------- */

static struct {
    char *bytes;
    size_t size;
} dump;

static void *at(uint64_t offset, uint64_t bytes)
{
    require(offset <= dump.size && bytes <= dump.size - offset);
    return dump.bytes + offset;
}

static const Elf64_Phdr *segments(unsigned *count)
{
    const Elf64_Ehdr *header = at(0, sizeof *header);
    *count = header->e_phnum;
    return at(header->e_phoff, *count * sizeof(Elf64_Phdr));
}

/* What lies at an address of the process. NULL: the dump has not got it. */
static void *lies(uint64_t address, uint64_t bytes)
{
    unsigned count;
    const Elf64_Phdr *segment = segments(&count);
    for (unsigned i = 0; i < count; i++)
        if (segment[i].p_type == PT_LOAD && address >= segment[i].p_vaddr &&
            address - segment[i].p_vaddr <= segment[i].p_filesz &&
            bytes <= segment[i].p_filesz - (address - segment[i].p_vaddr))
            return at(segment[i].p_offset + (address - segment[i].p_vaddr), bytes);
    return NULL;
}

static void *must_lie(const void *address, uint64_t bytes)
{
    void *found = lies((uintptr_t)address, bytes);
    require(found != NULL);
    return found;
}

static uint64_t number_at(const void *address)
{
    uint64_t number;
    memcpy(&number, must_lie(address, sizeof number), sizeof number);
    return number;
}

static const struct slm_inspect *inspect(void)
{
    return must_lie(&slab_inspect, sizeof slab_inspect);
}

/* Its segments lie side by side and end with the file; its notes end with their segment. */
static void require_whole(void)
{
    unsigned count;
    const Elf64_Ehdr *header = at(0, sizeof *header);
    const Elf64_Phdr *segment = segments(&count);
    require(memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_type == ET_CORE);
    uint64_t end = header->e_phoff + count * sizeof *segment;
    for (unsigned i = 0; i < count; i++) {
        require(segment[i].p_offset == end);
        end += segment[i].p_filesz;
    }
    require(end == dump.size);
    require(segment[0].p_type == PT_NOTE && segment[0].p_filesz % 4 == 0);
}

/* Calls `visit` for each note. */
static void each_note(void (*visit)(const Elf64_Nhdr *note, const char *bytes, void *context), void *context)
{
    unsigned count;
    const Elf64_Phdr *segment = segments(&count);
    const uint64_t end = segment->p_offset + segment->p_filesz;
    for (uint64_t offset = segment->p_offset; offset < end;) {
        const Elf64_Nhdr *note = at(offset, sizeof *note);
        const uint64_t text = offset + sizeof *note + (note->n_namesz + 3) / 4 * 4;
        offset = text + ((uint64_t)note->n_descsz + 3) / 4 * 4;
        require(offset <= end);
        visit(note, at(text, note->n_descsz), context);
    }
}

/* Into `dump`. */
static void take(void)
{
    const int file = memfd_create("dump", MFD_CLOEXEC);
    require(file >= 0);
    if (dump.bytes)
        munmap(dump.bytes, dump.size);
    times_read = 0;
    errno = 4711;
    require(slm_dump_write(file, &slab_inspect) == 0 && errno == 4711);
    dump.size = (size_t)lseek(file, 0, SEEK_END);
    dump.bytes = mmap(NULL, dump.size, PROT_READ, MAP_PRIVATE, file, 0);
    require(dump.bytes != MAP_FAILED);
    close(file);
    in_between = NULL;
    require_whole();
}

/* -- samples and stacks ------------------------------------------------------------------------------------------ */

static uint32_t intern(uint64_t name, unsigned words)
{
    union slm_stack_record record;
    memset((void *)&record, 0, sizeof record);
    record.stack.kind = SLM_STACK_IMAGE;
    record.stack.registers = SLM_STACK_REGISTERS;
    record.stack.words = (uint16_t)words;
    record.stack.values[0] = name;
    record.stack.hash = (uint32_t)(name % 37); /* long lists */
    const uint32_t number = slm_stacks_intern(&record.stack);
    require(number != 0);
    return number;
}

static uint32_t add(uint64_t object, uint32_t stack)
{
    const uint32_t index = slm_samples_add(&(struct slm_sample_of){
        .object = (const void *)(uintptr_t)object, .asked = object, .given = object, .mean = MEAN, .stack = stack});
    require(index != 0);
    return index;
}

static const struct slm_sample_counts *counts_in_dump(void)
{
    return must_lie(inspect()->sample_counts, sizeof(struct slm_sample_counts));
}

/* The index of a record in the dump, or NULL. */
static const struct slm_sample *sample_in_dump(uint32_t index)
{
    const uint32_t top = counts_in_dump()->top;
    uint32_t first = 1;
    if (index > top)
        return NULL;
    for (unsigned chunk = 0;; first += slm_samples_in(chunk++))
        if (index - first < slm_samples_in(chunk)) {
            const uint64_t address = number_at((const uint64_t *)inspect()->sample_chunks + chunk);
            return must_lie((const void *)(uintptr_t)(address + (index - first) * sizeof(struct slm_sample)),
                            sizeof(struct slm_sample));
        }
}

static const struct slm_stack *stack_in_dump(uint32_t number, uint32_t hash)
{
    uint64_t address =
        number_at((const uint64_t *)(uintptr_t)number_at(inspect()->stack_buckets) + hash % SLM_STACK_BUCKETS);
    while (address) {
        const struct slm_stack *stack = must_lie((const void *)(uintptr_t)address, sizeof *stack);
        must_lie((const void *)(uintptr_t)address, sizeof *stack + slm_stack_value_bytes(stack));
        if (stack->number == number)
            return stack;
        address = stack->next;
    }
    return NULL;
}

static void require_stack(uint32_t number)
{
    const struct slm_stack *there = slm_stack_of(number), *found = stack_in_dump(number, there->hash);
    const size_t behind = offsetof(struct slm_stack, number), head = offsetof(struct slm_stack, values) - behind;
    require(found && memcmp((const char *)found + behind, (const char *)there + behind, head) == 0);
    require(memcmp(found->values, there->values, slm_stack_value_bytes(there)) == 0);
}

static void samples_and_their_stacks_are_there(void **state)
{
    (void)state;
    enum { STACKS = 100, SAMPLES = 3000 };
    uint32_t stacks[STACKS], samples[SAMPLES];
    for (unsigned i = 0; i < STACKS; i++)
        stacks[i] = intern(i, i);
    for (unsigned i = 0; i < SAMPLES; i++)
        samples[i] = add(1 + i, i % 10 == 0 ? 0 : stacks[i % STACKS]);
    for (unsigned i = 0; i < SAMPLES; i += 7)
        slm_samples_end(samples[i]);
    take();
    for (unsigned i = 0; i < STACKS; i++)
        require_stack(stacks[i]);
    for (unsigned i = 0; i < SAMPLES; i++) {
        const struct slm_sample *found = sample_in_dump(samples[i]);
        const struct slm_sample *there = slm_samples_at(samples[i]);
        assert_int_equal(load_relaxed(&found->object), i % 7 == 0 ? 0 : 1 + i);
        if (i % 7 != 0)
            assert_memory_equal(found, there, sizeof *there);
    }
    for (unsigned i = 0; i < SAMPLES; i++)
        if (i % 7 != 0)
            slm_samples_end(samples[i]);
}

static void words_are_there(void **state)
{
    (void)state;
    atomic_store(&slm_settings.sample_bytes, 4711);
    atomic_store(&slm_sample_counts.losses, 3);
    atomic_store(&slm_sample_counts.stack_losses, 5);
    take();
    atomic_store(&slm_settings.sample_bytes, 0);
    assert_memory_equal(inspect()->magic, SLM_INSPECT_MAGIC, 8);
    assert_int_equal(inspect()->version, SLM_INSPECT_VERSION);
    assert_int_equal(inspect()->bytes, sizeof slab_inspect);
    assert_string_equal(inspect()->library_version, SLAB_VERSION_STRING);
    assert_int_equal(number_at(inspect()->sample_bytes), 4711);
    assert_int_equal(counts_in_dump()->losses, 3);
    assert_int_equal(counts_in_dump()->stack_losses, 5);
    assert_int_equal(number_at(inspect()->used_bytes) - number_at(inspect()->used_bytes + 1), slm_demand_used());
    assert_null(inspect()->mailbox);
    assert_int_equal(inspect()->classes, SLM_CLASSES);
    assert_memory_equal(must_lie(inspect()->class_sizes, sizeof slm_class_size), slm_class_size,
                        sizeof slm_class_size);
}

static const char *cache_name_in_dump(unsigned id)
{
    const uint64_t address = id < inspect()->cache_ids ? number_at((const uint64_t *)inspect()->caches + id) : 0;
    return address ? must_lie((const void *)(uintptr_t)(address + inspect()->cache_name_offset), SLM_CACHE_NAME_BYTES)
                   : NULL;
}

static void caches_have_names(void **state)
{
    (void)state;
    enum { CACHES = 200 };
    slab_cache *caches[CACHES];
    char name[100];
    const struct slab_cache_attr apart = {.flags = SLAB_NO_MERGE};
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    for (unsigned i = 0; i < CACHES; i++)
        require((caches[i] = slab_cache_create(i ? text("cache-%u", i) : name, 100, &apart)) != NULL);
    for (unsigned i = 1; i < CACHES; i += 3)
        require(slab_cache_destroy(caches[i]) == 0);
    take();
    unsigned named = 0;
    for (unsigned id = 0; id < inspect()->cache_ids; id++) {
        const struct slm_cache *cache = id < SLM_CLASSES ? NULL : load_relaxed(&slm_caches[id]);
        assert_int_equal(cache_name_in_dump(id) != NULL, cache != NULL);
        if (cache) {
            assert_string_equal(cache_name_in_dump(id), slm_cache_own(cache)->name);
            named++;
        }
    }
    assert_int_equal(named, CACHES - (CACHES + 1) / 3);
    assert_null(cache_name_in_dump(inspect()->cache_ids));
    for (unsigned i = 0; i < CACHES; i++)
        if (i % 3 != 1)
            require(slab_cache_destroy(caches[i]) == 0);
}

/* A slow reader may see many of these. */
static uint32_t old_stack, new_stack, free_record, new_record, ended_record, kept_record, late_record;

static void come_in_between(void)
{
    new_stack = intern(5000, 9); /* at the head of a list that the dump has */
    new_record = add(70, new_stack);
    slm_samples_end(ended_record);
    late_record = add(71, old_stack);
    require(late_record == ended_record);
    add(72, old_stack); /* has a new record */
    for (unsigned i = 0; i < 100; i++)
        intern(6000 + i, i);
}

static void what_comes_in_between_is_left_out(void **state)
{
    (void)state;
    old_stack = intern(5000 - 37, 20);
    free_record = add(60, old_stack);
    ended_record = add(61, old_stack);
    kept_record = add(62, old_stack);
    while (load_relaxed(&slm_sample_counts.top) > kept_record) { /* all others are in use */
        kept_record = add(62, old_stack);
    }
    slm_samples_end(free_record);
    in_between = come_in_between;
    take();
    assert_int_equal(new_record, free_record);
    assert_null(stack_in_dump(new_stack, slm_stack_of(new_stack)->hash));
    require_stack(old_stack);
    assert_int_equal(load_relaxed(&sample_in_dump(new_record)->object), 0);
    assert_int_equal(load_relaxed(&sample_in_dump(late_record)->object), 71);
    assert_int_equal(load_relaxed(&sample_in_dump(kept_record)->object), 62);
    take();
    require_stack(new_stack);
    assert_int_equal(load_relaxed(&sample_in_dump(new_record)->object), 70);
}

static void a_record_that_changes_all_the_time_is_torn(void **state)
{
    (void)state;
    const uint32_t index = add(80, 0);
    struct slm_sample *sample = slm_samples_at(index);
    add_relaxed(&sample->serial, 1);
    take();
    assert_int_equal(load_relaxed(&sample_in_dump(index)->serial) % 2, 1);
    add_relaxed(&sample->serial, 1);
    take();
    assert_int_equal(load_relaxed(&sample_in_dump(index)->serial) % 2, 0);
    assert_int_equal(load_relaxed(&sample_in_dump(index)->object), 80);
    slm_samples_end(index);
}

/* -- mappings ---------------------------------------------------------------------------------------------------- */

struct sought {
    const char *name;      /* what files' names end with */
    uint64_t start;        /* of one, or 0: of any */
    unsigned found, notes; /* mappings; notes of such */
    pid_t pid;
};

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), more = strlen(end);
    return length >= more && strcmp(text + length - more, end) == 0;
}

static void look_at_note(const Elf64_Nhdr *note, const char *bytes, void *context)
{
    struct sought *sought = context;
    if (note->n_type == NT_PRPSINFO) {
        prpsinfo_t info;
        require(note->n_descsz == sizeof info);
        memcpy(&info, bytes, sizeof info);
        sought->pid = info.pr_pid;
        require(strcmp(info.pr_fname, "test_dump") == 0);
    }
    if (note->n_type != NT_FILE)
        return;
    uint64_t head[2], row[3];
    memcpy(head, bytes, sizeof head);
    sought->notes++;
    require(head[0] > 0 && head[1] == PAGE);
    const char *name = bytes + sizeof head + head[0] * sizeof row, *end = bytes + note->n_descsz;
    for (uint64_t i = 0; i < head[0]; i++, name += strlen(name) + 1) {
        memcpy(row, bytes + sizeof head + i * sizeof row, sizeof row);
        require(row[0] < row[1] && name[0] == '/' && memchr(name, 0, (size_t)(end - name)));
        sought->found += ends_with(name, sought->name) && (!sought->start || sought->start == row[0]);
    }
    require(name == end);
}

static struct sought seek(const char *name, const void *start)
{
    struct sought sought = {.name = name, .start = (uintptr_t)start};
    each_note(look_at_note, &sought);
    return sought;
}

static void the_process_and_its_program_are_there(void **state)
{
    (void)state;
    take();
    const struct sought sought = seek("/test_dump", NULL);
    assert_int_equal(sought.pid, getpid());
    assert_true(sought.found > 1);
    assert_int_equal(sought.notes, 1);
    extern const char __ehdr_start[PAGE];
    assert_memory_equal(must_lie(__ehdr_start, PAGE), __ehdr_start, PAGE);
}

enum { FILES = 2500 };
static char *many;
static char many_name[] = "/tmp/slabmalloc-test_dump-XXXXXX\nline";

/* So many mappings, which the kernel cannot join. */
static void map_files(unsigned from, unsigned to)
{
    const int file = open(many_name, O_RDWR | O_CREAT, 0600);
    require(file >= 0 && ftruncate(file, 2 * PAGE) == 0);
    for (unsigned i = from; i < to; i++)
        require(mmap(many + (size_t)i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0) !=
                MAP_FAILED);
    close(file);
    unlink(many_name);
}

static void map_a_few_more(void)
{
    map_files(FILES, FILES + 20);
}

static void map_many_more(void)
{
    map_files(0, FILES);
}

static void give_room(void)
{
    many = mmap(NULL, (size_t)(FILES + 20) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(many != MAP_FAILED);
}

/* More than a note holds; and some that are new the second time. */
static void all_files_are_there(void **state)
{
    (void)state;
    give_room();
    map_files(0, FILES);
    in_between = map_a_few_more;
    take();
    const struct sought sought = seek("\nline (deleted)", NULL);
    assert_int_equal(sought.found, FILES + 20);
    assert_true(sought.notes > 1);
    munmap(many, (size_t)(FILES + 20) * PAGE);
}

/* They may be left out, but nothing else suffers. */
static void many_files_in_between_harm_nothing(void **state)
{
    (void)state;
    const uint32_t index = add(90, 0);
    give_room();
    in_between = map_many_more;
    take();
    assert_true(seek("\nline (deleted)", NULL).found > 0);
    assert_int_equal(load_relaxed(&sample_in_dump(index)->object), 90);
    munmap(many, (size_t)(FILES + 20) * PAGE);
    slm_samples_end(index);
}

static char *code;

static void map_code(void)
{
    const int file = open("/proc/self/exe", O_RDONLY);
    code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    require(code != MAP_FAILED);
    close(file);
}

static void unmap_code(void)
{
    munmap(code, PAGE);
}

static void a_file_that_goes_leaves_zeros(void **state)
{
    (void)state;
    map_code();
    take();
    assert_memory_equal(must_lie(code, PAGE), code, PAGE);
    in_between = unmap_code;
    take();
    assert_true(all_zero(must_lie(code, PAGE), PAGE));
}

/* -- what cannot be ---------------------------------------------------------------------------------------------- */

static int write_to(const char *path)
{
    const int file = open(path, O_WRONLY);
    require(file >= 0);
    const int error = slm_dump_write(file, &slab_inspect);
    close(file);
    return error;
}

static void what_cannot_be_written_is_told(void **state)
{
    (void)state;
    errno = 4711;
    assert_int_equal(slm_dump_write(-1, &slab_inspect), EBADF);
    assert_int_equal(slm_dump_write(STDIN_FILENO + 900, &slab_inspect), EBADF);
    assert_int_equal(write_to("/dev/full"), ENOSPC);
    assert_int_equal(write_to("/dev/null"), 0);
    assert_int_equal(errno, 4711);
}

static void dump_without_memory(void)
{
    forbid_memory();
    require(slm_dump_write(STDERR_FILENO, &slab_inspect) == ENOMEM);
}

static void dump_without_files(void)
{
    refuse_call(SYS_openat, EACCES, 0);
    require(slm_dump_write(STDERR_FILENO, &slab_inspect) == ENOENT);
}

static void without_memory_or_files_nothing_is_written(void **state)
{
    (void)state;
    assert_child_silent(dump_without_memory);
    assert_child_silent(dump_without_files);
}

static volatile size_t stack_used;

static void measure(int number)
{
    enum { ROOM = 32 << 10, PROMISED = 4096 };
    volatile char *here = __builtin_frame_address(0);
    (void)number;
    for (size_t i = 256; i < ROOM; i++) /* below what this function has itself */
        here[-(ptrdiff_t)i] = 0x55;
    const int file = open("/dev/null", O_WRONLY);
    require(slm_dump_write(file, &slab_inspect) == 0);
    close(file);
    size_t used = ROOM - 1;
    while (used > 256 && here[-(ptrdiff_t)used] == 0x55)
        used--;
    stack_used = used;
}

static void little_stack_is_needed(void **state)
{
    (void)state;
    char *room = malloc(100000);
    const stack_t stack = {.ss_sp = room, .ss_size = 100000};
    struct sigaction action = {.sa_handler = measure, .sa_flags = SA_ONSTACK};
    require(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    raise(SIGUSR1);
    require(sigaltstack(&(const stack_t){.ss_flags = SS_DISABLE}, NULL) == 0);
    free(room);
    assert_in_range(stack_used, 500, 4096);
}

/* Stacks may have a 1024th of what is in use. */
static int start_with_room(void **state)
{
    char *volatile room = malloc(512 * MIB);
    return room ? start_library(state) : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_and_their_stacks_are_there),
        cmocka_unit_test(words_are_there),
        cmocka_unit_test(caches_have_names),
        cmocka_unit_test(what_comes_in_between_is_left_out),
        cmocka_unit_test(a_record_that_changes_all_the_time_is_torn),
        cmocka_unit_test(the_process_and_its_program_are_there),
        cmocka_unit_test(all_files_are_there),
        cmocka_unit_test(many_files_in_between_harm_nothing),
        cmocka_unit_test(a_file_that_goes_leaves_zeros),
        cmocka_unit_test(what_cannot_be_written_is_told),
        cmocka_unit_test(without_memory_or_files_nothing_is_written),
        cmocka_unit_test(little_stack_is_needed),
    };
    return cmocka_run_group_tests(tests, start_with_room, NULL);
}
