"""The programs that the system tests run to their end: for each, the work it does and what must come out of it.

A work function gets a Runner, which runs commands in a folder of its own, and returns facts: all that must be the
same on every allocator. Inputs are made from a fixed seed, so that two runs have the same.
"""
import dataclasses
import hashlib
import random
import re
import textwrap
import xml.etree.ElementTree

import php
from conftest import scaled
from tools.python.processes import plain_env, run

PYTHON = "/usr/bin/python3"  # Debian's, which the package with its tests belongs to
PYTHON_TESTS = ("test_json", "test_dict", "test_ctypes")  # none of them looks at a clock; those of threads do
PYTHON_ROUNDS = scaled(2_000)
ROCKSDB_KEYS = scaled(30_000)
GIT_COMMITS = scaled(60)
GIT_FILES = 120
C_FILES = scaled(8)
CXX_FILES = scaled(1)
PHP_ROUNDS = scaled(1_000)
SQLITE_ROWS = scaled(20_000)
SCRIPT_ROUNDS = scaled(30_000)  # of perl and of node
SORT_LINES = scaled(100_000)
XZ_BYTES = scaled(4_000_000)
SEED = 20_240_607


class Runner:
    """Runs commands in a folder, on the library where there is a `preload`."""

    def __init__(self, folder, environment, preload=None):
        folder.mkdir()
        self.folder = folder
        self.env = preload.env(**environment) if preload else plain_env(**environment)

    def __call__(self, *argv, stdin="/dev/null"):
        output = run(argv, env=self.env, folder=self.folder, log=self.folder / "output", stdin=self.folder / stdin)
        assert "slabmalloc" not in output and "ld.so" not in output, output  # ld.so says what it cannot preload
        return output

    def write(self, name, text):
        (self.folder / name).write_text(textwrap.dedent(text))

    def digests(self, *patterns):
        """The content of the folder's files that match, by name."""
        paths = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        return {path.name: digest(path.read_bytes()) for path in paths}


def digest(data):
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


def words(chance, count):
    return " ".join("%x" % chance.getrandbits(20) for _ in range(count))


# -- databases


def rocksdb(command):
    common = ("--seed=7", "--compression_type=none", "--progress_reports=false", "--write_buffer_size=2000000")
    alone = command("db_bench", "--db=alone", *common, f"--num={ROCKSDB_KEYS}", "--threads=1",
                    "--benchmarks=fillseq,overwrite,deleterandom,compact,readrandom,seekrandom,readmissing")
    # four threads at once: their order is chance, so that what is compared is that the database is whole
    command("db_bench", "--db=together", *common, f"--num={ROCKSDB_KEYS // 4}", "--threads=4",
            "--benchmarks=fillrandom,readwhilewriting,updaterandom,multireadrandom")
    return {"found": re.findall(r"^(\w+) .*(\(\d+ of \d+ found\))", alone, re.M),
            "rows": digest(command("ldb", "--db=alone", "scan", "--hex")),
            "consistency": command("ldb", "--db=together", "checkconsistency")}


def sqlite(command):
    command.write("script.sql", f"""
        CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, body BLOB);
        BEGIN;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {SQLITE_ROWS})
            INSERT INTO item SELECT i, i * 7919 % 101, printf('%08x', i * 2654435761 % 4294967296),
                zeroblob(i % 300) FROM n;
        COMMIT;
        CREATE INDEX item_kind ON item(kind, name);
        CREATE UNIQUE INDEX item_name ON item(name);
        SELECT kind, count(*), min(name), sum(length(body)) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 20;
        SELECT count(*) FROM item a JOIN item b ON b.name > a.name AND b.kind = a.kind WHERE a.id % 400 = 0;
        SELECT length(group_concat(name)), sum(length(json_object('n', name, 'k', kind))) FROM item;
        DELETE FROM item WHERE id % 3 = 0;
        UPDATE item SET name = name || '-' || kind, body = body || name WHERE kind < 40;
        VACUUM;
        PRAGMA integrity_check;
        """)
    return {"answers": command("sqlite3", "data.db", stdin="script.sql"),
            "dump": digest(command("sqlite3", "data.db", ".dump"))}


