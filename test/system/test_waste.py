"""tools/waste: what it says of programs whose sizes are known, and of recordings; and what the library's own structures
take beside small objects."""
import json
import re
import subprocess
import sys

import pytest

from conftest import BUILD, HANG_S, ROOT, need

sys.path.insert(0, str(ROOT))
from tools.python import waste  # noqa: E402

LENT = 8  # the first objects of a class may be of the next power of two
SAMPLED = 256  # of 128 MiB: more than are ever sampled, which lie in slabs of another class; 64 are on average


def waste_of(*words, options=()):
    return subprocess.run(["/usr/bin/python3", "-m", "tools.python.waste", *options, f"--build={BUILD}", "--",
                           *map(str, words)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=HANG_S, check=False)


def rows_of(program, *options):
    """{class: row}"""
    done = waste_of(program, options=["--json", *options])
    assert (done.returncode, done.stderr) == (0, ""), done
    found = json.loads(done.stdout)
    return found, {row["name"]: row for row in found["classes"]}


def build_program(folder, text, name="program.c"):
    compiler, = need("g++" if name.endswith(".cc") else "gcc")
    (folder / name).write_text(text)
    subprocess.run([compiler, "-O0", "-fno-builtin", "-pthread", "-o", folder / "program", folder / name], check=True)
    return folder / "program"


KNOWN = """
#include <stdlib.h>
#include <string.h>
static char *small[10000];
static void make(char **objects, int count, size_t bytes)
{
    for (int i = 0; i < count; i++)
        objects[i] = memset(malloc(bytes), 1, bytes);
}
int main(void)
{
    static char *others[400];
    make(small, 10000, 100);
    make(others, 300, 1000);
    make(others + 300, 3, 100000);
    for (int i = 0; i < 10000; i += 2)
        free(small[i]);
    return 0;
}
"""


@pytest.fixture
def unsampled(monkeypatch):
    """Each object lies in a slab of its own class."""
    monkeypatch.setenv("SLABMALLOC_OPTIONS", "sample_bytes=0")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return build_program(tmp_path_factory.mktemp("known"), KNOWN)


@pytest.mark.usefixtures("unsampled")
def test_objects_of_known_sizes_have_known_waste(known):
    found, rows = rows_of(known)
    assert found["program"] == "program" and found["processes"] == 1
    assert 10_000 - LENT <= rows["112"]["objects"] <= 10_000
    assert rows["112"]["given"] == 112 * rows["112"]["objects"]
    assert rows["112"]["internal_percent"] == pytest.approx(100 * 12 / 112, abs=0.2)
    assert rows["1024"]["objects"] == 300 and rows["1024"]["asked"] == 300_000
    assert rows["large"]["objects"] == 3 and rows["large"]["asked"] == 300_000
    assert rows["large"]["given"] == 3 * 102_400
    assert 2 * 102_400 <= rows["large"]["resident"] <= 3 * 102_400  # the last one need not be written yet
    assert rows["112"]["given"] <= rows["112"]["resident"] <= rows["112"]["given"] + (64 << 10)
    assert rows["sum"]["objects"] == sum(row["objects"] for name, row in rows.items() if name != "sum")


@pytest.mark.usefixtures("unsampled")
def test_what_is_free_among_live_objects_is_external_waste(known):
    _, before = rows_of(known)
    _, after = rows_of(known, "--end")
    assert before["112"]["external_percent"] < 6 and after["112"]["external_percent"] > 45
    assert 5_000 - LENT <= after["112"]["objects"] <= 5_000 and after["112"]["rounds"] > 0


def test_the_table_is_for_people(known):
    done = waste_of(known)
    head, empty, columns, *rows = done.stdout.splitlines()
    assert re.fullmatch(r"program\[\d+\], when most was alive, after \d+ calls in all; bytes", head) and empty == ""
    assert columns.split("  ")[0] == "class" and "internal %" in columns and "external %" in columns
    assert len({len(row) for row in [columns, *rows[:rows.index("")]]}) == 1  # aligned
    assert re.search(r"^    slabs' bits: \d+$", done.stdout, re.M)


def test_of_several_processes_the_largest_is_told(known):
    done = waste_of("/bin/bash", "-c", f"{known}; exit 3")
    assert done.returncode == 3
    assert re.match(r"program\[\d+\], the largest of [23] processes", done.stdout), done.stdout


def test_a_process_that_tells_nothing_is_one_line():
    done = waste_of("/bin/bash", "-c", "kill -KILL $$")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("waste: /bin/bash: no process has told anything")


CXX = """
#include <cstdio>
#include <new>
#include <string>
#include <vector>
struct alignas(64) Wide { char bytes[192]; };
int main()
{
    std::vector<std::string> strings(2000, std::string(99, 'x'));
    for (int i = 0; i < 1000; i++)
        delete[] new (std::nothrow) char[777], delete new Wide, delete[] new Wide[2];
    auto *kept = new Wide[500];
    try {
        puts(static_cast<char *>(operator new(size_t(1) << 60)));
    } catch (std::bad_alloc &) {
    }
    return kept[499].bytes[0] == 77;
}
"""


@pytest.mark.usefixtures("unsampled")
def test_objects_of_operator_new_count_once_and_go(tmp_path):
    found, rows = rows_of(build_program(tmp_path, CXX, "program.cc"))
    assert 2000 - LENT <= rows["112"]["objects"] <= 2002 and rows["large"]["objects"] >= 2  # the vector, 500 Wide
    assert all(rows[name]["objects"] <= 1 for name in ("192", "384", "832") if name in rows)
    assert 5000 <= found["calls"] <= 5200


FORKS = """
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *churn(void *unused)
{
    for (int i = 0; i < 200000; i++)
        free(malloc(16 + i % 500));
    return unused;
}
int main(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, churn, NULL);
    for (int i = 0; i < 20; i++)
        if (fork() == 0)
            exit(churn(NULL) != NULL);
    while (wait(NULL) > 0)
        continue;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
"""


def test_children_of_a_busy_process_tell_of_themselves(tmp_path):
    found, _ = rows_of(build_program(tmp_path, FORKS))
    assert found["processes"] == 21


SMALL = """
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
enum { THREADS = 4, COUNT = (128 << 20) / 64 / THREADS };
static pthread_barrier_t done;
static void *fill(void *unused)
{
    char **objects = malloc(COUNT * sizeof *objects);
    for (int i = 0; i < COUNT; i++)
        objects[i] = memset(malloc(64), 1, 64);
    for (int i = 0; i < COUNT; i += 3)
        free(objects[i]);
    for (int i = 0; i < COUNT; i += 3)
        objects[i] = memset(malloc(64), 1, 64);
    pthread_barrier_wait(&done);
    pthread_barrier_wait(&done);
    return unused;
}
int main(void)
{
    pthread_t thread;
    pthread_barrier_init(&done, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread, NULL, fill, NULL);
    pthread_barrier_wait(&done);
    exit(0);
}
"""


def test_own_structures_take_at_most_0_8_percent_beside_objects_of_64_bytes(tmp_path):
    """Resident, and while four threads have magazines."""
    found, rows = rows_of(build_program(tmp_path, SMALL), "--end")
    assert rows["64"]["objects"] >= (2 << 20) - SAMPLED
    assert found["own"]["magazines"] > 0 and found["own"]["bits"] >= (2 << 20) / 8
    assert 0 < found["own_percent"] <= 0.8, found["own"]


# -- recordings -----------------------------------------------------------------------------------------------------

@pytest.fixture
def recording(tmp_path, monkeypatch):
    """100 objects of 100 bytes and one of 40,000 were alive; and many of 20 bytes were asked for."""
    (tmp_path / "mine.csv").write_text("# a comment\n20,1000,0\n100,200,100\n40000,1,1\n")
    monkeypatch.setattr(waste, "SIZES", tmp_path)


def shown(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["waste", *words])
    with pytest.raises(SystemExit) as end:
        waste.main()
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def test_a_recording_is_put_into_classes(recording, capsys, monkeypatch):
    status, text, _ = shown(capsys, monkeypatch, "--sizes=mine", "--json")
    found = json.loads(text)
    assert status == 0 and [row["class"] for row in found["classes"]] == ["112", "large", "sum"]
    assert found["classes"][0]["given"] == 11_200 and found["classes"][1]["given"] == 40_960
    assert found["internal_percent"] == pytest.approx(100 * (1_200 + 960) / 52_160)
    _, text, _ = shown(capsys, monkeypatch, "--sizes=mine", "--json", "--calls")
    assert [row["objects"] for row in json.loads(text)["classes"]] == [1000, 200, 1, 1201]


@pytest.mark.parametrize("change, given", [("+104,-112", 10_400 + 40_960), ("-112", 12_800 + 40_960),
                                           ("128", 12_800 + 40_960), ("64,40960", 4_096_000 + 40_960)])
def test_other_classes_are_compared(recording, capsys, monkeypatch, change, given):
    _, text, _ = shown(capsys, monkeypatch, "--sizes=mine", "--json", f"--classes={change}")
    assert json.loads(text)["proposed_percent"] == pytest.approx(100 * (given - 50_000) / given)


def test_what_a_class_saves_is_what_its_objects_would_take_in_the_next(recording, capsys, monkeypatch):
    _, text, _ = shown(capsys, monkeypatch, "--sizes=all", "--json")
    found = json.loads(text)
    assert found["saved_percent"]["mine"]["112"] == pytest.approx(100 * 1_600 / 52_160)
    assert found["would_save_percent"]["mine"]["104"] == pytest.approx(100 * 800 / 52_160)
    _, text, _ = shown(capsys, monkeypatch, "--sizes=all")
    assert "What each class saves" in text and re.search(r"^112 +3\.07 +3\.07 +mine$", text, re.M)


@pytest.mark.parametrize("words, complaint", [
    (["--sizes=nosuch"], "no recording 'nosuch'; there are all, mine"), (["--sizes=../x"], "no recording"),
    (["--sizes=mine", "--classes=few"], "no list of sizes"), (["--sizes=mine", "--classes=+24,32"], "32 is no change"),
    (["--sizes=mine", "--classes=-24"], "-24 is no change"), (["--sizes=mine", "--classes=0,16"], "no bytes")])
def test_a_mistake_is_one_line(recording, capsys, monkeypatch, words, complaint):
    status, text, said = shown(capsys, monkeypatch, *words)
    assert status == 2 and text == "" and said.startswith("waste: ") and complaint in said and said.count("\n") == 1


def test_the_present_classes_are_the_librarys():
    classes = waste.present_classes()
    assert classes[0] == 16 and classes[-1] == 32768 and 608 in classes and classes == sorted(set(classes))
    assert len(waste.recorded()) >= 16
