/* What no call of this library has given. */
#include <malloc.h>
#include <slabmalloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "misuse.h"

/* Something else is given to the call. Kinds: where it lies, or what it is. */
static void give_foreign(const struct misuse_case *row)
{
    static long in_data[16];
    long on_stack[16] = {0};
    void *pointer = NULL;
    if (is_kind(row, "stack"))
        pointer = on_stack;
    else if (is_kind(row, "static"))
        pointer = in_data;
    else if (is_kind(row, "mapped"))
        pointer = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    else if (is_kind(row, "number"))
        pointer = (void *)(uintptr_t)1;
    else if (is_kind(row, "garbage"))
        pointer = (void *)(uintptr_t)0x5a5a5a5a5a5a5a5a;
    else if (is_kind(row, "tagged")) /* an object's address, with something in the bits that no address has */
        pointer = (void *)((uintptr_t)malloc(64) | (uintptr_t)0xab << 56);
    announce(said_call(row), pointer, "not allocated by this library");
    give(row, pointer);
}

extern void *_Znwm(unsigned long n); /* C++'s operator new(unsigned long) */

/* Without memory, in a program that has no C++ library to throw std::bad_alloc. */
static void new_without_cxx(const struct misuse_case *row)
{
    (void)row;
    printf("slabmalloc: operator new: out of memory, and no C++ library to throw std::bad_alloc (thread %d)\n",
           (int)gettid());
    fflush(stdout);
    void *volatile object = _Znwm((unsigned long)-1 / 2);
    (void)object;
}

const struct misuse_case misuse_of_foreign[] = {
    {"free_stack", give_foreign, .call = "free", .kind = "stack"},
    {"free_static", give_foreign, .call = "free", .kind = "static"},
    {"free_mapped", give_foreign, .call = "free", .kind = "mapped"},
    {"free_number", give_foreign, .call = "free", .kind = "number"},
    {"free_tagged", give_foreign, .call = "free", .kind = "tagged"},
    {"free_bulk_foreign", give_foreign, .call = "slab_free_bulk, among others", .kind = "stack"},
    {"delete_foreign", give_foreign, .call = "operator delete", .kind = "stack"},
    {"slab_free_stack", give_foreign, .call = "slab_free", .kind = "stack"},
    {"slab_free_number", give_foreign, .call = "slab_free", .kind = "number"},
    {"slab_free_tagged", give_foreign, .call = "slab_free", .kind = "tagged"},
    {"realloc_stack", give_foreign, .call = "realloc", .kind = "stack", .size = 100},
    {"realloc_zero_foreign", give_foreign, .call = "realloc", .kind = "static", .size = 0}, /* frees */
    {"usable_size_garbage", give_foreign, .call = "malloc_usable_size", .kind = "garbage"},
    {"free_deferred_number", give_foreign, .call = "slab_free_deferred", .kind = "number"},
    {"free_deferred_stack", give_foreign, .call = "slab_free_deferred_head", .kind = "stack"},
    {"free_deferred_bulk_foreign", give_foreign, .call = "slab_free_deferred_bulk, among others", .kind = "stack"},
    {"cache_free_foreign", give_foreign, .call = "slab_cache_free", .kind = "stack"},
    {"new_without_cxx", .commit = new_without_cxx},
    {0},
};
