/* What the tests of Google Benchmark's C interface (bench/gbench.h) share.
 *
 * A case registers its benchmarks and runs gbench_main in a child of the test; what is judged is the child's exit
 * status, its standard error, and the JSON that it wrote. */
#pragma once

#include "unit.h"

#include "gbench.h"

enum { MOST_TEXT = 1 << 16 };

/* The case at hand: what it registers, its argument, what it wrote. */
static void (*register_all)(void);
static const char *word;
static int standard_output;
static char json[MOST_TEXT];

static inline void run_in_child(void)
{
    char *arguments[] = {"test", "--benchmark_format=json", (char *)word, NULL};
    dup2(standard_output, STDOUT_FILENO);
    register_all();
    exit(gbench_main(word != NULL ? 3 : 2, arguments));
}

/* Run a case, with a further argument or NULL; its JSON is in `json`. */
static inline struct outcome run_case(void (*registers)(void), const char *argument)
{
    register_all = registers;
    word = argument;
    standard_output = memfd_create("json", 0);
    const struct outcome outcome = in_child(run_in_child);
    const ssize_t length = pread(standard_output, json, sizeof json - 1, 0);
    json[length > 0 ? length : 0] = '\0';
    close(standard_output);
    return outcome;
}

static inline struct outcome run_well(void (*registers)(void))
{
    const struct outcome outcome = run_case(registers, NULL);
    if (outcome.status != 0)
        fail_msg("status %d, signal %d: %s", outcome.status, outcome.signal, outcome.said);
    return outcome;
}

/* What the JSON says of one run, up to the end of its braces; NULL if it says nothing. */
static inline const char *find_run(const char *name)
{
    static char found[4096];
    const char *start = strstr(json, text("\"name\": \"%s\"", name));
    if (start == NULL)
        return NULL;
    snprintf(found, sizeof found, "%.*s", (int)strcspn(start, "}"), start);
    return found;
}

static inline const char *row_of(const char *name, const char *key)
{
    const char *run = find_run(name);
    if (run == NULL)
        fail_msg("no run %s in %s", name, json);
    const char *row = strstr(run, text("\"%s\": ", key));
    if (row == NULL)
        fail_msg("no %s in %s", key, run);
    return row + strlen(key) + 4;
}

static inline void assert_number(const char *name, const char *key, double wanted)
{
    const double found = strtod(row_of(name, key), NULL), off = found - wanted;
    if (off * off > wanted * wanted * 1e-12)
        fail_msg("%s of %s is %g, not %g", key, name, found, wanted);
}

static inline void assert_text(const char *name, const char *key, const char *wanted)
{
    const char *found = row_of(name, key);
    if (strncmp(found, text("\"%s\"", wanted), strlen(wanted) + 2) != 0)
        fail_msg("%s of %s is not %s: %.40s", key, name, wanted, found);
}

static inline unsigned count_runs(void)
{
    unsigned count = 0;
    for (const char *at = json; (at = strstr(at, "\"name\": ")) != NULL; at++)
        count++;
    return count;
}
