/* A program that has a part of malloc's family of its own, and leaves the rest to whoever else has it. OWN says what
 * it has; that is built on what lies behind:
 *
 *     nothing else said   __libc_malloc and its kin
 *     OWN_ON_NEXT         what dlsym(RTLD_NEXT) finds
 *     OWN_ON_WRAP         what the linker calls __real_malloc (--wrap)
 *     OWN_HEAP            nothing: a heap of its own, which must have malloc, calloc, realloc and free
 *
 * Any object may go to any call, but for a heap's, which only those take that call others. Libc's functions use what
 * the program has.
 *
 * Written in: glibc's manual, "Replacing malloc"; glibc exports __libc_malloc and so on; C23 (free_sized is free). */
#include "common.h"

#define OWN_MALLOC 1
#define OWN_CALLOC 2
#define OWN_REALLOC 4
#define OWN_FREE 8
#define OWN_ALL 15

static _Atomic unsigned calls; /* of the program's */

/* -- what lies behind -------------------------------------------------------------------------------------------- */

#ifdef OWN_HEAP
enum { HEAD = 16, MAGIC = 0x600d };

static char heap[1 << 26] __attribute__((aligned(16)));
static size_t heap_used;

/* In front of an object: its size, and what tells that it is one. */
static size_t *head_of(void *object)
{
    char *start = opaque(object);
    size_t *head = (size_t *)(void *)(start - HEAD);
    if (start < heap || start >= heap + sizeof heap || head[1] != MAGIC)
        abort();
    return head;
}

static void *behind_malloc(size_t size)
{
    if (size > sizeof heap)
        return NULL;
    const size_t bytes = HEAD + ((size + 15) & ~(size_t)15),
                 at = __atomic_fetch_add(&heap_used, bytes, __ATOMIC_RELAXED);
    size_t *head = (size_t *)(void *)(heap + at);
    if (at + bytes > sizeof heap)
        return NULL;
    head[0] = size;
    head[1] = MAGIC;
    return head + HEAD / sizeof *head;
}

static void *behind_calloc(size_t count, size_t size)
{
    return behind_malloc(count * size); /* nothing is used twice */
}

static void behind_free(void *object)
{
    if (object != NULL)
        head_of(object)[1] = 0;
}

static void *behind_realloc(void *object, size_t size)
{
    void *moved = behind_malloc(size);
    if (object != NULL && moved != NULL) {
        memcpy(moved, object, size < *head_of(object) ? size : *head_of(object));
        behind_free(object);
    }
    return moved;
}
#define BEHIND(name) behind_##name
#define MINE(name) name
#elif defined(OWN_ON_NEXT)
static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    return found;
}
#define BEHIND(name) (*(__typeof__(&name))next(#name))
#define MINE(name) name
#else
#ifdef OWN_ON_WRAP
#define BEHIND(name) __real_##name
#define MINE(name) __wrap_##name
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *object, size_t size);
void __wrap_free(void *object);
#else
#define BEHIND(name) __libc_##name
#define MINE(name) name
#endif
extern void *BEHIND(malloc)(size_t size);
extern void *BEHIND(calloc)(size_t count, size_t size);
extern void *BEHIND(realloc)(void *object, size_t size);
extern void BEHIND(free)(void *object);
#endif

/* -- what the program has ---------------------------------------------------------------------------------------- */

#if OWN & OWN_MALLOC
void *MINE(malloc)(size_t size)
{
    calls++;
    return BEHIND(malloc)(size);
}
#endif

#if OWN & OWN_CALLOC
void *MINE(calloc)(size_t count, size_t size)
{
    calls++;
    return BEHIND(calloc)(count, size);
}
#endif

#if OWN & OWN_REALLOC
void *MINE(realloc)(void *object, size_t size)
{
    calls++;
    return BEHIND(realloc)(object, size);
}
#endif

#if OWN & OWN_FREE
void MINE(free)(void *object)
{
    calls++;
    BEHIND(free)(object);
}
#endif

/* -- calls that give --------------------------------------------------------------------------------------------- */

static void *by_malloc(size_t size)
{
    return malloc(size);
}

static void *by_calloc(size_t size)
{
    return calloc(3, size);
}

static void *by_realloc(size_t size)
{
    return realloc(NULL, size);
}

static void *by_reallocarray(size_t size)
{
    return reallocarray(NULL, size, 2);
}

static void *by_printf(size_t size)
{
    char *text = NULL;
    require(asprintf(&text, "%*d", (int)size, 1) >= 0);
    return text;
}

static void *by_strdup(size_t size)
{
    char text[64 * KIB]; /* of the thread's own */
    require(size < sizeof text);
    memset(text, 'x', size);
    text[size] = '\0';
    return strdup(text);
}

