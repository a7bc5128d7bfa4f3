/* Limits of the library's own: limit_bytes is never exceeded, soft_limit_bytes is kept where that can be done.
 *
 * Written in: README.md ("Memory limits": what counts; at the limit all that is free goes back, and then a call
 * returns NULL with ENOMEM, as malloc(3) has it; above the soft one nothing that is free stays), include/slabmalloc.h
 * (slab_stats: charged_bytes, limit_bytes, limit_refusals). */
#include "caches.h"

#define LIMIT (64 * MIB)
#define SLACK (2 * MIB) /* what the program and the library have beside objects */

static const char hard_option[] = "SLABMALLOC_OPTIONS=limit_bytes=64M";
static const char soft_option[] = "SLABMALLOC_OPTIONS=soft_limit_bytes=32M";

/* -- filling memory up ------------------------------------------------------------------------------------------- */

struct link {
    struct link *next;
};

/* Puts blocks of the size, all of them written, in front of the list until there is no more memory. */
static size_t fill(struct link **list, size_t size)
{
    size_t count = 0;
    struct link *block;
    for (errno = 0; (block = malloc(size)) != NULL; count++) {
        memset(block, 1, size);
        block->next = *list;
        *list = block;
    }
    require(errno == ENOMEM);
    return count;
}

/* Frees so many of them. */
static void free_some(struct link **list, size_t count)
{
    errno = EDOM;
    while (count-- > 0 && *list != NULL) {
        struct link *next = (*list)->next;
        free(*list);
        *list = next;
    }
    require(errno == EDOM);
}

/* Metadata is never refused, and may be over by as much as threads and slabs need. */
static void require_within_limit(void)
{
    const slab_stats stats = process_figures();
    require(stats.limit_bytes == LIMIT && stats.charged_bytes <= LIMIT + SLACK);
}

/* -- the limit --------------------------------------------------------------------------------------------------- */

static const size_t sizes[] = {48, 1000, 30 * KIB, 300 * KIB, 3 * MIB, 10 * MIB};

static void role_full_again_and_again(const char *argument)
{
    (void)argument;
    do_without_huge_pages();
    const size_t before_kib = rss_kib();
    unsigned refused = 0;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct link *list = NULL;
        const size_t count = fill(&list, sizes[i]);
        require(count * sizes[i] >= LIMIT / 4 * 3);
        require_within_limit();
        require(rss_kib() <= before_kib + (LIMIT + SLACK) / KIB);
        require(process_figures().limit_refusals == ++refused);
        for (unsigned round = 0; round < scaled(2); round++, refused += 2) {
            free_some(&list, count / 2);
            require(fill(&list, sizes[i]) >= count / 2 - count / 16);
            free_some(&list, SIZE_MAX);
            require(fill(&list, sizes[i]) >= count - count / 16);
        }
        free_some(&list, SIZE_MAX);
    }
    churn(1, 2000);
}

static void test_full_again_and_again(void **state)
{
    (void)state;
    assert_role_succeeds("full-again-and-again", &(struct launch){.environment = {hard_option}});
}

static void *use_little(void *failed)
{
    void *blocks[200];
    for (size_t i = 0; i < COUNT(blocks); i++)
        if ((blocks[i] = malloc(i * 40 + 1)) == NULL) {
            require(errno == ENOMEM);
            *(bool *)failed = true;
        }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
    return failed;
}

