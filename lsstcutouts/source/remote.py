"""Reads remote files: byte ranges over HTTP, WebDAV and S3, and any other URI that ``lsst.resources`` opens.

Its file handle distinguishes an expired URL (403) from a missing file (404) only in the text of a FileNotFoundError, accepts
a whole file instead of the requested range, waits up to 25 minutes for a byte, and reads one range at a time.
"""

import contextlib
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from .disk.disk_cache import key_of
from .read_errors import check_length, translate_errors
from .retry import Retry
from .web.byte_parts import URGENT, NotHereError, Part, Rank
from .web.process import Web, web_of_process

if TYPE_CHECKING:
    from lsst.resources import ResourcePath

    from .web.web_file import WebFile

__all__ = ["HttpSource", "RemoteSource", "WithoutWaiting", "download"]

_RETRY = Retry()

_HEAD, _HEADERS = 32 << 10, 64 << 10
"""Bytes that are asked for when a file is opened: at its start (headers of the image) and at its end (index of the planes), and
where a header in between is read (with the table after it)."""

_GAP = 32 << 10
"""Reading this many unneeded bytes costs less than another request."""


class HttpSource:
    """A file on an HTTP or WebDAV server or in an S3 bucket, read in byte ranges; any number of them at a time.

    Where the size is known, nothing is asked for before it is needed; otherwise its first bytes.

    Parameters
    ----------
    uri
        ``http(s)://``, ``dav(s)://`` or ``s3://``.
    size
        Bytes of the file as the repository recorded it, -1 if not known.
    dataset_id
        UUID of the dataset, whose content never changes: its bytes are kept in the disk cache.
    others
        URIs of other files. If the server refuses this file, they show whether it refuses every file.
    """

    gap = 0

    def __init__(self, uri: str, size: int = -1, dataset_id: str = "", others: Sequence[str] = ()) -> None:
        self._arguments = uri, size, key_of(dataset_id) if dataset_id else b"", others
        self._web, self._file = self._connected()
        self._closed = False
        self.uri = self._file.shown
        if size < 0:
            self.read(0, 1)
            self._arguments = uri, self._file.size, self._arguments[2], others

    def _connected(self) -> "tuple[Web, WebFile]":
        web = web_of_process()
        return web, web.file(*self._arguments)

    @property
    def file(self) -> "WebFile":
        """The file in this process, which may have been forked meanwhile."""
        if self._closed:
            raise ReadError(f"{self.uri} is closed; open it again to read")
        if self._web is not web_of_process():
            self._web, self._file = self._connected()
        return self._file

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.size

    @property
    def stamp(self) -> tuple[int, ...]:
        """The size: the content of a dataset never changes."""
        return (self.size,)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        if length <= 0:
            return b""
        file = self.file
        while (data := file.resident(offset, offset + length)) is None:
            parts = file.want(*self._extents(file, offset, length), URGENT)
            wait([part.future for part in parts])
        return check_length(data, offset, length, self.uri)

    def want(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], rank: Rank) -> list[Part]:
        """Ask for extents ``(n,)``; their bytes stay in memory as long as somebody refers to what is returned."""
        return self.file.want(offsets, sizes, rank)

    def start_opening(self, rank: Rank, *, end: bool) -> list[Part]:
        """Ask for what opening the file needs most often: its start and, with ``end``, its end."""
        size = self.size
        if size <= 2 * _HEAD or not end:
            return self.want(np.array([0]), np.array([min(size, 2 * _HEAD if end else _HEAD)]), rank)
        return self.want(np.array([0, size - _HEAD]), np.array([_HEAD, _HEAD]), rank)

    def close(self) -> None:
        """Close the file; later reads raise an error. Connections stay open for other files."""
        self._closed = True

    @staticmethod
    def _extents(file: "WebFile", offset: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return one extent, longer than it has to be where the size is not known: headers follow."""
        return np.array([offset]), np.array([max(length, _HEAD) if file.size < 0 else length])


class WithoutWaiting:
    """A file whose reads raise `NotHereError` where bytes are not here yet, after asking for them.

    So all headers of many files can be read side by side by one thread: each attempt gets further.

    Parameters
    ----------
    source
        The file.
    rank
        With which bytes are asked for.
    end
        Whether the end of the file is asked for together with its start.
    """

    gap = 0

    def __init__(self, source: HttpSource, rank: Rank, *, end: bool) -> None:
        self._source, self._rank, self._end, self.uri = source, rank, end, source.uri

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._source.size

    @property
    def stamp(self) -> tuple[int, ...]:
        """As of the file itself."""
        return (self.size,)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        if length <= 0:
            return b""
        data = self._source.file.resident(offset, offset + length)
        if data is None and offset == 0:
            raise NotHereError(self._source.start_opening(self._rank, end=self._end))
        if data is None:
            length = min(max(length, _HEADERS), self.size - offset)
            raise NotHereError(self._source.want(np.array([offset]), np.array([length]), self._rank))
        return check_length(data, offset, length, self.uri)

    def close(self) -> None:
        """Do nothing: the file stays open for others."""


def download(uri: str) -> bytes:
    """Return the content of a small file on a web server.

    Raises
    ------
    AuthenticationError
        If the server refuses access, or answers with a web page, such as a login page.
    """
    return web_of_process().download(uri)


class RemoteSource:
    """Any other URI that ``lsst.resources`` reads: one handle, one request at a time, with its time limits and retries."""

    gap = _GAP

    def __init__(self, path: "ResourcePath", retry: Retry = _RETRY) -> None:
        self.uri = str(path)
        self._lock = threading.Lock()
        self._retry = retry
        stack = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, stack.close)
        self._handle: Any
        self.size, self._handle = retry.call(lambda: self._open(path, stack), self.uri)
        self.stamp: tuple[int, ...] = (self.size,)

    def _open(self, path: "ResourcePath", stack: contextlib.ExitStack) -> tuple[int, Any]:
        with translate_errors(self.uri):
            return path.size(), stack.enter_context(path.open("rb"))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        return self._retry.call(lambda: self._read(offset, length), self.uri)

    def _read(self, offset: int, length: int) -> bytes:
        if not self._finalizer.alive:
            raise ReadError(f"{self.uri} is closed; open it again to read")
        with self._lock, translate_errors(self.uri):
            self._handle.seek(offset)
            data: bytes = self._handle.read(length)
            while len(data) < length and (more := self._handle.read(length - len(data))):
                data += more
        return check_length(data, offset, length, self.uri)

    def close(self) -> None:
        """Close the remote handle; later reads raise an error."""
        self._finalizer()
