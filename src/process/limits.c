/* Reading control groups, and what is done above the soft limit; see limits.h.
 *
 * A group's memory is not ours alone: other processes, stacks, shared memory and the kernel's tables count too. So
 * what is not ours is taken off the group's limits. It is what the group's memory.stat names as memory that the
 * kernel cannot just drop, less what is resident of ours. Page cache is no obstacle, as the kernel drops it. A
 * sixteenth of memory.max, at most 64 MiB, is left for what comes between two looks. Every group up to the root may
 * have limits, and the least of them holds.
 *
 *              hard                                   soft
 *     v2       memory.max                             memory.high, or 90 % of memory.max
 *     v1       memory.limit_in_bytes                  memory.soft_limit_in_bytes, or 90 % of the other
 *
 * Stalls are those of the group's memory.pressure, which only v2 has. */
#include "process/limits.h"

#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "process/reclaim.h"

#define NONE UINT64_MAX

enum {
    again_ms = 10,
    threads_at_once = 4,
    reclaim_least_ms = 100,
    reclaim_most_ms = 6400,
    worth_bytes = 1 << 20, /* less is little for a look at all depots */
    stall_share = 20,      /* a twentieth of the time */
    spare_share = 16,
    room_share = 16,
    step_share = 256,
    spare_most = 64 << 20,
    path_size = 512
};

_Atomic bool slm_limits_watched;
static slm_once bool follows_group;
const char *slm_limits_root = "";

/* Where the groups are mounted; found at start. */
static struct {
    bool found, first, fits; /* first: of version 1; fits: the process's group lies under it */
    char folder[path_size];
    char root[path_size]; /* the group that lies there */
} mount;

/* -- text -------------------------------------------------------------------------------------------------------- */

/* The number at the text's start. NONE: there is none ("max"), or it is one that stands for none. */
static slm_seldom uint64_t number_at(const char *text)
{
    uint64_t number = 0;
    if (*text < '0' || *text > '9')
        return NONE;
    for (; *text >= '0' && *text <= '9'; text++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
            return NONE;
    return number < (uint64_t)1 << 60 ? number : NONE;
}

/* The field behind the next `end` character, or the text's end. */
static slm_seldom char *cut(char *text, char end)
{
    char *at = strchr(text, end);
    if (!at)
        return text + strlen(text);
    *at = 0;
    return at + 1;
}

/* Is the word one of a list with commas? */
static slm_seldom bool has_word(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (; *list; list += strcspn(list, ","), list += *list != 0)
        if (strcspn(list, ",") == length && memcmp(list, word, length) == 0)
            return true;
    return false;
}

/* A copy, in which the kernel's escapes (\040 is a blank) are characters again. */
static slm_seldom void copy_path(char *to, const char *from)
{
    const char *const last = to + path_size - 1;
    while (*from && to < last) {
        const bool escaped = from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3];
        *to++ = escaped ? (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0')) : *from;
        from += escaped ? 4 : 1;
    }
    *to = 0;
}

/* -- finding the group ------------------------------------------------------------------------------------------- */

struct own {
    char first[path_size], second[path_size]; /* paths by version; "": there is none */
};

/* "4:memory,cpu:/path", and "0::/path" for version 2. */
static slm_seldom void read_own_line(char *line, void *context)
{
    struct own *own = context;
    char *controllers = cut(line, ':'), *path = cut(controllers, ':');
    const size_t size = strlen(path) + 1;
    if (*path != '/' || size > path_size)
        return;
    if (*controllers == 0)
        memcpy(own->second, path, size);
    else if (has_word(controllers, "memory"))
        memcpy(own->first, path, size);
}

static slm_seldom bool read_lines(const char *folder, const char *name, slm_line_reader *reader, void *context)
{
    struct slm_line path = {0};
    slm_line_add(&path, "%s/%s", folder, name);
    return slm_sys_each_line(path.text, reader, context);
}

static slm_seldom bool read_own_paths(struct own *own)
{
    own->first[0] = own->second[0] = 0;
    return read_lines(slm_limits_root, "proc/self/cgroup", read_own_line, own) && (own->first[0] || own->second[0]);
}

/* Does the group that is mounted lie above this one, or is it the same? What is between them is returned, or NULL. */
static slm_seldom const char *path_under(const char *root, const char *path)
{
    const size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, length) != 0 || (path[length] != '/' && path[length] != 0) ||
        strncmp(path + length, "/..", 3) == 0)
        return NULL;
    path += length;
    return strcmp(path, "/") == 0 ? "" : path;
}

static slm_seldom const char *path_of(const struct own *own, bool first)
{
    return first ? own->first : own->second;
}

