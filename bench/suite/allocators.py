"""Which allocators a run compares: glibc's (nothing preloaded), ours, Debian's packages, any other as NAME=PATH."""
import dataclasses
import os
import pathlib
import platform
import re
import subprocess
import sys

from . import memory, percpu, programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBIAN = pathlib.Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
PACKAGED = {  # name: file and package
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "mimalloc": ("libmimalloc.so.2", "libmimalloc2.0"),
}
OURS = "slabmalloc"
OUR_CACHES = "slabmalloc cache"
OUR_EPOCHS = "slabmalloc epochs"
OUR_LOCKS = "slabmalloc locks"
OUR_PERCPU = "slabmalloc percpu"
URCU = "userspace RCU"
OUR_DEFERRED = {"slabmalloc deferred": "slab", "slabmalloc deferred head": "slab_head",
                "slabmalloc deferred cache": "slab_cache"}  # name: contender
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.A)
START_SECONDS = 60  # a busy machine takes its time
DEFAULT = ("glibc", OURS, *PACKAGED)


@dataclasses.dataclass(frozen=True)
class Allocator:
    """What is preloaded to get it ("" for glibc's own), and what of it a report names."""
    name: str
    library: str = ""
    version: str = ""
    options: str = ""  # SLABMALLOC_OPTIONS
    contender: str = "malloc"  # by what the programs of bench/caches.c get their objects; of bench/epochs.c: its name


def variants(compared, build):
    """{kind: allocators} that are measured beside those compared, in the workloads that name the kind."""
    builds, caches, deferred, epochs, keep, locks, percpu, sampling = [], [], [], [], [], [], [], []
    ours = [one for one in compared if one.name == OURS]
    if ours:
        builds = [Allocator(f"{OURS} grow=locked", programs.variant(build, "bench"), version_of_ours(),
                            "grow=locked")]
        caches = [our_caches(build)]
        deferred = our_deferred(build)
        epochs = [our_epochs(build)]
        keep = [Allocator(memory.KEEP, str(build / "libslabmalloc.so"), version_of_ours(), memory.KEEP_OPTIONS)]
        locks = [our_locks(build)]
        percpu = our_percpu(build)
        sampling = our_sampling(*ours)
    return {"builds": builds, "caches": caches, "pools": [*caches, *pools_of_others()], "deferred": deferred,
            "epochs": epochs, "keep": keep, "sections": [*epochs, userspace_rcu(build)], "locks": locks,
            "percpu": percpu[:1], "percpu_ways": percpu, "sampling": sampling}


def our_caches(build):
    """The object caches of ours. The library is linked, and preloaded all the same: so it is this build's."""
    return Allocator(OUR_CACHES, str(build / "libslabmalloc.so"), version_of_ours(), contender="slab")


def our_deferred(build):
    """The ways in which ours frees behind readers: linked and preloaded, as our caches are."""
    return [Allocator(name, str(build / "libslabmalloc.so"), version_of_ours(), contender=contender)
            for name, contender in OUR_DEFERRED.items()]


def our_epochs(build):
    """What is counted of them: their calls, without the passes that come with time, of which a slow machine has more."""
    return Allocator(OUR_EPOCHS, str(build / "libslabmalloc.so"), version_of_ours(), "deferred_max_delay_ms=3600000")


def our_locks(build):
    """The build that counts and times its locks."""
    return Allocator(OUR_LOCKS, programs.variant(build, "bench"), version_of_ours(), "stats=1")


def our_percpu(build):
    """The ways in which ours finds a CPU's copy, the common one first."""
    plain = Allocator(OUR_PERCPU, str(build / "libslabmalloc.so"), version_of_ours(), contender="slab")
    return [plain, dataclasses.replace(plain, name=f"{OUR_PERCPU} cid", options="percpu_cid=1"),
            dataclasses.replace(plain, name=f"{OUR_PERCPU} {percpu.FALLBACK}", contender=percpu.FALLBACK)]


