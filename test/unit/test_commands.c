/* src/inspect/commands.h: what each command does, what it answers, and that no bytes in one do harm. */
#include "caches.h"
#include "heap_check.h"
#include "mail.h"

#include <limits.h>

#include "control/cache_control.h"
#include "depot/pending_slabs.h"
#include "figures/figures.h"
#include "inspect/commands.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/metadata.h"
#include "process/limits.h"
#include "sample/interval.h"

#define GIB ((size_t)1 << 30)

static int begin(void **state)
{
    const int started = start_library(state);
    slm_settings.purge_delay_ms = 3600000;
    slm_settings.dirty_bytes = (uint64_t)1 << 40;
    return started;
}

static const struct slm_answer *asked(uint32_t what, const char *said)
{
    return ask(what, said, 0, 0);
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static void stats_are_those_of_the_call(void **state)
{
    (void)state;
    struct slab_stats now;
    const struct slm_answer *answer = asked(SLM_COMMAND_STATS, "");
    const struct slab_stats *told = (const void *)(uintptr_t)answer->address;
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->bytes, sizeof now);
    slab_get_stats(&now, sizeof now);
    assert_int_equal(told->live_bytes, now.live_bytes);
    assert_int_equal(told->threads, now.threads);
    assert_int_equal(told->nodes, now.nodes);
    assert_true(told->live_bytes > 0 && told->metadata_bytes > 0);
}

static const struct slm_command_cache *record_of(const struct slm_answer *answer, const char *name)
{
    const struct slm_command_cache *records = (const void *)(uintptr_t)answer->address;
    const struct slm_command_cache *found = NULL;
    assert_int_equal(answer->bytes % sizeof *records, 0);
    for (const struct slm_command_cache *record = records; record < records + answer->bytes / sizeof *records;
         record++)
        if (strcmp(record->stats.name, name) == 0) {
            assert_null(found);
            found = record;
        }
    return found;
}

static void caches_are_listed_by_name(void **state)
{
    (void)state;
    slab_cache *one = slab_cache_create("one", 192, NULL), *same = slab_cache_create("same", 192, NULL);
    slab_cache *other = slab_cache_create("other", 192, &(slab_cache_attr){.limit_bytes = 19200});
    void *objects[3] = {slab_cache_alloc(other), slab_cache_alloc(other), slab_cache_alloc(other)};
    const struct slm_answer *answer = asked(SLM_COMMAND_CACHES, "");
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->number[0], answer->bytes / sizeof(struct slm_command_cache));
    assert_int_equal(record_of(answer, "one")->id, record_of(answer, "same")->id);
    assert_int_not_equal(record_of(answer, "one")->id, record_of(answer, "other")->id);
    struct slab_cache_stats stats;
    slab_cache_get_stats(other, &stats);
    assert_memory_equal(&record_of(answer, "other")->stats, &stats, sizeof stats);
    assert_int_equal(stats.active_objects, 3);
    for (unsigned i = 0; i < 3; i++)
        slab_cache_free(other, objects[i]);
    slab_cache_destroy(one);
    answer = asked(SLM_COMMAND_CACHES, "");
    assert_null(record_of(answer, "one"));
    assert_non_null(record_of(answer, "same"));
    slab_cache_destroy(same);
    slab_cache_destroy(other);
    answer = asked(SLM_COMMAND_CACHES, "");
    assert_null(record_of(answer, "same"));
    assert_null(record_of(answer, "other"));
}

/* To look at a process makes no cache in it. */
static void classes_are_listed_once_they_are_made(void **state)
{
    (void)state;
    const struct slm_answer *answer = asked(SLM_COMMAND_CACHES, "");
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        char name[SLM_CACHE_NAME_BYTES] = {0};
        const bool made = load_relaxed(&slm_class_caches[class]) != NULL;
        slm_cache_name_class(name, class);
        const struct slm_command_cache *record = record_of(answer, name);
        assert_int_equal(record != NULL, made);
        if (record) {
            assert_int_equal(record->id, class);
            assert_int_equal(record->stats.object_size, slm_class_size[class]);
        }
    }
}

