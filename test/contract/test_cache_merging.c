/* Merging: caches of the same rounded size and alignment are names of one and the same, unless an attribute tells
 * them apart.
 *
 * Written in: include/slabmalloc.h, slab_cache_create and slab_cache_destroy; SLUB's slab_unmergeable() is
 * the model. */
#include "caches.h"

/* Whether an object of the one counts as one of the other, too. */
static bool share(slab_cache *one, slab_cache *other)
{
    uint64_t before = active(other);
    void *object = take(one);
    bool shared = active(other) == before + 1;
    require(shared || active(other) == before);
    slab_cache_free(one, object);
    return shared;
}

static bool same_figures(slab_cache *one, slab_cache *other)
{
    slab_cache_stats a = figures(one), b = figures(other);
    memset(a.name, 0, sizeof a.name);
    memset(b.name, 0, sizeof b.name);
    return memcmp(&a, &b, sizeof a) == 0;
}

static void same_size_shares(const char *argument)
{
    (void)argument;
    enum { MANY = 3000 };
    static void *objects[MANY];
    slab_cache *one = make_cache("one", 56, NULL), *two = make_cache("two", 56, NULL);
    require(one != two);
    require(share(one, two) && share(two, one));
    for (size_t i = 0; i < MANY; i++)
        objects[i] = take(i % 2 ? one : two);
    require(active(one) == MANY && active(two) == MANY && same_figures(one, two));
    give_all(one, objects, MANY / 2);
    slab_cache_free_bulk(two, MANY / 2, objects + MANY / 2);
    require(active(one) == 0 && same_figures(one, two));
    slab_cache_shrink(one);
    require(same_figures(one, two) && figures(two).slabs <= 1);
    drop(one);
    drop(two);
}

static void one_alias_goes(slab_cache *goes, slab_cache *stays)
{
    void *of_goes = take(goes), *of_stays = take(stays);
    pattern_fill(of_goes, 56, 1);
    pattern_fill(of_stays, 56, 2);
    drop(goes);
    use_cache(stays, 5000);
    require(pattern_holds(of_goes, 56, 1) && pattern_holds(of_stays, 56, 2));
    require(active(stays) == 2);
    slab_cache_free(stays, of_stays);
    require(slab_cache_destroy(stays) == -1 && errno == EBUSY);
    use_cache(stays, 100);
    free(of_goes);
    drop(stays);
}

static void an_alias_goes(const char *argument)
{
    (void)argument;
    slab_cache *one = make_cache("one", 56, NULL), *two = make_cache("two", 56, NULL);
    one_alias_goes(one, two);
    one = make_cache("one", 56, NULL);
    two = make_cache("two", 56, NULL);
    one_alias_goes(two, one);
}

static void the_last_looks_for_live_objects(const char *argument)
{
    (void)argument;
    slab_cache *one = make_cache("first", 56, NULL), *two = make_cache("second", 56, NULL);
    void *objects[2];
    take_all(two, objects, 2);
    drop(two);
    require_busy(one, "slabmalloc: slab_cache_destroy: first has 2 live objects\n");
    slab_cache_free(one, objects[0]);
    require_busy(one, "slabmalloc: slab_cache_destroy: first has 1 live object\n");
    slab_cache_free(one, objects[1]);
    drop(one);
}

static void a_thousand_names(const char *argument)
{
    (void)argument;
    enum { NAMES = 1000 };
    static slab_cache *caches[NAMES];
    static void *objects[NAMES];
    uint64_t before = process_figures().caches;
    for (size_t i = 0; i < NAMES; i++)
        caches[i] = make_cache("tenant", 200, NULL);
    require(process_figures().caches <= before + 1);
    for (size_t i = 0; i < NAMES; i++)
        objects[i] = take(caches[i]);
    slab_cache_stats stats = figures(caches[0]);
    require(stats.active_objects == NAMES);
    require(stats.total_objects < 2 * NAMES + 2 * stats.objects_per_slab);
    for (size_t i = 0; i < NAMES; i++)
        slab_cache_free(caches[NAMES - 1 - i], objects[i]);
    for (size_t i = 0; i < NAMES; i++)
        drop(caches[i]);
    require(process_figures().caches == before);
}

