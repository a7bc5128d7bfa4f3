/* Free spans by length; see bins.h. */
#include "page/bins.h"

#include "base/panic.h"

enum { look_at_most = 32 };

static unsigned bin_of(size_t granules)
{
    if (granules <= SLM_BINS_EXACT)
        return (unsigned)granules - 1;
    const unsigned doubling = slm_log2(granules); /* 5 and up */
    const unsigned bin = SLM_BINS_EXACT + (doubling - 5) * 4 + (unsigned)(granules >> (doubling - 2) & 3);
    return bin < SLM_BINS ? bin : SLM_BINS - 1;
}

void slm_bins_add(struct slm_bins *bins, struct slm_span *span)
{
    const unsigned bin = bin_of(span->granules);
    if (!(bins->occupied >> bin & 1)) {
        slm_list_init(&bins->bin[bin]);
        bins->occupied |= (uint64_t)1 << bin;
    }
    slm_list_insert_after(&bins->bin[bin], &span->link);
}

void slm_bins_remove(struct slm_bins *bins, struct slm_span *span)
{
    const unsigned bin = bin_of(span->granules);
    slm_list_remove(&span->link);
    if (slm_list_empty(&bins->bin[bin]))
        bins->occupied &= ~((uint64_t)1 << bin);
}

static struct slm_span *best_of_bin(const struct slm_list *bin, size_t granules, size_t look_at)
{
    struct slm_span *best = NULL;
    for (struct slm_list *at = bin->next; at != bin && look_at-- > 0; at = at->next) {
        struct slm_span *span = slm_container(at, struct slm_span, link);
        if (span->granules < granules || (best && span->granules > best->granules))
            continue;
        if (!best || span->granules < best->granules || span < best)
            best = span;
    }
    return best;
}

/* Spans in the first bin may be too short, all others fit. The first is searched completely if the others
 * are empty. */
struct slm_span *slm_bins_find(const struct slm_bins *bins, size_t granules)
{
    const unsigned first = bin_of(granules);
    for (uint64_t left = bins->occupied >> first << first; left != 0; left &= left - 1) {
        struct slm_span *span = best_of_bin(&bins->bin[__builtin_ctzll(left)], granules, look_at_most);
        if (span)
            return span;
    }
    return bins->occupied >> first & 1 ? best_of_bin(&bins->bin[first], granules, SIZE_MAX) : NULL;
}

slm_for_few struct slm_span *slm_bins_find_longest(const struct slm_bins *bins, size_t least,
                                                   bool (*visit)(struct slm_span *span, void *context), void *context)
{
    const unsigned last = bin_of(least);
    size_t look_at = look_at_most;
    for (uint64_t left = bins->occupied >> last << last; left != 0; left &= ~((uint64_t)1 << slm_log2(left))) {
        const struct slm_list *bin = &bins->bin[slm_log2(left)];
        for (struct slm_list *at = bin->next; at != bin; at = at->next) {
            struct slm_span *span = slm_container(at, struct slm_span, link);
            if (look_at-- == 0)
                return NULL;
            if (span->granules >= least && visit(span, context))
                return span;
        }
    }
    return NULL;
}

struct slm_span *slm_bins_foreach(const struct slm_bins *bins, bool (*visit)(struct slm_span *span, void *context),
                                  void *context)
{
    for (uint64_t left = bins->occupied; left != 0; left &= left - 1) {
        const struct slm_list *bin = &bins->bin[__builtin_ctzll(left)];
        for (struct slm_list *at = bin->next; at != bin; at = at->next) {
            struct slm_span *span = slm_container(at, struct slm_span, link);
            if (bin != &bins->bin[bin_of(span->granules)])
                slm_panic("check", slm_span_start(span), "a free span in the wrong bin", NULL, 0);
            if (visit(span, context))
                return span;
        }
    }
    return NULL;
}
