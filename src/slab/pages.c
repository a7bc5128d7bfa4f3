/* Purging pages of slabs, and taking them up again; see pages.h. */
#include "slab/pages.h"

#include "base/panic.h"
#include "page/huge.h"
#include "page/span_alloc.h"
#include "slab/fresh.h"
#include "slab/key.h"

_Atomic uint64_t slm_pages_touched_bytes;

static size_t pages_of(const struct slm_slab *slab)
{
    return slm_span_bytes(&slab->span) / slm_page_size;
}

static slm_for_few uint16_t *bits_of(const struct slm_slab *slab, size_t page)
{
    struct slm_span *granule = slm_descriptor(slm_span_granule(&slab->span) + page / slm_pages_in_granule());
    return &granule->purged;
}

slm_for_few bool slm_pages_is_purged(const struct slm_slab *slab, size_t page)
{
    return *bits_of(slab, page) >> page % slm_pages_in_granule() & 1;
}

static slm_for_few void set_purged(struct slm_slab *slab, size_t page, bool purged)
{
    const uint16_t bit = (uint16_t)(1u << page % slm_pages_in_granule());
    uint16_t *bits = bits_of(slab, page);
    *bits = (uint16_t)(purged ? *bits | bit : *bits & ~bit);
}

/* The first object that begins on the page or behind it, and the first that reaches over the end of the one before
 * `end_page`, or begins there. */
static slm_for_few unsigned first_from(const struct slm_slab *slab, size_t page)
{
    const size_t at = page * slm_page_size;
    return page == 0 ? 0 : slm_slab_index(slab, slm_slab_start(slab) + at - 1) + 1;
}

static slm_for_few unsigned at_end(const struct slm_slab *slab, size_t end_page)
{
    return (unsigned)slm_min(slm_slab_index(slab, slm_slab_start(slab) + end_page * slm_page_size), slab->objects);
}

/* Acquire: pairs with the release in slm_slab_give, as the object is going to be written or purged. */
static bool is_free(const struct slm_slab *slab, unsigned index)
{
    return load_acquire(&slab->bits[index / 64]) >> index % 64 & 1;
}

/* -- purging ----------------------------------------------------------------------------------------------------- */

static slm_for_few void leave_hot_paths(struct slm_slab *slab)
{
    if (!slab->span.some_purged) {
        slm_slab_hide(slab);
        store_relaxed(&slab->span.worked, 0);
    }
    slab->span.some_purged = true;
}

static slm_for_few void return_to_hot_paths(struct slm_slab *slab, const struct slm_slab_shape *shape)
{
    slab->span.some_purged = false;
    slm_slab_show(slab, shape);
}

/* Pages that are not purged yet; returns their bytes. What is locked stays, with its keys. */
static slm_for_few size_t purge_pages(struct slm_slab *slab, size_t from, size_t to)
{
    leave_hot_paths(slab);
    for (size_t page = from; page < to; page++)
        set_purged(slab, page, true);
    if (slm_huge_purge(slm_slab_start(slab) + from * slm_page_size, (to - from) * slm_page_size))
        return (to - from) * slm_page_size;
    for (size_t page = from; page < to; page++)
        set_purged(slab, page, false);
    return 0;
}

/* Between the objects `first` and `end`, which are free. */
static slm_for_few size_t purge_between(struct slm_slab *slab, size_t first, size_t end)
{
    const size_t rest = end == slab->objects ? slm_page_size - 1 : 0; /* whose key comes back with the last one */
    const size_t last = (end * slab->object_size + rest) / slm_page_size;
    size_t purged = 0;
    for (size_t from = slm_align_up(first * slab->object_size, slm_page_size) / slm_page_size, to; from < last;
         from = to + 1) {
        for (to = from; to < last && !slm_pages_is_purged(slab, to); to++)
            ;
        purged += from < to ? purge_pages(slab, from, to) : 0;
    }
    return purged;
}

slm_for_few size_t slm_pages_purge(struct slm_slab *slab)
{
    size_t purged = 0, first = 0;
    slm_fresh_end(slab);
    for (unsigned i = 0; i <= slab->objects; i++) {
        if (i < slab->objects && is_free(slab, i))
            continue;
        purged += i > first ? purge_between(slab, first, i) : 0;
        first = i + 1;
    }
    return purged;
}

/* -- taking ------------------------------------------------------------------------------------------------------ */

/* Up to n free objects from `first` on to before `end`. */
static slm_for_few unsigned take_between(struct slm_slab *slab, unsigned first, unsigned end, unsigned n,
                                         void **rounds)
{
    unsigned taken = 0;
    for (unsigned index = first; index < end && taken < n; index = (index | 63) + 1) {
        const unsigned word = index / 64;
        uint64_t bits = load_relaxed(&slab->bits[word]) & ~(uint64_t)0 << index % 64, mine = 0;
        if (end / 64 == word)
            bits &= ((uint64_t)1 << end % 64) - 1;
        for (; bits != 0 && taken < n; bits &= bits - 1) {
            const unsigned bit = (unsigned)__builtin_ctzll(bits);
            rounds[taken++] = slm_slab_start(slab) + (size_t)(word * 64 + bit) * slab->object_size;
            mine |= (uint64_t)1 << bit;
        }
        if (mine != 0) /* acquire: as in slm_slab_take */
            atomic_fetch_and_explicit(&slab->bits[word], ~mine, memory_order_acquire);
    }
    return taken;
}

