#!/usr/bin/python3
"""Records which sizes real programs ask malloc for, into bench/data/sizes/NAME.csv: bench/record.py NAME...

Each program runs on glibc's malloc under a bounded load, with librecord.so in front (bench/record/); its clients do
not. What all of its processes asked for, at their start and under the load, is added up. What was alive when most
bytes were is that of one process, in which they were most. So that a file is some hundred lines long, sizes that are
seldom asked for share a row, a class of 1/32 of a power of two with its mean; and the rows that make up 99.99 % of the
calls, or of the bytes alive, are kept.

`--library PATH` names another librecord.so than that of the folder `build`. Without a name, all are recorded; a program
that is not installed is left out.
"""
import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.python import servers  # noqa: E402 (the path comes first)
from tools.python.processes import Failure, plain_env, run  # noqa: E402

SIZES = ROOT / "bench" / "data" / "sizes"
KEPT = 0.9999  # of the calls, and of the bytes alive
SELDOM = 0.0005  # likewise
CLASSES_A_DOUBLING = 32
SEED = 20_261_121
PROGRAM_WITHIN_S = 120


class Recording:
    """One program's turn: a folder of its own, the environment that it is recorded in, and what was run."""

    def __init__(self, library, folder):
        self.folder, self.prefix, self.commands, self.port = folder, folder / "counted", [], 0
        preload = shutil.copy(library, folder / "librecord.so")  # where servers with fewer rights reach it
        self.env = plain_env(LD_PRELOAD=preload, RECORD=str(self.prefix))

    def note(self, words):
        """Remember a command for the file's head, without what differs from run to run."""
        command = " ".join(shlex.quote(str(word)) for word in words).replace(f"{self.folder}/", "")
        self.commands.append(command.replace(str(self.port), "PORT") if self.port else command)

    @contextlib.contextmanager
    def server(self, kind):
        """A server under recording; what it counted while it was set up is forgotten."""
        with kind(self.folder / kind.program, env=self.env) as server:
            for file in self.files():
                file.unlink()
            self.port = server.port
            self.note(server.command())
            yield server

    def client(self, server, *words, stdin="/dev/null"):
        self.note(words)
        return server.client(*words, stdin=stdin)

    def program(self, *words, stdin="/dev/null"):
        """A program under recording, to its end."""
        self.note(words)
        run(words, env=self.env, folder=self.folder, log=self.folder / "log", stdin=stdin,
            timeout_s=PROGRAM_WITHIN_S)

    def files(self):
        return list(self.folder.glob(self.prefix.name + ".*.csv"))

    def counts(self, program):
        """Calls by size, over all processes of the program (not of shells and drivers that started it); and what was
        alive in one of them."""
        calls, live, most = collections.Counter(), collections.Counter(), -1
        for file in self.files():
            head, *lines = file.read_text().splitlines()
            found = re.match(r"# (.*): \d+ calls, (\d+) bytes alive at most$", head)
            if found[1] != program:
                continue
            rows = [[int(word) for word in line.split(",")[1:]] for line in lines if line.startswith("row,")]
            for size, count, _ in rows:
                calls[size] += count
            if int(found[2]) > most:
                most, live = int(found[2]), collections.Counter({size: alive for size, _, alive in rows if alive})
        if not calls:
            raise Failure(f"no process of {program} has counted anything")
        return calls, live


# -- what is run ----------------------------------------------------------------------------------------------------

def redis(recording):
    """redis-benchmark's commands, then 100,000 SET of 100 to 4000 bytes in a keyspace of 50,000, a tenth deleted."""
    chance = random.Random(SEED)
    with recording.server(servers.Redis) as server:
        recording.client(server, "redis-benchmark", "-p", server.port, "-P", 16, "-c", 20, "-r", 20_000, "-d", 200,
                         "-n", 10_000, "--csv")
        commands = recording.folder / "commands"
        with open(commands, "wb") as file:
            for _ in range(100_000):
                key = f"key:{chance.randrange(50_000)}"
                value = bytes(chance.randint(100, 4000))
                file.write(server.encode("DEL", key) if chance.random() < 0.1 else server.encode("SET", key, value))
        recording.client(server, "redis-cli", "-p", server.port, "--pipe", stdin=commands)


