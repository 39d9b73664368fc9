"""The disk cache of this process."""

import errno
import hashlib
import logging
import math
import os
import time
import uuid
import weakref
from collections.abc import Buffer
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from ..locks import ForkLock
from .cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE, cache_budget, cache_folder
from .claims import Claims
from .figures import DiskCacheFigures, UseLog
from .record_table import RecordPart, RecordTable
from .records import FORMAT
from .segment_writer import SegmentWriter
from .segments import SegmentFolder, budget_bytes, list_segments

__all__ = ["DiskCache", "key_of"]

_log = logging.getLogger(__name__)

_SCAN_SECONDS = 0.2
"""Least time between two looks for what other processes have written; one takes 2 ms with 300 segments."""

_IDLE_SCAN_SECONDS = 5.0
"""A process that misses nothing still looks this often: while it has removed segments open, the disk keeps their space."""

_SAVE_SECONDS = 300.0
"""Time between two additions to the log of use: a process that is killed loses this much of its figures."""


def key_of(dataset_id: str) -> bytes:
    """Return the 16 bytes that stand for a dataset: those of its UUID, or of a hash of any other text."""
    try:
        return uuid.UUID(dataset_id).bytes
    except ValueError:
        return hashlib.sha256(dataset_id.encode()).digest()[:16]


