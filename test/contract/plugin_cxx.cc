/* A plug-in in C++ for a program in C: libstdc++ comes with it, long after the allocator has been loaded.
 * test_start.c opens it. */
#include <new>
#include <string>
#include <vector>

extern "C" int plugin_catches_bad_alloc(size_t impossible);
extern "C" int plugin_uses_containers(void);

static int handler_calls;

static void handler()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

int plugin_catches_bad_alloc(size_t impossible)
{
    int caught = 0;
    handler_calls = 0;
    std::set_new_handler(handler);
    try {
        ::operator delete(::operator new(impossible));
    } catch (const std::bad_alloc &) {
        caught++;
    }
    try {
        ::operator delete[](::operator new[](impossible, std::align_val_t(64)), std::align_val_t(64));
    } catch (const std::bad_alloc &) {
        caught++;
    }
    if (::operator new(impossible, std::nothrow) == nullptr)
        caught++;
    return caught == 3 && handler_calls == 3;
}

int plugin_uses_containers(void)
{
    std::vector<std::string> texts;
    for (unsigned i = 0; i < 1000; i++)
        texts.emplace_back(i % 100, 'x');
    return texts[999].size() == 99;
}
