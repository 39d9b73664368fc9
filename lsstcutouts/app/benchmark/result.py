"""What a benchmark found: one table and some sentences for people, plain values for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ...read.cache.budget import shown_bytes
from .machine import Load
from .measured import BenchmarkSettings

__all__ = ["BenchmarkEntry", "BenchmarkResult", "StageShares", "TileNeed", "advice", "limits"]

_PASS_WORDS = {"empty": "the first epoch (empty cache)", "full": "later epochs (all tiles in the cache)"}

_SCATTER = 1.4
"""Fastest over slowest run, in the median of all ways, above which the machine was busy; 1.1 to 1.2 on an idle one."""

_CAUSES = {
    "locate": "opening files; more targets for each patch would share a file",
    "read": "reading bytes from files; a faster disk or network helps",
    "decode": "decoding tiles; a cache that keeps them avoids it in later epochs",
    "assemble": "copying pixels into batches; fewer bands or planes, or a smaller size=, reduce it",
    "collate": "making tensors of batches",
    "other": "work outside the stages, such as handing batches from threads to the loop",
    "device": "copies to the device",
}


@dataclass(frozen=True, slots=True)
class StageShares:
    """Where the time of a pass goes.

    Attributes
    ----------
    seconds
        Seconds of work for one cutout by stage, summed over the threads; ``other`` is time that passed while no thread
        worked at any stage, so far as the sums show it.
    at_work
        Threads at work in the mean: the sum of the stages over the time that passed.
    evictions
        Tiles dropped from the cache in a pass.
    """

    seconds: Mapping[str, float]
    at_work: float
    evictions: int = 0

    @classmethod
    def of(cls, seconds: Mapping[str, float], wall: float, cutouts: int, evictions: int = 0) -> "StageShares":
        """Return the shares from the seconds of a `StageClock`, the time that passed and the number of cutouts."""
        work = {name: value for name, value in seconds.items() if name not in {"plan", "hand-over"}}
        total = sum(work.values())
        work["other"] = max(0.0, wall - total)
        return cls({name: value / cutouts for name, value in work.items()}, total / wall, evictions)

    def share(self, stage: str) -> float:
        """Return a stage's share of the work."""
        total = sum(self.seconds.values())
        return self.seconds.get(stage, 0.0) / total if total else 0.0

    @property
    def largest(self) -> list[str]:
        """Stages, the largest first."""
        return sorted(self.seconds, key=lambda name: -self.seconds[name])


@dataclass(frozen=True)
class BenchmarkEntry:
    """The speed of one way.

    Attributes
    ----------
    way, cache, threads, workers
        What was measured.
    targets
        Cutouts of a pass.
    rates
        Cutouts/s of each run.
    stages
        Where the time goes, for loaders without worker processes.
    start_seconds
        Time until worker processes gave the first batch, once for a training; not part of the rates.
    """

    way: str
    cache: str
    threads: int
    workers: int
    targets: int
    rates: tuple[float, ...]
    stages: StageShares | None = None
    start_seconds: float | None = None

    @property
    def median(self) -> float:
        """Median of the runs."""
        return median(self.rates)

    @property
    def label(self) -> str:
        """The way, with its threads or processes where they are a choice."""
        if self.way != "loader":
            return self.way
        count, noun = (self.workers, "worker") if self.workers else (self.threads, "thread")
        return f"loader, {count} {noun}{'s' * (count != 1)}"

    def clearly_faster(self, other: "BenchmarkEntry") -> bool:
        """Return whether even the slowest run was faster than the other's fastest, by 5 percent in the median."""
        return min(self.rates) > max(other.rates) and self.median > 1.05 * other.median


@dataclass(frozen=True, slots=True)
class TileNeed:
    """Memory of decoded tiles, in bytes: what the whole plan needs, from the sample's patches, and what the cache holds."""

    need: int
    budget: int


