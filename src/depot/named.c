/* Names, merging, numbers; see named.h. After a fork that caught the cache mutex held the lists are as they were:
 * links are written so that a walk forward finds its way at any moment, and what was half made is lost. */
#include "depot/named.h"

#include <errno.h>
#include <string.h>

#include "os/topology.h"
#include "page/metadata.h"
#include "page/page_map.h"

enum { kept_aside = 256, buckets = 64, cacheline = 64, natural_most = 16, unit = 8 };

/* A cache that names lead to. Its memory is only ever used for such again. */
struct group {
    struct slm_cache cache;
    struct slm_slab_life life;
    struct slm_account account;
    struct slab_cache *first; /* the oldest of its names; NULL: it waits to be got rid of */
    uint32_t names;
    uint32_t align;
    uint32_t recall; /* while it waits: see slm_named_destroy */
    bool held;
    struct group *next; /* of its bucket, or of those that wait, or of those that are unused */
    bool merges;
    char name[64]; /* the first there was */
};

static struct slm_list names = {&names, &names};
static struct slm_list class_names = {&class_names, &class_names}; /* made when a visitor first asks */
static struct slm_list aside = {&aside, &aside};
static unsigned aside_count;
static struct group *merging[buckets], *leaving, *unused;
static uint32_t direct_hint = SLM_NAMED_FIRST, far_hint = SLM_DIRECT; /* below, every number is taken */

static struct group *group_of(struct slm_cache *cache)
{
    return slm_container(cache, struct group, cache);
}

static bool is_class(const struct slm_cache *cache)
{
    return cache->number < SLM_CLASSES;
}

/* -- numbers ----------------------------------------------------------------------------------------------------- */

/* The lowest run of one or two free numbers from *hint on, below which none is free; `end`: there is none. */
static uint32_t free_number(uint32_t *hint, uint32_t end, uint32_t run)
{
    while (*hint < end && slm_cache_of(*hint))
        ++*hint;
    uint32_t number = *hint;
    while (number + run <= end && (slm_cache_of(number) || slm_cache_of(number + run - 1)))
        number++;
    return number + run <= end ? number : end;
}

/* Two for an accounted cache, whose own is the second. SLM_NUMBERS: all are taken. */
static uint32_t pick_number(bool accounted)
{
    const uint32_t number = free_number(&direct_hint, SLM_DIRECT, 1 + accounted);
    return number < SLM_DIRECT ? number + accounted : free_number(&far_hint, SLM_NUMBERS, 1);
}

static void return_numbers(const struct slm_cache *cache)
{
    uint32_t *hint = slm_cache_is_far(cache) ? &far_hint : &direct_hint;
    *hint = (uint32_t)slm_min(*hint, cache->number - (cache->account != NULL));
}

/* -- groups ------------------------------------------------------------------------------------------------------ */

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

static bool may_merge(const struct slab_cache_attr *attr)
{
    const unsigned apart = SLAB_NO_MERGE | SLAB_TYPESAFE_BY_EPOCH | SLAB_ACCOUNT;
    return !(attr->flags & apart) && !attr->ctor && !attr->dtor && attr->limit_bytes == 0 &&
           attr->magazine_rounds == 0;
}

static struct group **bucket_of(size_t object_size, size_t align)
{
    return &merging[(object_size / unit + align * 7) % buckets];
}

static struct group *find_alike(size_t object_size, size_t align)
{
    struct group *group = *bucket_of(object_size, align);
    while (group && (group->cache.shape.object_size != object_size || group->align != align))
        group = group->next;
    return group;
}

static void unlink_group(struct group **at, const struct group *group)
{
    while (*at && *at != group)
        at = &(*at)->next;
    if (*at)
        *at = group->next;
}

static struct group *new_group(void)
{
    struct group *group = unused;
    if (group) {
        unused = group->next;
        return group;
    }
    group = slm_metadata_alloc(sizeof *group);
    if (group)
        memset(group, 0, sizeof *group);
    return group;
}

