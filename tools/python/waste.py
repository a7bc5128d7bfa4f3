"""What objects take beyond what was asked for: tools/waste, which has the command line's help.

A program runs with librecord.so in front of the library with a census in it (bench/record/), and leaves a file for each
of its processes. Or nothing runs, and what bench/record.py has recorded is put into classes here.
"""
import argparse
import bisect
import collections
import csv
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from tools.python.messages import Parser, plain

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = ROOT / "bench" / "data" / "sizes"
PAGE = 4096
OWN = {"descriptors": "descriptors", "map": "page map", "sizes": "sizes of caches", "bits": "slabs' bits",
       "magazines": "magazines", "blocks": "threads' blocks", "pieces": "other pieces"}
CANDIDATE_STEP = 8  # bytes between sizes that are tried as classes, up to where a class's step is longer


class Mistake(Exception):
    """One line for whoever has called."""


def percent(part, whole):
    return 100 * part / whole if whole else 0.0


def table(head, rows):
    """Rows of words and numbers as lines: the first column to the left, numbers to the right."""
    texts = [head, *[[cell if isinstance(cell, str) else f"{cell:.1f}" if isinstance(cell, float) else str(cell)
                      for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                               for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in texts)


# -- a program that runs --------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Row:
    """Objects of one class, or of a kind."""
    name: str
    objects: int = 0
    asked: int = 0
    given: int = 0
    resident: int = 0
    rounds: int = 0

    @property
    def internal(self):
        return percent(self.given - self.asked, self.given)

    @property
    def idle(self):
        """Resident and not given. Where a program has not touched all that it was given it may be less than is known."""
        return max(0, self.resident - self.given)

    @property
    def external(self):
        return percent(self.idle, self.resident)

    def cells(self):
        return [self.name, self.objects, self.asked, self.given, self.internal, self.resident, self.external,
                self.rounds]


HEAD = ["class", "objects", "asked", "given", "internal %", "resident", "external %", "in magazines"]


@dataclasses.dataclass
class Sum(Row):
    parts: list = dataclasses.field(default_factory=list, repr=False)

    @property
    def idle(self):
        return sum(row.idle for row in self.parts)


@dataclasses.dataclass
class Moment:
    """What a process's file says of one moment."""
    rows: list
    spans: int  # resident
    own: dict   # resident bytes of the library's own structures

    def sum(self):
        columns = ("objects", "asked", "given", "resident", "rounds")
        return Sum("sum", *(sum(getattr(row, column) for row in self.rows) for column in columns), self.rows)

    def as_json(self):
        columns = [field.name for field in dataclasses.fields(Row)]
        return {"classes": [{**{column: getattr(row, column) for column in columns}, "internal_percent": row.internal,
                             "external_percent": row.external} for row in [*self.rows, self.sum()]],
                "free_spans_resident": self.spans, "own": self.own,
                "own_percent": percent(sum(self.own.values()), self.heap())}

    def heap(self):
        return self.sum().resident + self.spans

    def text(self):
        own = sum(self.own.values())
        lines = [table(HEAD, [row.cells() for row in [*self.rows, self.sum()]]), "",
                 f"resident: objects' memory {self.sum().resident}, free spans {self.spans}, the library's own {own} "
                 f"({percent(own, self.heap()):.2f} % of both)"]
        return "\n".join([*lines, *(f"    {OWN[name]}: {count}" for name, count in self.own.items())])


def read_moment(lines, moment):
    rows, given, other, own = {}, [], {}, {}
    for kind, *words in (line.split(",")[1:] for line in lines if line.startswith(moment + ",")):
        if kind == "given":
            given.append([int(word) for word in words])
        elif kind == "resident":
            own[words[0]] = int(words[1])
        else:
            size, _, _, resident, _, rounds = map(int, words)
            row = Row(str(size) if kind == "class" else kind, resident=resident, rounds=rounds)
            (rows if kind == "class" else other)[size if kind == "class" else kind] = row
    large = other.pop("large", Row("large"))
    for size, objects, asked in given:
        row = rows.setdefault(size, Row(str(size))) if size <= 32768 and size in rows else large
        row.objects += objects
        row.asked += asked
        row.given += size * objects if row is not large else size
    spans = other.pop("spans", Row("spans")).resident
    named = other.pop("named", None)
    if named:
        named.name, named.given, named.objects = "named caches", own.pop("named"), own.pop("named_objects")
        named.asked = named.given
    own.pop("named", None), own.pop("named_objects", None)
    threads = own.pop("threads", 0)
    own["pieces"] = max(0, own.get("pieces", 0) - own["bits"] - own["magazines"] - own["blocks"])
    rows = [rows[size] for size in sorted(rows)] + ([named] if named else []) + ([large] if large.objects else [])
    found = Moment(rows, spans, {name: own[name] for name in OWN})
    found.threads = threads
    return found


def read_process(file):
    head, *lines = file.read_text().splitlines()
    found = re.fullmatch(r"# (.*): (\d+) calls, (\d+) bytes alive at most", head)
    return {"program": found[1], "pid": int(file.suffixes[0][1:]), "calls": int(found[2]), "most": int(found[3]),
            "lines": lines}


def run_program(argv, build):
    """The records of its processes, that with most alive first; and its exit status."""
    record, library = (build / "bench" / "record" / name for name in ("librecord.so", "libslabmalloc_census.so"))
    with tempfile.TemporaryDirectory(prefix="waste-") as folder:
        os.chmod(folder, 0o1777)  # servers run as users of their own
        preload = ":".join(filter(None, [str(record), str(library), os.environ.get("LD_PRELOAD")]))
        prefix = pathlib.Path(folder) / "record"
        try:
            status = subprocess.run(argv, env={**os.environ, "LD_PRELOAD": preload, "RECORD": str(prefix)},
                                    check=False).returncode
        except KeyboardInterrupt:  # which the program has got as well
            status = 130
        found = [read_process(file) for file in pathlib.Path(folder).glob("record.*.csv")]
    if not found:
        raise Mistake(f"{argv[0]}: no process has told anything: it was ended by a signal or _exit(), cleared its "
                      f"environment, is linked statically, or runs set-user-ID (status {status})")
    return sorted(found, key=lambda process: -process["most"]), status if status >= 0 else 128 - status


def show_program(argv, given):
    processes, status = run_program(argv, given.build)
    first = processes[0]
    at = "end" if given.end else "peak"
    moment = read_moment(first["lines"], at)
    about = {"program": first["program"], "pid": first["pid"], "calls": first["calls"],
             "moment": "at its end" if given.end else "when most was alive"}
    if given.json:
        return json.dumps({**about, "processes": len(processes), **moment.as_json()}, indent=1), status
    more = f", the largest of {len(processes)} processes" if len(processes) > 1 else ""
    return (f"{about['program']}[{about['pid']}]{more}, {about['moment']}, after {about['calls']} calls in all; bytes\n\n"
            f"{moment.text()}"), status


# -- what was recorded ----------------------------------------------------------------------------------------------

def present_classes():
    """The library's own."""
    text = (ROOT / "src" / "base" / "size_class.c").read_text()
    return [int(word) for word in re.findall(r"\d+", re.search(r"slm_class_size\[\w+\] = \{([^}]*)\}", text)[1])]


def proposed_classes(text, present):
    """Those of a list, or the present ones with changes."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[+-]?\d+", word) for word in words):
        raise Mistake(f"--classes {text}: no list of sizes, as 16,32,64 or +24,-208")
    if any(word[0] in "+-" for word in words):
        odd = [word for word in words if word[0] not in "+-" or (word[0] == "-") != (int(word[1:]) in present)]
        if odd:
            raise Mistake(f"--classes: {odd[0]} is no change: write + before a new size, - before a present one")
        classes = {*present, *(int(word[1:]) for word in words if word[0] == "+")}
        classes -= {int(word[1:]) for word in words if word[0] == "-"}
    else:
        classes = set(map(int, words))
    if not classes or 0 in classes:
        raise Mistake(f"--classes {text}: leaves no class, or one of no bytes")
    return sorted(classes)


class Recording:
    """What a program asked for: objects by size."""

    def __init__(self, name, calls):
        file = SIZES / f"{name}.csv"
        if not re.fullmatch(r"[\w-]+", name) or not file.exists():
            raise Mistake(f"no recording {name!r}; there are all, {', '.join(recorded())}")
        with open(file, newline="") as rows:
            rows = [list(map(int, row)) for row in csv.reader(line for line in rows if line[0] != "#")]
        self.name = name
        self.objects = {max(row[0], 1): row[1 if calls else 2] for row in rows if row[1 if calls else 2]}
        self.asked = sum(size * count for size, count in self.objects.items())

    def by_class(self, classes):
        """{class, or 0 for larger objects: [objects, asked, given]}"""
        found = collections.defaultdict(lambda: [0, 0, 0])
        for size, count in self.objects.items():
            at = bisect.bisect_left(classes, size)
            given = classes[at] if at < len(classes) else -(-size // PAGE) * PAGE
            row = found[classes[at] if at < len(classes) else 0]
            for column, amount in enumerate((count, count * size, count * given)):
                row[column] += amount
        return found

    def given(self, classes):
        return sum(row[2] for row in self.by_class(classes).values())

    def waste(self, classes):
        given = self.given(classes)
        return percent(given - self.asked, given)


def recorded():
    return sorted(file.stem for file in SIZES.glob("*.csv"))


def saved_by_each(recording, classes):
    """{class: bytes, in % of all that is given, that it saves: without it its objects were of the next}"""
    rows, given = recording.by_class(classes), recording.given(classes)
    return {size: percent(rows[size][0] * (following - size), given) if size in rows else 0.0
            for size, following in zip(classes, classes[1:])}


def saved_by_more(recording, classes):
    """{size that is no class: bytes, in % of all that is given, that it would save}"""
    given, found = recording.given(classes), {}
    for lower, upper in zip([0, *classes], classes):
        step = max(CANDIDATE_STEP, (upper - lower) // 4)
        for candidate in range(lower + step, upper, step):
            count = sum(n for size, n in recording.objects.items() if lower < size <= candidate)
            found[candidate] = percent(count * (upper - candidate), given)
    return found


def show_one(recording, classes, proposed, given):
    rows = recording.by_class(classes)
    saves = saved_by_each(recording, classes)
    cells = [[str(size) if size else "large", objects, asked, got, percent(got - asked, got), saves.get(size, 0.0)]
             for size, (objects, asked, got) in sorted(rows.items(), key=lambda item: item[0] or 1 << 40)]
    cells.append(["sum", *(sum(row[column] for row in cells) for column in (1, 2, 3)), recording.waste(classes), ""])
    if given.json:
        return json.dumps({"name": recording.name, "internal_percent": recording.waste(classes),
                           "proposed_percent": recording.waste(proposed) if proposed else None,
                           "classes": [dict(zip(("class", "objects", "asked", "given", "internal_percent"), row))
                                       for row in cells]}, indent=1)
    text = table(["class", "objects", "asked", "given", "internal %", "saves %"], cells)
    if proposed:
        text += "\n\n" + compared([recording], classes, proposed)
    return text


def compared(recordings, classes, proposed):
    rows = []
    for one in recordings:
        before, after = one.given(classes), one.given(proposed)
        rows.append([one.name, one.asked, one.waste(classes), one.waste(proposed), percent(before - after, before)])
    count = len(rows)
    rows.append(["mean", "", *(sum(row[column] for row in rows) / count for column in (2, 3, 4))])
    return (f"{len(classes)} classes, and {len(proposed)} that are proposed:\n\n" +
            table(["program", "asked", "internal %", "proposed %", "saved %"], rows))


def ranking(recordings, savings, least):
    """Of {size: %} by recording: mean, and the program that it means most to; those that reach `least` somewhere."""
    rows = []
    for size in savings[0]:
        shares = [one[size] for one in savings]
        most = max(range(len(shares)), key=shares.__getitem__)
        if shares[most] >= least:
            rows.append([str(size), sum(shares) / len(shares), shares[most], recordings[most].name])
    rows.sort(key=lambda row: -row[1])
    return [[size, f"{mean:.2f}", f"{most:.2f}", name] for size, mean, most, name in rows]


def show_all(recordings, classes, proposed, given):
    rows = [[one.name, one.asked, one.waste(classes)] for one in recordings]
    rows.append(["mean", "", sum(row[2] for row in rows) / len(rows)])
    more = [saved_by_more(one, classes) for one in recordings]
    each = [saved_by_each(one, classes) for one in recordings]
    if given.json:
        return json.dumps({"internal_percent": {one.name: one.waste(classes) for one in recordings},
                           "proposed_percent": {one.name: one.waste(proposed or classes) for one in recordings},
                           "saved_percent": {one.name: saves for one, saves in zip(recordings, each)},
                           "would_save_percent": {one.name: saves for one, saves in zip(recordings, more)}}, indent=1)
    head = ["", "mean", "most", "in"]
    text = (compared(recordings, classes, proposed) if proposed else
            table(["program", "asked", "internal %"], rows))
    few = sorted(size for size in each[0] if max(one[size] for one in each) < 0.1)
    return "\n".join([
        text, "", "What each class saves, in % of what is given, mean and most:", "",
        table(["class", *head[1:]], ranking(recordings, each, 0.1)), "",
        f"Below 0.1 % everywhere: {', '.join(map(str, few)) or 'none'}", "",
        "What one class more would save, where that is 1 % somewhere:", "",
        table(["class", *head[1:]], ranking(recordings, more, 1.0))])


def show_sizes(given):
    classes = present_classes()
    proposed = proposed_classes(given.classes, classes) if given.classes else None
    if given.sizes != "all":
        return show_one(Recording(given.sizes, given.calls), classes, proposed, given)
    return show_all([Recording(name, given.calls) for name in recorded()], classes, proposed, given)


def main():
    parser = Parser("waste", usage=argparse.SUPPRESS)
    for name in ("--end", "--json", "--calls"):
        parser.add_argument(name, action="store_true")
    for name in ("--sizes", "--classes"):
        parser.add_argument(name)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        out = open(given.out, "w") if given.out else sys.stdout
        argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
        text, status = (show_sizes(given), 0) if given.sizes else show_program(argv, given)
        print(text, file=out, flush=True)
    except (Mistake, OSError) as error:
        print(f"waste: {plain(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, Mistake) and given.sizes else 1)
    sys.exit(status)


if __name__ == "__main__":
    main()
