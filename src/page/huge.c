/* Making ranges huge, and small again; see huge.h.
 *
 * Each area has a table with a byte, its age, for each range, made when it is first needed.
 *
 *     0 --new memory of a large heap, or of an object that is going to be written--> HUGE
 *     0 --dense at a look--> 1 --> ... --> RIPE --> MAKING --> HUGE
 *     HUGE or MAKING --before a purge--> BROKEN --a look--> ... --> HEALED --> 0
 *
 * Only a look changes an age below MAKING, and only one thread looks. A purge that comes while a range is being made
 * huge has not waited for it; so the range is small from the next look on, and what was purged may be resident until
 * it is purged again. */
#include "page/huge.h"

#include <string.h>

#include "base/errno.h"
#include "base/options.h"
#include "base/panic.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/reservation.h"

enum { RIPE = 3, BROKEN = 128, HEALED = BROKEN + 60, MAKING = 254, HUGE = 255 };

enum {
    missing_most = 32,   /* of the 512 pages of a range that is dense */
    looks_most = 2048,   /* at ranges, in a pass of the worker's */
    makes_most = 128,    /* each takes about half a millisecond of CPU time */
    without_worker = 16, /* times fewer in a pass of the program's own */
    runs_most = 4096,    /* of huge ranges side by side; the kernel allows 65,530 mappings */
    rest_ms = 60000,     /* after the kernel has had no huge page */
    ask_again_ms = 1000,
    large_share = 16, /* of what is in use */
};

#define RANGES (4 * SLM_GRANULE) /* of an area: its first 512 GiB */

slm_once uint64_t slm_huge_least = (uint64_t)256 << 20;
_Atomic bool slm_huge_any;

static slm_sparse _Atomic(_Atomic uint8_t *) tables[SLM_AREAS_MAX];
static slm_sparse uint32_t next_looks[SLM_AREAS_MAX]; /* where the next pass goes on; of the one that looks */
static slm_sparse _Atomic int32_t runs;               /* of huge ranges: roughly, as they change side by side */

/* A pass. */
struct looking {
    uint64_t now_ms;
    unsigned looks, makes; /* that are left */
    bool asked, again;
};

slm_seldom void slm_huge_start(void)
{
    const char *thp = slm_options.thp;
    if (strcmp(thp, "off") == 0)
        slm_huge_least = UINT64_MAX;
    else if (strcmp(thp, "on") == 0)
        slm_huge_least = 2 * SLM_VM_HUGE_PAGE;
    else if (strcmp(thp, "auto") != 0)
        slm_warn("option thp is none of auto, on and off; auto: ", thp);
}

static slm_seldom uintptr_t first_range(unsigned area)
{
    return (uintptr_t)slm_area_start(area) & ~(SLM_VM_HUGE_PAGE - 1);
}

static slm_seldom size_t range_of(unsigned area, const void *address)
{
    return ((uintptr_t)address - first_range(area)) / SLM_VM_HUGE_PAGE;
}

static slm_seldom char *range_start(unsigned area, size_t number)
{
    return (char *)first_range(area) + number * SLM_VM_HUGE_PAGE;
}

static slm_seldom bool is_huge(_Atomic uint8_t *table, size_t number)
{
    return number < RANGES && load_relaxed(&table[number]) == HUGE;
}

/* How many runs there are more if ranges from `number` to `end` become huge. */
static slm_seldom int32_t runs_more(_Atomic uint8_t *table, size_t number, size_t end)
{
    return 1 - (number > 0 && is_huge(table, number - 1)) - is_huge(table, end);
}

/* -- small again ------------------------------------------------------------------------------------------------- */

/* These ranges, which were huge, are broken; the pages from `address` to `end` are about to go. */
static slm_seldom void keep_small(unsigned area, size_t number, size_t count, char *address, char *end)
{
    char *const from = range_start(area, number), *const to = range_start(area, number + count);
    const bool begins_inside = address > from;
    if (begins_inside)
        slm_vm_split(address);
    if (end < to && !(begins_inside && count == 1))
        slm_vm_split(end - slm_page_size);
    const int32_t less = runs_more(load_relaxed(&tables[area]), number, number + count);
    if (sub_relaxed(&runs, less) < 2 * runs_most) /* else the kernel may make them huge again, bit by bit */
        slm_vm_keep_small(from, (size_t)(to - from));
}

static slm_seldom bool is_unused(const char *range)
{
    const bool unused = slm_background_begin() && slm_vm_resident(range, SLM_VM_HUGE_PAGE) == 0;
    slm_background_end();
    return unused;
}

