"""Appends to segments of this process."""

import os
from pathlib import Path
from uuid import uuid4

from .records import Records, encode_records
from .segments import Descriptor, make_room

__all__ = ["SegmentWriter"]

_NO_FILE = Descriptor(-1)


class SegmentWriter:
    """Appends bytes and their records to a segment, and begins another one when it is full or was removed.

    Not safe for threads. After an error call `close`: what was written in part stays unused.
    """

    def __init__(self, folder: Path, budget: int | None) -> None:
        self._folder, self._budget = folder, budget
        self._path = folder
        self._bytes = self._index = _NO_FILE
        self._at = self._index_at = self._size = 0

    def segment(self) -> str:
        """Return the name of the segment that `append` writes to next."""
        if self._at >= self._size or not self._path.exists():
            self._begin()
        return self._path.stem

    def append(self, key: bytes, start: int, data: memoryview) -> Records:
        """Write as many of the bytes as the segment takes, and return their records."""
        data = data[: self._size - self._at]
        records = encode_records(key, start, data, self._at)
        # The bytes first: if this process is killed in between, they have no record and are not read.
        self._at = _write(self._bytes, data, self._at)
        self._index_at = _write(self._index, memoryview(records.tobytes()), self._index_at)
        return records

    def close(self) -> None:
        """End the segment; the next write begins another one."""
        self._bytes = self._index = _NO_FILE
        self._at = self._index_at = self._size = 0

    def _begin(self) -> None:
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = make_room(self._folder, self._budget)
        path = self._folder / f"{uuid4().hex}.seg"
        self._bytes, self._index = _created(path), _created(path.with_suffix(".idx"))
        self._path, self._size = path, size


def _created(path: Path) -> Descriptor:
    return Descriptor(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _write(file: Descriptor, data: memoryview, position: int) -> int:
    """Write all bytes at a position, and return the position after them."""
    while data:
        count = os.pwrite(file.number, data, position)
        data, position = data[count:], position + count
    return position