def postgres(recording):
    """pgbench on eight clients: tables of scale 1 made, 8,000 transactions that only read, 3,200 that write."""
    with recording.server(servers.Postgres) as server:
        for words in (["-i", "-q", "-s", 1], ["-c", 8, "-j", 2, "-S", "-t", 1000], ["-c", 8, "-j", 2, "-t", 400]):
            recording.client(server, *server.to_server("pgbench", *words))


def mariadb(recording):
    """sysbench's oltp_read_write: two tables of 10,000 rows made, 2,000 transactions on eight clients."""
    rows = 10_000
    with recording.server(servers.MariaDB) as server:
        server.ask("CREATE DATABASE sbtest")
        for words in (["prepare"], ["--threads=8", "--events=2000", "run"]):
            server.sysbench(rows, *words)
            recording.note(["sysbench oltp_read_write --tables=2", f"--table-size={rows}", *words])


def rocksdb(recording):
    """db_bench: 200,000 keys with values of 400 bytes written, then overwritten, read and scanned at random."""
    recording.program("db_bench", "--db=database", "--benchmarks=fillrandom,overwrite,readrandom,seekrandom",
                      "--num=200000", "--reads=50000", "--value_size=400", "--threads=1", "--seed=1")


def nginx(recording):
    """wrk for 3 s on a page of 260 bytes, 3 s on one of 100 KB that is compressed."""
    with recording.server(servers.Nginx) as server:
        (server.folder / "small.html").write_text("<p>small</p>" * 20)
        (server.folder / "middle.txt").write_text(" ".join(map(str, range(20_000))))
        for page in ("small.html", "middle.txt"):
            recording.client(server, "wrk", "-t1", "-c16", "-d3s", "-H", "Accept-Encoding: gzip",
                             server.address(page))


PYTHON_JSON = """
import json, random
chance = random.Random(1)
def document(depth):
    if depth == 0:
        return chance.choice([chance.random(), chance.randrange(10**9), 'x' * chance.randrange(900), None, True])
    if chance.random() < 0.5:
        return [document(depth - 1) for _ in range(chance.randrange(12))]
    return {'key%d' % chance.randrange(1000): document(depth - 1) for _ in range(chance.randrange(12))}
for _ in range(300):
    text = json.dumps(document(5), indent=1)
    assert json.dumps(json.loads(text), indent=1) == text
"""


def python(recording):
    """300 nested documents made, written as JSON, read and written again. Objects up to 512 bytes are pymalloc's."""
    (recording.folder / "json_run.py").write_text(PYTHON_JSON)
    recording.program("/usr/bin/python3.11", recording.folder / "json_run.py")


def cc1plus(recording):
    """g++ -O2 compiles bench/gbench.cc, with Google Benchmark's and the standard library's headers."""
    source = ROOT / "bench" / "gbench.cc"
    shutil.copy(source, recording.folder)
    shutil.copy(source.with_suffix(".h"), recording.folder)
    recording.program("g++", "-std=c++17", "-O2", "-g", "-c", "gbench.cc")


SQLITE_SCRIPT = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, parent INTEGER, data BLOB);
INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
    SELECT i, hex(randomblob(8 + i % 40)), i / 7, randomblob(i % 1500) FROM n;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_parent ON item(parent);
