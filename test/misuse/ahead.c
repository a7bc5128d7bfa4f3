/* One object too far: behind the last one that was handed out lies one that never was. It is seen at once that it is
 * free, if it lies in the same page: another one would be touched for nothing. Up to 160 bytes the first ones do. */
#include "rows.h"
#include "things.h"

enum { AHEAD_MOST = 160 };

static void give_next(const struct misuse_case *row)
{
    struct thing thing;
    const struct thing_call *call = thing_call(row->call);
    char *last = NULL;
    thing_make(&thing, row);
    for (unsigned i = 0; i < sizeof thing.neighbours / sizeof thing.neighbours[0]; i++)
        if ((char *)thing.neighbours[i] > last)
            last = thing.neighbours[i];
    if (row->section)
        slab_epoch_enter();
    announce_of_thing(call->said, last + row->size,
                      call->flags & USES ? "use of a freed object" : "double free of an object", &thing);
    call->give(&thing, hidden(last + row->size));
}

void add_rows_of_ahead(void)
{
    static const size_t cut[] = {24, 40, 104, 152};
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        struct misuse_case row = {.commit = give_next, .call = call->word, .object = "cache"};
        if (call->flags & GIVES_TWICE)
            continue;
        for (unsigned i = 0; i < sizeof cut / sizeof cut[0]; i++) {
            row.size = cut[i];
            add_row(row, "ahead-cache-%zu-%s", row.size, row.call);
        }
        row.object = NULL;
        if (call->flags & TAKES_CACHE)
            continue;
        for (unsigned class = 0; size_classes[class] <= AHEAD_MOST; class ++) {
            row.size = size_classes[class];
            add_row(row, "ahead-%zu-%s", row.size, row.call);
        }
        row.section = true;
        if (call->flags & RETIRES)
            add_row(row, "ahead-section-%zu-%s", row.size, row.call);
    }
}
