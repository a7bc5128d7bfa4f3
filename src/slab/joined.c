/* The bits of joined objects; see joined.h. */
#include "slab/joined.h"

#include "base/panic.h"
#include "page/metadata.h"
#include "slab/key.h"
#include "slab/pages.h"

/* Room for the bits, once and for all. */
static slm_seldom bool start(struct slm_slab *slab)
{
    const unsigned words = slm_slab_words(slab);
    if (slm_slab_joins(slab))
        return true;
    _Atomic uint64_t *joined =
        words * 2 <= SLM_SLAB_WORDS ? slab->inside + words : slm_metadata_alloc(words * sizeof(uint64_t));
    if (!joined)
        return false;
    for (unsigned word = 0; word < words; word++)
        store_relaxed(&joined[word], 0);
    store_release(&slab->joined, joined); /* pairs with slm_slab_joins */
    return true;
}

/* The bits of so many pieces from `bit` on. */
static uint64_t run_at(unsigned bit, unsigned pieces)
{
    return (pieces == 64 ? ~(uint64_t)0 : ((uint64_t)1 << pieces) - 1) << bit;
}

/* Those bits at which a run of so many begins. */
static slm_seldom uint64_t starts_of(uint64_t bits, unsigned pieces)
{
    unsigned have = 1;
    for (; have * 2 <= pieces; have *= 2)
        bits &= bits >> have;
    return have < pieces ? bits & bits >> (pieces - have) : bits;
}

/* The bits of a word, of any word, that are objects at multiples of the alignment. */
static slm_seldom uint64_t aligned_starts(const struct slm_slab *slab, size_t alignment)
{
    const size_t own = slab->object_size & -slab->object_size;
    uint64_t starts = 1;
    for (size_t every = slm_max(alignment / own, 1); every < 64; every *= 2)
        starts |= starts << every;
    return alignment / own > 64 ? 0 : starts;
}

/* Take up to n runs of a word, at these starts. */
static slm_seldom unsigned take_word(struct slm_slab *slab, unsigned word, uint64_t starts, unsigned pieces,
                                     unsigned n, void **rounds)
{
    uint64_t mine = 0, inner = 0;
    unsigned taken = 0;
    while (starts != 0 && taken < n) {
        const unsigned bit = (unsigned)__builtin_ctzll(starts);
        const uint64_t run = run_at(bit, pieces);
        rounds[taken++] = slm_slab_start(slab) + (size_t)(word * 64 + bit) * slab->object_size;
        mine |= run;
        inner |= run & (run - 1);
        starts &= ~run;
    }
    sub_relaxed(&slab->free, (int32_t)(taken * pieces)); /* first: see "The count" in slab.h */
    /* acquire: pairs with slm_slab_set_bits: what the last owners did is done, to the joined bits, too */
    atomic_fetch_and_explicit(&slab->bits[word], ~mine, memory_order_acquire);
    /* before the object is handed out, and so before whoever looks at it */
    atomic_fetch_or_explicit(&slab->joined[word], inner, memory_order_relaxed);
    return taken;
}

slm_seldom unsigned slm_joined_take(struct slm_slab *slab, unsigned pieces, size_t alignment, unsigned n,
                                    void **rounds)
{
    const int32_t there = load_acquire(&slab->free); /* pairs with slm_slab_count: so many bits can be seen */
    const uint64_t allowed = aligned_starts(slab, alignment);
    unsigned taken = 0;
    n = there <= 0 ? 0 : (unsigned)slm_min(n, (unsigned)there / pieces);
    for (unsigned word = 0; taken < n && word < slm_slab_words(slab); word++) {
        const uint64_t bits = load_relaxed(&slab->bits[word]) & slm_pages_resident(slab, word);
        const uint64_t starts = starts_of(bits, pieces) & allowed;
        if (starts == 0)
            continue;
        if (!start(slab))
            break;
        taken += take_word(slab, word, starts, pieces, n - taken, rounds + taken);
    }
    if (taken > 0)
        slm_slab_hide(slab);
    for (unsigned i = 0; i < taken; i++)
        slm_key_set(rounds[i], slm_key_of(rounds[i]));
    return taken;
}

slm_seldom bool slm_joined_any(const struct slm_slab *slab)
{
    const _Atomic uint64_t *joined = slm_slab_joins(slab);
    for (unsigned word = 0; joined && word < slm_slab_words(slab); word++)
        if (load_relaxed(&joined[word]) != 0)
            return true;
    return false;
}

/* The pieces of an object from the one at that bit on. */
static unsigned pieces_from(uint64_t inner, unsigned bit)
{
    return 1 + (unsigned)__builtin_ctzll(~(inner >> bit >> 1));
}

slm_seldom unsigned slm_joined_pieces(const struct slm_slab *slab, const void *pointer)
{
    const _Atomic uint64_t *joined = slm_slab_joins(slab);
    const uint32_t index = slm_slab_index(slab, pointer);
    if (!joined || index >= slab->objects)
        return 1;
    const uint64_t inner = load_relaxed(&joined[index / 64]);
    unsigned first = index % 64;
    while (first > 0 && unlikely(inner >> first & 1))
        first--;
    return pieces_from(inner, first);
}

/* The pieces get their keys as if each had been freed, and are no longer one. */
static slm_seldom void come_apart(struct slm_slab *slab, char *object, uint32_t index, unsigned pieces)
{
    const uint64_t run = run_at(index % 64, pieces);
    for (unsigned i = 1; i < pieces; i++)
        slm_key_set(object + (size_t)i * slab->object_size, slm_key_of(object));
    /* before the bits are set, by release: pairs with take_word */
    atomic_fetch_and_explicit(&slab->joined[index / 64], ~(run & (run - 1)), memory_order_relaxed);
}

slm_seldom unsigned slm_joined_give(struct slm_slab *slab, void *object, const char *call, const char *cache)
{
    const uint32_t index = slm_slab_index(slab, object);
    if (!slm_slab_is_object(slab, object))
        slm_panic(call, object, "not the start of an object", cache,
                  slm_joined_size(slab, slm_joined_pieces(slab, object)));
    const unsigned pieces = pieces_from(load_relaxed(&slab->joined[index / 64]), index % 64);
    if (pieces > 1)
        come_apart(slab, object, index, pieces);
    slm_slab_set_bits(slab, index / 64, run_at(index % 64, pieces), call, cache);
    return pieces;
}
