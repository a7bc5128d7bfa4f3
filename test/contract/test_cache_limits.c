/* Limits and accounts of caches.
 *
 * Written in: include/slabmalloc.h, limit_bytes and SLAB_ACCOUNT. Promised are a limit that is met to the object,
 * whoever allocates and whoever frees, by whatever call, and wherever the free objects lie; and counts of live
 * objects that are exact as soon as no call is under way. */
#include "caches.h"

#include <sys/wait.h>

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

/* -- free objects that others hold ------------------------------------------------------------------------------- */

enum { MOST = 1000, WAYS = 5 };

/* Takes as many as there may be, and frees them in one of the ways; parks with what its magazines hold. */
struct stocked {
    slab_cache *cache;
    size_t limit;
    unsigned way;
    void *objects[MOST];
};

static void give_some(slab_cache *cache, unsigned way, void **objects, size_t count)
{
    if (way == 1)
        slab_cache_free_bulk(cache, count, objects);
    else if (way == 2)
        slab_free_deferred_bulk(count, objects);
    for (size_t i = 0; i < count && way != 1 && way != 2; i++)
        if (way == 3)
            slab_free_nolock(objects[i]);
        else if (way == 4)
            slab_cache_free(cache, objects[i]);
        else
            free(objects[i]);
}

static void take_and_give(void *argument)
{
    struct stocked *stocked = argument;
    void *own =
        slab_cache_alloc_nolock(stocked->cache); /* from here on the thread has a reserve, which does not count */
    slab_free_nolock(own);
    if (stocked->way % 2)
        require(slab_cache_alloc_bulk(stocked->cache, stocked->limit, stocked->objects) == stocked->limit);
    else
        take_all(stocked->cache, stocked->objects, stocked->limit);
    require_none(stocked->cache);
    give_some(stocked->cache, stocked->way, stocked->objects, stocked->limit);
}

/* All the limit, for one who comes after others that stand still; in each of the ways to ask for it. */
static void check_parked(size_t size, size_t limit, size_t threads)
{
    static struct stocked stocked[8];
    static void *objects[MOST];
    struct parked parked[8];
    slab_cache *cache = make_limited(size, limit);
    for (size_t i = 0; i < threads; i++) {
        stocked[i] = (struct stocked){cache, limit, (unsigned)i % WAYS, {0}};
        park(&parked[i], take_and_give, NULL, &stocked[i]);
        require(active(cache) == 0);
    }
    take_all(cache, objects, limit);
    require_none(cache);
    give_all(cache, objects, limit);
    run_thread(take_and_give, &stocked[0]);
    require(slab_cache_alloc_bulk(cache, limit, objects) == limit);
    require_none(cache);
    slab_cache_free_bulk(cache, limit, objects);
    run_thread(take_and_give, &stocked[threads - 1]);
    for (size_t i = 0; i < limit; i++)
        require((objects[i] = slab_cache_alloc_node(cache, 0)) != NULL);
    require_none(cache);
    for (size_t i = 0; i < threads; i++)
        unpark(&parked[i]);
    require_none(cache);
    give_all(cache, objects, limit);
    drop(cache);
}

static void parked_threads_keep_none_from_others(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {8, 104, 3000, 40000}, limits[] = {1, 2, 17, MOST}, threads[] = {1, 3, 8};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t k = 0; k < COUNT(limits); k++)
            for (size_t t = 0; t < COUNT(threads); t++)
                check_parked(sizes[i], limits[k], threads[t]);
}

static void enter_section(void *nothing)
{
    (void)nothing;
    slab_epoch_enter();
}

static void leave_section(void *nothing)
{
    (void)nothing;
    slab_epoch_leave();
}

/* Retired objects count as live until their grace period is over; then whoever asks gets them. */
static void retired_objects_come_back(const char *argument)
{
    (void)argument;
    static struct stocked stocked[2];
    static void *objects[MOST];
    for (size_t limit = 1; limit <= MOST; limit = limit * 9 + 1) {
        struct parked reader, retiring;
        slab_cache *cache = make_limited(104, limit);
        slab_epoch_enter();
        slab_epoch_leave();
        for (unsigned round = 0; round < 3; round++) {
            park(&reader, enter_section, leave_section, NULL);
            stocked[0] = (struct stocked){cache, limit, 2, {0}};
            park(&retiring, take_and_give, NULL, &stocked[0]);
            require(active(cache) == limit);
            require_none(cache);
            unpark(&reader);
            slab_epoch_barrier();
            take_all(cache, objects, limit);
            require_none(cache);
            slab_free_deferred_bulk(limit, objects);
            slab_epoch_barrier();
            unpark(&retiring);
        }
        drop(cache);
    }
}

