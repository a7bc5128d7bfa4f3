/* A process whose samples and call stacks lie. For each number that it reads it makes others, from that seed, and
 * says "ready". They look like what the library has, as otherwise little of slabctl would be reached: most fields
 * of most records are as they should be, and the others are anything. test_slabctl_profile.py lets the tool loose
 * on it. Its argument is a file that it maps as code; with a second one, it deletes that file then. */
#define slab_inspect slab_inspect_of_the_library /* declared const there */
#include "base/inspect.h"
#undef slab_inspect

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "random.h"

enum { ARENA = 8 << 20, STACKS_MOST = 60, LIVE_MOST = 500 };

struct slm_inspect inspect;
__asm__(".globl slab_inspect\n.set slab_inspect, inspect\n.type slab_inspect, @object\n.size slab_inspect, 256\n");

static unsigned char *arena; /* with nothing behind it */
static size_t used;
static uint64_t numbers[8], figures[4096] = {1 << 20}, chunks[SLM_SAMPLE_CHUNKS], buckets[SLM_STACK_BUCKETS];
static uint64_t buckets_at, caches[64];
static uint16_t class_sizes[128];

/* Rarely, and in some seeds more often. */
static unsigned evil;

static uint64_t file_start, file_bytes;

static bool lies(void)
{
    return random_below(1000) < evil;
}

static uint64_t code_address(void)
{
    if (file_start && random_below(4))
        return file_start + random_below(file_bytes);
    static void *const functions[] = {printf, malloc, memcpy, qsort, random64, random_below, abort, fgets};
    return (uint64_t)(uintptr_t)functions[random_below(sizeof functions / sizeof *functions)] + random_below(256);
}