/* "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw". Of version 1 the mount with the controller
 * counts, and before one of version 2; else one that has the process's group, as there may be others. */
static slm_seldom void read_mount_line(char *line, void *own)
{
    char root[path_size], *name = cut(cut(cut(line, ' '), ' '), ' '), *folder = cut(name, ' ');
    char *dash = strstr(folder, " - ");
    if (!dash)
        return;
    char *type = dash + 3, *settings = cut(cut(type, ' '), ' ');
    cut(folder, ' ');
    const bool second = strcmp(type, "cgroup2") == 0;
    const bool first = strcmp(type, "cgroup") == 0 && has_word(settings, "memory");
    if (!first && !second)
        return;
    copy_path(root, name);
    const bool fits = path_under(root, path_of(own, first)) != NULL;
    if (mount.found && 2 * first + fits <= 2 * mount.first + mount.fits)
        return;
    mount.found = true;
    mount.first = first;
    mount.fits = fits;
    copy_path(mount.folder, folder);
    memcpy(mount.root, root, path_size);
}

/* -- what a group says ------------------------------------------------------------------------------------------- */

struct look {
    uint64_t ours; /* bytes of ours that are resident, at most */
    uint64_t hard, soft;
};

static slm_seldom uint64_t read_number(const char *folder, const char *name)
{
    struct slm_line path = {0};
    char text[64];
    slm_line_add(&path, "%s/%s", folder, name);
    return slm_sys_read_file(path.text, text, sizeof text) ? number_at(text) : NONE;
}

/* Adds up what the kernel cannot drop. */
static slm_seldom void add_stat_line(char *line, void *context)
{
    static const char second[] =
        "anon,shmem,kernel_stack,pagetables,sec_pagetables,percpu,sock,vmalloc,slab_unreclaimable";
    const char *number = cut(line, ' ');
    if (has_word(mount.first ? "total_rss,total_shmem" : second, line) && number_at(number) != NONE)
        *(uint64_t *)context += number_at(number);
}

static slm_seldom uint64_t less(uint64_t from, uint64_t what)
{
    return from == NONE ? NONE : from > what ? from - what : 0;
}

static slm_seldom void look_at_group(struct look *look, const char *folder)
{
    const uint64_t most = read_number(folder, mount.first ? "memory.limit_in_bytes" : "memory.max");
    uint64_t high = read_number(folder, mount.first ? "memory.soft_limit_in_bytes" : "memory.high"), held = 0;
    if (most == NONE && high == NONE)
        return;
    read_lines(folder, "memory.stat", add_stat_line, &held);
    const uint64_t others = held > look->ours ? held - look->ours : 0;
    high = high != NONE ? high : less(most, most / 10);
    look->hard = slm_min(look->hard, less(less(most, slm_min(most / spare_share, spare_most)), others));
    look->soft = slm_min(look->soft, less(high, others));
}

