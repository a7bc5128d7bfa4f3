/* src/thread/slots.h, src/thread/thread_list.h: wherever a hot path may look, each cache that there is has
 * cursors: in the blocks of all threads, older and younger than the cache, and in the idle block. Children make
 * the caches, so that each begins with the first id. */
#include "unit.h"

#include "nodes.h"
#include "heap/cache_object.h"

enum { GROUPS = 300, MANY = 10000 };

/* With a key and without, in the page map and not there, with a limit: each has its own paths. */
static const struct {
    size_t size;
    struct slab_cache_attr attr;
} shapes[] = {
    {192, {.flags = SLAB_NO_MERGE}},
    {8, {.flags = SLAB_NO_MERGE}},
    {64, {.flags = SLAB_NO_MERGE | SLAB_TYPESAFE_BY_EPOCH}},
    {12288, {.flags = SLAB_NO_MERGE}}, /* a slab's rest has no key */
    {256, {.limit_bytes = 1 << 20}},
    {40000, {.flags = SLAB_NO_MERGE}},
    {96, {.flags = SLAB_NO_MERGE | SLAB_ZERO}},
};

static struct slab_cache *names[MANY];
static unsigned made;

/* Up to that many. */
static void make_caches(unsigned end)
{
    for (; made < end; made++) {
        const size_t shape = made % COUNT(shapes);
        names[made] = slab_cache_create("shape", shapes[shape].size, &shapes[shape].attr);
        require(names[made] != NULL && cache_of(names[made])->id >= SLM_NAMED_FIRST);
    }
}

/* -- cursors ----------------------------------------------------------------------------------------------------- */

static bool has_cursors(const struct slm_slot *slot)
{
    const struct slm_magazine *loaded = slot->loaded;
    return loaded ? loaded->rounds <= slot->bottom && slot->bottom <= slot->top &&
                        slot->top <= loaded->rounds + loaded->count
                  : is_clear(slot);
}

/* Orphans of a fork get no cursors any more. */
static void see_block(struct slm_thread *thread, void *seen)
{
    if (slm_thread_tls(thread) == &slm_gone_tls)
        return;
    for (unsigned id = 0; id < SLM_CACHE_IDS; id++)
        if (slm_cache_of(id))
            require(has_cursors(slm_slot_of(thread, id)));
    ++*(unsigned *)seen;
}

/* All threads stand still. Returns how many blocks there are. */
static unsigned see_all(void)
{
    struct slm_thread *const idle[] = {slm_nothing, slm_taken, slm_detour};
    unsigned seen = 0, caches = 0;
    for (unsigned id = 0; id < SLM_CACHE_IDS; id++)
        for (size_t i = 0; i < COUNT(idle) && slm_cache_of(id); i++, caches++)
            require(is_clear(slm_slot_of(idle[i], id)));
    require(caches >= COUNT(idle) * (SLM_CLASSES + made)); /* and those that still wait to be removed */
    slm_thread_list_foreach(see_block, &seen);
    return seen;
}

/* -- objects of all caches, which one thread allocates and another frees ----------------------------------------- */

static struct pair {
    void *by_free, *by_cache;
} pairs[MANY];

/* Of every so many caches. */
static unsigned step = 1;

static void alloc_all(void *nothing)
{
    (void)nothing;
    for (unsigned i = 0; i < made; i += step) {
        pairs[i].by_free = slab_cache_alloc(names[i]);
        pairs[i].by_cache = slab_cache_alloc(names[i]);
        require(pairs[i].by_free && pairs[i].by_cache && pairs[i].by_free != pairs[i].by_cache);
        memset(pairs[i].by_free, 1, shapes[i % COUNT(shapes)].size);
        memset(pairs[i].by_cache, 2, shapes[i % COUNT(shapes)].size);
    }
}

static void free_all(void *nothing)
{
    (void)nothing;
    for (unsigned i = 0; i < made; i += step) {
        slab_cache_free(names[i], pairs[i].by_cache);
        free(pairs[i].by_free);
    }
}

static void use_all(void *nothing)
{
    alloc_all(nothing);
    free_all(nothing);
}

