/* Objects with guards (guard=1): accesses beside them, and to freed ones, end the process at once; what is written
 * into the rest of their pages is seen when they are freed; and a misuse of them says where they come from.
 *
 * The object's size, or its cache, is in the row, and who commits the misuse: the thread that has made the
 * object, another one, or the child of a fork. */
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <slabmalloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rows.h"

static const char options[] = "guard=1,sample_bytes=1";

static const char *const owners[] = {"self", "thread", "child", NULL};
static const char *const origins[] = {"malloc", "calloc", "memalign", "cache", "bulk", NULL};
static const char *const accesses[] = {"read_behind", "write_behind", "read_before", "write_before",
                                       "read_freed",  "write_freed",  NULL};
static const char *const calls[] = {"written_behind",  "written_before", "double_free", "interior", "realloc_freed",
                                    "usable_of_freed", "deferred_freed", "other_cache", NULL};

static volatile char sink;

static bool is_of_cache(const struct misuse_case *row)
{
    return strcmp(row->object, "cache") == 0 || strcmp(row->object, "bulk") == 0;
}

static slab_cache *cache_of(const struct misuse_case *row)
{
    static slab_cache *cache;
    if (!cache)
        cache = slab_cache_create("guarded", row->size, NULL);
    return cache;
}

static char *make(const struct misuse_case *row)
{
    void *object = NULL;
    if (strcmp(row->object, "malloc") == 0)
        object = malloc(row->size);
    else if (strcmp(row->object, "calloc") == 0)
        object = calloc(1, row->size);
    else if (strcmp(row->object, "memalign") == 0)
        object = memalign(64, row->size);
    else if (strcmp(row->object, "cache") == 0)
        object = slab_cache_alloc(cache_of(row));
    else
        slab_cache_alloc_bulk(cache_of(row), 1, &object);
    return hidden(object);
}

static void let_go(const struct misuse_case *row, void *object)
{
    if (is_of_cache(row))
        slab_cache_free(cache_of(row), hidden(object));
    else
        free(hidden(object));
}

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* "A write 3 bytes behind an object of 40 bytes". */
static void announce_access(const struct misuse_case *row, const char *object, const char *at)
{
    const size_t usable = malloc_usable_size((void *)(uintptr_t)object);
    const char *end = object + usable;
    const bool before = at < object, behind = at >= end, is_freed = strstr(row->kind, "freed");
    const size_t distance = (size_t)(before ? object - at : at - (behind ? end : object));
#ifdef __x86_64__
    const char *access = strncmp(row->kind, "write", 5) == 0 ? "a write" : "a read";
#else
    const char *access = "an access";
#endif
    char size[32];
    snprintf(size, sizeof size, "%zu bytes", usable);
    dprintf(STDOUT_FILENO, "slabmalloc: %s %zu bytes %s %s of %s at 0x%" PRIxPTR " (thread %d)\n", access, distance,
            before   ? "before"
            : behind ? "behind"
                     : "into",
            is_freed ? "a freed object" : "an object", is_of_cache(row) ? "cache guarded" : size, (uintptr_t)object,
            (int)gettid());
}

static void touch(const struct misuse_case *row, char *object)
{
    char *at = object + row->size / 2;
    const uintptr_t end = (uintptr_t)object + malloc_usable_size(object);
    if (strstr(row->kind, "behind"))
        at = (char *)((end + page() - 1) & ~(page() - 1));
    else if (strstr(row->kind, "before"))
        at = (char *)((uintptr_t)object & ~(page() - 1)) - 1;
    announce_access(row, object, at);
    if (strstr(row->kind, "freed"))
        let_go(row, object);
    at = hidden(at);
    if (strncmp(row->kind, "write", 5) == 0)
        *(volatile char *)at = 1;
    else
        sink = *(volatile char *)at;
}

/* Small objects have a size that is a multiple of their alignment. */
static size_t asked(const struct misuse_case *row)
{
    const bool rounded = strcmp(row->object, "memalign") == 0 && row->size <= 32768;
    return rounded ? (row->size + 63) & ~(size_t)63 : row->size;
}

