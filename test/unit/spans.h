/* What the tests of spans share. */
#pragma once

#include "page/span.h"

/* Of all areas. */
static inline struct slm_span_figures sum_figures(void)
{
    struct slm_span_figures sums = {0};
    for (unsigned area = 0; area < slm_reservation_areas(); area++)
        slm_span_add_figures(area, &sums);
    return sums;
}
