/* src/percpu/here.h: this CPU's copy, and changes of it that lose nothing, whatever comes between: handlers at any
 * instruction, signals at any time, other threads, other CPUs. It runs with restartable sequences, where there are
 * any, without them (a setting of the C library's), by concurrency ids, and on a simulated machine. */
#include "machine.h"
#include "rseq.h"
#include "trap.h"

#include <limits.h>
#include <sys/time.h>

#include "base/options.h"
#include "os/sys.h"
#include "os/vm.h"
#include "percpu/here.h"
#include "percpu/percpu.h"

static slab_percpu object;

static int begin(void **state)
{
    (void)state;
    object = slm_percpu_alloc(sizeof(uintptr_t), sizeof(uintptr_t));
    return object ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    slm_percpu_free(object);
    return 0;
}

static bool by_sequences(void)
{
    return slab_percpu_here.sequence != 0;
}

static uintptr_t *copy(unsigned cpu)
{
    return slab_percpu_ptr(object, (int)cpu);
}

static void clear(void)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        *copy(cpu) = 0;
}

static uintptr_t sum(void)
{
    uintptr_t sum = 0;
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        sum += *copy(cpu);
    return sum;
}

/* -- which way --------------------------------------------------------------------------------------------------- */

static void sequences_are_used_where_there_are_any(void **state)
{
    (void)state;
    struct slm_rseq rseq;
    const bool expected = rseq_is_there() && !slm_topology_is_simulated();
    assert_int_equal(by_sequences(), expected);
    if (rseq_is_unwanted() || slm_topology_is_simulated())
        assert_false(by_sequences());
    if (!expected)
        return;
    assert_true(slm_rseq_find(&rseq));
    assert_int_equal(slab_percpu_here.sequence, rseq.sequence);
    assert_int_equal(slab_percpu_here.index, slm_options.percpu_cid && rseq.cid ? rseq.cid : rseq.cpu);
}

/* The thread is not registered when per-CPU memory begins: all goes by atomic operations. */
static void begin_unregistered(void)
{
    unregister_rseq();
    require(begin(NULL) == 0 && !by_sequences());
    slab_percpu_add_long(object, 5);
    slab_percpu_add_u64(object, 6);
    require(slab_percpu_sum_long(object) == 11);
}

static void what_is_refused_is_not_used(void **state)
{
    (void)state;
    if (!rseq_is_there()) {
        print_message("the C library has registered nothing\n");
        skip();
    }
    assert_child_silent(begin_unregistered);
}

static void look_at_own_copy(unsigned cpu)
{
    const uintptr_t *own = slm_here_copy(object);
    require(own == slab_percpu_this(object));
    if (slm_topology_is_simulated())
        require(own == copy(slm_sys_thread_id() % slm_percpu_cpus()));
    else if (!slm_options.percpu_cid)
        require(own == copy(cpu));
    require(own >= copy(0) && own <= copy(slm_percpu_cpus() - 1) && (own - copy(0)) % (copy(1) - copy(0)) == 0);
}

static void the_copy_is_this_cpu_s(void **state)
{
    (void)state;
    on_each_cpu(look_at_own_copy);
}

static uintptr_t dealt[512]; /* how many threads each copy is dealt to */

static void *note_copy(void *nothing)
{
    add_relaxed((_Atomic uintptr_t *)slm_here_copy(object), 1);
    add_relaxed((_Atomic uintptr_t *)&dealt[slm_sys_thread_id() % slm_percpu_cpus()], 1);
    return nothing;
}

static void a_simulated_machine_deals_copies_out(void **state)
{
    (void)state;
    if (!slm_topology_is_simulated() || slm_percpu_cpus() == 1) {
        print_message("for simulated machines of several CPUs\n");
        skip();
    }
    clear();
    assert_true(slm_percpu_cpus() <= COUNT(dealt));
    on_threads(32, note_copy);
    assert_int_equal(sum(), 32);
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        assert_int_equal(*copy(cpu), dealt[cpu]);
}

/* -- one thread -------------------------------------------------------------------------------------------------- */

