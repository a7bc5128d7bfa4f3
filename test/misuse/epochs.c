/* Sections left too often, waiting for what cannot come, nothing to call. */
#include <slabmalloc.h>

#include "misuse.h"

/* Seen at the thread's next entry. */
static void leave_too_often(const struct misuse_case *row)
{
    (void)row;
    announce("slab_epoch_enter", NULL, "sections nest too deep, or one was left more often than entered");
    slab_epoch_enter();
    slab_epoch_leave();
    slab_epoch_leave();
    slab_epoch_enter();
}

/* For a grace period that the caller itself holds up. */
static void wait_in_section(const struct misuse_case *row)
{
    announce(row->call, NULL, "inside a section of the caller's own");
    slab_epoch_enter();
    if (is_call(row, "slab_epoch_barrier"))
        slab_epoch_barrier();
    else if (is_call(row, "slab_epoch_synchronize"))
        slab_epoch_synchronize();
}

static void wait_here(slab_epoch_head *head)
{
    (void)head;
    announce("slab_epoch_barrier", NULL, "inside a function of slab_epoch_call");
    slab_epoch_barrier();
}

/* For the function that waits. */
static void wait_in_function(const struct misuse_case *row)
{
    static slab_epoch_head head;
    (void)row;
    slab_epoch_call(&head, wait_here);
    slab_epoch_barrier();
}

static void do_nothing(slab_epoch_head *head)
{
    (void)head;
}

/* Kinds: which one is missing. */
static void call_null(const struct misuse_case *row)
{
    static slab_epoch_head head;
    slab_epoch_head *given = is_kind(row, "head") ? NULL : &head;
    announce("slab_epoch_call", given, "no head, or no function");
    slab_epoch_call(given, is_kind(row, "function") ? NULL : do_nothing);
}

const struct misuse_case misuse_of_epochs[] = {
    {"epoch_leave_too_often", .commit = leave_too_often},
    {"epoch_wait_inside-barrier", wait_in_section, .call = "slab_epoch_barrier"},
    {"epoch_wait_inside-synchronize", wait_in_section, .call = "slab_epoch_synchronize"},
    {"epoch_wait_inside-function", .commit = wait_in_function},
    {"epoch_call_null-head", call_null, .kind = "head"},
    {"epoch_call_null-function", call_null, .kind = "function"},
    {0},
};