@dataclass(frozen=True)
class BenchmarkResult:
    """Everything that a benchmark measured; the names are those of ``benchmark.json``."""

    settings: BenchmarkSettings
    load: Load
    machine: Mapping[str, Any]
    sample: Mapping[str, Any]
    entries: Sequence[BenchmarkEntry]
    tiles: TileNeed | None
    limits: Sequence[str]
    advice: Sequence[str]
    left_out: Sequence[str] = ()
    files: Sequence[str] = field(default_factory=tuple)

    @property
    def scatter(self) -> str:
        """A warning where the runs of one way differ much: then another program began during the measurement."""
        times = median(max(e.rates) / min(e.rates) for e in self.entries)
        if times < _SCATTER:
            return ""
        return (
            f"WARNING: the runs of one way differ by a factor of {times:.1f}: other programs ran during the measurement. "
            "Close them and measure again."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        butler = _butler(self.entries)
        found = asdict(self)
        for values, entry in zip(found["entries"], self.entries, strict=True):
            values |= {"median": entry.median, "min": min(entry.rates), "max": max(entry.rates)}
            values["ratio_to_butler_get"] = entry.median / butler.median if butler else None
            if entry.stages:
                values["stages"]["shares"] = {name: entry.stages.share(name) for name in entry.stages.seconds}
        return found

    def shown(self) -> Group:
        """Return the result for people."""
        head = Text(self.load.text, style="bold red" if self.load.busy else "dim")
        parts: list[Any] = [head, *([Text(scatter, style="bold red")] if (scatter := self.scatter) else [])]
        parts += [
            Text(str(self.sample["text"])),
            Text(),
            self._table(),
            Text("busy: threads at work in the mean"),
            Text(),
        ]
        parts += [Text(f"limit: {text}") for text in self.limits]
        parts += [Text(f"change: {text}", style="bold") for text in self.advice]
        parts += [Text(f"not measured: {text}", style="dim") for text in self.left_out]
        parts += [Text(f"written: {path}", style="dim") for path in self.files]
        return Group(*parts)

    def _table(self) -> Table:
        # Narrow enough for a terminal of 80 columns.
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for heading in ("way", "cache", "cutouts/s", "min..max", "x butler", "busy", "most time"):
            left = heading in {"way", "cache", "most time"}
            table.add_column(heading, justify="left" if left else "right", no_wrap=True)
        butler = _butler(self.entries)
        for entry in self.entries:
            stages = entry.stages
            times = entry.median / butler.median if butler else None
            table.add_row(
                entry.label,
                entry.cache,
                _rate(entry.median),
                f"{_short(min(entry.rates))}..{_short(max(entry.rates))}",
                "" if times is None else f"{times:,.0f}" if times >= 10 else f"{times:.1f}",
                f"{stages.at_work:.1f}" if stages else "",
                f"{stages.largest[0]} {stages.share(stages.largest[0]):.0%}" if stages else "",
                style="bold" if entry.way == "loader" else "",
            )
        return table


def limits(entries: Sequence[BenchmarkEntry]) -> list[str]:
    """Return one sentence for each state of the cache: what takes most of the fastest loader's time."""
    found = []
    for cache, words in _PASS_WORDS.items():
        measured = [e for e in _loaders(entries, cache) if e.stages]
        if not measured:
            continue
        best = max(measured, key=lambda e: e.median)
        assert best.stages is not None
        stage = best.stages.largest[0]
        found.append(f"{words}: {best.stages.share(stage):.0%} of the work is {_CAUSES.get(stage, stage)}")
    return found


def advice(entries: Sequence[BenchmarkEntry], tiles: TileNeed | None, busy: bool) -> list[str]:
    """Return which setting to change; each setting is named once at most, by figures of this run alone.

    Parameters
    ----------
    entries
        Of one run.
    tiles
        Memory that decoded tiles need.
    busy
        Whether other programs disturbed the run: then numbers of threads and processes cannot be compared.
    """
    found = []
    fits = tiles is None or tiles.need <= tiles.budget
    if tiles is not None and not fits:
        found.append(
            f"cache_bytes: decoded tiles of all patches need about {shown_bytes(tiles.need)} and the cache holds "
            f"{shown_bytes(tiles.budget)}, so later epochs decode again; give it more if there is memory"
        )
    if busy:
        return [
            *found,
            "no number of threads or processes can be advised: the machine is too busy; measure again when it is idle",
        ]
    found += _of_workers(entries, "full") or _of_threads(entries, "full" if fits else "empty")
    if find_spec("numba") is None:
        found.append("install numba (pip install numba): Rice tiles decode in half the time")
    return found or ["nothing: no other setting that was measured is clearly faster than the default"]


def _of_threads(entries: Sequence[BenchmarkEntry], cache: str) -> list[str]:
    """Compare threads in the epochs that most of a training consists of: later ones if they come from the cache."""
    measured = [e for e in _loaders(entries, cache) or _loaders(entries, "empty") if not e.workers]
    if len(measured) < 2:
        return []
    default = max(measured, key=lambda e: e.threads)
    best = max(measured, key=lambda e: e.median)
    if not best.clearly_faster(default):
        return []
    return [
        (
            f"threads={best.threads}: {_rate(best.median)} cutouts/s instead of {_rate(default.median)} with {default.threads} in "
            f"{_PASS_WORDS[best.cache]}"
        )
    ]


def _of_workers(entries: Sequence[BenchmarkEntry], cache: str) -> list[str]:
    """Return the number of worker processes where they are clearly faster than threads."""
    loaders = _loaders(entries, cache)
    threads = max((e for e in loaders if not e.workers), key=lambda e: e.median, default=None)
    workers = max((e for e in loaders if e.workers), key=lambda e: e.median, default=None)
    if threads is None or workers is None or not workers.clearly_faster(threads):
        return []
    return [
        (
            f"num_workers={workers.workers}: {_rate(workers.median)} cutouts/s instead of {_rate(threads.median)} with threads in "
            f"{_PASS_WORDS[cache]}; starting the processes took {workers.start_seconds or 0.0:.1f} s, once for a training"
        )
    ]


def _loaders(entries: Sequence[BenchmarkEntry], cache: str) -> list[BenchmarkEntry]:
    return [e for e in entries if e.way == "loader" and e.cache == cache]


def _butler(entries: Sequence[BenchmarkEntry]) -> BenchmarkEntry | None:
    return next((e for e in entries if e.way.startswith("butler.get")), None)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
