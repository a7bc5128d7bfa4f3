/* Looking, laying out, writing; see dump.h. */
#include "inspect/dump.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/procfs.h>

#include "base/bits.h"
#include "base/call.h"
#include "base/options.h"
#include "base/panic.h"
#include "depot/cache.h"
#include "os/sys.h"
#include "os/vm.h"
#include "sample/samples.h"
#include "sample/stacks.h"

enum {
    PAGE = 4096,       /* of a file, its first bytes: no kernel has smaller pages */
    PAGES_MOST = 1024, /* more files' first pages are left out, */
    CODES_MOST = 1024, /* and that more mappings are executable */
    ROWS_MOST = 1024,  /* of an NT_FILE note; most processes have one note */
    NAMES_MOST = 48 << 10,
    LINE_MOST = 2048, /* of /proc/self/maps, as slm_sys_each_line has it */
    TEXT = 16 << 10,
};

/* What the pointers of slab_inspect to single words point to. */
struct words {
    struct slm_sample_counts counts;
    uint64_t sample_bytes, taken, dropped, buckets;
};

/* Addresses in the dump. */
struct places {
    uint64_t words, chunks, sizes, caches, names, buckets, stacks, samples, end;
};

/* A dump that is being written, in a mapping of its own: a signal handler may have little stack. */
struct dump {
    int descriptor, error;
    bool counts;      /* nothing is written yet: what would be is counted */
    uint64_t written; /* bytes, with those that are held in `text` */
    uint64_t notes_end;
    const struct slm_inspect *inspect;
    struct places places;
    uint32_t samples, caches, pages, codes;
    /* The last mapping that may be the first of a program or library */
    uint64_t first, first_device, first_inode;
    size_t rows, names; /* of the note at hand; bytes of names */
    uint64_t row[ROWS_MOST][3];
    char name[NAMES_MOST];
    uint64_t page[PAGES_MOST]; /* addresses of files' first pages */
    uint64_t code[CODES_MOST][2];
    uint64_t head[SLM_STACK_BUCKETS];
    size_t held;
    char text[TEXT];
};
static_assert(sizeof(struct dump) <= 128 << 10, "as it is promised");

/* -- writing ----------------------------------------------------------------------------------------------------- */

static slm_seldom void flush(struct dump *dump)
{
    if (dump->error == 0 && dump->held > 0)
        dump->error = slm_write_all(dump->descriptor, dump->text, dump->held);
    dump->held = 0;
}

/* NULL: zeros. */
static slm_seldom void put(struct dump *dump, const void *bytes, uint64_t count)
{
    const char *from = bytes;
    dump->written += count;
    while (!dump->counts && count > 0) {
        const size_t part = slm_min(count, sizeof dump->text - dump->held);
        if (from) {
            memcpy(dump->text + dump->held, from, part);
            from += part;
        } else {
            memset(dump->text + dump->held, 0, part);
        }
        dump->held += part;
        count -= part;
        if (dump->held == sizeof dump->text)
            flush(dump);
    }
}

static slm_seldom void put_number(struct dump *dump, uint64_t number)
{
    put(dump, &number, sizeof number);
}

/* Memory that another thread may unmap: the kernel reads it, and zeros stand for what is not there any more. */
static slm_seldom void put_foreign(struct dump *dump, uint64_t address, uint64_t count)
{
    flush(dump);
    while (dump->error == 0 && count > 0) {
        const long wrote = slm_call(SYS_write, dump->descriptor, address, count);
        if (wrote == -EFAULT)
            break;
        if (wrote <= 0 && wrote != -EINTR)
            dump->error = wrote < 0 ? (int)-wrote : EIO;
        if (wrote > 0) {
            address += (uint64_t)wrote;
            count -= (uint64_t)wrote;
            dump->written += (uint64_t)wrote;
        }
    }
    put(dump, NULL, count);
}

/* -- notes ------------------------------------------------------------------------------------------------------- */

static const char core_name[8] = "CORE";

/* The desc follows, and zeros up to a multiple of 4. */
static slm_seldom void put_note_head(struct dump *dump, uint32_t type, uint64_t bytes)
{
    const Elf64_Nhdr head = {.n_namesz = sizeof "CORE", .n_descsz = (uint32_t)bytes, .n_type = type};
    put(dump, &head, sizeof head);
    put(dump, core_name, sizeof core_name);
}

enum { NOTE_HEAD = sizeof(Elf64_Nhdr) + sizeof core_name };