static void describe(struct group *group, size_t object_size, const struct slab_cache_attr *attr)
{
    struct slm_cache *cache = &group->cache;
    const bool accounted = attr->limit_bytes != 0 || (attr->flags & SLAB_ACCOUNT);
    const bool typesafe = attr->flags & SLAB_TYPESAFE_BY_EPOCH;
    cache->name = group->name;
    cache->shape = (struct slm_slab_shape){.object_size = (uint32_t)object_size,
                                           .alignment = (uint16_t)(group->align >> SLM_GRANULE_SHIFT)};
    group->life = (struct slm_slab_life){
        .constructor = attr->ctor, .destructor = attr->dtor, .context = attr->context, .typesafe = typesafe};
    if (attr->ctor || attr->dtor || typesafe)
        cache->shape.life = &group->life;
    group->account = (struct slm_account){.limit = attr->limit_bytes ? attr->limit_bytes / object_size : UINT64_MAX,
                                          .limit_bytes = attr->limit_bytes};
    cache->account = accounted ? &group->account : NULL;
    store_relaxed(&cache->fixed_rounds, attr->magazine_rounds);
    cache->fixed_magazines = 0;
}

static struct group *make_group(const char *name, size_t object_size, size_t align,
                                const struct slab_cache_attr *attr)
{
    struct group *group = new_group();
    if (!group)
        return NULL;
    struct slm_cache *cache = &group->cache;
    group->align = (uint32_t)align;
    group->names = 0;
    group->first = NULL;
    memcpy(group->name, name, sizeof group->name);
    describe(group, object_size, attr);
    cache->number = pick_number(cache->account != NULL);
    if (cache->number == SLM_NUMBERS) {
        group->next = unused;
        unused = group;
        return NULL;
    }
    cache->shape.place = SLM_PLACE_CLOSED;
    if (!slm_cache_is_far(cache)) {
        cache->shape.place = (uint16_t)slm_place_of_number(cache->number - (cache->account != NULL));
        slm_page_map_set_size(cache->shape.place, cache->shape.object_size);
    }
    slm_cache_add(cache);
    group->merges = may_merge(attr);
    if (group->merges) {
        struct group **bucket = bucket_of(object_size, align);
        group->next = *bucket;
        *bucket = group;
    }
    return group;
}

/* -- names ------------------------------------------------------------------------------------------------------- */

static struct slab_cache *new_name(void)
{
    struct slab_cache *named;
    if (aside_count > kept_aside) {
        named = slm_container(aside.next, struct slab_cache, link);
        slm_list_remove(&named->link);
        aside_count--;
    } else {
        named = slm_metadata_alloc(sizeof *named);
    }
    if (named)
        memset(named, 0, sizeof *named);
    return named;
}

static void put_aside(struct slab_cache *named)
{
    slm_list_insert_before(&aside, &named->link);
    aside_count++;
}

static void lead_to(struct slab_cache *named, struct slm_cache *cache, bool zero)
{
    named->zero = zero;
    named->counted = cache->account && !slm_cache_is_far(cache) && !zero;
    named->alloc_place = zero ? SLM_PLACE_CLOSED : cache->shape.place;
    named->free_place = slm_cache_is_far(cache) ? SLM_PLACE_NEVER : cache->shape.place;
    store_release(&named->cache, cache);
}

slm_seldom struct slab_cache *slm_named_create(const char *name, size_t size, const struct slab_cache_attr *attr)
{
    const size_t align = alignment_for(size, attr), object_size = slm_align_up(size, align);
    slm_named_sweep(0);
    struct slab_cache *named = new_name();
    if (!named)
        return NULL;
    memcpy(named->name, name, strnlen(name, sizeof named->name - 1));
    struct group *group = may_merge(attr) ? find_alike(object_size, align) : NULL;
    if (!group)
        group = make_group(named->name, object_size, align, attr);
    if (!group) {
        slm_list_insert_after(&aside, &named->link); /* in front, where it came from: others wait their turn */
        aside_count++;
        errno = ENOMEM;
        return NULL;
    }
    if (group->names++ == 0)
        group->first = named;
    lead_to(named, &group->cache, attr->flags & SLAB_ZERO);
    slm_list_insert_before(&names, &named->link);
    return named;
}

unsigned slm_named_count(const struct slm_cache *cache)
{
    return is_class(cache) ? 1 : slm_container(cache, struct group, cache)->names;
}