/* More than fit into one answer. */
static void many_caches_come_in_parts(void **state)
{
    (void)state;
    enum { caches = 7000, most = SLM_METADATA_MAX / sizeof(struct slm_command_cache) };
    static slab_cache *made[caches];
    static bool met[caches];
    for (unsigned i = 0; i < caches; i++)
        assert_non_null(made[i] = slab_cache_create(text("many %u", i), 64, NULL));
    uint64_t told = 0;
    for (uint64_t all = 1, parts = 0; told < all; parts++) {
        const struct slm_answer *answer = ask(SLM_COMMAND_CACHES, "", told, 0);
        const struct slm_command_cache *records = (const void *)(uintptr_t)answer->address;
        const uint64_t count = answer->bytes / sizeof *records;
        all = answer->number[0];
        assert_int_equal(answer->error, 0);
        assert_true(all >= caches && count > 0 && count <= most);
        for (uint64_t i = 0; i < count; i++) {
            unsigned number;
            if (sscanf(records[i].stats.name, "many %u", &number) == 1) {
                assert_false(met[number]);
                met[number] = true;
            }
        }
        told += count;
    }
    for (unsigned i = 0; i < caches; i++) {
        assert_true(met[i]);
        slab_cache_destroy(made[i]);
    }
    const struct slm_answer *answer = ask(SLM_COMMAND_CACHES, "", UINT64_MAX, 0);
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->bytes, 0);
    assert_true(answer->number[0] > 0);
}

/* However many commands there are. */
static void answers_take_no_memory_that_stays(void **state)
{
    (void)state;
    struct slab_stats before, after;
    asked(SLM_COMMAND_CACHES, "");
    slab_get_stats(&before, sizeof before);
    for (unsigned i = 0; i < 5000; i++)
        asked(i % 2 ? SLM_COMMAND_CACHES : SLM_COMMAND_STATS, "");
    slab_get_stats(&after, sizeof after);
    assert_int_equal(after.metadata_bytes, before.metadata_bytes);
}

/* -- giving back ------------------------------------------------------------------------------------------------- */

static void purging_gives_back_what_is_free(void **state)
{
    (void)state;
    char *object = malloc(8 * MIB);
    assert_non_null(object);
    memset(object, 1, 8 * MIB);
    free(object);
    assert_true(slm_span_dirty_bytes() >= 8 * MIB);
    const struct slm_answer *answer = asked(SLM_COMMAND_PURGE, "");
    assert_int_equal(answer->error, 0);
    assert_true(answer->number[0] >= 8 * MIB);
    assert_int_equal(slm_span_dirty_bytes(), 0);
}

static uint64_t slabs_of(slab_cache *cache)
{
    struct slab_cache_stats stats;
    assert_int_equal(slab_cache_get_stats(cache, &stats), 0);
    return stats.slabs;
}

static void fill_and_empty(slab_cache *cache)
{
    enum { objects = 3000 };
    static void *held[objects];
    for (unsigned i = 0; i < objects; i++)
        assert_non_null(held[i] = slab_cache_alloc(cache));
    for (unsigned i = 0; i < objects; i++)
        slab_cache_free(cache, held[i]);
    assert_true(slabs_of(cache) > 0);
}

static void shrinking_is_by_name_or_of_all(void **state)
{
    (void)state;
    slab_cache *one = slab_cache_create("one", 1000, NULL), *other = slab_cache_create("other", 1200, NULL);
    slab_cache *alias = slab_cache_create("alias", 1200, NULL);
    fill_and_empty(one);
    fill_and_empty(other);
    const struct slm_answer *answer = asked(SLM_COMMAND_SHRINK, "one");
    assert_int_equal(answer->error, 0);
    assert_true(answer->number[0] > 0);
    assert_int_equal(slabs_of(one), 0);
    assert_true(slabs_of(other) > 0);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "alias")->error, 0);
    assert_int_equal(slabs_of(other), 0);
    fill_and_empty(one);
    fill_and_empty(other);
    assert_true(asked(SLM_COMMAND_SHRINK, "")->number[0] > 0);
    assert_int_equal(slabs_of(one) + slabs_of(other), 0);
    slab_cache_destroy(one);
    slab_cache_destroy(other);
    slab_cache_destroy(alias);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "one")->error, ENOENT);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "siz")->error, ENOENT);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "size-64")->error, 0);
}

