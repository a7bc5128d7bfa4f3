"""The bench suite: runs workloads on allocators side by side, and says what came out (docs/bench.md)."""
