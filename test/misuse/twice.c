/* Double frees of small objects, by every call after every other, of every size, wherever the object lies by then.
 * The second free is the one that is named, at once. An exception are retired objects, which are not looked at
 * until their grace period is over: then the call that has retired them is named.
 *
 * Where other threads of the case wait, the library's worker would do some of the work: those have none. */
#include "rows.h"
#include "scene.h"

static const char what[] = "double free of an object";

/* Retired before the misuse, or by it twice: nobody looks before the grace period is over. */
static bool is_late(const struct misuse_case *row)
{
    return row->section && (thing_call(row->first ? row->first : row->call)->flags & RETIRES);
}

static void commit(const struct misuse_case *row, struct thing *thing)
{
    if (!is_late(row))
        announce_of_thing(thing_call(row->call)->said, thing->object, what, thing);
    thing_give(row->call, thing, thing->object);
}

static void free_twice(const struct misuse_case *row)
{
    struct thing *retired = play(row, commit);
    if (is_late(row))
        announce_of_thing("slab_free_deferred", retired->object, what, retired);
    if (row->section)
        end_section();
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static const char *object_for(const char *first, const char *second)
{
    const unsigned flags = thing_call(first)->flags | thing_call(second)->flags;
    return flags & TAKES_CACHE ? "cache" : NULL;
}

static bool is_second(const struct thing_call *call)
{
    return !(call->flags & (USES | GIVES_TWICE));
}

/* Each call after each. */
static void add_calls(void)
{
    static const char *const firsts[] = {"free",        "cfree",         "delete_sized", "realloc_zero",
                                         "slab_free",   "realloc_more",  "nolock",       "deferred",
                                         "bulk_middle", "deferred_head", "cache_free",   "cache_bulk_middle",
                                         NULL};
    FOR_EACH_WORD(first, firsts)
    for (const struct thing_call *call = thing_calls; call->word; call++)
        if (is_second(call))
            add_row((struct misuse_case){.commit = free_twice,
                                         .first = first,
                                         .call = call->word,
                                         .object = object_for(first, call->word),
                                         .size = 64},
                    "twice-%s-%s", first, call->word);
}

/* Twice by one call. */
static void add_single_calls(void)
{
    static const size_t sizes[] = {16, 48, 1024, 32768};
    for (const struct thing_call *call = thing_calls; call->word; call++)
        for (unsigned i = 0; i < 4 && (call->flags & GIVES_TWICE); i++)
            add_row((struct misuse_case){.commit = free_twice,
                                         .call = call->word,
                                         .object = object_for("free", call->word),
                                         .size = sizes[i]},
                    "twice-%s-%zu", call->word, sizes[i]);
}

/* Every size, by free, by another thread, and by one further call for each. */
static void add_sizes(void)
{
    const struct thing_call *further = thing_calls;
    for (unsigned class = 0; class < SIZE_CLASSES; class ++) {
        struct misuse_case row = {.commit = free_twice, .first = "free", .call = "free", .size = size_classes[class]};
        add_row(row, "twice-free-free-size-%zu", row.size);
        row.who = "other";
        add_row(row, "twice-free-free-size-%zu-other", row.size);
        do
            further = further[1].word ? further + 1 : thing_calls;
        while (!is_second(further) || (further->flags & TAKES_CACHE) || strcmp(further->word, "free") == 0);
        row.who = NULL;
        row.call = further->word;
        add_row(row, "twice-free-%s-size-%zu", row.call, row.size);
    }
}

/* Retired objects: before, after and both. `other`: the second call is another thread's. */
static void add_retired(void)
{
    static const char *const others[] = {"free",
                                         "nolock",
                                         "realloc_zero",
                                         "bulk_middle",
                                         "deferred",
                                         "deferred_head",
                                         "deferred_bulk_middle",
                                         "cache_free",
                                         "cache_bulk_middle",
                                         NULL};
    static const char *const whos[] = {"same", "other", "exited", NULL};
    FOR_EACH_WORD(other, others)
    FOR_EACH_WORD(who, whos)
    {
        struct misuse_case row = {.commit = free_twice,
                                  .first = "deferred",
                                  .call = other,
                                  .object = object_for("free", other),
                                  .who = who,
                                  .section = true,
                                  .size = 64,
                                  .options = "worker=0"};
        add_row(row, "twice-retired-%s-%s", other, who);
        row.first = other;
        row.call = "deferred";
        if (!(thing_call(other)->flags & RETIRES))
            add_row(row, "twice-%s-retired-%s", other, who);
    }
    add_row((struct misuse_case){.commit = free_twice, .call = "deferred_bulk_twice", .section = true, .size = 64},
            "twice-retired-by_one_call");
}

/* Wherever it may lie: so many others were freed after it, or it has gone to its slab. */
static void add_places(void)
{
    static const size_t sizes[] = {16, 64, 1024, 8192, 9216, 32768};
    static const char *const whos[] = {"same", "other", "fresh", "living", "exited", "child", NULL};
    static const unsigned afters[] = {0, 1, 5, 30, 200, 2000};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        FOR_EACH_WORD(who, whos)
        {
            struct misuse_case row = {.commit = free_twice,
                                      .first = "free",
                                      .call = "free",
                                      .who = who,
                                      .size = sizes[i],
                                      .options = "worker=0"};
            for (unsigned j = 0; j < sizeof afters / sizeof afters[0]; j++) {
                row.after = afters[j];
                if (row.size > 8192 && row.after > 200)
                    continue;
                row.kind = NULL;
                add_row(row, "twice-place-%zu-%s-%u", row.size, who, row.after);
                if (row.after < 200)
                    continue;
                row.kind = "refilled";
                add_row(row, "twice-place-%zu-%s-%u-refilled", row.size, who, row.after);
            }
            row.kind = NULL;
            row.after = 0;
            row.trimmed = true;
            add_row(row, "twice-place-%zu-%s-slab", row.size, who);
        }
}

/* It cannot look into other threads and depots. There it frees nothing, and goes on. */
static bool is_nolock(const char *call)
{
    return strcmp(call, "nolock") == 0;
}

/* The same by other calls. */
static void add_places_by_calls(void)
{
    static const char *const calls[] = {"nolock",     "realloc_zero",     "bulk_last",    "deferred",
                                        "cache_free", "cache_bulk_first", "delete_sized", NULL};
    static const char *const whos[] = {"same", "other", "fresh", "living", "exited", NULL};
    FOR_EACH_WORD(call, calls)
    FOR_EACH_WORD(who, whos)
    {
        struct misuse_case row = {.commit = free_twice,
                                  .first = "free",
                                  .call = call,
                                  .object = object_for("free", call),
                                  .who = who,
                                  .after = 200,
                                  .size = 48,
                                  .options = "worker=0"};
        if (!is_nolock(call))
            add_row(row, "twice-place-%s-%s-200", call, who);
        row.after = 0;
        row.trimmed = true;
        if (!(is_nolock(call) && strcmp(who, "living") == 0)) /* that thread keeps one */
            add_row(row, "twice-place-%s-%s-slab", call, who);
    }
}

/* Magazines of six: the object is at the top of the loaded one, buried, in a full one, in the previous one after an
 * exchange, in the depot. "refilled": one has been taken since, so that the loaded one may be empty. */
static void add_rounds(void)
{
    static const size_t sizes[] = {16, 24, 1000, 40000};
    static const char *const calls[] = {"free", "cache_free", "cache_bulk_middle", NULL};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        FOR_EACH_WORD(call, calls)
    for (unsigned after = 0; after <= 26; after += after < 14 ? 1 : 6) {
        struct misuse_case row = {.commit = free_twice,
                                  .first = "cache_free",
                                  .call = call,
                                  .object = "cache",
                                  .rounds = 6,
                                  .after = after,
                                  .size = sizes[i]};
        add_row(row, "twice-rounds-%zu-%s-%u", row.size, call, after);
        row.kind = "refilled";
        if (after > 0 && strcmp(call, "free") == 0)
            add_row(row, "twice-rounds-%zu-%s-%u-refilled", row.size, call, after);
    }
}

/* Named caches with every attribute that leaves free objects to the library. */
static void add_caches(void)
{
    static const char *const objects[] = {"cache", "merged", "zero", "accounted", "limited", "line", NULL};
    static const char *const calls[] = {"free", "cache_free", "cache_bulk_last", "nolock", "deferred", NULL};
    static const size_t sizes[] = {16, 24, 40, 1000, 5000, 100000};
    FOR_EACH_WORD(object, objects)
    FOR_EACH_WORD(call, calls)
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        add_row((struct misuse_case){.commit = free_twice,
                                     .first = i % 2 ? "cache_free" : "free",
                                     .call = call,
                                     .object = object,
                                     .size = sizes[i]},
                "twice-cache-%s-%zu-%s", object, sizes[i], call);
}

/* An object of another node's, which waits in a remote magazine, or has gone home. A call without a lock does not see
 * it in the stock of a depot there. */
static void add_remote(void)
{
    static const char *const calls[] = {"free", "nolock", "bulk_middle", "realloc_zero", "deferred", NULL};
    static const char *const whos[] = {"same", "other", "exited", NULL};
    FOR_EACH_WORD(call, calls)
    FOR_EACH_WORD(who, whos)
    for (unsigned after = 0; after <= 200 && !(is_nolock(call) && (after > 0 || strcmp(who, "same") != 0));
         after += 100)
        add_row((struct misuse_case){.commit = free_twice,
                                     .first = "free",
                                     .call = call,
                                     .object = "remote",
                                     .who = who,
                                     .after = after,
                                     .size = 64,
                                     .options = "topology=2x2,worker=0",
                                     .checked = true},
                "twice-remote-%s-%s-%u", call, who, after);
}

void add_rows_of_twice(void)
{
    add_calls();
    add_single_calls();
    add_sizes();
    add_retired();
    add_places();
    add_places_by_calls();
    add_rounds();
    add_caches();
    add_remote();
}