static void change_once(unsigned cpu)
{
    (void)cpu;
    uintptr_t *own = slm_here_copy(object);
    clear();
    errno = EDOM;
    slab_percpu_add_u64(object, UINT64_MAX);
    slab_percpu_add_long(object, LONG_MIN);
    require(*own == (uintptr_t)LONG_MAX);
    require(slm_here_exchange(object, 7) == (uintptr_t)LONG_MAX && *own == 7);
    require(slm_here_compare_exchange(object, 8, 9) == 7 && *own == 7);
    require(slm_here_compare_exchange(object, 7, UINTPTR_MAX) == 7 && *own == UINTPTR_MAX);
    require(slm_here_compare_exchange(object, UINTPTR_MAX >> 32, 0) == UINTPTR_MAX && *own == UINTPTR_MAX);
    require(sum() == UINTPTR_MAX && errno == EDOM); /* no other copy */
    if (!by_sequences()) {
        slm_here_add(object, 2);
        require(*own == 1);
    }
    clear();
}

static void changes_are_of_the_own_copy(void **state)
{
    (void)state;
    on_each_cpu(change_once);
}

enum { NODES = 6 };
static slab_percpu_node nodes[NODES];

static void push_and_pop(unsigned cpu)
{
    (void)cpu;
    clear();
    errno = EDOM;
    require(!slm_here_pop(object));
    for (size_t i = 0; i < NODES; i++) {
        slm_here_push(object, &nodes[i]);
        require(nodes[i].next == (i > 0 ? &nodes[i - 1] : NULL));
    }
    for (size_t i = NODES; i-- > 2;)
        require(slm_here_pop(object) == &nodes[i]);
    slm_here_push(object, &nodes[5]);
    require(slm_here_pop(object) == &nodes[5] && slm_here_pop(object) == &nodes[1]);
    require(slm_here_pop(object) == &nodes[0] && !slm_here_pop(object) && !slm_here_pop(object));
    require(sum() == 0 && errno == EDOM);
}

static void the_last_one_in_is_the_first_one_out(void **state)
{
    (void)state;
    on_each_cpu(push_and_pop);
}

static void change_in_child(void)
{
    slab_percpu_add_long(object, 5);
    slab_percpu_add_long(object, 6);
    require(slab_percpu_sum_long(object) == 11);
    push_and_pop(0);
}

static void a_child_of_fork_goes_on(void **state)
{
    (void)state;
    clear();
    assert_child_silent(change_in_child);
    assert_int_equal(sum(), 0);
}

/* -- handlers at any instruction --------------------------------------------------------------------------------- */

/* A sequence that a trap interrupts begins anew, so there is no end of instructions to trap at: enough are tried that
 * what comes before it is among them. */
static bool may_go_on(unsigned long at)
{
    return !by_sequences() || at < 50;
}

static unsigned long interrupted; /* how often */

static bool interrupt(unsigned long at, void (*call)(void), void (*handler)(void))
{
    const bool came = interrupt_at(at, call, handler);
    interrupted += came;
    return came;
}

/* On one CPU, so that call and handler change one copy. What threads of a simulated machine have is the same, found
 * by many more instructions. */
static void trace_on_one_cpu(void (*run)(unsigned cpu))
{
    if (slm_topology_is_simulated()) {
        print_message("for real machines\n");
        skip();
    }
    interrupted = 0;
    begin_tracing();
    on_cpus(1, run);
    end_tracing(interrupted);
}

static uintptr_t of_call, of_handler;

static void add_one(void)
{
    slab_percpu_add_long(object, 1);
}

static void add_ten(void)
{
    slab_percpu_add_long(object, 10);
}

static void exchange_five(void)
{
    of_call = slm_here_exchange(object, 5);
}

static void exchange_seven(void)
{
    of_handler = slm_here_exchange(object, 7);
}

static void claim(void)
{
    of_call = slm_here_compare_exchange(object, 0, 1);
}

static void claim_in_handler(void)
{
    of_handler = slm_here_compare_exchange(object, 0, 2);
}

static void change_and_interrupt(unsigned cpu)
{
    (void)cpu;
    bool some = true;
    for (unsigned long at = 1; some && may_go_on(at); at++) {
        clear();
        some = interrupt(at, add_one, add_ten);
        require(sum() == (some ? 11 : 1));
        clear();
        of_handler = 7; /* as if it had come last of all */
        some |= interrupt(at, exchange_five, exchange_seven);
        require(of_call + of_handler + sum() == 12); /* 0, 5, 7: each is somewhere */
        clear();
        of_handler = 1;
        some |= interrupt(at, claim, claim_in_handler);
        require((of_call == 0 && of_handler == 1 && sum() == 1) || (of_call == 2 && of_handler == 0 && sum() == 2));
    }
}

