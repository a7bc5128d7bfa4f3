/* The figures as glibc shows them; see malloc_info.h. */
#include "figures/malloc_info.h"

#include "base/cancel.h"
#include "base/options.h"
#include "depot/cache.h"
#include "figures/figures.h"
#include "sample/samples.h"

/* arena: mapped for objects; ordblks: slabs; uordblks: handed out; fordblks: the rest; keepcost: could be given back
 * now. No object is a mapping of its own: hblks and hblkhd are 0, and uordblks includes large objects. */
slm_seldom struct mallinfo2 slm_malloc_info(void)
{
    struct slab_stats stats;
    slm_figures_gather(&stats);
    return (struct mallinfo2){
        .arena = stats.reserved_bytes,
        .ordblks = stats.slabs_made - stats.slabs_released,
        .uordblks = stats.live_bytes,
        .fordblks = stats.reserved_bytes - stats.live_bytes,
        .keepcost = stats.dirty_bytes,
    };
}

slm_seldom void slm_malloc_info_print_stats(FILE *out)
{
    slm_keep_from_cancel();
    const struct mallinfo2 info = slm_malloc_info();
    fprintf(out, "system bytes     = %10zu\nin use bytes     = %10zu\ncould go bytes   = %10zu\n", info.arena,
            info.uordblks, info.keepcost);
    const struct slm_samples_sum live = slm_samples_live();
    fprintf(out, "sampled, one in  = %10lu bytes\nlive samples     = %10lu\nestimated live   = %10lu\n",
            slm_setting(sample_bytes), live.samples, live.bytes);
}

/* The free objects in stock, if the class was ever used. */
static slm_seldom void print_class(unsigned class, FILE *out)
{
    const unsigned size = slm_class_size[class], from = class == 0 ? 1 : slm_class_size[class - 1] + 1u;
    uint64_t rounds = 0, slabs = 0;
    struct slm_cache *cache = load_acquire(&slm_class_caches[class]); /* pairs with slm_class_cache_make */
    if (!cache)
        return;
    slm_for_each_depot (depot, cache) {
        rounds += load_relaxed(&depot->stock_rounds);
        slabs += load_relaxed(&depot->slabs_made);
    }
    if (slabs > 0)
        fprintf(out, "<size from=\"%u\" to=\"%u\" total=\"%lu\" count=\"%lu\"/>\n", from, size, rounds * size,
                rounds);
}

slm_seldom void slm_malloc_info_print_xml(FILE *out)
{
    slm_keep_from_cancel();
    struct slab_stats stats;
    slm_figures_gather(&stats);
    fputs("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n", out);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        print_class(class, out);
    fprintf(out,
            "</sizes>\n<total type=\"fast\" count=\"%lu\" size=\"%lu\"/>\n<total type=\"rest\" count=\"0\" "
            "size=\"%lu\"/>\n<system type=\"current\" size=\"%lu\"/>\n<aspace type=\"total\" size=\"%lu\"/>\n"
            "</heap>\n",
            stats.threads, stats.cached_bytes, stats.dirty_bytes, stats.reserved_bytes, stats.reserved_bytes);
    const struct slm_samples_sum live = slm_samples_live();
    fprintf(out, "<sampling interval=\"%lu\" samples=\"%lu\" estimated_bytes=\"%lu\"/>\n</malloc>\n",
            slm_setting(sample_bytes), live.samples, live.bytes);
}