static uint64_t live_objects(void)
{
    uint64_t live = 0;
    for (unsigned i = 0; i < made; i++)
        live += cache_out(cache_of(names[i])) - slm_reserve_held_by_all(cache_of(names[i])) -
                cache_stock(cache_of(names[i]));
    return live;
}

/* -- threads before and after ------------------------------------------------------------------------------------ */

static void older_and_younger_threads(void)
{
    struct helper older, used, younger;
    start_live_helper(&older);
    start_live_helper(&used);
    for (unsigned end = 1; end <= GROUPS; end++) {
        make_caches(end);
        require(see_all() == 3);
        if (end % 32 == 0)
            tell(&used, use_all, NULL);
    }
    start_live_helper(&younger);
    require(see_all() == 4);
    struct helper *const all[] = {&older, &used, &younger};
    for (size_t i = 0; i < COUNT(all); i++) {
        alloc_all(NULL);
        tell(all[i], free_all, NULL); /* the first that older and younger do with them */
        tell(all[i], alloc_all, NULL);
        free_all(NULL);
        require(see_all() == 4);
    }
    for (size_t i = 0; i < COUNT(all); i++)
        end_helper(all[i]);
    require(live_objects() == 0);
}

static void every_thread_has_cursors_of_every_cache(void **state)
{
    (void)state;
    assert_child_silent(older_and_younger_threads);
}

/* One thread after another, so that each has its predecessor's block, and caches in between. */
static void blocks_of_threads_that_ended(void)
{
    struct slm_thread *before = NULL;
    unsigned again = 0;
    for (unsigned end = 20; end <= GROUPS; end += 20) {
        struct helper helper;
        start_live_helper(&helper);
        again += before == helper.tls->self;
        before = helper.tls->self;
        require(see_all() == 2);
        make_caches(end);
        require(see_all() == 2);
        tell(&helper, use_all, NULL);
        alloc_all(NULL);
        tell(&helper, free_all, NULL);
        end_helper(&helper);
    }
    require(again > 0 && live_objects() == 0);
}

static void a_block_that_is_made_again_has_them_too(void **state)
{
    (void)state;
    assert_child_silent(blocks_of_threads_that_ended);
}

/* -- threads that have no block, or are at work on it ------------------------------------------------------------ */

/* By its frees it comes to life in the end. */
static void *free_first(void *nothing)
{
    require(slm_tls.state == SLM_THREAD_NONE && slm_hot() == slm_nothing);
    free_all(nothing);
    require(slm_tls.state == SLM_THREAD_LIVE);
    return nothing;
}

static void *free_cache_object_first(void *object)
{
    require(slm_tls.state == SLM_THREAD_NONE && slm_hot() == slm_nothing);
    slab_cache_free(names[made - 1], object);
    require(slm_tls.state == SLM_THREAD_NONE);
    return NULL;
}

static void *free_object_first(void *object)
{
    require(slm_tls.state == SLM_THREAD_NONE && slm_hot() == slm_nothing);
    free(object);
    require(slm_tls.state == SLM_THREAD_NONE);
    return NULL;
}

static void before_the_first_malloc(void)
{
    for (unsigned end = 1; end <= GROUPS; end += 7) {
        pthread_t thread;
        make_caches(end);
        for (unsigned way = 0; way < 2; way++) {
            void *object = slab_cache_alloc(names[end - 1]);
            require(pthread_create(&thread, NULL, way ? free_object_first : free_cache_object_first, object) == 0);
            require(pthread_join(thread, NULL) == 0);
        }
    }
    alloc_all(NULL);
    on_threads(1, free_first);
    require(live_objects() == 0);
}

static void a_thread_may_free_before_its_first_malloc(void **state)
{
    (void)state;
    assert_child_silent(before_the_first_malloc);
}

static void handle(int number)
{
    (void)number;
    require(slm_hot() == slm_nothing && load_relaxed(&slm_tls.busy));
    free_all(NULL);
    use_all(NULL);
}

static void raise_in_slow_path(void *nothing)
{
    const struct sigaction action = {.sa_handler = handle};
    require(sigaction(SIGUSR1, &action, NULL) == 0);
    enter_slow_path(nothing);
    require(raise(SIGUSR1) == 0);
    leave_slow_path(nothing);
}

