/* Calls with guarded objects; see guarded.h. */
#include "heap/guarded.h"

#include "base/errno.h"
#include "os/background.h"
#include "os/sys.h"
#include "page/free_spans.h"
#include "process/fault.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "sample/stacks.h"
#include "slab/key.h"
#include "thread/freed.h"

enum { LEAST_ALIGNMENT = 16 /* of what malloc gives */, APART_MS = 20 };

static const uint64_t bounded_from = 64 << 10;

/* -- making ------------------------------------------------------------------------------------------------------ */

/* What is cut from a slab's start is aligned to the largest power of two that divides its size: who asks for an
 * alignment gets no other (slm_size_of_aligned). */
static slm_for_few size_t natural_alignment(size_t n)
{
    return slm_min(n & -n, SLM_GRANULE);
}

/* A place costs some system calls. A program that does nothing but allocate has thousands of samples a second: there
 * one in 20 ms has guards. Who asks for samples that are much closer together asks for guards, too. */
static slm_for_few bool is_due(uint64_t mean)
{
    static slm_sparse _Atomic uint64_t due_ms;
    const uint64_t now_ms = slm_sys_now_ms();
    uint64_t due = load_relaxed(&due_ms);
    return mean < bounded_from || (now_ms >= due && atomic_compare_exchange_strong(&due_ms, &due, now_ms + APART_MS));
}

static slm_for_few struct slm_guard *make(void *stand_in, struct slm_sample_of *of, size_t n, size_t alignment,
                                          unsigned area)
{
    struct slm_guard *guard = is_due(of->mean) ? slm_guard_make(n, alignment, area) : NULL;
    if (!guard)
        return NULL;
    guard->stand_in = stand_in;
    guard->cache = of->cache;
    if (!stand_in)
        add_relaxed(&slm_free_spans_of(&guard->large.span)->large_bytes, guard->large.usable);
    of->object = guard->object;
    of->given = guard->large.usable;
    guard->stack = of->stack = slm_stacks_here();
    const uint32_t index = slm_samples_add(of);
    store_relaxed(&guard->large.sample, index);
    guard->thread = index == 0 ? 0 : slm_samples_at(index)->thread;
    return guard;
}

/* An object of a named cache is used to its end, as that is what its size says. */
slm_for_few void *slm_guarded_small(const struct slm_cache *cache, void *stand_in, size_t n, uint64_t mean)
{
    struct slm_sample_of of = {.asked = n, .mean = mean, .cache = cache->id};
    const bool is_class = slm_cache_is_class(cache);
    const size_t usable = slm_max(is_class ? n : cache->shape.object_size, 1);
    const size_t alignment = slm_max(natural_alignment(usable), is_class ? LEAST_ALIGNMENT : 1);
    const unsigned area = slm_area_for_large(slm_node_of(stand_in));
    struct slm_guard *guard = make(stand_in, &of, usable, alignment, area);
    return guard ? guard->object : NULL;
}

slm_for_few void *slm_guarded_large(size_t n, size_t alignment, unsigned area, uint64_t mean, bool *clean)
{
    struct slm_sample_of of = {.asked = n, .mean = mean, .cache = SLM_SAMPLE_LARGE};
    struct slm_guard *guard = make(NULL, &of, n, slm_max(alignment, LEAST_ALIGNMENT), area);
    if (!guard)
        return NULL;
    *clean = guard->clean;
    return guard->object;
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

/* The place of the object that starts there, live or retired; NULL: none lies there. */
static slm_seldom struct slm_guard *find(const void *pointer, const char *call, const char *what)
{
    struct slm_guard *guard = slm_guard_at(pointer);
    if (!guard)
        return NULL;
    if (pointer != guard->object)
        slm_fault_refuse(guard, pointer, call, "not the start of an object");
    if (slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE)
        slm_fault_refuse(guard, pointer, call, what);
    return guard;
}

slm_seldom size_t slm_guarded_usable(const void *pointer, const char *call, const char *what)
{
    const struct slm_guard *guard = find(pointer, call, what);
    return guard ? guard->large.usable : 0;
}

slm_seldom struct slm_cache *slm_guarded_cache(const void *pointer, const char *call, const char *what)
{
    const struct slm_guard *guard = find(pointer, call, what);
    return guard && guard->stand_in ? slm_cache_of_object(guard->stand_in) : NULL;
}

/* -- freeing ----------------------------------------------------------------------------------------------------- */

/* The caller's object from here on; `becomes`: its place's kind. */
static slm_for_few struct slm_guard *end(void *pointer, uint8_t becomes, const char *call)
{
    struct slm_guard *guard = find(pointer, call, slm_double_free);
    if (!guard)
        return NULL;
    if (!slm_guard_end(guard, becomes))
        slm_fault_refuse(guard, pointer, call, slm_double_free);
    const char *damage = slm_guard_damage(guard);
    if (damage)
        slm_fault_refuse(guard, pointer, call, damage);
    if (!guard->stand_in)
        sub_relaxed(&slm_free_spans_of(&guard->large.span)->large_bytes, guard->large.usable);
    guard->end_thread = slm_background_begin() ? slm_sys_thread_id() : 0;
    slm_background_end();
    return guard;
}

static slm_for_few void set_key(void *stand_in)
{
    if (slm_cache_of_object(stand_in)->shape.keyed)
        slm_key_set(stand_in, slm_key_of(stand_in));
}

static slm_for_few void give_stand_in(void *stand_in, const char *call)
{
    const uint8_t busy = slm_direct_begin();
    set_key(stand_in);
    slm_direct_count(stand_in);
    slm_depot_give(&stand_in, 1, call);
    slm_direct_end(busy);
}

slm_for_few bool slm_guarded_free(void *pointer, const char *call)
{
    slm_keep_errno();
    struct slm_guard *guard = end(pointer, SLM_SPAN_GUARDED_FREE, call);
    if (!guard)
        return false;
    void *stand_in = guard->stand_in;
    guard->end_stack = slm_stacks_here();
    slm_guard_put_away(guard, false);
    if (stand_in)
        give_stand_in(stand_in, call);
    slm_worker_note_slabs();
    return true;
}

slm_seldom bool slm_guarded_free_nolock(void *pointer, const char *call)
{
    struct slm_guard *guard = end(pointer, SLM_SPAN_GUARDED_FREE, call);
    if (!guard)
        return false;
    void *stand_in = guard->stand_in;
    slm_guard_put_away(guard, true);
    if (stand_in) {
        set_key(stand_in);
        slm_depot_give_nolock(stand_in, call);
        slm_direct_count(stand_in);
    }
    return true;
}

slm_seldom struct slm_large *slm_guarded_retire(void *pointer, const char *call)
{
    slm_keep_errno();
    struct slm_guard *guard = end(pointer, SLM_SPAN_GUARDED_RETIRED, call);
    if (!guard)
        return NULL;
    guard->end_stack = slm_stacks_here();
    return &guard->large;
}