class DiskCache:
    """Byte ranges of remote files on the disk, shared with other processes; safe for threads.

    It holds files whose content never changes, by a key of 16 bytes, and stores neither names nor addresses. A forked
    process begins with an empty index and segments of its own.

    Parameters
    ----------
    folder
        Folder of the cache; a folder with the version of the format is made in it.
    budget
        Most bytes on the disk, give or take one segment for each process; None means 20 GB or a tenth of the disk,
        whichever is smaller. The oldest segments are removed to keep it.

    Attributes
    ----------
    claims
        Which bytes the processes of this machine are fetching now.
    """

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        self.folder = folder / FORMAT
        self._budget = budget
        self._use = UseLog(self.folder)
        self._scan_lock, self._write_lock = ForkLock(), ForkLock()
        self._begin()
        weakref.finalize(self, self._use.save)
        _LIVE.add(self)

    def _begin(self) -> None:
        """Set the state of a process that has not used the cache; see `_begin_all`."""
        self._use.reset()
        self.claims = Claims(self.folder)
        self._table = RecordTable()
        self._segments = SegmentFolder(self.folder)
        self._writer = SegmentWriter(self.folder, self._budget)
        self._scanned = self._saved = -math.inf
        self._pause = _SCAN_SECONDS
        self._writable = True

    @classmethod
    def of_process(cls) -> "DiskCache | None":
        """Return the cache that the environment asks for, or None if it is off or its folder cannot be made.

        Raises
        ------
        ConfigurationError
            ``LSSTCUTOUTS_CACHE_BYTES`` is not a number of bytes.
        """
        with _OPEN_LOCK:
            return _opened(*map(os.environ.get, (FOLDER_VARIABLE, BUDGET_VARIABLE, "XDG_CACHE_HOME", "HOME")))

    def read(self, key: bytes, start: int, length: int) -> bytes | None:
        """Return ``length`` bytes of a file from ``start``, or None if any of them is missing.

        Only this method counts hits and misses: call it before `missing`.
        """
        if time.monotonic() - self._scanned > _IDLE_SCAN_SECONDS:
            self._scan()
        data = self._read(key, start, start + length)
        if data is None:
            self._scan()
            data = self._read(key, start, start + length)
        if data is None:
            self._use.add(misses=1, miss_bytes=length)
        else:
            self._use.add(hits=1, hit_bytes=length)
        return data

    def missing(self, key: bytes, start: int, stop: int, *, refresh: bool = False) -> list[tuple[int, int]]:
        """Return the ranges ``(start, stop)`` of a file's bytes that are missing, in order.

        Another process may remove the others before they are read: `read` then returns None.

        Parameters
        ----------
        key
            The file.
        start, stop
            Range of bytes.
        refresh
            Look for what other processes have written and removed, even if that was done less than 0.2 s ago.
        """
        gaps = self._table.plan(key, start, stop)[1]
        if gaps or refresh:
            self._scan(refresh=refresh)
            gaps = self._table.plan(key, start, stop)[1]
        return gaps

    def write(self, key: bytes, start: int, data: Buffer) -> None:
        """Add bytes of a file from ``start``; those that are here already are skipped.

        If the disk refuses them, a warning is logged and nothing is added any more in this process.

        Raises
        ------
        ValueError
            The key does not have 16 bytes, or the bytes are not within the first TiB of a file.
        """
        view = memoryview(data).cast("B")
        with self._write_lock:
            try:
                for first, last in self.missing(key, start, start + len(view)) if self._writable else ():
                    self._append(key, first, view[first - start : last - start])
            except OSError as error:
                self._writer.close()
                # The folder or segment was removed on another machine: the next write makes them again.
                if error.errno not in {errno.ENOENT, errno.ESTALE}:
                    self._writable = False
                    _log.warning(
                        "the disk cache in %s takes no more data in this process: %s; free disk space, or set %s to "
                        "another folder ('off' disables the cache) or %s to less. What it holds is still read.",
                        self.folder,
                        error,
                        FOLDER_VARIABLE,
                        BUDGET_VARIABLE,
                    )

    def figures(self) -> DiskCacheFigures:
        """Return what the cache holds now, and what this process did with it."""
        self._scan(refresh=True)
        segments = list_segments(self.folder)
        held = sum(one.nbytes for one in segments)
        budget = budget_bytes(self.folder, self._budget, held)
        return DiskCacheFigures(held, self._table.files(), len(segments), budget, **self._use.total())

    def close(self) -> None:
        """End the segment of this process and log its figures; the cache can still be used."""
        with self._write_lock:
            self._writer.close()
        self._use.save()

    def _scan(self, *, refresh: bool = False) -> None:
        """Learn which records other processes have added, and which segments were removed."""
        with self._scan_lock:
            now = time.monotonic()
            if now - self._scanned < self._pause and not refresh:
                return
            grown, gone = self._segments.scan()
            if gone:
                self._table.drop(gone)
            if grown:
                self._table.add([self._table.rows(*self._segments.new_records(name)) for name in grown])
            self._scanned = time.monotonic()
            self._pause = max(_SCAN_SECONDS, 10 * (self._scanned - now))  # where listing is slow, it takes 10 % at most
        if now - self._saved > _SAVE_SECONDS:
            self._saved = now
            self._use.save()

    def _read(self, key: bytes, start: int, stop: int) -> bytes | None:
        while True:
            parts, gaps = self._table.plan(key, start, stop)
            if gaps:
                return None
            pieces = [piece for part in parts if (piece := self._piece(part)) is not None]
            if len(pieces) == len(parts):
                return b"".join(pieces)

    def _piece(self, part: RecordPart) -> bytes | None:
        """Return the bytes of a part, or None if it cannot be read; then its record is dropped."""
        try:
            data = self._segments.read(part.segment, part.position, part.length)
        except OSError:
            with self._scan_lock:
                self._segments.abandon(part.segment)
            self._table.drop([part.segment])
            return None
        if crc32(data) != part.crc:
            self._table.drop([part.segment], part.position)
            self._use.add(damaged=1)
            return None
        return data[part.first : part.last]

    def _append(self, key: bytes, start: int, data: memoryview) -> None:
        while data:
            name = self._writer.segment()
            with self._scan_lock:
                number = self._segments.adopt(name)
            records = self._writer.append(key, start, data)
            self._table.add([self._table.rows(number, records)])
            count = int(records["length"].sum())
            self._use.add(written=count)
            start, data = start + count, data[count:]


_OPEN_LOCK = ForkLock()
_LIVE: "weakref.WeakSet[DiskCache]" = weakref.WeakSet()


@lru_cache(maxsize=1)
def _opened(*_: str | None) -> DiskCache | None:
    """Return the cache for some values of the environment variables, and log why there is none."""
    budget = cache_budget()
    try:
        folder = cache_folder()
        if folder is None or budget == 0:
            return None
        inner = folder / FORMAT
        inner.mkdir(mode=0o700, parents=True, exist_ok=True)
        if inner.stat().st_mode & 0o077:
            inner.chmod(0o700)  # fails if it is another user's, who could write anything into it
    except (OSError, RuntimeError) as error:
        _log.warning(
            "remote files are not cached on the disk, since the folder of the cache cannot be made: %s; set %s to a "
            "folder on a local disk, or to 'off'",
            error,
            FOLDER_VARIABLE,
        )
        return None
    return DiskCache(folder, budget)


def _begin_all() -> None:
    """Begin again in a forked process: two processes must not append to one segment."""
    for cache in list(_LIVE):
        cache._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all)