def our_sampling(plain):
    """Ours as it is compared, which stands for itself and is no variant, without samples, and with guards at them."""
    return [plain, *(dataclasses.replace(plain, name=f"{OURS} {options}", options=options)
                     for options in ("sample_bytes=0", "guard=1"))]


def userspace_rcu(build):
    """Whose sections are counted by the program that counts ours, and links it: so that is this build's, too."""
    version = first_line_of("dpkg-query", "-W", "-f", "${Version}", "liburcu-dev")
    return Allocator(URCU, str(build / "libslabmalloc.so"), version)


def pools_of_others():
    """What other libraries have for objects of one type. They take their memory from glibc's malloc."""
    glib, boost = (first_line_of("dpkg-query", "-W", "-f", "${Version}", package)
                   for package in ("libglib2.0-0", "libboost-dev"))
    return [Allocator("GLib slice", "", glib, contender="gslice"),
            Allocator("Boost pool", "", boost, contender="boost"),
            Allocator("Boost pool unlocked", "", boost, contender="boost_unlocked")]


def first_line_of(*command):
    """What a program says first; "" if it fails or is not there."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def version_of_ours():
    """The commit of the tree, which tools/bench has just built, with a mark if the tree differs from it."""
    return first_line_of("git", "describe", "--always", "--dirty") or "no git"


def known(build):
    """Every allocator that has a name of its own; a package that is not installed has no library."""
    found = {"glibc": Allocator("glibc", "", os.confstr("CS_GNU_LIBC_VERSION").removeprefix("glibc ")),
             OURS: Allocator(OURS, str(pathlib.Path(build, "libslabmalloc.so")), version_of_ours())}
    for name, (file, package) in PACKAGED.items():
        version = first_line_of("dpkg-query", "-W", "-f", "${Version}", package)
        found[name] = Allocator(name, str(DEBIAN / file), version)
    return found


def preload_complaint(library):
    """What is against preloading a file, or ""."""
    if re.search(r"[\s:]", library):
        return "LD_PRELOAD takes no path with a space or a colon"
    try:
        done = subprocess.run(["/bin/true"], env={**os.environ, "LD_PRELOAD": library}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        return f"a program with it preloaded has not ended after {START_SECONDS} s"
    return "the loader cannot preload it" if "cannot be preloaded" in done.stderr else ""


def path_in(word):
    """The library that a NAME=PATH names; "" for a name alone."""
    path = word.partition("=")[2]
    return str(pathlib.Path(path).resolve()) if path else ""


def check(words):
    """Ends the run with status 2 where a list of names and NAME=PATH has anything that nobody could measure."""
    names = known("")
    for word in words:
        name, given, path = word.partition("=")
        if not given and name not in names:
            fail(f"no allocator {name!r}; known are {', '.join(names)}, any other as NAME=PATH")
        if given and (name in names or not NAME.fullmatch(name)):
            fail(f"{name!r} is no name for {path}: one of letters, digits, dots, dashes, and not {', '.join(names)}")
        if given:
            check_library(name, path_in(word))


def check_library(name, library):
    if not pathlib.Path(library).is_file():
        fail(f"{name}: no file {library}")
    complaint = preload_complaint(library)
    if complaint:
        fail(f"{library}: {complaint}")


def find(words, build):
    """{name: Allocator} for a list of names and NAME=PATH. A package that is missing is one line on standard error
    and left out; anything else that cannot be measured ends the run with status 2."""
    check(words)
    names, found = known(build), {}
    for word in words:
        name, given, _ = word.partition("=")
        allocator = Allocator(name, path_in(word), "given by path") if given else names[name]
        if name in PACKAGED and not pathlib.Path(allocator.library).is_file():
            print(f"bench: {name} is left out: Debian's package {PACKAGED[name][1]} is not installed",
                  file=sys.stderr)
            continue
        if name == OURS and not pathlib.Path(allocator.library).is_file():
            fail(f"no file {allocator.library}; tools/bench without --build builds it")
        if allocator.library and not given:
            check_library(name, allocator.library)
        found[name] = allocator
    if not found:
        fail("no allocator is left to measure")
    return found


def fail(message):
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(2)