static uint64_t anything(void)
{
    static const uint64_t edges[] = {0, 1, 2, 63, 64, 4096, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    switch (random_below(5)) {
    case 0:
        return edges[random_below(sizeof edges / sizeof *edges)] + random_below(3) - 1;
    case 1:
        return random64();
    case 2:
        return (uint64_t)(uintptr_t)arena + random_below(ARENA + 4096);
    case 3:
        return code_address();
    default:
        return random64() >> random_below(64);
    }
}

static uint64_t or_lie(uint64_t truth)
{
    return lies() ? anything() : truth;
}

/* In the arena; at its very end now and then. */
static void *piece(size_t bytes)
{
    if (lies())
        return arena + ARENA - (bytes > 64 ? bytes / 2 : bytes);
    bytes = (bytes + 7) / 8 * 8;
    if (used + bytes > ARENA)
        used = 0;
    void *start = arena + used;
    used += bytes;
    return start;
}

static uint64_t stack_make(uint64_t next, unsigned number, uint32_t bucket)
{
    unsigned words = (unsigned)random_below(lies() ? 2000 : 120), registers = SLM_STACK_REGISTERS;
    size_t bytes = sizeof(struct slm_stack) + (registers + words) * 8 + words * 2;
    struct slm_stack *stack = piece(bytes);
    if ((unsigned char *)stack + bytes > arena + ARENA)
        return (uintptr_t)stack;
    memset(stack, 0, bytes);
    bool image = random_below(4) != 0;
    uint32_t covered = 16 << 10;
    for (unsigned i = 0; i < registers + words; i++)
        stack->values[i] = or_lie(random_below(2) ? code_address() : random_below(covered));
    uint16_t *offsets = (void *)(stack->values + registers + words);
    for (unsigned i = 0; image && i < words; i++)
        offsets[i] = (uint16_t)(lies() ? random64() : (i * 3 % 2048) | (random_below(2) ? SLM_STACK_RELATIVE : 0));
    stack->kind = (uint8_t)or_lie(image ? SLM_STACK_IMAGE : SLM_STACK_FRAMES);
    stack->registers = (uint8_t)or_lie(image ? registers : 0);
    stack->words = (uint16_t)or_lie(words + (image ? 0 : registers));
    stack->relative = (uint32_t)or_lie(image ? random_below(128) : 0);
    stack->covered = (uint32_t)or_lie(covered);
    stack->cut = (uint32_t)or_lie(random_below(2));
    stack->hash = (uint32_t)or_lie(bucket + SLM_STACK_BUCKETS * random_below(1000));
    stack->number = (uint32_t)or_lie(number);
    stack->samples = or_lie(random_below(100));
    stack->objects_1024 = or_lie(random_below(1 << 30));
    stack->bytes = or_lie(random_below((uint64_t)1 << 40));
    stack->next = lies() ? (random_below(2) ? (uintptr_t)stack : anything()) : next;
    return (uintptr_t)stack;
}

static void stacks_make(void)
{
    memset(buckets, 0, sizeof buckets);
    for (unsigned i = 1; i <= 1 + random_below(STACKS_MOST); i++) {
        uint32_t bucket = (uint32_t)random_below(8);
        buckets[bucket] = stack_make(buckets[bucket], i, bucket);
    }
    for (unsigned i = 0; i < SLM_STACK_BUCKETS; i++)
        if (random_below(1 << 20) < evil)
            buckets[i] = anything();
}

static void samples_make(void)
{
    static const uint64_t sizes[] = {0, 1, 16, 48, 4096, 1 << 20, 64 << 20};
    uint32_t index = 0;
    unsigned live = (unsigned)random_below(LIVE_MOST);
    memset(chunks, 0, sizeof chunks);
    for (unsigned c = 0; c < SLM_SAMPLE_CHUNKS && index < live; c++) {
        uint64_t count = slm_samples_in(c);
        struct slm_sample *records = piece(count * sizeof *records);
        bool fits = (unsigned char *)(records + count) <= arena + ARENA;
        for (unsigned i = 0; fits && i < count; i++) {
            uint64_t size = sizes[random_below(sizeof sizes / sizeof *sizes)];
            records[i] = (struct slm_sample){
                .object = random_below(4) ? 16 * (index + i + 1) : 0,
                .asked = or_lie(size),
                .weighed = (uint32_t)or_lie(size),
                .given = or_lie(size),
                .mean = or_lie(2 << 20),
                .time_ns = or_lie((uint64_t)clock() * 1000),
                .stack = (uint32_t)or_lie(random_below(STACKS_MOST)),
                .cache = (uint16_t)(random_below(8) ? or_lie(random_below(64)) : SLM_SAMPLE_LARGE),
                .serial = (uint32_t)or_lie(2)};
        }
        chunks[c] = or_lie((uintptr_t)records);
        index += (uint32_t)count;
    }
    numbers[1] = or_lie(index);
}

static void caches_make(void)
{
    for (unsigned i = 0; i < sizeof class_sizes / sizeof *class_sizes; i++)
        class_sizes[i] = (uint16_t)or_lie(16 * i);
    for (unsigned i = 0; i < sizeof caches / sizeof *caches; i++) {
        char *name = piece(72);
        if ((unsigned char *)name + 72 <= arena + ARENA)
            snprintf(name, 72, lies() ? "\033[31m%u%*s" : "cache%u%*s", i, (int)random_below(60), "x");
        caches[i] = or_lie((uintptr_t)name - 8);
    }
}

static void inspect_make(uint64_t seed)
{
    chance.state = seed;
    evil = (unsigned)(random_below(3) ? random_below(20) : random_below(300));
    used = 0;
    stacks_make();
    samples_make();
    caches_make();
    numbers[0] = or_lie(2 << 20);
    numbers[2] = or_lie(0);
    numbers[3] = or_lie(0);
    buckets_at = or_lie((uintptr_t)buckets);
    inspect = (struct slm_inspect){.version = SLM_INSPECT_VERSION, .bytes = sizeof inspect};
    memcpy(inspect.magic, SLM_INSPECT_MAGIC, sizeof inspect.magic);
    memcpy(inspect.library_version, "hostile\033[31m-no-end", sizeof inspect.library_version);
    inspect.sample_bytes = (const void *)(uintptr_t)or_lie((uintptr_t)&numbers[0]);
    inspect.sample_chunks = (const void *)(uintptr_t)or_lie((uintptr_t)chunks);
    inspect.sample_counts = (const void *)(uintptr_t)or_lie((uintptr_t)&numbers[1]);
    inspect.stack_buckets = (const void *)(uintptr_t)or_lie((uintptr_t)&buckets_at);
    inspect.caches = (const void *)(uintptr_t)or_lie((uintptr_t)caches);
    inspect.cache_ids = (uint32_t)or_lie(64);
    inspect.classes = (uint32_t)or_lie(32);
    inspect.class_sizes = (const void *)(uintptr_t)or_lie((uintptr_t)class_sizes);
    inspect.cache_name_offset = or_lie(8);
    inspect.used_bytes = (const void *)figures;
}

static void file_map(const char *name, bool gone)
{
    struct stat stat_of;
    if (file_start)
        munmap((void *)(uintptr_t)file_start, file_bytes);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &stat_of) != 0)
        exit(1);
    file_bytes = (uint64_t)stat_of.st_size;
    void *start = mmap(NULL, file_bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    if (start == MAP_FAILED)
        exit(1);
    file_start = (uintptr_t)start;
    close(file);
    if (gone && unlink(name) != 0)
        exit(1);
}

int main(int argc, char **argv)
{
    arena = mmap(NULL, ARENA + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || munmap(arena + ARENA, 65536) != 0)
        return 1;
    inspect_make(1);
    puts("ready");
    fflush(stdout);
    for (char line[64]; fgets(line, sizeof line, stdin);) {
        if (argc > 1)
            file_map(argv[1], argc > 2);
        inspect_make(strtoull(line, NULL, 10));
        puts("ready");
        fflush(stdout);
    }
    return 0;
}
