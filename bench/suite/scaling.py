"""A queueing model of the library's locks: what it predicts of the machines that were measured, and of larger ones.

    PYTHONPATH=bench /usr/bin/python3 -m suite.scaling

prints the tables that stand in docs/scaling.md, from bench/data/locks.json (suite.locks); --write puts them there.
test_scaling.py holds that the document has what is printed here.

A lock is the one server of a closed network whose customers are the CPUs that share it: a CPU computes for `think`
seconds, then holds the lock for `hold` seconds, and waits before that while others are in front (the machine
repairman's model). Mean value analysis solves it: by the arrival theorem (Reiser and Lavenberg, 1980) a CPU of n that
comes to the lock finds it as n - 1 CPUs would leave it, so that the chance to find it held is the lock's utilisation
with one CPU less.
"""
import dataclasses
import json
import re
import sys

from . import locks, programs

DOCUMENT = programs.ROOT / "docs" / "scaling.md"
EXCHANGE_S = 8e-9  # the atomic exchange that ends a hold, which the library's clock does not see
NEAR_S = 56e-9  # a cache line that another CPU of the node has written
FAR_S = 152e-9, 202e-9  # one of a neighbouring node, and of one that is two hops away
HOPS_FROM = 8  # nodes from which on most are two hops away
SLICE_S = 3e-3  # that a busy system lets a thread run before the next one's turn
HOST_CPUS = 2  # of the machine that emulates others
SHARDS = 16  # of a depot, at most: one for each CPU that uses it (src/depot/shards.h)
MOST = 0.01  # the utilisation that no lock should exceed
MACHINES = ((64, 2), (128, 4), (256, 8), (512, 1), (512, 2), (512, 4), (512, 8), (512, 16))  # CPUs and nodes
ONE_CONSUMER = {"many_to_one"}  # one thread is the limit: however many CPUs, no more than two have work


@dataclasses.dataclass(frozen=True)
class Rank:
    """Who shares a lock of it: the CPUs of a node, those of a node that share a shard, all of the process, or (1)
    nobody, as it is the clock that says how often it is taken, however many CPUs there are. And how many cache lines
    come from whoever held it before: the lock's own, and what is read or written under it. A remedy divides the
    trips."""
    shared_by: str | int
    lines: int
    fewer: float = 1


RANKS = {
    "start": Rank(1, 1), "caches": Rank(1, 3), "threads": Rank("process", 3), "depot": Rank("shard", 3),
    "ring": Rank("node", 4), "retired": Rank("process", 3), "spans": Rank("node", 6), "percpu": Rank(1, 3),
    "metadata": Rank("node", 3), "readers": Rank(1, 3),
}
WITH_BIRTHS = {"larson", "births"}  # elsewhere the list of threads is the worker's, who looks through it by the clock
REMEDIES = (
    ("metadata", "a pool a process", Rank("process", 3)),
    ("metadata", "as it is: a pool a node", RANKS["metadata"]),
    ("metadata", "a pool a node, 16 arrays a trip", Rank("node", 3, 16)),
    ("depot", "one for a node", Rank("node", 3)),
    ("depot", "as it is: shards, at most 16", RANKS["depot"]),
    ("depot", "and magazines 4 times as large", Rank("shard", 3, 4)),
)


# -- the model ------------------------------------------------------------------------------------------------------

def utilisations(cpus, think_s, hold_s):
    """[utilisation of the lock with k CPUs], for k of 0 to `cpus`."""
    found, queue = [0.0], 0.0
    for k in range(1, cpus + 1):
        response_s = hold_s * (1 + queue)
        rate = k / (think_s + response_s)
        queue = rate * response_s
        found.append(rate * hold_s)
    return found


def between(values, at):
    """Between whole numbers of CPUs: on a straight line."""
    low = min(int(at), len(values) - 2)
    return values[low] + (values[low + 1] - values[low]) * (at - low)


def is_held(others, threads, think_s, hold_s):
    """The chance that a thread finds the lock held, where so many `others` (not always a whole number) run at the same
    time. A holder whose CPU is taken away meets all other threads before it is back."""
    running = between(utilisations(int(others) + 1, think_s, hold_s), others)
    return running + hold_s / SLICE_S * (threads - 1)


