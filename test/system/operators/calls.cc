// Calls every form of operator new and delete, and what compilers and the library make of new and delete, and looks
// which of the replaced ones (replaced.cc) were called. What must be called is written in [new.delete.single] and
// [new.delete.array] as the default behaviour of each form: the table below. The arguments: a mask in hexadecimal of
// the forms that are replaced; perhaps "hidden".
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

extern "C" int run(int argc, char **argv);
extern "C" unsigned replaced_calls[] __attribute__((weak)); // found by name where it is in a library

namespace
{
const std::size_t wide = 256;
const std::size_t impossible = PTRDIFF_MAX - 65536;
const std::nothrow_t &nothrow = std::nothrow;

extern "C" {
void *new_0(std::size_t) __asm__("_Znwm");
void *new_1(std::size_t) __asm__("_Znam");
void *new_2(std::size_t, const void *) __asm__("_ZnwmRKSt9nothrow_t");
void *new_3(std::size_t, const void *) __asm__("_ZnamRKSt9nothrow_t");
void *new_4(std::size_t, std::size_t) __asm__("_ZnwmSt11align_val_t");
void *new_5(std::size_t, std::size_t) __asm__("_ZnamSt11align_val_t");
void *new_6(std::size_t, std::size_t, const void *) __asm__("_ZnwmSt11align_val_tRKSt9nothrow_t");
void *new_7(std::size_t, std::size_t, const void *) __asm__("_ZnamSt11align_val_tRKSt9nothrow_t");
void delete_8(void *) __asm__("_ZdlPv");
void delete_9(void *) __asm__("_ZdaPv");
void delete_10(void *, std::size_t) __asm__("_ZdlPvm");
void delete_11(void *, std::size_t) __asm__("_ZdaPvm");
void delete_12(void *, const void *) __asm__("_ZdlPvRKSt9nothrow_t");
void delete_13(void *, const void *) __asm__("_ZdaPvRKSt9nothrow_t");
void delete_14(void *, std::size_t) __asm__("_ZdlPvSt11align_val_t");
void delete_15(void *, std::size_t) __asm__("_ZdaPvSt11align_val_t");
void delete_16(void *, std::size_t, std::size_t) __asm__("_ZdlPvmSt11align_val_t");
void delete_17(void *, std::size_t, std::size_t) __asm__("_ZdaPvmSt11align_val_t");
void delete_18(void *, std::size_t, const void *) __asm__("_ZdlPvSt11align_val_tRKSt9nothrow_t");
void delete_19(void *, std::size_t, const void *) __asm__("_ZdaPvSt11align_val_tRKSt9nothrow_t");
}

struct form {
    const char *name;
    int calls; // the form that its default behaviour calls; -1: none
    bool aligned, nothrow;
    void *(*make)(std::size_t n, std::size_t align);
    void (*release)(void *object, std::size_t n, std::size_t align);
};

#define MAKE(call) [](std::size_t n, std::size_t align) -> void * { return (void)align, call; }, nullptr
#define RELEASE(call) nullptr, [](void *p, std::size_t n, std::size_t align) { (void)n, (void)align, call; }

const form forms[] = {
    {"new", -1, false, false, MAKE(new_0(n))},
    {"new[]", 0, false, false, MAKE(new_1(n))},
    {"new, nothrow", 0, false, true, MAKE(new_2(n, &nothrow))},
    {"new[], nothrow", 1, false, true, MAKE(new_3(n, &nothrow))},
    {"new, aligned", -1, true, false, MAKE(new_4(n, align))},
    {"new[], aligned", 4, true, false, MAKE(new_5(n, align))},
    {"new, aligned, nothrow", 4, true, true, MAKE(new_6(n, align, &nothrow))},
    {"new[], aligned, nothrow", 5, true, true, MAKE(new_7(n, align, &nothrow))},
    {"delete", -1, false, false, RELEASE(delete_8(p))},
    {"delete[]", 8, false, false, RELEASE(delete_9(p))},
    {"delete, sized", 8, false, false, RELEASE(delete_10(p, n))},
    {"delete[], sized", 9, false, false, RELEASE(delete_11(p, n))},
    {"delete, nothrow", 8, false, true, RELEASE(delete_12(p, &nothrow))},
    {"delete[], nothrow", 9, false, true, RELEASE(delete_13(p, &nothrow))},
    {"delete, aligned", -1, true, false, RELEASE(delete_14(p, align))},
    {"delete[], aligned", 14, true, false, RELEASE(delete_15(p, align))},
    {"delete, aligned, sized", 14, true, false, RELEASE(delete_16(p, n, align))},
    {"delete[], aligned, sized", 15, true, false, RELEASE(delete_17(p, n, align))},
    {"delete, aligned, nothrow", 14, true, true, RELEASE(delete_18(p, align, &nothrow))},
    {"delete[], aligned, nothrow", 15, true, true, RELEASE(delete_19(p, align, &nothrow))},
};
const int COUNT = sizeof forms / sizeof *forms;

unsigned replaced; // a mask
bool hidden_forms; // the library's forms do not find those that are replaced
unsigned *calls;   // counts of replaced.cc
int faults;

void fault(const std::string &what)
{
    std::fprintf(stderr, "%s\n", what.c_str());
    faults++;
}

/* The replaced form that a call ends at; -1: at the library's. */
int end_of(int at)
{
    while (at >= 0 && !(replaced >> at & 1))
        at = hidden_forms ? -1 : forms[at].calls;
    return at;
}

void forget()
{
    if (calls)
        std::memset(calls, 0, COUNT * sizeof *calls);
}

/* Since `forget` the replaced form that either call ends at has been called once, and no other. */
void check(const char *what, int form, int or_form)
{
    unsigned seen = 0, total = 0;
    for (int i = 0; calls && i < COUNT; i++) {
        seen |= calls[i] ? 1u << i : 0;
        total += calls[i];
    }
    const auto mask = [](int at) { return at < 0 ? 0u : 1u << at; };
    const bool one = seen == mask(end_of(form)) || seen == mask(end_of(or_form));
    if (!one || total != (seen ? 1 : 0)) {
        char text[200];
        std::snprintf(text, sizeof text, "%s: called %x in %u calls, and should have called %x", what, seen, total,
                      mask(end_of(form)));
        fault(text);
    }
}

/* -- each form --------------------------------------------------------------------------------------------------- */

void *made(int form, std::size_t n)
{
    void *object = forms[form].make(n, wide);
    if (!object || reinterpret_cast<std::size_t>(object) % (forms[form].aligned ? wide : 16) != 0)
        fault(std::string(forms[form].name) + ": no object, or one that is not aligned");
    std::memset(object, 1, n);
    return object;
}

void every_form(bool headers)
{
    for (std::size_t n : {1, 24, 40, 1000, 5000, 100000})
        for (int i = 0; i < 8; i++)
            for (int j = 8; j < COUNT; j++) {
                if (forms[i].aligned != forms[j].aligned || (headers && (end_of(i) < 0) != (end_of(j) < 0)))
                    continue;
                forget();
                void *object = made(i, n);
                check(forms[i].name, i, i);
                forget();
                forms[j].release(object, n, wide);
                check(forms[j].name, j, j);
                forget();
                forms[j].release(nullptr, n, wide);
                check(forms[j].name, j, j);
            }
}

/* -- failure ----------------------------------------------------------------------------------------------------- */

bool exceptions_left()
{
#if __cplusplus >= 201703L
    return std::uncaught_exceptions() != 0;
#else
    return std::uncaught_exception();
#endif
}

void every_failure()
{
    for (int i = 0; i < 8; i++) {
        bool threw = false;
        void *object = &threw;
        forget();
        try {
            object = forms[i].make(impossible, wide);
        } catch (const std::bad_alloc &) {
            threw = true;
        }
        check(forms[i].name, i, i);
        if (threw == forms[i].nothrow || (forms[i].nothrow && object))
            fault(std::string(forms[i].name) + ": fails as it must not");
        if (exceptions_left())
            fault(std::string(forms[i].name) + ": an exception is left");
    }
}

int handler_calls;

void handler_that_gives_up()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

struct shortage : std::bad_alloc {
};

void handler_that_throws()
{
    handler_calls++;
    throw shortage();
}

void handlers()
{
    for (int i = 0; i < 8; i++)
        if (end_of(i) < 0)
            for (bool throws : {false, true}) {
                bool threw = false;
                handler_calls = 0;
                std::set_new_handler(throws ? handler_that_throws : handler_that_gives_up);
                try {
                    forms[i].make(impossible, wide);
                } catch (const shortage &) {
                    threw = throws;
                } catch (const std::bad_alloc &) {
                    threw = !throws;
                }
                std::set_new_handler(nullptr);
                if (threw == forms[i].nothrow || handler_calls != (throws ? 1 : 3))
                    fault(std::string(forms[i].name) + ": a new-handler is not called as it must be");
            }
}

/* -- new and delete as the language has them --------------------------------------------------------------------- */

struct thing {
    char bytes[40];
    thing() { bytes[0] = 1; }
    ~thing() { bytes[0] = 0; }
};

template <class T> __attribute__((noinline)) T *hidden(T *pointer)
{
    __asm__ volatile("" : "+r"(pointer));
    return pointer;
}

template <class T> void expressions(int one, int array)
{
    const bool wider = one == 4;
    forget();
    T *object = hidden(new T);
    check("new T", one, one);
    forget();
    delete hidden(object);
    check("delete T", wider ? 16 : 10, wider ? 14 : 8);
    forget();
    T *several = hidden(new T[3]);
    check("new T[3]", array, array);
    forget();
    delete[] hidden(several);
    check("delete[] T", wider ? 17 : 11, wider ? 15 : 9);
    forget();
    T *perhaps = hidden(new (std::nothrow) T);
    check("new (nothrow) T", wider ? 6 : 2, wider ? 6 : 2);
    delete hidden(perhaps);
}

#ifdef __cpp_aligned_new
struct alignas(128) wide_thing : thing {
};
#endif

void library()
{
    std::map<std::string, std::vector<std::string>> table;
    for (int i = 0; i < 500; i++)
        table[std::string(i % 50, 'k') + std::to_string(i % 90)].emplace_back(i % 70, 'x');
    std::vector<std::string> words(300, "not a short string, so that it is allocated");
    std::stable_sort(words.begin(), words.end()); // asks for a buffer, nothrow
    auto shared = std::make_shared<std::map<int, thing>>();
    for (int i = 0; i < 100; i++)
        (*shared)[i];
    std::unique_ptr<thing[]> array(new thing[7]);
    if (table.size() != 450 && table.empty())
        fault("the library");
}
} // namespace

