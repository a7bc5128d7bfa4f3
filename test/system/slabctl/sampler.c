/* In the place of the library: objects that are sampled as it samples them, and what tools read of it. Nothing
 * here is the library's own code, so that tests of slabctl compare it with the contract (base/inspect.h).
 *
 * One thread. Samples are drawn from a seed, so that each run has the same ones. */
#define slab_inspect slab_inspect_of_the_library /* declared const there */
#include "base/inspect.h"
#undef slab_inspect

#include <link.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../chance.h"
#include "sampler.h"

enum { WINDOW = 16 << 10, WORDS_MOST = 512, CODE_MOST = 64, CHUNKS = 10, RECORDS = 49000 };

struct slm_inspect inspect;
__asm__(".globl slab_inspect\n.set slab_inspect, inspect\n.type slab_inspect, @object\n.size slab_inspect, 256\n");

uint64_t sampler_mean = 2 << 20;
static uint64_t mean_now = 2 << 20, used[2] = {1 << 20};
static struct slm_sample_counts counts;
static uint32_t free_records;
static uint64_t chunks[SLM_SAMPLE_CHUNKS];
static struct slm_sample *records;
static uint64_t *buckets;
static uint32_t stack_count;
static const uint16_t class_sizes[] = {8, 16, 48, 64, 1024, 32768};
static char caches[2][128] = {"", "....connection"};
static const void *cache_list[] = {NULL, NULL, NULL, NULL, NULL, NULL, caches[1]};
static struct chance chance = {1};

/* -- capturing ------------------------------------------------------------------------------------------------ */

static struct range {
    uintptr_t start, end;
} code[CODE_MOST];
static unsigned code_count;
static uintptr_t stack_end;

static int note_code(struct dl_phdr_info *info, size_t bytes, void *unused)
{
    (void)bytes, (void)unused;
    for (unsigned i = 0; i < info->dlpi_phnum && code_count < CODE_MOST; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD && header->p_flags & PF_X)
            code[code_count++] = (struct range){start, start + header->p_memsz};
    }
    return 0;
}

static bool is_code(uint64_t word)
{
    for (unsigned i = 0; i < code_count; i++)
        if (word - code[i].start < code[i].end - code[i].start)
            return true;
    return false;
}

static struct slm_stack *image_of(const uint64_t *registers, const uint64_t *pointer)
{
    static _Alignas(64) unsigned char room[sizeof(struct slm_stack) + (SLM_STACK_REGISTERS + WORDS_MOST) * 10];
    struct slm_stack *stack = (void *)room;
    memset(room, 0, sizeof room);
    uint64_t base = (uintptr_t)pointer;
    size_t bytes = stack_end - base < WINDOW ? stack_end - base : WINDOW;
    uint16_t offsets[WORDS_MOST];
    for (unsigned i = 0; i < SLM_STACK_REGISTERS; i++) {
        bool relative = registers[i] - base < bytes;
        stack->values[i] = relative ? registers[i] - base : is_code(registers[i]) ? registers[i] : 0;
        stack->relative |= (uint32_t)relative << i;
    }
    for (unsigned i = 0; i < bytes / 8 && stack->words < WORDS_MOST; i++) {
        bool relative = pointer[i] - base < bytes;
        if (!relative && !is_code(pointer[i]))
            continue;
        offsets[stack->words] = (uint16_t)(i | (relative ? SLM_STACK_RELATIVE : 0));
        stack->values[SLM_STACK_REGISTERS + stack->words++] = relative ? pointer[i] - base : pointer[i];
    }
    stack->kind = SLM_STACK_IMAGE;
    stack->registers = SLM_STACK_REGISTERS;
    stack->covered = (uint32_t)bytes;
    stack->cut = base + bytes < stack_end;
    memcpy(stack->values + SLM_STACK_REGISTERS + stack->words, offsets, stack->words * sizeof *offsets);
    return stack;
}

/* Not merged with others here: equal frames are the tool's to find. */
static struct slm_stack *stack_store(const struct slm_stack *image)
{
    size_t bytes = sizeof *image + (size_t)(image->registers + image->words) * 8 + image->words * 2u;
    for (uint64_t at = buckets[0]; at;) {
        struct slm_stack *known = (void *)(uintptr_t)at;
        if (known->words == image->words && known->relative == image->relative &&
            memcmp(known->values, image->values, bytes - sizeof *image) == 0)
            return known;
        at = known->next;
    }
    struct slm_stack *stack = calloc(1, bytes);
    memcpy(stack, image, bytes);
    stack->number = ++stack_count;
    stack->next = buckets[0];
    buckets[0] = (uintptr_t)stack;
    return stack;
}

