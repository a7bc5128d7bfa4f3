/* Records are read twice and taken if both copies are the same; stacks are read list by list. */
#include "samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amount.h"

/* More than any process has: 4 million samples are 8 TiB at the default interval. */
enum { SAMPLES_MOST = 1 << 22, STACKS_MOST = 1 << 18, PIECE = 512, TRIES = 4, NAME_BYTES = 64 };
static const uint64_t STACK_BYTES_MOST = (uint64_t)1 << 28;

static uint64_t address_of(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

/* A number that the library may not have: 0. */
static uint64_t number_at(struct target *target, const void *pointer, size_t bytes)
{
    uint64_t number = 0;
    if (!pointer || !target_read(target, address_of(pointer), &number, bytes))
        return 0;
    return number;
}

/* -- samples -------------------------------------------------------------------------------------------------- */

static bool same(const struct slm_sample *a, const struct slm_sample *b)
{
    return memcmp(a, b, sizeof *a) == 0; /* NOLINT(bugprone-suspicious-memory-comparison): it has no padding */
}

static void take(struct samples *samples, const struct slm_sample *record)
{
    struct estimate check = {0};
    if (record->weighed == 0) /* it stands for nothing */
        return;
    if (record->given < record->asked || !estimate_add(&check, record->given, record->weighed, record->mean)) {
        samples->damaged++;
        return;
    }
    if (samples->count == SAMPLES_MOST) {
        samples->more = true;
        return;
    }
    samples->samples = array_grow(samples->samples, &samples->room, samples->count + 1, sizeof *samples->samples);
    samples->samples[samples->count++] = (struct sample){.asked = record->asked,
                                                         .given = record->given,
                                                         .mean = record->mean,
                                                         .time_ns = record->time_ns,
                                                         .weighed = record->weighed,
                                                         .stack = record->stack,
                                                         .cache = record->cache};
}

/* Records are copied while threads write to them. Two equal copies with an even serial, one after the other, are one
 * state: had the first been torn, the second would show the end of that change. */
static bool piece_read(struct target *target, struct samples *samples, uint64_t address, size_t count)
{
    static struct slm_sample copies[2][PIECE];
    static bool done[PIECE];
    memset(done, 0, sizeof done);
    size_t left = count, bytes = count * sizeof copies[0][0];
    if (!target_read(target, address, copies[0], bytes))
        return false;
    for (int try = 1; try <= TRIES && left; try++) {
        struct slm_sample *before = copies[(try - 1) % 2], *now = copies[try % 2];
        if (!target_read(target, address, now, bytes)) {
            if (try == 1)
                return false;
            break;
        }
        for (size_t i = 0; i < count; i++) {
            if (done[i] || !same(&before[i], &now[i]) || now[i].serial % 2)
                continue;
            done[i] = true;
            left--;
            if (now[i].object)
                take(samples, &now[i]);
        }
    }
    samples->torn += left;
    return true;
}

/* Where not all of a piece is there, as a file was cut, what comes before that counts. */
static void chunk_read(struct target *target, struct samples *samples, uint64_t chunk, uint64_t count)
{
    for (uint64_t i = 0; i < count && !samples->more; i += PIECE) {
        uint64_t part = count - i < PIECE ? count - i : PIECE, address = chunk + i * sizeof(struct slm_sample);
        if (piece_read(target, samples, address, part))
            continue;
        while (part && piece_read(target, samples, address, 1)) {
            address += sizeof(struct slm_sample);
            part--;
        }
        samples->unread += part;
    }
}

/* Index 1 is the first of the first chunk. */
static bool live_read(struct target *target, struct samples *samples, uint32_t top)
{
    const struct slm_inspect *inspect = target_inspect(target);
    uint64_t chunks[SLM_SAMPLE_CHUNKS];
    if (!target_read(target, address_of(inspect->sample_chunks), chunks, sizeof chunks))
        return false;
    uint64_t first = 0;
    for (unsigned c = 0; c < SLM_SAMPLE_CHUNKS && first < top; c++) {
        uint64_t count = slm_samples_in(c), used = top - first < count ? top - first : count;
        /* One that is being made, or that was never there, has nothing to show. */
        if (chunks[c])
            chunk_read(target, samples, chunks[c], used);
        samples->records += used;
        first += count;
    }
    return true;
}

bool samples_try_live(struct target *target, struct samples *samples)
{
    *samples = (struct samples){0};
    const struct slm_inspect *inspect = target_inspect(target);
    if (!inspect->sample_chunks || !inspect->sample_counts || !inspect->sample_bytes)
        return false;
    struct slm_sample_counts counts = {0};
    if (!target_read(target, address_of(inspect->sample_counts), &counts, sizeof counts) ||
        !target_read(target, address_of(inspect->sample_bytes), &samples->sample_bytes, sizeof(uint64_t)))
        return false;
    samples->longest_mean = (uint64_t)counts.longest_mean_kib << 10;
    samples->losses = counts.losses;
    samples->gaps = counts.gaps;
    samples->stack_losses = counts.stack_losses;
    return live_read(target, samples, counts.top);
}

void sample_add(struct estimate *estimate, const struct sample *sample)
{
    double objects = estimate->objects;
    estimate_add(estimate, sample->asked, sample->weighed, sample->mean);
    estimate->given += (double)sample->given * (estimate->objects - objects);
}

double samples_live_bytes(struct target *target)
{
    struct samples samples;
    struct estimate estimate = {0};
    bool read = samples_try_live(target, &samples);
    for (size_t i = 0; i < samples.count; i++)
        sample_add(&estimate, &samples.samples[i]);
    bool known = read && (samples.sample_bytes || samples.count) && !samples.unread && !samples.more;
    samples_free(&samples);
    return known ? estimate.bytes : -1;
}

/* -- stacks --------------------------------------------------------------------------------------------------- */

enum { HEAD_BYTES = offsetof(struct slm_stack, values) };

/* Whether its numbers are such as the library writes. */
static bool stack_fits(const struct slm_stack *head, uint64_t bucket)
{
    if (!head->number || head->hash % SLM_STACK_BUCKETS != bucket || head->cut > 1)
        return false;
    if (head->kind == SLM_STACK_FRAMES)
        return head->registers == 0 && head->words > 0;
    return head->kind == SLM_STACK_IMAGE && head->registers > 0 && head->registers <= STACK_REGISTERS_MOST &&
           head->covered <= STACK_COVERED_MOST;
}

static bool stack_read(struct target *target, struct samples *samples, uint64_t address, const struct slm_stack *head,
                       uint64_t *budget)
{
    bool image = head->kind == SLM_STACK_IMAGE;
    size_t values = (size_t)head->registers + head->words;
    size_t bytes = values * sizeof(uint64_t) + (image ? head->words * sizeof(uint16_t) : 0);
    if (bytes > *budget || samples->stack_count == STACKS_MOST) {
        samples->more = true;
        return false;
    }
    uint64_t *data = memory(NULL, bytes, 1);
    if (!target_read(target, address + HEAD_BYTES, data, bytes)) {
        free(data);
        return false;
    }
    *budget -= bytes;
    samples->stacks =
        array_grow(samples->stacks, &samples->stack_room, samples->stack_count + 1, sizeof *samples->stacks);
    samples->stacks[samples->stack_count++] = (struct stack){.number = head->number,
                                                             .covered = head->covered,
                                                             .relative = head->relative,
                                                             .kind = head->kind,
                                                             .registers = head->registers,
                                                             .words = head->words,
                                                             .cut = head->cut,
                                                             .samples = head->samples,
                                                             .objects = (double)head->objects_1024 / 1024,
                                                             .bytes = (double)head->bytes,
                                                             .values = data,
                                                             .offsets = image ? (uint16_t *)(data + values) : NULL};
    return true;
}

/* A list that forms a circle comes back to a member that is marked: the mark moves at each power of two (Brent). */
static bool list_read(struct target *target, struct samples *samples, uint64_t bucket, uint64_t address,
                      uint64_t *budget)
{
    uint64_t mark = 0, steps = 0, step_of_mark = 1;
    while (address) {
        struct slm_stack head;
        if (address == mark || address % sizeof(uint64_t) || !target_read(target, address, &head, HEAD_BYTES) ||
            !stack_fits(&head, bucket) || !stack_read(target, samples, address, &head, budget))
            return false;
        if (++steps == step_of_mark) {
            mark = address;
            step_of_mark *= 2;
        }
        address = head.next;
    }
    return true;
}

static void stacks_read(struct target *target, struct samples *samples)
{
    uint64_t lists[SLM_STACK_BUCKETS], budget = STACK_BYTES_MOST;
    uint64_t buckets = number_at(target, target_inspect(target)->stack_buckets, sizeof(uint64_t));
    if (!buckets)
        return;
    if (!target_read(target, buckets, lists, sizeof lists)) {
        samples->broken++;
        return;
    }
    for (unsigned i = 0; i < SLM_STACK_BUCKETS && !samples->more; i++)
        if (!list_read(target, samples, i, lists[i], &budget))
            samples->broken++;
}

/* -- all ------------------------------------------------------------------------------------------------------ */

/* Samples first: the stack of each is there before it is. */
void samples_read(struct target *target, struct samples *samples)
{
    struct problem problem;
    if (!target_is_same(target, &problem))
        fail("%s", problem.text);
    if (!target_inspect(target)->sample_chunks)
        fail("%s: this build of the library has no samples", target_name(target));
    bool read = samples_try_live(target, samples);
    if (read)
        stacks_read(target, samples);
    if (!target_is_same(target, &problem))
        fail("%s", problem.text);
    if (!read)
        fail("%s: its samples cannot be read%s", target_name(target),
             target_is_cut(target) ? ": the file is cut" : "");
}

void samples_free(struct samples *samples)
{
    for (size_t i = 0; i < samples->stack_count; i++)
        free(samples->stacks[i].values);
    free(samples->stacks);
    free(samples->samples);
    *samples = (struct samples){0};
}

static bool is_numbered(const char *name, const char *kind)
{
    size_t length = strlen(kind);
    uint64_t number;
    return strncmp(name, kind, length) == 0 && number_parse(name + length, UINT16_MAX, &number);
}

/* Whether it is what malloc's own objects are called, or a cache that has no name here. */
static bool is_taken(const char *name)
{
    return strcmp(name, "large") == 0 || is_numbered(name, "size-") || is_numbered(name, "cache ");
}

static bool named_read(struct target *target, uint16_t cache, char *name, size_t room)
{
    const struct slm_inspect *inspect = target_inspect(target);
    uint64_t address = 0;
    if (cache < inspect->classes || cache >= inspect->cache_ids || !inspect->caches ||
        !target_read(target, address_of(inspect->caches) + cache * sizeof address, &address, sizeof address) ||
        !address || !target_read_text(target, address + inspect->cache_name_offset, name, room))
        return false;
    return name[0] != '\0';
}

void samples_cache_name(struct target *target, uint16_t cache, char *name, size_t room)
{
    const struct slm_inspect *inspect = target_inspect(target);
    char named[NAME_BYTES];
    uint16_t size = 0;
    if (cache == SLM_SAMPLE_LARGE)
        snprintf(name, room, "large");
    else if (cache < inspect->classes && inspect->class_sizes &&
             target_read(target, address_of(inspect->class_sizes) + cache * sizeof size, &size, sizeof size))
        snprintf(name, room, "size-%u", size);
    else if (named_read(target, cache, named, sizeof named))
        snprintf(name, room, "%s%s", named, is_taken(named) ? " (named)" : "");
    else
        snprintf(name, room, "cache %u", cache);
}
