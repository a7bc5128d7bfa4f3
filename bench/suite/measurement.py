"""What one run of a workload on an allocator yields, and the two ways in which it yields nothing."""
import dataclasses


@dataclasses.dataclass
class Measurement:
    """Figures and series as docs/bench.md has them; CPU seconds, peak RSS and the page faults that needed no disk are
    those of the process measured."""
    figures: dict = dataclasses.field(default_factory=dict)  # name: (value, unit)
    series: dict = dataclasses.field(default_factory=dict)  # name: (x unit, y unit, [(x, y), ...])
    cpu_s: float | None = None
    wall_s: float | None = None
    peak_rss_mib: float | None = None
    page_faults: int | None = None


class RunFailed(Exception):
    """The run did not do its work; the message is the reason, in one line."""


class TimedOut(RunFailed):
    """It was still running when its time was over; a second try would be, too."""


class Skipped(Exception):
    """The run cannot be made on this machine; the message is the reason, in one line."""
