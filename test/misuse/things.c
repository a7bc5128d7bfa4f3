/* Making objects; see things.h. */
#include <malloc.h>

#include "things.h"

static void *others[THING_OTHERS_MOST];
static unsigned others_count;
static int node = -1;

static void stay_as_it_is(void *object, void *context)
{
    (void)object;
    (void)context;
}

static const struct {
    const char *object;
    slab_cache_attr attr;
} kinds[] = {
    {"cache", {.flags = SLAB_NO_MERGE}},
    {"merged", {0}},
    {"zero", {.flags = SLAB_ZERO | SLAB_NO_MERGE}},
    {"accounted", {.flags = SLAB_ACCOUNT}},
    {"limited", {.limit_bytes = 1 << 30}},
    {"line", {.flags = SLAB_CACHELINE_ALIGN | SLAB_NO_MERGE}},
    {"ctor", {.ctor = stay_as_it_is}},
    {"dtor", {.dtor = stay_as_it_is}},
    {"typesafe", {.flags = SLAB_TYPESAFE_BY_EPOCH}},
};

static slab_cache *make_cache(const struct misuse_case *row)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(row->object, kinds[i].object) == 0) {
            slab_cache_attr attr = kinds[i].attr;
            attr.magazine_rounds = row->rounds;
            return slab_cache_create("apples", row->size, &attr);
        }
    fprintf(stderr, "%s: no such object as %s\n", row->name, row->object);
    exit(EXIT_FAILURE);
}

static int last_node(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return (int)stats.nodes - 1;
}

/* Slabs of pieces, of which every eighth stays. What the rest is joined to lies in the same 64 KiB. Only where
 * megabytes are in use does malloc join anything. */
enum { IN_USE = 8 << 20, PIECE_SLABS = 16, SLAB = 0x10000, PIECES_MOST = SLAB / 16 * PIECE_SLABS };

static uintptr_t piece_slabs[PIECES_MOST];
static unsigned piece_count;

static void make_pieces(size_t piece)
{
    static void *pieces[PIECES_MOST];
    const unsigned all = (unsigned)(SLAB / piece * PIECE_SLABS);
    char *volatile ballast = malloc(IN_USE);
    (void)ballast;
    for (unsigned i = 0; i < all; i++)
        pieces[i] = hidden(malloc(piece));
    for (unsigned i = 0; i < all; i++) {
        if ((uintptr_t)pieces[i] % SLAB / piece % 8 == 0)
            piece_slabs[piece_count++] = (uintptr_t)pieces[i] / SLAB;
        else
            free(pieces[i]);
    }
    malloc_trim(0);
}

static bool is_joined(const void *object)
{
    for (unsigned i = 0; i < piece_count; i++)
        if (piece_slabs[i] == (uintptr_t)object / SLAB)
            return true;
    return false;
}

/* What is not joined stays live. The last ones need not be. */
static void *alloc_joined(size_t size)
{
    void *object = NULL;
    for (unsigned i = 0; i < 64 && (i == 0 || !is_joined(object)); i++)
        object = malloc(size);
    return object;
}

void *thing_alloc(const struct thing *thing)
{
    if (piece_count > 0)
        return hidden(alloc_joined(thing->size));
    void *object = thing->cache ? slab_cache_alloc(thing->cache)
                   : node >= 0  ? slab_alloc_node(thing->size, node)
                                : malloc(thing->size);
    return hidden(object);
}

void thing_make(struct thing *thing, const struct misuse_case *row)
{
    enum { before = 4, all = sizeof thing->neighbours / sizeof thing->neighbours[0] };
    unsigned made = 0;
    const bool remote = row->object && strcmp(row->object, "remote") == 0;
    node = remote ? last_node() : -1;
    thing->cache = row->object && !remote && !row->piece ? make_cache(row) : NULL;
    thing->size = row->size;
    thing->given = 0;
    if (row->piece)
        make_pieces(row->piece);
    while (others_count < row->after / 2)
        others[others_count++] = thing_alloc(thing);
    for (; made < before; made++)
        thing->neighbours[made] = thing_alloc(thing);
    thing->object = thing_alloc(thing);
    for (; made < all; made++)
        thing->neighbours[made] = thing_alloc(thing);
    while (others_count < row->after)
        others[others_count++] = thing_alloc(thing);
    if (!thing->object || !thing->neighbours[all - 1] || (row->piece && !is_joined(thing->object))) {
        fprintf(stderr, "%s: no such object\n", row->name);
        exit(EXIT_FAILURE);
    }
}

void thing_free_others(void)
{
    for (unsigned i = 0; i < others_count; i++)
        free(hidden(others[i]));
    others_count = 0;
}

void announce_of_thing(const char *call, const void *pointer, const char *what, const struct thing *thing)
{
    if (thing->cache)
        announce_of_cache(call, pointer, what, "apples");
    else
        announce_of_size(call, pointer, what, thing->size);
}
