/* The objects of the stress test of epochs: kinds, their nodes, and the ways to retire them; see epochs.h.
 *
 * A kind stands for one path through the library: sizes of malloc's from the smallest class to large objects, caches
 * with magazines of one round and of few, constructed, type-safe, accounted, limited and zeroed ones, ones without a
 * place. Promised: a node is as its maker left it until it is freed; zeroed and constructed memory is so at each
 * allocation; when all is freed, the caches have no active object and their destructors have seen what the
 * constructors made. */
#include "epochs.h"

enum {
    FILLERS = 600,        /* caches that take all places in threads' blocks */
    EVERY_WORD_TO = 1024, /* of larger nodes every 64th word is looked at */
    STRIDE = 64,
    MOST_SCRIBBLED = 64,
    UNUSUAL_ERRNO = 4711,
};

#define POISON 0x6b6b6b6b6b6b6b6bu
#define LIMIT ((size_t)1 << 30) /* far away: what matters is that there is one */

struct kind kinds[] = {
    {.name = "prompt", .size = 24, .flags = SLAB_NO_MERGE, .magazine_rounds = 1},
    {.name = "pumped", .size = 32, .flags = SLAB_NO_MERGE, .magazine_rounds = 254},
    {.name = "malloc(16)", .size = 16, .flags = KIND_MALLOC},
    {.name = "malloc(48)", .size = 48, .flags = KIND_MALLOC},
    {.name = "malloc(200)", .size = 200, .flags = KIND_MALLOC},
    {.name = "malloc(1000)", .size = 1000, .flags = KIND_MALLOC},
    {.name = "malloc(5000)", .size = 5000, .flags = KIND_MALLOC},
    {.name = "prompt-head", .size = 64, .flags = SLAB_NO_MERGE, .magazine_rounds = 1},
    {.name = "merged", .size = 56},
    {.name = "private", .size = 192, .flags = SLAB_NO_MERGE, .magazine_rounds = 3},
    {.name = "constructed", .size = 256, .flags = KIND_CONSTRUCTED, .magazine_rounds = 8},
    {.name = "typesafe", .size = 64, .flags = SLAB_TYPESAFE_BY_EPOCH | KIND_CONSTRUCTED, .magazine_rounds = 2},
    {.name = "loose", .size = 72, .flags = SLAB_TYPESAFE_BY_EPOCH | KIND_CONSTRUCTED | KIND_LOOSE},
    {.name = "accounted", .size = 128, .flags = SLAB_ACCOUNT},
    {.name = "limited", .size = 96, .flags = SLAB_ACCOUNT | SLAB_TYPESAFE_BY_EPOCH},
    {.name = "zero", .size = 80, .flags = SLAB_ZERO | SLAB_NO_MERGE},
    {.name = "lines", .size = 104, .flags = SLAB_CACHELINE_ALIGN | SLAB_NO_MERGE},
    {.name = "far", .size = 88, .flags = SLAB_NO_MERGE | KIND_FAR},
    {.name = "far, accounted", .size = 160, .flags = SLAB_ACCOUNT | KIND_FAR | KIND_CONSTRUCTED},
    /* Dear ones from here on, which are drawn less often. */
    {.name = "malloc(30000)", .size = 30000, .flags = KIND_MALLOC},
    {.name = "malloc(70000)", .size = 70000, .flags = KIND_MALLOC},
    {.name = "malloc(400000)", .size = 400000, .flags = KIND_MALLOC},
    {.name = "large", .size = 40000, .flags = SLAB_NO_MERGE},
    /* The one that is not drawn. */
    {.name = "barrier", .size = 64, .flags = SLAB_ACCOUNT},
};
const unsigned kinds_count = COUNT(kinds) - 1;
struct kind *const barrier_kind = &kinds[COUNT(kinds) - 1];
struct kind *const prompt_kind = &kinds[0];
struct kind *const pumped_kind = &kinds[1];

static slab_cache *fillers[FILLERS];

_Atomic uint64_t calls_given, calls_run;

/* -- nodes ------------------------------------------------------------------------------------------------------- */

static uint64_t type_of(const struct node *node)
{
    return mix((uintptr_t)node ^ 0x74797065);
}

static uint64_t check_of(const struct node *node, uint64_t serial)
{
    return mix((uintptr_t)node ^ mix(serial));
}

static size_t words_of(const struct kind *kind)
{
    return has_head(kind) ? (kind->size - sizeof(struct node)) / 8 : 0;
}

static size_t stride_of(const struct kind *kind)
{
    return kind->size <= EVERY_WORD_TO ? 1 : STRIDE;
}

static void write_words(const struct kind *kind, struct node *node, uint64_t first)
{
    for (size_t i = 0, end = words_of(kind), stride = stride_of(kind); i < end; i += stride)
        node->words[i] = first + i;
}

