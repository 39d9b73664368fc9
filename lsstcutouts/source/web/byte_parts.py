"""Ranges of bytes of a file that have been asked for."""

import time
import weakref
from bisect import bisect_right
from collections import deque
from concurrent.futures import Future
from typing import NamedTuple

__all__ = ["URGENT", "NotHereError", "Part", "PartTable", "Rank", "without"]


class Rank(NamedTuple):
    """When bytes are asked for.

    Attributes
    ----------
    number
        What has the lowest is asked for first; 0 is what somebody waits for, higher numbers are later batches.
    reach
        One request may fetch bytes of so many later batches as well: few for the first batch of a pass, which is waited for.
    """

    number: int
    reach: int = 0


URGENT = Rank(0)


class Part:
    """Bytes of a file that are under way, here, or cannot be had. They stay in memory as long as somebody refers to this.

    Attributes
    ----------
    start, stop
        First byte, and the byte after the last.
    nbytes
        Bytes that were asked for; the file may end before.
    rank
        When they are asked for.
    asked
        When somebody asked for them first (monotonic clock).
    future
        The bytes.
    missing
        Ranges of them that have not arrived, ascending.
    begun
        Whether a request for it is under way, or it waits for the next try.
    left_since
        When it was first left to another process (monotonic clock), which is fetching the same bytes; 0 if it was not.
    tries, failing_since
        Tries that brought nothing, and when the first of them was (monotonic clock).
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_gone",
        "asked",
        "begun",
        "failing_since",
        "future",
        "left_since",
        "missing",
        "nbytes",
        "rank",
        "start",
        "stop",
        "tries",
    )

    def __init__(self, start: int, stop: int, rank: Rank, gone: deque[int]) -> None:
        self.start, self.stop, self.rank, self.nbytes = start, stop, rank, stop - start
        self.future: Future[bytes] = Future()
        self.missing = [(start, stop)]
        self._data = bytearray()
        self.begun, self.tries, self.failing_since, self.left_since = False, 0, 0.0, 0.0
        self.asked = time.monotonic()
        self._gone = gone

    def __del__(self) -> None:
        # The garbage collector calls this in any thread, also in a locked block: an append needs no lock.
        self._gone.append(self.nbytes)

    @property
    def arrived(self) -> int:
        """How many bytes have arrived."""
        return self.stop - self.start - sum(stop - start for start, stop in self.missing)

    def put(self, at: int, data: memoryview) -> None:
        """Add bytes of the file from a position; what is not of this part is ignored."""
        first, last = max(at, self.start), min(at + len(data), self.stop)
        if first < last:
            self._data = self._data or bytearray(self.stop - self.start)
            self._data[first - self.start : last - self.start] = data[first - at : last - at]
            self.missing = without(self.missing, [(first, last)])

    def end_at(self, size: int) -> None:
        """Let the part end where the file ends."""
        if self.stop > size:
            self.stop = size
            self.missing = without(self.missing, [(size, self.start + self.nbytes)])
            del self._data[max(0, size - self.start) :]

    def take(self) -> bytes:
        """Return the bytes, which have all arrived; they are not kept here."""
        data, self._data = bytes(self._data), bytearray()
        return data

    @property
    def failed(self) -> bool:
        """Whether the bytes cannot be had."""
        return self.future.done() and self.future.exception() is not None


def without(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what other ranges leave of some ranges ``(start, stop)``, in order."""
    for first, last in others:
        left = [part for start, stop in ranges for part in ((start, min(stop, first)), (max(start, last), stop))]
        ranges = [(start, stop) for start, stop in left if start < stop]
    return ranges


class NotHereError(Exception):
    """Bytes that have to arrive first; not an error for the user, but the end of an attempt that does not wait.

    Attributes
    ----------
    parts
        What to wait for.
    """

    def __init__(self, parts: list[Part]) -> None:
        super().__init__("bytes are under way")
        self.parts = parts


class PartTable:
    """The parts of one file that somebody refers to. They do not overlap. A lock of the owner protects it."""

    __slots__ = ("_parts", "_stale", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._parts: list[weakref.ref[Part]] = []
        self._stale = False

    def add(self, part: Part) -> None:
        """Add a part that overlaps no other one."""
        self._prune()
        at = bisect_right(self._starts, part.start)
        self._starts.insert(at, part.start)
        self._parts.insert(at, weakref.ref(part, self._mark_stale))

    def discard(self, part: Part) -> None:
        """Remove a part, if it is there."""
        kept = [(start, ref) for start, ref in zip(self._starts, self._parts, strict=True) if ref() is not part]
        self._starts, self._parts = [start for start, _ in kept], [ref for _, ref in kept]

    def over(self, start: int, stop: int) -> list[Part]:
        """Return the parts that have bytes from ``start`` to ``stop``, ascending."""
        self._prune()
        at = max(0, bisect_right(self._starts, start) - 1)
        found = []
        while at < len(self._starts) and self._starts[at] < stop:
            part = self._parts[at]()
            if part is not None and part.stop > start:
                found.append(part)
            at += 1
        return found

    def _mark_stale(self, _: object) -> None:
        self._stale = True

    def _prune(self) -> None:
        if self._stale:
            self._stale = False
            kept = [(start, ref) for start, ref in zip(self._starts, self._parts, strict=True) if ref() is not None]
            self._starts, self._parts = [start for start, _ in kept], [ref for _, ref in kept]