slm_for_few unsigned slm_pages_take(struct slm_slab *slab, unsigned n, void **rounds)
{
    if (!slab->span.some_purged)
        return slm_fresh_take(slab, n, rounds);
    const int32_t there = load_acquire(&slab->free); /* pairs with slm_slab_count: so many bits can be seen */
    n = there <= 0 ? 0 : (unsigned)slm_min(n, (size_t)there);
    sub_relaxed(&slab->free, (int32_t)n); /* first: see "The count" in slab.h */
    const size_t pages = pages_of(slab);
    unsigned taken = 0;
    for (size_t from = 0, to; from < pages && taken < n; from = to + 1) {
        for (to = from; to < pages && !slm_pages_is_purged(slab, to); to++)
            ;
        if (from < to)
            taken += take_between(slab, first_from(slab, from), to == pages ? slab->objects : at_end(slab, to),
                                  n - taken, rounds + taken);
    }
    slm_slab_count(slab, n - taken);
    return taken;
}

slm_for_few uint64_t slm_pages_resident(const struct slm_slab *slab, unsigned word)
{
    uint64_t resident = ~(uint64_t)0;
    for (size_t i = word * 64; slab->span.some_purged && i < slm_min(slab->objects, (word + 1) * 64); i++)
        for (size_t at = i * slab->object_size, end = at + slab->object_size; at < end;
             at = slm_align_up(at + 1, slm_page_size))
            if (slm_pages_is_purged(slab, at / slm_page_size))
                resident &= ~((uint64_t)1 << i % 64);
    return resident;
}

/* All objects of a purged page are free. */
static slm_for_few void set_keys(struct slm_slab *slab, size_t page)
{
    char *const start = slm_slab_start(slab) + page * slm_page_size, *const end = start + slm_page_size;
    const uintptr_t key = slm_key_of(start);
    for (unsigned index = slm_slab_index(slab, start); index < slab->objects; index++) {
        char *object = slm_slab_start(slab) + (size_t)index * slab->object_size;
        if (object + sizeof key >= end)
            break;
        if (object + sizeof key >= start)
            slm_key_set(object, key);
    }
}

static slm_for_few size_t first_purged(const struct slm_slab *slab)
{
    size_t page = 0;
    while (page < pages_of(slab) && !slm_pages_is_purged(slab, page))
        page++;
    return page;
}

slm_for_few void slm_pages_touch(struct slm_slab *slab, const struct slm_slab_shape *shape)
{
    const size_t first = first_purged(slab);
    const size_t index = slm_slab_index(slab, slm_slab_start(slab) + first * slm_page_size);
    const size_t from = index * slab->object_size / slm_page_size;
    const size_t to = ((index + 1) * slab->object_size - 1) / slm_page_size;
    for (size_t page = from; page <= to && page < pages_of(slab); page++) {
        if (!slm_pages_is_purged(slab, page))
            continue;
        if (shape->keyed)
            set_keys(slab, page);
        add_relaxed(&slm_pages_touched_bytes, slm_page_size);
        slm_span_note_growth(slm_page_size);
        set_purged(slab, page, false);
    }
    if (first_purged(slab) == pages_of(slab))
        return_to_hot_paths(slab, shape);
}

slm_for_few void slm_pages_touch_all(struct slm_slab *slab, const struct slm_slab_shape *shape)
{
    while (slab->span.some_purged)
        slm_pages_touch(slab, shape);
}

slm_for_few void slm_pages_all_out(struct slm_slab *slab, const struct slm_slab_shape *shape)
{
    for (size_t page = 0; page < pages_of(slab); page++)
        set_purged(slab, page, false);
    return_to_hot_paths(slab, shape);
}

slm_for_few void slm_pages_check(const struct slm_slab *slab)
{
    for (size_t page = 0; page < pages_of(slab); page++) {
        if (!slm_pages_is_purged(slab, page))
            continue;
        if (!slab->span.some_purged)
            slm_panic("check", slm_slab_start(slab), "a purged page in a slab that has none", NULL, 0);
        const size_t end = (page + 1) * slm_page_size;
        for (size_t i = slm_slab_index(slab, slm_slab_start(slab) + page * slm_page_size);
             i < slab->objects && i * slab->object_size < end; i++)
            if (!is_free(slab, (unsigned)i))
                slm_panic("check", slm_slab_start(slab), "an object out on a purged page", NULL, 0);
    }
}
