/* Descriptors; see span.h. */
#include "page/span.h"

#include "page/reservation.h"

struct slm_span *slm_span_split(struct slm_span *span, size_t granules)
{
    struct slm_span *rest = slm_descriptor(slm_span_granule(span) + granules);
    rest->granules = span->granules - (uint32_t)granules;
    rest->state = span->state;
    span->granules = (uint32_t)granules;
    return rest;
}

slm_seldom struct slm_span *slm_span_next_of_row(struct slm_span **row)
{
    struct slm_span *first = *row;
    if (!first)
        return NULL;
    *row = first->granules > 1 ? slm_span_split(first, 1) : NULL;
    if (*row)
        (*row)->moved = false;
    return first;
}

struct slm_span *slm_span_of(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (!slm_reservation_described(granule))
        return NULL;
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    if (kind == SLM_SPAN_SLAB_INSIDE)
        return slm_descriptor(granule - span->back);
    return slm_span_is_slab(kind) || kind == SLM_SPAN_LARGE || kind == SLM_SPAN_RETIRED ? span : NULL;
}
