/* Counts the sizes that a program asks its allocator for: LD_PRELOAD=librecord_sizes.so RECORD_SIZES=PREFIX PROGRAM.
 *
 * Stands in front of malloc, calloc, realloc and the aligned family, counts the bytes asked for and passes the call
 * on to the next malloc. operator new, strdup and their like come through these. Sizes up to 64 KiB are counted each
 * by itself; above, eight classes to each power of two, of which the mean size is told. A realloc counts as a call
 * for its new size, a realloc to 0 bytes as none.
 *
 * Each process that ends by exit() (also in a signal's handler) writes PREFIX.PID.csv: a comment line with its
 * program and its number of calls, then "bytes,count" a line. A forked child starts again at zero, so that no call is
 * told twice. What a process counted before it runs another program by exec is not told. bench/record.py puts these
 * files together; bench/sizes.h draws from the outcome.
 *
 * Counters are atomic but shared by all threads: this is for counting, never for timing. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

enum {
    EXACT_BITS = 16,
    EXACT = 1 << EXACT_BITS,
    CLASSES_A_DOUBLING = 8,
    CLASSES = (64 - EXACT_BITS) * CLASSES_A_DOUBLING
};

static _Atomic uint64_t exact[EXACT + 1]; /* calls for so many bytes */
static _Atomic uint64_t class_calls[CLASSES], class_bytes[CLASSES];

/* What comes next in the order of libraries; looked up at the first call, which may come before any constructor. */
static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*valloc)(size_t);
    void (*free)(void *);
} next;
static atomic_bool ready;

/* dlsym may itself ask for memory, while there is nobody to pass the call on to: that comes from here, and stays. */
static _Alignas(16) char early[1 << 14];
static size_t early_used;
static _Thread_local bool looking_up __attribute__((tls_model("initial-exec")));

static void *early_alloc(size_t bytes)
{
    const size_t rounded = (bytes + 15) & ~(size_t)15;
    if (rounded < bytes || rounded > sizeof early - early_used)
        return NULL;
    early_used += rounded;
    return early + early_used - rounded;
}

static bool is_early(const void *object)
{
    return (uintptr_t)object - (uintptr_t)early < sizeof early;
}

static void look_up(void)
{
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        {"malloc", &next.malloc},
        {"calloc", &next.calloc},
        {"realloc", &next.realloc},
        {"memalign", &next.memalign},
        {"aligned_alloc", &next.aligned_alloc},
        {"posix_memalign", &next.posix_memalign},
        {"valloc", &next.valloc},
        {"free", &next.free},
    };
    looking_up = true;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *found = dlsym(RTLD_NEXT, wanted[i].name);
        memcpy(wanted[i].function, &found, sizeof found);
    }
    looking_up = false;
    atomic_store(&ready, true);
}

/* Before each call; false while the next malloc is being looked up, by this thread. */
static bool is_ready(void)
{
    if (!atomic_load_explicit(&ready, memory_order_acquire) && !looking_up)
        look_up();
    return !looking_up;
}

/* Class 0 starts at 64 KiB: the power of two, then the three bits below the leading one. */
static unsigned class_of(size_t bytes)
{
    const unsigned bits = 63 - (unsigned)__builtin_clzl(bytes);
    return (bits - EXACT_BITS) * CLASSES_A_DOUBLING + (unsigned)(bytes >> (bits - 3) & 7);
}

static void count(size_t bytes)
{
    if (bytes <= EXACT) {
        atomic_fetch_add_explicit(&exact[bytes], 1, memory_order_relaxed);
        return;
    }
    atomic_fetch_add_explicit(&class_calls[class_of(bytes)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&class_bytes[class_of(bytes)], bytes, memory_order_relaxed);
}

EXPORTED void *malloc(size_t bytes)
{
    if (!is_ready())
        return early_alloc(bytes);
    count(bytes);
    return next.malloc(bytes);
}

EXPORTED void *calloc(size_t items, size_t bytes)
{
    if (!is_ready())
        return early_alloc(items * bytes);
    size_t whole;
    if (!__builtin_mul_overflow(items, bytes, &whole))
        count(whole);
    return next.calloc(items, bytes);
}

EXPORTED void *realloc(void *object, size_t bytes)
{
    if (!is_ready())
        return NULL;
    if (bytes > 0 || object == NULL)
        count(bytes);
    if (!is_early(object))
        return next.realloc(object, bytes);
    void *copy = next.malloc(bytes);
    const size_t held = (size_t)(early + sizeof early - (char *)object);
    return copy != NULL ? memcpy(copy, object, bytes < held ? bytes : held) : NULL;
}

EXPORTED void *memalign(size_t alignment, size_t bytes)
{
    is_ready();
    count(bytes);
    return next.memalign(alignment, bytes);
}

EXPORTED void *aligned_alloc(size_t alignment, size_t bytes)
{
    is_ready();
    count(bytes);
    return next.aligned_alloc(alignment, bytes);
}

EXPORTED int posix_memalign(void **object, size_t alignment, size_t bytes)
{
    is_ready();
    count(bytes);
    return next.posix_memalign(object, alignment, bytes);
}

EXPORTED void *valloc(size_t bytes)
{
    is_ready();
    count(bytes);
    return next.valloc(bytes);
}

EXPORTED void free(void *object)
{
    if (object != NULL && !is_early(object) && is_ready())
        next.free(object);
}

static void forget(void)
{
    for (unsigned i = 0; i <= EXACT; i++) {
        if (atomic_load_explicit(&exact[i], memory_order_relaxed) != 0)
            atomic_store_explicit(&exact[i], 0, memory_order_relaxed);
    }
    memset(class_calls, 0, sizeof class_calls);
    memset(class_bytes, 0, sizeof class_bytes);
}

/* Kept from the start: servers write over their arguments, where the name lies, to show in ps what they do, and make
 * environments of their own. */
static char program[64], prefix[PATH_MAX - 32];

__attribute__((constructor)) static void start(void)
{
    is_ready();
    const char *wanted = getenv("RECORD_SIZES");
    snprintf(prefix, sizeof prefix, "%s", wanted != NULL ? wanted : "");
    snprintf(program, sizeof program, "%s", program_invocation_short_name);
    pthread_atfork(NULL, NULL, forget);
}

static uint64_t read_counter(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* dprintf has its buffer on the stack: nothing here is counted, and stdio may have been shut down already. */
static void write_rows(int file)
{
    uint64_t calls = 0;
    for (unsigned i = 0; i <= EXACT; i++)
        calls += read_counter(&exact[i]);
    for (unsigned i = 0; i < CLASSES; i++)
        calls += read_counter(&class_calls[i]);
    dprintf(file, "# %s: %" PRIu64 " calls\n", program, calls);
    for (unsigned i = 0; i <= EXACT; i++) {
        if (read_counter(&exact[i]) != 0)
            dprintf(file, "%u,%" PRIu64 "\n", i, read_counter(&exact[i]));
    }
    for (unsigned i = 0; i < CLASSES; i++) {
        const uint64_t of_class = read_counter(&class_calls[i]);
        if (of_class != 0)
            dprintf(file, "%" PRIu64 ",%" PRIu64 "\n", read_counter(&class_bytes[i]) / of_class, of_class);
    }
}

__attribute__((destructor)) static void finish(void)
{
    char path[PATH_MAX];
    if (prefix[0] == '\0')
        return;
    snprintf(path, sizeof path, "%s.%d.csv", prefix, (int)getpid());
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) {
        dprintf(STDERR_FILENO, "record_sizes: cannot write %s: %s\n", path, strerror(errno));
        return;
    }
    write_rows(file);
    close(file);
}