# -- the machines that were measured --------------------------------------------------------------------------------

def alike(runs, workload):
    """One run of a workload to take the parameters from: no more threads than two CPUs have room for, if there is."""
    found = [run for run in runs if run["workload"] == workload]
    return min(found, key=lambda run: run["threads"])


def million(run, rank, figure):
    """A count of a rank's locks a million objects."""
    return run["locks"].get(rank, {}).get(figure, 0) / run["objects"] * 1e6


def running_of(machine, run):
    """(how many threads of a run really ran at the same time, and how many others while one did). An emulated machine
    has no more than the CPUs of its host, and both have to share with what else goes on there."""
    most = min(run["threads"], machine["cpus"], HOST_CPUS)
    busy = min(machine.get("host_busy", run["cpu_s"] / run["wall_s"]), most)
    return busy, (most - 1) * busy / most


def predict_contended(machine, run, rank, base):
    """Contended acquisitions a million objects: the trips are those of the machine at hand (`base`), the speed and the
    hold time are the machine's. All locks of the rank are taken to be as busy as its busiest, and so many that they
    make up the sum."""
    trips, lock = million(base, rank, "acquired"), run["locks"].get(rank)
    if not lock or not trips:
        return 0.0
    busy, others = running_of(machine, run)
    if RANKS[rank].shared_by == "shard":
        others /= min(machine["cpus"] // machine["nodes"], SHARDS)
    share = base["locks"][rank]["hottest"] / base["locks"][rank]["acquired"]
    hold_s = lock["hold_ns"] * 1e-9 + EXCHANGE_S
    think_s = max(run["wall_s"] * busy / (run["objects"] * trips / 1e6 * share) - hold_s, 0)
    return trips * is_held(others, run["threads"], think_s, hold_s)


# -- larger machines ------------------------------------------------------------------------------------------------

def sharers_of(workload, name, rank, cpus, nodes):
    if rank.shared_by == 1 or (name == "threads" and workload not in WITH_BIRTHS):
        return 1
    sharers = {"node": cpus // nodes, "process": cpus, "shard": max(cpus // nodes // SHARDS, 1)}[rank.shared_by]
    return min(sharers, 2) if workload in ONE_CONSUMER else sharers


def transfer_s(rank, nodes):
    """A cache line from whoever of the lock's sharers had it last."""
    if rank.shared_by != "process":
        return NEAR_S
    return NEAR_S / nodes + FAR_S[nodes >= HOPS_FROM] * (1 - 1 / nodes)


def predict_utilisation(run, name, rank, cpus, nodes):
    """The busiest lock of a rank under a workload that all CPUs work at. `rank` is how the locks are shared."""
    lock = run["locks"].get(name)
    if not lock:
        return 0.0
    sharers = sharers_of(run["workload"], name, rank, cpus, nodes)
    here_s = lock["hold_ns"] * 1e-9 + EXCHANGE_S
    hold_s = here_s + rank.lines * transfer_s(rank, nodes) * (1 - 1 / sharers)
    busiest = lock["hottest"] if RANKS[name].shared_by == rank.shared_by else lock["hottest"] * HOST_CPUS
    took_s = run["cpu_s"] / (HOST_CPUS if RANKS[name].shared_by == "shard" else 1)  # by those who shared the busiest
    think_s = max(took_s / busiest * rank.fewer - here_s, 0)
    return utilisations(sharers, think_s, hold_s)[-1]


# -- tables ---------------------------------------------------------------------------------------------------------

def number(value):
    """Two digits, no exponent."""
    if value >= 9.95:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}" if value >= 0.01 else "0"


def percent(value):
    return f"**{number(100 * value)}**" if value > MOST else number(100 * value)


def table(heads, rows):
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def workloads_of(machine):
    return list(dict.fromkeys(run["workload"] for run in machine["runs"]))


def show_parameters(here):
    """What each workload asks of the locks, on this machine; not what the start of a process and a thread takes."""
    def cell(run, rank):
        lock = run["locks"].get(rank)
        if not lock or lock["acquired"] < 16:
            return ""
        return f"{number(million(run, rank, 'acquired'))} / {number(lock['hold_ns'])}"
    rows = []
    for name in workloads_of(here):
        run = alike(here["runs"], name)
        rows.append([name, number(run["objects"] / run["cpu_s"] / 1e6), *(cell(run, rank) for rank in RANKS)])
    used = [i for i in range(len(RANKS)) if any(row[2 + i] for row in rows)]
    return table(["workload", "million objects a CPU second", *(list(RANKS)[i] for i in used)],
                 [row[:2] + [row[2 + i] for i in used] for row in rows])


def show_contended(data, names, rank):
    """Measured, and predicted in parentheses, a million objects, for the numbers of threads that were tried."""
    here = data["here"]
    columns = [(name, threads) for name in names
               for threads in sorted({run["threads"] for run in data[name]["runs"]})]
    rows = []
    for workload in workloads_of(here):
        base, row = alike(here["runs"], workload), [workload]
        for name, threads in columns:
            runs = [run for run in data[name]["runs"] if (run["workload"], run["threads"]) == (workload, threads)]
            row.append(f"{number(million(runs[0], rank, 'contended'))} "
                       f"({number(predict_contended(data[name], runs[0], rank, base))})" if runs else "")
        rows += [row] if any(row[1:]) else []
    return table([rank, *(f"{name}, {threads}" for name, threads in columns)], rows)


def show_sums(data):
    """Contended acquisitions of all runs of a machine together: so many that chance does not matter much."""
    rows = []
    for name, machine in data.items():
        row = [name, f"{machine['nodes']}", f"{machine['cpus']}"]
        for rank in ("depot", "metadata"):
            measured = sum(run["locks"].get(rank, {}).get("contended", 0) for run in machine["runs"])
            predicted = sum(predict_contended(machine, run, rank, alike(data["here"]["runs"], run["workload"]))
                            * run["objects"] / 1e6 for run in machine["runs"])
            row += [number(measured), number(predicted), number(measured / predicted)]
        rows.append(row)
    heads = [f"{rank}: {what}" for rank in ("depots", "metadata") for what in ("measured", "predicted", "ratio")]
    return table(["machine", "nodes", "CPUs", *heads], rows)


def show_utilisation(here):
    """In percent, of the busiest lock of each rank; those that nowhere are busier than they should be are left out."""
    rows = []
    for workload in workloads_of(here):
        run = alike(here["runs"], workload)
        for name, rank in RANKS.items():
            values = [predict_utilisation(run, name, rank, cpus, nodes) for cpus, nodes in MACHINES]
            if max(values) > MOST:
                rows.append([workload, name, *map(percent, values)])
    return table(["workload", "rank", *(f"{cpus} on {nodes}" for cpus, nodes in MACHINES)], rows)


def show_remedies(here):
    """The same on the largest machine, for locks that were shared otherwise or taken less often."""
    runs = [alike(here["runs"], workload) for workload in workloads_of(here)]
    return table(["rank", "remedy", *(run["workload"] for run in runs)],
                 [[name, what, *(percent(predict_utilisation(run, name, rank, *MACHINES[-1])) for run in runs)]
                  for name, what, rank in REMEDIES])


def show(data):
    here = data["here"]
    single = [name for name, machine in data.items() if machine["nodes"] == 1]
    several = [name for name, machine in data.items() if machine["nodes"] > 1]
    yield "parameters", show_parameters(here)
    yield "one node", show_contended(data, single, "depot")
    yield "several nodes", show_contended(data, several, "depot")
    yield "sums", show_sums(data)
    yield "utilisation", show_utilisation(here)
    yield "remedies", show_remedies(here)


def tables():
    return dict(show(json.loads(locks.DATA.read_text())))


def write_document():
    """Each table behind its title, up to the next empty line."""
    text = DOCUMENT.read_text()
    for title, lines in tables().items():
        text, found = re.subn(rf"(?<=<!-- {title} -->\n).*?(?=\n\n)", lambda _: lines, text, flags=re.S)
        if found != 1:
            sys.exit(f"{DOCUMENT} has no place for: {title}")
    DOCUMENT.write_text(text)


def main():
    if sys.argv[1:] == ["--write"]:
        write_document()
        return
    for title, lines in tables().items():
        sys.stdout.write(f"<!-- {title} -->\n{lines}\n\n")


if __name__ == "__main__":
    main()