UPDATE item SET name = name || id WHERE id % 3 = 0;
DELETE FROM item WHERE id % 11 = 0;
SELECT count(*), sum(length(b.name)) FROM item a JOIN item b ON b.parent = a.id;
SELECT substr(name, 1, 2) AS head, count(*), group_concat(id) FROM item GROUP BY head ORDER BY 2 DESC LIMIT 20;
SELECT name, sum(length(data)) OVER (ORDER BY name) FROM item ORDER BY data LIMIT 1000;
"""


def sqlite(recording):
    """50,000 rows made, indexed, changed and asked for, and 20,000 single statements."""
    chance = random.Random(SEED)
    script = recording.folder / "script.sql"
    singles = "".join(f"SELECT name FROM item WHERE id = {chance.randrange(50_000)};\n" for _ in range(20_000))
    script.write_text(SQLITE_SCRIPT + singles)
    recording.program("sqlite3", "database.sqlite", stdin=script)


PERL_SCRIPT = """
srand(1);
my (%count, %lines, @texts);
for my $n (1 .. 60000) {
    my $text = join ' ', map { 'word' . int(rand(5000)) } 1 .. 1 + int(rand(30));
    push @texts, $text;
    $count{$_}++ for split / /, $text;
    push @{$lines{length $text}}, $n;
}
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 99];
my $all = join "\\n", map { (my $t = $_) =~ s/word(\\d+)/<$1>/g; $t } @texts;
print length($all), " @top\\n";
"""


def perl(recording):
    """60,000 lines of words made, split, counted in hashes, sorted, and changed by regular expressions."""
    (recording.folder / "words.pl").write_text(PERL_SCRIPT)
    recording.program("perl", recording.folder / "words.pl")


NODE_SCRIPT = """
const texts = [], count = new Map();
let seed = 1;
const chance = (n) => (seed = (seed * 48271) % 2147483647) % n;
for (let i = 0; i < 40000; i++) texts.push(JSON.stringify({id: i, name: 'name' + chance(5000), list: [chance(9), i]}));
for (const text of texts) { const o = JSON.parse(text); count.set(o.name, (count.get(o.name) || 0) + 1); }
const zlib = require('zlib'), crypto = require('crypto');
for (let i = 0; i < 300; i++) {
    const packed = zlib.deflateSync(texts.slice(i, i + 200).join());
    crypto.createHash('sha256').update(zlib.inflateSync(packed)).digest('hex');
    texts.slice(i, i + 50).join().match(/name(\\d+)/g).map(Buffer.from);
}
console.log(count.size);
"""


def node(recording):
    """40,000 JSON texts made and read; 300 times 200 of them packed, unpacked, hashed and searched."""
    (recording.folder / "run.js").write_text(NODE_SCRIPT)
    recording.program("node", recording.folder / "run.js")


RUBY_SCRIPT = """
srand(1)
texts = Array.new(40000) { |i| Array.new(1 + rand(20)) { "word#{rand(5000)}" }.join(' ') + " #{i}" }
count = Hash.new(0)
lines = Hash.new { |hash, key| hash[key] = [] }
texts.each_with_index { |text, i| text.split.each { |word| count[word.to_sym] += 1 }; lines[text.size] << i }
changed = texts.map { |text| text.gsub(/word(\\d+)/) { "<#{$1}>" } }
Item = Struct.new(:name, :values)
items = texts.first(20000).map { |text| Item.new(text[0, 12].upcase, text.scan(/\\d+/).map(&:to_i)) }
puts changed.sort.last, count.size, items.sum { |item| item.values.sum }
"""


def ruby(recording):
    """40,000 lines of words made, split, counted in hashes, changed by regular expressions, and made structs."""
    (recording.folder / "words.rb").write_text(RUBY_SCRIPT)
    recording.program("ruby", recording.folder / "words.rb")


def git(recording):
    """A history of 60 commits over 400 files made by fast-import; log with patches, blame, repack, grep, status."""
    chance, stream = random.Random(SEED), []
    for number in range(60):
        stream.append(f"commit refs/heads/main\ncommitter A <a@b> {1_600_000_000 + number * 3600} +0000\ndata 4\nwork\n")
        for file in range(400) if number == 0 else chance.sample(range(400), 20):
            text = "".join(f"line {line} {chance.randrange(50)}\n" for line in range(chance.randrange(10, 300)))
            stream.append(f"M 100644 inline dir{file % 20}/file{file}.txt\ndata {len(text)}\n{text}\n")
    (recording.folder / "stream").write_text("".join(stream))
    for words in (["init", "-q", "-b", "main", "."], ["fast-import", "--quiet"], ["checkout", "-q", "main"],
                  ["log", "-p", "--stat"], ["blame", "dir7/file7.txt"], ["repack", "-adfq", "--window=50"],
                  ["grep", "-c", "line 1"], ["status"]):
        recording.program("git", *words, stdin=recording.folder / "stream")


LUA_SCRIPT = """
math.randomseed(1)
local texts, count, tree = {}, {}, {}
for i = 1, 60000 do
    local words = {}
    for w = 1, math.random(12) do words[w] = 'word' .. math.random(5000) end
    texts[i] = table.concat(words, ' ')
    tree[i] = {name = words[1], next = tree[math.random(i)], at = {i, i * 2}}
