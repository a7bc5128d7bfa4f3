/* A program that has an operator new of its own, and the unsized operator delete, as many have that were written
 * before C++14. new asks malloc for more than it was asked for. Compilers call sized delete, which the program does
 * not have, with the size that new was asked for.
 *
 * Written in: C++17 [new.delete.single] (the default sized delete frees what a replaced operator new made). */
#include "common.h"

#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

static const size_t more = 100; /* another size class in any case */

void *operator new(size_t size)
{
    void *object = malloc(size + more);
    if (object == nullptr)
        throw std::bad_alloc();
    return object;
}

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wsized-deallocation"
#endif

void operator delete(void *object) noexcept
{
    free(object);
}

static void use_containers()
{
    std::map<std::string, std::vector<int>> table;
    for (int i = 0; i < 3000; i++) {
        table[std::string((size_t)i % 70, 'k') + std::to_string(i % 300)].push_back(i);
        if (i % 5 == 0)
            table.erase(table.begin());
    }
    require(table.size() > 10);
}

static void test_containers(void **)
{
    use_containers();
    std::thread(use_containers).join();
}

static void test_sizes(void **)
{
    for (size_t size = 0; size < 200000; size += 1 + size / 9) {
        void *one = ::operator new(size), *two = ::operator new(size);
        ::operator delete(one, size);
        ::operator delete(two, size);
    }
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_containers),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
