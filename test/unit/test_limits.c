/* src/process/limits.h: control groups of both versions, laid out as files in a folder of this test's, which takes
 * the place of the root. Each case has a process of its own. */
#include "unit.h"

#include <sys/stat.h>

#include "page/charge.h"
#include "page/free_spans.h"
#include "process/give_back.h"
#include "process/limits.h"
#include "os/sys.h"

#define GIB ((uint64_t)1 << 30)
#define NONE UINT64_MAX
#define SPARE (64 * MIB) /* of what groups of a gigabyte and more have */

static char root[64];

/* -- files ------------------------------------------------------------------------------------------------------- */

/* A file of so many bytes of text, with its folders. */
static void put(const char *path, const char *content)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", root, path);
    for (char *slash = name + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(name, 0755);
    }
    FILE *file = fopen(name, "w");
    require(file != NULL && fputs(content, file) >= 0 && fclose(file) == 0);
}

static void take_away(const char *path)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", root, path);
    require(unlink(name) == 0);
}

/* Nothing of the process's is resident, so that all of a group's memory is that of others. */
static void begin(const char *groups, const char *mounts)
{
    put("proc/self/cgroup", groups);
    put("proc/self/mountinfo", mounts);
    put("proc/self/statm", "1000 300 300 1 0 1 0\n");
    slm_limits_root = root;
}

static void start(void)
{
    strcpy(slm_options.limit, "cgroup");
    slm_limits_start();
}

static const char mount_v2[] = "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
                               "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
static const char mounts_v1[] =
    "30 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    "31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";

#define GROUP "sys/fs/cgroup/system.slice/mine.service/"

static void require_limits(uint64_t hard, uint64_t soft)
{
    if (load_relaxed(&slm_charge.limit) != hard || load_relaxed(&slm_charge.soft) != soft)
        dprintf(STDERR_FILENO, "%lu and %lu, not %lu and %lu\n", load_relaxed(&slm_charge.limit),
                load_relaxed(&slm_charge.soft), hard, soft);
    require(load_relaxed(&slm_charge.limit) == hard && load_relaxed(&slm_charge.soft) == soft);
}

/* At a time at which all is due. */
static bool tick(void)
{
    static uint64_t later_ms;
    return slm_limits_tick(slm_sys_now_ms() + (later_ms += 10000));
}

/* -- version 2 --------------------------------------------------------------------------------------------------- */

static void begin_v2(void)
{
    begin("0::/system.slice/mine.service\n", mount_v2);
    put(GROUP "memory.max", "1073741824\n");
    put(GROUP "memory.high", "max\n");
    put("sys/fs/cgroup/system.slice/memory.max", "max\n");
    put("sys/fs/cgroup/system.slice/memory.high", "max\n");
}

static void max_alone(void)
{
    begin_v2();
    start();
    require(slm_limits_watched);
    require_limits(GIB - SPARE, GIB - GIB / 10);
    put(GROUP "memory.max", "33554432\n"); /* of little a sixteenth is spared */
    tick();
    require_limits(30 * MIB, 32 * MIB - 32 * MIB / 10);
}

static void max_and_high_that_change(void)
{
    begin_v2();
    put(GROUP "memory.high", "536870912\n");
    start();
    require_limits(GIB - SPARE, GIB / 2);
    put(GROUP "memory.high", "268435456\n");
    require_limits(GIB - SPARE, GIB / 2);
    tick();
    require_limits(GIB - SPARE, GIB / 4);
    put(GROUP "memory.max", "max\n");
    tick();
    require_limits(NONE, GIB / 4);
    put(GROUP "memory.high", "max\n");
    tick();
    require_limits(NONE, NONE);
    put(GROUP "memory.max", "2147483648\n");
    tick();
    require_limits(2 * GIB - SPARE, 2 * GIB - 2 * GIB / 10);
}

static void the_least_of_all_above(void)
{
    begin_v2();
    put("sys/fs/cgroup/system.slice/memory.max", "805306368\n");
    put("sys/fs/cgroup/memory.high", "402653184\n");
    start();
    require_limits(GIB / 4 * 3 - 48 * MIB, GIB / 8 * 3);
}

/* What is not ours, as far as the kernel cannot drop it. */
static void memory_of_others(void)
{
    begin_v2();
    put(GROUP "memory.stat", "anon 104857600\nfile 999999999\nkernel 5\nkernel_stack 1048576\npagetables 1048576\n"
                             "shmem 1048576\nfile_mapped 77777\nslab_reclaimable 999999\nslab_unreclaimable 1048576\n"
                             "anon_thp 555\n");
    start();
    require_limits(GIB - SPARE - 104 * MIB, GIB - GIB / 10 - 104 * MIB);
    slm_charge_add(64 * MIB); /* ours, but no more than is resident */
    put("proc/self/statm", "100000 8492 300 1 0 1 0\n");
    tick();
    require_limits(GIB - SPARE - 72 * MIB, GIB - GIB / 10 - 72 * MIB);
    put(GROUP "memory.stat", "anon 2000000000\n");
    tick();
    require_limits(0, 0);
}

