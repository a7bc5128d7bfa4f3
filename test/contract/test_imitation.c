/* Live objects may contain anything, also what free objects have in their words.
 *
 * Written in: docs/reliability.md (a free object is known by its second word; contents that imitate it never cause
 * a false alarm), include/slabmalloc.h. Promised is that calls do with such an object what they do with any other:
 * it is freed, resized, measured, retired, by any thread, with nothing lost. The words are read from an object
 * that has just been freed, which no program but this may do. */
#include "caches.h"

enum { THREADS = 4, AT_ONCE = 300 };

static const size_t sizes[] = {16, 24, 48, 64, 100, 512, 1000, 4096, 8192, 10000, 32768};

/* -- objects that imitate ---------------------------------------------------------------------------------------- */

enum kind { SECOND, FIRST_AND_SECOND, SOME, ALL, KINDS };

struct imitation {
    uint64_t *object;
    size_t size;
    enum kind kind;
    uint64_t word; /* what free objects have */
    slab_cache *cache;
};

static void *make_object(size_t size, slab_cache *cache)
{
    void *object = cache ? slab_cache_alloc(cache) : malloc(size);
    require(object != NULL);
    return opaque(object);
}

/* What an object that this thread has freed has in its second word. */
static uint64_t word_of_free_object(size_t size, slab_cache *cache)
{
    void *neighbour = make_object(size, cache), *object = make_object(size, cache);
    const volatile uint64_t *kept = opaque(object);
    memset(object, 0, size);
    free(object);
    const uint64_t word = kept[1];
    free(neighbour);
    return word;
}

static uint64_t word_at(const struct imitation *imitation, size_t i)
{
    const enum kind kind = imitation->kind;
    const bool some = kind == SOME && (uint32_t)i * 2654435769u >> 30 == 0;
    const bool imitates = i == 1 || kind == ALL || some || (kind == FIRST_AND_SECOND && i == 0);
    return imitates ? imitation->word : i * 977 + imitation->size;
}

static struct imitation make(size_t size, slab_cache *cache, enum kind kind, uint64_t word)
{
    const struct imitation made = {make_object(size, cache), size, kind, word, cache};
    for (size_t i = 0; i < size / sizeof word; i++)
        made.object[i] = word_at(&made, i);
    return made;
}

static bool holds(const struct imitation *imitation)
{
    const size_t size = imitation->size;
    size_t i = 0;
    while (i < size / sizeof(uint64_t) && imitation->object[i] == word_at(imitation, i))
        i++;
    return i == size / sizeof(uint64_t);
}

/* -- calls ------------------------------------------------------------------------------------------------------- */

/* Another size of the same object: the words that both have are kept. */
static void resize(struct imitation *imitation, size_t size)
{
    const size_t all = imitation->size;
    imitation->object = realloc(imitation->object, size);
    require(imitation->object != NULL);
    imitation->size = size < all ? size : all;
    for (size_t i = 0; i < imitation->size / sizeof(uint64_t); i++) {
        const bool imitates = imitation->object[i] == imitation->word;
        require(imitates || imitation->object[i] == i * 977 + all);
    }
}

static void give_bulk(const struct imitation *imitation)
{
    void *objects[] = {malloc(imitation->size), imitation->object, NULL, malloc(imitation->size)};
    slab_free_bulk(COUNT(objects), objects);
}

static void give_in_section(const struct imitation *imitation)
{
    slab_epoch_enter();
    slab_free_deferred(imitation->object);
    require(holds(imitation)); /* nothing is written meanwhile */
    slab_epoch_leave();
}

static void give_to_realloc(struct imitation *imitation)
{
    resize(imitation, imitation->size * 2);
    resize(imitation, imitation->size / 2 + 1);
    free(imitation->object);
}

enum { WAYS = 7 };

static void give(struct imitation *imitation, unsigned way)
{
    require(holds(imitation));
    require(malloc_usable_size(imitation->object) >= imitation->size && holds(imitation));
    switch (way % WAYS) {
    case 0:
        free(imitation->object);
        break;
    case 1:
        give_bulk(imitation);
        break;
    case 2:
        slab_free_deferred(imitation->object);
        break;
    case 3:
        give_in_section(imitation);
        break;
    case 4:
        give_to_realloc(imitation);
        break;
    case 5:
        if (free_sized != NULL)
            free_sized(imitation->object, imitation->size);
        else
            free(imitation->object);
        break;
    default:
        if (imitation->cache != NULL)
            slab_cache_free(imitation->cache, imitation->object);
        else
            require(realloc(imitation->object, 0) == NULL);
    }
}

static void require_nothing_lost(uint64_t live_bytes)
{
    slab_epoch_barrier();
    slab_purge();
    require(process_figures().live_bytes <= live_bytes + 2 * KIB);
}

/* -- malloc's objects -------------------------------------------------------------------------------------------- */

/* Or there would be nothing to imitate. */
static void free_objects_have_a_word_of_their_own(const char *argument)
{
    (void)argument;
    const uint64_t word = word_of_free_object(64, NULL);
    require(word != 0);
    for (size_t i = 0; i < COUNT(sizes); i++)
        require(word_of_free_object(sizes[i], NULL) == word);
}

