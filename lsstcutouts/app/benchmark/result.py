"""What a benchmark found: one table and some sentences for people, plain values for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from ...read.cache.budget import shown_bytes
from .machine import Load
from .measured import BenchmarkSettings

__all__ = ["BenchmarkEntry", "BenchmarkResult", "StageShares", "TileNeed", "advice", "limits", "scatter"]

_PASS_WORDS = {"empty": "first epoch (empty cache)", "full": "later epochs (cache filled by the first)"}

_SCATTER = 1.4
"""Fastest over slowest run, in the median of all ways, above which other programs disturbed; 1.1 to 1.2 on an idle machine."""

_CAUSES = {
    "locate": "opening files; more targets in each patch would share a file",
    "read": "reading bytes from files; a faster disk or network helps",
    "decode": "decoding tiles; tiles that stay in the cache are not decoded again",
    "assemble": "copying pixels into batches; fewer bands or planes, or a smaller size=, reduce it",
    "collate": "making tensors of batches",
    "other": "outside the stages, such as handing batches from threads to the loop",
    "device": "copying batches to the device",
}


@dataclass(frozen=True, slots=True)
class StageShares:
    """Where the time of a loader's pass goes."""

    seconds: Mapping[str, float]
    """Seconds of work for one cutout by stage, summed over the threads; ``other``: no thread worked at any stage."""
    threads_used: float
    """Mean number of threads at work: the sum of the stages over the time that passed."""
    hit_rate: float = 0.0
    """Share of tile requests served without decoding, from 0 to 1."""

    @classmethod
    def of(cls, seconds: Mapping[str, float], wall: float, cutouts: int, hit_rate: float = 0.0) -> "StageShares":
        """Return the shares from the seconds of a `StageClock`, the time that passed and the number of cutouts."""
        work = {name: value for name, value in seconds.items() if name not in {"plan", "hand-over"}}
        total = sum(work.values())
        work["other"] = max(0.0, wall - total)
        return cls({name: value / cutouts for name, value in work.items()}, total / wall, hit_rate)

    def share(self, stage: str) -> float:
        """Return a stage's share of the work."""
        total = sum(self.seconds.values())
        return self.seconds.get(stage, 0.0) / total if total else 0.0

    @property
    def largest(self) -> str:
        """Stage with most work."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@dataclass(frozen=True)
class BenchmarkEntry:
    """The speed of one way."""

    way: str
    cache: str
    threads: int
    workers: int
    targets: int
    """Cutouts of a pass."""
    rates: tuple[float, ...]
    """Cutouts/s of each run."""
    stages: StageShares | None = None
    """For loaders without worker processes."""
    start_seconds: float | None = None
    """Time until worker processes gave the first batch, once for a training; not part of the rates."""

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
    scatter: str
    machine: Mapping[str, Any]
    sample: Mapping[str, Any]
    entries: Sequence[BenchmarkEntry]
    tiles: TileNeed
    limits: Sequence[str]
    advice: Sequence[str]
    left_out: Sequence[str] = ()
    files: Sequence[str] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        butler = _butler(self.entries)
        found = asdict(self) | {"load": self.load._asdict()}
        for values, entry in zip(found["entries"], self.entries, strict=True):
            values |= {"median": entry.median, "min": min(entry.rates), "max": max(entry.rates)}
            values["ratio_to_butler_get"] = entry.median / butler.median if butler else None
            if entry.stages:
                values["stages"]["shares"] = {name: entry.stages.share(name) for name in entry.stages.seconds}
        return found

    def shown(self) -> Group:
        """Return the result for people."""
        warnings = [Text(text, style="bold red") for text in (self.load.text * self.load.busy, self.scatter) if text]
        return Group(
            *(warnings or [Text(f"the machine is quiet: {self.load.text}", style="dim")]),
            Text(str(self.sample["text"])),
            Text(),
            self._table(),
            Text(
                "per second: cutouts; at work: mean number of threads; tile hits: tile requests served without decoding",
                style="dim",
            ),
            Text(),
            *(Text(text) for text in self.limits),
            *(Text(f"change: {text}", style="bold") for text in self.advice),
            *(Text(f"not measured: {text}", style="dim") for text in self.left_out),
            *(Text(f"written: {path}", style="dim") for path in self.files),
        )

    def _table(self) -> Table:
        # Narrow enough for a terminal of 80 columns.
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for heading in (
            "way",
            "cache",
            "per\nsecond",
            "min..max",
            "x\nbutler",
            "at\nwork",
            "tile\nhits",
            "most work",
        ):
            justify: JustifyMethod = "left" if heading in {"way", "cache", "most work"} else "right"
            table.add_column(heading, justify=justify, no_wrap=True, vertical="bottom")
        butler = _butler(self.entries)
        for entry in self.entries:
            stages = entry.stages
            times = entry.median / butler.median if butler else None
            table.add_row(
                entry.label,
                entry.cache,
                _short(entry.median),
                f"{_short(min(entry.rates))}..{_short(max(entry.rates))}",
                "" if times is None else _short(times),
                f"{stages.threads_used:.1f}" if stages else "",
                f"{stages.hit_rate:.0%}" if stages else "",
                f"{stages.largest} {stages.share(stages.largest):.0%}" if stages else "",
                style="bold" if entry.way == "loader" else "",
            )
        return table


def scatter(entries: Sequence[BenchmarkEntry]) -> str:
    """Return a warning where the runs of one way differ much: other programs ran during the measurement."""
    times = median(max(e.rates) / min(e.rates) for e in entries)
    if times < _SCATTER:
        return ""
    return (
        f"WARNING: the runs of one way differ by a factor of {times:.1f}, probably because other programs ran during the "
        "measurement; close them and measure again."
    )


def limits(entries: Sequence[BenchmarkEntry], batch_size: int) -> list[str]:
    """Return for each state of the cache what takes most of the fastest loader's time, and which training waits for it."""
    found = []
    for cache, words in _PASS_WORDS.items():
        best = max((e for e in _loaders(entries, cache) if e.stages), key=lambda e: e.median, default=None)
        if best is not None and best.stages is not None:
            stage, step = best.stages.largest, 1000 * batch_size / best.median
            found.append(
                f"{words}: {best.stages.share(stage):.0%} of the work is {_CAUSES.get(stage, stage)}. The training waits "
                f"for data if its step takes less than {_rate(step)} ms a batch of {batch_size}."
            )
    return found


