/* What the tests of spans share. */
#pragma once

#include "page/free_spans.h"
#include "page/span.h"

/* Of all areas. */
static inline struct slm_span_figures sum_figures(void)
{
    struct slm_span_figures sums = {0};
    for (unsigned area = 0; area < slm_area_count(); area++)
        slm_span_add_figures(area, &sums);
    return sums;
}