static void count_in_child(slab_cache *cache, void **objects, size_t count)
{
    pid_t child = fork();
    require(child >= 0);
    if (child == 0) {
        slab_epoch_barrier();
        take_all(cache, objects, count);
        require_none(cache);
        give_all(cache, objects, count);
        take_all(cache, objects, count);
        _exit(0);
    }
    int status;
    require(waitpid(child, &status, 0) == child && status == 0);
}

/* What threads hold that the child does not have is the child's to take. There is no worker, as a fork may catch
 * it while it has something in its hands. */
static void a_child_has_the_whole_limit(const char *argument)
{
    (void)argument;
    do_without_worker("a_child_has_the_whole_limit");
    static struct stocked stocked[WAYS];
    static void *objects[MOST];
    struct parked parked[WAYS];
    slab_cache *cache = make_limited(104, MOST);
    for (size_t i = 0; i < WAYS; i++) {
        stocked[i] = (struct stocked){cache, MOST, (unsigned)i, {0}};
        park(&parked[i], take_and_give, NULL, &stocked[i]);
        count_in_child(cache, objects, MOST);
    }
    take_all(cache, objects, MOST / 2);
    count_in_child(cache, objects + MOST / 2, MOST - MOST / 2);
    for (size_t i = 0; i < WAYS; i++)
        unpark(&parked[i]);
    take_all(cache, objects + MOST / 2, MOST - MOST / 2);
    require_none(cache);
    give_all(cache, objects, MOST);
    drop(cache);
}

/* The same for what such threads have retired, in magazines that are full and one that is not. */
static void a_child_has_what_lost_threads_retired(const char *argument)
{
    (void)argument;
    do_without_worker("a_child_has_what_lost_threads_retired");
    static struct stocked stocked;
    static void *objects[MOST];
    struct parked reader, retiring;
    stocked = (struct stocked){make_limited(104, MOST), MOST, 2, {0}};
    park(&reader, enter_section, leave_section, NULL);
    park(&retiring, take_and_give, NULL, &stocked);
    require_none(stocked.cache);
    count_in_child(stocked.cache, objects, MOST);
    unpark(&reader);
    unpark(&retiring);
    slab_epoch_barrier();
    take_all(stocked.cache, objects, MOST);
    give_all(stocked.cache, objects, MOST);
    drop(stocked.cache);
}

/* -- below the limit --------------------------------------------------------------------------------------------- */

/* As many permits as the limit has objects: whoever has one may have one object, and is never refused it. */
static struct permitted {
    slab_cache *cache;
    sem_t permits;
    _Atomic bool over;
} permitted;

static void use_permit(unsigned turn)
{
    slab_cache *cache = permitted.cache;
    void *object, *unused = NULL;
    if (turn % 64 == 0)
        require(slab_cache_alloc_bulk(cache, 1, &object) == 1);
    else if (turn % 64 == 1)
        require((object = slab_cache_alloc_node(cache, 0)) != NULL);
    else
        require((object = slab_cache_alloc(cache)) != NULL);
    if (turn % 3 == 0)
        free(object);
    else if (turn % 3 == 1)
        slab_cache_free(cache, object);
    else if (turn % 64 == 2)
        slab_free_nolock(object);
    else
        slab_cache_free_bulk(cache, 1, &object);
    if (turn % 128 == 0 && (unused = slab_cache_alloc_nolock(cache)) != NULL) /* has it that its reserve is filled */
        slab_free_nolock(unused);
}

static void *use_permits(void *number)
{
    for (unsigned turn = (unsigned)(uintptr_t)number * 7; !permitted.over;) {
        while (sem_wait(&permitted.permits) != 0)
            require(errno == EINTR);
        for (unsigned end = turn + turn % 19 + 1; turn < end; turn++)
            use_permit(turn);
        require(sem_post(&permitted.permits) == 0);
    }
    return NULL;
}

/* Its reserve is dry for ever, as it does nothing else. */
static void *ask_in_vain(void *nothing)
{
    while (!permitted.over)
        require(slab_cache_alloc_nolock(permitted.cache) == NULL);
    return nothing;
}