/* `unused`: only where nothing is resident. */
static slm_seldom bool breaks(_Atomic uint8_t *age, const char *range, bool unused)
{
    return load_relaxed(age) >= MAKING && (!unused || is_unused(range)) &&
           atomic_exchange(age, BROKEN) >= MAKING; /* pairs with make */
}

slm_seldom void slm_huge_break_slow(void *address, size_t bytes, bool unused)
{
    const unsigned area = slm_area_of_granule(slm_granule_of(address));
    _Atomic uint8_t *table = load_acquire(&tables[area]); /* pairs with table_of */
    char *const end = (char *)address + bytes;
    const size_t behind = table ? slm_min(range_of(area, end - 1) + 1, RANGES) : 0;
    for (size_t number = range_of(area, address); number < behind; number++) {
        size_t count = 0;
        while (number + count < behind && breaks(&table[number + count], range_start(area, number + count), unused))
            count++;
        if (count > 0)
            keep_small(area, number, count, address, end);
        number += count;
    }
}

bool slm_huge_purge(void *address, size_t bytes)
{
    slm_huge_break(address, bytes);
    return slm_vm_purge(address, bytes);
}

/* -- whether there may be any ------------------------------------------------------------------------------------ */

static slm_sparse _Atomic uint64_t due_ms; /* of the next attempt, after a failure */

static slm_seldom void rest(uint64_t now_ms)
{
    store_relaxed(&due_ms, now_ms + rest_ms);
}

/* Not in a child of the process that was the first to ask. */
static slm_seldom bool is_first_process(void)
{
    static slm_sparse _Atomic uint32_t generation;
    uint32_t none = 0;
    atomic_compare_exchange_strong(&generation, &none, slm_fork_generation);
    return load_relaxed(&generation) == slm_fork_generation;
}

static slm_seldom bool is_large_heap(void)
{
    return slm_demand_used() >= slm_huge_least;
}

static slm_seldom bool may_be_huge(uint64_t now_ms)
{
    return now_ms >= load_relaxed(&due_ms) && slm_page_size == 4096 && !slm_background_forbidden() &&
           !slm_span_scarce() && !slm_vm_locked() && is_first_process();
}

/* NULL: there is no memory for it. */
static slm_seldom _Atomic uint8_t *table_of(unsigned area)
{
    _Atomic uint8_t *table = load_acquire(&tables[area]), *other = NULL; /* pairs with the exchange */
    if (!table && (table = slm_reservation_metadata(slm_node_of_area(area), RANGES)) &&
        !atomic_compare_exchange_strong(&tables[area], &other, table))
        table = other; /* another thread was faster; a quarter of a mebibyte of addresses is lost */
    return table;
}

/* -- new memory -------------------------------------------------------------------------------------------------- */

/* Large objects leave the ends of their spans unused: where many lie among the slabs each range would have some. In
 * areas of their own there are no slabs. */
static slm_seldom bool is_for_slabs(unsigned area)
{
    const uint64_t large_bytes = load_relaxed(&slm_free_spans_in(area)->large_bytes);
    return area <= slm_range.node_mask && large_bytes <= slm_demand_used() / large_share;
}

/* These bytes, which nobody has written to, are going to be written: whole ranges of them become huge. The kernel is
 * asked once a second. */
static slm_seldom void expect(unsigned area, char *from, const char *end, uint64_t now_ms)
{
    static slm_sparse _Atomic uint64_t ask_ms;
    const size_t behind = slm_min(range_of(area, end), RANGES);
    const size_t number = range_of(area, from + SLM_VM_HUGE_PAGE - 1);
    const uint64_t asked_ms = load_relaxed(&ask_ms);
    if (number >= behind || load_relaxed(&runs) >= runs_most)
        return;
    if (now_ms >= asked_ms && !slm_vm_has_huge_pages()) {
        rest(now_ms);
        return;
    }
    if (now_ms >= asked_ms)
        store_relaxed(&ask_ms, now_ms + ask_again_ms);
    _Atomic uint8_t *table = table_of(area);
    if (!table)
        return;
    store_relaxed(&slm_huge_any, true);
    add_relaxed(&runs, runs_more(table, number, behind));
    for (size_t i = number; i < behind; i++)
        store_relaxed(&table[i], HUGE);
    slm_vm_expect_huge(range_start(area, number), (behind - number) * SLM_VM_HUGE_PAGE);
}

