"""Which byte ranges the processes of a machine are fetching, so that each of them is fetched by one process only.

Each process writes its claims to a file of its own, which it keeps locked, and reads those of the others. Nothing depends on
it but the number of bytes that are fetched twice: where files cannot be locked or written, nobody waits for anybody. Processes
of other machines are ignored, since a network file system shows them what they write only after seconds.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from uuid import uuid4

from .segments import Descriptor

__all__ = ["CLAIMS", "Claims"]

CLAIMS = "claims"
"""Folder of the files."""

_CLAIM = Struct("<16sqqdd")
"""Key of the remote file, first byte, byte after the last, when it was claimed and when that ended (0: not yet)."""

_MOST = 256
"""Claims of one process: those of all its connections, and the last that ended."""

_NEW_SECONDS = 2.0
"""For so long others are told that a claim has ended, since they look for new data on the disk more seldom."""

_LIST_SECONDS = 1.0
"""After this time the files are listed again, to find those of processes that have ended."""

type Range = tuple[int, int]


class Claims:
    """Byte ranges of remote files that processes of this machine are fetching; for one thread.

    Parameters
    ----------
    folder
        Folder of the segments.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CLAIMS
        self._node = socket.gethostname().replace("/", "_")
        self._name = f"{self._node}.{uuid4().hex}"
        self._own: Descriptor | None = None
        self._usable = True
        self._slots = [_CLAIM.pack(b"", 0, 0, 0.0, 0.0)] * _MOST
        self._free = list(range(_MOST))
        self._others: dict[str, Descriptor] = {}
        self._listed, self._changed = 0.0, -1

    def begin(self, key: bytes, start: int, stop: int) -> int | None:
        """Claim a range of bytes, and return the number of the claim; None, of which the others take no notice, if that fails."""
        if self._own is None and self._usable:
            self._create()
        if self._own is None or not self._free:
            return None
        number = self._free.pop(0)
        self._write(number, _CLAIM.pack(key, start, stop, time.time(), 0.0))
        return number

    def change(self, number: int | None, start: int, stop: int) -> None:
        """Let a claim be of another range; it counts from when it was begun."""
        if number is not None:
            key, _, _, begun, _ = _CLAIM.unpack(self._slots[number])
            self._write(number, _CLAIM.pack(key, start, stop, begun, 0.0))

    def end(self, number: int | None) -> None:
        """End a claim, because its bytes are on the disk, or because they did not come."""
        if number is not None:
            key, start, stop, begun, _ = _CLAIM.unpack(self._slots[number])
            self._write(number, _CLAIM.pack(key, start, stop, begun, time.time()))
            self._free.append(number)  # the last to be used again: others shall see that it has ended

    def of_others(self, number: int | None) -> tuple[list[Range], bool]:
        """Return which parts of a claim other processes have claimed before, and whether one of them has just ended."""
        ranges: list[Range] = []
        new = False
        if number is not None:
            key, start, stop, begun, _ = _CLAIM.unpack(self._slots[number])
            for name, first, last, since, ended in self._overlapping(key, start, stop):
                if ended:
                    new = new or ended > time.time() - _NEW_SECONDS
                elif (since, name) < (begun, self._name):
                    ranges.append((max(start, first), min(stop, last)))
        return sorted(ranges), new

    def _overlapping(self, key: bytes, start: int, stop: int) -> Iterator[tuple[str, int, int, float, float]]:
        self._list()
        for name, file in self._others.items():
            with suppress(OSError):
                content = os.pread(file.number, _CLAIM.size * _MOST, 0)
                at = content.find(key)
                while at >= 0:
                    if at % _CLAIM.size == 0 and at + _CLAIM.size <= len(content):
                        _, first, last, since, ended = _CLAIM.unpack_from(content, at)
                        if first < stop and last > start:
                            yield name, first, last, since, ended
                    at = content.find(key, at + 1)

    def _create(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f".{self._name}"
            own = Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            fcntl.flock(own.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(self._folder / self._name)  # others see it only when it is locked
        except OSError:
            self._usable = False
        else:
            self._own = own

    def _write(self, number: int, claim: bytes) -> None:
        self._slots[number] = claim
        if self._own is not None:
            with suppress(OSError):
                os.pwrite(self._own.number, claim, number * _CLAIM.size)

    def _list(self) -> None:
        """Find the files of other processes, and remove those of processes that have ended."""
        with suppress(OSError):
            changed, now = self._folder.stat().st_mtime_ns, time.monotonic()
            if changed == self._changed and now - self._listed < _LIST_SECONDS:
                return
            self._changed, self._listed = changed, now
            found = {path.name for path in self._folder.iterdir() if path.stem == self._node}
            for name in self._others.keys() - found:
                del self._others[name]
            for name in found - {self._name}:
                with suppress(OSError):
                    file = self._others.get(name) or Descriptor(os.open(self._folder / name, os.O_RDWR))
                    self._others[name] = file
                    fcntl.flock(file.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (self._folder / name).unlink()
                    del self._others[name]
