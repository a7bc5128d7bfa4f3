"""The bench suite: runs workloads on allocators side by side, and says what came out (docs/bench.md)."""
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))  # for tools.python
