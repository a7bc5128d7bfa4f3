/* src/os/topology.h: how many nodes there are, real and simulated. Simulations run in children that allocate nothing
 * afterwards. */
#include "unit.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_simulated_machine_deals_threads_out),
        cmocka_unit_test(nonsense_is_warned_of),
        cmocka_unit_test(the_real_machine_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
