"""valgrind's tools work with the library preloaded.

They put functions of their own in the place of malloc, free and most others of the family. What is left to us must call
those by name, or two heaps are mixed.
"""
import re
import subprocess

import pytest

from conftest import HANG_S, need

TOOLS = ("memcheck", "massif", "helgrind", "drd", "dhat")

# Each call that gives an object with each that takes one, and those that ask.
FAMILY = r"""
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void free_sized(void *object, size_t size) __attribute__((weak));
extern void free_aligned_sized(void *object, size_t alignment, size_t size) __attribute__((weak));
extern void cfree(void *object) __attribute__((weak));
extern void *__libc_malloc(size_t size), *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *object, size_t size), __libc_free(void *object);
extern void *__libc_memalign(size_t alignment, size_t size), *__libc_valloc(size_t size);

static void *fill(void *object, size_t size)
{
    if (!object || malloc_usable_size(object) < size)
        abort();
    return memset(object, 1, size);
}

static void *give(unsigned way, size_t n)
{
    void *object = NULL;
    char *text = NULL;
    switch (way) {
    case 0: return fill(malloc(n), n);
    case 1: return fill(calloc(n, 2), 2 * n);
    case 2: return fill(realloc(NULL, n), n);
    case 3: return fill(reallocarray(NULL, n, 3), 3 * n);
    case 4: return posix_memalign(&object, 64, n) == 0 ? fill(object, n) : NULL;
    case 5: return fill(aligned_alloc(64, n), n);
    case 6: return fill(memalign(256, n), n);
    case 7: return fill(valloc(n), n);
    case 8: return fill(pvalloc(n), n);
    case 9: return fill(__libc_malloc(n), n);
    case 10: return fill(__libc_calloc(n, 1), n);
    case 11: return fill(__libc_memalign(64, n), n);
    case 12: return fill(__libc_valloc(n), n);
    default: return asprintf(&text, "%*d", (int)n, 1) < 0 ? NULL : text;
    }
}

static void take(unsigned way, void *object, size_t n)
{
    switch (way) {
    case 0: free(object); break;
    case 1: free(fill(realloc(object, 2 * n + 50), 2 * n + 50)); break;
    case 2: free(fill(reallocarray(object, 3, n), 3 * n)); break;
    case 3: free_sized ? free_sized(object, n) : free(object); break;
    case 4: free_aligned_sized ? free_aligned_sized(object, 8, n) : free(object); break;
    case 5: cfree ? cfree(object) : free(object); break;
    case 6: __libc_free(object); break;
    default: free(__libc_realloc(object, n / 2 + 1));
    }
}

static void *use_all(void *argument)
{
    static const size_t sizes[] = {1, 16, 100, 5000, 40000};
    for (unsigned giving = 0; giving < 14; giving++)
        for (unsigned taking = 0; taking < 8; taking++)
            for (unsigned i = 0; i < 5; i++)
                take(taking, give(giving, sizes[i]), sizes[i]);
    return argument;
}

int main(void)
{
    pthread_t thread;
    use_all(NULL);
    if (pthread_create(&thread, NULL, use_all, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 1;
    if (reallocarray(NULL, (size_t)-1 / 2, 3) || mallopt(M_TRIM_THRESHOLD, 1 << 20) != 1)
        return 2;
    mallinfo();
    mallinfo2();
    malloc_trim(0);
    malloc_info(0, stdout);
    free(malloc(10));
    return 0;
}
"""

OPERATORS = r"""
#include <new>
#include <string>
#include <vector>

static void use(std::size_t n)
{
    using std::align_val_t;
    using std::nothrow;
    const align_val_t line{64};
    ::operator delete(::operator new(n));
    ::operator delete(::operator new(n), n);
    ::operator delete(::operator new(n, nothrow), nothrow);
    ::operator delete(::operator new(n, line), line);
    ::operator delete(::operator new(n, line), n, line);
    ::operator delete(::operator new(n, line, nothrow), line, nothrow);
    ::operator delete[](::operator new[](n));
    ::operator delete[](::operator new[](n), n);
    ::operator delete[](::operator new[](n, nothrow), nothrow);
    ::operator delete[](::operator new[](n, line), line);
    ::operator delete[](::operator new[](n, line), n, line);
    ::operator delete[](::operator new[](n, line, nothrow), line, nothrow);
}

int main()
{
    std::vector<std::string> texts;
    for (std::size_t n = 1; n < 100000; n = n * 3 / 2 + 1) {
        use(n);
        texts.emplace_back(n, 'x');
    }
    return texts.size() > 10 ? 0 : 1;
}
"""

WRONG = r"""
#include <stdlib.h>

int main(void)
{
    char *volatile lost = malloc(1234);
    int *volatile freed = malloc(40);
    free(freed);
    lost = NULL;
    return freed[3] == 4711 || lost;
}
"""


@pytest.fixture
def compiled(place):
    def compile_it(source, compiler="gcc", name="program.c"):
        (place / name).write_text(source)
        subprocess.run([*need(compiler), "-w", "-g", "-O1", "-fno-builtin", name, "-o", "program", "-lpthread"],
                       cwd=place, check=True)
        return place / "program"
    return compile_it


def under(tool, preload, place, *argv, options=()):
    """What valgrind said of a program, which has ended well."""
    own = {"massif": ["--massif-out-file=/dev/null"], "dhat": ["--dhat-out-file=/dev/null"]}.get(tool, [])
    done = subprocess.run([*need("valgrind"), f"--tool={tool}", "--error-exitcode=99", *own, *options, *argv],
                          env=preload.env(), cwd=place, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_the_family(tool, preload, place, compiled):
    under(tool, preload, place, compiled(FAMILY))


@pytest.mark.parametrize("tool", ("memcheck", "massif"))
def test_the_operators(tool, preload, place, compiled):
    under(tool, preload, place, compiled(OPERATORS, "g++", "program.cc"))


@pytest.mark.parametrize("tool", ("memcheck", "massif"))
def test_ls(tool, preload, place):
    under(tool, preload, place, *need("ls"), "/")


def test_memcheck_sees_the_program_s_errors(preload, place, compiled):
    said = under("memcheck", preload, place, compiled(WRONG), options=("--leak-check=full", "--error-exitcode=0"))
    assert re.search(r"Invalid read of size 4", said), said
    assert re.search(r"definitely lost: 1,234 bytes in 1 blocks", said), said