slm_seldom void slm_huge_expect(size_t first, size_t count)
{
    slm_keep_errno();
    const unsigned area = slm_area_of_granule(first);
    char *start = slm_granule_address(first);
    const uint64_t now_ms = slm_sys_now_ms();
    if (slm_background_begin() && is_for_slabs(area) && is_large_heap() && may_be_huge(now_ms))
        expect(area, start, start + (count << SLM_GRANULE_SHIFT), now_ms);
    slm_background_end();
}

slm_seldom void slm_huge_expect_object(void *object, size_t bytes)
{
    slm_keep_errno();
    const uint64_t now_ms = slm_sys_now_ms();
    if (slm_background_begin() && slm_huge_least != UINT64_MAX && may_be_huge(now_ms))
        expect(slm_area_of_granule(slm_granule_of(object)), object, (char *)object + bytes, now_ms);
    slm_background_end();
}

slm_seldom bool slm_huge_expected_slow(const void *address)
{
    const unsigned area = slm_area_of_granule(slm_granule_of(address));
    _Atomic uint8_t *table = load_acquire(&tables[area]); /* pairs with table_of */
    return table && is_huge(table, range_of(area, address));
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

/* The kernel is asked once a pass whether it has huge pages at all. */
static slm_seldom void make(struct looking *looking, unsigned area, _Atomic uint8_t *table, size_t number)
{
    const int32_t more = runs_more(table, number, number + 1);
    uint8_t making = MAKING;
    if (looking->makes == 0 || (more > 0 && load_relaxed(&runs) >= runs_most))
        return;
    if (!looking->asked && !slm_vm_has_huge_pages()) {
        looking->makes = 0;
        rest(looking->now_ms);
        return;
    }
    looking->asked = looking->again = true;
    looking->makes--;
    add_relaxed(&runs, more);
    store_relaxed(&slm_huge_any, true);
    atomic_exchange(&table[number], MAKING);
    const bool made = slm_vm_make_huge(range_start(area, number));
    if (!atomic_compare_exchange_strong(&table[number], &making, made ? HUGE : BROKEN)) /* pairs with breaks */
        slm_vm_keep_small(range_start(area, number), SLM_VM_HUGE_PAGE);
    else if (!made)
        sub_relaxed(&runs, more);
    if (!made) {
        looking->makes = 0;
        rest(looking->now_ms);
    }
}

static slm_seldom void look(struct looking *looking, unsigned area, _Atomic uint8_t *table, size_t number)
{
    const uint8_t age = load_relaxed(&table[number]);
    if (age >= MAKING)
        return;
    if (age >= BROKEN) {
        store_relaxed(&table[number], age < HEALED ? age + 1 : 0);
        return;
    }
    looking->looks--;
    if (slm_vm_resident(range_start(area, number), SLM_VM_HUGE_PAGE) < SLM_VM_HUGE_PAGE / 4096 - missing_most) {
        store_relaxed(&table[number], 0);
    } else if (age < RIPE) {
        store_relaxed(&table[number], age + 1);
        looking->again = true;
    } else {
        make(looking, area, table, number);
    }
}

static slm_seldom void look_at_area(struct looking *looking, unsigned number)
{
    struct slm_free_spans *area = slm_free_spans_in(number);
    slm_free_spans_lock(area);
    const char *first = slm_granule_address(area->first), *end = slm_granule_address(area->frontier);
    slm_lock_release(&area->lock);
    const size_t begin = range_of(number, first + SLM_VM_HUGE_PAGE - 1);
    const size_t behind = slm_min(range_of(number, end), RANGES);
    _Atomic uint8_t *table = begin < behind ? table_of(number) : NULL;
    size_t next = next_looks[number];
    for (size_t i = begin; table && i < behind && looking->looks > 0; i++, next++) {
        next = next >= begin && next < behind ? next : begin;
        look(looking, number, table, next);
    }
    next_looks[number] = (uint32_t)next;
}

slm_seldom bool slm_huge_pass(uint64_t now_ms, bool helped)
{
    static slm_sparse _Atomic bool looks;
    struct looking looking = {now_ms, looks_most, makes_most, false, false};
    if (!is_large_heap() || !may_be_huge(now_ms))
        return false;
    if (atomic_exchange(&looks, true)) /* acquire: pairs with the release below */
        return false;
    slm_keep_errno();
    if (!helped) {
        looking.looks /= without_worker;
        looking.makes /= without_worker;
    }
    for (unsigned area = 0; area < slm_area_count(); area++)
        look_at_area(&looking, area);
    store_release(&looks, false);
    return looking.again;
}
