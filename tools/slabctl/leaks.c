/* `leaks`: call stacks whose live bytes only grow.
 *
 * Looks at equal distances, LOOKS of them. A stack is shown if its estimate is never less than before, and grew in
 * two of the distances at least. Caches that are still being filled grow as well, and what grows by less than a
 * sample in that time is not seen: so the answer says what was looked at, and claims no more. What tells a leak
 * from a buffer is that nothing of it is ever freed: how many of the samples of the first look are still live. */
#include "profile_commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stack_print.h"
#include "watch.h"

enum { KEY_SECONDS = 's', KEY_LINES = 'n', KEY_FULL = 'f' };
enum { LOOKS = 5, SECONDS_USUAL = 10, SECONDS_MOST = 7 * 86400, LINES_USUAL = 10, LINES_MOST = 1000000 };

static struct {
    uint64_t seconds, lines;
    bool full;
} choice = {SECONDS_USUAL, LINES_USUAL, false};

static error_t parse(int key, char *word, struct argp_state *argp)
{
    switch (key) {
    case KEY_SECONDS:
        if (!number_parse(word, SECONDS_MOST, &choice.seconds) || !choice.seconds)
            argp_error(argp, "%s: not a number of seconds, 1 to %d", word, SECONDS_MOST);
        return 0;
    case KEY_LINES:
        if (!number_parse(word, LINES_MOST, &choice.lines) || !choice.lines)
            argp_error(argp, "%s: not a number of stacks, 1 to %d", word, LINES_MOST);
        return 0;
    case KEY_FULL:
        choice.full = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"seconds", KEY_SECONDS, "N", 0, "Look for so long (default 10)", 0},
    {"lines", KEY_LINES, "N", 0, "Show N stacks (default 10)", 0},
    {"full", KEY_FULL, NULL, 0, "All frames of stacks, and whole names", 0},
    {0},
};
const struct argp leaks_argp = {.options = options, .parser = parse};

/* What was seen of a site. One that comes later had nothing before. */
struct history {
    double bytes[LOOKS];
    uint64_t first_samples, last_samples;
    uint64_t kept; /* samples of the first look that are live at the last one */
    uint64_t oldest_ns;
};

