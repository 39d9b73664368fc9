"""Figures of each way, and their ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

__all__ = ["OURS", "Entry", "Profile", "butler_of", "ceiling_of", "find", "ratio"]

OURS = ("loader", "reader")
"""Names of this package's own ways."""


@dataclass(frozen=True)
class Entry:
    """One way in one regime.

    Attributes
    ----------
    way
        Its name.
    release, density, size, planes
        What is read.
    cache, order
        How; empty where that means nothing to the way.
    threads, workers
        Threads of a process, and worker processes.
    targets
        Cutouts of one pass.
    rates
        Cutouts a second of each run.
    """

    way: str
    release: str
    density: str
    size: int
    planes: str
    cache: str
    order: str
    threads: int
    workers: int
    targets: int
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        """Cutouts a second."""
        return median(self.rates)

    @property
    def cores(self) -> int:
        """Threads that work at the same time, in all processes."""
        return self.threads * max(1, self.workers)

    @property
    def scene(self) -> tuple[str, str, int, str]:
        """What is read."""
        return self.release, self.density, self.size, self.planes

    @property
    def label(self) -> str:
        """The regime, in few words."""
        words = [self.cache, self.order, f"{self.threads} thread{'s' * (self.threads > 1)}"]
        if self.workers:
            words.append(f"{self.workers} worker{'s' * (self.workers > 1)}")
        return " ".join(word for word in words if word)

    def as_dict(self, entries: Sequence["Entry"]) -> dict[str, Any]:
        """Return plain values, with the ratios to others of the same run."""
        ceiling, butler = ceiling_of(self, entries), butler_of(self, entries)
        return {
            **asdict(self),
            "rates": list(self.rates),
            "median": self.median,
            "min": min(self.rates),
            "max": max(self.rates),
            "ceiling": None if ceiling is None else ceiling.way,
            "ratio_to_ceiling": ratio(self, ceiling),
            "ratio_to_butler_get": ratio(self, butler),
        }


@dataclass(frozen=True)
class Profile:
    """Where the time of a pass goes.

    Attributes
    ----------
    entry
        Which regime.
    seconds
        Seconds of one cutout by stage, as time that passed: the seconds of threads side by side are divided by their number;
        ``hand-over`` is what the pass took beyond that.
    plan_seconds
        What the plan took, once, for all targets.
    misses, distinct, evictions
        Cache units decoded, units under the boxes, and units dropped, in one pass.
    """

    entry: Entry
    seconds: Mapping[str, float] = field(default_factory=dict)
    plan_seconds: float = 0.0
    misses: int = 0
    distinct: int = 0
    evictions: int = 0

    @property
    def total(self) -> float:
        """Seconds of one cutout."""
        return sum(self.seconds.values())

    def share(self, stage: str) -> float:
        """Return a stage's share of the time."""
        return self.seconds.get(stage, 0.0) / self.total if self.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        keys = ("release", "density", "size", "planes", "cache", "order", "threads", "workers")
        where = {key: getattr(self.entry, key) for key in keys}
        shares = {stage: self.share(stage) for stage in self.seconds}
        counts = {"misses": self.misses, "distinct": self.distinct, "evictions": self.evictions}
        return where | {"seconds": dict(self.seconds), "shares": shares, "plan_seconds": self.plan_seconds} | counts


def find(entries: Sequence[Entry], way: str, **wanted: Any) -> Entry | None:
    """Return the first entry of a way with these values, or None."""
    return next(
        (e for e in entries if e.way == way and all(getattr(e, name) == value for name, value in wanted.items())), None
    )


def ceiling_of(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """Return what a way is measured against: decoding alone, for warm passes copying alone, on as many cores."""
    if entry.way in {"bare decode", "bare copy", "in memory"}:
        return None
    way = "bare copy" if entry.cache == "warm" else "bare decode"
    return find(entries, way, scene=entry.scene, threads=entry.cores)


def butler_of(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """Return the loop over `butler.get` for the same scene."""
    return find(entries, "butler.get", scene=entry.scene)


def ratio(entry: Entry | None, other: Entry | None) -> float | None:
    """Return one median over another, None without one of them."""
    return None if entry is None or other is None else entry.median / other.median
