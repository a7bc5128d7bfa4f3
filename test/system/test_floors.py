"""The floors of the house: src/FLOORS lists every file, lowest first, and nothing climbs.

A file and its header are one unit, and stand together. A unit uses only what units above its line in FLOORS define. So
no files form a circle, in a folder or across. What is handed down as a function pointer is no use.

Every rule is a function from a tree ({name in FLOORS: text}) and the list to its violations, so that it can be
tried on a tree that breaks it; `tree` is the house itself.
"""
import pathlib
import re
import subprocess

import pytest

from c_source import (calls_of, code_of, declarations_of, directives_of, functions_of, includes_of,
                      name_declared_in, without_attributes, words_of)
from conftest import BUILD, ROOT, fail_with, need

FILE_LINES = 600
FUNCTION_LINES = 60
HOT_FILES = ["heap/alloc.h", "heap/free.h", "heap/sized.h"]
HOT_FUNCTION_LINES = 25
LIBC_BEHIND = {"pthread_create", "thrd_create"}  # libc has them where the library has not: the archive
VARIABLE = re.compile(r"(?:struct |union |enum |const |_Atomic |_Thread_local )*\w+[ *]+"
                      r"(slm_\w+)\s*(?:\[.*\]\s*)?(=.*)?", re.S)


def floors_in(text):
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def house():
    """Every C file of src/ and preload/ by its name in FLOORS, which leaves out "src/"."""
    files = [path for folder in ("src", "preload") for path in (ROOT / folder).rglob("*.[chS]")]
    return {str(path.relative_to(ROOT)).removeprefix("src/"): path.read_text() for path in files}


@pytest.fixture(scope="module")
def tree():
    return house()


@pytest.fixture(scope="module")
def floors():
    return floors_in((ROOT / "src" / "FLOORS").read_text())


# -- the rules ---------------------------------------------------------------------------------------------------

def wrongly_listed(tree, floors):
    return ([f"{name} is listed twice" for name in set(floors) if floors.count(name) > 1]
            + [f"{name} is listed but not there" for name in floors if name not in tree]
            + [f"{name} is not listed" for name in tree if name not in floors])


def unit_of(name):
    return str(pathlib.PurePath(name).with_suffix(""))


def torn_floors(floors):
    """Folders whose files do not stand together, and units whose header is not the line before their .c file."""
    folders = [pathlib.PurePath(name).parent for name in floors]
    starts = [folder for before, folder in zip([None, *folders], folders) if folder != before]
    wrong = [f"{folder}/ stands in FLOORS in two places" for folder in set(starts) if starts.count(folder) > 1]
    return wrong + [f"{name} does not stand right behind its header" for before, name in zip([None, *floors], floors)
                    if name.endswith(".c") and name[:-1] + "h" in floors and before != name[:-1] + "h"]


def climbing_includes(tree, floors):
    """Only includes of what stands earlier in the list; the public header is below everything."""
    wrong = []
    for position, name in enumerate(floors):
        for line, path in includes_of(tree.get(name, "")):
            beside = str(pathlib.PurePath(name).parent / path)
            target = path if path in floors else beside
            if target not in floors[:position] and not (ROOT / "include" / path).is_file():
                wrong.append(f"{name}:{line} includes {path}")
    return wrong


def climbing_names(tree, floors):
    """No mention of an slm_ name, and no call of any function, that a later unit's file defines for others."""
    wrong, above = [], {}
    for name in reversed(floors):
        code = code_of(tree.get(name, ""))
        known = {word for word in words_of(code) if word.startswith("slm_")} | calls_of(code)
        wrong += climbing(name, known, above)
        above.update({word: name for word in defined_for_others(tree.get(name, ""))})
    return wrong


def climbing(name, used, above):
    return [f"{name} uses {word}, which {above[word]} defines" for word in sorted(used & above.keys())
            if unit_of(above[word]) != unit_of(name) and word not in LIBC_BEHIND]


def climbing_symbols(objects, floors):
    """The same of compiled files: {name in FLOORS: (symbols that it defines, symbols that it uses)}."""
    wrong, above = [], {}
    for name in reversed([name for name in floors if name in objects]):
        defined, used = objects[name]
        wrong += climbing(name, used, above)
        above.update({symbol: name for symbol in defined})
    return wrong


def objects_of(floors):
    """What nm says of the library's object files that are built."""
    found = {}
    for name in floors:
        path = pathlib.PurePath(name if name.startswith("preload/") else f"src/{name}")
        built = BUILD / "libslabmalloc.so.p" / ("_".join(path.parts) + ".o")
        if built.is_file():
            lines = subprocess.run(["nm", "--format=posix", built], capture_output=True, text=True,
                                   check=True).stdout.splitlines()
            kinds = dict(line.split()[:2] for line in lines)
            found[name] = ({symbol for symbol, kind in kinds.items() if kind.isupper() and kind not in "UWV"},
                           {symbol for symbol, kind in kinds.items() if kind == "U"})
    return found


