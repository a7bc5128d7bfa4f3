/* src/os/vm.h: pages from the kernel. */
#include "unit.h"

#include <linux/mempolicy.h>
#include <sys/utsname.h>

#include "os/vm.h"

enum { PAGES = 16 };

static const size_t window_bytes = (size_t)1 << 30;

static size_t bytes_of(unsigned pages)
{
    return pages * slm_page_size;
}

/* Fresh pages in a window of their own. */
static char *some_pages(void)
{
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        char *window = slm_vm_pick_range(window_bytes, attempt);
        if (window && slm_vm_map(window, bytes_of(PAGES), 0))
            return window;
    }
    fail_msg("no window");
    return NULL;
}

static void the_page_size_is_the_kernel_s(void **state)
{
    (void)state;
    slm_vm_start();
    assert_int_equal(slm_page_size, sysconf(_SC_PAGESIZE));
}

static void a_picked_window_is_aligned_and_not_mapped(void **state)
{
    (void)state;
    errno = EDOM;
    char *window = slm_vm_pick_range(window_bytes, 0);
    assert_int_equal(errno, EDOM);
    assert_non_null(window);
    assert_int_equal((uintptr_t)window % (2 * MIB), 0);
    assert_int_equal(msync(window, slm_page_size, MS_ASYNC), -1);
    assert_int_equal(errno, ENOMEM);
    assert_null(slm_vm_pick_range((size_t)1 << 62, 0));
}

static void pages_are_mapped_where_asked(void **state)
{
    (void)state;
    char *pages = some_pages();
    assert_true(all_zero(pages, bytes_of(PAGES)));
    memset(pages, 0x5a, bytes_of(PAGES));
    munmap(pages, bytes_of(PAGES));
}

