/* Commands; see commands.h. What the answer cannot hold lies in metadata until the next command.
 *
 * Names and numbers are checked by the code that checks them for programs and at start; only what is looked at
 * without it is checked here. */
#include "inspect/commands.h"

#include <errno.h>
#include <string.h>

#include "base/options.h"
#include "base/panic.h"
#include "control/cache_control.h"
#include "figures/cache_info.h"
#include "figures/figures.h"
#include "os/background.h"
#include "page/charge.h"
#include "page/metadata.h"
#include "process/give_back.h"
#include "process/limits.h"
#include "thread/ownership.h"
#include "thread/thread_list.h"

/* One command, its answer, and how the thread that serves may run destructors. */
struct work {
    const struct slm_command *command;
    struct slm_answer *answer;
    slm_mailbox_destruct *destruct;
};

/* -- room for what is long --------------------------------------------------------------------------------------- */

enum { room_least = 4096 };

static slm_sparse struct {
    char *address;
    size_t bytes;
} room;

/* Pieces of that size are clear when they are free (page/metadata.h). A fork may come at any point. */
static slm_seldom void drop_room(void)
{
    char *address = room.address;
    const size_t bytes = room.bytes;
    room.address = NULL;
    room.bytes = 0;
    if (address)
        slm_metadata_free(memset(address, 0, bytes), bytes);
}

/* At most SLM_METADATA_MAX bytes; NULL: there is no memory. Few sizes, as free pieces wait for their own. */
static slm_seldom void *make_room(size_t bytes)
{
    size_t size = room_least;
    while (size < bytes)
        size *= 2;
    if (room.bytes < size) {
        drop_room();
        room.address = slm_metadata_alloc(size);
        room.bytes = room.address ? size : 0;
    }
    return room.address;
}

static slm_seldom int answer_room(struct work *work, const void *address, size_t bytes)
{
    work->answer->address = (uintptr_t)address;
    work->answer->bytes = bytes;
    return address ? 0 : ENOMEM;
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static slm_seldom int tell_stats(struct work *work)
{
    struct slab_stats *stats = make_room(sizeof *stats);
    if (stats)
        slm_figures_gather(stats);
    return answer_room(work, stats, stats ? sizeof *stats : 0);
}

struct listing {
    struct slm_command_cache *records;
    uint64_t skip, most, met, told;
};

static slm_seldom void add_record(const char *name, struct slm_cache *cache, void *any)
{
    struct listing *listing = any;
    if (listing->met++ < listing->skip || listing->told == listing->most)
        return;
    struct slm_command_cache *record = &listing->records[listing->told++];
    record->id = cache->id;
    record->unused = 0;
    slm_cache_info_gather(name, cache, &record->stats);
}

static slm_seldom void list(struct listing *listing)
{
    listing->met = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        char name[SLM_CACHE_NAME_BYTES] = {0};
        struct slm_cache *cache = load_acquire(&slm_class_caches[class]); /* pairs with slm_class_cache_make */
        slm_cache_name_class(name, class);
        if (cache)
            add_record(name, cache, listing);
    }
    slm_cache_name_each(add_record, listing);
}

/* Counted, then listed. In between a class may be made, for which there is no room. */
static slm_seldom int tell_caches(struct work *work)
{
    struct listing listing = {.skip = work->command->number[0]};
    slm_cache_lock();
    list(&listing);
    const uint64_t left = listing.met - slm_min(listing.met, listing.skip);
    const uint64_t most = slm_min(left, SLM_METADATA_MAX / sizeof *listing.records);
    listing.records = make_room(most * sizeof *listing.records);
    listing.most = listing.records ? most : 0;
    list(&listing);
    slm_cache_unlock();
    work->answer->number[0] = listing.met;
    return answer_room(work, listing.records, listing.told * sizeof *listing.records);
}

/* -- giving back ------------------------------------------------------------------------------------------------- */

static slm_seldom int purge(struct work *work)
{
    if (work->destruct)
        work->destruct();
    work->answer->number[0] = slm_give_back_undestructed();
    return 0;
}

static slm_seldom int shrink(struct work *work)
{
    const char *name = work->command->text;
    size_t bytes = 0;
    if (*name)
        work->answer->number[1] = slm_cache_control_shrink_called(name, work->destruct, &bytes);
    else
        bytes = slm_cache_control_shrink_all(work->destruct);
    work->answer->number[0] = bytes;
    return *name && !work->answer->number[1] ? ENOENT : 0;
}

