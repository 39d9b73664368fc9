"""The segments in a folder: which there are, what is new in them, their bytes, and removing the oldest."""

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from .records import RECORD, Records, decode_records

__all__ = [
    "Descriptor",
    "Segment",
    "SegmentFolder",
    "budget_bytes",
    "list_segments",
    "make_room",
    "remove_segment",
    "segment_bytes",
]

LARGEST_BUDGET = 20_000_000_000
"""Bytes of the cache if no budget is given and the disk is large: its index takes 15 MB of memory in each process."""

LARGEST_SEGMENT = 64_000_000
"""Bytes of a segment: some 300 segments for the largest budget, and little is lost with the oldest one."""

_SMALLEST_SEGMENT = 1_000_000

MOST_SEGMENTS = 1000
"""Segments in a folder: many processes that write little must not make listing it slow (2 ms for 300 segments)."""

_OPEN_FILES = 32
"""Segments that a process keeps open for reading; opening one takes 5 microseconds, on network file systems more."""


class Descriptor:
    """A file descriptor that is closed when the last user drops it, so never while another thread reads from it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        with suppress(OSError):  # network file systems report failed writes only now; the CRC finds them
            os.close(self.number)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as the folder lists it."""

    name: str
    nbytes: int
    """Of both files."""
    time: int
    """Of the last write, ns."""


@dataclass(slots=True)
class _Known:
    number: int
    read: int
    """Bytes of the index file that need not be read again."""


class SegmentFolder:
    """Reads the segments of a folder, which other processes add to and remove from.

    `scan`, `adopt` and `new_records` need a lock of the caller's; `read` may be called by any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, _Known] = {}
        self._names: list[str] = []
        # Not a bound method: files would stay open until the garbage collector finds the circle.
        self._descriptor = lru_cache(_OPEN_FILES)(partial(_opened, folder, self._names))

    def scan(self) -> tuple[list[str], list[int]]:
        """Return the names of segments that have grown, and the numbers of those that were removed."""
        grown, found = [], set()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name, _, kind = entry.name.partition(".")
                    if kind == "idx":
                        found.add(name)
                        read = self._known[name].read if name in self._known else 0
                        with suppress(OSError):  # it was removed just now
                            if read + RECORD.itemsize <= entry.stat().st_size:
                                grown.append(name)
        except FileNotFoundError:
            pass  # the whole folder was removed
        except OSError:
            return [], []
        gone = [self._known.pop(name).number for name in self._known.keys() - found]
        if gone:
            self._descriptor.cache_clear()  # open files would keep the disk space of removed segments
        return grown, gone

    def new_records(self, name: str) -> tuple[int, Records]:
        """Return the number of a segment, and its records that were not read before."""
        known = self._numbered(name)
        content = b""
        with suppress(OSError), (self._folder / f"{name}.idx").open("rb") as file:
            file.seek(known.read)
            content = file.read()
        records, read = decode_records(content)
        known.read += read
        return known.number, records

    def adopt(self, name: str) -> int:
        """Return the number of a segment, whose records `scan` shall ignore from now on."""
        known = self._numbered(name)
        known.read = sys.maxsize
        return known.number

    def read(self, segment: int, position: int, length: int) -> bytes:
        """Return bytes of a segment, fewer at its end.

        Raises
        ------
        OSError
            The segment was removed, or cannot be read.
        """
        file = self._descriptor(segment)  # held until the end, or another thread could close it
        return os.pread(file.number, length, position)

    def abandon(self, segment: int) -> None:
        """Ignore a segment that cannot be read."""
        self.adopt(self._names[segment])

    def _numbered(self, name: str) -> _Known:
        if name not in self._known:
            self._known[name] = _Known(len(self._names), 0)
            self._names.append(name)
        return self._known[name]


def _opened(folder: Path, names: list[str], segment: int) -> Descriptor:
    return Descriptor(os.open(folder / f"{names[segment]}.seg", os.O_RDONLY))


def list_segments(folder: Path) -> list[Segment]:
    """Return the segments of a folder, the oldest first."""
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name, _, kind = entry.name.partition(".")
            if kind not in {"seg", "idx"}:
                continue
            with suppress(FileNotFoundError):
                status = entry.stat()
                sizes[name] = sizes.get(name, 0) + status.st_size
                times[name] = max(times.get(name, 0), status.st_mtime_ns)
    return sorted((Segment(name, sizes[name], times[name]) for name in sizes), key=lambda one: one.time)


def remove_segment(folder: Path, name: str) -> None:
    """Remove both files of a segment, if no other process does."""
    for kind in (".idx", ".seg"):  # without its index file nothing of a segment is read
        with suppress(FileNotFoundError):
            (folder / f"{name}{kind}").unlink()


def budget_bytes(folder: Path, budget: int | None, held: int) -> int:
    """Return a budget in bytes: the given one, else 20 GB or a tenth of the disk, whichever is smaller.

    The disk is what is free on it and what the cache holds, so that the budget does not shrink as the cache grows.
    """
    if budget is not None:
        return budget
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return min(LARGEST_BUDGET, (shutil.disk_usage(existing).free + held) // 10)


def segment_bytes(budget: int) -> int:
    """Return the size of a segment for a budget: eight of them, but at least 1 MB and at most 64 MB."""
    return max(_SMALLEST_SEGMENT, min(LARGEST_SEGMENT, budget // 8))


def make_room(folder: Path, budget: int | None) -> int:
    """Remove the oldest segments until the budget has room for another one; return its size in bytes."""
    segments = list_segments(folder)
    held = sum(one.nbytes for one in segments)
    most = budget_bytes(folder, budget, held)
    size = segment_bytes(most)
    for count, one in zip(range(len(segments), 0, -1), segments, strict=True):
        if held + size <= most and count < MOST_SEGMENTS:
            break
        remove_segment(folder, one.name)
        held -= one.nbytes
    return size
