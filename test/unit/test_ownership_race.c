/* src/thread/ownership.h: threads that allocate and free all the time, while others take from them. */
#include "taking.h"

static int begin_test(void **state)
{
    (void)state;
    name = named("taken", 128, &twenty);
    cache = cache_of(name);
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    hand_on_taken();
    return slab_cache_destroy(name);
}

static _Atomic bool enough;

static void churn(void *nothing)
{
    enum { LIVE = 50 };
    uintptr_t *objects[LIVE] = {NULL};
    uint64_t seed = (uintptr_t)&slm_tls;
    (void)nothing;
    while (!load_relaxed(&enough)) {
        uintptr_t **object = &objects[random_below(&seed, LIVE)];
        if (*object) {
            require((*object)[0] == (uintptr_t)object && (*object)[15] == (uintptr_t)object);
            slm_cache_object_free(name, *object);
            *object = NULL;
        } else {
            *object = slm_cache_object_alloc(name);
            require(*object != NULL);
            (*object)[0] = (*object)[15] = (uintptr_t)object;
        }
    }
    for (size_t i = 0; i < LIVE; i++)
        slm_cache_object_free(name, objects[i]);
}

static void objects_stay_apart_while_they_are_taken(void **state)
{
    (void)state;
    struct helper threads[3];
    uint64_t taken_in_all = 0;
    store_relaxed(&enough, false);
    for (size_t i = 0; i < COUNT(threads); i++) {
        start_live_helper(&threads[i]);
        begin_task(&threads[i], churn, NULL);
    }
    while (taken_in_all < scaled(2000)) {
        take(false, false);
        taken_in_all += taken_count();
    }
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(threads); i++) {
        await(&threads[i]);
        slm_thread_check(threads[i].tls->self);
        end_helper(&threads[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(objects_stay_apart_while_they_are_taken, begin_test, end_test),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
