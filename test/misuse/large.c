/* Large objects, which are spans of their own: all is seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

/* Kinds: the object is freed, or retired and still waits, before the call gets it; or the call gets a pointer to
 * its middle. */
static void give_large(const struct misuse_case *row)
{
    char *object = hidden(malloc(1000000));
    char *pointer = is_kind(row, "interior") ? object + 500000 : object;
    announce(said_call(row), pointer, "no object, or one that is free already");
    if (is_kind(row, "freed"))
        free(object);
    if (is_kind(row, "retired")) {
        slab_epoch_enter();
        slab_free_deferred(object);
    }
    give(row, pointer);
}

const struct misuse_case misuse_of_large[] = {
    {"double_free_large", give_large, .call = "free", .kind = "freed"},
    {"slab_free_freed_large", give_large, .call = "slab_free", .kind = "freed"},
    {"slab_free_interior_large", give_large, .call = "slab_free", .kind = "interior"},
    {"realloc_freed_large", give_large, .call = "realloc", .kind = "freed", .size = 2000000},
    {"usable_size_freed_large", give_large, .call = "malloc_usable_size", .kind = "freed"},
    {"free_deferred_freed_large", give_large, .call = "slab_free_deferred", .kind = "freed"},
    {"free_interior_large", give_large, .call = "free", .kind = "interior"},
    {"free_deferred_interior_large", give_large, .call = "slab_free_deferred", .kind = "interior"},
    {"free_retired_large", give_large, .call = "free", .kind = "retired"},
    {"realloc_retired_large", give_large, .call = "realloc", .kind = "retired", .size = 3000000},
    {"double_free_deferred_large", give_large, .call = "slab_free_deferred", .kind = "retired"},
    {0},
};