static void the_group_changes(void)
{
    begin_v2();
    start();
    put("proc/self/cgroup", "0::/other\n");
    put("sys/fs/cgroup/other/memory.max", "2147483648\n");
    tick();
    require_limits(2 * GIB - SPARE, 2 * GIB - 2 * GIB / 10);
}

static void files_that_go_away(void)
{
    begin_v2();
    start();
    take_away("proc/self/cgroup");
    tick();
    require_limits(GIB - SPARE, GIB - GIB / 10);
}

/* In a namespace, in a container without one, with blanks and backslashes, and with mounts of other groups. */
static void other_mounts(const char *groups, const char *mounts, const char *file)
{
    begin(groups, mounts);
    put(file, "1073741824\n");
    start();
    require_limits(GIB - SPARE, GIB - GIB / 10);
}

static void namespace(void)
{
    other_mounts("0::/\n", mount_v2, "sys/fs/cgroup/memory.max");
}

static void outside_of_the_namespace(void)
{
    other_mounts("0::/../elsewhere\n", mount_v2, "sys/fs/cgroup/memory.max");
}

static void mounted_part(void)
{
    other_mounts("0::/docker/abc/inner\n", "31 23 0:28 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
                 "sys/fs/cgroup/inner/memory.max");
}

static void mounts_of_others(void)
{
    other_mounts("0::/docker/abc\n",
                 "30 23 0:28 /docker/ab /mnt/first ro - cgroup2 cgroup rw\n"
                 "31 23 0:28 / /mnt/all ro - cgroup2 cgroup rw\n"
                 "32 23 0:28 /docker/abcd /mnt/last ro - cgroup2 cgroup rw\n",
                 "mnt/all/docker/abc/memory.max");
}

static void escapes(void)
{
    other_mounts("0::/a b\\x2dc/d\n", "31 23 0:28 /a\\040b\\134x2dc /my\\040groups ro shared:1 - cgroup2 none rw\n",
                 "my groups/d/memory.max");
}

/* -- version 1 --------------------------------------------------------------------------------------------------- */

#define GROUP_V1 "sys/fs/cgroup/memory/mine/"

static void version_1(void)
{
    begin("9:cpu,cpuacct:/other\n4:memory:/mine\n0::/unified\n", mounts_v1);
    put(GROUP_V1 "memory.limit_in_bytes", "1073741824\n");
    put(GROUP_V1 "memory.soft_limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/unified/unified/memory.max", "1\n");
    put(GROUP_V1 "memory.stat",
        "cache 999999999\nrss 1\ntotal_cache 888888888\ntotal_rss 104857600\ntotal_rss_huge 5\n"
        "total_shmem 1048576\n");
    put(GROUP_V1 "memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"); /* not of this version */
    start();
    require_limits(GIB - SPARE - 101 * MIB, GIB - GIB / 10 - 101 * MIB);
    put(GROUP_V1 "memory.soft_limit_in_bytes", "536870912\n");
    put(GROUP_V1 "memory.limit_in_bytes", "2147483648\n");
    tick();
    require_limits(2 * GIB - SPARE - 101 * MIB, GIB / 2 - 101 * MIB);
}

/* -- with the other options, and without a group ----------------------------------------------------------------- */

static void the_least_of_group_and_options(void)
{
    begin_v2();
    slm_settings.limit_bytes = 100 * MIB;
    start();
    require_limits(100 * MIB, 100 * MIB);
    put(GROUP "memory.max", "67108864\n");
    tick();
    require_limits(60 * MIB, 64 * MIB - 64 * MIB / 10);
    slm_settings.soft_limit_bytes = 50 * MIB;
    tick();
    require_limits(60 * MIB, 50 * MIB);
}

static void options_that_change(void)
{
    begin_v2();
    start();
    slm_settings.limit_bytes = 100 * MIB;
    slm_limits_change();
    require_limits(100 * MIB, 100 * MIB);
    slm_settings.soft_limit_bytes = 50 * MIB;
    slm_limits_change();
    require_limits(100 * MIB, 50 * MIB);
    slm_settings.limit_bytes = slm_settings.soft_limit_bytes = 0;
    slm_limits_change();
    require_limits(GIB - SPARE, GIB - GIB / 10);
    require(slm_limits_watched);
}

