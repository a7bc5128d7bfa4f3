/* src/page/reservation.h: mapping the range's parts, and its limit. */
#include "unit.h"

#include <linux/mempolicy.h>
#include <sysexits.h>

#include "os/topology.h"
#include "os/vm.h"
#include "page/page_map.h"
#include "page/reservation.h"

/* Behind everything that the process's own allocations will need in this test. */
static const size_t far = ((size_t)3 << 15) - 2;

static void extend_far(void)
{
    const uint64_t before = slm_reservation_heap_bytes();
    require(slm_reservation_extend(far, 4)); /* across the border of two sections */
    require(slm_reservation_heap_bytes() == before + 4 * SLM_GRANULE);
    require(slm_heap_limit == far + 4);
    require(all_zero(slm_granule_address(far), 4 * SLM_GRANULE));
    memset(slm_granule_address(far), 1, 4 * SLM_GRANULE);
    require(all_zero(slm_descriptor(far - 1), 6 * SLM_DESCRIPTOR_BYTES)); /* the neighbours' can be read, too */
    memset(slm_descriptor(far), 1, 4 * SLM_DESCRIPTOR_BYTES);
    const uint32_t *map = (const uint32_t *)(const void *)(slm_range.heap + SLM_MAP_OFFSET);
    require(all_zero(map + far, 4 * sizeof *map));
}

static void a_mapped_run_has_descriptors_and_map(void **state)
{
    (void)state;
    assert_child_silent(extend_far);
}

static void extend_twice(void)
{
    require(slm_reservation_extend(far, 4));
    memset(slm_granule_address(far), 1, 4 * SLM_GRANULE);
    errno = 0;
    require(!slm_reservation_extend(far + 3, 4) && errno == EEXIST);
    require(*(char *)slm_granule_address(far + 3) == 1);
    require(slm_heap_limit == far + 4);
    require(slm_reservation_extend(far - 10, 10)); /* the limit only grows */
    require(slm_heap_limit == far + 4);
}

static void what_is_in_the_way_stays(void **state)
{
    (void)state;
    assert_child_silent(extend_twice);
}

static void unmap_and_extend(void)
{
    const uint64_t before = slm_reservation_heap_bytes();
    require(slm_reservation_extend(far, 4));
    memset(slm_granule_address(far), 1, 4 * SLM_GRANULE);
    errno = EDOM;
    require(slm_reservation_unmap(slm_granule_address(far + 1), 2 * SLM_GRANULE));
    require(errno == EDOM);
    require(slm_reservation_heap_bytes() == before + 2 * SLM_GRANULE);
    require(*(char *)slm_granule_address(far) == 1 && *(char *)slm_granule_address(far + 3) == 1);
    require(slm_reservation_extend(far + 1, 2));
    require(all_zero(slm_granule_address(far + 1), 2 * SLM_GRANULE));
    require(slm_reservation_heap_bytes() == before + 4 * SLM_GRANULE);
    require(slm_heap_limit == far + 4);
}

static void addresses_go_back_and_come_again(void **state)
{
    (void)state;
    assert_child_silent(unmap_and_extend);
}

static void extend_without_memory(void)
{
    const size_t limit = slm_heap_limit;
    forbid_memory();
    errno = 0;
    require(!slm_reservation_extend(far, 4) && errno == ENOMEM);
    require(slm_heap_limit == limit);
    errno = 0;
    require(!slm_reservation_metadata(0, SLM_GRANULE) && errno == ENOMEM);
}

static void extend_once_memory_is_back(void)
{
    const struct rlimit none = {1, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &none);
    require(!slm_reservation_extend(far, 4));
    setrlimit(RLIMIT_AS, &all);
    require(slm_reservation_extend(far, 4));
    memset(slm_granule_address(far), 1, 4 * SLM_GRANULE);
}

static void no_memory_is_an_answer(void **state)
{
    (void)state;
    assert_child_silent(extend_without_memory);
    assert_child_silent(extend_once_memory_is_back);
}

/* -- areas ------------------------------------------------------------------------------------------------------- */

