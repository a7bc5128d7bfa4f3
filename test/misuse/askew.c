/* Pointers that are not the start of an object: seen at once, whatever call gets them. */
#include "rows.h"
#include "scene.h"

static const char what[] = "not the start of an object";

static void commit(const struct misuse_case *row, struct thing *thing)
{
    char *pointer = thing->object + row->offset;
    announce_of_thing(thing_call(row->call)->said, pointer, what, thing);
    thing_give(row->call, thing, pointer);
}

/* row->offset bytes from the start of an object, which is live, or has been freed by row->first. */
static void give_askew(const struct misuse_case *row)
{
    play(row, commit);
    if (row->section)
        end_section();
}

/* Behind the last object of its slab, which is one granule of 64 KiB: where there is no room for another. All objects
 * have been handed out. */
static void give_rest(const struct misuse_case *row)
{
    struct thing thing;
    thing_make(&thing, row);
    const size_t slab = (uintptr_t)thing.object & 0xffff, rest = 0x10000 / row->size * row->size;
    char *pointer = thing.object - slab + rest + row->offset;
    for (size_t i = 0; i < 2 * rest / row->size; i++)
        if (!thing_alloc(&thing))
            exit(EXIT_FAILURE);
    announce_of_thing(thing_call(row->call)->said, pointer, what, &thing);
    thing_give(row->call, &thing, pointer);
    if (row->late)
        thing_alloc(&thing);
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

/* Offsets for objects of a size, some into the neighbour before; 0: none. */
enum { OFFSETS = 8 };

static ptrdiff_t offset_of(unsigned i, size_t size)
{
    const ptrdiff_t bytes = (ptrdiff_t)size, half = bytes / 2 / 16 * 16;
    const ptrdiff_t offsets[OFFSETS] = {1, 8, 16, half > 16 ? half : 0, bytes - 16, bytes - 1, -16, -8};
    return offsets[i];
}

/* Is it the start of none? Slabs of large objects have one or few: there is nothing before. */
static bool is_askew(ptrdiff_t offset, size_t size)
{
    return offset % (ptrdiff_t)size != 0 && (offset > 0 || size <= 32768) && offset < (ptrdiff_t)size;
}

static const struct thing_call *next_call(const struct thing_call *call, bool of_cache)
{
    do
        call = call[1].word ? call + 1 : thing_calls;
    while ((call->flags & GIVES_TWICE) || (!of_cache && (call->flags & TAKES_CACHE)));
    return call;
}

/* Every size: by free, and each offset by one further call. */
static void add_sizes(void)
{
    const struct thing_call *call = thing_calls;
    for (unsigned class = 0; class < SIZE_CLASSES; class ++)
        for (unsigned i = 0; i < OFFSETS; i++) {
            struct misuse_case row = {.commit = give_askew, .call = "free", .size = size_classes[class]};
            row.offset = offset_of(i, row.size);
            if (!is_askew(row.offset, row.size))
                continue;
            if (i == 2 || i == 3 || i == 6)
                add_row(row, "askew-size-%zu-free-%td", row.size, row.offset);
            call = next_call(call, false);
            row.call = call->word;
            if (i != 2)
                add_row(row, "askew-size-%zu-%td-%s", row.size, row.offset, row.call);
        }
}

/* Every call: of malloc's or a named cache's live object, of a freed one, inside a section. */
static void add_calls(void)
{
    static const ptrdiff_t offsets[] = {8, 16, -16};
    for (const struct thing_call *call = thing_calls; call->word; call++)
        for (unsigned i = 0; i < 3 && !(call->flags & GIVES_TWICE); i++) {
            struct misuse_case row = {.commit = give_askew,
                                      .call = call->word,
                                      .object = call->flags & TAKES_CACHE ? "cache" : NULL,
                                      .size = 48,
                                      .offset = offsets[i]};
            add_row(row, "askew-%s-%td", call->word, row.offset);
            row.first = "free";
            add_row(row, "askew-freed-%s-%td", call->word, row.offset);
            row.first = NULL;
            row.section = true;
            if (call->flags & RETIRES)
                add_row(row, "askew-section-%s-%td", call->word, row.offset);
            row.section = false;
            row.object = "cache";
            row.size = 40;
            row.who = "other";
            add_row(row, "askew-other-%s-%td", call->word, row.offset);
            row.who = "fresh";
            add_row(row, "askew-fresh-%s-%td", call->word, row.offset);
        }
}

/* Named caches of all kinds and odd sizes, of which few are multiples of 16. */
static void add_caches(void)
{
    static const char *const objects[] = {"cache", "merged", "zero", "accounted", "limited",
                                          "line",  "ctor",   "dtor", "typesafe",  NULL};
    static const size_t sizes[] = {8, 24, 40, 104, 1000, 5000, 12344, 40000, 100000, 1 << 20};
    const struct thing_call *call = thing_calls;
    FOR_EACH_WORD(object, objects)
    for (unsigned s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (unsigned i = 0; i < OFFSETS; i++) {
            const ptrdiff_t offset = offset_of(i, sizes[s]);
            if (!is_askew(offset, sizes[s]) || (i + s) % 2 != 0)
                continue;
            call = next_call(call, true);
            add_row(
                (struct misuse_case){
                    .commit = give_askew, .call = call->word, .object = object, .size = sizes[s], .offset = offset},
                "askew-%s-%zu-%td-%s", object, sizes[s], offset, call->word);
        }
}

/* Malloc sees those that begin at a page of which the program has nothing: when it would hand them out. */
static bool is_seen_late(size_t size)
{
    return 0x10000 / size * size % 4096 == 0;
}

/* Every size that has a rest, and every call. */
static void add_rests(void)
{
    static const size_t cut[] = {24, 40, 104, 1000, 5000};
    const struct thing_call *call = thing_calls;
    for (unsigned class = 0; class < SIZE_CLASSES && size_classes[class] <= 32768; class ++)
        for (ptrdiff_t offset = 0; offset <= 8 && 0x10000 % size_classes[class] != 0; offset += 8) {
            struct misuse_case row = {.commit = give_rest,
                                      .call = "free",
                                      .size = size_classes[class],
                                      .offset = offset,
                                      .late = offset == 0 && is_seen_late(size_classes[class])};
            add_row(row, "askew-rest-%zu-free-%td", row.size, offset);
            call = next_call(call, false);
            row.call = call->word;
            if (strcmp(row.call, "free") != 0 && !row.late)
                add_row(row, "askew-rest-%zu-%s-%td", row.size, row.call, offset);
        }
    for (call = thing_calls; call->word; call++)
        for (unsigned i = 0; i < sizeof cut / sizeof cut[0] && !(call->flags & GIVES_TWICE); i++)
            add_row((struct misuse_case){.commit = give_rest, .call = call->word, .object = "cache", .size = cut[i]},
                    "askew-rest-cache-%zu-%s", cut[i], call->word);
}

/* In a thread of another node. */
static void add_remote(void)
{
    static const char *const calls[] = {"free",   "realloc_more", "usable_size", "bulk_last",
                                        "nolock", "deferred",     NULL};
    FOR_EACH_WORD(call, calls)
    for (unsigned i = 0; i < OFFSETS; i++)
        add_row((struct misuse_case){.commit = give_askew,
                                     .call = call,
                                     .object = "remote",
                                     .size = 80,
                                     .offset = offset_of(i, 80),
                                     .options = "topology=2x2",
                                     .checked = true},
                "askew-remote-%s-%td", call, offset_of(i, 80));
}

void add_rows_of_askew(void)
{
    add_sizes();
    add_calls();
    add_caches();
    add_rests();
    add_remote();
}
