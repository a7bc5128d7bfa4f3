/* src/base/list.h: the circular list whose nodes lie inside the things listed. */
#include "unit.h"

#include "base/list.h"

struct thing {
    int number;
    struct slm_list link;
};

static struct slm_list head;
static struct thing things[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};

/* The numbers in order as decimal digits, read forwards; -1 if reading backwards tells another story. */
static int order(void)
{
    int forwards = 0, backwards = 0, weight = 1;
    for (struct slm_list *at = head.next; at != &head; at = at->next)
        forwards = forwards * 10 + slm_container(at, struct thing, link)->number;
    for (struct slm_list *at = head.prev; at != &head; at = at->prev, weight *= 10)
        backwards += slm_container(at, struct thing, link)->number * weight;
    return forwards == backwards ? forwards : -1;
}

static void an_empty_list_points_at_itself(void **state)
{
    (void)state;
    slm_list_init(&head);
    assert_true(slm_list_empty(&head));
    assert_ptr_equal(head.next, &head);
    assert_ptr_equal(head.prev, &head);
}

static void nodes_go_before_and_after(void **state)
{
    (void)state;
    slm_list_init(&head);
    slm_list_insert_after(&head, &things[2].link);
    assert_false(slm_list_empty(&head));
    assert_int_equal(order(), 2);
    slm_list_insert_after(&head, &things[1].link);
    assert_int_equal(order(), 12);
    slm_list_insert_before(&head, &things[3].link);
    assert_int_equal(order(), 123);
    slm_list_remove(&things[2].link);
    assert_int_equal(order(), 13);
    slm_list_insert_before(&things[3].link, &things[2].link);
    assert_int_equal(order(), 123);
}

static void nodes_leave_from_any_place(void **state)
{
    (void)state;
    for (int first = 1; first < 4; first++) {
        slm_list_init(&head);
        for (int i = 1; i < 4; i++)
            slm_list_insert_before(&head, &things[i].link);
        slm_list_remove(&things[first].link);
        assert_int_equal(order(), first == 1 ? 23 : first == 2 ? 13 : 12);
        for (int i = 1; i < 4; i++)
            if (i != first)
                slm_list_remove(&things[i].link);
        assert_true(slm_list_empty(&head));
    }
}

static void remove_twice(void)
{
    slm_list_init(&head);
    slm_list_insert_before(&head, &things[1].link);
    slm_list_insert_before(&head, &things[2].link);
    slm_list_remove(&things[1].link);
    slm_list_remove(&things[1].link);
}

static void a_checked_build_stops_at_a_broken_list(void **state)
{
    (void)state;
    assert_int_equal(in_child(remove_twice).signal, SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_list_points_at_itself),
        cmocka_unit_test(nodes_go_before_and_after),
        cmocka_unit_test(nodes_leave_from_any_place),
        cmocka_unit_test(a_checked_build_stops_at_a_broken_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
