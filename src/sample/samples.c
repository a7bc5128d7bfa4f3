/* Records; see samples.h. */
#include "sample/samples.h"

#include <string.h>

#include "base/bits.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/metadata.h"
#include "sample/interval.h"

slm_sampled_state struct slm_sample *_Atomic slm_samples_chunks[SLM_SAMPLE_CHUNKS];

/* Index of the first free record, below a count of changes. */
static slm_sampled_state _Atomic uint64_t free_head;

/* A record's chunk, and its place there: see slm_samples_in. */
static slm_sampling unsigned find_chunk(uint32_t index, uint32_t *place)
{
    const uint32_t at = index - 1, doubling = at / SLM_SAMPLES_FIRST + 1;
    const unsigned chunk = slm_log2(doubling);
    if (chunk < SLM_SAMPLE_DOUBLINGS) {
        *place = at - SLM_SAMPLES_FIRST * ((1u << chunk) - 1);
        return chunk;
    }
    const uint32_t behind = at - SLM_SAMPLES_FIRST * ((1u << SLM_SAMPLE_DOUBLINGS) - 1);
    *place = behind % slm_samples_in(SLM_SAMPLE_DOUBLINGS);
    return SLM_SAMPLE_DOUBLINGS + behind / slm_samples_in(SLM_SAMPLE_DOUBLINGS);
}

slm_sampling struct slm_sample *slm_samples_at(uint32_t index)
{
    uint32_t place;
    const unsigned chunk = find_chunk(index, &place);
    return load_acquire(&slm_samples_chunks[chunk]) + place; /* pairs with make_chunk */
}

static slm_sampling bool make_chunk(unsigned chunk)
{
    const size_t bytes = slm_samples_in(chunk) * sizeof(struct slm_sample);
    struct slm_sample *none = NULL, *made = slm_metadata_alloc(bytes);
    if (!made)
        return false;
    memset((void *)made, 0, bytes);
    /* release: pairs with slm_samples_at */
    if (!atomic_compare_exchange_strong_explicit(&slm_samples_chunks[chunk], &none, made, memory_order_acq_rel,
                                                 memory_order_relaxed))
        slm_metadata_free(made, bytes);
    return true;
}

/* One that was never in use; 0: there is no memory. */
static slm_sampling uint32_t take_new(void)
{
    uint32_t top = load_relaxed(&slm_sample_counts.top), place;
    do {
        const unsigned chunk = find_chunk(top + 1, &place);
        if (chunk == SLM_SAMPLE_CHUNKS || (!load_relaxed(&slm_samples_chunks[chunk]) && !make_chunk(chunk)))
            return 0;
    } while (!atomic_compare_exchange_weak(&slm_sample_counts.top, &top, top + 1));
    return top + 1;
}

static const uint64_t one_change = (uint64_t)1 << 32;

static slm_sampling uint32_t take_free(void)
{
    uint64_t head = load_acquire(&free_head), next;
    do {
        if ((uint32_t)head == 0)
            return 0;
        next = (head & ~(one_change - 1)) + one_change + load_relaxed(&slm_samples_at((uint32_t)head)->next);
        /* acquire: pairs with put_free */
    } while (
        !atomic_compare_exchange_weak_explicit(&free_head, &head, next, memory_order_acquire, memory_order_acquire));
    return (uint32_t)head;
}

static slm_sampling void put_free(struct slm_sample *sample, uint32_t index)
{
    uint64_t head = load_relaxed(&free_head), next;
    do {
        store_relaxed(&sample->next, (uint32_t)head);
        next = (head & ~(one_change - 1)) + one_change + index;
        /* release: pairs with take_free */
    } while (
        !atomic_compare_exchange_weak_explicit(&free_head, &head, next, memory_order_release, memory_order_relaxed));
}

/* A reader sees an odd serial, or another one than before, unless it has read all of one state. Release, and the
 * fence: pair with the tool's two reads of the serial (tools/slabctl). */
static slm_sampling void begin_change(struct slm_sample *sample)
{
    store_relaxed(&sample->serial, load_relaxed(&sample->serial) + 1);
    slm_store_fence();
}

static slm_sampling void end_change(struct slm_sample *sample)
{
    store_release(&sample->serial, load_relaxed(&sample->serial) + 1);
}

