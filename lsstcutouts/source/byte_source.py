"""Reads bytes of one file, local or remote, at any offset and from any number of threads."""

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
from .runs import runs_of

if TYPE_CHECKING:
    from lsst.resources import ResourcePath

__all__ = ["ByteSource", "LocalSource", "RemoteSource", "Scratch", "SourceFile", "Streams", "open_source"]

_LARGEST_READ = 8 << 20
"""Largest size in bytes of one read of neighbouring tiles, so that one call never holds a whole file in memory."""

_WEB = ("http://", "https://", "dav://", "davs://", "s3://")

_RETRY = Retry()


class ByteSource(Protocol):
    """Bytes of one file; safe for concurrent reads from several threads."""

    uri: str
    gap: int
    """Reading this many unneeded bytes costs less than a second request."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def stamp(self) -> tuple[int, ...]:
        """What tells the content from another one: bytes, and of a local file its inode and time of modification."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``; `~lsstcutouts.errors.ReadError` if that is impossible."""
        ...

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        ...


class LocalSource:
    """A local file, read with ``pread``: without a shared file position, a lock or the GIL."""

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
            # Without O_NONBLOCK opening a named pipe would wait for a writer forever; for files it has no effect.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._finalizer = weakref.finalize(self, os.close, self._fd)
            status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ReadError(f"{self.uri} is {kind}; give the path of a FITS file")
        self.stamp: tuple[int, ...] = status.st_size, status.st_ino, status.st_mtime_ns
        return status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        try:
            return self._read(offset, length)
        except TransientReadError:
            # A network file system did not answer. Retry only now, since `Retry.call` would slow down every read.
            return self._retry.call(lambda: self._read(offset, length), self.uri)

    def _read(self, offset: int, length: int) -> bytes:
        with translate_errors(self.uri):
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more
        return check_length(data, offset, length, self.uri)

    @property
    def descriptor(self) -> int:
        """Of the open file; -1 after `close`."""
        return self._fd

    def read_into(self, offset: int, to: memoryview) -> None:
        """Fill ``to`` with the bytes from ``offset``."""
        with translate_errors(self.uri):
            count = os.preadv(self._fd, [to], offset)
        if count < len(to):  # end of file or a transient failure: `read` finds out which
            to[count:] = self.read(offset + count, len(to) - count)

    def close(self) -> None:
        """Close the file descriptor; later reads raise an error."""
        self._fd = -1
        if self._finalizer is not None:
            self._finalizer()