struct histories {
    struct history *list;
    size_t count;
    uint64_t started_ns; /* what is older was there at the first look */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void history_note(struct histories *histories, struct profile *profile, unsigned look)
{
    size_t count = profile_site_count(profile);
    histories->list = memory(histories->list, count, sizeof *histories->list);
    if (count > histories->count)
        memset(histories->list + histories->count, 0, (count - histories->count) * sizeof *histories->list);
    histories->count = count;
    for (size_t i = 0; i < count; i++) {
        struct history *history = &histories->list[i];
        const struct site *site = &profile->sites[i];
        history->bytes[look] = site->live.bytes;
        if (look == 0)
            history->first_samples = site->live.samples;
        history->last_samples = site->live.samples;
        history->oldest_ns = site->oldest_ns;
    }
}

/* The youngest sample of the first look tells, without another clock, which ones were there then. */
static uint64_t youngest(const struct samples *samples)
{
    uint64_t time_ns = 0;
    for (size_t i = 0; i < samples->count; i++)
        if (samples->samples[i].time_ns > time_ns)
            time_ns = samples->samples[i].time_ns;
    return time_ns;
}

static void kept_count(struct histories *histories, struct profile *profile)
{
    for (size_t i = 0; i < profile->samples.count; i++)
        if (profile->samples.samples[i].time_ns <= histories->started_ns) {
            uint32_t site = profile_site_of(profile, profile->samples.samples[i].stack);
            histories->list[site].kept++;
        }
}

static bool only_grows(const struct history *history)
{
    unsigned grown = 0;
    for (unsigned look = 1; look < LOOKS; look++) {
        if (history->bytes[look] < history->bytes[look - 1])
            return false;
        grown += history->bytes[look] > history->bytes[look - 1];
    }
    return grown >= 2;
}

static double growth(const struct history *history)
{
    return history->bytes[LOOKS - 1] - history->bytes[0];
}

static const struct histories *sorted;

static int order(const void *a, const void *b)
{
    double left = growth(&sorted->list[*(const size_t *)a]), right = growth(&sorted->list[*(const size_t *)b]);
    return (left < right) - (left > right);
}

static void row_print(struct profile *profile, const struct history *history, const struct site *site, double seconds,
                      uint64_t last_ns)
{
    double age = history->oldest_ns < last_ns ? (double)(last_ns - history->oldest_ns) / 1e9 : 0;
    struct stack_style style = {4, terminal_width(), choice.full};
    printf("\n%s/s: from %s to %s; ", amount_of_estimate(growth(history) / seconds).text,
           amount_of_estimate(history->bytes[0]).text, amount_of_estimate(history->bytes[LOOKS - 1]).text);
    printf("%ju samples, %ju of them new; ", (uintmax_t)history->last_samples,
           (uintmax_t)(history->last_samples -
                       (history->kept < history->last_samples ? history->kept : history->last_samples)));
    if (history->first_samples)
        printf("of the first look's %ju, %ju are still live; ", (uintmax_t)history->first_samples,
               (uintmax_t)history->kept);
    printf("the oldest is %.0f s old\n    ", age);
    stack_print(profile, site, &style);
}

static void answer_print(struct profile *profile, const struct histories *histories, double seconds, double total,
                         uint64_t last_ns)
{
    size_t count = 0, *grown = memory(NULL, histories->count, sizeof *grown);
    for (size_t i = 0; i < histories->count; i++)
        if (only_grows(&histories->list[i]))
            grown[count++] = i;
    sorted = histories;
    if (count)
        qsort(grown, count, sizeof *grown, order);
    printf("%d looks in %.1f s: live bytes went from %s to %s.\n", LOOKS, seconds, amount_of_estimate(total).text,
           amount_of_estimate(profile->live.bytes).text);
    if (count)
        printf("%zu call %s only grew. That is no proof of a leak: caches fill up, too.\n", count,
               count == 1 ? "stack has live bytes that" : "stacks have live bytes that");
    else
        puts("No call stack has live bytes that only grew.");
    for (size_t i = 0; i < count && i < choice.lines; i++)
        row_print(profile, &histories->list[grown[i]], &profile->sites[grown[i]], seconds, last_ns);
    if (count > choice.lines)
        printf("(%zu more)\n", count - (size_t)choice.lines);
    printf("\nWhat grows by less than %s/s is mostly not seen in this time: a longer --seconds shows it.\n",
           amount_of_estimate(2 * profile_mean(profile) / seconds).text);
    free(grown);
}

void leaks_run(const struct request *request)
{
    if (target_is_core(request->target))
        fail("%s: a core dump does not grow; look into a process", target_name(request->target));
    struct profile *profile = profile_open(request->target);
    struct histories histories = {0};
    double total = 0;
    uint64_t start = now_ns(), step = choice.seconds * 1000000000 / (LOOKS - 1), last = start;
    for (unsigned look = 0; look < LOOKS; look++) {
        uint64_t due = start + look * step;
        struct timespec until = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
        watch_pause();
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
            ;
        watch_resume();
        last = now_ns();
        profile_look(profile, false);
        if (look == 0) {
            start = last;
            total = profile->live.bytes;
            histories.started_ns = youngest(&profile->samples);
        }
        history_note(&histories, profile, look);
    }
    kept_count(&histories, profile);
    answer_print(profile, &histories, (double)(last - start) / 1e9, total, last);
    struct notes notes;
    profile_notes(profile, &notes);
    for (unsigned i = 0; i < notes.count; i++)
        printf("note: %s\n", notes.text[i]);
    profile_short_say(profile);
    free(histories.list);
    profile_close(profile);
}