def defined_for_others(text):
    """The functions and variables that a file defines and other files can see."""
    functions = {function.name for function in functions_of(text)
                 if not re.search(r"\bstatic\b|_inline\b", function.head)}
    variables = {match[1] for _, statement in declarations_of(text)
                 if not re.match(r"extern|static|typedef|(struct|union|enum)\s+\w+$", statement)
                 and (match := VARIABLE.fullmatch(without_attributes(statement)))}
    return functions | variables


def strange_declarations(tree):
    """.c files take what others define from headers: no extern, no prototype, of a name that the house defines."""
    defined = {function.name for text in tree.values() for function in functions_of(text)}
    wrong = []
    for name, text in tree.items():
        for line, statement in declarations_of(text) if name.endswith(".c") else []:
            declared = name_declared_in(statement)
            of_house = declared and (declared in defined or declared.startswith("slm_")) and "alias" not in statement
            prototype = of_house and "=" not in statement and not re.match(r"static|typedef", statement)
            variable = re.match(r"extern\b", statement) and "slm_" in statement
            if variable or (prototype and not name.startswith("preload/")):
                wrong.append(f"{name}:{line} declares {' '.join(statement.split())}")
    return wrong


def conditional_hot_code(tree):
    """The hot paths are read as they are compiled: the only condition is an include guard on top."""
    wrong = []
    for name in HOT_FILES:
        directives = directives_of(code_of(tree.get(name, "")))
        guarded = [word for _, word in directives[:2]] == ["ifndef", "define"]
        wrong += [f"{name}:{line} #{word}" for line, word in directives[2 * guarded:len(directives) - guarded]
                  if word in ("if", "ifdef", "ifndef", "elif", "else", "endif")]
    return wrong


def long_files(tree):
    return [f"{name} has {text.count(chr(10))} lines" for name, text in tree.items() if text.count("\n") > FILE_LINES]


def long_functions(tree):
    return [f"{name}:{function.line} {function.name}() has {function.lines} lines"
            for name, text in tree.items() for function in functions_of(text)
            if function.lines > (HOT_FUNCTION_LINES if name in HOT_FILES else FUNCTION_LINES)]


# -- the house keeps them ----------------------------------------------------------------------------------------

def test_every_file_is_listed_once(tree, floors):
    fail_with(wrongly_listed(tree, floors))


def test_floors_hang_together(floors):
    fail_with(torn_floors(floors))


def test_no_include_climbs(tree, floors):
    fail_with(climbing_includes(tree, floors))


def test_no_name_climbs(tree, floors):
    fail_with(climbing_names(tree, floors))


def test_no_symbol_climbs(floors):
    need("nm")
    objects = objects_of(floors)
    assert set(objects) == {name for name in floors if name.endswith(".c")}
    fail_with(climbing_symbols(objects, floors))


def test_declarations_are_in_headers(tree):
    fail_with(strange_declarations(tree))


def test_hot_paths_have_no_conditional_code(tree):
    assert set(HOT_FILES) <= set(tree)
    fail_with(conditional_hot_code(tree))


def test_files_are_short(tree):
    fail_with(long_files(tree))


def test_functions_are_short(tree):
    fail_with(long_functions(tree))


def test_functions_are_found(tree):
    """The measurer sees the code: as many functions as there are closing braces in column 0 behind a body."""
    for name, text in tree.items():
        assert len(functions_of(text)) == len(re.findall(r"(?m)^\{$", code_of(text))), name


# -- and each of them can fail -----------------------------------------------------------------------------------

FLOORS = ["base/low.h", "base/low.c", "page/mid.h", "page/mid.c", "preload/malloc.c"]
LOW_H = "#pragma once\nvoid slm_low(void);\n"
LOW_C = '#include "base/low.h"\n\nvoid slm_low(void)\n{\n}\n'
MID_H = "#pragma once\nvoid slm_mid(int x);\n"
MID_C = ('#include "page/mid.h"\n#include "base/low.h"\n\nstatic void own(void);\n\n'
         'void slm_mid(int x)\n{\n    slm_low();\n}\n')
MALLOC_C = '#include "page/mid.h"\n\nvoid free(void *ptr)\n{\n    slm_mid(1);\n}\n'


def planted(**changes):
    tree = {"base/low.h": LOW_H, "base/low.c": LOW_C, "page/mid.h": MID_H, "page/mid.c": MID_C,
            "preload/malloc.c": MALLOC_C}
    return {**tree, **{name.replace("__", "/").replace("_dot_", "."): text for name, text in changes.items()}}


def test_a_good_tree_passes():
    tree = planted()
    assert wrongly_listed(tree, FLOORS) == climbing_includes(tree, FLOORS) == climbing_names(tree, FLOORS) == []
    assert strange_declarations(tree) == long_functions(tree) == torn_floors(FLOORS) == []