/* Names need not be unique, and may be those of classes; names that share a cache are one. */
static void all_of_a_name_are_meant(void **state)
{
    (void)state;
    enum { caches = 4 };
    static const size_t sizes[caches] = {1000, 1200, 1400, 1000};
    slab_cache *made[caches], *other = slab_cache_create("other", 1600, NULL);
    for (unsigned i = 0; i < caches; i++)
        assert_non_null(made[i] = slab_cache_create("common", sizes[i], NULL));
    assert_ptr_equal(load_relaxed(&made[0]->cache), load_relaxed(&made[3]->cache));
    for (unsigned i = 0; i < caches; i++)
        fill_and_empty(made[i]);
    fill_and_empty(other);
    const struct slm_answer *answer = asked(SLM_COMMAND_SHRINK, "common");
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->number[1], 3);
    for (unsigned i = 0; i < caches; i++)
        assert_int_equal(slabs_of(made[i]), 0);
    assert_true(slabs_of(other) > 0);
    answer = ask(SLM_COMMAND_TUNE, "common", 17, 3);
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->number[1], 3);
    for (unsigned i = 0; i < caches; i++)
        assert_int_equal(load_relaxed(&load_relaxed(&made[i]->cache)->most_rounds), 17);
    assert_int_not_equal(load_relaxed(&load_relaxed(&other->cache)->most_rounds), 17);
    slab_cache *class = slab_cache_create("size-1024", 1500, NULL);
    free(malloc(1024));
    assert_int_equal(ask(SLM_COMMAND_TUNE, "size-1024", 16, 3)->number[1], 2);
    assert_int_equal(load_relaxed(&load_relaxed(&class->cache)->most_rounds), 16);
    assert_int_equal(load_relaxed(&slm_class_cache(slm_class_of_size(1024))->most_rounds), 16);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "size-1024", 0, 0)->number[1], 2);
    slab_cache_destroy(class);
    slab_cache_destroy(made[1]);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "common")->number[1], 2);
    slab_cache_destroy(made[0]);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "common")->number[1], 2);
    slab_cache_destroy(made[2]);
    slab_cache_destroy(made[3]);
    assert_int_equal(asked(SLM_COMMAND_SHRINK, "common")->error, ENOENT);
    slab_cache_destroy(other);
}

static unsigned destroyed;

static void destroy_object(void *object, void *context)
{
    (void)object;
    (void)context;
    destroyed++;
}

/* The thread that serves may hold a lock that a destructor wants. The cache's next call runs them. */
static void destructors_do_not_run_in_slow_paths(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("destructed", 1000, &(slab_cache_attr){.dtor = destroy_object});
    fill_and_empty(cache);
    destroyed = 0;
    asked(SLM_COMMAND_SHRINK, "destructed");
    asked(SLM_COMMAND_SHRINK, "");
    ask(SLM_COMMAND_TUNE, "destructed", 3, 1);
    asked(SLM_COMMAND_PURGE, "");
    assert_int_equal(destroyed, 0);
    slab_cache_shrink(cache);
    assert_true(destroyed > 0);
    assert_int_equal(slabs_of(cache), 0);
    slab_cache_destroy(cache);
}

static unsigned runs;

static void run_destructors(void)
{
    runs++;
    slm_pending_slabs_release(NULL);
}

static void who_may_runs_destructors(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("destructed", 1000, &(slab_cache_attr){.dtor = destroy_object});
    fill_and_empty(cache);
    destroyed = 0;
    const uint64_t token = post(command_of(SLM_COMMAND_SHRINK, "destructed", 0, 0));
    slm_mailbox_serve(run_destructors);
    assert_true(is_answered(token));
    assert_int_equal(runs, 1);
    assert_true(destroyed > 0);
    assert_true(slm_mailbox.answer.number[0] >= destroyed * 1000);
    assert_int_equal(slabs_of(cache), 0);
    slab_cache_destroy(cache);
}

