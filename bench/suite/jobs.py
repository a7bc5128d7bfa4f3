"""Programs of Debian's that end by themselves, under a fixed amount of work; see recorded.py."""
import pathlib
import shutil
import subprocess
import time

from tools.python.processes import Failure, maps, run, status_mib

from .recorded import SEED, Recorder, Spent, Workload, environment_for, number, preload_for

PROGRAM_WITHIN_S = 300
MAPPED_AFTER_S = 0.3


class Program(Workload):
    """A program that is preloaded itself, run to its end. Its page faults include some hundred of setpriv, which
    starts it."""
    amount = {"quick": 0, "full": 0}
    environment = {}

    def __init__(self, library, folder, options=""):
        self.folder, self.recorder, self.library, self.options = folder, Recorder(), library, options
        self.spent, self.spent_last = Spent(), Spent()
        self.preload, self.program, self.born, self.proved = "", "", 0.0, False

    def do(self, amount):
        """Run the program, or several, and return figures."""
        raise NotImplementedError

    @classmethod
    def work(cls, library, effort, folder, options):
        self = cls(library, folder, options)
        figures = self.do(cls.amount[effort])
        return self.recorder.measurement(figures, self.spent, self.recorder.elapsed())

    def run(self, *argv, stdin="/dev/null"):
        self.spent_last, self.proved, self.born = Spent(), False, time.monotonic()
        self.preload = preload_for(argv[0], self.library, self.folder)
        self.program = str(pathlib.Path(shutil.which(argv[0])).resolve())
        env = environment_for(self.preload, self.options, **self.environment)
        output = run(argv, env=env, folder=self.folder, log=self.folder / "output", timeout_s=PROGRAM_WITHIN_S,
                     stdin=stdin, watch=self.look)
        self.spent += self.spent_last
        if self.preload and not self.proved:
            raise Failure(f"{argv[0]} ended before {self.preload} was seen in its address space")
        return output

    def look(self, pid):
        """The last time is when it has ended, with its times and without its memory."""
        self.spent_last = Spent.by([pid])
        now, peak = status_mib(pid, "VmRSS"), status_mib(pid, "VmHWM")
        self.recorder.peak = max(self.recorder.peak, peak)
        if now and self.recorder.due():
            self.recorder.add(now, peak)
        if self.preload and not self.proved:
            self.look_for_preload(maps(pid))

    def look_for_preload(self, mappings):
        """It begins as setpriv, and the loader takes a moment."""
        self.proved = self.program in mappings and self.preload in mappings
        if not self.proved and mappings and time.monotonic() - self.born > MAPPED_AFTER_S:
            raise Failure(f"{self.preload} is not in the address space")


class RocksDB(Program):
    """The writer beside the readers is held to a rate, so that slower readers mean hardly more of its work."""
    about = "RocksDB's db_bench: fillrandom, readrandom, readwhilewriting"
    needs = ("db_bench",)
    amount = {"quick": 20_000, "full": 250_000}  # keys
    common = ("--db=db", f"--seed={SEED}", "--compression_type=none", "--progress_reports=false", "--histogram",
              "--write_buffer_size=8000000", "--cache_size=33554432", "--value_size=400")

    def do(self, amount):
        report = self.run("db_bench", *self.common, f"--num={amount}", f"--reads={amount}",
                          "--benchmarks=fillrandom,readrandom")
        report += self.run("db_bench", *self.common, f"--num={amount}", f"--reads={amount // 2}", "--threads=2",
                           "--use_existing_db=1", "--benchmark_write_rate_limit=2000000",
                           "--benchmarks=readwhilewriting")
        figures = {}
        for name in ("fillrandom", "readrandom", "readwhilewriting"):
            figures[f"throughput_{name}"] = (number(rf"{name} .* (\d+) ops/sec", report), "operations/s")
            figures[f"p99_{name}"] = (number(rf"(?s){name} .*?P99: ([\d.]+)", report) / 1e3, "ms")
        return figures


class Cc1plus(Program):
    """The source is preprocessed on glibc once a repetition; what is measured is the compiler proper."""
    about = "a compile of a C++ file with many of the standard library's headers and templates, by cc1plus -O2"
    needs = ("g++",)
    amount = {"quick": 0, "full": 2}  # classes; the headers alone are most of the quick one

    HEADERS = ("algorithm", "functional", "iostream", "map", "memory", "numeric", "random", "regex", "sstream",
               "string", "thread", "unordered_map", "variant", "vector")
    PART = """
        struct Part%(n)d {
            using Value = std::variant<int, std::string, std::vector<double>, std::map<std::string, Part%(n)d>>;
            std::unordered_map<std::string, Value> values;
            std::vector<std::function<int(Part%(n)d &)>> steps;
            std::string show() const {
                std::ostringstream out;
                for (auto &[name, value] : values)
                    std::visit([&](auto &held) { out << name << sizeof held << %(n)d; }, value);
                return out.str();
            }
            bool match(const std::string &text) {
                static const std::regex pattern("(a+)(b|c)*[0-9]{%(n)d,}");
                std::smatch found;
                steps.push_back([text](Part%(n)d &part) { return int(part.values.size() + text.size()); });
                return std::regex_search(text, found, pattern) && std::accumulate(steps.begin(), steps.end(), 0,
                    [this](int sum, auto &step) { return sum + step(*this); }) > %(n)d;
            }
        };
        bool use%(n)d(const std::string &text) { Part%(n)d part; return part.match(text) || part.show() == text; }
    """

    def do(self, amount):
        source = self.folder / "source.cc"
        source.write_text("".join(f"#include <{name}>\n" for name in self.HEADERS)
                          + "".join(self.PART % {"n": part} for part in range(1, amount + 1)))
        subprocess.run(["g++", "-std=c++17", "-E", source, "-o", self.folder / "source.ii"], check=True)
        compiler = subprocess.run(["g++", "-print-prog-name=cc1plus"], check=True, capture_output=True, text=True)
        self.recorder = Recorder()
        self.run(compiler.stdout.strip(), "-quiet", "-std=c++17", "-O2", "-fpreprocessed", "source.ii",
                 "-o", "source.s")
        return {"time": (self.recorder.elapsed(), "s")}


