"""The header's per-CPU memory in other people's builds: what must not compile does not, what must compile does so
without a warning, in two files of a program, with gcc and clang, as C11 and C++17, and works with either library."""
import subprocess

import pytest

from conftest import BUILD, HANG_S, ROOT, missing, need

COMPILERS = {("gcc", "c"): "gcc", ("gcc", "cxx"): "g++", ("clang", "c"): "clang", ("clang", "cxx"): "clang++"}
STANDARD = {"c": ["-x", "c", "-std=c11"], "cxx": ["-x", "c++", "-std=c++17"]}
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
ARCHIVE = BUILD / "libslabmalloc.a"

# Uses everything; two files have it, under two names.
USER = """
#include <slabmalloc.h>
struct hits { int misses; long others; };
int NAME(slab_percpu counter);
int NAME(slab_percpu counter)
{
    slab_percpu object = slab_percpu_alloc(sizeof(struct hits), sizeof(long)), list = slab_percpu_alloc(8, 8);
    slab_percpu_node node;
    struct hits *hits;
    long misses = 0;
    int listed = 0;
    if (!object || !list)
        return 1;
    slab_percpu_for_each(cpu, hits, object)
        hits->misses = cpu;
    slab_percpu_for_each(outer, hits, object) {
        struct hits *others = hits;
        slab_percpu_for_each(inner, others, object)
            misses += others->misses + (outer == inner);
    }
    slab_percpu_add_long(counter, 1);
    slab_percpu_add_long(counter, misses);
    slab_percpu_add_long(counter, -misses);
    slab_percpu_add_u64(counter, UINT64_MAX);
    slab_percpu_add_u64(counter, (uint64_t)misses);
    ((struct hits *)slab_percpu_this(object))->others++;
    slab_percpu_list_push(list, &node);
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++)
        listed += *(slab_percpu_node **)slab_percpu_ptr(list, cpu) == &node;
    if (listed != 1 || (slab_percpu_list_pop(list) != &node && slab_percpu_cpus() == 1))
        return 2;
    slab_percpu_cmpxchg(list, slab_percpu_xchg(list, 0), 1);
    slab_percpu_free(object);
    slab_percpu_free(list);
    return slab_percpu_sum_long(counter) == misses && slab_percpu_sum_u64(counter) == (uint64_t)misses ? 0 : 3;
}
"""

MAIN = """
#include <slabmalloc.h>
int first(slab_percpu counter);
int second(slab_percpu counter);
int main(void)
{
    slab_percpu one = slab_percpu_alloc(sizeof(long), sizeof(long)), other = slab_percpu_alloc(8, 8);
    const int failed = one && other ? first(one) * 10 + second(other) : 99;
    slab_percpu_free(one);
    slab_percpu_free(other);
    return failed;
}
"""

# For the compiler alone, and for the linker too.
FLAGS = {"O0": ([], ["-O0"]), "O2": ([], ["-O2"]), "O0 PIC": (["-fPIC"], ["-O0"]), "O2 PIC": (["-fPIC"], ["-O2"]),
         "O2 no PIE": (["-fno-pie"], ["-O2", "-no-pie"]), "LTO": ([], ["-O2", "-flto"]),
         "Os sections": (["-Os", "-ffunction-sections"], ["-Wl,--gc-sections"]),
         "O0 calls": (["-DSLAB_NO_INLINE"], ["-O0"]), "O2 calls": (["-DSLAB_NO_INLINE"], ["-O2"])}

# Statements that take an object for an address, which no compiler may accept in either language.
WRONG = {"read": "long value = *object; (void)value;", "write": "*object = 1;", "add": "*object += 1;",
         "first": "long value = object[0]; (void)value;", "second": "object[1] = 0;",
         "member": "object->misses = 1;", "behind": "object = object + 1;", "before": "object = object - 1;",
         "next": "object++;", "size": "size_t size = sizeof *object; (void)size;",
         "between": "ptrdiff_t size = other - object; (void)size;"}
