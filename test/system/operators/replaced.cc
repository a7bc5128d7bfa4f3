// Every form of operator new and delete, as a program would replace it, under its mangled name. test_operators.py
// makes those local that are not to be replaced. Each counts its calls. What new returns is larger than it was asked
// for; with REPLACED_HEADERS in the environment there is a header in front, which delete looks for. Huge sizes throw.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
unsigned replaced_calls[20]; // in the order of the forms below
}

static const std::size_t header = 64, more = 100;
static const char mark[] = "made by a replaced operator new";

static bool has_headers()
{
    static const bool answer = std::getenv("REPLACED_HEADERS") != nullptr;
    return answer;
}

static void *make(unsigned form, std::size_t n, std::size_t align)
{
    replaced_calls[form]++;
    if (n >> 40 != 0)
        throw std::bad_alloc();
    const std::size_t front = has_headers() ? (align > header ? align : header) : 0;
    void *block = nullptr;
    if (posix_memalign(&block, align < 16 ? 16 : align, front + n + more) != 0)
        throw std::bad_alloc();
    char *object = static_cast<char *>(block) + front;
    if (front != 0) {
        std::memcpy(object - sizeof mark, mark, sizeof mark);
        std::memcpy(object - header, &block, sizeof block);
    }
    return object;
}

static void *make_or_null(unsigned form, std::size_t n, std::size_t align)
{
    try {
        return make(form, n, align);
    } catch (...) {
        return nullptr;
    }
}

static void release(unsigned form, void *object)
{
    replaced_calls[form]++;
    if (object == nullptr)
        return;
    if (has_headers()) {
        char *front = static_cast<char *>(object);
        if (std::memcmp(front - sizeof mark, mark, sizeof mark) != 0) {
            std::fputs("a replaced delete got an object that no replaced new has made\n", stderr);
            std::abort();
        }
        std::memset(front - sizeof mark, 0, sizeof mark);
        std::memcpy(&object, front - header, sizeof object);
    }
    std::free(object);
}

extern "C" {
#define N std::size_t n
#define A std::size_t align
#define T const void *
#define NEW(form, name, does, ...)                                                                                   \
    void *form_##form(__VA_ARGS__) __asm__(name);                                                                    \
    __attribute__((used)) void *form_##form(__VA_ARGS__)                                                             \
    {                                                                                                                \
        return does;                                                                                                 \
    }
#define DELETE(form, name, ...)                                                                                      \
    void form_##form(void *object, ##__VA_ARGS__) __asm__(name);                                                     \
    __attribute__((used)) void form_##form(void *object, ##__VA_ARGS__)                                              \
    {                                                                                                                \
        release(form, object);                                                                                       \
    }

NEW(0, "_Znwm", make(0, n, 1), N)
NEW(1, "_Znam", make(1, n, 1), N)
NEW(2, "_ZnwmRKSt9nothrow_t", make_or_null(2, n, 1), N, T)
NEW(3, "_ZnamRKSt9nothrow_t", make_or_null(3, n, 1), N, T)
NEW(4, "_ZnwmSt11align_val_t", make(4, n, align), N, A)
NEW(5, "_ZnamSt11align_val_t", make(5, n, align), N, A)
NEW(6, "_ZnwmSt11align_val_tRKSt9nothrow_t", make_or_null(6, n, align), N, A, T)
NEW(7, "_ZnamSt11align_val_tRKSt9nothrow_t", make_or_null(7, n, align), N, A, T)
DELETE(8, "_ZdlPv")
DELETE(9, "_ZdaPv")
DELETE(10, "_ZdlPvm", std::size_t)
DELETE(11, "_ZdaPvm", std::size_t)
DELETE(12, "_ZdlPvRKSt9nothrow_t", T)
DELETE(13, "_ZdaPvRKSt9nothrow_t", T)
DELETE(14, "_ZdlPvSt11align_val_t", std::size_t)
DELETE(15, "_ZdaPvSt11align_val_t", std::size_t)
DELETE(16, "_ZdlPvmSt11align_val_t", std::size_t, std::size_t)
DELETE(17, "_ZdaPvmSt11align_val_t", std::size_t, std::size_t)
DELETE(18, "_ZdlPvSt11align_val_tRKSt9nothrow_t", std::size_t, T)
DELETE(19, "_ZdaPvSt11align_val_tRKSt9nothrow_t", std::size_t, T)
}