static void at_work_on_its_block(void)
{
    struct helper helper;
    start_live_helper(&helper);
    for (unsigned end = 60; end <= GROUPS; end += 60) {
        make_caches(end);
        alloc_all(NULL);
        tell(&helper, raise_in_slow_path, NULL); /* it has never used the newest ones */
        alloc_all(NULL);
        raise_in_slow_path(NULL);
    }
    end_helper(&helper);
    require(live_objects() == 0);
}

static void a_handler_may_free_in_the_middle_of_a_slow_path(void **state)
{
    (void)state;
    assert_child_silent(at_work_on_its_block);
}

/* Each free finds the thread sent through its slow path. */
static void free_after_detours(void *nothing)
{
    for (unsigned i = 0; i < made; i++) {
        void *const objects[] = {pairs[i].by_free, pairs[i].by_cache};
        for (size_t k = 0; k < COUNT(objects); k++) {
            for (void *object; slm_hot() != slm_detour;) /* until its reserve is dry */
                if ((object = slab_cache_alloc_nolock(names[0])))
                    slab_free_nolock(object);
            if (k)
                slab_cache_free(names[i], objects[k]);
            else
                free(objects[k]);
        }
    }
    (void)nothing;
}

static void sent_through_a_slow_path(void)
{
    struct helper helper;
    make_caches(GROUPS);
    start_live_helper(&helper);
    alloc_all(NULL);
    tell(&helper, free_after_detours, NULL);
    end_helper(&helper);
    require(live_objects() == 0);
}

static void a_thread_may_free_what_it_never_used_on_a_detour(void **state)
{
    (void)state;
    assert_child_silent(sent_through_a_slow_path);
}

static bool is_wanted(struct slm_thread *thread, void *context)
{
    return thread->tls == ((struct helper *)context)->tls;
}

/* The owner goes on, and waits at its first free. */
static void have_it_free(struct slm_thread *thread, void *context)
{
    require(thread->tls->hot == slm_taken);
    begin_task(context, free_all, NULL);
    sleep_ms(10);
    require(thread->tls->hot == slm_taken);
}

static void taken_from(void)
{
    struct helper helper;
    struct slm_take take = {.wants = is_wanted, .work = have_it_free, .context = &helper};
    make_caches(GROUPS);
    start_live_helper(&helper);
    for (unsigned turn = 0; turn < 3; turn++) {
        alloc_all(NULL);
        struct slm_thread *self = slm_thread_hide();
        require(slm_take_from_all(&take) == 0);
        slm_thread_unhide(self);
        await(&helper);
    }
    end_helper(&helper);
    require(live_objects() == 0);
}

static void a_thread_may_free_what_it_never_used_while_it_is_taken(void **state)
{
    (void)state;
    assert_child_silent(taken_from);
}

/* -- children ---------------------------------------------------------------------------------------------------- */

static unsigned generations;

static void make_more_in_child(void);

static void have_child_make_more(void)
{
    const struct outcome outcome = in_child(make_more_in_child);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
}

/* The threads there were before are lost; new ones come. */
static void make_more_in_child(void)
{
    struct helper helper;
    const unsigned before = made;
    require(see_all() == 1);
    use_all(NULL);
    for (unsigned end = before + 1; end <= before + 70; end++) { /* a group and more */
        make_caches(end);
        require(see_all() == 1);
    }
    start_live_helper(&helper);
    require(see_all() == 2);
    alloc_all(NULL);
    tell(&helper, free_all, NULL);
    if (++generations < 3)
        have_child_make_more();
    make_caches(made + 70);
    require(see_all() == 2);
    tell(&helper, use_all, NULL);
    end_helper(&helper);
}

static void children_make_more(void)
{
    struct helper helper;
    start_live_helper(&helper);
    make_caches(40); /* ids up to 124, the last of the first group is 126 */
    tell(&helper, use_all, NULL);
    have_child_make_more();
    require(see_all() == 2);
    make_caches(GROUPS);
    require(see_all() == 2);
    tell(&helper, use_all, NULL);
    have_child_make_more();
    end_helper(&helper);
}

static void children_of_a_fork_have_them_too(void **state)
{
    (void)state;
    assert_child_silent(children_make_more);
}

static void make_and_alloc(void *end)
{
    make_caches(*(unsigned *)end);
    alloc_all(NULL);
}