class PythonJson(Program):
    """Python asks its own allocator for small objects, and that one asks for arenas of 256 KiB; it is out of the way
    here (PYTHONMALLOC=malloc), so that malloc sees each object."""
    about = "a Python program that makes, writes and reads JSON documents, with PYTHONMALLOC=malloc"
    needs = ("/usr/bin/python3",)
    environment = {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    amount = {"quick": 300, "full": 3_000}  # documents
    SCRIPT = """
import json, random, sys
chance = random.Random(7)
def node(depth):
    kind = chance.randrange(4 if depth else 2)
    if kind == 0:
        return chance.randrange(10 ** 9)
    if kind == 1:
        return "%x" % chance.getrandbits(4 * chance.choice((6, 20, 100, 900)))
    if kind == 2:
        return [node(depth - 1) for _ in range(chance.randrange(12))]
    return {"field%d" % chance.randrange(1000): node(depth - 1) for _ in range(chance.randrange(12))}
kept, length = [], 0
for document in range(int(sys.argv[1])):
    text = json.dumps([node(4) for _ in range(12)])
    read = json.loads(text)
    length += len(text)
    if len(kept) < 500:
        kept.append(read)
    else:
        kept[chance.randrange(500)] = read
print(length)
"""

    def do(self, amount):
        (self.folder / "script.py").write_text(self.SCRIPT)
        self.run("/usr/bin/python3", "script.py", amount)
        return {"throughput": (amount / self.recorder.elapsed(), "documents/s")}


class Sqlite(Program):
    """The database is in memory, so that every page of it is malloc's and no disk is in the way."""
    about = "sqlite3 on a database in memory: inserts, indexes, joins, updates, deletes"
    needs = ("sqlite3",)
    amount = {"quick": 100_000, "full": 500_000}  # rows
    SCRIPT = """
        CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, body BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
            INSERT INTO item SELECT i, i * 7919 % 101, printf('%08x', i * 2654435761 % 4294967296),
                zeroblob(i % 300) FROM n;
        CREATE INDEX item_kind ON item(kind, name);
        CREATE UNIQUE INDEX item_name ON item(name);
        SELECT kind, count(*), min(name), sum(length(body)) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 20;
        SELECT count(*) FROM item a JOIN item b ON b.name > a.name AND b.kind = a.kind WHERE a.id % 4000 = 0;
        SELECT length(group_concat(name)), sum(length(json_object('n', name, 'k', kind))) FROM item;
        DELETE FROM item WHERE id % 3 = 0;
        UPDATE item SET name = name || '-' || kind, body = body || name WHERE kind < 40;
        INSERT INTO item(kind, name, body) SELECT kind, name || '+', body || body FROM item WHERE kind > 50;
        VACUUM;
        SELECT count(*), sum(length(body)) FROM item;
        """

    def do(self, amount):
        script = self.folder / "script.sql"
        script.write_text(self.SCRIPT.format(rows=amount))
        self.run("sqlite3", ":memory:", stdin=script)
        return {"throughput": (amount / self.recorder.elapsed(), "rows/s")}


class Z3(Program):
    """Started again and again: a program that makes a heap of tens of MB, works for a moment, and ends."""
    about = "z3, which places twelve queens on a board, started anew each time"
    needs = ("z3",)
    amount = {"quick": 2, "full": 20}  # runs
    queens = 12

    def problem(self):
        """In linear arithmetic: the row of each queen."""
        yield "(set-logic QF_LIA)"
        for one in range(self.queens):
            yield f"(declare-const q{one} Int) (assert (and (<= 1 q{one}) (<= q{one} {self.queens})))"
            for other in range(one):
                apart = " ".join(f"(not (= (- q{one} q{other}) {rows}))" for rows in (0, one - other, other - one))
                yield f"(assert (and {apart}))"
        yield "(check-sat)"

    def do(self, amount):
        problem = self.folder / "queens.smt2"
        problem.write_text("\n".join(self.problem()))
        for _ in range(amount):
            if self.run("z3", problem).strip() != "sat":
                raise Failure("z3 has found no solution")
        return {"time": (self.recorder.elapsed() / amount, "s")}


WORKLOADS = {
    "rocksdb": RocksDB,
    "cc1plus": Cc1plus,
    "python_json": PythonJson,
    "sqlite3": Sqlite,
    "z3": Z3,
}