static slm_seldom void put_process(struct dump *dump)
{
    prpsinfo_t info = {.pr_pid = (pid_t)slm_call(SYS_getpid)};
    if (slm_sys_read_file("/proc/self/comm", info.pr_fname, sizeof info.pr_fname))
        info.pr_fname[strcspn(info.pr_fname, "\n")] = 0;
    put_note_head(dump, NT_PRPSINFO, sizeof info);
    put(dump, &info, slm_align_up(sizeof info, 4));
}
static_assert(sizeof(prpsinfo_t) % 4 == 0, "nothing lies behind it");

static slm_seldom uint64_t file_note_bytes(const struct dump *dump)
{
    return 2 * sizeof(uint64_t) + dump->rows * sizeof dump->row[0] + dump->names;
}

/* Count and page size; start, end and offset of each, in pages; their names. */
static slm_seldom void put_files(struct dump *dump)
{
    const uint64_t bytes = file_note_bytes(dump);
    if (dump->rows == 0)
        return;
    put_note_head(dump, NT_FILE, bytes);
    put_number(dump, dump->rows);
    put_number(dump, PAGE);
    put(dump, dump->row, dump->rows * sizeof dump->row[0]);
    put(dump, dump->name, dump->names);
    put(dump, NULL, slm_align_up(bytes, 4) - bytes);
    dump->rows = dump->names = 0;
}

/* What is left of the room is a note that means nothing to anybody. */
static slm_seldom void put_filler(struct dump *dump)
{
    const uint64_t bytes = dump->notes_end - dump->written - NOTE_HEAD;
    put_note_head(dump, 0, bytes);
    put(dump, NULL, bytes);
}

/* -- mappings ---------------------------------------------------------------------------------------------------- */