static void options_that_change_without_a_group(void)
{
    slm_settings.soft_limit_bytes = 50 * MIB; /* nothing was limited at start */
    slm_limits_change();
    require_limits(NONE, 50 * MIB);
    require(slm_limits_watched);
    slm_settings.soft_limit_bytes = 0;
    slm_limits_change();
    require_limits(NONE, NONE);
    require(!slm_limits_watched);
}

static void without_a_group(void)
{
    begin("", "22 27 0:21 / /proc rw,relatime - proc proc rw\n");
    slm_settings.limit_bytes = 100 * MIB;
    start();
    require_limits(100 * MIB, 100 * MIB);
}

static void without_proc(void)
{
    slm_limits_root = "/nowhere";
    start();
    require(!slm_limits_watched);
    require_limits(NONE, NONE);
}

static void with_no_such_limit(void)
{
    strcpy(slm_options.limit, "cgroups");
    slm_limits_start();
    require(!slm_limits_watched);
    require_limits(NONE, NONE);
}

static void with_none(void)
{
    strcpy(slm_options.limit, "none");
    slm_limits_start();
    require(!slm_limits_watched);
}

static void limits_follow_the_group(void **state)
{
    (void)state;
    void (*const cases[])(void) = {
        max_alone,
        max_and_high_that_change,
        the_least_of_all_above,
        memory_of_others,
        the_group_changes,
        files_that_go_away,
        namespace,
        outside_of_the_namespace,
        mounted_part,
        mounts_of_others,
        escapes,
        version_1,
        with_none,
        the_least_of_group_and_options,
        options_that_change,
        options_that_change_without_a_group,
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char command[128];
        assert_child_silent(cases[i]);
        snprintf(command, sizeof command, "rm -rf %s/*", root);
        assert_int_equal(system(command), 0);
    }
}

static void assert_child_warns(void (*run)(void), const char *said)
{
    const struct outcome outcome = in_child(run);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said, said);
}

static void one_line_says_that_there_is_no_group(void **state)
{
    (void)state;
    const char *said = "slabmalloc: option limit=cgroup: no control group is found; no limit\n";
    assert_child_warns(without_a_group, said);
    assert_child_warns(without_proc, said);
    assert_child_warns(with_no_such_limit,
                       "slabmalloc: option limit is neither cgroup nor none; no limit: cgroups\n");
}

/* -- what is done about it --------------------------------------------------------------------------------------- */

/* Nothing else has it go back. */
static void make_dirty(void)
{
    slm_settings.dirty_bytes = GIB;
    slm_settings.purge_delay_ms = 3600000;
    char *object = malloc(8 * MIB);
    require(object != NULL);
    free(memset(object, 1, 8 * MIB));
}

static void put_pressure(uint64_t total_us)
{
    char line[256];
    snprintf(line, sizeof line,
             "some avg10=0.00 avg60=0.00 avg300=0.00 total=%lu\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
             total_us);
    put(GROUP "memory.pressure", line);
}

/* A twentieth of ten seconds is half a second. */
static void give_back_when_it_stalls(void)
{
    begin_v2();
    put_pressure(1000000);
    start();
    make_dirty();
    put_pressure(1100000);
    require(!tick() && slm_span_dirty_bytes() >= 8 * MIB);
    put_pressure(2100000);
    require(tick() && slm_span_dirty_bytes() == 0);
    make_dirty();
    require(!tick() && slm_span_dirty_bytes() >= 8 * MIB);
}

static void give_back_above_the_soft_limit(void)
{
    begin_v2();
    start();
    char *object = malloc(8 * MIB);
    make_dirty();
    require(!tick());
    put(GROUP "memory.high", "1048576\n");
    require(tick() && slm_span_dirty_bytes() == 0);
    make_dirty(); /* nor is anything dirty from now on but a little */
    require(slm_span_dirty_bytes() < MIB);
    free(object);
}

/* Before a call is refused the group is asked once more. */
static void a_limit_that_has_been_raised(void)
{
    begin_v2();
    put(GROUP "memory.max", "16777216\n");
    start();
    put(GROUP "memory.max", "1073741824\n");
    char *object = malloc(100 * MIB);
    require(object != NULL);
    require_limits(GIB - SPARE, GIB - GIB / 10);
    free(object);
}

static void limits_have_effect(void **state)
{
    (void)state;
    assert_child_silent(give_back_when_it_stalls);
    assert_child_silent(give_back_above_the_soft_limit);
    assert_child_silent(a_limit_that_has_been_raised);
}

static int make_root(void **state)
{
    strcpy(root, "/tmp/slabmalloc-limits-XXXXXX");
    return mkdtemp(root) ? start_library(state) : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_follow_the_group),
        cmocka_unit_test(one_line_says_that_there_is_no_group),
        cmocka_unit_test(limits_have_effect),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