# -- languages


def python_tests(command):
    command(PYTHON, "-m", "test", "--junit-xml", "results.xml", *PYTHON_TESTS)
    cases = xml.etree.ElementTree.parse(command.folder / "results.xml").iter("testcase")
    return {"results": sorted((case.get("name"), case.get("status"), case.get("result")) for case in cases)}


def python_threads(command):
    command.write("script.py", r"""
        import hashlib, queue, sys, threading
        ROUNDS = int(sys.argv[1])

        def make(number):
            return {"n": number, "words": ["%x" % (number * i) for i in range(number % 7)], "text": "x" * (number % 900)}

        def produce(seed, things):
            for i in range(ROUNDS):
                things.put(make(i * seed))
            things.put(None)

        def consume(seed, things, answers):
            answer = hashlib.sha256()
            while (thing := things.get()) is not None:
                answer.update(repr(thing).encode())
            answers[seed] = answer.hexdigest()

        def leave(number, left):
            left[number] = make(number)

        def run(threads):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        answers, left = {}, {}
        pipes = {seed: queue.Queue(50) for seed in (7919, 104729, 31)}
        run([threading.Thread(target=produce, args=pipe) for pipe in pipes.items()]
            + [threading.Thread(target=consume, args=(*pipe, answers)) for pipe in pipes.items()])
        for i in range(ROUNDS // 50):  # threads that die before what they have made
            run([threading.Thread(target=leave, args=(i * 8 + j, left)) for j in range(8)])
        print(sorted(answers.items()), hashlib.sha256(repr(sorted(left.items())).encode()).hexdigest())
        """)
    return {"answers": command(PYTHON, "script.py", PYTHON_ROUNDS)}


def python_deepbind(command):
    """What is opened with RTLD_DEEPBIND is given objects of the program's malloc, and gives some back."""
    command.write("script.py", r"""
        import ctypes, os, sys
        sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
        import bz2, decimal, hashlib, json, lzma, readline, sqlite3, ssl, zlib

        deep = os.RTLD_NOW | os.RTLD_DEEPBIND
        program, libcrypt = ctypes.CDLL(None), ctypes.CDLL("libcrypt.so.1", mode=deep)
        program.malloc.restype = ctypes.c_void_p
        program.malloc.argtypes = [ctypes.c_size_t]
        program.free.argtypes = [ctypes.c_void_p]
        libcrypt.crypt_ra.restype = ctypes.c_char_p
        libcrypt.crypt_ra.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
        for size in (0, 100, 100_000):  # crypt_ra enlarges what is too small
            room, length = ctypes.c_void_p(program.malloc(size)), ctypes.c_int(size)
            print(libcrypt.crypt_ra(b"word", b"$5$salt", ctypes.byref(room), ctypes.byref(length)))
            program.free(room)

        rounds, data = int(sys.argv[1]), b"".join(b"%x," % (i * 7919) for i in range(20_000))
        for pack in bz2, lzma, zlib:
            packed = pack.compress(data)
            print(pack.__name__, hashlib.sha256(packed).hexdigest(), pack.decompress(packed) == data)
        db = sqlite3.connect(":memory:")
        db.create_function("twice", 1, lambda text: text * 2)
        db.execute("CREATE TABLE item(name, body)")
        rows = (("%x" % (i * 7919), "x" * (i % 300)) for i in range(rounds))
        db.executemany("INSERT INTO item VALUES(?, ?)", rows)
        print(db.execute("SELECT count(*), min(twice(name)), sum(length(body)) FROM item").fetchall())
        print(decimal.Decimal(2).sqrt(), len(ssl.create_default_context().get_ciphers()), json.loads("[1]"))
        """)
    return {"answers": command(PYTHON, "script.py", PYTHON_ROUNDS)}


