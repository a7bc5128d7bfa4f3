"""The hot paths, as compiled: no lock, no atomic read-modify-write, no system call, no loop, nothing called.

The law of the design: what malloc and free do in over 99 % of calls is arithmetic and thread-local memory. Here the
built library is read back. Of each function all instructions are looked at that can be reached from its first one
without entering a slow half; every way out must be `ret` or a jump to a function whose name ends in `_slow`.
"""
import graphlib
import platform
import re
import subprocess

import pytest

from conftest import LIBRARY, OURS, need

# A way out may lead to another of them.
HOT_FUNCTIONS = ["malloc", "slm_alloc_medium", "free", "free_sized", "_ZdlPv", "_ZdlPvm", "_ZdlPvmSt11align_val_t",
                 "_ZdaPvmSt11align_val_t", "malloc_usable_size", "slab_cache_alloc", "slab_cache_free", "slab_free",
                 "slab_free_deferred", "slab_free_deferred_head", "slab_epoch_enter", "slab_epoch_leave"]
MOST_INSTRUCTIONS = 60  # on all ways through one function and the hot ones that it leaves for
SLOW_NAME = re.compile(r"_slow(\.(part|isra|constprop|cold)(\.\d+)?)*$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.+?)\s*$")

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 code")


class Code:
    """The instructions and function names of a shared library."""

    def __init__(self, path):
        objdump, nm = need("objdump", "nm")
        listing = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True)
        found = (INSTRUCTION.match(line) for line in listing.stdout.splitlines())
        self.text = {int(row[1], 16): row[2].split("#")[0].strip() for row in found if row}
        order = sorted(self.text)
        self.following = dict(zip(order, order[1:]))
        self.names = {}
        for line in subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in "tTwWiI":
                self.names.setdefault(int(words[0], 16), []).append(words[2].split("@")[0])

    def entry(self, name):
        return next(address for address, names in self.names.items() if name in names)

    def is_slow(self, address):
        return any(SLOW_NAME.search(name) for name in self.names.get(address, []))


def direct_target(text):
    found = re.match(r"(?:bnd |notrack )*j\w+\s+([0-9a-f]+)\b", text)
    return int(found[1], 16) if found else None


FORBIDDEN = {  # searched for anywhere, since prefixes may stand in front
    r"\block\b": "a locked instruction",
    r"\bxchg.*\(": "xchg with memory is locked",
    r"\brep(n?[ez])?\b(?! ret)": "a repeated instruction",
    r"\b(syscall|sysenter|int|[lsm]fence|cpuid|rdtscp|xbegin)\b": "a system call or a fence",
    r"\bcall": "a call: the hot path is a leaf",
}


def complaint(text):
    """What the law has against one instruction, or None."""
    return next((reason for pattern, reason in FORBIDDEN.items() if re.search(pattern, text)), None)


def complaint_of_jump(code, name, text):
    """What the law has against a jump, or None. An operator may jump to what has replaced another one."""
    target = direct_target(text)
    if target is None:
        return None if name.startswith("_Zd") and "(%rip)" in text else "a jump through memory"
    own = {part for hot in (name, *HOT_FUNCTIONS) for part in (hot, f"{hot}.cold")}  # gcc puts the jump to the slow half into a cold part of the function
    if target in code.names and not code.is_slow(target) and not own & set(code.names[target]):
        return f"leaves for {code.names[target]}, which is not called ..._slow"
    return None


def follow(code, name):
    """The hot path as {address: addresses that may come next}, and its faults as lines."""
    faults, steps, waiting = [], {}, [code.entry(name)]
    while waiting:
        address = waiting.pop()
        if address in steps:
            continue
        text, steps[address] = code.text[address], []
        reason = complaint(text)
        jump = re.match(r"(?:bnd |notrack )*(j\w+)", text)
        if jump:
            target = direct_target(text)
            reason = complaint_of_jump(code, name, text)
            steps[address] += [target] if target and not reason and not code.is_slow(target) else []
        if reason:
            faults.append(f"{name}+{address - code.entry(name):#x}: {text}: {reason}")
        if not re.search(r"\bret|\bud2|\bhlt", text) and not (jump and jump[1] == "jmp"):
            steps[address].append(code.following[address])
        waiting += steps[address]
    return steps, faults


