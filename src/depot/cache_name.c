/* Names, merging, ids; see cache_name.h. After a fork that caught the cache mutex held the lists are as they were:
 * links are written so that lists can be walked forward at any moment, and what was half made is lost. */
#include "depot/cache_name.h"

#include <errno.h>
#include <string.h>

#include "base/panic.h"
#include "page/metadata.h"

enum { kept_aside = 256, buckets = 64, cacheline = 64, natural_most = 16, unit = 8 };

static struct slm_list names = {&names, &names};
static struct slm_list class_names = {&class_names, &class_names}; /* made when a visitor first asks */
static struct slm_list aside = {&aside, &aside};
static unsigned aside_count;
static slm_sparse struct slm_cache *merging[buckets];
static struct slm_cache *leaving, *unused;     /* linked by `next`, as those above */
static uint32_t lowest_free = SLM_NAMED_FIRST; /* every id below is taken */

static struct slab_cache *name_at(struct slm_list *link)
{
    return slm_container(link, struct slab_cache, link);
}

/* -- caches ------------------------------------------------------------------------------------------------------ */

static size_t alignment_for(size_t size, const struct slab_cache_attr *attr)
{
    size_t align = attr->align != 0 ? attr->align : slm_min(size & -size, natural_most);
    if (attr->flags & SLAB_CACHELINE_ALIGN) {
        size_t line = cacheline;
        while (size <= line / 2)
            line /= 2;
        align = slm_max(align, line);
    }
    return slm_max(align, unit);
}

static slm_seldom bool may_merge(const struct slab_cache_attr *attr)
{
    const unsigned apart = SLAB_NO_MERGE | SLAB_TYPESAFE_BY_EPOCH | SLAB_ACCOUNT;
    return !(attr->flags & apart) && !attr->ctor && !attr->dtor && attr->limit_bytes == 0 &&
           attr->magazine_rounds == 0;
}

static struct slm_cache **bucket_of(size_t object_size, size_t align)
{
    return &merging[(object_size / unit + align * 7) % buckets];
}

static struct slm_cache *find_alike(size_t object_size, size_t align)
{
    struct slm_cache *cache = *bucket_of(object_size, align);
    while (cache && (cache->shape.object_size != object_size || cache->align != align))
        cache = cache->next;
    return cache;
}

static void link_cache(struct slm_cache **list, struct slm_cache *cache)
{
    cache->next = *list;
    *list = cache;
}

static void unlink_cache(struct slm_cache **at, const struct slm_cache *cache)
{
    while (*at && *at != cache)
        at = &(*at)->next;
    if (*at)
        *at = cache->next;
}

static struct slm_cache *new_cache(void)
{
    struct slm_cache *cache = unused;
    if (cache)
        unused = cache->next;
    else if ((cache = slm_metadata_alloc(sizeof *cache + sizeof(struct slm_cache_own))))
        memset(cache, 0, sizeof *cache + sizeof(struct slm_cache_own));
    return cache;
}

/* All but what depots and the list of caches keep. */
static void describe(struct slm_cache *cache, size_t object_size, size_t align, const struct slab_cache_attr *attr)
{
    const bool typesafe = attr->flags & SLAB_TYPESAFE_BY_EPOCH;
    struct slm_cache_own *own = slm_cache_own(cache);
    cache->shape = (struct slm_slab_shape){.object_size = (uint32_t)object_size,
                                           .alignment = (uint16_t)(align >> SLM_GRANULE_SHIFT)};
    own->hooks = (struct slm_object_hooks){.constructor = attr->ctor,
                                           .destructor = attr->dtor,
                                           .context = attr->context,
                                           .cache_name = own->name,
                                           .typesafe = typesafe};
    if (attr->ctor || attr->dtor || typesafe)
        cache->shape.hooks = &own->hooks;
    own->limit = (struct slm_limit){.objects = attr->limit_bytes / object_size, .bytes = attr->limit_bytes};
    if (attr->limit_bytes != 0)
        cache->shape.limit = &own->limit;
    store_relaxed(&cache->fixed_rounds, attr->magazine_rounds);
    store_relaxed(&cache->fixed_magazines, 0);
    cache->align = (uint32_t)align;
    cache->merges = may_merge(attr);
    cache->names = 0;
    cache->first_name = NULL;
}

