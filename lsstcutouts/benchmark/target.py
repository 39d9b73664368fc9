"""Targets: what a figure should be, and whether it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..kernels import FUSED
from .entries import Entry, find, ratio

__all__ = ["Target", "targets_of"]


_UNDECODED = ("cold", "cleared")
"""States of the cache in which no tile is decoded."""


@dataclass(frozen=True)
class Target:
    """One figure against its bound.

    Attributes
    ----------
    what
        The figure, in words.
    value
        What was measured.
    bound
        What it should be.
    unit
        Of both; empty for ratios.
    at_least
        Whether the figure should be at least the bound; else it should be under it.
    detail
        What belongs to it.
    counts
        Whether the bound applies here; the reason is in ``detail``.
    """

    what: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = True
    detail: str = ""
    counts: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None where it does not apply."""
        if not self.counts:
            return None
        return self.value >= self.bound if self.at_least else self.value < self.bound

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "what": self.what,
            "value": self.value,
            "bound": self.bound,
            "sense": "at least" if self.at_least else "under",
            "unit": self.unit,
            "met": self.met,
            "detail": self.detail,
        }


def targets_of(entries: Sequence[Entry], *, fused: bool | None = None) -> list[Target]:
    """Return the targets of throughput that the entries tell of: image plane, 64 px, DP2.

    Parameters
    ----------
    entries
        Of one run.
    fused
        Whether tiles are decoded by a fused kernel; by default whether this installation has it.
    """
    fused = FUSED if fused is None else fused
    chosen = [e for e in entries if (e.release, e.size, e.planes) == ("dp2", 64, "image")]
    makers: Sequence[Callable[[Sequence[Entry]], list[Target]]] = (
        _over_bare_decode,
        lambda found: _over_butler(found, 100.0 if fused else 60.0),
        _sparse,
        _two_threads,
        _warm,
        _loader,
    )
    return [target for maker in makers for target in maker(chosen)]


def _over_bare_decode(entries: Sequence[Entry]) -> list[Target]:
    made = []
    for cache, threads in product(_UNDECODED, (1, 2)):
        ours = _ours(entries, cache, threads)
        value = ratio(ours, find(entries, "bare decode", density="dense", threads=threads))
        made += _made(f"{cache}, dense, {threads} thread{'s' * (threads > 1)}: ours over bare decode", value, 0.85)
    return made


def _over_butler(entries: Sequence[Entry], bound: float) -> list[Target]:
    butler = find(entries, "butler.get", density="dense")
    return [
        target
        for cache in _UNDECODED
        for target in _made(
            f"{cache}, dense, one core: ours over butler.get", ratio(_ours(entries, cache, 1), butler), bound, "times"
        )
    ]


def _sparse(entries: Sequence[Entry]) -> list[Target]:
    slices = find(entries, "fitsio slices", density="sparse")
    return [
        target
        for cache in _UNDECODED
        for target in _made(
            f"{cache}, sparse, one thread: ours over fitsio slices",
            ratio(_ours(entries, cache, 1, "sparse"), slices),
            2.0,
            "times",
        )
    ]


def _two_threads(entries: Sequence[Entry]) -> list[Target]:
    return [
        target
        for cache in _UNDECODED
        for target in _made(
            f"{cache}, dense: 2 threads over 1", ratio(_ours(entries, cache, 2), _ours(entries, cache, 1)), 1.7, "times"
        )
    ]


def _warm(entries: Sequence[Entry]) -> list[Target]:
    reader = find(entries, "reader", density="dense", cache="warm")
    made = _made(
        "warm, reader: cutouts a second and core", None if reader is None else reader.median, 12_000.0, "cutouts/s"
    )
    value = ratio(reader, find(entries, "bare copy", density="dense", threads=1))
    return made + _made("warm, reader: ours over a bare copy", value, 0.5)


def _loader(entries: Sequence[Entry]) -> list[Target]:
    warm = [e for e in entries if (e.way, e.density, e.cache, e.workers) == ("loader", "dense", "warm", 0)]
    best = max(warm, key=lambda e: e.median, default=None)
    if best is None:
        return []
    memory = find(entries, "in memory", density="dense", workers=0, order=best.order)
    what = f"warm, DataLoader, {best.threads} thread{'s' * (best.threads > 1)}, no worker: ours over tensors in memory"
    return _made(what, ratio(best, memory), 0.8)


def _ours(entries: Sequence[Entry], cache: str, threads: int, density: str = "dense") -> Entry | None:
    return find(entries, "loader", density=density, cache=cache, threads=threads, workers=0)


def _made(what: str, value: float | None, bound: float, unit: str = "") -> list[Target]:
    """Return a target, or nothing where the figure was not measured."""
    return [] if value is None else [Target(what, value, bound, unit)]