/* The page map has entries for it in all areas, but descriptors are mapped for this one alone. */
static void extend_far_in_each_area(void)
{
    for (unsigned area = slm_area_count(); area-- > 0;) {
        const size_t first = slm_granule_of(slm_area_start(area)) + far;
        const uint64_t before = slm_reservation_area_bytes(area), all = slm_reservation_heap_bytes();
        require(!slm_reservation_described(first) && !slm_reservation_described(first + 3));
        require(slm_reservation_extend(first, 4)); /* across the border of two sections */
        require(slm_reservation_described(first) && slm_reservation_described(first + 3));
        require(!slm_reservation_described(first + 4)); /* behind the limit */
        require(slm_reservation_area_bytes(area) == before + 4 * SLM_GRANULE);
        require(slm_reservation_heap_bytes() == all + 4 * SLM_GRANULE);
        require(slm_heap_limit == far + 4);
        memset(slm_granule_address(first), 1, 4 * SLM_GRANULE);
        require(all_zero(slm_descriptor(first), 4 * SLM_DESCRIPTOR_BYTES));
        for (unsigned other = 0; other < slm_area_count(); other++) {
            const size_t same = slm_granule_of(slm_area_start(other)) + far;
            require(slm_granule_valid(same) && slm_granule_valid(same + 3) && !slm_granule_valid(same + 4));
            require(all_zero(slm_area_start(other) + SLM_MAP_OFFSET + far * sizeof(uint32_t), 4 * sizeof(uint32_t)));
            require(slm_reservation_described(same) == (other >= area));
        }
    }
}

static void areas_grow_by_themselves(void **state)
{
    (void)state;
    assert_child_silent(extend_far_in_each_area);
}

enum { GROWERS = 2, GROWN = 200, SECTION = 2048 };

static pthread_barrier_t both;
static _Atomic bool slowly;

bool __real_slm_vm_map(void *address, size_t size, unsigned how);
bool __wrap_slm_vm_map(void *address, size_t size, unsigned how);

/* The library's calls come here. One that takes its time gives other threads the time to come to the same. */
bool __wrap_slm_vm_map(void *address, size_t size, unsigned how)
{
    const struct timespec time = {0, 20000};
    if (load_relaxed(&slowly))
        nanosleep(&time, NULL);
    return __real_slm_vm_map(address, size, how);
}

/* A section each time, the same in both areas. Whoever finds that the other has just mapped its part of the page map
 * does not take it for something foreign, which would cost the addresses. */
static void *grow(void *area)
{
    const size_t start = slm_granule_of(slm_area_start((unsigned)(uintptr_t)area)) + far / SECTION * SECTION;
    for (unsigned turn = 0; turn < GROWN; turn++) {
        const size_t first = start + (size_t)turn * SECTION;
        pthread_barrier_wait(&both);
        require(slm_reservation_extend(first, 1) && slm_reservation_described(first));
        require(slm_page_map_slot_offset(slm_granule_address(first)) == 0);
    }
    return NULL;
}

static void grow_at_once(void)
{
    require(pthread_barrier_init(&both, NULL, GROWERS) == 0);
    store_relaxed(&slowly, true);
    on_threads(GROWERS, grow);
}

static void areas_that_grow_at_once_lose_nothing(void **state)
{
    (void)state;
    if (slm_area_count() == 1) {
        print_message("for machines with several nodes\n");
        skip();
    }
    assert_child_silent(grow_at_once);
}

enum { BINDERS = 4, BOUND = 150 };

static unsigned bound_area;

/* Does memory there come from node 0 first? */
static bool prefers_node_0(const void *address)
{
    int mode = -1;
    unsigned long nodes[16] = {0};
    require(syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, address, MPOL_F_ADDR) == 0);
    return (mode & ~MPOL_MODE_FLAGS) == MPOL_PREFERRED && nodes[0] == 1;
}

static void *grow_bound(void *number)
{
    const size_t start = slm_granule_of(slm_area_start(bound_area)) + far + (uintptr_t)number;
    for (size_t turn = 0; turn < BOUND; turn++) {
        const size_t first = start + turn * BINDERS;
        require(slm_reservation_extend(first, 1));
        require(prefers_node_0(slm_granule_address(first)));
        memset(slm_granule_address(first), 1, SLM_GRANULE);
    }
    return NULL;
}

