/* Populating slabs; see fresh.h. */
#include "slab/fresh.h"

#include "os/vm.h"

/* A call for four pages saves as much of each as one for sixteen, and leaves less unused; for one it may save
 * nothing. A call's pages end where a step does. */
enum { step_pages = 4, least_pages = 2 };

/* A thread that refills for the first time may use only one of the rounds, as hundreds may that then sleep. Later
 * refills are for more. */
enum { few_rounds = 5, many_bytes = 32 << 10 };

/* Pages on which objects lie. */
static slm_for_few unsigned pages_of(const struct slm_slab *slab)
{
    return (unsigned)(slm_align_up((size_t)slab->objects * slab->object_size, slm_page_size) / slm_page_size);
}

static slm_for_few unsigned page_of(const struct slm_slab *slab, const char *pointer)
{
    return (unsigned)((size_t)(pointer - slm_slab_start(slab)) / slm_page_size);
}

/* Of objects of a page at most each page has a first word, which is written. Long slabs are left to their faults. */
slm_for_few void slm_fresh_start_slow(struct slm_slab *slab)
{
    const size_t size = slab->object_size;
    const char *start = slm_slab_start(slab);
    if (size <= SLM_SMALL_MAX &&
        (size <= slm_page_size || slm_populate_expects_writes(size, start, pages_of(slab) * slm_page_size)))
        slab->span.fresh = 1;
}

static slm_for_few void set_ahead(struct slm_slab *slab, unsigned pages)
{
    const uint64_t more = ((uint64_t)pages - slab->span.ahead) * slm_page_size; /* modulo 2^64 */
    if (more != 0)
        add_relaxed(&slm_populate_ahead_bytes, more);
    slab->span.ahead = pages & 63;
}

slm_for_few void slm_fresh_end(struct slm_slab *slab)
{
    set_ahead(slab, 0);
    slab->span.fresh = 0;
}

/* The slab's pages from `begin` on are fresh, those before `handed` were handed out before, and those before `end`
 * are now. Returns where the fresh ones begin from here on. */
static slm_for_few unsigned populate(struct slm_slab *slab, unsigned handed, unsigned begin, unsigned end)
{
    const size_t room = slm_populate_room() / slm_page_size + slab->span.ahead;
    const size_t wanted = slm_min(slm_align_up(end, step_pages), pages_of(slab));
    const size_t to = slm_min(wanted, handed + room);
    if (to < begin + least_pages)
        return end;
    set_ahead(slab, (unsigned)to - handed);
    slm_populate(slm_slab_start(slab) + begin * slm_page_size, (to - begin) * slm_page_size);
    return (unsigned)slm_max(to, end);
}

/* Below the first round's page all was handed out before: objects that have come back lie there, too. */
slm_for_few unsigned slm_fresh_take(struct slm_slab *slab, unsigned wanted, void **rounds)
{
    const unsigned n = slm_slab_take(slab, wanted, rounds);
    if (n == 0)
        return 0;
    const unsigned begin = slab->span.fresh - 1u, first = page_of(slab, rounds[0]);
    const unsigned end = page_of(slab, (char *)rounds[n - 1] + slab->object_size - 1) + 1;
    const unsigned handed = (unsigned)slm_max(first, begin - slab->span.ahead);
    set_ahead(slab, handed < begin ? begin - handed : 0);
    const bool grown = wanted > few_rounds || (size_t)wanted * slab->object_size >= many_bytes;
    if (end > begin)
        slab->span.fresh = ((grown ? populate(slab, handed, begin, end) : end) + 1) & 31;
    if (end == pages_of(slab))
        slm_fresh_end(slab);
    return n;
}
