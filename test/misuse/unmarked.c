/* Objects that the library does not write while they are free: those with a constructor or destructor, type-safe ones,
 * those of 8 bytes. A second free is seen when the magazine goes to the depot, or to slabs; free is named then, as the
 * library no longer knows by which call it came. */
#include <malloc.h>
#include <pthread.h>

#include "rows.h"
#include "things.h"

static struct thing thing;

static void *free_both(void *row_of)
{
    const struct misuse_case *row = row_of;
    announce_of_thing("free", thing.object, "double free of an object", &thing);
    thing_give(row->first, &thing, thing.object);
    thing_give(row->call, &thing, thing.object);
    thing_free_others();
    return NULL;
}

/* Kinds: when it is seen. "exit": a thread ends. "shrink", "trim": by those calls. "frees": by frees alone. */
static void free_twice(const struct misuse_case *row)
{
    thing_make(&thing, row);
    if (is_kind(row, "exit")) {
        pthread_t thread;
        pthread_create(&thread, NULL, free_both, (void *)(uintptr_t)row);
        pthread_join(thread, NULL);
        return;
    }
    free_both((void *)(uintptr_t)row);
    if (is_kind(row, "shrink"))
        slab_cache_shrink(thing.cache);
    else if (is_kind(row, "trim"))
        malloc_trim(0);
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

struct kind {
    const char *object;
    size_t size;
};

static const struct kind kinds[] = {
    {"ctor", 16},     {"ctor", 1000}, {"dtor", 16},    {"dtor", 24},        {"typesafe", 16},
    {"typesafe", 48}, {"cache", 8},   {"typesafe", 8}, {"typesafe", 40000},
};

void add_rows_of_unmarked(void)
{
    static const char *const calls[] = {"free",   "delete",   "cache_free", "cache_bulk_middle",
                                        "nolock", "deferred", NULL};
    static const char *const moments[] = {"shrink", "exit", "trim", "frees", NULL};
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        FOR_EACH_WORD(call, calls)
    FOR_EACH_WORD(moment, moments)
    add_row((struct misuse_case){.commit = free_twice,
                                 .first = i % 2 ? "free" : "cache_free",
                                 .call = call,
                                 .kind = moment,
                                 .object = kinds[i].object,
                                 .size = kinds[i].size,
                                 .after = strcmp(moment, "frees") == 0 ? 2000 : 0},
            "unmarked-%s-%zu-%s-%s", kinds[i].object, kinds[i].size, call, moment);
}
