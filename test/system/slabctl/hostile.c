/* A process that lies: it has a slab_inspect, a mailbox and what they point to, in a form that its argument names,
 * and answers commands with nonsense. test_slabctl_hostile.py lets the tool loose on it.
 *
 *     hostile CASE       that lie, until standard input ends; with "silence" it says "asked" when it is asked
 *     hostile hang       the same as "silence", and then whoever reads its slab_inspect waits
 *     hostile random     for each number that is read: random contents from that seed, then a line "ready"
 *     hostile map FILE   for each line that is read: maps that file anew, as the loader maps a program's first part
 *
 * A line "exec" makes it another program. Everything may be random: sizes, counts, addresses that lead nowhere, to
 * the end of a mapping or in a circle. */
#define slab_inspect slab_inspect_of_the_library /* declared const there */
#include "base/inspect.h"
#undef slab_inspect

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "random.h"

enum { ARENA = 1 << 20 };

/* What is written to its neighbourhood, where the mailbox is said to be, harms nothing else. */
static union {
    struct slm_inspect inspect;
    char room[8192];
} page __attribute__((aligned(4096), used));
#define inspect page.inspect
__asm__(".globl slab_inspect\n.set slab_inspect, page\n.type slab_inspect, @object\n.size slab_inspect, 256\n");

static struct slm_mailbox mailbox, *volatile answering;
static const uint32_t bell = 7;
static _Atomic uint64_t figures[4096] = {1 << 20};
static unsigned char *arena; /* with nothing behind it */
static struct slm_answer answer;
static bool is_silent, hangs;

static uint64_t random_address(void)
{
    switch (random_below(8)) {
    case 0:
        return 0;
    case 1:
        return random64();
    case 2:
        return (uint64_t)(uintptr_t)&inspect + 8 * random_below(40);
    case 3:
        return (uint64_t)(uintptr_t)arena + ARENA - random_below(64);
    case 4:
        return UINT64_MAX - random_below(256);
    default:
        return (uint64_t)(uintptr_t)arena + 8 * random_below(ARENA / 8);
    }
}

