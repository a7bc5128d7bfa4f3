/* Objects that are sampled lie in slabs of their own, to which they go when they are freed, whatever call frees them:
 * so all misuse is seen at once. */
#include "rows.h"
#include "things.h"

static const char all_sampled[] = "sample_bytes=1";

static void give_freed(const struct misuse_case *row)
{
    static struct thing thing;
    const struct thing_call *call = thing_call(row->call);
    thing_make(&thing, row);
    thing_give(row->first, &thing, thing.object);
    announce_of_thing(call->said, thing.object,
                      call->flags & USES ? "use of a freed object" : "double free of an object", &thing);
    call->give(&thing, hidden(thing.object));
}

static void give_askew(const struct misuse_case *row)
{
    static struct thing thing;
    thing_make(&thing, row);
    char *pointer = thing.object + row->offset;
    announce_of_thing(thing_call(row->call)->said, pointer, "not the start of an object", &thing);
    thing_give(row->call, &thing, pointer);
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static void add(const char *object, size_t size, const char *first, const char *call)
{
    const char *kind = object ? object : "malloc";
    add_row((struct misuse_case){.commit = give_freed,
                                 .object = object,
                                 .size = size,
                                 .first = first,
                                 .call = call,
                                 .options = all_sampled},
            "sampled-%s-%zu-%s-%s", kind, size, first, call);
}

static void add_askew(const char *object, size_t size, const char *call, ptrdiff_t offset)
{
    const char *kind = object ? object : "malloc";
    add_row((struct misuse_case){.commit = give_askew,
                                 .object = object,
                                 .size = size,
                                 .call = call,
                                 .offset = offset,
                                 .options = all_sampled},
            "sampled-%s-%zu-%s-at-%zd", kind, size, call, offset);
}

/* Up to 2 KiB sampled objects come from the next power of two, 512 at least. */
static bool is_sampled_as_itself(size_t size)
{
    return size > 2048 || (size >= 512 && (size & (size - 1)) == 0);
}

void add_rows_of_sampled(void)
{
    static const char *const caches[] = {"cache", "merged", "zero", "accounted", "limited",
                                         "line",  "ctor",   "dtor", "typesafe",  NULL};
    static const char *const calls[] = {"free",     "realloc_more", "usable_size", "nolock",
                                        "deferred", "cache_free",   NULL};
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        if (call->flags & TAKES_CACHE)
            continue;
        add(NULL, 512, "free", call->word);
        add_askew(NULL, 512, call->word, 8);
    }
    for (unsigned i = 1; i < SIZE_CLASSES; i++) {
        if (!is_sampled_as_itself(size_classes[i]))
            continue;
        add(NULL, size_classes[i], "nolock", "free");
        add_askew(NULL, size_classes[i], "free", (ptrdiff_t)size_classes[i] - 1);
    }
    FOR_EACH_WORD(object, caches)
    {
        FOR_EACH_WORD(call, calls)
        {
            add(object, 128, "cache_free", call);
            add_askew(object, 128, call, 16);
        }
        add(object, 128, "nolock", "free");
    }
}
