/* src/os/topology.h: how many nodes there are, real and simulated. Simulations run in children that allocate nothing
 * afterwards. */
#include "unit.h"

#include <sched.h>

#include "os/sys.h"
#include "os/topology.h"

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
