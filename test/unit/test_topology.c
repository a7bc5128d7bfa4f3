/* src/os/topology.h: how many nodes there are, real and simulated. Simulations run in children that allocate
 * nothing afterwards. */
#include "unit.h"
#include "machine.h"

#include <sched.h>

#include "os/sys.h"

static void simulate_two_by_two(void)
{
    static const unsigned nodes[] = {0, 0, 1, 1, 0, 0, 1, 1};
    slm_topology_simulate("2x2");
    require(slm_nodes == 2);
    for (uintptr_t thread = 0; thread < COUNT(nodes); thread++)
        require(slm_topology_node(thread) == nodes[thread]);
    require(!slm_topology_binds());
}

static void simulate_the_greatest(void)
{
    slm_topology_simulate("64x1");
    require(slm_nodes == SLM_NODES_MAX);
    for (uintptr_t thread = 0; thread < 1000; thread++)
        require(slm_topology_node(thread) == thread % 64);
    require(slm_topology_node(UINTPTR_MAX) < 64);
}

/* Whatever it returned before, and however often it is asked: the number alone counts. */
static void ask_again_on_a_simulated_machine(void)
{
    uint32_t cpu = 0;
    unsigned node = 0;
    slm_topology_simulate("4x2");
    for (unsigned turn = 0; turn < 1000; turn++) {
        const unsigned number = turn * 7;
        for (unsigned i = 0; i < 3; i++)
            require((node = slm_topology_node_again(number, &cpu, node)) == number % 8 / 2);
        require(slm_topology_node(number) == node);
    }
}

static void ask_again_with_one_node(void)
{
    slm_topology_simulate("1x8");
    for (uintptr_t number = 0; number < 20; number++) {
        uint32_t cpu = 77;
        require(slm_topology_node_again(number, &cpu, 5) == 0 && cpu == 77);
    }
}

/* The kernel says where the thread runs, and it runs where it is kept. */
static void ask_again_on_this_machine(void)
{
    uint32_t cpu = 0;
    unsigned node = 0, at;
    slm_topology_start();
    for (unsigned turn = 0; turn < 1000; turn++) {
        node = slm_topology_node_again(turn, &cpu, node);
        require(node < slm_nodes && slm_topology_is_online(node));
    }
    cpu_set_t here;
    require(sched_getaffinity(0, sizeof here, &here) == 0);
    for (int kept = 0; kept < CPU_SETSIZE; kept++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(kept, &one);
        if (!CPU_ISSET(kept, &here) || sched_setaffinity(0, sizeof one, &one) != 0)
            continue;
        unsigned its_node;
        slm_sys_where(&at, &its_node);
        for (unsigned turn = 0; turn < 100; turn++) /* where asking is dear it is not done each time */
            node = slm_topology_node_again(0, &cpu, node);
        require(at == (unsigned)kept && node == (slm_nodes == 1 ? 0 : its_node));
    }
}

static void asking_again_tells_where(void **state)
{
    (void)state;
    assert_child_silent(ask_again_on_a_simulated_machine);
    assert_child_silent(ask_again_with_one_node);
    assert_child_silent(ask_again_on_this_machine);
}

static void look_which_are_online(void)
{
    const unsigned before = slm_nodes;
    require(before > 1 || (slm_topology_is_online(0) && !slm_topology_is_online(1)));
    slm_topology_simulate("3x2");
    for (unsigned node = 0; node < SLM_NODES_MAX + 2; node++)
        require(slm_topology_is_online(node) == (node < 3));
    slm_topology_simulate("1x2");
    require(slm_topology_is_online(0) && !slm_topology_is_online(1));
}

static void nodes_that_are_there_are_online(void **state)
{
    (void)state;
    assert_child_silent(look_which_are_online);
}

static void a_simulated_machine_deals_threads_out(void **state)
{
    (void)state;
    assert_child_silent(simulate_two_by_two);
    assert_child_silent(simulate_the_greatest);
}

static const char *simulated;
static unsigned simulated_cpus;

static void count_simulated_cpus(void)
{
    require(!slm_topology_is_simulated());
    slm_topology_simulate(simulated);
    require(slm_topology_is_simulated());
    require(slm_topology_cpus() == simulated_cpus);
}

static void a_simulated_machine_has_all_nodes_cpus(void **state)
{
    (void)state;
    static const char *const texts[] = {"1x1", "1x64", "2x2", "8x64", "64x128"};
    static const unsigned cpus[] = {1, 64, 4, 512, 8192};
    for (size_t i = 0; i < COUNT(texts); i++) {
        simulated = texts[i];
        simulated_cpus = cpus[i];
        assert_child_silent(count_simulated_cpus);
    }
}

static const char *nonsense;

static void simulate_nonsense(void)
{
    const unsigned real = slm_nodes;
    slm_topology_simulate(nonsense);
    require(slm_nodes == real && slm_topology_node(0) < real);
}

static void nonsense_is_warned_of(void **state)
{
    (void)state;
    static const char *const texts[] = {"2", "x", "x2", "2x", "0x2", "2x0", "65x1", "2x4097", "-1x2", "axb"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        nonsense = texts[i];
        const struct outcome outcome = in_child(simulate_nonsense);
        assert_int_equal(outcome.status, 0);
        assert_string_equal(outcome.said, "slabmalloc: bad topology in SLABMALLOC_OPTIONS, the machine's own kept\n");
    }
    nonsense = "";
    assert_child_silent(simulate_nonsense);
}

