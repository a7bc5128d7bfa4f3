/* src/page/huge.h: dense memory becomes huge, sparse memory does not; what is given back is small again, and nothing
 * is lost beside it; options; children of fork. smaps says what is huge. A pass comes when the test says so. */
#include "unit.h"

#include "base/bits.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/huge.h"
#include "page/purge.h"
#include "page/span.h"
#include "page/span_alloc.h"

enum { GRANULES = 512, RIPE_PASSES = 4, BROKEN_PASSES = 70, SECOND_MS = 1000 };

static uint64_t now_ms;

/* The sums of a row of smaps over the mappings that lie in these pages or reach into them, in KiB. */
static size_t kib_of(const char *row, const char *from, size_t bytes)
{
    char line[256];
    unsigned long start, end;
    bool inside = false;
    size_t kib = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    require(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start < (uintptr_t)from + bytes && (uintptr_t)from < end;
        else if (inside && strncmp(line, row, strlen(row)) == 0)
            kib += strtoul(line + strlen(row), NULL, 10);
    fclose(file);
    return kib;
}

/* Has the kernel been told so of the mapping that the address lies in? */
static bool has_flag(const char *address, const char *flag)
{
    char line[256];
    unsigned long start, end;
    bool inside = false, has = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    require(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            has = strstr(line, flag);
    fclose(file);
    return has;
}

static char *range_of(char *address)
{
    return (char *)((uintptr_t)address & ~(SLM_VM_HUGE_PAGE - 1));
}

static size_t huge_kib(struct slm_span *span)
{
    return kib_of("AnonHugePages:", slm_span_start(span), slm_span_bytes(span));
}

static struct slm_span *take(size_t granules)
{
    struct slm_span *span = slm_span_alloc(0, granules, 1);
    require(span);
    return span;
}

static char byte_at(size_t at)
{
    return (char)(at / 4096 % 251 + 1);
}

static void fill(struct slm_span *span)
{
    for (size_t at = 0; at < slm_span_bytes(span); at += 4096)
        memset(slm_span_start(span) + at, byte_at(at), 4096);
}

static struct slm_span *take_filled(void)
{
    struct slm_span *span = take(GRANULES);
    fill(span);
    return span;
}

static bool is_filled(struct slm_span *span, size_t from, size_t to)
{
    for (size_t at = from; at < to; at += 997)
        if (slm_span_start(span)[at] != byte_at(at))
            return false;
    return true;
}

/* True: the last one wanted another. */
static bool passes(unsigned count)
{
    bool again = false;
    while (count-- > 0)
        again = slm_huge_pass(now_ms += SECOND_MS, true);
    return again;
}

static void set(const char *thp)
{
    strcpy(slm_options.thp, thp);
    slm_huge_start();
    now_ms = slm_sys_now_ms();
}

/* Whole ranges in the span. */
static size_t ranges_in(struct slm_span *span)
{
    const uintptr_t from = (uintptr_t)slm_span_start(span), end = from + slm_span_bytes(span);
    return (end / SLM_VM_HUGE_PAGE) - slm_align_up(from, SLM_VM_HUGE_PAGE) / SLM_VM_HUGE_PAGE;
}

/* Where the first whole range begins, from the span's start. */
static size_t first_range(struct slm_span *span)
{
    const uintptr_t from = (uintptr_t)slm_span_start(span);
    return slm_align_up(from, SLM_VM_HUGE_PAGE) - from;
}

static void skip_without_huge_pages(void)
{
    if (!slm_vm_has_huge_pages()) {
        print_message("this kernel has no huge pages now (/sys/kernel/mm/transparent_hugepage/enabled), or no RAM\n");
        skip();
    }
}

static void make_dense_memory_huge(void)
{
    set("on");
    struct slm_span *span = take_filled();
    require(passes(1) && huge_kib(span) == 0);
    require(passes(RIPE_PASSES - 1) && huge_kib(span) >= 2048 * ranges_in(span));
    require(is_filled(span, 0, slm_span_bytes(span)));
    passes(RIPE_PASSES); /* until others' memory in the process is done with, too */
    require(!passes(1));
}

static void dense_memory_becomes_huge(void **state)
{
    (void)state;
    skip_without_huge_pages();
    assert_child_silent(make_dense_memory_huge);
}

/* All ranges have small pages, and none is more resident than it was. */
static void pass_over_sparse_memory(void)
{
    set("on");
    struct slm_span *span = take(GRANULES);
    for (size_t at = 0; at < slm_span_bytes(span); at += 2 * 4096)
        slm_span_start(span)[at] = 1;
    const size_t before = kib_of("Rss:", slm_span_start(span), slm_span_bytes(span));
    passes(3 * RIPE_PASSES);
    require(huge_kib(span) == 0);
    require(kib_of("Rss:", slm_span_start(span), slm_span_bytes(span)) <= before);
}

static void sparse_memory_stays_small(void **state)
{
    (void)state;
    assert_child_silent(pass_over_sparse_memory);
}

/* Pages from `at` on: what a huge page loses is read as zero, and nothing beside it. */
static void purge_part(struct slm_span *span, size_t at, size_t bytes, size_t broken)
{
    const size_t before = huge_kib(span), end = at + bytes;
    require(slm_huge_purge(slm_span_start(span) + at, bytes));
    require(huge_kib(span) == before - broken * 2048);
    require(is_filled(span, slm_align_up(end, 4096), slm_span_bytes(span)));
    for (size_t i = at; i < end; i++)
        require(slm_span_start(span)[i] == 0);
}

static void purge_parts(void)
{
    set("on");
    struct slm_span *span = take_filled();
    passes(RIPE_PASSES);
    const size_t range = first_range(span), all = kib_of("Rss:", slm_span_start(span), slm_span_bytes(span));
    purge_part(span, range + MIB, 4096, 1);
    purge_part(span, range + 3 * MIB, MIB, 1);
    purge_part(span, range + 4 * MIB, SLM_GRANULE, 1);
    purge_part(span, range + 7 * MIB, 2 * MIB, 2);
    purge_part(span, range + 10 * MIB, 4 * MIB, 2);
    require(is_filled(span, 0, range + MIB));
    fill(span); /* what comes back comes in small pages, and stays small for a while */
    const size_t before = huge_kib(span);
    passes(RIPE_PASSES);
    require(huge_kib(span) == before);
    require(kib_of("Rss:", slm_span_start(span), slm_span_bytes(span)) <= all + 4);
    passes(BROKEN_PASSES);
    require(huge_kib(span) == before + 7 * (size_t)2048);
    require(is_filled(span, 0, slm_span_bytes(span)));
}

static void what_is_given_back_is_small_again(void **state)
{
    (void)state;
    skip_without_huge_pages();
    assert_child_silent(purge_parts);
}

/* The kernel has been told not to fill what is missing: by khugepaged it would. */
static void free_parts(void)
{
    set("on");
    struct slm_span *span = take_filled();
    passes(RIPE_PASSES);
    char *start = slm_span_start(span);
    const size_t bytes = slm_span_bytes(span);
    struct slm_span *rest = slm_span_split(span, GRANULES / 2);
    slm_span_free(rest);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(huge_kib(span) > 0 && kib_of("AnonHugePages:", start + bytes - MIB, MIB) == 0);
    require(kib_of("Rss:", start + bytes - MIB, MIB) < bytes / KIB);
    slm_span_free(span);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(kib_of("AnonHugePages:", start, bytes) == 0);
}

static void free_spans_have_no_huge_pages(void **state)
{
    (void)state;
    assert_child_silent(free_parts);
}

static void use_little(void)
{
    set("auto");
    struct slm_span *span = take_filled();
    require(!passes(2 * RIPE_PASSES) && huge_kib(span) == 0);
    slm_huge_least = slm_span_bytes(span); /* else it would take more here */
    passes(RIPE_PASSES);
    require(huge_kib(span) > 0 || !slm_vm_has_huge_pages());
}

static void use_none(void)
{
    set("off");
    struct slm_span *span = take_filled();
    require(!passes(2 * RIPE_PASSES) && huge_kib(span) == 0);
}

static void say_nonsense(void)
{
    set("never");
}

static void the_option_says_when(void **state)
{
    (void)state;
    assert_child_silent(use_little);
    assert_child_silent(use_none);
    const struct outcome outcome = in_child(say_nonsense);
    assert_string_equal(outcome.said, "slabmalloc: option thp is none of auto, on and off; auto: never\n");
}

/* The span lies in new memory, mapped for one granule of many; the first write makes 2 MiB resident. */
static struct slm_span *take_new(void)
{
    struct slm_span *span;
    do
        require((span = slm_span_alloc(0, 1, 1)));
    while ((uintptr_t)slm_span_start(span) % SLM_VM_HUGE_PAGE != 0 || span->state != SLM_SPAN_CLEAN ||
           slm_vm_resident(slm_span_start(span), SLM_VM_HUGE_PAGE) > 0 || !has_flag(slm_span_start(span), " hg"));
    return span;
}

static void grow(void)
{
    set("on");
    fill(take(4 * GRANULES)); /* so that the lead is long */
    struct slm_span *span = take_new();
    slm_span_start(span)[0] = 1;
    require(slm_vm_resident(slm_span_start(span), SLM_VM_HUGE_PAGE) == 512);
    slm_span_start(span)[SLM_GRANULE - 1] = 1;
    char *start = slm_span_start(span);
    slm_span_free(span);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(slm_vm_resident(start, SLM_VM_HUGE_PAGE) <= 512 - 16 && has_flag(start, " nh"));
}

/* Large objects have none of that, unless they begin where one is. */
static void grow_by_large_objects(void)
{
    set("on");
    fill(take(4 * GRANULES));
    take_new();
    char *object;
    do
        require((object = malloc(100 * KIB)));
    while ((uintptr_t)object % SLM_VM_HUGE_PAGE > MIB || slm_vm_resident(range_of(object), SLM_VM_HUGE_PAGE) > 0);
    *object = 1;
    require(slm_vm_resident(range_of(object), SLM_VM_HUGE_PAGE) <= 1); /* 0: the range is not mapped to its end */
}

static void new_memory_of_slabs_is_huge(void **state)
{
    (void)state;
    skip_without_huge_pages();
    assert_child_silent(grow);
    assert_child_silent(grow_by_large_objects);
}

static bool one_write_makes_a_huge_page(char *object)
{
    char *range = range_of(object + SLM_VM_HUGE_PAGE);
    range[1] = 1;
    return slm_vm_resident(range, SLM_VM_HUGE_PAGE) == 512;
}

/* Objects of one length, all of which stay. The second finds the first written in part, the third the second all. */
static void make_large_objects(void)
{
    const size_t bytes = 9 * MIB;
    char *first = malloc(bytes), *second, *third;
    require(!one_write_makes_a_huge_page(first));
    memset(first, 1, bytes / 2);
    require((second = malloc(bytes)) && !one_write_makes_a_huge_page(second));
    memset(second, 1, bytes);
    require((third = malloc(bytes)) && one_write_makes_a_huge_page(third));
    require(kib_of("AnonHugePages:", third, bytes) == SLM_VM_HUGE_PAGE / KIB);
}

static void make_large_objects_without(void)
{
    set("off");
    const size_t bytes = 9 * MIB;
    memset(malloc(bytes), 1, bytes);
    require(!one_write_makes_a_huge_page(malloc(bytes)));
}

static void so_are_large_objects_that_will_be_written(void **state)
{
    (void)state;
    skip_without_huge_pages();
    assert_child_silent(make_large_objects);
    assert_child_silent(make_large_objects_without);
}

/* Its memory is its parent's. */
static void pass_in_child(void)
{
    set("on");
    struct slm_span *span = take_filled();
    passes(1);
    const pid_t child = fork();
    if (child == 0) {
        slm_fork_check();
        require(!passes(2 * RIPE_PASSES) && huge_kib(span) == 0);
        _exit(0);
    }
    int status;
    require(waitpid(child, &status, 0) == child && status == 0);
    passes(RIPE_PASSES);
    require(huge_kib(span) > 0 || !slm_vm_has_huge_pages());
}

static void children_make_none(void **state)
{
    (void)state;
    assert_child_silent(pass_in_child);
}

/* Once a minute it is asked again. */
static void pass_without_any(void)
{
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    set("on");
    struct slm_span *span = take_filled();
    passes(RIPE_PASSES);
    require(!passes(1) && huge_kib(span) == 0);
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    require(!passes(50) && huge_kib(span) == 0);
    passes(20);
    require(huge_kib(span) > 0 || !slm_vm_has_huge_pages());
}

static void it_rests_where_there_are_none(void **state)
{
    (void)state;
    assert_child_silent(pass_without_any);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_memory_becomes_huge),
        cmocka_unit_test(sparse_memory_stays_small),
        cmocka_unit_test(what_is_given_back_is_small_again),
        cmocka_unit_test(free_spans_have_no_huge_pages),
        cmocka_unit_test(the_option_says_when),
        cmocka_unit_test(new_memory_of_slabs_is_huge),
        cmocka_unit_test(so_are_large_objects_that_will_be_written),
        cmocka_unit_test(children_make_none),
        cmocka_unit_test(it_rests_where_there_are_none),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