static void announce_call(const struct misuse_case *row, const char *call, const void *pointer, const char *what)
{
    if (is_of_cache(row))
        announce_of_cache(call, pointer, what, "guarded");
    else
        announce_of_size(call, pointer, what, asked(row));
}

static void misuse_call(const struct misuse_case *row, char *object)
{
    const char *frees = is_of_cache(row) ? "slab_cache_free" : "free";
    if (is_kind(row, "written_behind")) {
        announce_call(row, frees, object, "something was written behind the end of an object");
        object[row->size]++;
        let_go(row, object);
    } else if (is_kind(row, "written_before")) {
        announce_call(row, frees, object, "something was written before the start of an object");
        object[-1]++;
        let_go(row, object);
    } else if (is_kind(row, "interior")) {
        announce_call(row, frees, object + 8, "not the start of an object");
        let_go(row, object + 8);
    } else if (is_kind(row, "double_free")) {
        announce_call(row, frees, object, "double free of an object");
        let_go(row, object);
        let_go(row, object);
    } else if (is_kind(row, "realloc_freed")) {
        announce_call(row, "realloc", object, "use of a freed object");
        let_go(row, object);
        object = realloc(hidden(object), 2 * row->size);
    } else if (is_kind(row, "usable_of_freed")) {
        announce_call(row, "malloc_usable_size", object, "use of a freed object");
        let_go(row, object);
        printf("%zu\n", malloc_usable_size(hidden(object)));
    } else if (is_kind(row, "deferred_freed")) {
        announce_call(row, "slab_free_deferred", object, "double free of an object");
        let_go(row, object);
        slab_free_deferred(hidden(object));
    } else {
        slab_cache *other = slab_cache_create("other", row->size + 64, NULL);
        announce("slab_cache_free", object, "an object of cache guarded given to cache other");
        slab_cache_free(other, hidden(object));
    }
}

struct deed {
    const struct misuse_case *row;
    char *object;
};

static void *commit_deed(void *context)
{
    const struct deed *deed = context;
    if (deed->row->faults)
        touch(deed->row, deed->object);
    else
        misuse_call(deed->row, deed->object);
    return NULL;
}

/* The parent ends as its child has. */
static void commit_in_child(struct deed *deed)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0)
        commit_deed(deed);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
}

static void commit(const struct misuse_case *row)
{
    struct deed deed = {row, make(row)};
    pthread_t thread;
    memset(deed.object, 1, row->size);
    if (strcmp(row->who, "self") == 0)
        commit_deed(&deed);
    else if (strcmp(row->who, "child") == 0)
        commit_in_child(&deed);
    else if (pthread_create(&thread, NULL, commit_deed, &deed) == 0)
        pthread_join(thread, NULL);
}

/* In the rest of a page there are bytes that nobody has asked for. */
static bool applies(const char *kind, const char *origin, size_t size)
{
    const bool of_cache = strcmp(origin, "cache") == 0 || strcmp(origin, "bulk") == 0;
    if (strcmp(kind, "written_behind") == 0)
        return size % 16 != 0 && !of_cache && strcmp(origin, "memalign") != 0;
    if (strcmp(kind, "written_before") == 0)
        return size % 4096 != 0;
    return strcmp(kind, "other_cache") != 0 || of_cache;
}

void add_rows_of_guarded(void)
{
    static const size_t sizes[] = {24, 40, 1000, 4096, 20000, 100000}; /* each is sure to be sampled */
    FOR_EACH_WORD(origin, origins)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const char *who = owners[i % 3];
            struct misuse_case row = {
                .commit = commit, .object = origin, .size = sizes[i], .who = who, .stacks = true, .options = options};
            FOR_EACH_WORD(access, accesses)
            {
                row.kind = access;
                row.faults = true;
                add_row(row, "guarded-%s-%zu-%s-%s", origin, sizes[i], access, who);
            }
            FOR_EACH_WORD(call, calls)
            {
                row.kind = call;
                row.faults = false;
                if (applies(call, origin, sizes[i]))
                    add_row(row, "guarded-%s-%zu-%s-%s", origin, sizes[i], call, who);
            }
        }
    }
}
