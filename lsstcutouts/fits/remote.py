"""Remote files: ranges of bytes over HTTP, and any other URI that ``lsst.resources`` opens.

Files of ``http(s)://`` and ``s3://`` are read with ranged GET requests of our own, over the sessions that
``lsst.resources`` configures (certificates, tokens). Its file handle would tell an expired URL (403) from a missing
file (404) only in the text of a FileNotFoundError, take a whole file for the range that was asked for, wait 25
minutes for a byte, and try six times on its own.
"""

import contextlib
import os
import threading
import time
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from lsstcutouts.errors import CorruptFileError, ReadError, ReadTimeoutError, TransientReadError
from lsstcutouts.retry import Retry

from .translate import complete, no_ranges, translated

if TYPE_CHECKING:
    from lsst.resources import ResourcePath
    from requests import Response, Session

__all__ = ["HttpSource", "Limits", "RemoteSource", "without_query"]

_RETRY = Retry()

_GAP = 512 << 10
"""Bytes that take a fast connection about as long as the round trip of one more request."""

_CHUNK = 1 << 20
_SIGNATURES = {"Signature", "X-Amz-Signature", "X-Goog-Signature"}
_LIFE, _RENEWAL = 3600, 1800
"""Seconds that a signed S3 URL is valid, and after which it is made anew. Signing needs no request."""

_CONNECTIONS = 16
"""Connections kept open to one server: twice the threads of the default pool."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one request may take: to connect, without a byte, and from beginning to end."""

    connect: float = 10.0
    silence: float = 30.0
    whole: float = 60.0

    @classmethod
    def from_environment(cls) -> "Limits":
        """Return the defaults, or what ``LSST_HTTP_TIMEOUT_CONNECT`` and ``LSST_HTTP_TIMEOUT_READ`` say instead."""
        connect, silence = (_seconds(f"LSST_HTTP_TIMEOUT_{name}") for name in ("CONNECT", "READ"))
        known = cls(connect or cls().connect, silence or cls().silence)
        return cls(known.connect, known.silence, max(cls().whole, known.connect + known.silence))


class HttpSource:
    """A file of an HTTP server or an S3 bucket, read with ranges; any number of requests at a time.

    Parameters
    ----------
    path
        Its URI: ``http``, ``https`` or ``s3``.
    retry
        How often and how long passing failures are tried again.
    limits
        Seconds for one request; by default those of the environment.
    """

    gap = _GAP

    def __init__(self, path: "ResourcePath", retry: Retry = _RETRY, limits: Limits | None = None) -> None:
        self.uri = without_query(str(path))
        self._path: ResourcePath | None = path
        self._retry, self._limits = retry, limits or Limits.from_environment()
        self._url, self._signed_until = "", 0.0
        self.size = retry.call(self._find_size, self.uri)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        if length <= 0:
            return b""
        return self._retry.call(lambda: self._range(offset, length), self.uri)

    def close(self) -> None:
        """Forget the file; reads after this raise. Connections are shared and stay open for other files."""
        self._path = None

    def _find_size(self) -> int:
        # Not HEAD: signed URLs are signed for GET alone, and the answer shows that the server knows ranges.
        _, size = self._request(0, 1, None)
        return size

    def _range(self, offset: int, length: int) -> bytes:
        data, _ = self._request(offset, length, self.size)
        return data

    def _request(self, offset: int, length: int, size: int | None) -> tuple[bytes, int]:
        """Return the bytes of a range, and the size of the file."""
        with translated(self.uri):
            session, url = self._session_and_url()
            deadline = time.monotonic() + self._limits.whole
            headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            timeout = (self._limits.connect, self._limits.silence)
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                response.raise_for_status()
                total = self._total(response, offset, length)
                if size is not None and total != size:
                    raise CorruptFileError(f"{self.uri} had {size} bytes when it was opened and now has {total}")
                return self._body(response, length, deadline), total

    def _total(self, response: "Response", offset: int, length: int) -> int:
        """Return the size of the file from an answer, which must be the range that was asked for."""
        if response.status_code == 200:
            raise no_ranges(self.uri)
        text = response.headers.get("Content-Range", "")
        unit, _, rest = text.strip().partition(" ")
        found, _, total = rest.partition("/")
        if response.status_code != 206 or unit.lower() != "bytes" or not total.strip().isdigit():
            raise ReadError(
                f"{self.uri}: the server answers {response.status_code} and Content-Range {text!r} to a request for a "
                "range of bytes"
            )
        last = min(offset + length, int(total)) - 1
        if found.strip() != f"{offset}-{last}":
            raise ReadError(f"{self.uri}: asked for bytes {offset}-{last}, the server sends {found.strip()}")
        return int(total)

    def _body(self, response: "Response", length: int, deadline: float) -> bytes:
        """Return ``length`` bytes of the answer, or raise if it breaks off or drips too slowly."""
        data = bytearray()
        # `read1` returns what has come, so that the deadline is seen also where a byte comes every few seconds.
        while more := response.raw.read1(_CHUNK, decode_content=False):
            data += more
            if len(data) > length:
                raise no_ranges(self.uri)
            if time.monotonic() > deadline:
                seconds = self._limits.whole
                raise ReadTimeoutError(f"{self.uri}: {len(data)} of {length} bytes came within {seconds:g} s")
        if len(data) < length:
            raise TransientReadError(f"{self.uri}: the answer broke off after {len(data)} of {length} bytes")
        return bytes(data)

    def _session_and_url(self) -> "tuple[Session, str]":
        if self._path is None:
            raise ReadError(f"{self.uri} is closed")
        if time.monotonic() >= self._signed_until:
            if self._path.scheme == "s3":
                self._url = self._path.generate_presigned_get_url(expiration_time_seconds=_LIFE)
                self._signed_until = time.monotonic() + _RENEWAL
            else:
                self._url, self._signed_until = self._path.geturl(), float("inf")
        parts = urlsplit(self._url)
        signed = not _SIGNATURES.isdisjoint(parse_qs(parts.query))
        return _session(f"{parts.scheme}://{parts.netloc}/", signed, os.getpid()), self._url


