"""slab_percpu_add_long as it is compiled into programs: a dozen instructions, none of them locked, nothing called.

A function that adds to a counter and does nothing else is compiled as programs and libraries compile it. Looked at
are its instructions in the order in which they run where the process has restartable sequences: the one conditional
jump leaves for the fallback, and is not taken.
"""
import platform
import re
import struct
import subprocess

import pytest

from conftest import ROOT, need
from test_disassembly import Code, complaint, direct_target

MOST_INSTRUCTIONS = 12  # without the return
SOURCE = "#include <slabmalloc.h>\nvoid bump(slab_percpu counter) { slab_percpu_add_long(counter, 1); }\n"
TOO_MUCH = {  # what stands for bump where the check itself is checked
    "a locked": "void bump(long *word) { __atomic_fetch_add(word, 1, __ATOMIC_RELAXED); }",
    "a leaf": "void other(void); int bump(void) { other(); return 1; }",
}

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 code")


def compile_bump(folder, compiler, position, source=SOURCE):
    """An object file: what it calls and its data's place are left open."""
    command, = need(compiler)
    (folder / "bump.c").write_text(source)
    subprocess.run([command, "-O2", position, "-I", ROOT / "include", "-c", "-o", folder / "bump.o",
                    folder / "bump.c"], check=True)
    return folder / "bump.o"


def main_path(code, name):
    """The instructions of a function up to its return, conditional jumps not taken."""
    address, path = code.entry(name), []
    while not re.match(r"(?:bnd )?ret", code.text[address]):
        text = code.text[address]
        path.append(text)
        address = direct_target(text) if re.match(r"jmp\b", text) else code.following[address]
    return path


def faults_of(path):
    conditional = [text for text in path if re.match(r"j(?!mp\b)", text)]
    return [f"{text}: {complaint(text)}" for text in path if complaint(text)] + [
        f"{text}: a second branch" for text in conditional[1:]]


@pytest.mark.parametrize("position", ["-fno-pie", "-fPIE", "-fPIC"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_an_add_is_a_dozen_plain_instructions(compiler, position, tmp_path):
    path = main_path(Code(compile_bump(tmp_path, compiler, position)), "bump")
    assert not faults_of(path), "\n".join(faults_of(path))
    assert len(path) <= MOST_INSTRUCTIONS, "\n".join(path)
    assert sum(text.startswith("add") and "0x10000(" in text for text in path) == 1, "\n".join(path)


@pytest.mark.parametrize("fault", TOO_MUCH)
def test_check_sees(fault, tmp_path):
    path = main_path(Code(compile_bump(tmp_path, "gcc", "-fPIC", TOO_MUCH[fault])), "bump")
    assert any(fault in line for line in faults_of(path)), path


# -- what the kernel is told ----------------------------------------------------------------------------------------

DESCRIPTOR = struct.Struct("<IIQQQ")  # struct rseq_cs: version, flags, start, length, where to go on after an abort
SIGNATURE = bytes.fromhex("0fb93d") + (0x53053053).to_bytes(4, "little")


def section(path, name):
    """The address and bytes of a section."""
    header = next(row.split() for row in subprocess.run(["readelf", "-SW", path], check=True, capture_output=True,
                  text=True).stdout.replace("[ ", "[").splitlines() if f" {name} " in row)
    address, offset, size = (int(word, 16) for word in header[3:6])
    return address, path.read_bytes()[offset:offset + size]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_addition_is_the_sequences_last_instruction(compiler, tmp_path):
    command, _ = need(compiler, "readelf")
    bump = tmp_path / "bump"
    subprocess.run([command, "-no-pie", "-nostdlib", "-Wl,-e,bump", "-Wl,--unresolved-symbols=ignore-all", "-o", bump,
                    compile_bump(tmp_path, compiler, "-fno-pie")], check=True)
    code = Code(bump)
    version, flags, start, length, abort = DESCRIPTOR.unpack(section(bump, "__rseq_cs")[1])
    assert (version, flags) == (0, 0)
    inside = [code.text[address] for address in sorted(code.text) if start <= address < start + length]
    assert re.match(r"mov +%fs:", inside[0]) and re.match(r"add.*0x10000\(", inside[-1]), inside
    assert start + length in code.text, "it ends inside an instruction"
    text_address, text = section(bump, ".text")
    assert text[abort - text_address - len(SIGNATURE):abort - text_address] == SIGNATURE
    begin = direct_target(code.text[abort])
    assert re.match(r"lea", code.text[begin]) and code.following[code.following[begin]] == start
