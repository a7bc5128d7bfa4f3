// A plug-in with little of the C++ library in it, where that is static: no std::__throw_bad_alloc, for example.
#include <cstddef>
#include <cstdint>
#include <new>

extern "C" int run(int argc, char **argv);

static int handler_calls;

struct shortage {
};

static void handler_that_gives_up()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

static void handler_that_throws()
{
    throw shortage();
}

int run(int, char **)
{
    volatile std::size_t impossible = PTRDIFF_MAX - 4096;
    int faults = 0;
    std::set_new_handler(handler_that_gives_up);
    try {
        ::operator delete(::operator new(impossible));
        faults++;
    } catch (const std::bad_alloc &) {
    }
    std::set_new_handler(handler_that_throws);
    try {
        ::operator delete(::operator new(impossible));
        faults++;
    } catch (const shortage &) {
    }
    faults += ::operator new(impossible, std::nothrow) != nullptr;
    std::set_new_handler(nullptr);
    faults += ::operator new(impossible, std::nothrow) != nullptr;
    return faults != 0 || handler_calls != 3;
}
