/* The commands that go through the mailbox: each asks, and prints what happened. */
#include "command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <slabmalloc.h>

#include "amount.h"
#include "figures.h"
#include "mailbox.h"
#include "process.h"

/* For words that make no sense: as argp ends the tool, but in one line. */
static _Noreturn void usage_fail(const char *what, const char *word)
{
    complain("%s: %s (--help says more)", word[0] ? word : "(empty)", what);
    exit(EXIT_USAGE);
}

/* An empty word is a variable of a script that was not set: it would be a command of another kind, for all caches. */
static void text_set(struct slm_command *command, const char *word)
{
    if (!word[0])
        usage_fail("not a name", word);
    if (strlen(word) >= sizeof command->text)
        usage_fail("too long", word);
    memcpy(command->text, word, strlen(word) + 1);
}

/* The answer, or the end. What was asked for is told in the line about an error: a cache's name, say. */
static void ask(const struct request *request, struct slm_command *command, struct slm_answer *answer, void *data,
                size_t *bytes)
{
    struct problem problem;
    if (!mailbox_ask(request->target, command, answer, data, bytes, request->timeout_ms, &problem))
        fail("%s", problem.text);
    answer->text[sizeof answer->text - 1] = '\0';
    if (!answer->error)
        return;
    const char *name = target_name(request->target), *text = command->text;
    if (answer->text[0])
        fail("%s: %s", name, answer->text);
    if (answer->error == ENOENT && text[0])
        fail("%s: %s: there is no such %s", name, text, command->what == SLM_COMMAND_OPTION ? "option" : "cache");
    if (answer->error == EPERM)
        fail("%s: %s: cannot change while the process runs", name, text);
    if (answer->error == ENOSYS)
        fail("%s: its library does not know this command", name);
    fail("%s: %s%s%s", name, text, text[0] ? ": " : "", strerror(answer->error));
}

/* A cache's name, and how many have it if it is not one. An older library says 0. */
static void cache_print(const struct request *request, const struct slm_answer *answer)
{
    printf("%s", printable(request->words[0]));
    if (answer->number[1] > 1)
        printf(" (%" PRIu64 " caches)", answer->number[1]);
}

static void stats_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_STATS};
    struct slm_answer answer;
    slab_stats stats;
    size_t bytes = sizeof stats;
    ask(request, &command, &answer, &stats, &bytes);
    struct process_stat stat;
    struct problem problem;
    char version[sizeof target_inspect(request->target)->library_version + 1] = {0};
    if (process_stat_read(target_pid(request->target), &stat, &problem))
        printf("%-24s %12s\n", "program", printable(stat.program));
    memcpy(version, target_inspect(request->target)->library_version, sizeof version - 1);
    printf("%-24s %12s\n", "slabmalloc", printable(version));
    if (target_copies(request->target) > 1)
        printf("%-24s %12u\n", "copies of the library", target_copies(request->target));
    printf("%-24s %12s\n", amount_exact ? "resident_bytes" : "resident",
           amount_of(process_resident(target_pid(request->target))).text);
    figures_print(&stats, bytes);
}

static void purge_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_PURGE};
    struct slm_answer answer;
    uint64_t before = process_resident(target_pid(request->target));
    ask(request, &command, &answer, NULL, NULL);
    uint64_t after = process_resident(target_pid(request->target));
    printf("purged %s; RSS %s -> %s\n", amount_of(answer.number[0]).text, amount_of(before).text,
           amount_of(after).text);
}

static const char *limit_text(uint64_t bytes, struct amount *amount)
{
    *amount = amount_of(bytes);
    return bytes ? amount->text : "none";
}

static void limit_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_LIMIT};
    struct slm_answer answer;
    struct amount now, before;
    if (strcmp(request->words[0], "none") != 0 && !amount_parse(request->words[0], &command.number[0]))
        usage_fail("not a number of bytes, as in 512M; 0: no limit", request->words[0]);
    ask(request, &command, &answer, NULL, NULL);
    printf("limit %s; it was %s\n", limit_text(command.number[0], &now), limit_text(answer.number[0], &before));
}

static void shrink_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_SHRINK};
    struct slm_answer answer;
    if (request->count)
        text_set(&command, request->words[0]);
    ask(request, &command, &answer, NULL, NULL);
    if (request->count)
        cache_print(request, &answer);
    else
        printf("all caches");
    printf(": slabs of %s were given back\n", amount_of(answer.number[0]).text);
}

static void tune_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_TUNE};
    struct slm_answer answer;
    text_set(&command, request->words[0]);
    for (int i = 1; i < request->count; i++)
        if (!number_parse(request->words[i], UINT32_MAX, &command.number[i - 1]))
            usage_fail("not a number up to 4294967295; 0: automatic", request->words[i]);
    ask(request, &command, &answer, NULL, NULL);
    cache_print(request, &answer);
    if (command.number[0])
        printf(": magazines of %" PRIu64 " rounds", command.number[0]);
    else
        printf(": magazines of as many rounds as it finds good");
    if (command.number[1])
        printf(", of which a depot keeps %" PRIu64 "\n", command.number[1]);
    else
        printf(", of which a depot keeps as many as it finds good\n");
}

static void option_run(const struct request *request)
{
    struct slm_command command = {.what = SLM_COMMAND_OPTION};
    struct slm_answer answer;
    text_set(&command, request->words[0]);
    ask(request, &command, &answer, NULL, NULL);
    puts(printable(answer.text));
}

/* The answers for all caches come in parts. A process that is hostile may say that there are ever more. */
static void caches_run(const struct request *request)
{
    enum { PART = 4096, PARTS_MOST = 256 };
    struct slm_command_cache *caches = NULL;
    size_t count = 0;
    for (unsigned part = 0; part < PARTS_MOST; part++) {
        struct slm_command command = {.what = SLM_COMMAND_CACHES, .number = {count}};
        struct slm_answer answer;
        caches = memory(caches, count + PART, sizeof *caches);
        size_t bytes = PART * sizeof *caches;
        ask(request, &command, &answer, caches + count, &bytes);
        count += bytes / sizeof *caches;
        if (bytes < sizeof *caches || bytes / sizeof *caches >= answer.number[0])
            break;
    }
    caches_print(caches, count);
    free(caches);
}

const struct command mailbox_commands[] = {
    {"stats", "", 0, 0, "Print the process's figures: slab_stats of slabmalloc.h.", stats_run, NULL, NULL},
    {"caches", "", 0, 0, "Print a table of all caches, the largest first.", caches_run, NULL, NULL},
    {"purge", "", 0, 0, "Give all that is free back to the kernel.", purge_run, NULL, NULL},
    {"limit", "BYTES", 1, 1, "Set the most memory that the library may have; 0: no limit.", limit_run, NULL, NULL},
    {"shrink", "[CACHE]", 0, 1, "Give back what a cache, or all, does not need.", shrink_run, NULL, NULL},
    {"tune", "CACHE ROUNDS [MAGAZINES]", 2, 3, "Set the rounds of its magazines, and how many a depot keeps.",
     tune_run, NULL, NULL},
    {"option", "NAME[=VALUE]", 1, 1, "Show an option of the library, or set one.", option_run, NULL, NULL},
    {0},
};
