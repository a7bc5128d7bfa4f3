/* Sampling on the stacks of boost::context's fibers: stacks that lie in the heap itself, or between pages that
 * nobody may touch, go while what was allocated on them lives, and exceptions leave frames on them. Each
 * allocation is sampled; see test_sampling.c. */
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common.h"

namespace context = boost::context;

static unsigned depth_of(unsigned depth)
{
    std::string text(depth * 40, 'x');
    std::unique_ptr<char[]> own(new char[depth * 100 + 1]);
    if (depth == 0)
        throw std::runtime_error(text + "the end");
    own[0] = text.empty() ? 'a' : text[0];
    return depth_of(depth - 1) + static_cast<unsigned>(own[0]);
}

static void use_heap()
{
    std::vector<std::string> words;
    for (unsigned i = 0; i < 50; i++)
        words.push_back(std::string(i * 7, 'w'));
    try {
        depth_of(5);
        require(!"an exception came");
    } catch (const std::runtime_error &error) {
        require(std::string(error.what()) == "the end");
    }
}

template <typename Stack> static void run_fibers(Stack stack)
{
    std::vector<std::unique_ptr<std::string>> kept;
    for (unsigned i = 0; i < 60; i++) {
        context::fiber fiber(std::allocator_arg, stack, [&kept](context::fiber &&caller) {
            for (unsigned turn = 0; turn < 3; turn++) {
                use_heap();
                kept.emplace_back(new std::string(100, 'k'));
                caller = std::move(caller).resume();
            }
            return std::move(caller);
        });
        for (unsigned turn = 0; turn < 1 + i % 4; turn++) /* some end, the others are left in the middle */
            fiber = std::move(fiber).resume();
        use_heap();
    }
}

static void role_fibers(const char *argument)
{
    const std::size_t bytes = std::strtoul(argument, nullptr, 10);
    run_fibers(context::fixedsize_stack(bytes));
    run_fibers(context::protected_fixedsize_stack(bytes));
}

static void test_fibers(void **state)
{
    (void)state;
    static const char *const sizes[] = {"16384", "65536", "262144"};
    for (const char *size : sizes) {
        struct launch launch = {};
        launch.argument = size;
        launch.environment[0] = "SLABMALLOC_OPTIONS=sample_bytes=1";
        assert_role_succeeds("fibers", &launch);
    }
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"fibers", role_fibers}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fibers)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