static void *by_getline(size_t size)
{
    char *line = NULL;
    size_t room = 0;
    FILE *file = tmpfile();
    require(file != NULL && fprintf(file, "%*d\n", (int)size, 1) > 0);
    rewind(file);
    require(getline(&line, &room, file) > 0);
    fclose(file);
    return line;
}

#ifndef OWN_HEAP
extern void *__libc_memalign(size_t alignment, size_t size);

static void *by_libc_memalign(size_t size)
{
    return __libc_memalign(64, size);
}

static void *by_posix_memalign(size_t size)
{
    void *object = NULL;
    require(posix_memalign(&object, 64, size) == 0);
    return object;
}

static void *by_aligned_alloc(size_t size)
{
    return aligned_alloc(256, (size + 255) & ~(size_t)255);
}

static void *by_memalign(size_t size)
{
    return memalign(4096, size);
}

static void *by_pvalloc(size_t size)
{
    return pvalloc(size);
}
#endif

static void *(*const givers[])(size_t size) = {
    by_malloc,        by_calloc,         by_realloc,       by_reallocarray, by_printf, by_strdup,  by_getline,
#ifndef OWN_HEAP
    by_libc_memalign, by_posix_memalign, by_aligned_alloc, by_memalign,     valloc,    by_pvalloc,
#endif
};

/* -- calls that take --------------------------------------------------------------------------------------------- */

static void to_free(void *object, size_t size)
{
    (void)size;
    free(object);
}

static void to_realloc(void *object, size_t size)
{
    free(memset(realloc(object, 2 * size + 100), 2, 2 * size + 100));
}

static void to_less(void *object, size_t size)
{
    free(realloc(object, size / 3 + 1));
}

static void to_reallocarray(void *object, size_t size)
{
    free(memset(reallocarray(object, size + 1, 3), 2, 3 * size + 3));
}

static void to_cfree(void *object, size_t size)
{
    (void)size;
    (on_glibc() || cfree == NULL ? free : cfree)(object); /* glibc's, for old programs, is its own free */
}

static void to_free_sized(void *object, size_t size)
{
    if (free_sized != NULL)
        free_sized(object, size);
    else
        free(object);
}

static void to_free_aligned_sized(void *object, size_t size)
{
    if (free_aligned_sized != NULL)
        free_aligned_sized(object, 8, size);
    else
        free(object);
}

#ifndef OWN_HEAP
static void to_usable_size(void *object, size_t size)
{
    require(malloc_usable_size(object) >= size);
    free(object);
}
#endif

static void (*const takers[])(void *object, size_t size) = {
    to_free,        to_realloc, to_less, to_reallocarray, to_cfree, to_free_sized, to_free_aligned_sized,
#ifndef OWN_HEAP
    to_usable_size,
#endif
};

/* -- tests ------------------------------------------------------------------------------------------------------- */

static void exchange(void)
{
    static const size_t sizes[] = {1, 24, 100, 1000, 5000, 40000};
    for (size_t giver = 0; giver < COUNT(givers); giver++)
        for (size_t taker = 0; taker < COUNT(takers); taker++)
            for (size_t i = 0; i < COUNT(sizes); i++) {
                void *object = givers[giver](sizes[i]);
                require(object != NULL);
                memset(object, 1, sizes[i]);
                takers[taker](object, sizes[i]);
            }
}

static void role_exchange(const char *argument)
{
    (void)argument;
    exchange();
}

static void *exchange_in_thread(void *argument)
{
    exchange();
    return argument;
}

static void role_threads(const char *argument)
{
    pthread_t threads[2];
    (void)argument;
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, exchange_in_thread, NULL) == 0);
    pid_t child = fork();
    if (child == 0) {
        exchange();
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

/* The program's are called, by libc and by those of the family that are others in disguise. */
static void role_calls(const char *argument)
{
    (void)argument;
#ifndef OWN_ON_WRAP
    unsigned before = calls;
    void *object = by_strdup(100);
    require(!(OWN & OWN_MALLOC) || calls > before);
    before = calls;
    object = reallocarray(object, 100, 100);
    require(!(OWN & OWN_REALLOC) || calls > before);
    before = calls;
    to_cfree(object, 10000);
    require(!(OWN & OWN_FREE) || calls > before);
#endif
}

static void test_objects_go_anywhere(void **state)
{
    (void)state;
    assert_role_succeeds("exchange", NULL);
}

static void test_threads_and_a_child(void **state)
{
    (void)state;
    assert_role_succeeds("threads", NULL);
}

static void test_the_programs_own_are_called(void **state)
{
    (void)state;
    assert_role_succeeds("calls", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"exchange", role_exchange}, {"threads", role_threads}, {"calls", role_calls}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_go_anywhere),
        cmocka_unit_test(test_threads_and_a_child),
        cmocka_unit_test(test_the_programs_own_are_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
