/* Which objects are alive; see record.h. A table of them in parts, each with a lock of its own: open addressing, and
 * what follows a freed entry moves up. */
#include "record.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PARTS = 64, FIRST_ENTRIES = 1 << 10 };

struct entry {
    void *object;
    size_t asked, given;
};

static struct part {
    atomic_flag held;
    struct entry *entries;
    size_t count, mask; /* entries in use; all, less one */
} parts[PARTS];

struct record_live record_live;
_Atomic uint64_t record_row_calls[RECORD_ROWS], record_row_bytes[RECORD_ROWS];

static uint64_t hash(const void *object)
{
    return ((uintptr_t)object >> 3) * 0x9e3779b97f4a7c15u;
}

static struct part *lock_part(const void *object)
{
    struct part *part = &parts[hash(object) >> 58];
    while (atomic_flag_test_and_set_explicit(&part->held, memory_order_acquire))
        sched_yield();
    return part;
}

static void unlock(struct part *part)
{
    atomic_flag_clear_explicit(&part->held, memory_order_release);
}

static size_t place_of(const struct part *part, const void *object)
{
    return (size_t)(hash(object) >> 20) & part->mask;
}

/* The object's entry, or the free one where it would stand. */
static struct entry *find(const struct part *part, const void *object)
{
    size_t at = place_of(part, object);
    while (part->entries[at].object != NULL && part->entries[at].object != object)
        at = (at + 1) & part->mask;
    return &part->entries[at];
}

static void *pages(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        abort();
    return start;
}

static void grow(struct part *part)
{
    const struct part old = {.entries = part->entries, .mask = part->mask};
    const size_t entries = old.entries == NULL ? FIRST_ENTRIES : 2 * (old.mask + 1);
    part->entries = pages(entries * sizeof *part->entries);
    part->mask = entries - 1;
    for (size_t i = 0; old.entries != NULL && i <= old.mask; i++) {
        if (old.entries[i].object != NULL)
            *find(part, old.entries[i].object) = old.entries[i];
    }
    if (old.entries != NULL)
        munmap(old.entries, (old.mask + 1) * sizeof *old.entries);
}

static void take_out(struct part *part, struct entry *entry)
{
    size_t hole = (size_t)(entry - part->entries), at = hole;
    for (part->count--;;) {
        at = (at + 1) & part->mask;
        if (part->entries[at].object == NULL)
            break;
        const size_t wants = place_of(part, part->entries[at].object);
        if (((at - wants) & part->mask) < ((at - hole) & part->mask))
            continue;
        part->entries[hole] = part->entries[at];
        hole = at;
    }
    part->entries[hole].object = NULL;
}

/* Above 64 KiB: the power of two, then the three bits below the leading one. */
static unsigned row_of(size_t bytes)
{
    if (bytes <= RECORD_EXACT)
        return (unsigned)bytes;
    const unsigned bits = 63 - (unsigned)__builtin_clzl(bytes);
    return RECORD_EXACT + 1 + (bits - 16) * 8 + (unsigned)(bytes >> (bits - 3) & 7);
}

static void add(_Atomic uint64_t *figure, uint64_t n)
{
    atomic_fetch_add_explicit(figure, n, memory_order_relaxed);
}

/* `sign` is 1 or, modulo 2^64, -1. */
static uint64_t count(const struct entry *entry, uint64_t sign)
{
    const size_t bucket = entry->given <= RECORD_SMALL ? entry->given / 8 : RECORD_BUCKETS - 1;
    add(&record_live.objects[bucket], sign);
    add(&record_live.asked[bucket], sign * entry->asked);
    if (entry->given > RECORD_SMALL)
        add(&record_live.large_given, sign * entry->given);
    add(&record_live.rows[row_of(entry->asked)], sign);
    const uint64_t change = sign * entry->asked;
    return atomic_fetch_add_explicit(&record_live.asked_bytes, change, memory_order_relaxed) + change;
}

/* An object that is there already with as many bytes was told by a call inside this one: of malloc by operator new.
 * If with others, its free went past the recorder. */
void record_made(void *object, size_t asked, size_t given)
{
    const struct entry made = {object, asked, given};
    uint64_t live = 0;
    struct part *part = lock_part(object);
    if (part->entries == NULL || part->count * 4 > part->mask * 3)
        grow(part);
    struct entry *entry = find(part, object);
    const bool is_new = entry->object == NULL, told = !is_new && entry->asked == asked;
    if (!is_new && !told)
        count(entry, (uint64_t)-1);
    if (!told)
        live = count(&made, 1);
    part->count += is_new;
    *entry = made;
    unlock(part);
    if (!told) {
        add(&record_row_calls[row_of(asked)], 1);
        add(&record_row_bytes[row_of(asked)], asked);
        record_look(live);
    }
}

size_t record_gone(void *object, size_t *given)
{
    struct entry gone = {NULL, 0, 0};
    struct part *part = lock_part(object);
    struct entry *entry = part->entries == NULL ? NULL : find(part, object);
    if (entry != NULL && entry->object != NULL) {
        gone = *entry;
        count(&gone, (uint64_t)-1);
        take_out(part, entry);
    }
    unlock(part);
    *given = gone.given;
    return gone.asked;
}

/* A child of fork finds no part locked by a thread that it does not have. */
static void lock_all(void)
{
    for (unsigned i = 0; i < PARTS; i++) {
        while (atomic_flag_test_and_set_explicit(&parts[i].held, memory_order_acquire))
            sched_yield();
    }
}

static void unlock_all(void)
{
    for (unsigned i = 0; i < PARTS; i++)
        unlock(&parts[i]);
}

/* What the child's parent has asked for is not told twice; what is alive stays so. */
static void unlock_in_child(void)
{
    for (unsigned i = 0; i < RECORD_ROWS; i++) {
        if (record_row_calls[i] != 0)
            record_row_calls[i] = record_row_bytes[i] = 0;
    }
    unlock_all();
    record_look_again();
}

void record_live_start(void)
{
    pthread_atfork(lock_all, unlock_all, unlock_in_child);
}
