/* Sizes and alignments that are not the object's, given to the calls that take one: seen at once. */
#include "rows.h"
#include "scene.h"

extern void free_sized(void *pointer, size_t size);
extern void free_aligned_sized(void *pointer, size_t alignment, size_t size);
extern void _ZdlPvm(void *pointer, unsigned long size);
extern void _ZdaPvm(void *pointer, unsigned long size);
extern void _ZdlPvmSt11align_val_t(void *pointer, unsigned long size, unsigned long alignment);
extern void _ZdaPvmSt11align_val_t(void *pointer, unsigned long size, unsigned long alignment);
extern void *_Znwm(unsigned long size);
extern void *_ZnwmSt11align_val_t(unsigned long size, unsigned long alignment);

/* The calls, all with three arguments; alignment 0: the call takes none. */
static void give_delete(void *pointer, size_t size, size_t alignment)
{
    if (alignment != 0)
        _ZdlPvmSt11align_val_t(pointer, size, alignment);
    else
        _ZdlPvm(pointer, size);
}

static void give_delete_array(void *pointer, size_t size, size_t alignment)
{
    if (alignment != 0)
        _ZdaPvmSt11align_val_t(pointer, size, alignment);
    else
        _ZdaPvm(pointer, size);
}

static void give_free(void *pointer, size_t size, size_t alignment)
{
    if (alignment != 0)
        free_aligned_sized(pointer, alignment, size);
    else
        free_sized(pointer, size);
}

static const struct call {
    const char *word, *said;
    void (*give)(void *pointer, size_t size, size_t alignment);
    size_t alignment;
    bool exact; /* smaller sizes are wrong, too */
} calls[] = {
    {"delete", "operator delete", give_delete, 0, true},
    {"delete_array", "operator delete", give_delete_array, 0, true},
    {"delete_aligned", "operator delete", give_delete, 16, true},
    {"delete_array_aligned", "operator delete", give_delete_array, 16, true},
    {"free_sized", "free_sized", give_free, 0, false},
    {"free_aligned_sized", "free_aligned_sized", give_free, 8, false},
};

enum { CALLS = sizeof calls / sizeof calls[0] };

static const struct call *call_of(const struct misuse_case *row)
{
    const struct call *call = calls;
    while (!is_call(row, call->word))
        call++;
    return call;
}

/* Announce and give the object with a size and an alignment that are not its own. */
static void give_as(const struct call *call, void *object, const struct thing *thing, size_t size, size_t alignment)
{
    char what[128];
    if (alignment != 0)
        snprintf(what, sizeof what, "size %zu and alignment %zu given for an object", size, alignment);
    else
        snprintf(what, sizeof what, "size %zu given for an object", size);
    announce_of_thing(call->said, object, what, thing);
    call->give(hidden(object), size, alignment);
}

/* -- wrong sizes ------------------------------------------------------------------------------------------------- */

/* The largest size whose objects are smaller. */
static size_t less_than(size_t size)
{
    size_t less = 0;
    for (unsigned class = 0; class < SIZE_CLASSES && size_classes[class] < size; class ++)
        less = size_classes[class];
    return size > 32768 + 4096 ? size - 4096 : less;
}

/* Kinds: how the size is wrong. */
static size_t wrong_size(const struct misuse_case *row)
{
    if (is_kind(row, "more"))
        return row->size + 1;
    if (is_kind(row, "less"))
        return less_than(row->size);
    if (is_kind(row, "much"))
        return row->size * 100;
    if (is_kind(row, "nothing"))
        return 0;
    return is_kind(row, "most") ? SIZE_MAX : SIZE_MAX - 14; /* which wraps when it is rounded up to 16 */
}

static void commit(const struct misuse_case *row, struct thing *thing)
{
    const struct call *call = call_of(row);
    give_as(call, thing->object, thing, wrong_size(row), call->alignment);
}

static void give_wrong(const struct misuse_case *row)
{
    play(row, commit);
}

/* It is larger than what realloc was asked for last, but not that large. */
static void give_resized(const struct misuse_case *row)
{
    struct thing thing = {.size = row->size};
    const struct call *call = call_of(row);
    char *object = hidden(malloc(row->size));
    thing.object = hidden(realloc(object, row->size * 3 / 4));
    if (thing.object == object)
        give_as(call, object, &thing, row->size + 1, call->alignment);
}

