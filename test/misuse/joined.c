/* Joined objects: malloc's, made of adjacent ones that a smaller class has free. All that is seen of others is
 * seen of these. */
#include "rows.h"
#include "scene.h"

static const char double_free[] = "double free of an object", use[] = "use of a freed object",
                  askew[] = "not the start of an object";

static const struct {
    size_t size, piece;
} kinds[] = {{48, 16}, {512, 256}, {1024, 256}, {2048, 512}};

static bool is_late(const struct misuse_case *row)
{
    return row->section && (thing_call(row->first ? row->first : row->call)->flags & RETIRES);
}

/* In its slab it is no longer joined, and has a piece's size. A thread's few free objects go there when it ends. */
static bool is_in_slab(const struct misuse_case *row)
{
    const bool ended = row->who && strcmp(row->who, "exited") == 0;
    return row->trimmed || ended || (row->first && strcmp(row->first, "nolock") == 0);
}

static void commit(const struct misuse_case *row, struct thing *thing)
{
    thing->size = is_in_slab(row) ? row->piece : row->size;
    char *pointer = thing->object + row->offset;
    if (!is_late(row))
        announce_of_thing(thing_call(row->call)->said, pointer, row->kind, thing);
    thing_give(row->call, thing, pointer);
}

static void misuse_joined(const struct misuse_case *row)
{
    struct thing *thing = play(row, commit);
    if (is_late(row))
        announce_of_thing("slab_free_deferred", thing->object, row->kind, thing);
    if (row->section)
        end_section();
}

static bool takes_it(const struct thing_call *call)
{
    return !(call->flags & (TAKES_CACHE | GIVES_TWICE));
}

/* Each call, of an object that is free, wherever that is: who has freed it, and whether it has come to its slab,
 * changes from call to call. */
static void add_freed(size_t size, size_t piece)
{
    static const char *const whos[] = {"same", "other", "fresh", "living", "exited", "child"};
    static unsigned turn;
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        struct misuse_case row = {.commit = misuse_joined,
                                  .kind = call->flags & USES ? use : double_free,
                                  .first = "free",
                                  .call = call->word,
                                  .object = "joined",
                                  .who = whos[turn++ % 6],
                                  .size = size,
                                  .piece = piece,
                                  .options = "worker=0"};
        if (!takes_it(call))
            continue;
        if (strcmp(call->word, "nolock") == 0) /* it does not look at what others hold, or a depot */
            row.who = NULL;
        add_row(row, "joined-freed-%zu-%s", size, call->word);
        row.trimmed = true;
        add_row(row, "joined-freed-%zu-%s-slab", size, call->word);
    }
}

/* Freed by each call. */
static void add_firsts(size_t size, size_t piece)
{
    for (const struct thing_call *first = thing_calls; first->word; first++)
        if (takes_it(first) && !(first->flags & USES))
            add_row((struct misuse_case){.commit = misuse_joined,
                                         .kind = double_free,
                                         .first = first->word,
                                         .call = "free",
                                         .object = "joined",
                                         .size = size,
                                         .piece = piece},
                    "joined-freed-by-%s-%zu", first->word, size);
}

/* Each call, of a pointer into it: at a piece's start, too. */
static void add_askew(size_t size, size_t piece)
{
    const ptrdiff_t offsets[] = {8, (ptrdiff_t)piece, (ptrdiff_t)(size - piece), (ptrdiff_t)size - 8};
    unsigned turn = 0;
    for (const struct thing_call *call = thing_calls; call->word; call++) {
        struct misuse_case row = {.commit = misuse_joined,
                                  .kind = askew,
                                  .call = call->word,
                                  .object = "joined",
                                  .size = size,
                                  .piece = piece,
                                  .offset = (ptrdiff_t)piece};
        if (!takes_it(call))
            continue;
        add_row(row, "joined-askew-%zu-%s", size, call->word);
        row.offset = offsets[turn++ % 4];
        row.first = "free";
        add_row(row, "joined-askew-freed-%zu-%s-%td", size, call->word, row.offset);
    }
}

void add_rows_of_joined(void)
{
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        add_freed(kinds[i].size, kinds[i].piece);
        add_firsts(kinds[i].size, kinds[i].piece);
        add_askew(kinds[i].size, kinds[i].piece);
    }
}
