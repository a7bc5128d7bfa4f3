/* Frees that say how many bytes were requested: is that so? See sized.h. */
#include "heap/sized.h"

#include "base/errno.h"
#include "base/options.h"
#include "base/panic.h"
#include "heap/guarded.h"
#include "slab/large.h"

/* What the pointer leads to. */
struct object {
    const struct slm_cache *cache; /* NULL: it is a large object, or none */
    size_t usable;                 /* 0: none that is live */
    bool sampled;                  /* and small: its cache may be another class's */
    size_t asked;                  /* of a sampled one */
};

static slm_seldom struct object object_at(const void *pointer, const char *call)
{
    if (!pointer)
        return (struct object){0};
    slm_keep_errno();
    slm_fork_check();
    const struct slm_large *large = slm_large_of(pointer);
    if (large)
        return (struct object){.usable = slm_large_is_retired(large) ? 0 : large->usable};
    const struct slm_cache *cache = slm_freed_check(pointer, call, slm_double_free);
    if (cache) {
        struct object object = {.cache = cache, .usable = cache->shape.object_size};
        object.sampled = slm_sampled_asked(pointer, &object.asked);
        return object;
    }
    const size_t usable = slm_guarded_usable(pointer, call, slm_double_free);
    return (struct object){slm_guarded_cache(pointer, call, slm_double_free), usable, true, usable};
}

/* The class that a request gets, or SLM_CLASSES: a span of its own. As slm_aligned_alloc has it. */
static unsigned class_for(size_t n, size_t alignment)
{
    const size_t rounded = slm_size_of_aligned(n, alignment);
    const bool small = n <= SLM_SMALL_MAX && rounded <= SLM_SMALL_MAX;
    return small ? slm_class_of_size(rounded) : SLM_CLASSES;
}

static bool is_aligned(const void *pointer, size_t alignment)
{
    return ((uintptr_t)pointer & (alignment - 1)) == 0 || !slm_is_power_of_two(alignment);
}

/* What slm_sized_exactly leaves. */
static __attribute__((noinline)) slm_seldom bool is_exact(const void *pointer, size_t n, size_t alignment,
                                                          unsigned class, const char *call)
{
    const struct object object = object_at(pointer, call);
    if (object.usable == 0 || slm_options.check_sizes == 0)
        return true;
    if (!is_aligned(pointer, alignment))
        return false;
    if (!object.cache)
        return class == SLM_CLASSES && slm_large_usable_for(object.usable) == slm_large_usable_for(n);
    if (!slm_cache_is_class(object.cache))
        return n <= object.usable;
    return object.cache->id == class || (object.sampled && class_for(object.asked, alignment) == class);
}

/* Every full magazine leads to here. */
slm_cold bool slm_sized_exactly(const void *pointer, size_t n, size_t alignment, const char *call)
{
    const unsigned class = class_for(n, alignment);
    if (likely(class != SLM_CLASSES) &&
        (likely(slm_map_offset_at(pointer) == slm_slot_offset_of(class)) || slm_take_back_lent(pointer, class)))
        return true;
    return is_exact(pointer, n, alignment, class, call);
}

slm_seldom bool slm_sized_within(const void *pointer, size_t n, size_t alignment, const char *call)
{
    const size_t slot_offset = slm_map_offset_at(pointer);
    if (likely(slot_offset != 0) && likely(n <= slm_page_map_size(slot_offset)) &&
        likely(is_aligned(pointer, alignment)))
        return true;
    const struct object object = object_at(pointer, call);
    return object.usable == 0 || slm_options.check_sizes == 0 ||
           (n <= object.usable && is_aligned(pointer, alignment));
}

_Noreturn slm_seldom void slm_sized_refuse(const void *pointer, size_t n, size_t alignment, const char *call)
{
    const struct object object = object_at(pointer, call);
    struct slm_line line = {0};
    slm_line_add(&line, "size %lu", n);
    if (alignment > 1)
        slm_line_add(&line, " and alignment %lu", alignment);
    slm_line_text(&line, " given for an object");
    slm_panic(call, pointer, line.text, object.cache ? object.cache->first.cache_name : NULL, object.usable);
}