/* -- wrong alignments -------------------------------------------------------------------------------------------- */

/* Kinds: what is said of an object of row->size bytes. */
static void give_misaligned(const struct misuse_case *row)
{
    const struct call *call = call_of(row);
    struct thing thing = {.size = row->size};
    if (is_kind(row, "aligned")) { /* it was not */
        for (unsigned i = 0; i < 100 && (uintptr_t)thing.object % (2 * row->size) == 0; i++)
            thing.object = _Znwm(row->size);
        give_as(call, thing.object, &thing, row->size, 2 * row->size);
    } else { /* it was */
        thing.object = _ZnwmSt11align_val_t(row->size / 2 + 1, row->size);
        give_as(call, thing.object, &thing, row->size / 2 + 1, 0);
    }
}

/* A span of its own, of one granule: of two in a row one lies at an odd multiple of 64 KiB. */
static void give_misaligned_large(const struct misuse_case *row)
{
    const size_t granule = 65536;
    struct thing thing = {.size = row->size};
    for (unsigned i = 0; i < 100 && (uintptr_t)thing.object % (2 * granule) == 0; i++)
        thing.object = _Znwm(row->size);
    give_as(call_of(row), thing.object, &thing, row->size, 2 * granule);
}

/* -- wrong pointers, which have their own messages --------------------------------------------------------------- */

static void commit_pointer(const struct misuse_case *row, struct thing *thing)
{
    const struct call *call = call_of(row);
    char *pointer = thing->object + row->offset;
    announce_of_thing(call->said, pointer, row->first ? "double free of an object" : "not the start of an object",
                      thing);
    call->give(hidden(pointer), wrong_size(row), call->alignment);
}

static void give_pointer(const struct misuse_case *row)
{
    play(row, commit_pointer);
}

static void give_large_pointer(const struct misuse_case *row)
{
    const struct call *call = call_of(row);
    char *object = hidden(malloc(row->size));
    announce(call->said, object + row->offset, "no object, or one that is free already");
    if (row->first)
        free(object);
    call->give(hidden(object + row->offset), wrong_size(row), call->alignment);
}

/* C23's calls hand it to free, which the program may have replaced. */
static void give_foreign(const struct misuse_case *row)
{
    long on_stack[16] = {0};
    const struct call *call = call_of(row);
    announce(call->exact ? call->said : "free", on_stack, "not allocated by this library");
    call->give(hidden(on_stack), wrong_size(row), call->alignment);
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static const size_t several_sizes[] = {16, 48, 64, 1024, 1152, 8192, 10240, 32768, 36864, 65536, 1003520};

enum { SEVERAL_SIZES = sizeof several_sizes / sizeof several_sizes[0] };

/* The smallest size has no smaller one. */
static bool is_wrong(const struct call *call, const char *kind, size_t size)
{
    const bool smaller = strcmp(kind, "less") == 0 || strcmp(kind, "nothing") == 0;
    return !smaller || (call->exact && size > 16);
}

static void add_sizes(void)
{
    static const char *const kinds[] = {"more", "less", "much", "nothing", "most", "wraps", NULL};
    for (const struct call *call = calls; call < calls + CALLS; call++)
        for (unsigned i = 0; i < SEVERAL_SIZES; i++)
            FOR_EACH_WORD(kind, kinds)
    if (is_wrong(call, kind, several_sizes[i]))
        add_row((struct misuse_case){.commit = give_wrong,
                                     .call = call->word,
                                     .kind = kind,
                                     .size = several_sizes[i],
                                     .who = i % 2 == 0 ? NULL : "other"},
                "sized-%s-%zu-%s", call->word, several_sizes[i], kind);
}

/* Every class, by one call or another. */
static void add_classes(void)
{
    for (unsigned class = 0; class < SIZE_CLASSES; class ++)
        for (unsigned i = 0; i < 2; i++) {
            const struct call *call = &calls[i == 0 ? class % CALLS : class % 4];
            struct misuse_case row = {.commit = give_wrong, .call = call->word, .size = size_classes[class]};
            row.kind = i == 0 ? "more" : "less";
            if (is_wrong(call, row.kind, row.size))
                add_row(row, "sized-class-%zu-%s", row.size, row.kind);
        }
}

/* The size of a named cache's object is wrong only if it is larger. */
static void add_caches(void)
{
    static const char *const objects[] = {"cache", "merged", "limited", "ctor", "typesafe", NULL};
    static const size_t sizes[] = {8, 40, 5000, 40000};
    unsigned call = 0;
    FOR_EACH_WORD(object, objects)
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++, call++)
        add_row((struct misuse_case){.commit = give_wrong,
                                     .call = calls[call % CALLS].word,
                                     .kind = "more",
                                     .object = object,
                                     .size = sizes[i]},
                "sized-%s-%zu-%s", object, sizes[i], calls[call % CALLS].word);
}

