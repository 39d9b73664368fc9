"""Figures of the disk cache, in this process and over earlier runs."""

import json
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..locks import ForkLock

__all__ = ["USE_LOGS", "DiskCacheFigures", "UseLog", "logged_use"]

USE_LOGS = ("use.jsonl", "use-before.jsonl")
"""Files that hold what processes counted, and the one before it."""

_LARGEST_LOG = 1_000_000
"""Bytes after which another log is begun: the counts of some 10 000 processes."""


@dataclass(frozen=True, slots=True)
class DiskCacheFigures:
    """What the disk cache holds, and what this process did with it.

    Attributes
    ----------
    bytes, files, segments
        Bytes on the disk, remote files of which it holds some, and segments, of all processes.
    budget
        Most bytes on the disk, give or take one segment for each process.
    hits, misses, hit_bytes, miss_bytes
        Calls of `DiskCache.read` that returned the bytes or None, and how many bytes they asked for.
    written
        Bytes that were added.
    damaged
        Records whose CRC was wrong; their bytes are missing until they are written again.
    """

    bytes: int
    files: int
    segments: int
    budget: int
    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0
    written: int = 0
    damaged: int = 0


class UseLog:
    """Counts what this process does, and appends it to a file as lines of JSON, so that it can be shown over runs.

    Parameters
    ----------
    folder
        Folder of the segments.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._before = (folder / name for name in USE_LOGS)
        self._lock = ForkLock()
        self.reset()

    def reset(self) -> None:
        """Begin at zero, as a forked process does."""
        self._counts: Counter[str] = Counter()
        self._saved: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to some of the figures."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def total(self) -> Counter[str]:
        """Return what this process has counted."""
        with self._lock:
            return self._counts.copy()

    def save(self) -> None:
        """Append what was counted since the last call; if that fails, only the figures of earlier runs are incomplete."""
        with self._lock:
            new = self._counts - self._saved
            self._saved = self._counts.copy()
        if not new:
            return
        line = json.dumps({"time": int(time.time()), **new}) + "\n"
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > _LARGEST_LOG:
                self._path.replace(self._before)
            number = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(number, "ab", buffering=0) as file:  # noqa: PTH123 - of a descriptor
                file.write(line.encode())  # one call, so that lines of processes do not mix


def logged_use(folder: Path) -> Counter[str]:
    """Return the sums of what processes have logged."""
    total: Counter[str] = Counter()
    for name in USE_LOGS:
        with suppress(FileNotFoundError):
            for line in (folder / name).read_text(errors="replace").splitlines():
                with suppress(ValueError, TypeError):  # a line that a full disk cut off
                    total.update(json.loads(line))
    del total["time"]
    return total
