/* Limits and accounts of caches.
 *
 * Written in: include/slabmalloc.h, limit_bytes and SLAB_ACCOUNT. Promised are a limit that is met to the object,
 * whoever allocates and whoever frees, by whatever call; and counts of live objects that are exact as soon as no call
 * is under way. */
#include "caches.h"

enum { THREADS = 4 };

/* -- limits ------------------------------------------------------------------------------------------------------ */

static slab_cache *make_limited(size_t size, size_t objects)
{
    slab_cache_attr attr = {.limit_bytes = 1};
    slab_cache *probe = make_cache("probe", size, &attr);
    attr.limit_bytes = objects * figures(probe).object_size;
    drop(probe);
    attr.limit_bytes += objects % 2 ? size / 2 : 0; /* a remainder that no object fits into */
    slab_cache *cache = make_cache("limited", size, &attr);
    require(figures(cache).limit_bytes == attr.limit_bytes);
    return cache;
}

static void require_none(slab_cache *cache)
{
    errno = 0;
    require(slab_cache_alloc(cache) == NULL && errno == ENOMEM);
    errno = 0;
    require(slab_cache_alloc_node(cache, -1) == NULL && errno == ENOMEM);
    require(slab_cache_alloc_nolock(cache) == NULL);
}

static void check_limit(size_t size, size_t limit)
{
    static void *objects[1001];
    slab_cache *cache = make_limited(size, limit);
    for (unsigned round = 0; round < 3; round++) {
        take_all(cache, objects, limit);
        require_none(cache);
        for (unsigned way = 0; way < 5 && limit > 0; way++) {
            if (way == 0)
                slab_cache_free(cache, objects[0]);
            else if (way == 1)
                free(objects[0]);
            else if (way == 2)
                slab_free_nolock(objects[0]);
            else if (way == 3)
                slab_free_bulk(1, objects);
            else
                free(realloc(objects[0], 3 * MIB));
            objects[0] = take(cache);
            require_none(cache);
        }
        require(active(cache) == limit);
        give_all(cache, objects, limit);
        require(active(cache) == 0);
    }
    drop(cache);
}

static void limit_is_met_to_the_object(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {1, 40, 100, 4096, 40000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        check_limit(sizes[i], 1);
        check_limit(sizes[i], 100);
        check_limit(sizes[i], 1001);
    }
    check_limit(MIB, 7);
    slab_cache_attr attr = {.limit_bytes = 39};
    slab_cache *nothing = make_cache("nothing", 40, &attr);
    require_none(nothing);
    drop(nothing);
}

static void bulk_at_the_limit(const char *argument)
{
    (void)argument;
    enum { LIMIT = 1000, ROOM = 2000 };
    static void *objects[ROOM];
    const size_t too_many[] = {LIMIT + 1, ROOM, SIZE_MAX / 56 + 2, SIZE_MAX};
    slab_cache *cache = make_limited(56, LIMIT);
    for (size_t i = 0; i < COUNT(too_many); i++) {
        errno = 0;
        require(slab_cache_alloc_bulk(cache, too_many[i], objects) == 0 && errno == ENOMEM);
        require(active(cache) == 0);
    }
    require(slab_cache_alloc_bulk(cache, LIMIT, objects) == LIMIT);
    require_none(cache);
    slab_cache_free_bulk(cache, 100, objects);
    require(slab_cache_alloc_bulk(cache, 101, objects) == 0 && active(cache) == LIMIT - 100);
    require(slab_cache_alloc_bulk(cache, 100, objects) == 100 && active(cache) == LIMIT);
    slab_free_bulk(LIMIT, objects);
    require(active(cache) == 0);
    drop(cache);
}

/* Several threads take until there is nothing left; the next round's threads free what those of this one took. */
struct taker {
    slab_cache *cache;
    void **objects;
    size_t count, most;
};

static void take_until_none(void *argument)
{
    struct taker *taker = argument;
    for (taker->count = 0; taker->count < taker->most; taker->count++) {
        errno = 0;
        taker->objects[taker->count] = slab_cache_alloc(taker->cache);
        if (taker->objects[taker->count] == NULL)
            break;
    }
    require(taker->count < taker->most && errno == ENOMEM);
}