/* By several threads, which share its anchor. On a simulated machine nobody else uses the last area. */
static void bind_and_grow(void)
{
    char *anchor = slm_area_start(bound_area);
    require(slm_vm_map(anchor, 2 * slm_page_size, 0));
    if (!slm_vm_bind(anchor, 2 * slm_page_size, 0))
        _exit(EX_UNAVAILABLE);
    slm_range.bound[bound_area] = true;
    on_threads(BINDERS, grow_bound);
    require(prefers_node_0(anchor) && prefers_node_0(anchor + slm_page_size));
}

static void a_bound_area_grows_like_its_anchor(void **state)
{
    (void)state;
    bound_area = slm_area_count() - 1;
    if (bound_area == 0 || slm_vm_is_mapped(slm_area_start(bound_area)) || slm_range.reserved) {
        print_message("for machines with several nodes\n");
        skip();
    }
    const struct outcome outcome = in_child(bind_and_grow);
    if (outcome.status == EX_UNAVAILABLE) {
        print_message("this kernel has no policies\n");
        skip();
    }
    assert_string_equal(outcome.said, "");
    assert_int_equal(outcome.status, 0);
}

/* -- metadata ---------------------------------------------------------------------------------------------------- */

static void metadata_lie_in_their_node_s_part(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 3; turn++)
        for (unsigned node = 0; node <= slm_range.node_mask; node++) {
            char *piece = slm_reservation_metadata(node, 3 * SLM_GRANULE);
            assert_non_null(piece);
            assert_true(all_zero(piece, 3 * SLM_GRANULE));
            assert_int_equal(slm_reservation_metadata_node(piece), node);
            assert_int_equal(slm_reservation_metadata_node(piece + 3 * SLM_GRANULE - 1), node);
            assert_false(slm_granule_valid(slm_granule_of(piece)));
        }
}

static void metadata_are_zeroed_and_apart(void **state)
{
    (void)state;
    char *pieces[4];
    const uint64_t before = slm_reservation_metadata_bytes();
    for (size_t i = 0; i < COUNT(pieces); i++) {
        pieces[i] = slm_reservation_metadata(0, (i + 1) * SLM_GRANULE);
        assert_non_null(pieces[i]);
        assert_true(all_zero(pieces[i], (i + 1) * SLM_GRANULE));
        memset(pieces[i], (int)i + 1, (i + 1) * SLM_GRANULE);
        assert_false(slm_granule_valid(slm_granule_of(pieces[i])));
    }
    for (size_t i = 0; i < COUNT(pieces); i++)
        for (size_t at = 0; at < (i + 1) * SLM_GRANULE; at++)
            assert_int_equal(pieces[i][at], i + 1);
    assert_int_equal(slm_reservation_metadata_bytes() - before, 10 * SLM_GRANULE);
}

/* Pieces of the same node for several threads at once. */
static void *take_metadata(void *number)
{
    char *pieces[64];
    for (size_t i = 0; i < COUNT(pieces); i++) {
        pieces[i] = slm_reservation_metadata(0, (1 + i % 3) * SLM_GRANULE);
        require(pieces[i] && all_zero(pieces[i], (1 + i % 3) * SLM_GRANULE));
        memset(pieces[i], 1 + (int)(uintptr_t)number, (1 + i % 3) * SLM_GRANULE);
    }
    for (size_t i = 0; i < COUNT(pieces); i++)
        for (size_t at = 0; at < (1 + i % 3) * SLM_GRANULE; at += 512)
            require(pieces[i][at] == 1 + (char)(uintptr_t)number);
    return NULL;
}

static void take_metadata_at_once(void)
{
    on_threads(8, take_metadata);
}