static void use_one(void *nothing)
{
    (void)nothing;
    while (sem_wait(&permitted.permits) != 0)
        require(errno == EINTR);
    for (unsigned turn = 0; turn < 20; turn++)
        use_permit(turn);
    require(sem_post(&permitted.permits) == 0);
}

/* Meanwhile threads come and go, and the cache is shrunk and tuned. */
static void disturb(unsigned turn)
{
    if (turn % 3 == 0)
        slab_cache_shrink(permitted.cache);
    else if (turn % 3 == 1)
        require(slab_cache_tune(permitted.cache, turn % 4 * 5, 0) == 0);
    else
        run_thread(use_one, NULL);
}

static void check_permits(slab_cache *cache, unsigned threads, unsigned permits, bool disturbed)
{
    enum { MS = 250 };
    pthread_t workers[8], asking;
    permitted.cache = cache;
    permitted.over = false;
    require(sem_init(&permitted.permits, 0, permits) == 0);
    for (uintptr_t i = 0; i < threads; i++)
        require(pthread_create(&workers[i], NULL, use_permits, (void *)i) == 0);
    require(pthread_create(&asking, NULL, ask_in_vain, NULL) == 0);
    for (unsigned turn = 0; turn < MS; turn++) {
        usleep(1000);
        if (disturbed)
            disturb(turn);
    }
    permitted.over = true;
    require(pthread_join(asking, NULL) == 0);
    for (unsigned i = 0; i < threads; i++)
        require(pthread_join(workers[i], NULL) == 0);
    require(active(cache) == 0);
    drop(cache);
}

static void write_word(void *object, void *context)
{
    (void)context;
    memset(object, 1, 8);
}

static slab_cache *make_limited_like(size_t objects, const slab_cache_attr *like)
{
    slab_cache_attr attr = *like;
    attr.limit_bytes = objects * 104;
    return make_cache("permits", 104, &attr);
}

static void nobody_is_refused_below_the_limit(const char *argument)
{
    (void)argument;
    const slab_cache_attr kinds[] = {
        {.flags = SLAB_ACCOUNT}, {.flags = SLAB_ZERO}, {.ctor = write_word}, {.magazine_rounds = 254}};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        check_permits(make_limited_like(2, &kinds[i]), 3, 2, false);
        check_permits(make_limited_like(4, &kinds[i]), 8, 4, i % 2);
        check_permits(make_limited_like(3, &kinds[i]), 4, 3, true);
    }
}

/* -- constructors ------------------------------------------------------------------------------------------------ */

enum { OUTER = 50, INNER = 20 };

static slab_cache *inner_cache;
static void *inner[OUTER * 100];
static size_t inner_taken, inner_refused;

static void take_inner(void *object, void *context)
{
    (void)object;
    (void)context;
    require(inner_taken + inner_refused < COUNT(inner));
    errno = 0;
    inner[inner_taken] = slab_cache_alloc(inner_cache);
    if (inner[inner_taken])
        inner_taken++;
    else
        require(errno == ENOMEM && ++inner_refused);
}

/* A constructor meets another cache's limit: the object that it is called for is another matter. */
static void a_constructor_meets_another_limit(const char *argument)
{
    (void)argument;
    static void *objects[OUTER];
    inner_cache = make_limited(56, INNER);
    const slab_cache_attr attr = {.ctor = take_inner, .limit_bytes = (size_t)OUTER * 104};
    slab_cache *outer = make_cache("outer", 104, &attr);
    take_all(outer, objects, OUTER);
    require_none(outer);
    require(inner_taken == INNER && inner_refused > 0 && active(inner_cache) == INNER);
    require_none(inner_cache);
    give_all(outer, objects, OUTER);
    give_all(inner_cache, inner, INNER);
    require(active(outer) == 0 && active(inner_cache) == 0);
    drop(outer);
    drop(inner_cache);
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
        {"parked_threads_keep_none_from_others", parked_threads_keep_none_from_others},
        {"retired_objects_come_back", retired_objects_come_back},
        {"a_child_has_the_whole_limit", a_child_has_the_whole_limit},
        {"a_child_has_what_lost_threads_retired", a_child_has_what_lost_threads_retired},
        {"nobody_is_refused_below_the_limit", nobody_is_refused_below_the_limit},
        {"a_constructor_meets_another_limit", a_constructor_meets_another_limit},
        {"accounts_are_exact", accounts_are_exact},
    };
    return run_scenarios("cache limits", scenarios, COUNT(scenarios), argc, argv);
}
