"""Several NUMA nodes: bench/numa_load.c on machines that tools/numa-vm emulates, and what ours has promised there.

A workload is a machine, with the kernel's NUMA balancing or without it; each allocator has a boot of its own, in
which all modes of the load run one after the other. Their names stand before those of the figures.
"""
import pathlib
import platform
import re
import shlex
import shutil

from . import programs
from .measurement import Measurement, RunFailed, Skipped
from .promises import Promise, medians_of

NUMA_VM = programs.ROOT / "tools" / "numa-vm"
SIZES = programs.ROOT / "bench" / "data" / "sizes"
MACHINES = {"2x2": (2, 4), "4x2": (4, 8), "8x1": (8, 8)}  # nodes times CPUs of each: nodes, and CPUs in all
MODES = ("pinned", "unpinned", "moved", "producer")
FIGURES = ("astray_worst", "remote_frees", "grown_max", "rss")  # of a mode; by node the program has more
UNBALANCED = "numa_balancing=disable"  # for the kernel
OURS = "slabmalloc"
MOST_ASTRAY = 5  # percent


def name_of(machine, balanced):
    return f"numa_{machine}" if balanced else f"numa_{machine}_unbalanced"


def describe(machine, balanced):
    nodes, cpus = MACHINES[machine]
    return (f"a server's load on {nodes} emulated nodes of together {cpus} CPUs, {'with' if balanced else 'without'} "
            "NUMA balancing: fresh objects that lie on another node than their thread")


def machine_environment(build):
    """The environment in which numa-vm finds its kernel; Skipped where it cannot run."""
    if platform.machine() != "x86_64":
        raise Skipped("numa-vm boots x86-64 machines")
    for program in ("qemu-system-x86_64", "busybox", "cpio"):
        if shutil.which(program) is None:
            raise Skipped(f"no {program} on this machine: install what tools/packages-vm.txt names")
    environment = programs.clean_environment()
    environment.setdefault("NUMA_VM_CACHE", str(build / "numa-vm"))
    try:
        programs.run([NUMA_VM, "--fetch"], environment)
    except RunFailed as reason:
        raise Skipped(f"no kernel to boot: {reason}") from reason
    return environment


def command_of(program, library, seconds):
    """What the guest's shell is to do: every mode behind a line with its name, until one fails."""
    preload = ["env", f"LD_PRELOAD={library}"] if library else []
    words = [*preload, str(program), "--seconds", seconds]
    return " && ".join(f"echo mode {mode} && {shlex.join([*words, f'--{mode}'])}" for mode in MODES)


def measure(machine, balanced, context, allocator):
    environment = machine_environment(context.build)
    nodes, cpus = MACHINES[machine]
    program = context.build / "bench" / "numa_load"
    files = [program, SIZES, *([pathlib.Path(allocator.library)] if allocator.library else [])]
    output = programs.run([
        NUMA_VM, "--nodes", nodes, "--cpus", cpus, "--timeout", programs.RUN_SECONDS,
        *([] if balanced else ["--append", UNBALANCED]), *(word for file in files for word in ("--file", file)),
        "--", "sh", "-c", command_of(program, allocator.library, str(context.effort.numa_s))], environment)
    parts = re.split(r"^mode (\w+)$", output, flags=re.M)[1:]
    by_mode = {mode: programs.read_figures(text) for mode, text in zip(parts[::2], parts[1::2])}
    return Measurement(figures={f"{mode}_{name}": by_mode[mode][name] for mode in MODES for name in FIGURES})


# -- what was promised ----------------------------------------------------------------------------------------------

def promises(summary):
    """[(title, its promises)] of the machines that ours has run on."""
    rows = {(row.workload, row.figure): medians_of(row) for row in summary.rows if row.measured}
    found = []
    for workload in dict.fromkeys(row.workload for row in summary.rows if row.group == "numa"):
        astray = {mode: rows.get((workload, f"{mode}_astray_worst"), {}).get(OURS) for mode in MODES}
        of_one = [Promise(f"% of a node's fresh objects that lie on another, {mode}", MOST_ASTRAY, {OURS: value})
                  for mode, value in astray.items() if value is not None]
        found += [(workload, of_one)] if of_one else []
    return found