static struct slm_cache *make_cache(const char *name, size_t object_size, size_t align,
                                    const struct slab_cache_attr *attr)
{
    while (lowest_free < SLM_CACHE_IDS && slm_cache_of(lowest_free))
        lowest_free++;
    struct slm_cache *cache = lowest_free < SLM_CACHE_IDS ? new_cache() : NULL;
    if (!cache)
        return NULL;
    memcpy(slm_cache_own(cache)->name, name, SLM_CACHE_NAME_BYTES);
    describe(cache, object_size, align, attr);
    cache->id = (uint16_t)lowest_free;
    slm_cache_add(cache);
    if (cache->merges)
        link_cache(bucket_of(object_size, align), cache);
    return cache;
}

/* -- names ------------------------------------------------------------------------------------------------------- */

static struct slab_cache *new_name(void)
{
    struct slab_cache *named;
    if (aside_count > kept_aside) {
        named = name_at(aside.next);
        slm_list_remove(&named->link);
        aside_count--;
    } else {
        named = slm_metadata_alloc(sizeof *named);
    }
    if (named)
        memset(named, 0, sizeof *named);
    return named;
}

/* A destroyed name that no visitor pins. */
static slm_seldom void put_aside(struct slab_cache *named)
{
    slm_list_remove(&named->link);
    slm_list_insert_before(&aside, &named->link);
    aside_count++;
}

static slm_seldom void lead_to(struct slab_cache *named, struct slm_cache *cache, bool zero)
{
    named->zero = zero;
    const bool marked = cache->shape.limit || !cache->shape.keyed;
    named->keyed = cache->shape.keyed;
    named->alloc_slot_offset = zero || marked ? 0 : cache->shape.slot_offset;
    named->marked_slot_offset = !zero && marked ? cache->shape.slot_offset : 0;
    named->free_slot_offset = slm_slab_map_offset(&cache->shape);
    store_release(&named->cache, cache);
}

_Noreturn slm_slow void slm_cache_name_refuse(const struct slab_cache *named, const char *call)
{
    slm_panic(call, named, named ? "a destroyed cache" : "NULL is no cache", NULL, 0);
}

slm_seldom struct slab_cache *slm_cache_name_create(const char *name, size_t size, const struct slab_cache_attr *attr)
{
    const size_t align = alignment_for(size, attr), object_size = slm_align_up(size, align);
    slm_cache_name_sweep(0);
    struct slab_cache *named = new_name();
    if (!named)
        return NULL;
    memcpy(named->name, name, strnlen(name, sizeof named->name - 1));
    struct slm_cache *cache = may_merge(attr) ? find_alike(object_size, align) : NULL;
    if (!cache)
        cache = make_cache(named->name, object_size, align, attr);
    if (!cache) {
        slm_list_insert_after(&aside, &named->link); /* at the head, where it came from */
        aside_count++;
        errno = ENOMEM;
        return NULL;
    }
    if (cache->names++ == 0)
        cache->first_name = named;
    named->size = (uint32_t)size;
    lead_to(named, cache, attr->flags & SLAB_ZERO);
    slm_list_insert_before(&names, &named->link);
    return named;
}

/* The oldest other name of its cache, which comes later in the list as this one was the oldest. */
static struct slab_cache *next_name_of(const struct slab_cache *named, const struct slm_cache *cache)
{
    struct slm_list *at = named->link.next;
    while (at != &names && load_relaxed(&name_at(at)->cache) != cache)
        at = at->next;
    return at == &names ? NULL : name_at(at);
}

