"""Bytes of one file, from wherever it is: read at an offset, by any number of threads."""

import io
import os
import stat
import threading
import weakref
from collections.abc import Buffer, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError, TransientReadError
from ..errors.secrets import without_query
from .read_errors import check_length, translate_errors
from .remote import HttpSource, RemoteSource
from .retry import Retry

if TYPE_CHECKING:
    from lsst.resources import ResourcePath

__all__ = ["ByteSource", "LocalSource", "RemoteSource", "SourceFile", "Streams", "open_source"]

_LARGEST_READ = 8 << 20
"""Bytes after which a run of neighbouring tiles is split, so that one call never holds a whole file."""

_RETRY = Retry()


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
    _retry: Retry = _RETRY
    _finalizer: "weakref.finalize[[int], Any] | None" = None

    def __init__(self, path: str, uri: str, retry: Retry = _RETRY) -> None:
        self.uri = uri
        self._retry = retry
        self._fd = -1
        self.size = retry.call(lambda: self._open(path), uri)

    def _open(self, path: str) -> int:
        """Open the file and return its size."""
        with translate_errors(self.uri):
            # Without O_NONBLOCK a named pipe would wait for a writer, for ever; to files it makes no difference.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._finalizer = weakref.finalize(self, os.close, self._fd)
            status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ReadError(f"{self.uri} is {kind}, not a FITS file")
        return status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        try:
            return self._read(offset, length)
        except TransientReadError:
            # A network file system that does not answer; tried again only here, off the path of every tile.
            return self._retry.call(lambda: self._read(offset, length), self.uri)

    def _read(self, offset: int, length: int) -> bytes:
        with translate_errors(self.uri):
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more
        return check_length(data, offset, length, self.uri)

    def read_into(self, offset: int, to: memoryview) -> None:
        """Fill ``to`` with the bytes from ``offset``."""
        with translate_errors(self.uri):
            count = os.preadv(self._fd, [to], offset)
        if count < len(to):  # the end of the file, or a passing failure: `read` says which
            to[count:] = self.read(offset + count, len(to) - count)

    def close(self) -> None:
        """Close the file descriptor; reads after this raise."""
        self._fd = -1
        if self._finalizer is not None:
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


def open_source(
    uri: "str | os.PathLike[str] | ResourcePath", *, retry: Retry = _RETRY, others: Sequence[str] = ()
) -> ByteSource:
    """Open a path, a ``file://`` URI or any URI that ``lsst.resources`` knows.

    Parameters
    ----------
    uri
        Where the file is.
    retry
        How often and how long passing failures are tried again, now and in every read.
    others
        URIs of other files. Where the host refuses this one, a few of them tell whether it refuses every file.

    Raises
    ------
    MissingFileError
        There is no such file.
    AccessDeniedError, AuthenticationError
        It may not be read: this file alone, or none with these credentials.
    ReadTimeoutError, TransientReadError
        There was no answer, or none that helps, also when it was tried again.
    ReadError
        It cannot be opened for another reason: a directory, a server that knows no byte ranges.
    DependencyError
        The package for this kind of URI is not installed.
    """
    if isinstance(uri, os.PathLike) or (isinstance(uri, str) and "://" not in uri):
        return LocalSource(os.fspath(uri), str(uri), retry)
    with translate_errors(without_query(str(uri))):
        path = _resource(uri)
    if path.isLocal:
        return LocalSource(path.ospath, str(path), retry)
    web = path.scheme in {"http", "https", "s3"}
    return HttpSource(path, retry, others=others) if web else RemoteSource(path, retry)


def _resource(uri: "str | ResourcePath") -> "ResourcePath":
    from lsst.resources import ResourcePath

    try:
        return ResourcePath(uri, forceDirectory=False)
    except (NotImplementedError, ValueError) as error:
        raise ReadError(f"{without_query(str(uri))} is no URI that can be read: {error}") from error


class Streams:
    """The bytes of several extents in memory, those that lie close together read at once.

    They lie in memory of the calling thread, and are overwritten by its next ones.

    Parameters
    ----------
    source
        The file.
    offsets, sizes
        ``(n,)`` int64 extents in bytes, in any order.
    padding
        What follows the last byte of every read in memory.
    """

    def __init__(
        self, source: ByteSource, offsets: NDArray[np.int64], sizes: NDArray[np.int64], padding: bytes = b""
    ) -> None:
        runs = _runs(offsets.tolist(), sizes.tolist(), source.gap)
        self._buffer, self._address = _thread_buffer.get(sum(stop - start + len(padding) for _, start, stop in runs))
        self._at, self._sizes = np.empty(len(offsets), np.int64), sizes
        at = 0
        for members, start, stop in runs:
            end = at + stop - start
            _read_into(source, start, self._buffer[at:end])
            self._buffer[end : end + len(padding)] = padding
            self._at[members] = offsets[members] - (start - at)
            at = end + len(padding)

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """``(n,)`` where each extent begins in memory."""
        return (self._at + self._address).astype(np.uint64)

    def views(self) -> list[memoryview]:
        """Return the bytes of each extent."""
        return [self._buffer[at : at + size] for at, size in zip(self._at.tolist(), self._sizes.tolist(), strict=True)]


class _ThreadBuffer(threading.local):
    """Memory of one thread for compressed bytes: fresh memory of this size costs as much as reading it."""

    def __init__(self) -> None:
        self._array = np.empty(0, np.uint8)

    def get(self, length: int) -> tuple[memoryview, int]:
        """Return memory of a length and its address; the next call overwrites it."""
        array = self._array
        if length > len(array):
            array = np.empty(length + length // 2, np.uint8)
            if length <= _LARGEST_READ:
                self._array = array
        return memoryview(array)[:length], int(array.__array_interface__["data"][0])


_thread_buffer = _ThreadBuffer()


def _read_into(source: ByteSource, offset: int, to: memoryview) -> None:
    if isinstance(source, LocalSource):
        source.read_into(offset, to)
    else:
        to[:] = source.read(offset, len(to))


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