def php_cli(command):
    command.write("page.php", php.PAGE)
    opcache = ("-d", "opcache.enable_cli=1", "-d", "opcache.jit=tracing", "-d", "opcache.jit_buffer_size=16M")
    return {"plain": command("php", "page.php", PHP_ROUNDS),
            "compiled": command("php", *opcache, "page.php", PHP_ROUNDS),
            "garbage": command("php", "-d", "zend.enable_gc=0", "page.php", PHP_ROUNDS // 10)}


def perl(command):
    command.write("script.pl", r"""
        use strict; use warnings; use Digest::SHA qw(sha256_hex);
        my ($rounds) = @ARGV; my (%count, @lines, $text);
        for my $i (1 .. $rounds) {
            my $word = sprintf("%x", $i * 7919 % 65537);
            $count{substr($word, 0, 3)} .= "$i,";
            push @lines, { word => $word, parts => [split //, $word] };
            $text .= "$word " if $i % 3;
        }
        $text =~ s/([0-9a-f])\1/<$1>/g;
        my @sorted = sort { $a->{word} cmp $b->{word} || @{$a->{parts}} <=> @{$b->{parts}} } @lines;
        splice @lines, 0, $rounds / 2;
        print sha256_hex(join ",", map { "$_=$count{$_}" } sort keys %count), "\n", sha256_hex($text), "\n",
            sha256_hex(join "", map { reverse @{$_->{parts}} } @sorted), "\n", scalar(@lines), "\n";
        """)
    return {"answers": command("perl", "script.pl", SCRIPT_ROUNDS)}


def node(command):
    command.write("script.js", r"""
        const { Worker, isMainThread, workerData, parentPort } = require("worker_threads");
        const { createHash } = require("crypto"), zlib = require("zlib");
        const sha = (data) => createHash("sha256").update(data).digest("hex");
        function work(rounds, seed) {
            const map = new Map(), buffers = [];
            for (let i = 1; i <= rounds; i++) {
                const word = ((i * seed) % 65537).toString(16);
                map.set(word + (i % 9), { i, word, list: [i, word] });
                if (i % 20 === 0) buffers.push(Buffer.alloc(9000 + (i % 5000), word));
            }
            const json = JSON.stringify([...map]);
            const packed = zlib.deflateSync(Buffer.concat(buffers));
            const back = JSON.stringify(JSON.parse(json).reverse());
            return [sha(json), sha(back), sha(zlib.inflateSync(packed)), packed.length];
        }
        if (!isMainThread) parentPort.postMessage(work(...workerData));
        else {
            const rounds = Number(process.argv[2]);
            const answer = (seed) => new Promise((resolve, reject) =>
                new Worker(__filename, { workerData: [rounds, seed] }).on("message", resolve).on("error", reject));
            Promise.all([answer(7919), answer(104729)]).then((both) => console.log(work(rounds, 31), both));
        }
        """)
    return {"answers": command("node", "script.js", SCRIPT_ROUNDS)}


def java(command):
    return {"version": command("java", "-version")}


# -- tools


def git(command):
    (command.folder / "history").write_text("".join(git_history()))
    command("git", "init", "--quiet", "--initial-branch=main", "repository")
    inside = ("git", "-C", "repository")
    command(*inside, "-c", "fastimport.unpackLimit=1000000", "fast-import", "--quiet", stdin="history")
    before = command(*inside, "fsck", "--full", "--strict")
    command(*inside, "-c", "pack.threads=2", "gc", "--quiet", "--aggressive", "--prune=now")
    return {"fsck before": before,
            "fsck after": command(*inside, "fsck", "--full", "--strict"),
            "loose": command(*inside, "count-objects"),
            "objects": digest(command(*inside, "cat-file", "--batch-check", "--batch-all-objects")),
            "patches": digest(command(*inside, "log", "-p", "main"))}


def git_history():
    """A stream for git fast-import: commits that each change a few files by a few lines."""
    chance = random.Random(SEED)
    files = {f"folder{i % 9}/file{i}.txt": [words(chance, 8) for _ in range(120)] for i in range(GIT_FILES)}
    for commit in range(GIT_COMMITS):
        yield f"commit refs/heads/main\ncommitter A U Thor <author@example.com> {1_700_000_000 + commit} +0000\n"
        yield f"data <<.\ncommit {commit}\n.\n"
        for name in chance.sample(sorted(files), 12) if commit else sorted(files):
            files[name][chance.randrange(120)] = words(chance, 8)
            content = "\n".join(files[name]) + "\n"
            yield f"M 100644 inline {name}\ndata {len(content)}\n{content}\n"
        yield "\n"


def gcc(command):
    return build(command, "gcc", "c", c_sources())


def gxx(command):
    return build(command, "g++", "cc", cxx_sources())


def build(command, compiler, suffix, sources):
    """Compile sources (texts by name) and link them with make -j2, and run what came out."""
    for name, text in sources.items():
        command.write(f"{name}.{suffix}", text)
    objects = " ".join(f"{name}.o" for name in sources)
    command.write("Makefile", f"""\
        program: {objects}
        \t{compiler} -o $@ {objects}
        %.o: %.{suffix}
        \t{compiler} -O2 -g -ffile-prefix-map="$$PWD"=. -c -o $@ $<
        """)
    return {"make": sorted(command("make", "--no-print-directory", "-j2").splitlines()),
            "built": command.digests("*.o", "program"),
            "answers": command("./program")}


C_STEP = """
static const int table%(n)d[] = {%(numbers)s};
struct record%(n)d { char name[%(n)d + 8]; int values[%(n)d + 1]; struct record%(n)d *next; };
static int step%(n)d(int x)
{
    switch (x %% 5) {
    case 0: return x + table%(n)d[x & 63];
    case 1: return x ^ %(n)d;
    case 2: { struct record%(n)d r = {"name", {x}, 0}; return r.values[0] + (int)strlen(r.name); }
    default:
        for (int i = 0; i < %(n)d + 3; i++)
            x += table%(n)d[(x + i) & 63] * i;
        return x & 0xffff;
    }
}
"""


def c_sources():
    chance = random.Random(SEED)
    steps = range(24)  # functions a file
    sources = {}
    for part in range(C_FILES):
        tables = [", ".join(str(chance.randrange(1000)) for _ in range(64)) for _ in steps]
        sources[f"part{part}"] = "".join((
            "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n",
            *(C_STEP % {"n": n, "numbers": tables[n]} for n in steps),
            f"int part{part}(int x) {{ return {' ^ '.join(f'step{n}(x + {n})' for n in steps)}; }}\n"))
    declarations = "".join(f"int part{part}(int);\n" for part in range(C_FILES))
    calls = "".join(f'    printf("%d\\n", part{part}({part}));\n' for part in range(C_FILES))
    sources["main"] = f"#include <stdio.h>\n{declarations}int main(void)\n{{\n{calls}    return 0;\n}}\n"
    return sources


CXX_PART = """
#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>
template <int N> struct Level {
    std::map<std::string, std::vector<int>> lists;
    std::unordered_map<int, std::unique_ptr<Level<N - 1>>> below;
    long sum(int x)
    {
        lists[std::to_string(x)].push_back(x * N);
        auto &next = below[x %% 7];
        if (!next)
            next = std::make_unique<Level<N - 1>>();
        long total = next->sum(x + %(part)d);
        for (auto &[name, list] : lists)
            total += std::accumulate(list.begin(), list.end(), (long)name.size());
        return total;
    }
};
template <> struct Level<0> { long sum(int x) { return x; } };
std::string part%(part)d()
{
    Level<6> top;
    std::ostringstream out;
    for (int x = 0; x < 200; x++)
        out << top.sum(x) << ' ';
    return out.str();
}
"""


def cxx_sources():
    sources = {f"part{part}": CXX_PART % {"part": part} for part in range(CXX_FILES)}
    declarations = "".join(f"std::string part{part}();\n" for part in range(CXX_FILES))
    calls = "".join(f"    std::cout << part{part}() << '\\n';\n" for part in range(CXX_FILES))
    sources["main"] = f"#include <iostream>\n#include <string>\n{declarations}int main()\n{{\n{calls}}}\n"
    return sources


def sort(command):
    chance = random.Random(SEED)
    (command.folder / "lines").write_text("".join(f"{words(chance, 3)}\n" for _ in range(SORT_LINES)))
    command("sort", "--parallel=2", "-S", "100M", "-o", "in_memory", "lines")
    command("sort", "--parallel=2", "-S", "2M", "-T", ".", "-k2,2", "-o", "in_pieces", "lines")
    return command.digests("in_*")


def xz(command):
    chance = random.Random(SEED)
    (command.folder / "text").write_text(words(chance, XZ_BYTES // 6))
    command("xz", "-T2", "-1", "--block-size=1MiB", "--keep", "text")
    packed = command.digests("text.xz")
    (command.folder / "text").unlink()
    command("xz", "-T2", "--decompress", "text.xz")
    return packed | command.digests("text")


def firefox(command):
    """A page as a picture. Firefox has malloc, operator new and delete of its own, but no sized delete; its children
    load what the machine has, such as Mesa's drivers (mesa-va-drivers), which is in C++."""
    command.write("page.html", """
        <body style="font: 40px serif"><h1>A page</h1><canvas id="canvas" width="400" height="200"></canvas><script>
        const pen = document.getElementById("canvas").getContext("2d");
        for (let i = 0; i < 400; i++)
            pen.fillRect(i, 100 + 80 * Math.sin(i / 20), 3, 3);
        const table = new Map(Array.from({length: 200000}, (_, i) => ["key " + i, "x".repeat(i % 50)]));
        document.body.append([...table.values()].join("").length);
        </script></body>""")
    output = command("firefox-esr", "--headless", "--no-remote", "--screenshot", command.folder / "picture.png",
                     (command.folder / "page.html").as_uri())
    return {"output": output.splitlines(), **command.digests("picture.png")}


@dataclasses.dataclass
class Program:
    work: callable
    needs: tuple  # programs without which the test is skipped
    counted: tuple  # names in the counters, each of which must have been served
    least_objects: int = 200  # taken from the depots by the first of them
    environment: dict = dataclasses.field(default_factory=dict)
    modules: dict = dataclasses.field(default_factory=dict)  # of Debian's Python, and the packages that have them


GIT_ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat"}

ALL = (
    Program(rocksdb, ("db_bench", "ldb"), ("db_bench", "ldb"), 5_000),
    Program(sqlite, ("sqlite3",), ("sqlite3",), 500),
    # its own allocator of small objects out of the way, Python asks malloc for each
    Program(python_tests, (PYTHON,), ("python3",), 300_000, {"PYTHONMALLOC": "malloc"},
            {"test.test_dict": "libpython3.11-testsuite"}),
    Program(python_threads, (PYTHON,), ("python3",), 10_000, {"PYTHONMALLOC": "malloc"}),
    Program(python_deepbind, (PYTHON,), ("python3",), 10_000, {"PYTHONMALLOC": "malloc"}),
    Program(php_cli, ("php",), ("php",), 3_000),
    Program(perl, ("perl",), ("perl",), 100_000, {"PERL_HASH_SEED": "0"}),
    Program(node, ("node",), ("node",), 30_000),
    Program(java, ("java",), ("java",), 1_000),
    Program(git, ("git",), ("git",), 5_000, GIT_ALONE),
    Program(gcc, ("make", "gcc"), ("cc1", "gcc", "as", "ld", "make"), 100_000),
    Program(gxx, ("make", "g++"), ("cc1plus", "g++", "as", "ld", "make"), 100_000),
    Program(sort, ("sort",), ("sort",), environment={"LC_ALL": "C.UTF-8"}),
    Program(xz, ("xz",), ("xz",), least_objects=100),  # in the C locale it takes 170
)