/* What looks like a number of bytes, of records, an index. */
static uint64_t random_number(void)
{
    static const uint64_t edges[] = {0, 1, 2, 63, 64, 4096, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    return random_below(2) ? edges[random_below(sizeof edges / sizeof *edges)] + random_below(3) - 1
                           : random_below((uint64_t)1 << random_below(40));
}

static void words_fill(void *at, size_t bytes)
{
    uint64_t *words = at;
    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = random_below(3) == 0 ? random_address() : random_below(2) ? random_number() : 0;
}

static void answer_make(void)
{
    words_fill(&answer, sizeof answer);
    answer.error = random_below(2) ? 0 : (int32_t)random_number();
    answer.address = random_address();
    answer.bytes = random_number();
    for (size_t i = 0; i < sizeof answer.text; i++)
        answer.text[i] = (char)(random_below(4) ? random_below(256) : 0);
}

static void everything_random(uint64_t seed)
{
    chance.state = seed;
    words_fill(arena, ARENA);
    words_fill((char *)&inspect + 16, sizeof inspect - 16);
    uint64_t *words = (uint64_t *)(void *)&inspect;
    for (size_t i = 2; i < sizeof inspect / 8; i++) /* most addresses lead somewhere */
        words[i] = random_address();
    inspect.cache_ids = (uint32_t)random_number();
    inspect.classes = (uint32_t)random_number();
    inspect.cache_name_offset = random_below(4) ? 64 : random_number();
    inspect.version = random_below(16) ? SLM_INSPECT_VERSION : (uint32_t)random_number();
    inspect.bytes = random_below(4) ? sizeof inspect : (uint32_t)random_number();
    inspect.mailbox = random_below(8) ? &mailbox : (void *)(uintptr_t)random_address();
    inspect.bell = random_below(2) ? &bell : (void *)(uintptr_t)random_address();
    memset(&mailbox, 0, sizeof mailbox);
    if (random_below(4) == 0)
        words_fill(&mailbox, sizeof mailbox);
    answer_make();
    answering = random_below(4) ? &mailbox : NULL;
}

/* Each of these is one lie; the rest is as it should be. */
static void everything_but(const char *lie)
{
    memcpy(inspect.magic, SLM_INSPECT_MAGIC, sizeof inspect.magic);
    inspect.version = SLM_INSPECT_VERSION;
    inspect.bytes = sizeof inspect;
    memcpy(inspect.library_version, "0.1.0", 6);
    inspect.used_bytes = (void *)figures;
    inspect.mailbox = &mailbox;
    inspect.bell = &bell;
    answering = &mailbox;
    answer.address = (uint64_t)(uintptr_t)figures;
    answer.bytes = sizeof figures;
    strcpy(answer.text, "worker=1");
    if (strcmp(lie, "magic") == 0)
        inspect.magic[7] = '!';
    else if (strcmp(lie, "version") == 0)
        inspect.version = 2;
    else if (strcmp(lie, "head") == 0)
        inspect.bytes = 16;
    else if (strcmp(lie, "bytes") == 0)
        inspect.bytes = UINT32_MAX;
    else if (strcmp(lie, "longer") == 0)
        inspect.bytes = sizeof inspect + 64;
    else if (strcmp(lie, "nowhere") == 0)
        memset((char *)&inspect + 16, 0x5a, sizeof inspect - 16);
    else if (strcmp(lie, "silence") == 0)
        answering = NULL, is_silent = true;
    else if (strcmp(lie, "hang") == 0)
        answering = NULL, is_silent = hangs = true;
    else if (strcmp(lie, "no bell") == 0)
        inspect.bell = NULL;
    else if (strcmp(lie, "data") == 0)
        answer.address = 1;
    else if (strcmp(lie, "endless") == 0)
        answer.number[0] = UINT64_MAX;
    else if (strcmp(lie, "escape") == 0)
        strcpy(answer.text, "worker=\033[31m1\n2\xff");
    else if (strcmp(lie, "text") == 0)
        memset(answer.text, 'x', sizeof answer.text);
    else if (strcmp(lie, "error") == 0)
        answer.error = INT32_MIN, answer.text[0] = '\0';
    else if (strcmp(lie, "nothing") != 0)
        exit(2);
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

/* Answers whatever it is asked, at once, with what was made beforehand. */
static void *answer_always(void *unused)
{
    for (;; usleep(200)) {
        struct slm_mailbox *box = answering;
        uint64_t token = box ? load_acquire(&box->command.token) : 0;
        if (is_silent && load_acquire(&mailbox.command.token)) {
            if (hangs) /* nobody fills it again */
                madvise(&page, sizeof page, MADV_DONTNEED);
            say("asked");
            is_silent = false;
        }
        if (!token || token == load_relaxed(&box->answer.token))
            continue;
        memcpy((char *)&box->answer + 8, (const char *)&answer + 8, sizeof answer - 8);
        store_release(&box->answer.token, token);
    }
    return unused;
}

static void file_map(const char *name)
{
    static void *at;
    static size_t bytes;
    if (at)
        munmap(at, bytes);
    struct stat stat;
    int file = open(name, O_RDONLY);
    at = file < 0 || fstat(file, &stat) != 0 ? NULL
                                             : mmap(NULL, bytes = stat.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (!at || at == MAP_FAILED)
        exit(1);
    close(file);
}

/* From here on what is missing in the page is for userfaultfd to fill. */
static void page_watch(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)&page, sizeof page}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    static char kept[sizeof page];
    memcpy(kept, &page, sizeof page);
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) != 0 ||
        mmap(&page, sizeof page, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != &page)
        exit(1);
    memcpy(&page, kept, sizeof page);
    if (ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    arena = mmap(NULL, ARENA + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || munmap(arena + ARENA, 65536) != 0)
        return 1;
    bool random = strcmp(argv[1], "random") == 0, maps = strcmp(argv[1], "map") == 0 && argc > 2;
    everything_but(random ? "nothing" : maps ? "magic" : argv[1]);
    if (hangs)
        page_watch();
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_always, NULL) != 0)
        return 1;
    say("ready");
    for (char line[64]; fgets(line, sizeof line, stdin);) {
        if (strcmp(line, "exec\n") == 0)
            execlp("sleep", "sleep", "1000", NULL);
        answering = NULL;
        if (maps)
            file_map(argv[2]);
        else
            everything_random(strtoull(line, NULL, 10));
        say("ready");
    }
    return 0;
}