/* -- objects -------------------------------------------------------------------------------------------------- */

static uint16_t class_of(size_t bytes)
{
    if (sampler_cache)
        return 6;
    for (uint16_t i = 0; i < sizeof class_sizes / sizeof *class_sizes; i++)
        if (bytes <= class_sizes[i])
            return i;
    return SLM_SAMPLE_LARGE;
}

int sampler_cache;

/* Called with the registers as the caller of sampler_malloc has them. */
uint64_t sampler_sample(const uint64_t *registers, const uint64_t *pointer, size_t bytes);
uint64_t sampler_sample(const uint64_t *registers, const uint64_t *pointer, size_t bytes)
{
    static uint64_t object = 4096;
    object += 16;
    double share = -expm1(-(double)(bytes ? bytes : 1) / (double)sampler_mean);
    if (chance_share(&chance) > share)
        return object;
    struct slm_stack *stack = stack_store(image_of(registers, pointer));
    uint32_t index = free_records ? free_records : ++counts.top;
    if (index > RECORDS)
        abort();
    struct slm_sample *record = &records[index - 1];
    free_records = record->next;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    record->serial++;
    *record = (struct slm_sample){.object = object,
                                  .asked = bytes,
                                  .weighed = (uint32_t)bytes,
                                  .given = bytes,
                                  .mean = sampler_mean,
                                  .time_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
                                  .stack = stack->number,
                                  .thread = (uint32_t)getpid(),
                                  .cache = class_of(bytes),
                                  .serial = record->serial + 1};
    stack->samples++;
    stack->objects_1024 += (uint64_t)(1024 / share);
    stack->bytes += (uint64_t)((double)bytes / share);
    return object;
}

void sampler_free(uint64_t object)
{
    for (uint32_t i = 0; i < counts.top; i++)
        if (records[i].object == object) {
            records[i].serial += 2;
            records[i].object = 0;
            records[i].next = free_records;
            free_records = i + 1;
        }
}

#ifdef __x86_64__
__asm__(".globl sampler_malloc\n.type sampler_malloc, @function\nsampler_malloc:\n"
        ".cfi_startproc\n"
        "push %r15\n.cfi_adjust_cfa_offset 8\npush %r14\n.cfi_adjust_cfa_offset 8\n"
        "push %r13\n.cfi_adjust_cfa_offset 8\npush %r12\n.cfi_adjust_cfa_offset 8\n"
        "push %rbp\n.cfi_adjust_cfa_offset 8\npush %rbx\n.cfi_adjust_cfa_offset 8\n"
        "push 48(%rsp)\n.cfi_adjust_cfa_offset 8\n"
        "mov %rdi, %rdx\nmov %rsp, %rdi\nlea 64(%rsp), %rsi\ncall sampler_sample\n"
        "add $56, %rsp\n.cfi_adjust_cfa_offset -56\nret\n.cfi_endproc\n"
        ".size sampler_malloc, . - sampler_malloc\n");
#else
uint64_t sampler_malloc(size_t bytes)
{
    uint64_t registers[SLM_STACK_REGISTERS] = {(uintptr_t)__builtin_return_address(0)};
    return sampler_sample(registers, __builtin_frame_address(0), bytes);
}
#endif

/* -- what tools read ------------------------------------------------------------------------------------------ */

void sampler_lose(uint64_t samples, uint64_t stacks)
{
    counts.losses = samples;
    counts.stack_losses = stacks;
}

void sampler_off(void)
{
    mean_now = 0;
}

void sampler_start(uint64_t mean, uint64_t seed, void *end_of_stack)
{
    dl_iterate_phdr(note_code, NULL);
    stack_end = (uintptr_t)end_of_stack;
    sampler_mean = mean_now = mean;
    chance.state = seed;
    records = mmap(NULL, RECORDS * sizeof *records, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    buckets = calloc(SLM_STACK_BUCKETS, sizeof *buckets);
    for (unsigned c = 0, first = 0; c < CHUNKS; first += slm_samples_in(c++))
        chunks[c] = (uintptr_t)&records[first];
    inspect = (struct slm_inspect){.version = SLM_INSPECT_VERSION,
                                   .bytes = sizeof inspect,
                                   .library_version = "sampler",
                                   .sample_bytes = (const void *)&mean_now,
                                   .sample_chunks = chunks,
                                   .sample_counts = &counts,
                                   .stack_buckets = &buckets,
                                   .caches = cache_list,
                                   .cache_ids = 7,
                                   .classes = 6,
                                   .class_sizes = class_sizes,
                                   .cache_name_offset = 4,
                                   .used_bytes = (const void *)used};
    memcpy(inspect.magic, SLM_INSPECT_MAGIC, sizeof inspect.magic);
}