static slm_sampling struct slm_weight weigh(const struct slm_sample *sample)
{
    return slm_interval_weigh(sample->weighed, sample->asked, sample->mean);
}

/* By a system call, so not where a sandbox is near. */
static slm_sampling uint32_t thread_id(void)
{
    const uint32_t id = slm_background_begin() ? slm_sys_thread_id() : 0;
    slm_background_end();
    return id;
}

static slm_sampling void note_mean(uint64_t mean)
{
    const uint32_t mean_kib = (uint32_t)((mean + 1023) / 1024);
    uint32_t longest = load_relaxed(&slm_sample_counts.longest_mean_kib);
    while (longest < mean_kib &&
           !atomic_compare_exchange_weak(&slm_sample_counts.longest_mean_kib, &longest, mean_kib))
        ;
}

/* Within begin_change and end_change. */
static slm_sampling __attribute__((noinline)) void describe(struct slm_sample *sample, const struct slm_sample_of *of)
{
    const bool stands = of->mean != 0;
    note_mean(of->mean);
    sample->asked = of->asked;
    sample->given = of->given;
    sample->mean = stands ? of->mean : 1;
    sample->time_ns = slm_background_now_us() * 1000;
    sample->stack = of->stack;
    sample->thread = thread_id();
    sample->cache = of->cache;
    sample->weighed = stands ? (uint32_t)slm_min(of->asked, UINT32_MAX) : 0;
}

static slm_sampling void count(struct slm_sample *sample)
{
    const struct slm_weight weight = weigh(sample);
    if (sample->stack != 0)
        slm_stack_count(slm_stack_of(sample->stack), weight.objects_1024, weight.bytes);
}

slm_sampling uint32_t slm_samples_add(const struct slm_sample_of *of)
{
    uint32_t index = take_free();
    if (index == 0 && (index = take_new()) == 0) {
        add_relaxed(&slm_sample_counts.losses, 1);
        return 0;
    }
    struct slm_sample *sample = slm_samples_at(index);
    begin_change(sample);
    describe(sample, of);
    store_relaxed(&sample->object, (uint64_t)(uintptr_t)of->object);
    end_change(sample);
    count(sample);
    return index;
}

slm_sampling void slm_samples_end(uint32_t index)
{
    if (index == 0)
        return;
    struct slm_sample *sample = slm_samples_at(index);
    begin_change(sample);
    store_relaxed(&sample->object, 0);
    end_change(sample);
    if (sample->stack != 0) {
        const struct slm_weight weight = weigh(sample);
        slm_stack_count_free(slm_stack_of(sample->stack), weight.objects_1024, weight.bytes);
    }
    put_free(sample, index);
}

slm_sampling void slm_samples_change(uint32_t index, const void *object, uint64_t asked, uint64_t given)
{
    if (index == 0)
        return;
    struct slm_sample *sample = slm_samples_at(index);
    const uint64_t before = weigh(sample).bytes;
    begin_change(sample);
    sample->asked = asked;
    sample->given = given;
    if (object)
        store_relaxed(&sample->object, (uint64_t)(uintptr_t)object);
    end_change(sample);
    if (sample->stack != 0)
        slm_stack_count_growth(slm_stack_of(sample->stack), weigh(sample).bytes - before);
}

slm_for_few void slm_samples_redraw(uint32_t index, const struct slm_sample_of *of)
{
    struct slm_sample *sample = slm_samples_at(index);
    const struct slm_weight before = weigh(sample);
    if (sample->stack != 0)
        slm_stack_count_free(slm_stack_of(sample->stack), before.objects_1024, before.bytes);
    begin_change(sample);
    describe(sample, of);
    end_change(sample);
    count(sample);
}

/* -- purging ----------------------------------------------------------------------------------------------------- */

/* A bit for each record, from index 1 on: it is free, and this thread's, as it is off the list. */
struct freed {
    uint64_t *bits;
    uint32_t top, first; /* of the list that was taken */
};

/* Others go on with an empty list. */
static slm_seldom uint32_t take_all_free(void)
{
    uint64_t head = load_acquire(&free_head); /* pairs with put_free; below, too */
    while (!atomic_compare_exchange_weak_explicit(&free_head, &head, (head & ~(one_change - 1)) + one_change,
                                                  memory_order_acquire, memory_order_acquire))
        ;
    return (uint32_t)head;
}