/* Takes no part in what the compiler knows of the callers: each call reads memory anew. */
__attribute__((noinline)) uint64_t node_check(const struct kind *kind, const struct node *node, uint64_t serial)
{
    doing("checking an object");
    const bool typed = kind->flags & KIND_CONSTRUCTED;
    if (typed && node->type != type_of(node))
        fail(FOUND_BROKEN, "broken: %s %p has lost its type: %#" PRIx64, kind->name, (const void *)node, node->type);
    if (kind->flags & KIND_LOOSE)
        return serial;
    const uint64_t found = node->serial, check = check_of(node, found);
    if (serial != 0 && found != serial)
        fail(FOUND_BROKEN, "broken: %s %p has become another object: serial %#" PRIx64 " was %#" PRIx64, kind->name,
             (const void *)node, found, serial);
    if (node->check != check)
        fail(FOUND_BROKEN, "broken: %s %p, serial %#" PRIx64 ": its check is %#" PRIx64 ", not %#" PRIx64, kind->name,
             (const void *)node, found, node->check, check);
    for (size_t i = 0, end = words_of(kind), stride = stride_of(kind); i < end; i += stride)
        if (node->words[i] != check + i)
            fail(FOUND_BROKEN, "broken: %s %p, serial %#" PRIx64 ": word %zu is %#" PRIx64 ", not %#" PRIx64,
                 kind->name, (const void *)node, found, i, node->words[i], check + i);
    return found;
}

static void *allocate(struct kind *kind, uint64_t *random)
{
    const unsigned how = draw(random) % 8;
    void *memory = NULL;
    doing("allocating");
    if (kind->flags & KIND_MALLOC)
        memory = how == 0 ? calloc(1, kind->size) : how == 1 ? aligned_alloc(16, kind->size) : malloc(kind->size);
    else if (how == 0)
        memory = slab_cache_alloc_bulk(kind->cache, 1, &memory) == 1 ? memory : NULL;
    else
        memory = slab_cache_alloc(kind->cache);
    if (memory == NULL)
        fail(FOUND_WRONG, "no object of %s: %s", kind->name, strerror(errno));
    return memory;
}

/* What the allocator promises about a new object. */
static struct node *accept(struct kind *kind, uint64_t *random)
{
    struct node *node = allocate(kind, random);
    if (kind->flags & KIND_CONSTRUCTED && node->type != type_of(node))
        fail(FOUND_BROKEN, "broken: %s %p is not as it was constructed", kind->name, (void *)node);
    for (size_t i = 0; kind->flags & SLAB_ZERO && i < kind->size / 8; i++)
        if (((const uint64_t *)node)[i] != 0)
            fail(FOUND_WRONG, "%s %p is not zero at byte %zu", kind->name, (void *)node, 8 * i);
    return node;
}

struct node *node_make(struct kind *kind, uint64_t serial, uint64_t *random)
{
    struct node *node = accept(kind, random);
    node->serial = serial;
    node->check = check_of(node, serial);
    if (has_head(kind)) {
        if (!(kind->flags & KIND_CONSTRUCTED))
            node->type = type_of(node);
        node->kind = kind;
        write_words(kind, node, node->check);
    }
    return node;
}

static void node_free(struct kind *kind, struct node *node)
{
    doing("freeing");
    if (kind->flags & KIND_MALLOC || (node->check & 3) == 0)
        free(node);
    else
        slab_cache_free(kind->cache, node);
}

static void poison(struct kind *kind, struct node *node)
{
    node->serial = POISON;
    node->check = POISON ^ (uintptr_t)node >> 4; /* no two alike, so that node_free frees in both ways */
    write_words(kind, node, POISON);
}

void node_poison_and_free(struct kind *kind, struct node *node)
{
    poison(kind, node);
    node_free(kind, node);
}

void scribble(struct kind *kind, unsigned count, uint64_t *random)
{
    struct node *taken[MOST_SCRIBBLED];
    for (unsigned i = 0; i < count; i++) {
        taken[i] = accept(kind, random);
        poison(kind, taken[i]);
    }
    while (count > 0)
        node_free(kind, taken[--count]);
}

/* -- retiring ---------------------------------------------------------------------------------------------------- */

enum form draw_form(const struct kind *kind, bool may_wait, uint64_t *random)
{
    static const enum form forms[] = {FORM_ONE, FORM_ONE, FORM_BULK, FORM_HEAD, FORM_CALL};
    if (may_wait && once_in(random, 500))
        return FORM_SYNCHRONIZE;
    const bool needs_none = !has_head(kind) || kind->flags & KIND_LOOSE;
    return forms[draw(random) % (needs_none ? 3 : COUNT(forms))];
}

/* The function of slab_epoch_call: no reader holds the node any more, and until now nobody was to touch it. */
static void free_called(slab_epoch_head *head)
{
    struct node *node = (struct node *)((char *)head - offsetof(struct node, head));
    const char *before = atomic_load_explicit(&at_work->doing, memory_order_relaxed);
    node_check(node->kind, node, 0);
    node_poison_and_free(node->kind, node);
    doing(before);
    /* Release: pairs with the acquire of whoever has waited for all calls. */
    atomic_fetch_add_explicit(&calls_run, 1, memory_order_release);
}

void retire_bulk(struct retirer *self)
{
    doing("slab_free_deferred_bulk");
    slab_free_deferred_bulk(self->in_bulk, self->bulk);
    self->in_bulk = 0;
}

