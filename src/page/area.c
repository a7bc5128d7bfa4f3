/* The range's parts; see area.h. */
#include "page/area.h"

/* For each granule. */
#define METADATA_BYTES (SLM_GRANULE / 128)
#define PERCPU_BYTES (SLM_GRANULE / 8)

struct slm_range slm_range;
size_t slm_heap_limit;

size_t slm_area_range_bytes(size_t granules)
{
    const size_t each = SLM_DESCRIPTOR_BYTES + METADATA_BYTES + SLM_GRANULE + PERCPU_BYTES;
    return (size_t)-SLM_SIZES_OFFSET + granules * each;
}

void slm_area_place_range(char *start, size_t granules)
{
    slm_range.granules = granules;
    slm_range.descriptors = start;
    slm_range.metadata = slm_range.descriptors + granules * SLM_DESCRIPTOR_BYTES;
    slm_range.heap = slm_range.metadata + granules * METADATA_BYTES - SLM_SIZES_OFFSET;
    slm_range.percpu = slm_range.heap + granules * SLM_GRANULE;
    slm_range.percpu_bytes = granules * PERCPU_BYTES;
}

void slm_area_cut(unsigned nodes)
{
    slm_range.node_mask = nodes == 1 ? 0 : (2u << slm_log2(nodes - 1)) - 1;
    slm_range.area_shift = slm_log2(slm_range.granules / slm_area_count());
    slm_range.metadata_part = slm_range.granules * METADATA_BYTES / (slm_range.node_mask + 1);
}