static void handlers_at_any_instruction_lose_no_change(void **state)
{
    (void)state;
    trace_on_one_cpu(change_and_interrupt);
}

static slab_percpu_node *popped[2]; /* by the call, and by the handler */

static void pop(void)
{
    popped[0] = slm_here_pop(object);
}

static void push(void)
{
    slm_here_push(object, &nodes[3]);
}

static void push_two(void)
{
    slm_here_push(object, &nodes[4]);
    slm_here_push(object, &nodes[5]);
}

static void pop_one(void)
{
    popped[1] = slm_here_pop(object);
}

/* The head is back where it was, with another node below it. */
static void pop_two_and_push_one_again(void)
{
    slab_percpu_node *first = slm_here_pop(object);
    popped[1] = first ? slm_here_pop(object) : NULL;
    if (first)
        slm_here_push(object, first);
}

/* Nodes that were popped, or are still there, each once; of as many as `there` says, a bit a node. */
static void require_each_once(unsigned there)
{
    unsigned found = 0;
    for (size_t i = 0; i < COUNT(popped); i++)
        if (popped[i])
            found ^= 1u << (popped[i] - nodes);
    unsigned count = 0;
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        for (slab_percpu_node *node = (slab_percpu_node *)*copy(cpu); node; node = node->next) {
            require(++count <= NODES);
            found ^= 1u << (node - nodes);
        }
    require(found == there);
    require(count + (popped[0] != NULL) + (popped[1] != NULL) == (unsigned)__builtin_popcount(there));
}

struct between {
    void (*call)(void), (*handler)(void);
    unsigned call_pushes, handler_pushes; /* bits of nodes */
};

static void interrupt_list(const struct between *between, unsigned there)
{
    bool some = true;
    for (unsigned long at = 1; some && may_go_on(at); at++) {
        clear();
        memset(popped, 0, sizeof popped);
        for (size_t i = 0; i < there; i++)
            slm_here_push(object, &nodes[i]);
        some = interrupt(at, between->call, between->handler);
        require_each_once(((1u << there) - 1) | between->call_pushes | (some ? between->handler_pushes : 0));
        if (between->call == pop && between->handler == push_two && there > 0)
            require(popped[0]); /* there was one all the time */
    }
}

static void interrupt_lists(unsigned cpu)
{
    static const struct between betweens[] = {
        {pop, push_two, 0, 1 << 4 | 1 << 5},
        {pop, pop_one, 0, 0},
        {pop, pop_two_and_push_one_again, 0, 0},
        {push, push_two, 1 << 3, 1 << 4 | 1 << 5},
        {push, pop_one, 1 << 3, 0},
        {push, pop_two_and_push_one_again, 1 << 3, 0},
    };
    (void)cpu;
    for (size_t i = 0; i < COUNT(betweens); i++)
        for (unsigned there = 0; there <= 2; there++)
            interrupt_list(&betweens[i], there);
    clear();
}

static void handlers_at_any_instruction_lose_no_node(void **state)
{
    (void)state;
    trace_on_one_cpu(interrupt_lists);
}

/* -- signals at any time ----------------------------------------------------------------------------------------- */

enum { SIGNALS = 2000, WITHIN_US = 100, FROM_HANDLER = 32 };

static volatile uint64_t signals;

static void add_from_handler(int number)
{
    (void)number;
    const int kept = errno;
    slab_percpu_add_u64(object, (uint64_t)1 << FROM_HANDLER);
    signals++;
    errno = kept;
}

/* One at a time: what is interrupted gets on, however slow the machine is. */
static void signals_at_any_time_lose_no_change(void **state)
{
    (void)state;
    uint64_t own = 0, seed = 1;
    clear();
    signals = 0;
    signal(SIGALRM, add_from_handler);
    for (unsigned long wanted = 1; wanted <= scaled(SIGNALS); wanted++) {
        const struct itimerval soon = {.it_value = {0, 1 + (long)random_below(&seed, WITHIN_US)}};
        setitimer(ITIMER_REAL, &soon, NULL);
        while (signals < wanted)
            for (unsigned i = 0; i < 100; i++, own++)
                slab_percpu_add_long(object, 1);
    }
    signal(SIGALRM, SIG_DFL);
    assert_int_equal(sum() & (((uint64_t)1 << FROM_HANDLER) - 1), own);
    assert_int_equal(sum() >> FROM_HANDLER, signals);
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, MOVES = 150 };

