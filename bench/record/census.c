/* What of the library's memory is resident, and for what. Linked with the library's own objects into the form of it
 * that is recorded (see record.h); reads its structures as figures are read, while threads go on. */
#include "record.h"

#include <string.h>
#include <sys/mman.h>

#include "deferred/retire.h"
#include "depot/cache.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "page/page_map.h"
#include "page/reservation.h"
#include "slab/large.h"
#include "thread/reserve.h"
#include "thread/thread_list.h"

extern void record_census_by(census_function *function) __attribute__((weak)); /* the recorder, if it is loaded */

static_assert((int)CENSUS_CLASSES == (int)SLM_CLASSES, "a row for each class");

enum { AT_ONCE = SLM_GRANULE / 1024 }; /* pages; none is smaller */

static uint64_t count_pages(char *at, size_t bytes)
{
    unsigned char pages[AT_ONCE];
    uint64_t count = 0;
    if (mincore(at, bytes, pages) != 0)
        return 0;
    for (size_t page = 0; page * slm_page_size < bytes; page++)
        count += pages[page] & 1;
    return count;
}

/* Resident bytes of a range, of which granules may be unmapped. */
static uint64_t resident(const void *start, size_t bytes)
{
    uint64_t count = 0;
    char *at = (char *)((uintptr_t)start & ~(slm_page_size - 1));
    for (char *const end = (char *)(uintptr_t)start + bytes; at < end;) {
        const size_t step = slm_min((size_t)(end - at), SLM_GRANULE);
        count += count_pages(at, step);
        at += step;
    }
    return count * slm_page_size;
}

static void add_span(struct census_row *row, const struct slm_span *span, size_t bytes)
{
    row->slabs++;
    row->mapped += bytes;
    row->resident += resident(slm_span_start(span), bytes);
}

static void add_slab(struct census *census, struct slm_slab *slab)
{
    const struct slm_depot *depot = load_relaxed(&slab->owner);
    if (!depot)
        return;
    const struct slm_cache *cache = slm_cache_of_depot(depot);
    struct census_row *row = slm_cache_is_class(cache) ? &census->classes[cache->id] : &census->named;
    const size_t free = (size_t)slm_max(load_relaxed(&slab->free), 0);
    row->free += free;
    add_span(row, &slab->span, slm_span_bytes(&slab->span));
    if (row == &census->named) {
        census->named_objects += slab->objects - slm_min(free, slab->objects);
        census->named_bytes += (slab->objects - slm_min(free, slab->objects)) * slab->object_size;
    }
    const _Atomic uint64_t *joined = slm_slab_joins(slab);
    const bool apart = joined && joined != slab->inside + slm_slab_words(slab);
    census->bits +=
        ((slab->bits != slab->inside) + apart) * slm_align_up(slm_slab_words(slab) * sizeof(uint64_t), 64);
}

/* The granules of a span, whose kind says what they are. Spans change while this reads them: a length is not trusted
 * beyond the area. */
static size_t add_granule(struct census *census, size_t granule, size_t end)
{
    struct slm_span *span = slm_descriptor(granule);
    const size_t count = slm_min(slm_max(span->granules, 1), end - granule);
    switch (load_relaxed(&span->kind)) {
    case SLM_SPAN_SLAB:
        add_slab(census, (struct slm_slab *)span);
        return count;
    case SLM_SPAN_LARGE:
    case SLM_SPAN_RETIRED:
        add_span(&census->large, span, count << SLM_GRANULE_SHIFT);
        return count;
    case SLM_SPAN_FREE:
        if (span->state != SLM_SPAN_UNMAPPED)
            add_span(&census->spans, span, count << SLM_GRANULE_SHIFT);
        return count;
    default:
        return 1;
    }
}

static void add_area(struct census *census, unsigned area)
{
    const size_t first = (size_t)area << slm_range.area_shift;
    const size_t end = first + slm_min(slm_heap_limit, slm_area_granules());
    for (size_t granule = first; granule < end;)
        granule += slm_reservation_described(granule) ? add_granule(census, granule, end) : 1;
    census->map += resident(slm_area_start(area) + SLM_MAP_OFFSET, slm_heap_limit * sizeof(uint32_t));
    census->descriptors += resident(slm_descriptor(first), slm_heap_limit * SLM_DESCRIPTOR_BYTES);
}

static uint64_t bytes_of(const struct slm_magazine *magazine)
{
    return magazine ? slm_magazine_bytes(magazine->capacity) : 0;
}

static void add_thread(struct slm_thread *thread, void *context)
{
    struct census *census = context;
    census->threads++;
    census->blocks += resident(thread, SLM_BLOCK_BYTES);
    slm_for_each_slot (n, &thread->used) {
        const struct slm_slot *slot = slm_slot_of(thread, n);
        if (load_relaxed(&slot->target) == 0)
            continue;
        census->magazines += bytes_of(slot->loaded) + bytes_of(slot->previous);
        if (n < SLM_CLASSES)
            census->classes[n].rounds += slm_thread_rounds(thread, n);
        else
            census->named.rounds += slm_thread_rounds(thread, n);
    }
}

static void add_cache(struct slm_cache *cache, void *context)
{
    struct census *census = context;
    struct census_row *row = slm_cache_is_class(cache) ? &census->classes[cache->id] : &census->named;
    slm_for_each_depot (depot, cache) {
        row->rounds += load_relaxed(&depot->stock_rounds);
        slm_lock_acquire(&depot->lock);
        for (const struct slm_magazine *one = depot->full; one; one = one->next)
            census->magazines += bytes_of(one);
        for (const struct slm_magazine *one = depot->empty; one; one = one->next)
            census->magazines += bytes_of(one);
        slm_lock_release(&depot->lock);
    }
}

static void take(struct census *census)
{
    memset(census, 0, sizeof *census);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        census->classes[class].object_size = slm_class_size[class];
    slm_cache_lock();
    slm_thread_list_foreach(add_thread, census);
    slm_cache_each(add_cache, census);
    slm_cache_unlock();
    for (unsigned area = 0; area < slm_area_count(); area++)
        add_area(census, area);
    census->sizes = resident(slm_range.heap + SLM_SIZES_OFFSET, SLM_SIZES_BYTES);
    const uint64_t mapped = slm_reservation_metadata_bytes();
    for (unsigned node = 0; node <= slm_range.node_mask; node++)
        census->pieces += resident(slm_range.metadata + node * slm_range.metadata_part, mapped);
}

__attribute__((constructor)) static void offer(void)
{
    if (record_census_by)
        record_census_by(take);
}