/* A hexadecimal number, and what stands behind it; a decimal one is read as one, which does to compare it. */
static slm_seldom uint64_t read_number(const char **at)
{
    uint64_t number = 0;
    for (;; ++*at) {
        const char c = **at;
        if (c >= '0' && c <= '9')
            number = number << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            number = number << 4 | (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    *at += **at != 0;
    return number;
}

/* The kernel writes a newline in a path as \012. The room is there. */
static slm_seldom void add_name(struct dump *dump, const char *path)
{
    char *to = dump->name + dump->names;
    while (*path) {
        const bool newline = strncmp(path, "\\012", 4) == 0;
        *to++ = newline ? '\n' : *path;
        path += newline ? 4 : 1;
    }
    *to++ = 0;
    dump->names = (size_t)(to - dump->name);
}

/* Is there still room behind the next row for the note that fills the rest? */
static slm_seldom bool row_fits(const struct dump *dump, size_t name_bytes)
{
    const uint64_t more = NOTE_HEAD + sizeof dump->row[0] + name_bytes + 4;
    return dump->counts || dump->written + NOTE_HEAD + file_note_bytes(dump) + more <= dump->notes_end;
}

/* A program or library is mapped from its first byte on, and some of it is code. */
static slm_seldom void note_first(struct dump *dump, uint64_t address, uint64_t device, uint64_t inode)
{
    dump->first = address;
    dump->first_device = device;
    dump->first_inode = inode;
}

static slm_seldom void note_code(struct dump *dump, uint64_t start, uint64_t end, uint64_t device, uint64_t inode)
{
    if (dump->first && device == dump->first_device && inode == dump->first_inode && dump->pages < PAGES_MOST) {
        dump->page[dump->pages++] = dump->first;
        start += start == dump->first ? PAGE : 0; /* a mapping lies in one segment */
    }
    dump->first = 0;
    if (start < end && dump->codes < CODES_MOST)
        memcpy(dump->code[dump->codes++], (const uint64_t[]){start, end}, sizeof dump->code[0]);
}

/* START-END RIGHTS OFFSET MAJOR:MINOR INODE PATH */
static slm_seldom void add_mapping(char *line, void *context) /* NOLINT(readability-non-const-parameter) */
{
    struct dump *dump = context;
    const char *at = line;
    const uint64_t start = read_number(&at), end = read_number(&at);
    const char *rights = at;
    at += strcspn(at, " ");
    at += *at != 0;
    const uint64_t offset = read_number(&at), major = read_number(&at), device = major << 32 | read_number(&at);
    const uint64_t inode = read_number(&at);
    while (*at == ' ') /* a name from libc would cost a page of every process's tables */
        at++;
    const size_t name_bytes = strlen(at) + 1;
    if (*at != '/' || start >= end)
        return;
    if (dump->counts && offset == 0 && rights[0] == 'r')
        note_first(dump, start, device, inode);
    if (dump->counts && rights[2] == 'x')
        note_code(dump, start, end, device, inode);
    if (dump->rows == ROWS_MOST || dump->names + name_bytes > NAMES_MOST)
        put_files(dump);
    if (!row_fits(dump, name_bytes))
        return;
    memcpy(dump->row[dump->rows++], (const uint64_t[]){start, end, offset / PAGE}, sizeof dump->row[0]);
    add_name(dump, at);
}

static slm_seldom bool put_mappings(struct dump *dump)
{
    const bool read = slm_sys_each_line("/proc/self/maps", add_mapping, dump);
    put_files(dump);
    return read;
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

static slm_seldom const struct slm_stack *stack_at(uint64_t address)
{
    return (const struct slm_stack *)(uintptr_t)address;
}

static slm_seldom uint64_t stack_bytes(const struct slm_stack *stack)
{
    return slm_align_up(offsetof(struct slm_stack, values) + slm_stack_value_bytes(stack), sizeof(uint64_t));
}

static slm_seldom uint64_t list_bytes(uint64_t at)
{
    uint64_t bytes = 0;
    for (; at; at = stack_at(at)->next)
        bytes += stack_bytes(stack_at(at));
    return bytes;
}

/* Returns how many bytes all stacks have. From here on they are those of `head`. */
static slm_seldom uint64_t look_at_stacks(struct dump *dump)
{
    _Atomic uint64_t *table = load_acquire(&slm_stacks_buckets); /* pairs with make_buckets */
    uint64_t bytes = 0;
    for (unsigned i = 0; table && i < SLM_STACK_BUCKETS; i++) {
        dump->head[i] = load_acquire(&table[i]); /* pairs with slm_stacks_intern */
        bytes += list_bytes(dump->head[i]);
    }
    return bytes;
}

static slm_seldom void lay_out(struct dump *dump)
{
    const uint64_t stacks = look_at_stacks(dump);
    struct places *places = &dump->places;
    dump->samples = load_acquire(&slm_sample_counts.top); /* pairs with take_new: the chunks are there */
    for (unsigned id = SLM_CLASSES; id < SLM_CACHE_IDS; id++)
        if (load_relaxed(&slm_caches[id]))
            dump->caches = id + 1;
    places->words = SLM_DUMP_BASE;
    places->chunks = places->words + sizeof(struct words);
    places->sizes = places->chunks + SLM_SAMPLE_CHUNKS * sizeof(uint64_t);
    places->caches = places->sizes + slm_align_up(sizeof slm_class_size, sizeof(uint64_t));
    places->names = places->caches + dump->caches * sizeof(uint64_t);
    places->buckets = places->names + (uint64_t)dump->caches * SLM_CACHE_NAME_BYTES;
    places->stacks = places->buckets + SLM_STACK_BUCKETS * sizeof(uint64_t);
    places->samples = places->stacks + stacks;
    places->end = places->samples + (uint64_t)dump->samples * sizeof(struct slm_sample);
}

/* -- samples ----------------------------------------------------------------------------------------------------- */

static slm_seldom void put_words(struct dump *dump)
{
    struct words words = {
        .sample_bytes = slm_setting(sample_bytes),
        .counts = {.top = dump->samples,
                   .longest_mean_kib = load_relaxed(&slm_sample_counts.longest_mean_kib),
                   .losses = load_relaxed(&slm_sample_counts.losses),
                   .stack_losses = load_relaxed(&slm_sample_counts.stack_losses),
                   .gaps = load_relaxed(&slm_sample_counts.gaps)},
        .taken = load_relaxed(&slm_demand_sums.taken),
        .dropped = load_relaxed(&slm_demand_sums.dropped),
        .buckets = dump->places.buckets,
    };
    put(dump, &words, sizeof words);
}

/* They are chunk behind chunk. */
static slm_seldom void put_chunks(struct dump *dump)
{
    uint64_t first = 0;
    for (unsigned i = 0; i < SLM_SAMPLE_CHUNKS; i++) {
        put_number(dump, first < dump->samples ? dump->places.samples + first * sizeof(struct slm_sample) : 0);
        first += slm_samples_in(i);
    }
}

static slm_seldom void put_sizes(struct dump *dump)
{
    put(dump, slm_class_size, sizeof slm_class_size);
    put(dump, NULL, slm_align_up(sizeof slm_class_size, sizeof(uint64_t)) - sizeof slm_class_size);
}

static slm_seldom void put_caches(struct dump *dump)
{
    for (unsigned id = 0; id < dump->caches; id++) {
        const bool there = id >= SLM_CLASSES && load_relaxed(&slm_caches[id]);
        put_number(dump, there ? dump->places.names + (uint64_t)id * SLM_CACHE_NAME_BYTES : 0);
    }
}

/* A cache that is destroyed keeps its memory (depot/cache.h), and another may be just about to have it. */
static slm_seldom slm_unordered void copy_name(char *to, const struct slm_cache *cache)
{
    const volatile char *from = slm_cache_own(cache)->name;
    for (unsigned i = 0; i < SLM_CACHE_NAME_BYTES - 1; i++)
        to[i] = from[i];
}

static slm_seldom void put_names(struct dump *dump)
{
    for (unsigned id = 0; id < dump->caches; id++) {
        char name[SLM_CACHE_NAME_BYTES] = {0};
        const struct slm_cache *cache = id >= SLM_CLASSES ? load_relaxed(&slm_caches[id]) : NULL;
        if (cache)
            copy_name(name, cache);
        put(dump, name, sizeof name);
    }
}

static slm_seldom void put_buckets(struct dump *dump)
{
    uint64_t at = dump->places.stacks;
    for (unsigned i = 0; i < SLM_STACK_BUCKETS; i++) {
        put_number(dump, dump->head[i] ? at : 0);
        at += list_bytes(dump->head[i]);
    }
}

/* Counts change meanwhile. */
static slm_seldom slm_unordered void copy_head(uint64_t *to, const struct slm_stack *stack)
{
    const volatile uint64_t *from = (const volatile uint64_t *)(const volatile void *)stack;
    for (unsigned i = 0; i < offsetof(struct slm_stack, values) / sizeof *from; i++)
        to[i] = from[i];
}

static slm_seldom void put_stacks(struct dump *dump)
{
    uint64_t behind = dump->places.stacks;
    for (unsigned i = 0; i < SLM_STACK_BUCKETS && dump->error == 0; i++)
        for (uint64_t at = dump->head[i]; at; at = stack_at(at)->next) {
            const struct slm_stack *stack = stack_at(at);
            const uint64_t bytes = stack_bytes(stack), values = slm_stack_value_bytes(stack);
            struct slm_stack head;
            copy_head((uint64_t *)(void *)&head, stack);
            behind += bytes;
            head.next = stack->next ? behind : 0;
            put(dump, &head, offsetof(struct slm_stack, values));
            put(dump, stack->values, values);
            put(dump, NULL, bytes - offsetof(struct slm_stack, values) - values);
        }
}

static slm_seldom bool has_stack(const struct dump *dump, uint32_t number)
{
    const struct slm_stack *wanted = slm_stack_of(number);
    uint64_t at = dump->head[wanted->hash % SLM_STACK_BUCKETS];
    while (at && stack_at(at) != wanted)
        at = stack_at(at)->next;
    return at != 0;
}

static slm_seldom void put_samples(struct dump *dump)
{
    for (uint32_t index = 1; index <= dump->samples && dump->error == 0; index++) {
        struct slm_sample sample;
        if (!slm_samples_copy(index, &sample))
            store_relaxed(&sample.serial, load_relaxed(&sample.serial) | 1); /* torn, for who reads it */
        else if (load_relaxed(&sample.object) == 0 || (sample.stack != 0 && !has_stack(dump, sample.stack)))
            memset((void *)&sample, 0, sizeof sample);
        put(dump, &sample, sizeof sample);
    }
}

/* -- the file ---------------------------------------------------------------------------------------------------- */

/* All pointers are of the dump. Its reader commands nobody: there is no mailbox. */
static slm_seldom void put_inspect(struct dump *dump)
{
    const struct places *places = &dump->places;
    const uint64_t words = places->words;
    const struct slm_inspect inspect = {
        .magic = SLM_INSPECT_MAGIC,
        .version = SLM_INSPECT_VERSION,
        .bytes = sizeof inspect,
        .library_version = SLAB_VERSION_STRING,
        .sample_bytes = (const void *)(uintptr_t)(words + offsetof(struct words, sample_bytes)),
        .sample_chunks = (const void *)(uintptr_t)places->chunks,
        .sample_counts = (const void *)(uintptr_t)(words + offsetof(struct words, counts)),
        .stack_buckets = (const void *)(uintptr_t)(words + offsetof(struct words, buckets)),
        .caches = (const void *)(uintptr_t)places->caches,
        .cache_ids = dump->caches,
        .classes = SLM_CLASSES,
        .class_sizes = (const void *)(uintptr_t)places->sizes,
        .used_bytes = (const void *)(uintptr_t)(words + offsetof(struct words, taken)),
    };
    put(dump, &inspect, sizeof inspect);
}

#ifdef __x86_64__
enum { MACHINE = EM_X86_64 };
#else
enum { MACHINE = EM_AARCH64 };
#endif
enum { ENCODING = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB };

/* It lies at the offset, and the next one behind it. */
static slm_seldom void put_segment(struct dump *dump, uint64_t *offset, Elf64_Phdr segment)
{
    segment.p_offset = *offset;
    segment.p_align = segment.p_type == PT_LOAD ? 1 : 4;
    put(dump, &segment, sizeof segment);
    *offset += segment.p_filesz;
}

static slm_seldom void put_memory(struct dump *dump, uint64_t *offset, uint64_t address, uint64_t bytes)
{
    put_segment(
        dump, offset,
        (Elf64_Phdr){.p_type = PT_LOAD, .p_flags = PF_R, .p_vaddr = address, .p_filesz = bytes, .p_memsz = bytes});
}

static slm_seldom void put_headers(struct dump *dump, uint64_t notes)
{
    const Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ENCODING, EV_CURRENT, ELFOSABI_NONE},
        .e_type = ET_CORE,
        .e_machine = MACHINE,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof header,
        .e_ehsize = sizeof header,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (Elf64_Half)(dump->pages + dump->codes + 3),
    };
    uint64_t offset = sizeof header + header.e_phnum * sizeof(Elf64_Phdr);
    put(dump, &header, sizeof header);
    dump->notes_end = offset + notes;
    put_segment(dump, &offset, (Elf64_Phdr){.p_type = PT_NOTE, .p_filesz = notes});
    for (uint32_t i = 0; i < dump->pages; i++)
        put_memory(dump, &offset, dump->page[i], PAGE);
    for (uint32_t i = 0; i < dump->codes; i++)
        put_segment(dump, &offset,
                    (Elf64_Phdr){.p_type = PT_LOAD,
                                 .p_flags = PF_R | PF_X,
                                 .p_vaddr = dump->code[i][0],
                                 .p_memsz = dump->code[i][1] - dump->code[i][0]});
    put_memory(dump, &offset, (uintptr_t)dump->inspect, sizeof *dump->inspect);
    put_memory(dump, &offset, SLM_DUMP_BASE, dump->places.end - SLM_DUMP_BASE);
}

/* How long notes are, with room for files that are mapped in between. */
static slm_seldom uint64_t count_notes(struct dump *dump)
{
    dump->counts = true;
    put_process(dump);
    const bool read = put_mappings(dump);
    const uint64_t counted = dump->written;
    dump->counts = false;
    dump->written = 0;
    return read ? slm_align_up(counted + counted / 8 + 4 * LINE_MOST, 64) : 0;
}

static slm_seldom void put_all(struct dump *dump)
{
    const uint64_t notes = count_notes(dump);
    if (notes == 0) {
        dump->error = ENOENT;
        return;
    }
    lay_out(dump);
    put_headers(dump, notes);
    put_process(dump);
    put_mappings(dump);
    put_filler(dump);
    for (uint32_t i = 0; i < dump->pages; i++)
        put_foreign(dump, dump->page[i], PAGE);
    put_inspect(dump);
    put_words(dump);
    put_chunks(dump);
    put_sizes(dump);
    put_caches(dump);
    put_names(dump);
    put_buckets(dump);
    put_stacks(dump);
    put_samples(dump);
    flush(dump);
}

slm_seldom int slm_dump_write(int descriptor, const struct slm_inspect *inspect)
{
    const size_t bytes = slm_align_up(sizeof(struct dump), slm_page_size);
    struct dump *dump = slm_vm_map_anywhere(bytes);
    if (!dump)
        return ENOMEM;
    dump->descriptor = descriptor;
    dump->inspect = inspect;
    put_all(dump);
    const int error = dump->error;
    slm_vm_unmap(dump, bytes, false);
    return error;
}