/* Where nothing is left each call says so in its own way, nothing is lost, and a thread is born, works and ends. */
static void role_every_call(const char *argument)
{
    (void)argument;
    struct link *large = NULL, *middle = NULL, *small = NULL;
    char *kept = malloc(40 * KIB);
    void *unmoved = &large;
    slab_cache *cache = slab_cache_create("objects", 3000, NULL);
    pthread_t thread;
    bool failed = false;
    require(kept != NULL && cache != NULL);
    pattern_fill(kept, 40 * KIB, 3);
    fill(&large, MIB);
    fill(&middle, 8 * KIB);
    fill(&small, 64);
    for (unsigned i = 0; i < 3; i++) {
        errno = 0;
        require(realloc(opaque(kept), 4 * MIB) == NULL && errno == ENOMEM && pattern_holds(kept, 40 * KIB, 3));
        errno = 0;
        require(reallocarray(opaque(kept), 4, MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(calloc(4, MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(malloc(opaque_size(2 * LIMIT)) == NULL && errno == ENOMEM);
        errno = 0;
        require(memalign(64 * KIB, 2 * MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(aligned_alloc(4096, 2 * MIB) == NULL && errno == ENOMEM);
        errno = 0;
        require(pvalloc(4 * MIB) == NULL && errno == ENOMEM);
        require(posix_memalign(&unmoved, 4096, 2 * MIB) == ENOMEM && unmoved == &large);
        errno = 0;
        require(slab_alloc_node(2 * MIB, 0) == NULL && errno == ENOMEM);
        struct link *objects = NULL, *object;
        for (errno = 0; (object = slab_cache_alloc(cache)) != NULL; objects = object)
            object->next = objects;
        require(errno == ENOMEM);
        for (; objects != NULL; objects = object) {
            object = objects->next;
            slab_cache_free(cache, objects);
        }
        const int error = pthread_create(&thread, NULL, use_little, &failed); /* libc needs memory for it */
        require(error == EAGAIN || (error == 0 && pthread_join(thread, NULL) == 0));
        free_some(&large, 1);
        require(pthread_create(&thread, NULL, use_little, &failed) == 0 && pthread_join(thread, NULL) == 0);
        fill(&large, MIB);
        require_within_limit();
    }
    require(process_figures().limit_refusals >= 3 * 8);
    free_some(&middle, SIZE_MAX);
    require((kept = realloc(kept, 41 * KIB)) != NULL && pattern_holds(kept, 40 * KIB, 3));
    free_some(&small, SIZE_MAX);
    free_some(&large, SIZE_MAX);
    free(kept);
    slab_cache_destroy(cache);
    churn(1, 5000);
}

static void test_every_call_when_nothing_is_left(void **state)
{
    (void)state;
    assert_role_succeeds("every-call", &(struct launch){.environment = {hard_option}});
}

/* Per-CPU memory counts, too. */
static void role_percpu(const char *argument)
{
    (void)argument;
    static slab_percpu objects[100000];
    size_t count = 0;
    struct link *list = NULL;
    errno = 0;
    while (count < COUNT(objects) && (objects[count] = slab_percpu_alloc(16 * KIB, 8)) != NULL)
        count++;
    require(count < COUNT(objects) && errno == ENOMEM && process_figures().limit_refusals > 0);
    require_within_limit();
    for (size_t i = 0; i < count; i++)
        slab_percpu_free(objects[i]);
    require(fill(&list, 30 * KIB) * 30 * KIB > LIMIT / 2); /* a vacant block is kept no longer */
    free_some(&list, SIZE_MAX);
}

static void test_per_cpu_memory(void **state)
{
    (void)state;
    assert_role_succeeds("percpu", &(struct launch){.environment = {hard_option}});
}

/* What is free serves any size: it goes back before a call is refused. */
static void role_reclaimed_before_null(const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct link *list = NULL;
        fill(&list, sizes[i]);
        free_some(&list, SIZE_MAX);
        char *all = malloc(LIMIT / 8 * 7);
        require(all != NULL);
        memset(all, 1, LIMIT / 8 * 7);
        free(all);
    }
    require_within_limit();
}

static void test_reclaimed_before_null(void **state)
{
    (void)state;
    assert_role_succeeds("reclaimed-before-null", &(struct launch){.environment = {hard_option}});
}

/* An object that moves its pages is not there twice. */
static void role_growth(const char *argument)
{
    (void)argument;
    char *growing = malloc(LIMIT / 2 + MIB), *behind = malloc(MIB);
    require(growing != NULL && behind != NULL);
    pattern_fill(growing, LIMIT / 2, 5);
    require((growing = realloc(growing, LIMIT / 8 * 7)) != NULL);
    require(pattern_holds(growing, LIMIT / 2, 5));
    require(realloc(opaque(growing), LIMIT + MIB) == NULL && errno == ENOMEM);
    require(pattern_holds(growing, LIMIT / 2, 5));
    require((growing = realloc(growing, LIMIT / 4)) != NULL);
    require((behind = realloc(behind, LIMIT / 2)) != NULL); /* the rest serves others */
    free(growing);
    free(behind);
    require_within_limit();
}

static void test_growth(void **state)
{
    (void)state;
    assert_role_succeeds("growth", &(struct launch){.environment = {hard_option}});
}

/* -- threads and processes --------------------------------------------------------------------------------------- */

static pthread_barrier_t all_threads;

static void *fill_beside_others(void *total)
{
    uint64_t random = (uintptr_t)&random;
    for (unsigned round = 0; round < scaled(12); round++) {
        struct link *list = NULL;
        const size_t size = sizes[random_next(&random) % COUNT(sizes)];
        const size_t count = fill(&list, size);
        require_within_limit();
        __atomic_add_fetch((size_t *)total, count * size, __ATOMIC_RELAXED);
        pthread_barrier_wait(&all_threads);
        free_some(&list, round % 2 ? SIZE_MAX : count / 2);
        fill(&list, size);
        require_within_limit();
        free_some(&list, SIZE_MAX);
        pthread_barrier_wait(&all_threads);
    }
    return total;
}

/* Threads that come to the limit together do not pass it together. */
static void role_threads(const char *argument)
{
    (void)argument;
    pthread_t threads[4];
    size_t total = 0;
    require(pthread_barrier_init(&all_threads, NULL, COUNT(threads)) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, fill_beside_others, &total) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    require(total / scaled(12) > LIMIT / 2);
    malloc_trim(0);
    free(memset(malloc(LIMIT / 8 * 7), 1, LIMIT / 8 * 7));
}

static void test_threads(void **state)
{
    (void)state;
    assert_role_succeeds("threads", &(struct launch){.environment = {hard_option}});
}

/* A child has what its parent had, and a limit of its own. */
static void role_fork(const char *argument)
{
    (void)argument;
    struct link *list = NULL;
    char *half = memset(malloc(LIMIT / 2), 1, LIMIT / 2);
    fflush(NULL);
    const pid_t child = fork();
    require(child >= 0);
    if (child == 0) {
        require(fill(&list, 300 * KIB) * 300 * KIB <= LIMIT / 2);
        free(half);
        require(fill(&list, 300 * KIB) * 300 * KIB >= LIMIT / 4);
        _exit(0);
    }
    int status = 0;
    require(waitpid(child, &status, 0) == child && status == 0);
    require(process_figures().limit_refusals == 0);
    free(half);
}

static void test_fork(void **state)
{
    (void)state;
    assert_role_succeeds("fork", &(struct launch){.environment = {hard_option}});
}

/* -- the soft limit ---------------------------------------------------------------------------------------------- */

/* Above it nothing fails, and what is freed goes back at once, by the frees themselves. */
static void role_soft(const char *argument)
{
    (void)argument;
    const size_t soft_kib = 32 * KIB;
    do_without_huge_pages();
    const size_t before_kib = rss_kib();
    require(process_figures().soft_limit_bytes == 32 * MIB && process_figures().limit_bytes == 0);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct link *list = NULL;
        for (size_t count = 128 * MIB / sizes[i]; count > 0; count--) {
            struct link *block = malloc(sizes[i]);
            require(block != NULL);
            memset(block, 1, sizes[i]);
            block->next = list;
            list = block;
        }
        require(rss_kib() > 2 * soft_kib);
        free_some(&list, SIZE_MAX);
        require(rss_kib() <= before_kib + soft_kib);
    }
}

static void test_soft_limit(void **state)
{
    (void)state;
    assert_role_succeeds("soft", &(struct launch){.environment = {soft_option}});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"full-again-and-again", role_full_again_and_again},
        {"every-call", role_every_call},
        {"percpu", role_percpu},
        {"reclaimed-before-null", role_reclaimed_before_null},
        {"growth", role_growth},
        {"threads", role_threads},
        {"fork", role_fork},
        {"soft", role_soft},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_again_and_again),
        cmocka_unit_test(test_every_call_when_nothing_is_left),
        cmocka_unit_test(test_per_cpu_memory),
        cmocka_unit_test(test_reclaimed_before_null),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_soft_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