static void tuning(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("tuned", 100, NULL);
    struct slm_cache *of_name = load_relaxed(&cache->cache);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "tuned", 17, 3)->error, 0);
    assert_int_equal(load_relaxed(&of_name->most_rounds), 17);
    assert_int_equal(load_relaxed(&of_name->depot_rounds), 3 * 17);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "tuned", 255, 3)->error, EINVAL);
    assert_string_equal(slm_mailbox.answer.text, "rounds may be 0 to 254, magazines 0 to 4294967295");
    assert_int_equal(ask(SLM_COMMAND_TUNE, "tuned", 1, (uint64_t)1 << 32)->error, EINVAL);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "tuned", UINT64_MAX, UINT64_MAX)->error, EINVAL);
    assert_int_equal(load_relaxed(&of_name->most_rounds), 17);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "", 1, 1)->error, ENOENT);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "no such", 1, 1)->error, ENOENT);
    assert_int_equal(ask(SLM_COMMAND_TUNE, "tuned", 0, 0)->error, 0);
    assert_true(load_relaxed(&of_name->most_rounds) > 17);
    slab_cache_destroy(cache);
}

/* -- options ----------------------------------------------------------------------------------------------------- */

static void options_are_read_and_changed(void **state)
{
    (void)state;
    const uint64_t before = slm_settings.thread_bytes;
    const struct slm_answer *answer = asked(SLM_COMMAND_OPTION, "thread_bytes=3M");
    assert_int_equal(answer->error, 0);
    assert_string_equal(answer->text, "thread_bytes=3145728");
    assert_int_equal(slm_settings.thread_bytes, 3 * MIB);
    answer = asked(SLM_COMMAND_OPTION, "thread_bytes");
    assert_string_equal(answer->text, "thread_bytes=3145728");
    answer = asked(SLM_COMMAND_OPTION, "thread_bytes=1");
    assert_int_equal(answer->error, EINVAL);
    assert_non_null(strstr(answer->text, "too small"));
    assert_int_equal(asked(SLM_COMMAND_OPTION, "worker=1")->error, EPERM);
    assert_int_equal(slm_options.worker, 0);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "worker")->error, 0);
    assert_string_equal(slm_mailbox.answer.text, "worker=0");
    assert_int_equal(asked(SLM_COMMAND_OPTION, "nothing=1")->error, ENOENT);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "")->error, ENOENT);
    slm_settings.thread_bytes = before;
}

static void sampling_begins_at_once(void **state)
{
    (void)state;
    const uint64_t before = slm_settings.sample_bytes;
    assert_int_equal(asked(SLM_COMMAND_OPTION, "sample_bytes=0")->error, 0);
    slm_tls.sample_left = 0;
    free(malloc(100));
    assert_int_equal(slm_tls.sample_mean, 0);
    assert_true(slm_tls.sample_left > 0);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "sample_bytes=4K")->error, 0);
    free(malloc(100));
    assert_int_equal(slm_interval_mean(slm_tls.sample_mean), 4096);
    slm_settings.sample_bytes = before;
}

/* Its TLS is unmapped. */
static void a_thread_that_is_gone_does_not_begin(void **state)
{
    (void)state;
    const uint64_t before = slm_settings.sample_bytes;
    leave_block_behind(slm_class_cache(slm_class_of_size(1000))->id);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "sample_bytes=0")->error, 0);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "sample_bytes=4K")->error, 0);
    slm_settings.sample_bytes = before;
    while (load_relaxed(&slm_orphans) > 0)
        slm_process_bury(UINT_MAX);
}