/* However often it is refused, the node's part is not used up by that. */
static void ask_often_without_memory(void)
{
    const struct rlimit none = {1, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    char *before = slm_reservation_metadata(0, SLM_GRANULE);
    setrlimit(RLIMIT_AS, &none);
    for (unsigned i = 0; i < 1000; i++)
        require(!slm_reservation_metadata(0, MIB) && errno == ENOMEM);
    setrlimit(RLIMIT_AS, &all);
    require(slm_reservation_metadata(0, MIB) == before + SLM_GRANULE);
}

static void metadata_are_for_any_thread(void **state)
{
    (void)state;
    assert_child_silent(take_metadata_at_once);
    assert_child_silent(ask_often_without_memory);
}

/* Has the kernel been told so of the mapping that begins there? */
static bool has_flag(const char *address, const char *flag)
{
    char line[256];
    unsigned long start, end;
    bool inside = false, has = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    require(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start == (uintptr_t)address;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            has = strstr(line, flag);
    fclose(file);
    return has;
}

static void map_per_cpu_memory(void)
{
    char *middle = slm_range.percpu + slm_range.percpu_bytes / 2;
    char *last = slm_range.percpu + slm_range.percpu_bytes - SLM_GRANULE;
    const uint64_t heap = slm_reservation_heap_bytes(), metadata = slm_reservation_metadata_bytes();
    require(slm_reservation_percpu_map(middle, 4 * MIB) && slm_reservation_percpu_map(last, SLM_GRANULE));
    require(all_zero(middle, 4 * MIB) && all_zero(last, SLM_GRANULE));
    memset(middle, 1, 4 * MIB);
    memset(last, 1, SLM_GRANULE);
    require(access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0 || has_flag(middle, " nh"));
    errno = EDOM;
    require(slm_reservation_unmap(middle + MIB, MIB) && errno == EDOM);
    require(middle[MIB - 1] == 1 && middle[2 * MIB] == 1 && *last == 1);
    require(slm_reservation_percpu_map(middle + MIB, MIB));
    require(all_zero(middle + MIB, MIB));
    require(slm_reservation_heap_bytes() == heap && slm_reservation_metadata_bytes() == metadata);
}

static void per_cpu_memory_is_mapped_and_goes_back(void **state)
{
    (void)state;
    assert_child_silent(map_per_cpu_memory);
}

static void map_per_cpu_memory_twice(void)
{
    char *start = slm_range.percpu;
    require(slm_reservation_percpu_map(start + MIB, MIB));
    memset(start + MIB, 1, MIB);
    errno = 0;
    require(!slm_reservation_percpu_map(start, 2 * MIB) && errno == EEXIST);
    require(start[MIB] == 1 && slm_reservation_percpu_map(start, MIB));
    forbid_memory();
    errno = 0;
    require(!slm_reservation_percpu_map(start + 2 * MIB, MIB) && errno == ENOMEM);
}

static void what_is_in_per_cpu_memory_s_way_stays(void **state)
{
    (void)state;
    assert_child_silent(map_per_cpu_memory_twice);
}

static void start_without_addresses(void)
{
    forbid_memory();
    require(!slm_reservation_start());
}

static void a_start_that_fails_says_so(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(start_without_addresses);
    assert_string_equal(outcome.said, "slabmalloc: no address range can be reserved: every allocation will fail\n");
    assert_int_equal(outcome.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mapped_run_has_descriptors_and_map),
        cmocka_unit_test(what_is_in_the_way_stays),
        cmocka_unit_test(addresses_go_back_and_come_again),
        cmocka_unit_test(no_memory_is_an_answer),
        cmocka_unit_test(areas_grow_by_themselves),
        cmocka_unit_test(areas_that_grow_at_once_lose_nothing),
        cmocka_unit_test(a_bound_area_grows_like_its_anchor),
        cmocka_unit_test(metadata_lie_in_their_node_s_part),
        cmocka_unit_test(metadata_are_zeroed_and_apart),
        cmocka_unit_test(metadata_are_for_any_thread),
        cmocka_unit_test(per_cpu_memory_is_mapped_and_goes_back),
        cmocka_unit_test(what_is_in_per_cpu_memory_s_way_stays),
        cmocka_unit_test(a_start_that_fails_says_so),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