static void give_back(void *argument)
{
    struct taker *taker = argument;
    for (size_t i = 0; i < taker->count; i++)
        if (i % 3 == 0)
            slab_cache_free(taker->cache, taker->objects[i]);
        else if (i % 3 == 1)
            free(taker->objects[i]);
        else
            slab_free_nolock(taker->objects[i]);
}

static void *take_run(void *argument)
{
    take_until_none(argument);
    return NULL;
}

static void *give_run(void *argument)
{
    give_back(argument);
    return NULL;
}

static void at_once(struct taker *takers, void *(*run)(void *))
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, run, &takers[i]) == 0);
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static void limit_holds_among_threads(const char *argument)
{
    (void)argument;
    enum { LIMIT = 20000 };
    slab_cache *cache = make_limited(100, LIMIT);
    struct taker takers[THREADS];
    for (unsigned round = 0; round < 10; round++) {
        for (size_t i = 0; i < THREADS; i++)
            takers[i] = (struct taker){cache, calloc(LIMIT + 1, sizeof(void *)), 0, LIMIT + 1};
        at_once(takers, take_run);
        size_t total = 0;
        for (size_t i = 0; i < THREADS; i++)
            total += takers[i].count;
        require(total == LIMIT && active(cache) == LIMIT);
        at_once(takers, give_run);
        require(active(cache) == 0);
        for (size_t i = 0; i < THREADS; i++)
            free(takers[i].objects);
    }
    drop(cache);
}

/* -- accounts ---------------------------------------------------------------------------------------------------- */

/* Takes COUNT_ALL objects, frees all but `kept`; parks with what its magazines hold. */
struct account {
    slab_cache *cache;
    size_t kept;
    void *objects[3000];
};

static void take_and_keep_some(void *argument)
{
    struct account *account = argument;
    take_all(account->cache, account->objects, COUNT(account->objects));
    for (size_t i = account->kept; i < COUNT(account->objects); i++)
        if (i % 2)
            free(account->objects[i]);
        else
            slab_cache_free(account->cache, account->objects[i]);
}

/* Exact beside parked threads with stock, and when those have ended; free in any thread counts. */
static void check_account(slab_cache *cache)
{
    static struct account accounts[THREADS];
    struct parked parked[THREADS];
    size_t live = 0;
    for (size_t i = 0; i < THREADS; i++) {
        accounts[i].cache = cache;
        accounts[i].kept = 100 * i + 7;
        park(&parked[i], take_and_keep_some, NULL, &accounts[i]);
        live += accounts[i].kept;
        require(active(cache) == live);
    }
    slab_cache_free(cache, accounts[3].objects[0]);
    free(accounts[3].objects[1]);
    slab_free_nolock(accounts[3].objects[2]);
    slab_free_bulk(2, &accounts[3].objects[3]);
    slab_cache_free_bulk(cache, 2, &accounts[3].objects[5]);
    require(active(cache) == live - 7);
    for (size_t i = 0; i < THREADS; i++)
        unpark(&parked[i]);
    require(active(cache) == live - 7);
    for (size_t i = 0; i < THREADS; i++)
        give_all(cache, accounts[i].objects + 7, accounts[i].kept - 7);
    require(active(cache) == 3 * 7);
    for (size_t i = 0; i < 3; i++)
        give_all(cache, accounts[i].objects, 7);
    require(active(cache) == 0);
    drop(cache);
}

static void accounts_are_exact(const char *argument)
{
    (void)argument;
    const slab_cache_attr counted = {.flags = SLAB_ACCOUNT}, limited = {.limit_bytes = 100 * MIB};
    check_account(make_cache("counted", 72, &counted));
    check_account(make_cache("limited", 72, &limited));
    check_account(make_own("plain", 72));
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"limit_is_met_to_the_object", limit_is_met_to_the_object},
        {"bulk_at_the_limit", bulk_at_the_limit},
        {"limit_holds_among_threads", limit_holds_among_threads},
        {"accounts_are_exact", accounts_are_exact},
    };
    return run_scenarios("cache limits", scenarios, COUNT(scenarios), argc, argv);
}