RIGHT = "long value = *(long *)slab_percpu_this(object); (void)value; (void)other;"
STATEMENT = """
#include <slabmalloc.h>
void use(slab_percpu object, slab_percpu other);
void use(slab_percpu object, slab_percpu other)
{
    (void)other;
    %s
}
"""


def run(*command, folder=None):
    return subprocess.run([str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=HANG_S)


def must(*command, folder=None):
    """The output of a command that has to succeed without a word on standard error."""
    done = run(*command, folder=folder)
    assert done.returncode == 0 and not done.stderr, f"{command} ended with {done.returncode}\n{done.stderr}"
    return done.stdout


def sections_of(path):
    return must("readelf", "--sections", "--wide", path)


@pytest.fixture(params=sorted(COMPILERS), ids=" ".join)
def compiler(request):
    """The command of a compiler, with a language."""
    return [*need(COMPILERS[request.param]), "-I", ROOT / "include", *STANDARD[request.param[1]]]


@pytest.mark.parametrize("flags", FLAGS)
def test_what_is_right_compiles_and_works(compiler, flags, tmp_path):
    alone, linking = FLAGS[flags]
    options = [*alone, *(flag for flag in linking if flag.startswith(("-O", "-f")))]
    (tmp_path / "user").write_text(USER)
    (tmp_path / "main").write_text(MAIN)
    (tmp_path / "nothing").write_text("int main(void) { return 0; }")
    if run(*compiler, *linking, "nothing", "-o", "nothing.out", folder=tmp_path).returncode != 0:
        missing(f"{compiler[0]} that can do {linking}", "llvm-14-linker-tools, or a newer one")
    for name, source in [("first", "user"), ("second", "user"), ("main", "main")]:
        must(*compiler, *WARNINGS, *options, f"-DNAME={name}", "-c", source, "-o", f"{name}.o", folder=tmp_path)
    linker = [compiler[0], *linking, "first.o", "second.o", "main.o", "-pthread"]
    must(*linker, "-L", BUILD, "-lslabmalloc", f"-Wl,-rpath,{BUILD}", "-o", "shared", folder=tmp_path)
    must(*linker, ARCHIVE, "-o", "alone", folder=tmp_path)
    must(tmp_path / "shared")
    must(tmp_path / "alone")
    # the program has sequences of its own, unless it was asked to have none: else nothing of the above is tested
    has_sequences = "__rseq_cs" in sections_of(tmp_path / "shared")
    assert has_sequences == ("-O0" not in options and "-DSLAB_NO_INLINE" not in options)


@pytest.mark.parametrize("statement", WRONG)
def test_what_is_wrong_does_not_compile(compiler, statement, tmp_path):
    """With no warning option at all. The right statement in the same place compiles."""
    (tmp_path / "right").write_text(STATEMENT % RIGHT)
    (tmp_path / "wrong").write_text(STATEMENT % WRONG[statement])
    must(*compiler, "-fsyntax-only", "right", folder=tmp_path)
    done = run(*compiler, "-fsyntax-only", "wrong", folder=tmp_path)
    assert done.returncode != 0 and "error:" in done.stderr


# -- static analysis

ANALYSED = """
#include <slabmalloc.h>
struct hits { long misses, others; };
long work(slab_percpu object);
long work(slab_percpu object)
{
    struct hits *hits;
    long misses = 0;
    slab_percpu_add_long(slab_percpu_field(object, struct hits, others), 1);
    slab_percpu_for_each(cpu, hits, object)
        misses += hits->misses;
    return misses + %s;
}
"""


@pytest.mark.parametrize("expression, seen", [("slab_percpu_sum_long(object)", False), ("*(long *)object", True)])
def test_sparse_sees_an_address_space(expression, seen, tmp_path):
    command, = need("sparse")
    (tmp_path / "work.c").write_text(ANALYSED % expression)
    done = run(command, "-I", ROOT / "include", "work.c", folder=tmp_path)
    assert ("removes address space" in done.stdout + done.stderr) == seen, done.stdout + done.stderr
    assert seen or not done.stderr, done.stderr


# -- code that is unloaded

PLUGIN = "#include <slabmalloc.h>\nvoid bump(slab_percpu counter) { slab_percpu_add_long(counter, 1); }\n"
HOST = """
#include <dlfcn.h>
#include <sched.h>
#include <slabmalloc.h>
int main(int count, char **words)
{
    const slab_percpu counter = slab_percpu_alloc(sizeof(long), sizeof(long));
    for (int i = 0; i < 5000 && count == 2; i++) {
        void *plugin = dlopen(words[1], RTLD_NOW);
        void (*bump)(slab_percpu) = plugin ? (void (*)(slab_percpu))dlsym(plugin, "bump") : 0;
        if (!bump)
            return 1;
        bump(counter);
        dlclose(plugin);
        sched_yield(); /* the kernel looks at what the thread has announced last */
    }
    return slab_percpu_sum_long(counter) == 5000 ? 0 : 2;
}
"""


@pytest.mark.parametrize("compiler, position", [("gcc", ["-fPIC"]), ("clang", ["-fPIC"]), ("clang", [])])
def test_a_plugin_can_be_unloaded(compiler, position, tmp_path):
    """Without -fPIC too, where the linker takes that: nothing tells the header that it is in a plug-in then."""
    (tmp_path / "plugin.c").write_text(PLUGIN)
    (tmp_path / "host.c").write_text(HOST)
    command, = need(compiler)
    must(command, "-O2", *position, "-I", ROOT / "include", "-shared", "plugin.c", "-o", "plugin.so", folder=tmp_path)
    must(command, "-O2", "-I", ROOT / "include", "host.c", "-o", "host", "-L", BUILD, "-lslabmalloc",
         f"-Wl,-rpath,{BUILD}", folder=tmp_path)
    must("./host", "./plugin.so", folder=tmp_path)


# -- other machines, on which no program can be run here

STDIO = "typedef struct file FILE;\n"  # all that the header wants of <stdio.h>, which is each machine's own
FREESTANDING = ["-ffreestanding", "-nostdlibinc", "-I", "."]


def objects_for(command, languages, folder):
    """The user above for another machine: name and path of each object file."""
    (folder / "stdio.h").write_text(STDIO)
    (folder / "user").write_text(USER)
    for language in languages:
        for options in (["-O0"], ["-O2"], ["-O2", "-fPIC"], ["-O2", "-DSLAB_NO_INLINE"]):
            must(*command, "-I", ROOT / "include", *STANDARD[language], *WARNINGS, *options, "-DNAME=first",
                 "-c", "user", "-o", "user.o", folder=folder)
            yield options, folder / "user.o"


@pytest.mark.parametrize("compiler, options, languages", [
    ("aarch64-linux-gnu-gcc", [], ["c"]), ("clang", ["--target=aarch64-linux-gnu", *FREESTANDING], ["c", "cxx"])])
def test_arm64(compiler, options, languages, tmp_path):
    """Sequences, and the word that the kernel looks for before the place where one begins anew."""
    signature = (0xd428bc00).to_bytes(4, "little")
    for how, made in objects_for([*need(compiler), *options], languages, tmp_path):
        inline = how in (["-O2"], ["-O2", "-fPIC"])
        assert ("__rseq_cs" in sections_of(made)) == inline
        assert (signature in made.read_bytes()) == inline


@pytest.mark.parametrize("target", ["i686-linux-gnu", "riscv64-linux-gnu", "x86_64-linux-gnux32"])
def test_machines_without_sequences(target, tmp_path):
    """There everything is a call."""
    for _, made in objects_for([*need("clang"), f"--target={target}", *FREESTANDING], STANDARD, tmp_path):
        assert "__rseq_cs" not in sections_of(made)
