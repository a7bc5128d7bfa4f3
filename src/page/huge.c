/* Making ranges huge, and small again; see huge.h.
 *
 * Each area has a table with a byte, its age, for each range, made when the first look is due.
 *
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
};

#define RANGES (4 * SLM_GRANULE) /* of an area: its first 512 GiB */

slm_once uint64_t slm_huge_least = (uint64_t)1 << 30;
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

static slm_seldom bool breaks(_Atomic uint8_t *age)
{
    return load_relaxed(age) >= MAKING && atomic_exchange(age, BROKEN) >= MAKING; /* pairs with make */
}

slm_seldom void slm_huge_break_slow(void *address, size_t bytes)
{
    const unsigned area = slm_area_of_granule(slm_granule_of(address));
    _Atomic uint8_t *table = load_acquire(&tables[area]); /* pairs with table_of */
    char *const end = (char *)address + bytes;
    const size_t behind = table ? slm_min(range_of(area, end - 1) + 1, RANGES) : 0;
    for (size_t number = range_of(area, address); number < behind; number++) {
        size_t count = 0;
        while (number + count < behind && breaks(&table[number + count]))
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

/* -- looking ----------------------------------------------------------------------------------------------------- */

static slm_sparse _Atomic uint64_t due_ms; /* of the next pass, after a failure */

static slm_seldom void rest(struct looking *looking)
{
    store_relaxed(&due_ms, looking->now_ms + rest_ms);
    looking->makes = 0;
}

/* The kernel is asked once a pass whether it has huge pages at all. */
static slm_seldom void make(struct looking *looking, unsigned area, _Atomic uint8_t *table, size_t number)
{
    const int32_t more = runs_more(table, number, number + 1);
    uint8_t making = MAKING;
    if (looking->makes == 0 || (more > 0 && load_relaxed(&runs) >= runs_most))
        return;
    if (!looking->asked && !slm_vm_has_huge_pages()) {
        rest(looking);
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
    if (!made)
        rest(looking);
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
    if (slm_vm_resident(range_start(area, number)) < SLM_VM_HUGE_PAGE / 4096 - missing_most) {
        store_relaxed(&table[number], 0);
    } else if (age < RIPE) {
        store_relaxed(&table[number], age + 1);
        looking->again = true;
    } else {
        make(looking, area, table, number);
    }
}

/* NULL: there is no memory for it. */
static slm_seldom _Atomic uint8_t *table_of(unsigned area)
{
    _Atomic uint8_t *table = load_relaxed(&tables[area]);
    if (!table && (table = slm_reservation_metadata(slm_node_of_area(area), RANGES)))
        store_release(&tables[area], table); /* pairs with slm_huge_break_slow */
    return table;
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

/* Not in a child of the process that made the first table. Of the one thread that looks. */
static slm_seldom bool is_first_process(void)
{
    static slm_sparse uint32_t generation;
    generation = generation == 0 ? slm_fork_generation : generation;
    return generation == slm_fork_generation;
}

slm_seldom bool slm_huge_pass(uint64_t now_ms, bool helped)
{
    static slm_sparse _Atomic bool looks;
    struct looking looking = {now_ms, looks_most, makes_most, false, false};
    if (slm_demand_used() < slm_huge_least || now_ms < load_relaxed(&due_ms) || slm_background_forbidden() ||
        slm_span_scarce() || slm_vm_locked() || slm_page_size != 4096 ||
        atomic_exchange(&looks, true)) /* acquire: pairs with the release below */
        return false;
    slm_keep_errno();
    if (!helped) {
        looking.looks /= without_worker;
        looking.makes /= without_worker;
    }
    for (unsigned area = 0; is_first_process() && area < slm_area_count(); area++)
        look_at_area(&looking, area);
    store_release(&looks, false);
    return looking.again;
}