slm_seldom void slm_cache_name_drop(struct slab_cache *named)
{
    struct slm_cache *cache = load_relaxed(&named->cache);
    if (cache->first_name == named)
        cache->first_name = cache->names > 1 ? next_name_of(named, cache) : NULL;
    cache->names--;
    named->alloc_slot_offset = named->marked_slot_offset = 0;
    named->zero = false;
    named->free_slot_offset = SLM_SLOT_OFFSET_NEVER;
    store_relaxed(&named->cache, NULL);
    if (named->pins == 0)
        put_aside(named);
}

slm_seldom void slm_cache_name_destroy(struct slab_cache *named, uint32_t recall)
{
    struct slm_cache *cache = load_relaxed(&named->cache);
    slm_cache_name_drop(named);
    if (cache->merges)
        unlink_cache(bucket_of(cache->shape.object_size, cache->align), cache);
    cache->recall = recall;
    cache->attended = true;
    link_cache(&leaving, cache);
}

bool slm_cache_name_some_leave(void)
{
    return leaving != NULL;
}

static bool has_come_home(struct slm_cache *cache)
{
    uint64_t out = 0;
    slm_for_each_depot (depot, cache)
        out += load_acquire(&depot->objects_out); /* pairs with slm_depot_give */
    return out == 0 && slm_cache_slabs(cache) == 0;
}

slm_seldom void slm_cache_name_sweep(uint32_t recalled)
{
    for (struct slm_cache **at = &leaving; *at;) {
        struct slm_cache *cache = *at;
        if (cache->attended || cache->recall > recalled || !has_come_home(cache)) {
            at = &cache->next;
            continue;
        }
        *at = cache->next;
        slm_cache_remove(cache);
        lowest_free = (uint32_t)slm_min(lowest_free, cache->id);
        link_cache(&unused, cache);
    }
}

/* -- visiting ---------------------------------------------------------------------------------------------------- */

slm_seldom void slm_cache_name_each(void (*visit)(const char *name, struct slm_cache *cache, void *context),
                                    void *context)
{
    for (struct slm_list *at = names.next; at != &names; at = at->next) {
        struct slm_cache *cache = load_relaxed(&name_at(at)->cache);
        if (cache)
            visit(name_at(at)->name, cache, context);
    }
}

slm_seldom struct slm_cache *slm_cache_name_find(const char *name, unsigned first)
{
    struct slm_cache *found = NULL;
    for (struct slm_list *at = names.next; at != &names; at = at->next) {
        struct slm_cache *cache = load_relaxed(&name_at(at)->cache);
        if (cache && cache->id >= first && (!found || cache->id < found->id) && strcmp(name_at(at)->name, name) == 0)
            found = cache;
    }
    return found;
}

/* Those that there was no memory for are named at the next visit. */
static void name_classes(void)
{
    static unsigned class;
    for (struct slab_cache *named; class < SLM_CLASSES && (named = slm_metadata_alloc(sizeof *named)); class ++) {
        memset(named, 0, sizeof *named);
        slm_cache_name_class(named->name, class);
        named->size = slm_class_size[class];
        lead_to(named, slm_class_cache(class), false);
        slm_list_insert_before(&class_names, &named->link);
    }
}

static struct slab_cache *live_from(struct slm_list *at, const struct slm_list *end)
{
    while (at != end && !load_relaxed(&name_at(at)->cache))
        at = at->next;
    return at == end ? NULL : name_at(at);
}

slm_seldom struct slab_cache *slm_cache_name_next(struct slab_cache *after)
{
    name_classes();
    const bool in_classes =
        !after || (load_relaxed(&after->cache) && slm_cache_is_class(load_relaxed(&after->cache)));
    struct slab_cache *next = NULL;
    if (in_classes)
        next = live_from(after ? after->link.next : class_names.next, &class_names);
    if (!next)
        next = live_from(in_classes ? names.next : after->link.next, &names);
    if (next)
        next->pins++;
    if (after)
        slm_cache_name_unpin(after);
    return next;
}

void slm_cache_name_unpin(struct slab_cache *named)
{
    if (--named->pins == 0 && !load_relaxed(&named->cache))
        put_aside(named);
}