/* Of classes and of named caches, those that a program has tuned apart. */
static void magazines_follow_their_option(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("follows", 1000, NULL), *tuned = slab_cache_create("stays", 1024, NULL);
    slab_cache_tune(tuned, 7, 2);
    const struct slm_cache *of_name = load_relaxed(&cache->cache), *of_tuned = load_relaxed(&tuned->cache);
    const struct slm_cache *of_class = slm_class_cache(slm_class_of_size(1000));
    const uint32_t before = load_relaxed(&of_name->most_rounds), class_before = load_relaxed(&of_class->most_rounds);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "magazine_bytes=16K")->error, 0);
    assert_int_equal(load_relaxed(&of_name->most_rounds), 16);
    assert_int_equal(load_relaxed(&of_class->most_rounds), 16);
    assert_int_equal(load_relaxed(&of_tuned->most_rounds), 7);
    fill_and_empty(cache);
    void *object = malloc(1000);
    free(object);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "magazine_bytes=64K")->error, 0);
    assert_int_equal(load_relaxed(&of_name->most_rounds), before);
    assert_int_equal(load_relaxed(&of_class->most_rounds), class_before);
    assert_int_equal(load_relaxed(&of_tuned->depot_rounds), 2 * 7);
    fill_and_empty(cache);
    slab_cache_destroy(cache);
    slab_cache_destroy(tuned);
}

/* Stocks that were filled before have no more than they may. */
static void depots_follow_their_option(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("stocked", 1008, NULL);
    struct slm_cache *of_name = load_relaxed(&cache->cache);
    fill_and_empty(cache);
    slm_cache_widen_stock(of_name, 1000); /* as if that many had gone home in vain */
    fill_and_empty(cache);
    assert_true(load_relaxed(&of_name->depot_rounds) > 1000);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "depot_bytes=0")->error, 0);
    assert_int_equal(load_relaxed(&of_name->depot_rounds), 0);
    assert_int_equal(load_relaxed(&of_name->first.stock_rounds), 0);
    fill_and_empty(cache);
    assert_int_equal(load_relaxed(&of_name->first.stock_rounds), 0);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "depot_bytes=1G")->error, 0);
    assert_true(load_relaxed(&of_name->depot_rounds) > 1000);
    slab_cache_destroy(cache);
}

static void a_limit_holds_from_then_on(void **state)
{
    (void)state;
    const uint64_t charged = load_relaxed(&slm_charge.bytes);
    const struct slm_answer *answer = ask(SLM_COMMAND_LIMIT, "", charged + 64 * MIB, 0);
    assert_int_equal(answer->error, 0);
    assert_int_equal(answer->number[0], 0);
    assert_null(malloc(80 * MIB));
    void *volatile object = malloc(20 * MIB);
    assert_non_null(object);
    assert_true(slm_limits_watched);
    answer = ask(SLM_COMMAND_LIMIT, "", 0, 0);
    assert_int_equal(answer->number[0], charged + 64 * MIB);
    assert_false(slm_limits_watched);
    free(object);
    object = malloc(80 * MIB);
    assert_non_null(object);
    free(object);
    assert_int_equal(ask(SLM_COMMAND_LIMIT, "", UINT64_MAX, 0)->error, EINVAL);
    assert_int_equal(ask(SLM_COMMAND_LIMIT, "", ((uint64_t)1 << 43) + 1, 0)->error, EINVAL);
    assert_int_equal(slm_settings.limit_bytes, 0);
    assert_int_equal(load_relaxed(&slm_charge.limit), UINT64_MAX);
}

static void what_is_above_a_new_limit_goes_back(void **state)
{
    (void)state;
    char *object = malloc(64 * MIB);
    assert_non_null(object);
    memset(object, 1, 64 * MIB);
    free(object);
    const uint64_t charged = load_relaxed(&slm_charge.bytes);
    assert_true(slm_span_dirty_bytes() >= 64 * MIB);
    ask(SLM_COMMAND_LIMIT, "", charged - 32 * MIB, 0);
    assert_true(load_relaxed(&slm_charge.bytes) <= charged - 32 * MIB);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "soft_limit_bytes=1G")->error, 0);
    assert_int_equal(load_relaxed(&slm_charge.soft), slm_min(GIB, charged - 32 * MIB));
    ask(SLM_COMMAND_LIMIT, "", 0, 0);
    assert_int_equal(load_relaxed(&slm_charge.soft), GIB);
    assert_int_equal(asked(SLM_COMMAND_OPTION, "soft_limit_bytes=0")->error, 0);
    assert_int_equal(load_relaxed(&slm_charge.soft), UINT64_MAX);
}