/* What is charged may not have been written to yet; what is anonymous may not be ours. */
static slm_seldom uint64_t resident_of_ours(void)
{
    struct slm_line path = {0};
    char text[128];
    slm_line_add(&path, "%s/proc/self/statm", slm_limits_root);
    if (!slm_sys_read_file(path.text, text, sizeof text))
        return load_relaxed(&slm_charge.bytes);
    char *resident = cut(text, ' '), *shared = cut(resident, ' ');
    const uint64_t pages = less(number_at(resident), number_at(shared));
    return slm_min(pages * slm_page_size, load_relaxed(&slm_charge.bytes));
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" comes first: microseconds in which a task stood still. */
static slm_seldom void read_pressure_line(char *line, void *context)
{
    char *total = strstr(line, " total=");
    if (total && strncmp(line, "some ", 5) == 0)
        *(uint64_t *)context = number_at(total + 7);
}

static slm_seldom bool stalls(const char *folder, uint64_t now_ms)
{
    static _Atomic uint64_t last_us, last_ms;
    uint64_t us = NONE;
    if (mount.first || !read_lines(folder, "memory.pressure", read_pressure_line, &us) || us == NONE)
        return false;
    const uint64_t before_us = atomic_exchange(&last_us, us), before_ms = atomic_exchange(&last_ms, now_ms);
    return before_ms != 0 && us > before_us && us - before_us > (now_ms - before_ms) * 1000 / stall_share;
}

/* -- the limits in force ----------------------------------------------------------------------------------------- */

static _Atomic uint64_t group_hard = NONE, group_soft = NONE; /* at the last look */

/* A group's other processes take memory, too, at the same time: the next look comes after a share of the room, and
 * `more`. So many processes do not pass the limit together. */
static slm_seldom void set_limits(const struct look *look, size_t more)
{
    const uint64_t hard = slm_setting(limit_bytes), soft = slm_setting(soft_limit_bytes);
    store_relaxed(&group_hard, look->hard);
    store_relaxed(&group_soft, look->soft);
    const uint64_t room = less(look->hard, load_relaxed(&slm_charge.bytes));
    const uint64_t step = look->hard == NONE ? NONE : more + slm_max(room / room_share, look->hard / step_share);
    slm_charge_limit(slm_min(look->hard, hard ? hard : NONE), slm_min(look->soft, soft ? soft : NONE), step);
}

static slm_seldom void decide_whether_to_watch(void)
{
    store_relaxed(&slm_limits_watched, follows_group || load_relaxed(&slm_charge.soft) != NONE);
}

/* Read all of the groups' limits. True: the process's own one stalls. */
static slm_seldom bool look_at_groups(uint64_t now_ms, size_t more)
{
    struct look look = {resident_of_ours(), NONE, NONE};
    struct own own;
    if (!read_own_paths(&own))
        return false;
    struct slm_line folder = {0};
    slm_line_add(&folder, "%s%s", slm_limits_root, mount.folder);
    const size_t top = folder.length;
    const char *below = path_under(mount.root, path_of(&own, mount.first)); /* NULL: of another namespace */
    slm_line_text(&folder, below ? below : "");
    const bool stalled = stalls(folder.text, now_ms);
    while (look_at_group(&look, folder.text), folder.length > top) {
        while (folder.text[folder.length] != '/') /* up to the group above */
            folder.length--;
        folder.text[folder.length] = 0;
    }
    set_limits(&look, more);
    return stalled;
}

static slm_seldom void start_with_group(void)
{
    struct own own;
    if (read_own_paths(&own))
        read_lines(slm_limits_root, "proc/self/mountinfo", read_mount_line, &own);
    follows_group = mount.found && path_of(&own, mount.first)[0];
    if (!follows_group)
        slm_warn("option limit=cgroup: no control group is found; no limit", NULL);
    else
        look_at_groups(slm_sys_now_ms(), 0);
}

slm_seldom void slm_limits_change(void)
{
    set_limits(&(struct look){0, load_relaxed(&group_hard), load_relaxed(&group_soft)}, 0);
    decide_whether_to_watch();
}

slm_seldom void slm_limits_start(void)
{
    const char *limit = slm_options.limit;
    set_limits(&(struct look){0, NONE, NONE}, 0);
    if (strcmp(limit, "cgroup") == 0)
        start_with_group();
    else if (*limit && strcmp(limit, "none") != 0)
        slm_warn("option limit is neither cgroup nor none; no limit: ", limit);
    decide_whether_to_watch();
}

slm_seldom void slm_limits_purge(void)
{
    const uint64_t dirty = slm_span_dirty_bytes(), most = slm_charge_dirty_most(dirty);
    if (dirty > most)
        slm_span_purge(most / 2, SLM_PURGE_LIMIT);
}

/* An object's slab may be eight times as long. At the limit itself one look in a while is enough, or calls that fail
 * in a row would do nothing else. */
slm_seldom bool slm_limits_make_room(size_t n)
{
    static _Atomic uint64_t due_ms;
    const uint64_t now_ms = slm_sys_now_ms();
    const size_t more = slm_max(SLM_GRANULE, slm_min(8 * n, n + SLM_LIMITS_SLAB_MOST));
    if (follows_group &&
        (!slm_charge_exceeds(&slm_charge.limit, more) || slm_reclaim_claim(&due_ms, now_ms, again_ms)))
        look_at_groups(now_ms, more);
    return !slm_charge_exceeds(&slm_charge.limit, threads_at_once * more);
}

slm_seldom bool slm_limits_tick(uint64_t now_ms)
{
    static _Atomic uint64_t look_due_ms, reclaim_due_ms, pause_ms;
    const bool stalled =
        follows_group && slm_reclaim_claim(&look_due_ms, now_ms, SLM_LIMITS_LOOK_MS) && look_at_groups(now_ms, 0);
    const bool above = load_relaxed(&slm_charge.bytes) > load_relaxed(&slm_charge.soft);
    const uint64_t pause = slm_max(load_relaxed(&pause_ms), reclaim_least_ms);
    if (!(stalled || above) || !slm_reclaim_claim(&reclaim_due_ms, now_ms, pause))
        return false;
    const size_t given = slm_reclaim_all(false, above ? SLM_PURGE_LIMIT : SLM_PURGE_PRESSURE);
    store_relaxed(&pause_ms, given >= worth_bytes ? reclaim_least_ms : slm_min(2 * pause, reclaim_most_ms));
    return given > 0;
}
