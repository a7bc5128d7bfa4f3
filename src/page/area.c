/* The range's parts; see area.h. */
#include "page/area.h"

struct slm_range slm_range;
size_t slm_heap_limit;

static size_t metadata_bytes(size_t granules)
{
    return granules * SLM_GRANULE / 128;
}

static size_t percpu_bytes(size_t granules)
{
    return granules * SLM_GRANULE / 8;
}

static size_t bytes_below_heap(size_t granules)
{
    return (size_t)-SLM_SIZES_OFFSET + metadata_bytes(granules) + granules * SLM_DESCRIPTOR_BYTES;
}

size_t slm_area_range_bytes(size_t granules)
{
    return bytes_below_heap(granules) + granules * SLM_GRANULE + percpu_bytes(granules);
}

void slm_area_place_range(char *start, size_t granules)
{
    slm_range.descriptors = start;
    slm_range.metadata = start + granules * SLM_DESCRIPTOR_BYTES;
    slm_range.heap = start + bytes_below_heap(granules);
    slm_range.percpu = slm_range.heap + granules * SLM_GRANULE;
    slm_range.granules = granules;
    slm_range.percpu_bytes = percpu_bytes(granules);
}

void slm_area_cut(unsigned nodes)
{
    slm_range.node_mask = nodes == 1 ? 0 : (2u << slm_log2(nodes - 1)) - 1;
    slm_range.area_shift = slm_log2(slm_range.granules / slm_area_count());
    slm_range.metadata_part = metadata_bytes(slm_range.granules) / (slm_range.node_mask + 1);
}