def check_hot_path(code, name):
    """All faults of a function's hot path, and how many instructions it has."""
    steps, faults = follow(code, name)
    try:
        graphlib.TopologicalSorter(steps).prepare()
    except graphlib.CycleError as cycle:
        faults.append(f"{name}: a loop through {[hex(address) for address in cycle.args[1]]}")
    return faults, len(steps)


@pytest.fixture(scope="module")
def code():
    if LIBRARY != OURS:
        pytest.skip("reads slabmalloc's own code")
    return Code(LIBRARY)


@pytest.mark.parametrize("name", HOT_FUNCTIONS)
def test_hot_path_is_a_leaf(code, name):
    faults, length = check_hot_path(code, name)
    assert not faults, "\n".join(faults)
    assert length <= MOST_INSTRUCTIONS, f"{name} has {length} instructions"


def pops(texts):
    """For each load of a round, whether the top has moved before."""
    found, moved = [], False
    for text in texts:
        if re.match(r"addq\s+\$0xf+8,", text):
            moved = True
        elif re.match(r"mov\s+-0x8\(%r", text):
            found.append(moved)
            moved = False
    return found


@pytest.mark.parametrize("name", ["malloc", "slm_alloc_medium", "slab_cache_alloc"])
def test_a_pop_moves_the_top_and_then_loads_its_round(code, name):
    """In between another thread may have exchanged the round (src/thread/park.h)."""
    steps, _ = follow(code, name)
    found = pops(code.text[address] for address in sorted(steps))
    assert found and all(found)


def test_a_round_that_is_loaded_first_is_seen():
    move, load = "addq   $0xfffffffffffffff8,(%rdx,%rax,8)", "mov    -0x8(%rcx),%rax"
    assert pops([move, load, "ret", move, load]) == [True, True]
    assert pops([load, move]) == [False] and pops([move, load, load]) == [True, False]


# -- the check itself: it must see what it forbids ------------------------------------------------------------------

OTHERS = """
#define OTHER __attribute__((noipa, visibility("hidden")))
OTHER void *take_slow(unsigned long n) { return (void *)n; }
OTHER void other(void) { __asm__ volatile(""); }
static __thread struct { unsigned count; void *rounds[8]; } magazine;
void (*pointer)(void);
volatile int word;
__thread int far __attribute__((tls_model("global-dynamic")));
"""
GOOD = "void *hot(unsigned long n) { return magazine.count ? magazine.rounds[--magazine.count] : take_slow(n); }"
BAD = {
    "a locked": "void hot(void) { __atomic_fetch_add(&word, 1, __ATOMIC_RELAXED); }",
    "xchg": "int hot(void) { return __atomic_exchange_n(&word, 1, __ATOMIC_RELAXED); }",
    "system call": 'void hot(void) { __asm__ volatile("syscall"); }',
    "a leaf": "int hot(void) { other(); return 1; }",
    "__tls_get_addr": "int hot(void) { return far; }",
    "not called ..._slow": "void hot(void) { other(); }",
    "through memory": "void hot(void) { pointer(); }",
    "a loop": "void hot(void) { while (word) word = 1; }",
}


def compile_toy(folder, hot):
    gcc, = need("gcc")
    (folder / "toy.c").write_text(OTHERS + hot + "\n")
    subprocess.run([gcc, "-O2", "-fPIC", "-shared", "-ftls-model=initial-exec", "-o", folder / "toy.so",
                    folder / "toy.c"], check=True)
    return Code(folder / "toy.so")


def test_check_passes_a_good_path(tmp_path):
    assert check_hot_path(compile_toy(tmp_path, GOOD), "hot")[0] == []


@pytest.mark.parametrize("fault", BAD)
def test_check_sees(tmp_path, fault):
    faults, _ = check_hot_path(compile_toy(tmp_path, BAD[fault]), "hot")
    assert any(fault in line for line in faults), faults
