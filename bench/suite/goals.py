"""README's table of memory, from a run: python3 -m suite.goals RESULTS FILE.

It replaces what stands in the file between the lines BEGIN and END. A row is a goal of the library's (suite/memory.py),
a column an allocator; bold is what meets the goal.
"""
import pathlib
import re
import sys

from . import memory, results, table
from .summary import summarise

BEGIN = "<!-- memory: written by suite.goals (docs/bench.md) -->"
END = "<!-- end of memory -->"


def markdown(report):
    summary = summarise(report)
    found = dict(memory.promises(summary))
    found = [promise for title in (memory.GOES_BACK, memory.IN_PIECES) for promise in found.get(title, [])]
    names = list(report["allocators"])
    lines = [["case", "goal", *names], ["---"] * (2 + len(names))]
    for promise in found:
        texts = {name: table.show_number(value) for name, value in promise.values.items() if value is not None}
        texts |= {name: f"**{text}**" for name, text in texts.items() if promise.values[name] <= promise.most}
        lines.append([promise.about, f"{promise.most:g}",
                      *(texts.get(name, "–") for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace(text, rows):
    """The text with these rows in the place of those between the two lines; ValueError where it has no such lines."""
    pattern = re.compile(f"^{re.escape(BEGIN)}\n.*?^{re.escape(END)}$", re.DOTALL | re.MULTILINE)
    if not pattern.search(text):
        raise ValueError(f"no lines {BEGIN!r} and {END!r}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{rows}\n{END}", text)


def main(words):
    report, path = results.load(pathlib.Path(words[0])), pathlib.Path(words[1])
    path.write_text(replace(path.read_text(encoding="utf-8"), markdown(report)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