/* The size rounded up to the alignment, and the alignment. */
static void rounded_sizes(const char *argument)
{
    (void)argument;
    const slab_cache_attr eight = {.align = 8}, one_byte = {.align = 1}, half_line = {.flags = SLAB_CACHELINE_ALIGN};
    const slab_cache_attr thirty_two = {.align = 32};
    slab_cache *rounded = make_cache("49, 8", 49, &eight), *equal = make_cache("56, 8", 56, &eight);
    slab_cache *natural = make_cache("56", 56, NULL), *other = make_cache("48, 8", 48, &eight);
    slab_cache *bytes = make_cache("57, 1", 57, &one_byte);
    require(share(rounded, equal) && share(equal, natural));
    require(!share(other, equal) && !share(bytes, equal));
    slab_cache *line = make_cache("30 in lines", 30, &half_line), *wide = make_cache("30, 32", 30, &thirty_two);
    require(share(line, wide));
    slab_cache *const all[] = {rounded, equal, natural, other, bytes, line, wide};
    for (size_t i = 0; i < COUNT(all); i++)
        drop(all[i]);
}

static void callback(void *object, void *context)
{
    (void)object;
    (void)context;
}

static void what_forbids_merging(const char *argument)
{
    (void)argument;
    static const slab_cache_attr alone[] = {
        {.flags = SLAB_NO_MERGE}, {.flags = SLAB_TYPESAFE_BY_EPOCH},
        {.flags = SLAB_ACCOUNT},  {.ctor = callback},
        {.dtor = callback},       {.limit_bytes = MIB},
        {.magazine_rounds = 20},
    };
    slab_cache *plain_before = make_cache("before", 56, NULL);
    for (size_t i = 0; i < COUNT(alone); i++) {
        uint64_t caches = process_figures().caches;
        slab_cache *one = make_cache("one", 56, &alone[i]), *two = make_cache("two", 56, &alone[i]);
        slab_cache *plain_after = make_cache("after", 56, NULL);
        require(process_figures().caches == caches + 2);
        require(!share(one, two) && !share(two, one));
        require(!share(one, plain_before) && !share(plain_before, one) && !share(one, plain_after));
        require(share(plain_before, plain_after));
        drop(one);
        drop(two);
        drop(plain_after);
    }
    drop(plain_before);
}

/* Zeroed is what the name asks for, not what the slabs are. */
static void zeroing_does_not_tell_apart(const char *argument)
{
    (void)argument;
    enum { MANY = 1000 };
    void *objects[MANY];
    const slab_cache_attr zero = {.flags = SLAB_ZERO}, lines = {.align = 8, .flags = SLAB_ZERO};
    slab_cache *plain = make_cache("plain", 56, NULL), *zeroed = make_cache("zeroed", 56, &zero);
    slab_cache *aligned = make_cache("aligned", 56, &lines);
    require(share(plain, zeroed) && share(aligned, plain));
    for (unsigned round = 0; round < 5; round++) {
        take_all(plain, objects, MANY);
        for (size_t i = 0; i < MANY; i++)
            memset(objects[i], 0xff, 56);
        give_all(zeroed, objects, MANY);
        take_all(round % 2 ? zeroed : aligned, objects, MANY);
        for (size_t i = 0; i < MANY; i++) {
            require(all_zero(objects[i], 56));
            memset(objects[i], 0xff, 56);
        }
        give_all(plain, objects, MANY);
    }
    drop(zeroed);
    drop(plain);
    slab_cache_free(aligned, take(aligned));
    drop(aligned);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"same_size_shares", same_size_shares},
        {"an_alias_goes", an_alias_goes},
        {"the_last_looks_for_live_objects", the_last_looks_for_live_objects},
        {"a_thousand_names", a_thousand_names},
        {"rounded_sizes", rounded_sizes},
        {"what_forbids_merging", what_forbids_merging},
        {"zeroing_does_not_tell_apart", zeroing_does_not_tell_apart},
    };
    return run_scenarios("cache merging", scenarios, COUNT(scenarios), argc, argv);
}
