/* Objects that the library does not write while they are free: those with a constructor or destructor, type-safe
 * ones, those of 8 bytes. A second free or a use is seen at once if the object is one of the thread's last four,
 * or has gone to its slab. Otherwise a second free is seen when the magazine goes to the depot, or to slabs: the
 * library no longer knows by which call it came, and names the one that empties the magazine. */
#include <malloc.h>
#include <pthread.h>

#include "rows.h"
#include "things.h"

enum { LAST = 4 /* of a thread's frees */, ROUNDS = 60 /* room for all that is freed here at a time */ };

static const char double_free[] = "double free of an object";
static struct thing thing;

/* -- at once ----------------------------------------------------------------------------------------------------- */

/* row->after others are freed in between, or all goes to the slab. */
static void give_freed(const struct misuse_case *row)
{
    const struct thing_call *call = thing_call(row->call);
    thing_make(&thing, row);
    thing_give(row->first, &thing, thing.object);
    thing_free_others();
    if (row->trimmed)
        malloc_trim(0);
    announce_of_thing(call->said, thing.object, call->flags & USES ? "use of a freed object" : double_free, &thing);
    call->give(&thing, hidden(thing.object));
}

/* -- late -------------------------------------------------------------------------------------------------------- */

static void free_some(void)
{
    for (unsigned i = 0; i < LAST; i++)
        free(thing.neighbours[thing.given++]);
}

static void *free_both(void *row_of)
{
    const struct misuse_case *row = row_of;
    announce_of_thing("free", thing.object, double_free, &thing);
    thing_give(row->first, &thing, thing.object);
    free_some();
    thing_give(row->call, &thing, thing.object);
    thing_free_others();
    return NULL;
}

/* Kinds: when it is seen. "exit": a thread ends. "shrink", "trim": by those calls. "frees": by frees alone. Both
 * rounds are in one magazine. */
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

/* Retired, and given to another call: seen when the grace period is over, except that an object which by then lies in
 * a magazine is in two of them, which is seen when both have gone to the slab. */
static void free_retired(const struct misuse_case *row)
{
    thing_make(&thing, row);
    announce_of_thing(strcmp(row->call, "free") == 0 ? "trim" : "slab_free_deferred", thing.object, double_free,
                      &thing);
    slab_epoch_enter();
    thing_give("deferred", &thing, thing.object);
    thing_give(row->call, &thing, thing.object);
    slab_epoch_leave();
    slab_epoch_barrier();
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

static const char *const calls[] = {"free", "delete", "cache_free", "cache_bulk_first", "nolock", "deferred", NULL};

/* Does it free others before? */
static bool is_behind_others(const char *call)
{
    return strstr(call, "_middle") || strstr(call, "_last");
}

static void add_at_once(const struct kind *kind)
{
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        struct misuse_case row = {.commit = give_freed,
                                  .first = kind->size % 16 ? "free" : "cache_free",
                                  .call = call->word,
                                  .object = kind->object,
                                  .rounds = kind->size > 32768 ? 2 * LAST : 0, /* else one or two */
                                  .size = kind->size};
        if (call->flags & GIVES_TWICE)
            continue;
        for (row.after = 0; row.after < LAST && !is_behind_others(call->word); row.after++)
            add_row(row, "unkeyed-%s-%zu-%s-%u", kind->object, kind->size, call->word, row.after);
        row.after = 0;
        row.trimmed = true;
        add_row(row, "unkeyed-%s-%zu-%s-slab", kind->object, kind->size, call->word);
    }
}

static void add_late(const struct kind *kind)
{
    static const char *const moments[] = {"shrink", "exit", "trim", "frees", NULL};
    FOR_EACH_WORD(call, calls)
    FOR_EACH_WORD(moment, moments)
    add_row((struct misuse_case){.commit = free_twice,
                                 .first = kind->size % 16 ? "cache_free" : "free",
                                 .call = call,
                                 .kind = moment,
                                 .object = kind->object,
                                 .after = strcmp(moment, "frees") == 0 ? 2000 : 0,
                                 .size = kind->size,
                                 .rounds = ROUNDS},
            "unkeyed-%s-%zu-%s-%s", kind->object, kind->size, call, moment);
}

static void add_retired(const struct kind *kind)
{
    static const char *const seconds[] = {"deferred", "free", "nolock", NULL};
    FOR_EACH_WORD(second, seconds)
    add_row(
        (struct misuse_case){
            .commit = free_retired, .call = second, .object = kind->object, .size = kind->size, .rounds = ROUNDS},
        "unkeyed-%s-%zu-retired-%s", kind->object, kind->size, second);
}

void add_rows_of_unkeyed(void)
{
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        add_at_once(&kinds[i]);
        add_late(&kinds[i]);
        add_retired(&kinds[i]);
    }
}