static void look_at_the_machine(void)
{
    char online[256];
    errno = EDOM;
    slm_topology_start();
    require(errno == EDOM);
    require(slm_nodes >= 1 && slm_nodes <= SLM_NODES_MAX);
    require(slm_topology_node(7) < slm_nodes);
    require(slm_topology_binds() == (slm_nodes > 1));
    if (slm_sys_read_file("/sys/devices/system/node/online", online, sizeof online) && strcmp(online, "0\n") == 0)
        require(slm_nodes == 1);
}

static void the_real_machine_is_counted(void **state)
{
    (void)state;
    assert_child_silent(look_at_the_machine);
}

/* The numbers of a list such as "0-3,8"; how many there are. */
static unsigned numbers_of_file(const char *path, bool *there, unsigned most)
{
    unsigned first, last, count = 0;
    FILE *file = fopen(path, "r");
    memset(there, 0, most * sizeof *there);
    if (!file)
        return 0;
    while (fscanf(file, "%u", &first) == 1) {
        last = first;
        if (fscanf(file, "-%u", &last) == EOF)
            last = first;
        for (; first <= last && first < most; first++, count++)
            there[first] = true;
        if (getc(file) != ',')
            break;
    }
    fclose(file);
    return count;
}

static unsigned highest(const bool *there, unsigned most)
{
    while (most > 0 && !there[most - 1])
        most--;
    return most;
}

/* Those that may come online some day included, and at least all that we may run on. */
static void possible_cpus_are_counted(void **state)
{
    (void)state;
    static bool possible[SLM_CPUS_MAX];
    cpu_set_t allowed;
    errno = EDOM;
    const unsigned cpus = slm_topology_cpus();
    assert_int_equal(errno, EDOM);
    assert_true(cpus >= 1 && cpus <= SLM_CPUS_MAX);
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    for (unsigned cpu = cpus; cpu < CPU_SETSIZE; cpu++)
        assert_false(CPU_ISSET(cpu, &allowed));
    if (numbers_of_file("/sys/devices/system/cpu/possible", possible, SLM_CPUS_MAX) > 0)
        assert_int_equal(cpus, highest(possible, SLM_CPUS_MAX));
}

static void count_without_files(void)
{
    static uint8_t nodes[SLM_CPUS_MAX], before[SLM_CPUS_MAX];
    const unsigned cpus = slm_topology_cpus();
    slm_topology_cpu_nodes(before, cpus);
    refuse_call(SYS_openat, EACCES, 0);
    const unsigned by_mask = slm_topology_cpus();
    require(by_mask >= cpus && by_mask <= SLM_CPUS_MAX); /* it may have room for more than are possible */
    slm_topology_cpu_nodes(nodes, cpus);
    for (unsigned cpu = 0; cpu < cpus; cpu++) /* the links are there, or nothing is */
        require(nodes[cpu] == before[cpu] || nodes[cpu] == SLM_NODES_MAX);
    refuse_call(SYS_sched_getaffinity, EPERM, 0);
    errno = EDOM;
    require(slm_topology_cpus() == 0 && errno == EDOM);
}

static void without_files_the_kernel_s_mask_counts(void **state)
{
    (void)state;
    assert_child_silent(count_without_files);
}

/* As the nodes' own lists say, or the links of CPUs that are offline; nothing is written behind the last one. */
static void cpus_have_their_nodes(void **state)
{
    (void)state;
    static bool there[SLM_CPUS_MAX];
    static uint8_t nodes[SLM_CPUS_MAX + 1];
    const unsigned cpus = slm_topology_cpus();
    nodes[cpus] = 99;
    errno = EDOM;
    slm_topology_cpu_nodes(nodes, cpus);
    assert_int_equal(errno, EDOM);
    assert_int_equal(nodes[cpus], 99);
    for (unsigned node = 0; node < slm_nodes; node++) {
        numbers_of_file(text("/sys/devices/system/node/node%u/cpulist", node), there, SLM_CPUS_MAX);
        for (unsigned cpu = 0; cpu < cpus; cpu++)
            if (there[cpu])
                assert_int_equal(nodes[cpu], node);
            else if (nodes[cpu] == node)
                assert_int_equal(access(text("/sys/devices/system/cpu/cpu%u/node%u", cpu, node), F_OK), 0);
    }
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        assert_true(nodes[cpu] < slm_nodes || nodes[cpu] == SLM_NODES_MAX);
}

static void compare_with_the_kernel_s_list(void)
{
    static bool there[SLM_NODES_MAX];
    slm_topology_start();
    if (slm_nodes == 1) /* or all the others are forbidden to us */
        there[0] = true;
    else
        require(numbers_of_file("/sys/devices/system/node/online", there, SLM_NODES_MAX) > 0);
    for (unsigned node = 0; node < SLM_NODES_MAX; node++)
        require(slm_topology_is_online(node) == there[node]);
}

/* Their numbers may have gaps. */
static void real_nodes_are_online(void **state)
{
    (void)state;
    assert_child_silent(compare_with_the_kernel_s_list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_simulated_machine_deals_threads_out),
        cmocka_unit_test(a_simulated_machine_has_all_nodes_cpus),
        cmocka_unit_test(nonsense_is_warned_of),
        cmocka_unit_test(the_real_machine_is_counted),
        cmocka_unit_test(possible_cpus_are_counted),
        cmocka_unit_test(without_files_the_kernel_s_mask_counts),
        cmocka_unit_test(cpus_have_their_nodes),
        cmocka_unit_test(asking_again_tells_where),
        cmocka_unit_test(nodes_that_are_there_are_online),
        cmocka_unit_test(real_nodes_are_online),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
