"""What the library shows to the process that it is loaded into: its names, its needs, its share of static TLS."""
import pathlib
import re
import subprocess

from conftest import OURS, need

TLS_BYTES_AT_MOST = 128  # dlopen() finds room for it in the static TLS that glibc keeps spare (512 bytes)
SYSTEM_LIBRARIES = {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def output_of(*command):
    need(command[0])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_exports_are_the_list():
    listed = [line for line in pathlib.Path(__file__).with_name("exports.txt").read_text().splitlines()
              if line and not line.startswith("#")]
    exported = [line.split()[-1] for line in output_of("nm", "-D", "--defined-only", str(OURS)).splitlines()]
    assert sorted(exported) == sorted(listed)


def test_needs_libc_alone():
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d", "-W", str(OURS)))
    assert "libc.so.6" in needed
    assert set(needed) <= SYSTEM_LIBRARIES


def test_static_tls_is_small():
    segment = re.search(r"^ +TLS +(?:\S+ +){4}(\S+)", output_of("readelf", "-l", "-W", str(OURS)), re.M)
    assert segment is None or int(segment[1], 16) <= TLS_BYTES_AT_MOST


def test_symbols_are_bound_at_load():
    """No lazy binding: a first call of free() must not run the dynamic linker's resolver in a signal handler."""
    assert "NOW" in output_of("readelf", "-d", "-W", str(OURS))
