"""What the tests on emulated machines (test_vm_*.py) share: some machines, and booting one to run a command there.

The fixture `vm_env` (conftest.py) skips where no machine can be emulated. `docs/numa-vm.md` is the manual.
"""
import subprocess
import tempfile

from conftest import HANG_S, NUMA_VM

TWO_BY_TWO = ["--nodes", "2", "--cpus", "4", "--mem", "4096"]
FOUR_BY_TWO = ["--nodes", "4", "--cpus", "8", "--mem", "4096"]
# Node 1 has no memory, node 2 no CPUs. Firmware knows such machines: memory on a card, sockets with empty slots.
LOPSIDED = ["--node", "0-1:2560", "--node", "2-3:", "--node", ":1536"]
# Where pages are bound to no node the kernel may move them to whoever uses them, and move_pages(2) denies a page that
# is marked for that.
NO_BALANCING = ["--append", "numa_balancing=disable"]


def run(vm_env, machine, command, files=(), timeout_s=HANG_S):
    """Run a command (words) on such a machine, which boots for it and ends with it. `files` come along, at the paths
    that they have here; programs with their shared libraries. `timeout_s` is for all of it, the boot included: status
    124 when it has passed, 125 where there was no machine."""
    words = [word for file in files for word in ("--file", str(file))]
    argv = [NUMA_VM, *machine, *words, "--timeout", str(timeout_s), "--", *map(str, command)]
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        with subprocess.Popen(argv, env=vm_env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints,
                              text=True, errors="replace") as process:
            lines = []
            for line in process.stdout:
                print(line, end="", flush=True)  # as it comes under pytest -s, otherwise beside a failure
                lines.append(line)
        complaints.seek(0)
        return subprocess.CompletedProcess(argv, process.returncode, "".join(lines), complaints.read())


def boot(vm_env, machine, command, files=(), timeout_s=HANG_S):
    """The same for a command that must end with status 0: what it wrote to standard output."""
    done = run(vm_env, machine, command, files, timeout_s)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
