"""Measuring several ways side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["MANY", "Way", "interleaved", "measured"]


MANY = 1_000_000
"""More runs than anyone asks for."""


class Way(Protocol):
    """One way to read the targets of a field."""

    name: str
    most_runs: int
    """Runs beyond which another one is not worth its time."""

    def prepare(self) -> Callable[[], int]:
        """Return what is measured: one pass over the targets, which says how many cutouts it gave.

        Called outside the clock; what is cold must be made anew here.
        """

    def pixels(self, rows: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return planes ``(n, B, Y, X)`` of some targets of the plan, read in this way."""

    def close(self) -> None:
        """Let go of files, threads and processes."""


def measured(way: Way, least_seconds: float) -> float:
    """Return cutouts a second of as many passes as take ``least_seconds`` together, at least one."""
    count, seconds = 0, 0.0
    while seconds < least_seconds or not count:
        run = way.prepare()
        start = time.perf_counter()
        count += run()
        seconds += time.perf_counter() - start
        del run
    return count / seconds


def interleaved(
    ways: Sequence[Way], repeats: int, least_seconds: float, after: Callable[[Way], object] = lambda _: None
) -> list[tuple[float, ...]]:
    """Return the cutouts a second of each way, run by run: A B C A B C ...

    What disturbs the machine for a while then disturbs all of them.

    Parameters
    ----------
    ways
        What to measure.
    repeats
        Runs of each, or as many as are worth their time.
    least_seconds
        As in `measured`.
    after
        Told each way when a run of it is over.
    """
    rates: list[list[float]] = [[] for _ in ways]
    for run in range(repeats):
        for way, of in zip(ways, rates, strict=True):
            if run < way.most_runs:
                of.append(measured(way, least_seconds))
            after(way)
    return [tuple(of) for of in rates]