/* The thread that forked has not been in a slow path since. Another one of the child has, and makes caches. */
static void other_thread_of_child_makes_caches(bool any_before)
{
    struct helper helper;
    unsigned end = any_before ? GROUPS : 1;
    make_caches(any_before ? 10 : 0);
    use_all(NULL);
    start_live_helper(&helper); /* libc keeps its stack, so that the next one takes no memory */
    end_helper(&helper);
    const pid_t child = fork();
    require(child >= 0);
    if (child > 0) {
        int how = 0;
        require(waitpid(child, &how, 0) == child);
        require(!WIFSIGNALED(how) || WTERMSIG(how) != SIGSEGV);
        require(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        return;
    }
    const uint32_t generation = slm_tls.self->generation;
    start_helper_by(&helper, creator_in_libc());
    require(slm_tls.self->generation == generation);
    tell(&helper, make_and_alloc, &end);
    require(slm_tls.self->generation == generation);
    free_all(NULL);
    use_all(NULL);
    end_helper(&helper);
    _exit(0);
}

static void make_first_ones(void)
{
    other_thread_of_child_makes_caches(false);
}

static void make_further_ones(void)
{
    other_thread_of_child_makes_caches(true);
}

static void who_forked_has_them_before_it_notices_the_fork(void **state)
{
    (void)state;
    assert_child_silent(make_first_ones);
    assert_child_silent(make_further_ones);
}

/* -- many -------------------------------------------------------------------------------------------------------- */

static void ten_thousand(void)
{
    struct helper older, younger;
    start_live_helper(&older);
    make_caches(MANY);
    require(cache_of(names[MANY - 1])->id == SLM_NAMED_FIRST + MANY - 1);
    start_live_helper(&younger);
    require(see_all() == 3);
    struct helper *const all[] = {&older, &younger};
    step = 17;
    for (size_t i = 0; i < COUNT(all); i++) {
        alloc_all(NULL);
        tell(all[i], free_all, NULL);
        tell(all[i], use_all, NULL);
        alloc_all(NULL);
        tell(all[i], raise_in_slow_path, NULL);
    }
    alloc_all(NULL);
    on_threads(1, free_first);
    require(see_all() == 3);
    end_helper(&older);
    end_helper(&younger);
}

static void ten_thousand_caches_have_them(void **state)
{
    (void)state;
    assert_child_silent(ten_thousand);
}

/* -- caches that go ---------------------------------------------------------------------------------------------- */

static void destroy_and_make_again(void)
{
    struct helper helper;
    struct slm_slot *slots[2][GROUPS];
    start_live_helper(&helper);
    for (unsigned turn = 0; turn < 3; turn++) {
        make_caches(GROUPS);
        use_all(NULL);
        tell(&helper, use_all, NULL);
        for (unsigned i = 0; i < made; i++) {
            slots[0][i] = slm_slot_of(slm_tls.self, cache_of(names[i])->id);
            slots[1][i] = slm_slot_of(helper.tls->self, cache_of(names[i])->id);
            require(slots[1][i]->loaded != NULL && !is_clear(slots[1][i]));
        }
        for (unsigned i = 0; i < GROUPS; i++) {
            require(slab_cache_destroy(names[i]) == 0);
            require(is_dismantled(slots[0][i]) && is_dismantled(slots[1][i]));
        }
        made = 0;
        require(see_all() == 2);
    }
    end_helper(&helper);
}

static void destroyed_caches_leave_clear_slots(void **state)
{
    (void)state;
    assert_child_silent(destroy_and_make_again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_has_cursors_of_every_cache),
        cmocka_unit_test(a_block_that_is_made_again_has_them_too),
        cmocka_unit_test(a_thread_may_free_before_its_first_malloc),
        cmocka_unit_test(a_handler_may_free_in_the_middle_of_a_slow_path),
        cmocka_unit_test(a_thread_may_free_what_it_never_used_on_a_detour),
        cmocka_unit_test(a_thread_may_free_what_it_never_used_while_it_is_taken),
        cmocka_unit_test(children_of_a_fork_have_them_too),
        cmocka_unit_test(who_forked_has_them_before_it_notices_the_fork),
        cmocka_unit_test(ten_thousand_caches_have_them),
        cmocka_unit_test(destroyed_caches_leave_clear_slots),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
