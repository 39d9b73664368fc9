"""Bytes of one file, from wherever it is: read at an offset, by any number of threads."""

import contextlib
import io
import os
import threading
import weakref
from collections.abc import Buffer, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lsstcutouts.errors import CorruptFileError, MissingFileError, ReadError, TransientReadError

if TYPE_CHECKING:
    from lsst.resources import ResourcePath

__all__ = ["ByteSource", "LocalSource", "RemoteSource", "SourceFile", "open_source", "read_extents"]

_LARGEST_READ = 8 << 20
"""Bytes after which a run of neighbouring tiles is split, so that one call never holds a whole file."""


class ByteSource(Protocol):
    """One file as bytes; safe for many threads at once."""

    uri: str
    size: int
    gap: int
    """Unwanted bytes that are cheaper to read than a second request."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``, or raise a `~lsstcutouts.errors.ReadError`."""
        ...

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        ...


class LocalSource:
    """A file of this machine, read with ``pread``: no shared position, no lock, no interpreter lock held."""

    gap = 16 << 10

    def __init__(self, path: str, uri: str) -> None:
        self.uri = uri
        with _translated(uri):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._finalizer = weakref.finalize(self, os.close, self._fd)
            self.size = os.fstat(self._fd).st_size
        if Path(path).is_dir():
            self.close()
            raise ReadError(f"{uri} is a directory, not a FITS file")

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        with _translated(self.uri):
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more
        return _complete(data, offset, length, self.uri)

    def close(self) -> None:
        """Close the file descriptor; reads after this raise."""
        self._fd = -1
        self._finalizer()


class RemoteSource:
    """Any URI that ``lsst.resources`` reads: one handle, one request at a time."""

    gap = 512 << 10

    def __init__(self, path: "ResourcePath") -> None:
        self.uri = str(path)
        self._lock = threading.Lock()
        stack = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, stack.close)
        with _translated(self.uri):
            self.size = path.size()
            self._handle: Any = stack.enter_context(path.open("rb"))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        with self._lock, _translated(self.uri):
            self._handle.seek(offset)
            data = self._handle.read(length)
            while len(data) < length and (more := self._handle.read(length - len(data))):
                data += more
        return _complete(data, offset, length, self.uri)

    def close(self) -> None:
        """Close the remote handle; reads after this raise."""
        self._finalizer()


class SourceFile(io.RawIOBase):
    """A source as a seekable file object, for readers that want one."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to ``offset`` and return the new position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill ``buffer`` as far as the file goes and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._source.size - self._at))
        if length:
            view[:length] = self._source.read(self._at, length)
        self._at += length
        return length


def open_source(uri: "str | os.PathLike[str] | ResourcePath") -> ByteSource:
    """Open a path, a ``file://`` URI or any URI that ``lsst.resources`` knows.

    Raises
    ------
    MissingFileError
        There is no such file.
    ReadError
        It cannot be opened for another reason.
    """
    if isinstance(uri, os.PathLike) or (isinstance(uri, str) and "://" not in uri):
        return LocalSource(os.fspath(uri), str(uri))
    from lsst.resources import ResourcePath

    path = ResourcePath(uri, forceDirectory=False)
    return LocalSource(path.ospath, str(path)) if path.isLocal else RemoteSource(path)


def read_extents(
    source: ByteSource, offsets: Sequence[int], sizes: Sequence[int], padding: bytes = b""
) -> list[memoryview]:
    """Return the bytes of several extents, those that lie close together with one read.

    Parameters
    ----------
    source
        The file.
    offsets, sizes
        Extents in bytes, in any order.
    padding
        What follows the last byte of every read in memory.
    """
    views: list[memoryview] = [memoryview(b"")] * len(offsets)
    for members, start, stop in _runs(offsets, sizes, source.gap):
        data = source.read(start, stop - start)
        view = memoryview(data + padding if padding else data)
        for i in members:
            at = offsets[i] - start
            views[i] = view[at : at + sizes[i]]
    return views


def _runs(offsets: Sequence[int], sizes: Sequence[int], gap: int) -> list[tuple[list[int], int, int]]:
    """Group extents into runs of bytes: members, first byte, byte after the last."""
    runs: list[tuple[list[int], int, int]] = []
    members: list[int] = []
    start = stop = 0
    for i in sorted(range(len(offsets)), key=offsets.__getitem__):
        offset, end = offsets[i], offsets[i] + sizes[i]
        if members and (offset - stop > gap or end - start > _LARGEST_READ):
            runs.append((members, start, stop))
            members = []
        if not members:
            start, stop = offset, end
        members.append(i)
        stop = max(stop, end)
    if members:
        runs.append((members, start, stop))
    return runs


def _complete(data: bytes, offset: int, length: int, uri: str) -> bytes:
    """Return ``data``, or raise if the file ended before ``length`` bytes."""
    if len(data) != length:
        raise CorruptFileError(f"{uri} ends at byte {offset + len(data)}, inside what should reach {offset + length}")
    return data


class _translated:  # noqa: N801 - reads as a clause of `with`; a class, since a generator costs 1 microsecond a read
    """Turn operating-system errors of the block into this package's, with the URI."""

    __slots__ = ("_uri",)

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, ReadError):
            return
        if isinstance(error, FileNotFoundError):
            raise MissingFileError(f"no file at {self._uri}: {error}") from error
        if isinstance(error, TimeoutError | ConnectionError):
            raise TransientReadError(f"cannot read {self._uri} now: {error}") from error
        raise ReadError(f"cannot read {self._uri}: {error}") from error
