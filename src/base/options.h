/* The one table of options, and SLABMALLOC_OPTIONS="name=value,name=value" that sets them.
 *
 * An option is one row here. Its field, its default, its line in the help, the message for a bad value and its tests
 * follow from the row, and README's table is the help. A mistake causes a one-line warning and changes nothing.
 * Set-user-ID programs ignore the environment (secure_getenv). Options are read once, by a constructor; earlier code
 * sees the defaults.
 *
 * Some numbers may change while the process runs, when its operator asks for that (inspect/commands.c). They are
 * apart from the others, which are sealed after start (slm_once). */
#pragma once

#include "base/atomic.h"

/* NUMBER(builds, name, default, least, most, example, sentence), TEXT(builds, name, size, example, sentence), and as
 * NUMBER a SETTING, which may change after start. `builds`: those that have it, EVERY, CHECKED or BENCH. `size`: in
 * bytes, with the NUL. */
#define SLM_OPTIONS(NUMBER, SETTING, TEXT)                                                                           \
    SETTING(EVERY, magazine_bytes, 64 << 10, 256, 16 << 20, "64K",                                                   \
            "The most bytes of objects that a thread takes from a depot, or gives to it, at once; of large ones up " \
            "to eight.")                                                                                             \
    SETTING(EVERY, thread_bytes, 1 << 20, 4 << 10, 1 << 30, "1M",                                                    \
            "The most bytes of objects that the magazines of one thread may hold.")                                  \
    SETTING(EVERY, depot_bytes, 1 << 30, 0, 1ull << 40, "64M",                                                       \
            "The most bytes of free objects that all depots keep in full magazines.")                                \
    SETTING(EVERY, purge_delay_ms, 500, 0, 3600000, "500",                                                           \
            "Freed pages that nobody needed for this many milliseconds go back to the kernel.")                      \
    SETTING(                                                                                                         \
        EVERY, dirty_bytes, 4 << 20, 0, 1ull << 40, "32M",                                                           \
        "When use falls by more than this and a quarter to a half of what is left, freed pages go back at once.")    \
    SETTING(EVERY, limit_bytes, 0, 0, 1ull << 43, "1G",                                                              \
            "The most memory that the library has from the kernel; malloc returns NULL beyond; 0: no limit.")        \
    SETTING(EVERY, soft_limit_bytes, 0, 0, 1ull << 43, "800M",                                                       \
            "Above this much memory whatever is free goes back at once; 0: no such limit.")                          \
    TEXT(EVERY, limit, 16, "cgroup", "cgroup takes the limits from the process's control group, as they change.")    \
    TEXT(EVERY, thp, 8, "off",                                                                                       \
         "auto, on or off: dense memory has huge pages from 256 MiB in use on, or at once, or never; none: auto.")   \
    SETTING(EVERY, deferred_max_delay_ms, 100, 10, 3600000, "100",                                                   \
            "Retired objects wait no longer than this in a magazine that does not fill up.")                         \
    NUMBER(EVERY, deferred_max_bytes, 0, 0, 1ull << 40, "256M",                                                      \
           "The most bytes of retired objects that wait for a grace period; 0: a sixteenth of the heap, at least 8 " \
           "MiB.")                                                                                                   \
    SETTING(EVERY, epoch_stall_ms, 10000, 0, 3600000, "10000",                                                       \
            "Threads that stay in an epoch section longer while others wait are named on standard error; 0: never.") \
    NUMBER(EVERY, worker, 1, 0, 1, "1",                                                                              \
           "A worker thread gives memory back in multithreaded processes that have gone idle.")                      \
    NUMBER(EVERY, check_sizes, 1, 0, 1, "0",                                                                         \
           "Sized delete and free_sized with a size that is not the object's end the process; 0: they free it.")     \
    SETTING(EVERY, sample_bytes, 2 << 20, 0, 64 << 20, "512K",                                                       \
            "One allocation in so many bytes, on average, is sampled: slabctl shows what holds memory; 0: none.")    \
    NUMBER(                                                                                                          \
        EVERY, guard, 0, 0, 1, "1",                                                                                  \
        "Sampled objects lie beside inaccessible pages, and are inaccessible once freed: misuse crashes at once.")   \
    NUMBER(EVERY, percpu_cid, 0, 0, 1, "1",                                                                          \
           "Per-CPU copies go by the kernel's concurrency ids, where it has them, instead of CPUs: few threads use " \
           "few.")                                                                                                   \
    NUMBER(EVERY, clear_deepbind, 1, 0, 1, "0",                                                                      \
           "dlopen ignores RTLD_DEEPBIND, so that plug-ins use this malloc, too; 0: it does not.")                   \
    SETTING(EVERY, stats, 0, 0, 1, "1", "Print figures on standard error when the process exits.")                   \
    TEXT(EVERY, stats_file, 128, "/tmp/figures",                                                                     \
         "Append the figures to this file when the process exits, one line of JSON for each process.")               \
    TEXT(EVERY, profile_file, 128, "/tmp/heap",                                                                      \
         "At exit write a profile, which slabctl --core reads, to a file of this name with a dot and the PID.")      \
    NUMBER(EVERY, profile_signal, 0, 0, 64, "10",                                                                    \
           "Write that profile on this signal, too, if the program leaves the signal alone; 0: on none.")            \
    TEXT(CHECKED, topology, 16, "2x2", "Simulate NODESxCPUS; 2x2/9: threads move at each 9th look.")                 \
    NUMBER(CHECKED, refuse_blocks, 0, 0, 1, "1", "There is no memory for magazines of retired objects.")             \
    TEXT(BENCH, grow, 16, "locked", "locked makes slabs under the depot's lock, lockless does not.")                 \
    NUMBER(EVERY, help, 0, 0, 1, "1", "Print this table on standard error at start.")

/* The option `name` in a struct, or nothing there. */
#define SLM_NUMBER_FIELD(builds, name, standard, least, most, example, sentence) uint64_t name;
#define SLM_SETTING_FIELD(builds, name, standard, least, most, example, sentence) _Atomic uint64_t name;
#define SLM_TEXT_FIELD(builds, name, size, example, sentence) char name[size];
#define SLM_NO_NUMBER(builds, name, standard, least, most, example, sentence)
#define SLM_NO_TEXT(builds, name, size, example, sentence)
struct slm_options {
    SLM_OPTIONS(SLM_NUMBER_FIELD, SLM_NO_NUMBER, SLM_TEXT_FIELD)
};
struct slm_settings {
    SLM_OPTIONS(SLM_NO_NUMBER, SLM_SETTING_FIELD, SLM_NO_TEXT)
};
#undef SLM_NUMBER_FIELD
#undef SLM_SETTING_FIELD
#undef SLM_TEXT_FIELD

extern slm_hidden struct slm_options slm_options;
extern slm_hidden struct slm_settings slm_settings;

/* What a setting is now; who reads it again later may see another value. */
#define slm_setting(name) load_relaxed(&slm_settings.name)

/* Set options from `text` (may be NULL), or from the environment if it can be trusted. Not thread-safe. */
void slm_options_parse(const char *text);
void slm_options_read(void);

/* After start, any thread: "NAME" reads an option, "NAME=VALUE" changes a setting. 0, and the text becomes NAME=VALUE
 * as it is then, cut off where `size` ends; or an errno code, and the text says what is wrong, if there is more to
 * say: ENOENT there is no such option, EPERM it cannot change, EINVAL it cannot have that value. */
int slm_options_command(char *text, size_t size);

/* Write the options that this build has to a descriptor, as rows of a Markdown table. */
void slm_options_help(int descriptor);