class SourceFile(io.RawIOBase):
    """A seekable file object over a `ByteSource`, for readers that need one."""

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
        """Move to ``offset`` and return the new position in bytes."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Read bytes into ``buffer`` up to the end of the file and return their number."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._source.size - self._at))
        if length:
            view[:length] = self._source.read(self._at, length)
        self._at += length
        return length


def open_source(
    uri: "str | os.PathLike[str] | ResourcePath",
    *,
    size: int = -1,
    dataset_id: str = "",
    retry: Retry = _RETRY,
    others: Sequence[str] = (),
) -> ByteSource:
    """Open a path, a ``file://`` URI or any URI that ``lsst.resources`` supports.

    Parameters
    ----------
    uri
        Path or URI of the file.
    size
        Bytes of the file as the repository recorded it, -1 if not known. A file on a web server is then not asked for it.
    dataset_id
        UUID of the dataset, whose content never changes: bytes from a web server are kept in the disk cache.
    retry
        Number and duration of retries of transient failures, of opening and of every read; not of files on web servers,
        which are retried as long as `TimeLimits` says.
    others
        URIs of other files. If the host refuses this file, a few of them show whether it refuses every file.

    Raises
    ------
    MissingFileError
        If the file does not exist.
    AccessDeniedError, AuthenticationError
        If this user may not read this file, or no file with these credentials.
    ReadTimeoutError, TransientReadError
        If there is no valid answer after all retries.
    ReadError
        If it cannot be opened for another reason, such as a directory or a server without byte ranges.
    DependencyError
        If the package for this kind of URI is not installed.
    """
    if isinstance(uri, os.PathLike) or (isinstance(uri, str) and "://" not in uri):
        return LocalSource(os.fspath(uri), str(uri), retry)
    text = str(uri)
    if text.startswith(_WEB):
        return HttpSource(text, size, dataset_id, others)
    with translate_errors(without_query(text)):
        path = _resource(uri)
    return LocalSource(path.ospath, str(path), retry) if path.isLocal else RemoteSource(path, retry)


def _resource(uri: "str | ResourcePath") -> "ResourcePath":
    from lsst.resources import ResourcePath

    try:
        return ResourcePath(uri, forceDirectory=False)
    except (NotImplementedError, ValueError) as error:
        raise ReadError(
            f"{without_query(str(uri))} cannot be read: this kind of URI is not supported: {error}; use a path or a file,"
            " http(s), s3 or gs URI"
        ) from error


class Scratch:
    """Memory of the calling thread for compressed bytes; the next one that the thread makes overwrites it.

    Used again and again, since new memory of this size costs as much as reading it.
    """

    _kept = threading.local()

    def __init__(self) -> None:
        self._array: NDArray[np.uint8] = getattr(self._kept, "array", np.empty(0, np.uint8))
        self._used = 0

    def take(self, length: int) -> NDArray[np.uint8]:
        """Return memory that holds anything, ``(length,)`` uint8."""
        if self._used + length > len(self._array):
            self._array, self._used = np.empty(max(length, 2 * self._used, 1 << 16), np.uint8), 0
            if len(self._array) <= _LARGEST_READ:
                self._kept.array = self._array
        self._used += length
        return self._array[self._used - length : self._used]


class Streams:
    """Reads several extents of a file into memory, neighbouring extents (a run) with one read.

    Parameters
    ----------
    source
        The file.
    offsets, sizes
        ``(n,)`` int64 extents in bytes, in any order.
    padding
        Bytes that are appended in memory to every run.
    scratch
        The memory, by default all that the calling thread has.

    Attributes
    ----------
    starts, lengths
        ``(r,)`` extents of the runs in the file, bytes.
    """

    def __init__(
        self,
        source: ByteSource,
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        padding: bytes = b"",
        scratch: Scratch | None = None,
    ) -> None:
        starts, stops, run = runs_of(offsets, sizes, source.gap, _LARGEST_READ)
        lengths = stops - starts
        spaces = lengths + len(padding)
        first = spaces.cumsum() - spaces
        memory = (scratch or Scratch()).take(int(spaces.sum()))
        self.source, self.starts, self.lengths, self.padding = source, starts, lengths, padding
        self._first = first
        self._buffer, self._address = memoryview(memory), int(memory.__array_interface__["data"][0])
        self._at, self._sizes = offsets - (starts - first)[run], sizes

    def read(self) -> "Streams":
        """Read all of them."""
        for run in range(len(self.starts)):
            self.read_run(run)
        return self

    def read_run(self, run: int) -> None:
        """Read one run of neighbouring extents."""
        start, length, at = int(self.starts[run]), int(self.lengths[run]), int(self._first[run])
        if isinstance(self.source, LocalSource):
            self.source.read_into(start, self._buffer[at : at + length])
        else:
            self._buffer[at : at + length] = self.source.read(start, length)
        self._buffer[at + length : at + length + len(self.padding)] = self.padding

    @property
    def runs(self) -> NDArray[np.uint64]:
        """Memory address of each run of neighbouring extents, ``(r,)``."""
        addresses: NDArray[np.uint64] = (self._first + self._address).astype(np.uint64)
        return addresses

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """Memory address of the first byte of each extent, ``(n,)``."""
        addresses: NDArray[np.uint64] = (self._at + self._address).astype(np.uint64)
        return addresses

    def views(self) -> list[memoryview]:
        """Return the bytes of each extent."""
        return [self.view(extent) for extent in range(len(self._at))]

    def view(self, extent: int) -> memoryview:
        """Return the bytes of one extent."""
        at = int(self._at[extent])
        return self._buffer[at : at + int(self._sizes[extent])]