static void other_mappings_are_never_overwritten(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = 0;
    assert_false(slm_vm_map(pages + bytes_of(PAGES - 1), bytes_of(2), 0));
    assert_int_equal(errno, EEXIST);
    assert_int_equal(pages[bytes_of(PAGES) - 1], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void a_held_window_is_filled(void **state)
{
    (void)state;
    errno = EDOM;
    char *window = slm_vm_reserve_range(64 * MIB);
    assert_int_equal(errno, EDOM);
    assert_non_null(window);
    assert_int_equal((uintptr_t)window % (2 * MIB), 0);
    assert_true(slm_vm_map(window, bytes_of(PAGES), SLM_VM_RESERVED));
    assert_true(slm_vm_map(window + 64 * MIB - bytes_of(PAGES), bytes_of(PAGES), SLM_VM_RESERVED));
    assert_true(all_zero(window, bytes_of(PAGES)));
    memset(window, 1, bytes_of(PAGES));
    munmap(window, 64 * MIB);
    assert_null(slm_vm_reserve_range((size_t)1 << 62));
    assert_int_equal(errno, EDOM);
}

static void purged_pages_read_as_zero(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    assert_true(slm_vm_purge(pages + bytes_of(1), bytes_of(PAGES - 2)));
    assert_int_equal(errno, EDOM);
    assert_true(all_zero(pages + bytes_of(1), bytes_of(PAGES - 2)));
    assert_int_equal(pages[bytes_of(1) - 1], 0x5a);
    assert_int_equal(pages[bytes_of(PAGES - 1)], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

/* Since Linux 5.18; before, they stay as they are. That all pages are locked is remembered. */
static void locked_pages_are_purged(void **state)
{
    (void)state;
    char *pages = some_pages();
    for (unsigned count = 1; count <= PAGES; count += PAGES - 1) {
        memset(pages, 0x5a, bytes_of(PAGES));
        if (mlock(pages, bytes_of(count)) != 0) {
            munmap(pages, bytes_of(PAGES));
            print_message("no page may be locked\n");
            skip();
        }
        assert_false(slm_vm_locked());
        errno = EDOM;
        const bool purged = slm_vm_purge(pages, bytes_of(PAGES));
        assert_int_equal(errno, EDOM);
        assert_true(purged ? all_zero(pages, bytes_of(PAGES)) : pages[0] == 0x5a);
        assert_int_equal(slm_vm_locked(), count == PAGES);
    }
    munlock(pages, bytes_of(PAGES));
    memset(pages, 0x5a, bytes_of(PAGES));
    assert_true(slm_vm_purge(pages, bytes_of(PAGES)));
    assert_true(all_zero(pages, bytes_of(PAGES)));
    munmap(pages, bytes_of(PAGES));
}

static void pages_move_without_a_copy(void **state)
{
    (void)state;
    const size_t half = bytes_of(PAGES / 2);
    char *pages = some_pages(), *to = pages + half;
    memset(pages, 0x5a, half);
    memset(to, 0x33, half);
    errno = EDOM;
    assert_true(slm_vm_move(pages, to, half, half));
    assert_int_equal(errno, EDOM);
    for (size_t i = 0; i < half; i++)
        assert_int_equal(to[i], 0x5a);
    assert_true(slm_vm_map(pages, half, 0)); /* nothing is there any more */
    assert_true(all_zero(pages, half));
    munmap(pages, bytes_of(PAGES));
}

/* Also where what is moved is several mappings, which the kernel does not make longer. */
static void pages_move_to_a_longer_range(void **state)
{
    (void)state;
    for (unsigned split = 0; split < 2; split++) {
        const size_t quarter = bytes_of(PAGES / 4);
        char *pages = some_pages(), *to = pages + bytes_of(PAGES / 2);
        memset(pages, 0x5a, quarter);
        memset(to, 0x33, 2 * quarter);
        if (split && mprotect(pages, bytes_of(1), PROT_READ) != 0)
            continue;
        if (slm_vm_move(pages, to, quarter, 2 * quarter)) {
            for (size_t i = 0; i < quarter; i++)
                assert_int_equal(to[i], 0x5a);
            assert_true(all_zero(to + quarter, quarter));
            to[2 * quarter - 1] = 1;
        } else {
            assert_int_equal(split, 1); /* before Linux 6.17 */
            assert_int_equal(pages[quarter - 1], 0x5a);
        }
        munmap(pages, bytes_of(PAGES));
    }
}

/* A part of the range cannot be moved: nothing is. */
static void what_cannot_all_be_moved_stays(void **state)
{
    (void)state;
    enum { SYS_MSEAL = 462 }; /* Linux 6.10 */
    for (unsigned sealed = 0; sealed < PAGES / 2; sealed += PAGES / 4) {
        const size_t half = bytes_of(PAGES / 2);
        char *pages = some_pages(), *to = pages + half;
        memset(pages, 0x5a, half);
        if (syscall(SYS_MSEAL, pages + bytes_of(sealed), bytes_of(1), 0) != 0) {
            munmap(pages, bytes_of(PAGES));
            print_message("this kernel seals nothing\n");
            skip();
        }
        errno = EDOM;
        assert_false(slm_vm_move(pages, to, half, half));
        assert_int_equal(errno, EDOM);
        for (size_t i = 0; i < half; i++)
            assert_int_equal(pages[i], 0x5a);
    }
}

static void unmapped_pages_can_be_mapped_again(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    assert_true(slm_vm_unmap(pages + bytes_of(1), bytes_of(2), false));
    assert_int_equal(errno, EDOM);
    assert_true(slm_vm_map(pages + bytes_of(1), bytes_of(2), 0));
    assert_true(all_zero(pages + bytes_of(1), bytes_of(2)));
    assert_int_equal(pages[0], 0x5a);
    assert_int_equal(pages[bytes_of(3)], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void a_held_window_stays_held(void **state)
{
    (void)state;
    char *window = slm_vm_reserve_range(64 * MIB);
    assert_true(slm_vm_map(window, bytes_of(PAGES), SLM_VM_RESERVED));
    memset(window, 0x5a, bytes_of(PAGES));
    assert_true(slm_vm_unmap(window, bytes_of(PAGES), true));
    assert_false(slm_vm_map(window, bytes_of(PAGES), 0)); /* nobody else gets it */
    assert_true(slm_vm_map(window, bytes_of(PAGES), SLM_VM_RESERVED));
    assert_true(all_zero(window, bytes_of(PAGES)));
    munmap(window, 64 * MIB);
}

static char *wiped;

static void look_at_wiped_page(void)
{
    require(*wiped == 0);
}

static void a_page_is_wiped_in_children(void **state)
{
    (void)state;
    errno = EDOM;
    wiped = slm_vm_page_wiped_on_fork();
    assert_int_equal(errno, EDOM);
    if (!wiped) {
        print_message("this kernel has no MADV_WIPEONFORK\n");
        skip();
    }
    assert_int_equal(*wiped, 0);
    *wiped = 1;
    assert_child_silent(look_at_wiped_page);
    assert_int_equal(*wiped, 1);
    munmap(wiped, slm_page_size);
}

static void limit_addresses(void)
{
    const struct rlimit limit = {(rlim_t)1 << 40, RLIM_INFINITY};
    require(!slm_vm_addresses_limited());
    setrlimit(RLIMIT_AS, &limit);
    errno = EDOM;
    require(slm_vm_addresses_limited() && errno == EDOM);
}

static void limits_are_seen(void **state)
{
    (void)state;
    if (slm_vm_addresses_limited()) {
        print_message("this shell has a limit already\n");
        skip();
    }
    assert_child_silent(limit_addresses);
}

static void advice_is_harmless(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    for (unsigned node = 0; node < 2048; node += node < 2 ? 1 : 511)
        slm_vm_bind(pages, bytes_of(PAGES), node);
    assert_int_equal(errno, EDOM);
    assert_int_equal(pages[0], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

/* Has the mapping that begins there small pages? */
static bool has_small_pages(const char *address)
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
            has = strstr(line, " nh");
    fclose(file);
    return has;
}

static void map_small_pages(void)
{
    char *pages = some_pages();
    require(!has_small_pages(pages));
    munmap(pages, bytes_of(PAGES));
    require(slm_vm_map(pages, bytes_of(PAGES), SLM_VM_SMALL_PAGES) && has_small_pages(pages));
    require(slm_vm_map(pages + bytes_of(PAGES), bytes_of(1), 0) && !has_small_pages(pages + bytes_of(PAGES)));
    char *window = slm_vm_reserve_range(64 * MIB);
    require(slm_vm_map(window, bytes_of(1), SLM_VM_RESERVED | SLM_VM_SMALL_PAGES) && has_small_pages(window));
}

/* By mmap alone, if the kernel can do that. */
static void map_small_pages_without_madvise(void)
{
    refuse_call(SYS_madvise, EPERM, 0);
    map_small_pages();
}

static void small_pages_cost_one_call(void **state)
{
    (void)state;
    struct utsname kernel;
    unsigned major = 0, minor = 0;
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
        print_message("this kernel has no others\n");
        skip();
    }
    assert_child_silent(map_small_pages);
    assert_int_equal(uname(&kernel), 0);
    assert_int_equal(sscanf(kernel.release, "%u.%u", &major, &minor), 2);
    if (major > 6 || (major == 6 && minor >= 7))
        assert_child_silent(map_small_pages_without_madvise);
}

/* Whether there are huge pages, and what is in them, before and after. */
static void make_and_split(void)
{
    char *window = slm_vm_pick_range(8 * MIB, 0), *range = window + 2 * MIB;
    require(slm_vm_map(window, 8 * MIB, SLM_VM_SMALL_PAGES) && slm_vm_resident(range, 2 * MIB) == 0);
    for (size_t at = 0; at < 6 * MIB; at += 4096)
        window[at] = (char)(at / 4096 % 100 + 1);
    require(slm_vm_resident(range, 2 * MIB) == 512 && slm_vm_resident(range + 3 * MIB, 2 * MIB) == 256);
    if (!slm_vm_has_huge_pages())
        return;
    require(has_small_pages(range) && slm_vm_make_huge(range) && !has_small_pages(range));
    slm_vm_keep_small(range, SLM_VM_HUGE_PAGE);
    require(has_small_pages(range));
    slm_vm_split(range + MIB);
    require(slm_vm_purge(range + MIB, 4096) && slm_vm_resident(range, 2 * MIB) == 511 && range[MIB] == 0);
    for (size_t at = 0; at < 6 * MIB; at += 4096)
        require(window[at] == (char)(at / 4096 % 100 + 1) || window + at == range + MIB);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    require(!slm_vm_has_huge_pages());
}

static void huge_pages_are_made_and_split(void **state)
{
    (void)state;
    if (slm_page_size != 4096) {
        print_message("huge pages have another size here\n");
        skip();
    }
    assert_child_silent(make_and_split);
}

static void ask_for_too_much(void)
{
    char *window = slm_vm_pick_range(window_bytes, 0);
    forbid_memory();
    errno = 0;
    require(!slm_vm_map(window, bytes_of(PAGES), 0) && errno == ENOMEM);
    errno = EDOM;
    require(!slm_vm_reserve_range(window_bytes) && errno == EDOM);
}

static void the_kernel_may_refuse(void **state)
{
    (void)state;
    assert_child_silent(ask_for_too_much);
}

/* -- memory that is made like a model ---------------------------------------------------------------------------- */

enum { MODEL = 2, BETWEEN = 4 };

/* A model, and the free addresses behind it, where the new memory is to lie; a gap apart, so that they do
 * not join. */
static char *some_model(char **free_pages)
{
    char *model = some_pages();
    assert_int_equal(munmap(model + bytes_of(MODEL), bytes_of(PAGES - MODEL)), 0);
    *free_pages = model + bytes_of(BETWEEN);
    return model;
}

static bool is_resident(const char *page)
{
    unsigned char resident = 0;
    require(mincore((void *)page, slm_page_size, &resident) == 0);
    return resident & 1;
}

/* Some kernels tell of every page that it is there. */
static bool untouched_pages_are_told(void)
{
    char *page = mmap(NULL, slm_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED);
    const bool told = !is_resident(page);
    munmap(page, slm_page_size);
    return told;
}

/* Two pages that nobody has touched, and nothing behind them. */
static void assert_model(const char *model)
{
    assert_true(slm_vm_is_mapped(model) && slm_vm_is_mapped(model + bytes_of(1)));
    assert_false(slm_vm_is_mapped(model + bytes_of(MODEL)));
    if (untouched_pages_are_told())
        assert_false(is_resident(model) || is_resident(model + bytes_of(1)));
}

static void new_memory_is_made_like_a_model(void **state)
{
    (void)state;
    char *pages, *model = some_model(&pages);
    static const unsigned sizes[] = {1, 2, 3, 500};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const size_t bytes = bytes_of(sizes[i]);
        errno = EDOM;
        assert_true(slm_vm_map_as(model, pages, bytes, 0));
        assert_int_equal(errno, EDOM);
        assert_true(all_zero(pages, bytes));
        memset(pages, 0x5a, bytes);
        assert_false(slm_vm_is_mapped(pages + bytes));
        assert_model(model);
        pages += bytes;
    }
    munmap(model, (size_t)(pages - model));
}

static void what_is_in_the_model_s_way_stays(void **state)
{
    (void)state;
    char *pages, *model = some_model(&pages);
    assert_true(slm_vm_map(pages + bytes_of(2), bytes_of(1), 0));
    memset(pages + bytes_of(2), 0x33, bytes_of(1));
    errno = 0;
    assert_false(slm_vm_map_as(model, pages, bytes_of(PAGES), 0));
    assert_int_equal(errno, EEXIST);
    assert_false(slm_vm_is_mapped(pages) || slm_vm_is_mapped(pages + bytes_of(3)));
    for (size_t i = 0; i < bytes_of(1); i++)
        assert_int_equal(pages[bytes_of(2) + i], 0x33);
    assert_model(model);
    assert_true(slm_vm_map_as(model, pages, bytes_of(2), 0)); /* and it goes on in front */
    munmap(model, bytes_of(BETWEEN + PAGES));
}

/* Does memory there come from node 0 first? */
static bool prefers_node_0(const void *address)
{
    int mode = -1;
    unsigned long nodes[16] = {0};
    require(syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, address, MPOL_F_ADDR) == 0);
    return (mode & ~MPOL_MODE_FLAGS) == MPOL_PREFERRED && nodes[0] == 1;
}

static void new_memory_has_the_model_s_policy(void **state)
{
    (void)state;
    char *pages, *model = some_model(&pages);
    if (!slm_vm_bind(model, bytes_of(MODEL), 0)) {
        munmap(model, bytes_of(MODEL));
        print_message("this kernel has no policies\n");
        skip();
    }
    assert_true(prefers_node_0(model));
    for (unsigned i = 0; i < 10; i++) {
        assert_true(slm_vm_map_as(model, pages + bytes_of(i * 3), bytes_of(3), 0));
        memset(pages + bytes_of(i * 3), 1, bytes_of(3)); /* resident or not */
    }
    for (unsigned i = 0; i < 30; i++)
        assert_true(prefers_node_0(pages + bytes_of(i)));
    assert_true(prefers_node_0(model));
    assert_true(prefers_node_0(model + bytes_of(1)));
    assert_true(slm_vm_map(pages + bytes_of(40), bytes_of(1), 0));
    assert_false(prefers_node_0(pages + bytes_of(40))); /* what is not made like it */
    munmap(model, bytes_of(BETWEEN + 41));
}

static unsigned mappings(void)
{
    unsigned lines = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    require(file);
    for (int c; (c = getc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

/* A process may have 65,530 of them. */
static void adjoining_memory_is_one_mapping(void **state)
{
    (void)state;
    char *pages, *model = some_model(&pages);
    slm_vm_bind(model, bytes_of(MODEL), 0); /* with a policy, where the kernel has any */
    const unsigned before = mappings();
    for (unsigned i = 0; i < 50; i++) {
        assert_true(slm_vm_map_as(model, pages + bytes_of(i * 3), bytes_of(3), 0));
        memset(pages + bytes_of(i * 3), 1, bytes_of(3));
    }
    assert_true(mappings() <= before + 3);
    munmap(model, bytes_of(BETWEEN + 150));
}

static char *model_of_child, *pages_of_child;

/* Memory without the policy is better than none. */
static void map_without_mremap(void)
{
    refuse_call(SYS_mremap, EPERM, 0);
    errno = EDOM;
    require(slm_vm_map_as(model_of_child, pages_of_child, bytes_of(5), 0) && errno == EDOM);
    require(all_zero(pages_of_child, bytes_of(5)));
    memset(pages_of_child, 1, bytes_of(5));
}

static void map_without_memory(void)
{
    forbid_memory();
    errno = 0;
    require(!slm_vm_map_as(model_of_child, pages_of_child, bytes_of(5), 0) && errno == ENOMEM);
    require(!slm_vm_is_mapped(pages_of_child) && slm_vm_is_mapped(model_of_child + bytes_of(1)));
}

static void a_model_is_a_wish(void **state)
{
    (void)state;
    model_of_child = some_model(&pages_of_child);
    assert_child_silent(map_without_mremap);
    assert_child_silent(map_without_memory);
    munmap(model_of_child, bytes_of(MODEL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_size_is_the_kernel_s),
        cmocka_unit_test(a_picked_window_is_aligned_and_not_mapped),
        cmocka_unit_test(pages_are_mapped_where_asked),
        cmocka_unit_test(other_mappings_are_never_overwritten),
        cmocka_unit_test(a_held_window_is_filled),
        cmocka_unit_test(purged_pages_read_as_zero),
        cmocka_unit_test(locked_pages_are_purged),
        cmocka_unit_test(pages_move_without_a_copy),
        cmocka_unit_test(pages_move_to_a_longer_range),
        cmocka_unit_test(what_cannot_all_be_moved_stays),
        cmocka_unit_test(unmapped_pages_can_be_mapped_again),
        cmocka_unit_test(a_held_window_stays_held),
        cmocka_unit_test(a_page_is_wiped_in_children),
        cmocka_unit_test(limits_are_seen),
        cmocka_unit_test(advice_is_harmless),
        cmocka_unit_test(small_pages_cost_one_call),
        cmocka_unit_test(huge_pages_are_made_and_split),
        cmocka_unit_test(the_kernel_may_refuse),
        cmocka_unit_test(new_memory_is_made_like_a_model),
        cmocka_unit_test(what_is_in_the_model_s_way_stays),
        cmocka_unit_test(new_memory_has_the_model_s_policy),
        cmocka_unit_test(adjoining_memory_is_one_mapping),
        cmocka_unit_test(a_model_is_a_wish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