/* -- what is wrong ----------------------------------------------------------------------------------------------- */

static void there_are_no_others(void **state)
{
    (void)state;
    const uint32_t whats[] = {0, 8, 9, 255, 256, INT32_MAX, UINT32_MAX};
    for (unsigned i = 0; i < COUNT(whats); i++)
        assert_int_equal(asked(whats[i], "one")->error, ENOSYS);
}

static void a_text_has_an_end(void **state)
{
    (void)state;
    struct slm_command command = {.what = SLM_COMMAND_OPTION};
    for (uint32_t what = SLM_COMMAND_STATS; what <= SLM_COMMAND_OPTION; what++) {
        memset(command.text, 's', sizeof command.text);
        command.what = what;
        const uint64_t token = post(command);
        slm_mailbox_serve(NULL);
        assert_true(is_answered(token));
        assert_int_equal(slm_mailbox.answer.error, EINVAL);
    }
}

/* Random bytes, most of which are a command; what they change is in the end as it was. */
static void random_commands_do_no_harm(void)
{
    static const char *const words[] = {"",
                                        "one",
                                        "size-64",
                                        "size-16",
                                        "stats=",
                                        "limit_bytes=",
                                        "depot_bytes=0",
                                        "magazine_bytes=256",
                                        "magazine_bytes=16M",
                                        "thread_bytes=4K",
                                        "=",
                                        "\n,="};
    uint64_t seed = 1;
    void *held[64] = {NULL};
    slab_cache *one = slab_cache_create("one", 77, NULL);
    const unsigned long turns = scaled(20000);
    for (unsigned long turn = 0; turn < turns; turn++) {
        struct slm_command command;
        uint64_t *word = (uint64_t *)(void *)&command;
        for (size_t i = 0; i < sizeof command / sizeof *word; i++)
            word[i] = random_next(&seed);
        command.what = random_below(&seed, 10) ? (uint32_t)random_below(&seed, 10) : command.what;
        if (random_below(&seed, 3))
            strcpy(command.text, words[random_below(&seed, COUNT(words))]);
        for (unsigned i = 0; i < 2; i++)
            command.number[i] >>= random_below(&seed, 64);
        if (command.what == SLM_COMMAND_LIMIT) /* the test needs some */
            command.number[0] |= (uint64_t)1 << 42;
        const uint64_t token = post(command);
        slm_mailbox_serve(NULL);
        require(is_answered(token));
        const size_t at = random_below(&seed, COUNT(held));
        free(held[at]);
        held[at] = random_below(&seed, 2) ? malloc(random_below(&seed, 3000)) : slab_cache_alloc(one);
        require(held[at] != NULL);
    }
}

static void garbage_does_no_harm(void **state)
{
    (void)state;
    assert_child_silent(random_commands_do_no_harm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stats_are_those_of_the_call),
        cmocka_unit_test(caches_are_listed_by_name),
        cmocka_unit_test(classes_are_listed_once_they_are_made),
        cmocka_unit_test(many_caches_come_in_parts),
        cmocka_unit_test(answers_take_no_memory_that_stays),
        cmocka_unit_test(purging_gives_back_what_is_free),
        cmocka_unit_test(shrinking_is_by_name_or_of_all),
        cmocka_unit_test(all_of_a_name_are_meant),
        cmocka_unit_test(destructors_do_not_run_in_slow_paths),
        cmocka_unit_test(who_may_runs_destructors),
        cmocka_unit_test(tuning),
        cmocka_unit_test(options_are_read_and_changed),
        cmocka_unit_test(sampling_begins_at_once),
        cmocka_unit_test(a_thread_that_is_gone_does_not_begin),
        cmocka_unit_test(magazines_follow_their_option),
        cmocka_unit_test(depots_follow_their_option),
        cmocka_unit_test(a_limit_holds_from_then_on),
        cmocka_unit_test(what_is_above_a_new_limit_goes_back),
        cmocka_unit_test(there_are_no_others),
        cmocka_unit_test(a_text_has_an_end),
        cmocka_unit_test(garbage_does_no_harm),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