def advice(entries: Sequence[BenchmarkEntry], tiles: TileNeed, disturbed: bool) -> list[str]:
    """Return which setting to change, each once at most, by figures of this run alone; threads only if it was undisturbed."""
    found = []
    fits = tiles.need <= tiles.budget
    if not fits:
        found.append(
            f"cache_bytes: decoded tiles of all patches need about {shown_bytes(tiles.need)} and the cache holds "
            f"{shown_bytes(tiles.budget)}, so later epochs decode again; increase it if there is memory"
        )
    if find_spec("numba") is None:
        found.append("install numba (pip install numba): without it, tiles are decoded at half the speed")
    if disturbed:
        return [*found, "the runs were disturbed, so numbers of threads and workers are not compared; measure again"]
    # Most of a training are later epochs, from the cache if it holds all tiles.
    loaders = _loaders(entries, "full" if fits else "empty") or _loaders(entries, "empty")
    in_process = [e for e in loaders if not e.workers]
    if in_process:
        default = max(in_process, key=lambda e: e.threads)
        threads = max(in_process, key=lambda e: e.median)
        best = max(loaders, key=lambda e: e.median)
        if best.workers and best.clearly_faster(threads):
            found.append(
                f"num_workers={best.workers}: {_rate(best.median)} cutouts/s instead of {_rate(threads.median)} with threads, "
                f"in {_PASS_WORDS[best.cache]}; the processes started once, in {best.start_seconds or 0.0:.1f} s"
            )
        elif threads.clearly_faster(default):
            found.append(
                f"threads={threads.threads}: {_rate(threads.median)} cutouts/s instead of {_rate(default.median)} with "
                f"{default.threads}, in {_PASS_WORDS[threads.cache]}"
            )
    return found or ["nothing; no other setting that was measured is clearly faster than the default"]


def _loaders(entries: Sequence[BenchmarkEntry], cache: str) -> list[BenchmarkEntry]:
    return [e for e in entries if e.way == "loader" and e.cache == cache]


def _butler(entries: Sequence[BenchmarkEntry]) -> BenchmarkEntry | None:
    return next((e for e in entries if e.way.startswith("butler.get")), None)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _short(value: float) -> str:
    """Return at most five characters up to 10 million."""
    if value >= 100_000:
        return f"{value / 1000:.0f}k"
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