void node_retire(struct retirer *self, struct kind *kind, struct node *node, enum form form)
{
    tally(&self->retired[form], 1);
    errno = UNUSUAL_ERRNO;
    switch (form) {
    case FORM_HEAD:
        doing("slab_free_deferred_head");
        slab_free_deferred_head(node, &node->head);
        break;
    case FORM_BULK:
        self->bulk[self->in_bulk++] = node;
        if (self->in_bulk < MOST_IN_BULK && node->serial % 3 == 0)
            self->bulk[self->in_bulk++] = NULL;
        if (self->in_bulk == MOST_IN_BULK || node->serial % 16 == 0)
            retire_bulk(self);
        break;
    case FORM_CALL:
        doing("slab_epoch_call");
        atomic_fetch_add_explicit(&calls_given, 1, memory_order_relaxed);
        slab_epoch_call(&node->head, free_called);
        break;
    case FORM_SYNCHRONIZE:
        doing("slab_epoch_synchronize");
        slab_epoch_synchronize();
        node_check(kind, node, 0);
        node_poison_and_free(kind, node);
        break;
    default:
        doing("slab_free_deferred");
        if (kind->flags & KIND_LOOSE && node->serial % 2 == 0)
            slab_cache_free(kind->cache, node);
        else
            slab_free_deferred(node);
    }
    if (errno != UNUSUAL_ERRNO)
        fail(FOUND_WRONG, "retiring in way %d has set errno to %d", (int)form, errno);
}

/* -- kinds ------------------------------------------------------------------------------------------------------- */

static void construct(void *memory, void *context)
{
    struct kind *kind = context;
    struct node *node = memory;
    node->type = type_of(node);
    atomic_fetch_add_explicit(&kind->constructed, 1, memory_order_relaxed);
}

/* Release: pairs with the acquire of whoever has destroyed the cache. */
static void destruct(void *memory, void *context)
{
    struct kind *kind = context;
    struct node *node = memory;
    if (node->type != type_of(node))
        fail(FOUND_BROKEN, "broken: %s %p, about to be destructed, has lost its type", kind->name, memory);
    node->type = POISON;
    atomic_fetch_sub_explicit(&kind->constructed, 1, memory_order_release);
}

static void create(struct kind *kind)
{
    const bool constructed = kind->flags & KIND_CONSTRUCTED;
    const slab_cache_attr attr = {
        .flags = kind->flags & ~(KIND_MALLOC | KIND_FAR | KIND_CONSTRUCTED | KIND_LOOSE),
        .magazine_rounds = kind->magazine_rounds,
        .limit_bytes = strcmp(kind->name, "limited") == 0 ? LIMIT : 0,
        .ctor = constructed ? construct : NULL,
        .dtor = constructed ? destruct : NULL,
        .context = kind,
    };
    kind->cache = slab_cache_create(kind->name, kind->size, &attr);
    if (kind->cache == NULL)
        fail(FOUND_WRONG, "%s: %s", kind->name, strerror(errno));
}

static void create_those(unsigned flag)
{
    for (unsigned i = 0; i < COUNT(kinds); i++)
        if ((kinds[i].flags & (KIND_MALLOC | KIND_FAR)) == flag)
            create(&kinds[i]);
}

void kinds_create(void)
{
    const slab_cache_attr apart = {.flags = SLAB_NO_MERGE};
    create_those(0);
    for (unsigned i = 0; i < FILLERS; i++)
        if ((fillers[i] = slab_cache_create("filler", 64, &apart)) == NULL)
            fail(FOUND_WRONG, "no filler: %s", strerror(errno));
    create_those(KIND_FAR);
}

uint64_t active_objects(const struct kind *kind)
{
    slab_cache_stats stats;
    if (slab_cache_get_stats(kind->cache, &stats) != 0)
        fail(FOUND_WRONG, "%s has no figures: %s", kind->name, strerror(errno));
    return stats.active_objects;
}

static void destroy(struct kind *kind)
{
    const uint64_t active = active_objects(kind);
    if (active != 0)
        fail(FOUND_MISSING, "missing: all is retired and behind a barrier, but of %s %" PRIu64 " objects are active",
             kind->name, active);
    if (slab_cache_destroy(kind->cache) != 0)
        fail(FOUND_MISSING, "missing: %s cannot be destroyed: %s", kind->name, strerror(errno));
    const int64_t left = atomic_load_explicit(&kind->constructed, memory_order_acquire);
    if (left != 0)
        fail(FOUND_MISSING, "missing: %s is destroyed, but %" PRId64 " objects were not", kind->name, left);
}

void kinds_destroy(void)
{
    doing("destroying the caches");
    for (unsigned i = 0; i < COUNT(kinds); i++)
        if (!(kinds[i].flags & KIND_MALLOC))
            destroy(&kinds[i]);
    for (unsigned i = 0; i < FILLERS; i++)
        if (slab_cache_destroy(fillers[i]) != 0)
            fail(FOUND_WRONG, "a filler cannot be destroyed: %s", strerror(errno));
}