static slm_seldom int tune(struct work *work)
{
    const uint64_t *number = work->command->number;
    unsigned count;
    const int error =
        slm_cache_control_tune_called(work->command->text, number[0], number[1], work->destruct, &count);
    if (error == EINVAL) {
        struct slm_line line = {0};
        slm_line_add(&line, "rounds may be 0 to %lu, magazines 0 to %lu", (uint64_t)SLM_ROUNDS_MOST,
                     (uint64_t)UINT32_MAX);
        memcpy(work->answer->text, line.text, line.length + 1);
    }
    work->answer->number[1] = count;
    return error;
}

/* -- options ----------------------------------------------------------------------------------------------------- */

/* A thread of which nothing was sampled looks at its next allocation whether that has changed, not after 64 MiB. If
 * it counts down at this very moment, it may not see the 0, and then finds out later. */
static slm_seldom slm_unordered void let_look(struct slm_thread *thread, void *may)
{
    if (slm_thread_tls(thread) != &slm_tls && !*(const bool *)may)
        return;
    if (slm_thread_tls(thread) != &slm_tls)
        slm_thread_look_if_gone(thread);
    struct slm_tls *tls = slm_thread_tls(thread);
    if (tls != &slm_gone_tls && tls->sample_mean == 0)
        *(volatile int64_t *)&tls->sample_left = 0;
}

/* Whether a thread is gone a system call says: where a sandbox is near, the others find out later. */
static slm_seldom void let_all_look(void)
{
    bool may = slm_background_begin();
    slm_thread_list_foreach(let_look, &may);
    slm_background_end();
}

/* Most options are heeded where they are read. From these others are derived, which every cache and each allocation
 * use. Above a new limit what is free goes back. */
static slm_seldom int set_or_read(struct slm_answer *answer)
{
    const uint64_t magazine_bytes = slm_setting(magazine_bytes), depot_bytes = slm_setting(depot_bytes);
    const uint64_t limit_bytes = slm_setting(limit_bytes), soft_limit_bytes = slm_setting(soft_limit_bytes);
    const uint64_t sample_bytes = slm_setting(sample_bytes);
    const int error = slm_options_command(answer->text, sizeof answer->text);
    if (magazine_bytes != slm_setting(magazine_bytes) || depot_bytes != slm_setting(depot_bytes)) {
        slm_cache_lock();
        slm_cache_tune_again();
        slm_cache_unlock();
    }
    if (limit_bytes != slm_setting(limit_bytes) || soft_limit_bytes != slm_setting(soft_limit_bytes)) {
        slm_limits_change();
        if (slm_charge_is_near())
            slm_give_back_undestructed();
    }
    if (sample_bytes == 0 && slm_setting(sample_bytes) > 0)
        let_all_look();
    return error;
}

static slm_seldom int option(struct work *work)
{
    memcpy(work->answer->text, work->command->text, sizeof work->answer->text);
    return set_or_read(work->answer);
}

static slm_seldom int limit(struct work *work)
{
    struct slm_line line = {0};
    work->answer->number[0] = slm_setting(limit_bytes);
    slm_line_add(&line, "limit_bytes=%lu", work->command->number[0]);
    memcpy(work->answer->text, line.text, line.length + 1);
    return set_or_read(work->answer);
}

/* -- all of them ------------------------------------------------------------------------------------------------- */

slm_seldom void slm_command_run(const struct slm_command *command, struct slm_answer *answer,
                                slm_mailbox_destruct *destruct)
{
    int (*const all[])(struct work *) = {
        [SLM_COMMAND_STATS] = tell_stats, [SLM_COMMAND_CACHES] = tell_caches, [SLM_COMMAND_PURGE] = purge,
        [SLM_COMMAND_LIMIT] = limit,      [SLM_COMMAND_SHRINK] = shrink,      [SLM_COMMAND_TUNE] = tune,
        [SLM_COMMAND_OPTION] = option,
    };
    struct work work = {command, answer, destruct};
    if (room.bytes > room_least)
        drop_room();
    if (command->what >= sizeof all / sizeof all[0] || !all[command->what])
        answer->error = ENOSYS;
    else if (!memchr(command->text, 0, sizeof command->text))
        answer->error = EINVAL;
    else
        answer->error = all[command->what](&work);
}