end
for _, text in ipairs(texts) do
    for word in text:gmatch('%w+') do count[word] = (count[word] or 0) + 1 end
end
local made = {}
for i, text in ipairs(texts) do made[i] = function() return text:gsub('word(%d+)', '<%1>') end end
for i = 1, #made, 3 do texts[i] = made[i]() end
table.sort(texts)
print(#texts, texts[1])
"""


def lua(recording):
    """60,000 lines of words made, counted, changed by patterns and sorted; tables and closures."""
    (recording.folder / "words.lua").write_text(LUA_SCRIPT)
    recording.program("lua5.4", recording.folder / "words.lua")


PHP_SCRIPT = """<?php
mt_srand(1);
class Item { public $name; public $values = []; public ?Item $next = null; }
$texts = $count = $items = [];
for ($i = 0; $i < 40000; $i++) {
    $words = [];
    for ($w = mt_rand(1, 12); $w > 0; $w--) { $words[] = 'word' . mt_rand(0, 5000); }
    $texts[] = implode(' ', $words);
    $item = new Item; $item->name = $words[0]; $item->values = $words; $items[] = $item;
}
foreach ($texts as $text) { foreach (explode(' ', $text) as $word) { $count[$word] = ($count[$word] ?? 0) + 1; } }
arsort($count);
$changed = preg_replace('/word(\\d+)/', '<$1>', $texts);
for ($i = 0; $i < 200; $i++) { json_decode(json_encode(array_slice($items, $i * 10, 100)), true); }
sort($changed); echo count($changed), strlen(serialize($items)), "\\n";
"""


def php(recording):
    """With USE_ZEND_ALLOC=0: 40,000 lines of words made, counted, changed and sorted; objects, JSON, serialized."""
    (recording.folder / "words.php").write_text(PHP_SCRIPT)
    recording.env["USE_ZEND_ALLOC"] = "0"
    recording.program("php", "-n", recording.folder / "words.php")


GAWK_SCRIPT = """
BEGIN {
    srand(1)
    for (i = 0; i < 60000; i++) {
        line = ""
        for (n = int(rand() * 12) + 1; n > 0; n--) line = line "word" int(rand() * 5000) " "
        lines[i] = line
        count[split(line, words, " ")]++
        for (w in words) seen[words[w]] = seen[words[w]] " " i
    }
    for (i in lines) { gsub(/word/, "<", lines[i]); total += length(lines[i]) }
    n = asort(seen); print n, total
}
"""


def gawk(recording):
    """60,000 lines of words made, split, kept in arrays, changed by regular expressions and sorted."""
    (recording.folder / "words.awk").write_text(GAWK_SCRIPT)
    recording.program("gawk", "-f", recording.folder / "words.awk")


def jq(recording):
    """A document of 30,000 objects read, selected, grouped, changed and written."""
    chance = random.Random(SEED)
    (recording.folder / "items.json").write_text(json.dumps([
        {"id": i, "name": f"name{chance.randrange(3000)}", "tags": [f"t{chance.randrange(50)}" for _ in range(i % 7)],
         "at": {"x": chance.random(), "y": chance.randrange(10**6)}} for i in range(30_000)]))
    recording.program("jq", "group_by(.name) | map({name: .[0].name, n: length, tags: map(.tags[]) | unique, "
                      "far: map(.at.x) | add})", "items.json")


def protoc(recording):
    """400 messages of 25 fields read, and written as C++, Java and Python."""
    kinds = "int32 string bool double bytes uint64".split()
    text = 'syntax = "proto3";\npackage load;\n' + "".join(
        f"message Kind{m} {{\n" + "".join(f"  {kinds[f % 6]} field_{m}_{f} = {f + 1};\n" for f in range(24)) +
        f"  repeated Kind{m // 2} others = 25;\n}}\n" for m in range(400))
    (recording.folder / "load.proto").write_text(text)
    recording.program("protoc", "--cpp_out=.", "--java_out=.", "--python_out=.", "load.proto")


R_SCRIPT = """
set.seed(1)
n <- 60000
data <- data.frame(key = sample(sprintf("key%d", 1:3000), n, TRUE), x = rnorm(n), y = runif(n))
means <- aggregate(cbind(x, y) ~ key, data, mean)
fit <- lm(y ~ x + I(x^2), data)
words <- strsplit(paste(data$key, data$key, format(data$x)), " ")
text <- vapply(words, function(w) sub("key([0-9]+)", "<\\\\1>", w[1]), "")
tab <- sort(table(text), decreasing = TRUE)
l <- lapply(1:20000, function(i) list(id = i, name = text[i], parts = words[[i]]))
m <- matrix(rnorm(160000), 400); s <- solve(m)
cat(length(tab), nrow(means), coef(fit), sum(s), length(l), "\\n")
"""


def r(recording):
    """A frame of 60,000 rows grouped, fitted, split into words; lists; a matrix of 400 x 400 inverted."""
    (recording.folder / "run.R").write_text(R_SCRIPT)
    recording.program("R", "--vanilla", "--no-echo", "-f", recording.folder / "run.R")


def clang(recording):
    """clang -O2 -g compiles two thousand small functions."""
    text = "".join(f"int f{i}(int *a, int n) {{ int s = {i}; for (int j = 0; j < n; j++) s += a[j] * {i % 7}; "
                   f"return s > {i} ? s : {f'f{i - 1}(a, n - 1)' if i else 'n'}; }}\n" for i in range(2000))
    (recording.folder / "functions.c").write_text(text)
    recording.program("clang", "-O2", "-g", "-c", "functions.c")


# what is run, and the program that is recorded: its process's name, or its path where the two differ
PROGRAMS = {
    "redis": (redis, "redis-server"),
    "postgres": (postgres, str(servers.Postgres.bin / "postgres")),
    "mariadb": (mariadb, "mariadbd"),
    "rocksdb": (rocksdb, "db_bench"),
    "nginx": (nginx, "nginx"),
    "python": (python, "/usr/bin/python3.11"),
    "cc1plus": (cc1plus, "cc1plus"),
    "sqlite": (sqlite, "sqlite3"),
    "perl": (perl, "perl"),
    "node": (node, "node"),
    "ruby": (ruby, "ruby"),
    "git": (git, "git"),
    "lua": (lua, "lua5.4"),
    "php": (php, "php"),
    "gawk": (gawk, "gawk"),
    "jq": (jq, "jq"),
    "protoc": (protoc, "protoc"),
    "r": (r, "R"),
    "clang": (clang, "clang"),
}


# -- what is written ------------------------------------------------------------------------------------------------

def output_of(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def package_of(program):
    """The Debian package of a program (cc1plus only its compiler finds), with its version."""
    path = os.path.realpath(shutil.which(program) or output_of("g++", f"-print-prog-name={program}"))
    package = output_of("dpkg-query", "-S", path).split(":")[0]
    return f"{package} {output_of('dpkg-query', '-W', '-f', '${Version}', package)}"


def bytes_in(live):
    return sum(size * alive for size, alive in live.items())


def with_classes(calls, live):
    """The seldom sizes put together in classes; a class's size is its mean."""
    rows, classes = {}, collections.defaultdict(dict)
    often, much = SELDOM * calls.total(), SELDOM * bytes_in(live)
    for size, count in calls.items():
        if count >= often or size * live[size] >= max(much, 1):
            rows[size] = count, live[size]
        else:
            doubling = size.bit_length()
            classes[doubling, size * CLASSES_A_DOUBLING * 2 >> doubling][size] = count, live[size]
    for members in classes.values():
        count, alive = (sum(column) for column in zip(*members.values()))
        mean = round(sum(size * times for size, (times, _) in members.items()) / count)
        there = rows.get(mean, (0, 0))
        rows[mean] = there[0] + count, there[1] + alive
    return rows


def weightiest(rows, weight_of):
    """The rows that make up KEPT of the weight."""
    weights = {size: weight_of(size, *row) for size, row in rows.items()}
    left = KEPT * sum(weights.values())
    for size in sorted(weights, key=weights.get, reverse=True):
        if left <= 0:
            break
        left -= weights[size]
        yield size


def write(name, run_it, program, recording):
    calls, live = recording.counts(pathlib.Path(program).name[:63])
    rows = with_classes(calls, live)
    kept = {*weightiest(rows, lambda _, count, alive: count), *weightiest(rows, lambda size, _, alive: size * alive)}
    share = sum(rows[size][0] for size in kept) / calls.total()
    head = [
        f"Sizes that a program asked malloc for: bytes,calls,live. Recorded by: bench/record.py {name}",
        run_it.__doc__.strip(),
        f"{package_of(program)}; {platform.freedesktop_os_release()['PRETTY_NAME']}, {datetime.date.today()}",
        *(f"  {command}" for command in recording.commands),
        f"{calls.total()} calls of {len(calls)} sizes. Sizes with under {SELDOM:.2%} of the calls and of what was alive "
        f"stand in classes of 1/{CLASSES_A_DOUBLING}",
        f"of a power of two, above 64 KiB of 1/8, with their mean; rows with {share:.3%} of the calls are kept.",
        f"When most was alive, in one process, that were {live.total()} objects of {bytes_in(live)} bytes.",
    ]
    lines = [f"# {line}" for line in head] + [f"{size},{rows[size][0]},{rows[size][1]}" for size in sorted(kept)]
    (SIZES / f"{name}.csv").write_text("\n".join(lines) + "\n")
    mean = bytes_in({size: rows[size][0] for size in kept}) / sum(rows[size][0] for size in kept)
    print(f"{name}: {calls.total()} calls of {len(calls)} sizes, {len(kept)} rows, mean {mean:.0f} bytes, alive "
          f"{bytes_in(live) / 2**20:.1f} MiB in {live.total()} objects", flush=True)


def record(name, library):
    run_it, program = PROGRAMS[name]
    with tempfile.TemporaryDirectory(prefix="record-") as folder:
        pathlib.Path(folder).chmod(0o1777)  # servers run as users of their own, and write there
        recording = Recording(library, pathlib.Path(folder))
        run_it(recording)
        write(name, run_it, program, recording)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--library", default=ROOT / "build" / "bench" / "record" / "librecord.so", type=pathlib.Path)
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in PROGRAMS]
    if unknown:
        sys.exit(f"record.py: unknown: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    if not chosen.library.is_file():
        sys.exit(f"record.py: no {chosen.library}; build it (`ninja recorder`), or name it with --library")
    SIZES.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or PROGRAMS:
        try:
            program = PROGRAMS[name][1]
            if not (program == "cc1plus" or shutil.which(program)):
                print(f"{name}: left out, {program} is not installed", flush=True)
                continue
            record(name, chosen.library)
        except (Failure, OSError, subprocess.CalledProcessError) as failure:
            sys.exit(f"record.py: {name}: {failure}")


if __name__ == "__main__":
    main()