static void every_call_takes_them(const char *argument)
{
    (void)argument;
    do_without_worker("every_call_takes_them");
    const uint64_t word = word_of_free_object(64, NULL), live_bytes = process_figures().live_bytes;
    for (unsigned round = 0; round < scaled(200); round++)
        for (size_t i = 0; i < COUNT(sizes); i++)
            for (unsigned way = 0; way < WAYS; way++) {
                struct imitation imitation = make(sizes[i], NULL, (round + way + i) % KINDS, word);
                give(&imitation, way);
            }
    require_nothing_lost(live_bytes);
}

/* Magazines and slabs of nothing else. */
static void many_at_once(const char *argument)
{
    (void)argument;
    static struct imitation imitations[AT_ONCE];
    static void *objects[AT_ONCE];
    do_without_worker("many_at_once");
    const uint64_t word = word_of_free_object(64, NULL), live_bytes = process_figures().live_bytes;
    for (unsigned round = 0; round < scaled(200); round++) {
        const size_t size = sizes[round % COUNT(sizes)];
        for (unsigned i = 0; i < AT_ONCE; i++) {
            imitations[i] = make(size, NULL, i % KINDS, word);
            objects[i] = imitations[i].object;
        }
        if (round % 2 == 0)
            slab_free_bulk(AT_ONCE, objects);
        for (unsigned i = 0; i < AT_ONCE && round % 2 != 0; i++)
            give(&imitations[i], round % 4 == 1 ? 0 : 2);
    }
    require_nothing_lost(live_bytes);
}

/* Without a lock the object cannot be told from a free one for certain, and may stay as it is. */
static void calls_without_a_lock_go_on(const char *argument)
{
    (void)argument;
    const uint64_t word = word_of_free_object(64, NULL);
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (unsigned kind = 0; kind < KINDS; kind++)
            slab_free_nolock(make(sizes[i], NULL, kind, word).object);
    exercise();
}

/* -- objects of caches ------------------------------------------------------------------------------------------- */

static void leave_alone(void *object, void *context)
{
    (void)object;
    (void)context;
}

static void caches_take_them(const char *argument)
{
    (void)argument;
    const slab_cache_attr attrs[] = {
        {.flags = SLAB_NO_MERGE},
        {.flags = SLAB_ZERO | SLAB_NO_MERGE},
        {.flags = SLAB_ACCOUNT},
        {.limit_bytes = 8 * MIB},
        {.ctor = leave_alone},
        {.dtor = leave_alone},
        {.flags = SLAB_TYPESAFE_BY_EPOCH},
        {.magazine_rounds = 3},
    };
    static const size_t cut[] = {24, 72, 1000, 40000};
    const uint64_t word = word_of_free_object(64, NULL);
    for (size_t i = 0; i < COUNT(attrs) * COUNT(cut); i++) {
        const size_t size = cut[i % COUNT(cut)];
        slab_cache *cache = make_cache("imitated", size, &attrs[i / COUNT(cut)]);
        for (unsigned way = 0; way < scaled(8 * WAYS); way++) {
            struct imitation imitation = make(size, cache, way / WAYS % KINDS, word);
            give(&imitation, way);
        }
        slab_epoch_barrier();
        require(active(cache) == 0);
        drop(cache);
    }
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

/* Where threads leave objects for each other. */
static struct {
    pthread_mutex_t mutex;
    struct imitation left;
} places[64];

static slab_cache *shared;

static void exchange(uint64_t *random, const uint64_t *words)
{
    const uint64_t dice = random_next(random);
    const size_t place = dice % COUNT(places);
    slab_cache *cache = dice >> 32 & 1 ? shared : NULL;
    const size_t size = cache ? 72 : sizes[(dice >> 16) % COUNT(sizes)];
    const struct imitation made = make(size, cache, (dice >> 24) % KINDS, words[dice >> 40 & 1]);
    pthread_mutex_lock(&places[place].mutex);
    struct imitation left = places[place].left;
    places[place].left = made;
    pthread_mutex_unlock(&places[place].mutex);
    if (left.object != NULL)
        give(&left, (unsigned)(dice >> 48));
}

static void *exchange_many(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed * 2654435761u + 1;
    uint64_t words[2] = {0};
    for (unsigned i = 0; i < scaled(60000); i++) {
        if (i % 100 == 0) { /* the thread may have come to another node */
            words[0] = word_of_free_object(64, NULL);
            words[1] = word_of_free_object(72, shared);
        }
        exchange(&random, words);
    }
    return NULL;
}

static void threads_free_for_each_other(const char *argument)
{
    (void)argument;
    pthread_t threads[THREADS];
    shared = make_own("shared", 72);
    for (size_t i = 0; i < COUNT(places); i++)
        require(pthread_mutex_init(&places[i].mutex, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, exchange_many, (void *)(i + 1)) == 0);
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < COUNT(places); i++)
        if (places[i].left.object != NULL)
            give(&places[i].left, (unsigned)i);
    slab_epoch_barrier();
    require(active(shared) == 0);
    drop(shared);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"free_objects_have_a_word_of_their_own", free_objects_have_a_word_of_their_own},
        {"every_call_takes_them", every_call_takes_them},
        {"many_at_once", many_at_once},
        {"calls_without_a_lock_go_on", calls_without_a_lock_go_on},
        {"caches_take_them", caches_take_them},
        {"threads_free_for_each_other", threads_free_for_each_other},
    };
    return run_scenarios("imitation", scenarios, COUNT(scenarios), argc, argv);
}
