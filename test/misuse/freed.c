/* The use of an object that has been freed, and the freeing of one whose slab is no more. */
#include <malloc.h>

#include "rows.h"
#include "scene.h"

/* By calls that resize or measure. */
static void commit_use(const struct misuse_case *row, struct thing *thing)
{
    announce_of_thing(thing_call(row->call)->said, thing->object, "use of a freed object", thing);
    thing_give(row->call, thing, thing->object);
}

static void use_freed(const struct misuse_case *row)
{
    play(row, commit_use);
}

static void free_all(struct thing *thing)
{
    for (unsigned i = 0; i < sizeof thing->neighbours / sizeof thing->neighbours[0]; i++)
        free(thing->neighbours[i]);
    free(thing->object);
}

/* Its cache has been destroyed, or (malloc's) its slab has gone back. */
static void use_gone(const struct misuse_case *row)
{
    struct thing thing;
    thing_make(&thing, row);
    announce(thing_call(row->call)->said, thing.object, "no object, or one that is free already");
    free_all(&thing);
    malloc_trim(0);
    if (thing.cache && slab_cache_destroy(thing.cache) != 0)
        exit(EXIT_FAILURE);
    if (thing_call(row->call)->flags & TAKES_CACHE)
        thing.cache = slab_cache_create("pears", row->size, NULL);
    for (unsigned i = 0; i < sizeof thing.neighbours / sizeof thing.neighbours[0]; i++)
        thing.neighbours[i] = NULL; /* calls that take several get it alone */
    if (row->section)
        slab_epoch_enter();
    thing_give(row->call, &thing, thing.object);
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static bool is_use(const struct thing_call *call)
{
    return call->flags & USES;
}

/* Every size by two calls of the five. */
static void add_sizes(void)
{
    static const char *const uses[] = {"realloc_more", "usable_size", "realloc_same", "reallocarray", "realloc_less",
                                       "realloc_more", NULL};
    for (unsigned class = 0; class < SIZE_CLASSES; class ++)
        for (unsigned i = 0; i < 2; i++) {
            struct misuse_case row = {.commit = use_freed, .first = "free", .size = size_classes[class]};
            row.call = uses[(class + i) % 5];
            row.who = i == 0 ? NULL : "other";
            add_row(row, "freed-size-%zu-%s", row.size, row.call);
        }
}

/* Freed by every call. */
static void add_firsts(void)
{
    for (const struct thing_call *first = thing_calls; first->word; first++)
        for (const struct thing_call *call = thing_calls; call->word; call++)
            if (is_use(call) && !is_use(first) && !(first->flags & GIVES_TWICE))
                add_row((struct misuse_case){.commit = use_freed,
                                             .first = first->word,
                                             .call = call->word,
                                             .object = first->flags & TAKES_CACHE ? "cache" : NULL,
                                             .size = 96},
                        "freed-by-%s-%s", first->word, call->word);
}

/* In all places. */
static void add_places(void)
{
    static const char *const whos[] = {"same", "other", "fresh", "living", "exited", "child", NULL};
    static const unsigned afters[] = {0, 5, 200, 2000};
    for (const struct thing_call *call = thing_calls; call->word; call++)
        FOR_EACH_WORD(who, whos)
        {
            struct misuse_case row = {.commit = use_freed,
                                      .first = "free",
                                      .call = call->word,
                                      .who = who,
                                      .size = 48,
                                      .options = "worker=0"};
            if (!is_use(call))
                continue;
            for (unsigned i = 0; i < sizeof afters / sizeof afters[0]; i++) {
                row.after = afters[i];
                add_row(row, "freed-place-%s-%s-%u", row.call, who, row.after);
            }
            row.after = 0;
            row.trimmed = true;
            add_row(row, "freed-place-%s-%s-slab", row.call, who);
        }
}

static void add_caches(void)
{
    static const char *const objects[] = {"cache", "merged", "zero", "accounted", "limited", "line", NULL};
    static const size_t sizes[] = {16, 24, 1000, 40000};
    FOR_EACH_WORD(object, objects)
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (const struct thing_call *call = thing_calls; call->word; call++)
            if (is_use(call))
                add_row((struct misuse_case){.commit = use_freed,
                                             .first = "cache_free",
                                             .call = call->word,
                                             .object = object,
                                             .size = sizes[i]},
                        "freed-%s-%zu-%s", object, sizes[i], call->word);
}

static void add_remote(void)
{
    for (const struct thing_call *call = thing_calls; call->word; call++)
        for (unsigned after = 0; after <= 200 && is_use(call); after += 100)
            add_row((struct misuse_case){.commit = use_freed,
                                         .first = "free",
                                         .call = call->word,
                                         .object = "remote",
                                         .after = after,
                                         .size = 64,
                                         .options = "topology=2x2,worker=0",
                                         .checked = true},
                    "freed-remote-%s-%u", call->word, after);
}

/* What has no slab any more: objects of a destroyed cache, of every kind, and malloc's. */
static void add_gone(void)
{
    static const char *const objects[] = {"cache", "accounted", "ctor", "dtor", "typesafe", "malloc", NULL};
    FOR_EACH_WORD(object, objects)
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        struct misuse_case row = {.commit = use_gone, .call = call->word, .size = 5000, .options = "worker=0"};
        row.object = strcmp(object, "malloc") == 0 ? NULL : object;
        if (!row.object)
            row.size = 5120;
        if (call->flags & GIVES_TWICE)
            continue;
        add_row(row, "gone-%s-%s", object, call->word);
        row.section = true;
        if (call->flags & RETIRES)
            add_row(row, "gone-section-%s-%s", object, call->word);
    }
}

void add_rows_of_freed(void)
{
    add_sizes();
    add_firsts();
    add_places();
    add_caches();
    add_remote();
    add_gone();
}