int run(int argc, char **argv)
{
    faults = 0;
    replaced = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 16)) : 0;
    hidden_forms = argc > 2 && std::strcmp(argv[2], "hidden") == 0;
    calls = static_cast<unsigned *>(dlsym(RTLD_DEFAULT, "replaced_calls"));
    if (!calls || hidden_forms)
        calls = replaced_calls;
    const bool headers = std::getenv("REPLACED_HEADERS") != nullptr;
    every_form(headers);
    every_failure();
    handlers();
    const bool whole = (end_of(0) < 0) == (end_of(8) < 0) && (end_of(1) < 0) == (end_of(9) < 0) &&
                       (end_of(2) < 0) == (end_of(10) < 0) && (end_of(2) < 0) == (end_of(8) < 0) &&
                       (end_of(1) < 0) == (end_of(11) < 0);
    if (!headers || whole) {
        expressions<thing>(0, 1);
        library();
    }
#ifdef __cpp_aligned_new
    const bool wholly = (end_of(4) < 0) == (end_of(14) < 0) && (end_of(5) < 0) == (end_of(15) < 0) &&
                        (end_of(6) < 0) == (end_of(16) < 0) && (end_of(6) < 0) == (end_of(14) < 0) &&
                        (end_of(5) < 0) == (end_of(17) < 0);
    if (!headers || wholly)
        expressions<wide_thing>(4, 5);
#endif
    return faults != 0;
}