class RemoteSource:
    """Any other URI that ``lsst.resources`` reads: one handle, one request at a time, its time limits and tries."""

    gap = _GAP

    def __init__(self, path: "ResourcePath", retry: Retry = _RETRY) -> None:
        self.uri = str(path)
        self._lock = threading.Lock()
        self._retry = retry
        stack = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, stack.close)
        self._handle: Any
        self.size, self._handle = retry.call(lambda: self._open(path, stack), self.uri)

    def _open(self, path: "ResourcePath", stack: contextlib.ExitStack) -> tuple[int, Any]:
        with translated(self.uri):
            return path.size(), stack.enter_context(path.open("rb"))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        return self._retry.call(lambda: self._read(offset, length), self.uri)

    def _read(self, offset: int, length: int) -> bytes:
        if not self._finalizer.alive:
            raise ReadError(f"{self.uri} is closed")
        with self._lock, translated(self.uri):
            self._handle.seek(offset)
            data: bytes = self._handle.read(length)
            while len(data) < length and (more := self._handle.read(length - len(data))):
                data += more
        return complete(data, offset, length, self.uri)

    def close(self) -> None:
        """Close the remote handle; reads after this raise."""
        self._finalizer()


def without_query(uri: str) -> str:
    """Return a URI without its query and password, which can be what gives access, for messages."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return uri
    return parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()


@lru_cache(maxsize=32)
def _session(root: str, signed: bool, process: int) -> "Session":  # noqa: ARG001 - a socket is of no use after a fork
    """Return the session for a server: connections, certificates, token; no tries of its own, `Retry` has them."""
    from lsst.resources import ResourcePath
    from lsst.resources.http import HttpResourcePathConfig, SessionStore
    from requests.adapters import HTTPAdapter

    session: Session = SessionStore(HttpResourcePathConfig()).get(ResourcePath(root))
    if signed:
        # S3 refuses a request that is signed and bears a token as well; and the token is not S3's to see.
        session.auth = None
    for prefix in list(session.adapters):
        session.mount(prefix, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return session


def _seconds(variable: str) -> float | None:
    """Return a number of seconds from the environment, None where there is none or it makes no sense."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