static void move_to_another_cpu(uint64_t *seed)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(random_below(seed, (size_t)sysconf(_SC_NPROCESSORS_CONF)), &one);
    sched_setaffinity(0, sizeof one, &one); /* one that is not allowed is refused */
}

static _Atomic uint64_t added;

static void *add_and_move(void *number)
{
    uint64_t seed = (uintptr_t)number, own = 0;
    for (unsigned long moves = 0; moves < scaled(MOVES); moves++) {
        for (unsigned i = 0; i < 500; i++, own += 3) {
            slab_percpu_add_long(object, 1);
            slab_percpu_add_u64(object, 2);
        }
        move_to_another_cpu(&seed);
    }
    add_relaxed(&added, own);
    return NULL;
}

static void threads_that_move_lose_no_change(void **state)
{
    (void)state;
    clear();
    on_threads(THREADS, add_and_move);
    assert_int_equal(sum(), load_relaxed(&added));
    clear();
}

/* Each has a page of its own, which is unmapped as soon as it is popped: nobody may look into it any more. */
struct page {
    slab_percpu_node node;
    _Atomic unsigned holders;
};

static _Atomic uint64_t pages_made, pages_popped;

static void push_page(void)
{
    struct page *page = mmap(NULL, slm_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED);
    add_relaxed(&pages_made, 1);
    slm_here_push(object, &page->node);
}

static bool pop_page(void)
{
    struct page *page = (struct page *)slm_here_pop(object);
    if (!page)
        return false;
    require(atomic_fetch_add(&page->holders, 1) == 0); /* nobody else has popped it */
    add_relaxed(&pages_popped, 1);
    require(munmap(page, slm_page_size) == 0);
    return true;
}

static void *push_and_pop_pages(void *number)
{
    uint64_t seed = (uintptr_t)number;
    for (unsigned long moves = 0; moves < scaled(MOVES); moves++) {
        for (unsigned i = 0; i < 50; i++)
            if (random_below(&seed, 2))
                push_page();
            else
                pop_page();
        move_to_another_cpu(&seed);
    }
    return NULL;
}

static void pop_rest(unsigned cpu)
{
    (void)cpu;
    while (pop_page())
        ;
}

/* On simulated machines copies go by threads: the rest is taken from them one by one. */
static void pop_rest_anywhere(void)
{
    for (unsigned cpu = 0; cpu < slm_percpu_cpus(); cpu++)
        while (*copy(cpu)) {
            struct page *page = (struct page *)*copy(cpu);
            *copy(cpu) = (uintptr_t)page->node.next;
            add_relaxed(&pages_popped, 1);
            require(munmap(page, slm_page_size) == 0);
        }
}

static void popped_nodes_may_be_unmapped_at_once(void **state)
{
    (void)state;
    clear();
    on_threads(THREADS, push_and_pop_pages);
    on_each_cpu(pop_rest);
    pop_rest_anywhere();
    assert_int_equal(load_relaxed(&pages_popped), load_relaxed(&pages_made));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_refused_is_not_used), /* before anything is chosen in this process */
        cmocka_unit_test_setup_teardown(sequences_are_used_where_there_are_any, begin, end),
        cmocka_unit_test_setup_teardown(the_copy_is_this_cpu_s, begin, end),
        cmocka_unit_test_setup_teardown(a_simulated_machine_deals_copies_out, begin, end),
        cmocka_unit_test_setup_teardown(changes_are_of_the_own_copy, begin, end),
        cmocka_unit_test_setup_teardown(the_last_one_in_is_the_first_one_out, begin, end),
        cmocka_unit_test_setup_teardown(a_child_of_fork_goes_on, begin, end),
        cmocka_unit_test_setup_teardown(handlers_at_any_instruction_lose_no_change, begin, end),
        cmocka_unit_test_setup_teardown(handlers_at_any_instruction_lose_no_node, begin, end),
        cmocka_unit_test_setup_teardown(signals_at_any_time_lose_no_change, begin, end),
        cmocka_unit_test_setup_teardown(threads_that_move_lose_no_change, begin, end),
        cmocka_unit_test_setup_teardown(popped_nodes_may_be_unmapped_at_once, begin, end),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
