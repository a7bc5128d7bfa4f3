/* What the bench programs share: a way to fail, a random number, the process's memory, a cycle counter.
 *
 * A bench program is plain C, knows nothing of slabmalloc and calls malloc by its libc name, so that whatever
 * LD_PRELOAD puts in front is what gets measured. Its own bookkeeping comes from mmap or static arrays and never
 * from the allocator under test. It prints one figure a line, "name value unit"; bench/suite reads these.
 *
 * All of bench/ is compiled with -fno-builtin: a compiler that knows malloc may drop a pair that nobody uses. */
#ifndef BENCH_H
#define BENCH_H

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

__attribute__((noreturn)) static inline void bench_end(const char *begin, const char *format, va_list arguments)
{
    fputs(begin, stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void bench_die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bench_end("bench: ", format, arguments);
}

/* For what this machine cannot do: the runner shows the reason and goes on. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void bench_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bench_end("skip: ", format, arguments);
}

/* Memory for the bench's own tables. */
static inline void *bench_pages(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED)
        bench_die("no %zu bytes for a table", bytes);
    return pages;
}

static inline void *bench_check(void *object)
{
    if (object == NULL)
        bench_die("the allocator returned NULL");
    return object;
}

static inline uint64_t bench_number(const char *text)
{
    char *end;
    uint64_t number = strtoull(text, &end, 10);
    if (end == text || *end != '\0')
        bench_die("not a number: %s", text);
    return number;
}

static inline double bench_decimal(const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !(number > 0 && number < 1e6))
        bench_die("not a number over 0 and under a million: %s", text);
    return number;
}

/* splitmix64: the state is any number, and every program's seed is fixed, so that runs repeat. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A size from `smallest` to below smallest << doublings; every doubling is as likely, so most are small. */
static inline size_t bench_size(uint64_t *random, size_t smallest, unsigned doublings)
{
    uint64_t draw = bench_random(random);
    size_t floor = smallest << (((draw & UINT32_MAX) * doublings) >> 32);
    return floor + (((draw >> 32) * floor) >> 32);
}

static inline int bench_compare(const void *first, const void *second)
{
    const double left = *(const double *)first, right = *(const double *)second;
    return (left > right) - (left < right);
}

/* Sorts the values, and returns the one in the middle. */
static inline double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof values[0], bench_compare);
    return values[count / 2];
}

static inline double bench_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Sleeps until a moment of CLOCK_MONOTONIC, in seconds. */
static inline void bench_sleep_until(double moment)
{
    struct timespec then = {(time_t)moment, (long)((moment - (double)(time_t)moment) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL) != 0)
        continue;
}

/* From here on the calling thread runs on one CPU of those it may use, number `ordinal` counted round and round. */
static inline void bench_pin(unsigned ordinal)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("cannot ask which CPUs there are");
    ordinal %= (unsigned)CPU_COUNT(&allowed);
    CPU_ZERO(&one);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && ordinal-- == 0)
            CPU_SET(cpu, &one);
    }
    sched_setaffinity(0, sizeof one, &one);
}

/* The time-stamp counter: cycles of the nominal frequency on x86, of a slower fixed clock on arm64. */
static inline uint64_t bench_cycles(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
#error "no cycle counter known for this machine"
#endif
}

/* Reads a file, as text, into `size` bytes that must be enough. */
static inline void bench_read(const char *path, char *text, size_t size)
{
    size_t length = 0;
    ssize_t got = -1;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        bench_die("cannot read %s", path);
    while (length < size && (got = read(file, text + length, size - length)) > 0)
        length += (size_t)got;
    if (got < 0 || length == size)
        bench_die("cannot read all of %s", path);
    close(file);
    text[length] = '\0';
}

/* A row of a /proc file such as "Rss:   1234 kB", in KiB. Read without stdio, whose buffers are objects too. */
static inline long bench_proc_kib(const char *path, const char *row)
{
    char text[4096];
    bench_read(path, text, sizeof text);
    for (char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, row, strlen(row)) == 0 && line[strlen(row)] == ':')
            return strtol(line + strlen(row) + 1, NULL, 10);
    }
    bench_die("no %s in %s", row, path);
}

static inline long bench_rss_kib(void)
{
    return bench_proc_kib("/proc/self/smaps_rollup", "Rss");
}

static inline long bench_anonymous_kib(void)
{
    return bench_proc_kib("/proc/self/smaps_rollup", "Anonymous");
}

/* Not getrusage's maxrss: that one remembers the process image before exec, the runner's own. */
static inline long bench_peak_rss_kib(void)
{
    return bench_proc_kib("/proc/self/status", "VmHWM");
}

/* Page faults of the process so far that needed no disk: what was given back and is taken again shows in them. */
static inline long bench_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static inline void bench_figure(const char *name, double value, const char *unit)
{
    printf("%s %.10g %s\n", name, value, unit);
}

/* How many objects the run has made and freed, which is no figure: bench/suite/locks.py counts locks a million. */
static inline void bench_objects(double count)
{
    printf("objects: %.0f\n", count);
}

/* A point of a series that the runner plots. */
static inline void bench_point(const char *series, double x, const char *x_unit, double y, const char *y_unit)
{
    printf("@%s %.10g %s %.10g %s\n", series, x, x_unit, y, y_unit);
}

#endif