def test_climbing_is_seen():
    assert climbing_includes(planted(base__low_dot_c=LOW_C + '#include "page/mid.h"\n'), FLOORS)
    assert climbing_includes(planted(page__mid_dot_h='#include "mid.c"\n'), FLOORS)
    assert climbing_names(planted(base__low_dot_c=LOW_C + "void slm_more(void)\n{\n    slm_mid(2);\n}\n"), FLOORS)
    assert climbing_names(planted(page__mid_dot_c=MID_C.replace("slm_low()", "free(x)")), FLOORS)
    assert not climbing_names(planted(page__mid_dot_c=MID_C.replace("slm_low()", "x->free(x)")), FLOORS)
    assert climbing_names(planted(page__mid_dot_c=MID_C + "int slm_mids = 0;\n",
                                  base__low_dot_h=LOW_H + "extern int slm_mids;\n"), FLOORS)


def test_lists_that_lie_are_seen():
    assert wrongly_listed(planted(base__new_dot_c=""), FLOORS)
    assert wrongly_listed(planted(), [*FLOORS, "base/gone.c"])
    assert torn_floors([*FLOORS, "base/late.h"])
    assert torn_floors(["base/low.c", "base/low.h"])
    assert torn_floors(["base/low.h", "base/other.h", "base/low.c"])
    assert not torn_floors(["base/low.h", "base/low.c", "base/other.h"])


def test_circles_in_a_folder_are_seen():
    floors = ["page/one.h", "page/one.c", "page/two.h", "page/two.c"]
    one, two = "void slm_one(void)\n{\n    %s;\n}\n", "int slm_two;\nvoid slm_more(void)\n{\n    slm_one();\n}\n"
    assert not climbing_names({"page/one.c": one % "x", "page/two.c": two}, floors)
    assert climbing_names({"page/one.c": one % "slm_more()", "page/two.c": two}, floors)
    assert climbing_names({"page/one.c": one % "slm_two++", "page/two.c": two}, floors)
    assert climbing_names({"page/one.h": "int slm_f(void)\n{\n    slm_more();\n}\n", "page/two.c": two}, floors)
    assert not climbing_names({"page/one.h": "int slm_f(void)\n{\n    slm_one();\n}\n", "page/one.c": one % "x"}, floors)


def test_climbing_symbols_are_seen():
    floors = ["page/one.h", "page/one.c", "page/two.c"]
    assert not climbing_symbols({"page/one.c": ({"a"}, {"memcpy"}), "page/two.c": ({"b"}, {"a"})}, floors)
    assert climbing_symbols({"page/one.c": ({"a"}, {"b"}), "page/two.c": ({"b"}, set())}, floors) == [
        "page/one.c uses b, which page/two.c defines"]


@pytest.mark.parametrize("statement", ["extern int slm_count;", "extern void slm_low(void);", "void slm_low(void);",
                                       "int\nslm_low(int a,\n    int b);",
                                       "void slm_nowhere(void) __attribute__((weak));"])
def test_strange_declarations_are_seen(statement):
    assert strange_declarations(planted(page__mid_dot_c=MID_C + statement + "\n"))


@pytest.mark.parametrize("statement", ["static void slm_own(int x);", "static struct row rows[] = {{1, 2}, {3, 4}};",
                                       "extern char **environ;", "struct s {\n    int slm_field;\n};",
                                       'static_assert(sizeof(int) == 4, "x");', "typedef int (*slm_call)(void);",
                                       "int slm_count = slm_low(1);", "#define A(x) \\\n    void slm_low(x);"])
def test_own_declarations_are_fine(statement):
    assert not strange_declarations(planted(page__mid_dot_c=MID_C + statement + "\n"))


def test_long_code_is_seen():
    body = "    x++;\n" * 57
    assert not long_functions({"a/b.c": f"int f(int x)\n{{\n{body}}}\n"})
    assert long_functions({"a/b.c": f"int f(int x)\n{{\n{body}    x++;\n}}\n"})
    assert long_functions({"a/b.c": f"int f(int x,\n      int y)\n{{\n{body}}}\n"})
    assert long_functions({"heap/free.h": f"int f(int x)\n{{\n{'    x++;' * 3}{chr(10) * 23}}}\n"})
    assert long_files({"a/b.c": "\n" * 601})


def test_conditional_hot_code_is_seen():
    guarded = "#ifndef A_H\n#define A_H\n%s\n#endif\n"
    assert conditional_hot_code({"heap/alloc.h": guarded % "int x; /* \n#if 0\n */"}) == []
    assert conditional_hot_code({"heap/alloc.h": guarded % "#ifdef DEBUG\n#endif"})
    assert conditional_hot_code({"heap/alloc.h": "#pragma once\n#if 1\n#endif\n"})