static void add_remote(void)
{
    for (const struct call *call = calls; call < calls + CALLS; call++)
        add_row((struct misuse_case){.commit = give_wrong,
                                     .call = call->word,
                                     .kind = "more",
                                     .object = "remote",
                                     .size = 80,
                                     .options = "topology=2x2",
                                     .checked = true},
                "sized-remote-%s", call->word);
}

/* A joined object has the size of its class, whatever its pieces have together. */
static void add_joined(void)
{
    static const char *const kinds[] = {"more", "less", NULL};
    for (const struct call *call = calls; call < calls + CALLS; call++)
        FOR_EACH_WORD(kind, kinds)
        {
            struct misuse_case row = {.commit = give_wrong, .call = call->word, .kind = kind, .object = "joined"};
            row.size = 1152; /* six of 192 */
            row.piece = 192;
            if (call->exact || strcmp(kind, "more") == 0)
                add_row(row, "sized-joined-%s-%s", call->word, kind);
        }
}

static void add_resized(void)
{
    for (const struct call *call = calls; call < calls + CALLS; call++)
        for (size_t size = 1024; size <= 32768; size *= 32)
            if (!call->exact)
                add_row((struct misuse_case){.commit = give_resized, .call = call->word, .size = size},
                        "sized-resized-%zu-%s", size, call->word);
}

static void add_alignments(void)
{
    for (const struct call *call = calls; call < calls + CALLS; call++)
        for (size_t size = 32; size <= 4096; size *= 2) {
            struct misuse_case row = {.commit = give_misaligned, .call = call->word, .size = size};
            row.kind = call->alignment != 0 ? "aligned" : "plain";
            if (call->alignment != 0 || (call->exact && size > 32))
                add_row(row, "sized-%s-%s-%zu", row.kind, call->word, size);
        }
    for (const struct call *call = calls; call < calls + CALLS; call++)
        if (call->alignment != 0)
            add_row((struct misuse_case){.commit = give_misaligned_large, .call = call->word, .size = 40960},
                    "sized-aligned-%s-large", call->word);
}

static void add_pointers(void)
{
    static const char *const kinds[] = {"more", "nothing", "most", NULL};
    for (const struct call *call = calls; call < calls + CALLS; call++)
        FOR_EACH_WORD(kind, kinds)
        {
            struct misuse_case row = {.commit = give_pointer, .call = call->word, .kind = kind, .size = 48};
            row.offset = 16;
            add_row(row, "sized-askew-%s-%s", call->word, kind);
            row.commit = give_large_pointer;
            row.size = 200704;
            add_row(row, "sized-askew-large-%s-%s", call->word, kind);
            row.offset = 0;
            row.first = "free";
            add_row(row, "sized-twice-large-%s-%s", call->word, kind);
            row.commit = give_pointer;
            row.size = 1280;
            row.who = "other";
            add_row(row, "sized-twice-%s-%s", call->word, kind);
            row.commit = give_foreign;
            add_row(row, "sized-foreign-%s-%s", call->word, kind);
        }
}

void add_rows_of_sized(void)
{
    add_sizes();
    add_classes();
    add_caches();
    add_remote();
    add_joined();
    add_resized();
    add_alignments();
    add_pointers();
}