static slm_seldom bool is_freed(const struct freed *freed, uint32_t index)
{
    return freed->bits[(index - 1) / 64] >> (index - 1) % 64 & 1;
}

/* A record above the top was made meanwhile, and goes back at once. */
static slm_seldom void note_freed(struct freed *freed)
{
    for (uint32_t index = freed->first, next; index != 0; index = next) {
        struct slm_sample *sample = slm_samples_at(index);
        next = load_relaxed(&sample->next);
        if (index <= freed->top)
            freed->bits[(index - 1) / 64] |= (uint64_t)1 << (index - 1) % 64;
        else
            put_free(sample, index);
    }
}

/* Whole pages of the records above `last`, which are all this thread's. The first chunks are less than a page. */
static slm_seldom void purge_records(const struct freed *freed, uint32_t last)
{
    uint32_t before = 0;
    for (unsigned chunk = 0; before < freed->top; before += slm_samples_in(chunk++)) {
        const uint32_t begin = slm_max(before, last), end = slm_min(before + slm_samples_in(chunk), freed->top);
        if (begin >= end)
            continue;
        const uintptr_t from = slm_align_up((uintptr_t)slm_samples_at(begin + 1), slm_page_size);
        const uintptr_t to = (uintptr_t)(slm_samples_at(end) + 1) & ~(uintptr_t)(slm_page_size - 1);
        if (from < to)
            slm_vm_purge((void *)from, to - from); /* NOLINT(performance-no-int-to-ptr) */
    }
}

/* The lowest come first again. */
static slm_seldom void put_freed(const struct freed *freed, uint32_t last)
{
    for (uint32_t index = last; index > 0; index--)
        if (is_freed(freed, index))
            put_free(slm_samples_at(index), index);
}

/* The top falls last: until then no thread takes what is being purged. If it has risen meanwhile, it stays. */
slm_seldom void slm_samples_purge(void)
{
    struct freed freed = {.top =
                              load_acquire(&slm_sample_counts.top)}; /* pairs with take_new: the chunks are there */
    const size_t bytes = slm_align_up(freed.top, 64) / 8;
    if (freed.top == 0 || bytes > SLM_METADATA_MAX || !(freed.bits = slm_metadata_alloc(bytes)))
        return;
    memset(freed.bits, 0, bytes);
    freed.first = take_all_free();
    note_freed(&freed);
    uint32_t last = freed.top, top = freed.top;
    while (last > 0 && is_freed(&freed, last))
        last--;
    purge_records(&freed, last);
    if (!atomic_compare_exchange_strong(&slm_sample_counts.top, &top, last)) /* pairs with take_new */
        last = freed.top;
    put_freed(&freed, last);
    slm_metadata_free(memset(freed.bits, 0, bytes), bytes);
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

/* Word by word, as others write meanwhile. */
static slm_seldom slm_unordered void copy_words(struct slm_sample *to, const struct slm_sample *from)
{
    const volatile uint64_t *word = (const volatile uint64_t *)(const volatile void *)from;
    for (unsigned i = 0; i < sizeof *to / sizeof *word; i++)
        ((uint64_t *)(void *)to)[i] = word[i];
}

slm_seldom bool slm_samples_copy(uint32_t index, struct slm_sample *copy)
{
    enum { tries = 100 };
    const struct slm_sample *sample = slm_samples_at(index);
    for (unsigned i = 0; i < tries; i++) {
        const uint32_t before = load_acquire(&sample->serial); /* pairs with end_change */
        copy_words(copy, sample);
        slm_fence(); /* pairs with the fence of begin_change */
        if (before % 2 == 0 && load_relaxed(&sample->serial) == before)
            return true;
    }
    return false;
}

slm_seldom struct slm_samples_sum slm_samples_live(void)
{
    struct slm_samples_sum sum = {0, 0};
    const uint32_t top = load_acquire(&slm_sample_counts.top); /* pairs with take_new: the chunks are there */
    for (uint32_t index = 1; index <= top; index++) {
        struct slm_sample sample;
        if (!slm_samples_copy(index, &sample) || load_relaxed(&sample.object) == 0 || sample.weighed == 0)
            continue;
        sum.samples++;
        sum.bytes += weigh(&sample).bytes;
    }
    return sum;
}