struct slab_cache *slm_named_first(const struct slm_cache *cache)
{
    return is_class(cache) ? NULL : slm_container(cache, struct group, cache)->first;
}

/* The oldest other name of its cache: behind it, as it was the oldest. */
static struct slab_cache *next_of_group(const struct slab_cache *named, const struct slm_cache *cache)
{
    struct slm_list *at = named->link.next;
    while (at != &names && load_relaxed(&slm_container(at, struct slab_cache, link)->cache) != cache)
        at = at->next;
    return at == &names ? NULL : slm_container(at, struct slab_cache, link);
}

static void forget(struct slab_cache *named)
{
    named->counted = false;
    named->alloc_place = SLM_PLACE_CLOSED;
    named->free_place = SLM_PLACE_NEVER;
    store_relaxed(&named->cache, NULL);
    if (named->pins == 0) {
        slm_list_remove(&named->link);
        put_aside(named);
    }
}

slm_seldom void slm_named_drop(struct slab_cache *named)
{
    struct slm_cache *cache = load_relaxed(&named->cache);
    struct group *group = group_of(cache);
    if (group->first == named)
        group->first = group->names > 1 ? next_of_group(named, cache) : NULL;
    group->names--;
    forget(named);
}

slm_seldom void slm_named_destroy(struct slab_cache *named, uint32_t recall)
{
    struct group *group = group_of(load_relaxed(&named->cache));
    slm_named_drop(named);
    if (group->merges)
        unlink_group(bucket_of(group->cache.shape.object_size, group->align), group);
    group->recall = recall;
    group->held = true;
    group->next = leaving;
    leaving = group;
}

slm_seldom void slm_named_settle(struct slm_cache *cache)
{
    group_of(cache)->held = false;
}

bool slm_named_some_wait(void)
{
    return leaving != NULL;
}

static bool has_come_home(struct slm_cache *cache)
{
    uint64_t out = 0;
    for (unsigned node = 0; node < slm_nodes; node++) {
        const struct slm_depot *depot = slm_cache_depot_made(cache, node);
        out += depot ? load_acquire(&depot->objects_out) : 0; /* pairs with slm_depot_give */
    }
    return out == 0 && slm_cache_slabs(cache) == 0;
}

slm_seldom void slm_named_sweep(uint32_t recalled)
{
    for (struct group **at = &leaving; *at;) {
        struct group *group = *at;
        if (group->held || group->recall > recalled || !has_come_home(&group->cache)) {
            at = &group->next;
            continue;
        }
        *at = group->next;
        slm_cache_remove(&group->cache);
        return_numbers(&group->cache);
        group->next = unused;
        unused = group;
    }
}

/* -- visiting ---------------------------------------------------------------------------------------------------- */

static void name_classes(void)
{
    if (class_names.next != &class_names)
        return;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slab_cache *named = slm_metadata_alloc(sizeof *named);
        if (!named)
            return;
        memset(named, 0, sizeof *named);
        memcpy(named->name, slm_class_caches[class].name, strlen(slm_class_caches[class].name));
        lead_to(named, &slm_class_caches[class], false);
        slm_list_insert_before(&class_names, &named->link);
    }
}

static struct slab_cache *live_from(struct slm_list *at, const struct slm_list *end)
{
    while (at != end && !load_relaxed(&slm_container(at, struct slab_cache, link)->cache))
        at = at->next;
    return at == end ? NULL : slm_container(at, struct slab_cache, link);
}

slm_seldom struct slab_cache *slm_named_next(struct slab_cache *after)
{
    name_classes();
    const bool in_classes = !after || (load_relaxed(&after->cache) && is_class(load_relaxed(&after->cache)));
    struct slab_cache *next = NULL;
    if (in_classes)
        next = live_from(after ? after->link.next : class_names.next, &class_names);
    if (!next)
        next = live_from(in_classes ? names.next : after->link.next, &names);
    if (next)
        next->pins++;
    if (after)
        slm_named_unpin(after);
    return next;
}

void slm_named_unpin(struct slab_cache *named)
{
    if (--named->pins == 0 && !load_relaxed(&named->cache)) {
        slm_list_remove(&named->link);
        put_aside(named);
    }
}
