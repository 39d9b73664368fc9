"""Remote files: ranges of bytes over HTTP, and any other URI that ``lsst.resources`` opens.

Files of ``http(s)://`` and ``s3://`` are read with ranged GET requests of our own, over the sessions that
``lsst.resources`` configures (certificates, tokens). Its file handle would tell an expired URL (403) from a missing
file (404) only in the text of a FileNotFoundError, take a whole file for the range that was asked for, wait 25
minutes for a byte, and try six times on its own.
"""

import contextlib
import io
import os
import re
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from ..errors import (
    AccessDeniedError,
    AuthenticationError,
    CorruptFileError,
    ReadError,
    ReadTimeoutError,
    TransientReadError,
)
from ..errors.foreign import Trouble, said_by, trouble_of, words_of
from ..errors.secrets import expiry_of, is_signed, without_query
from .read_errors import complete, no_ranges, translated
from .retry import Retry

if TYPE_CHECKING:
    from lsst.resources import ResourcePath
    from requests import Response, Session

__all__ = ["REQUESTS_AT_ONCE", "HttpSource", "Limits", "RemoteSource", "download"]

_RETRY = Retry()

REQUESTS_AT_ONCE = 24
"""Requests that a process sends at once, whatever its number of cores: most of the time they wait for the network."""

_GAP = 32 << 10
"""Unwanted bytes that cost less than one more request. 512 kB would be right for one request at a time; with
`REQUESTS_AT_ONCE` on a link of 20 MB/s and 50 ms the round trips overlap, and a request costs 20 MB/s x 50 ms / 24."""

_CHUNK = 1 << 20
_LIFE, _RENEWAL = 3600, 1800
"""Seconds that a signed S3 URL is valid, and after which it is made anew. Signing needs no request."""

_PROBES = 8
"""Other files of a host that are asked for when it refuses one: enough to find one that is there among many that are not."""

_SHORT = 4096
"""Bytes that are read of an answer that is no file: an XML error, the head of a web page."""

_TOKEN, _TOKEN_HOSTS = "LSST_HTTP_AUTH_BEARER_TOKEN", "LSSTCUTOUTS_TOKEN_HOSTS"

_served: dict[str, str] = {}
"""By scheme and host: a file that was opened last."""


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
    others
        URIs of other files, which tell whether a refusal is about this file or about every one of its host.
    """

    gap = _GAP

    def __init__(
        self,
        path: "ResourcePath",
        retry: Retry = _RETRY,
        limits: Limits | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self.uri = without_query(str(path))
        self._path: ResourcePath | None = path
        self._retry, self._limits, self._others = retry, limits or Limits.from_environment(), others
        self._url, self._signed_until = "", 0.0
        self._access = _access(path)
        self.size = retry.call(self._find_size, self.uri)
        _served[_root(str(path))] = str(path)

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
        with translated(self.uri, self._access):
            session, url = self._session_and_url()
            deadline = time.monotonic() + self._limits.whole
            headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            timeout = (self._limits.connect, self._limits.silence)
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code >= 400:
                    self._refuse(response)
                total = self._total(response, offset, length)
                if size is not None and total != size:
                    raise CorruptFileError(f"{self.uri} had {size} bytes when it was opened and now has {total}")
                return self._body(response, length, deadline), total

    def _refuse(self, response: "Response") -> NoReturn:
        """Raise what an answer without the file means, where that is not the meaning of its status alone."""
        _shorten(response)
        try:
            response.raise_for_status()
        except OSError as error:
            if response.status_code != 403 or not self._may_be_missing(response, said_by(error)):
                raise
            if any(map(self._is_served, self._others_of_host())):
                raise AccessDeniedError(
                    f"no file at {self.uri}, or this user may not read it: {words_of(error)}; S3 answers both so, and "
                    "other files of this host can be read"
                ) from error
            hint = "; the file may also be missing: S3 answers so where files may not be listed"
            raise AuthenticationError(
                f"not allowed to read {self.uri}: {words_of(error)}{self._access}{hint}"
            ) from error
        raise ReadError(f"{self.uri}: the server answers {response.status_code}")

    def _may_be_missing(self, response: "Response", said: str) -> bool:
        """Whether the status 403 can be that of a missing file: neither the answer nor the URL speaks of an expiry."""
        expiry = expiry_of(self._url)
        return expiry is not None and expiry > _time_of(response) and not re.search("expire|skew", said, re.IGNORECASE)

    def _others_of_host(self) -> list[str]:
        """Return a few other files of this host, the one that was opened last first."""
        root = _root(str(self._path))
        last = _served.get(root, "")
        others = [uri for uri in self._others if uri.startswith(root)]
        found = [last, *others[:: max(1, len(others) // _PROBES)][:_PROBES]]
        return [uri for uri in found if uri and without_query(uri) != self.uri]

    def _is_served(self, uri: str) -> bool:
        """Whether the first byte of another file can be read now."""
        from lsst.resources import ResourcePath

        path = ResourcePath(uri, forceDirectory=False)
        url = path.generate_presigned_get_url(expiration_time_seconds=_LIFE) if path.scheme == "s3" else path.geturl()
        timeout = (self._limits.connect, self._limits.silence)
        try:
            with _session_for(url).get(url, headers={"Range": "bytes=0-0"}, stream=True, timeout=timeout) as response:
                return response.status_code == 206
        except OSError:  # of requests; nothing is known then
            return False

    def _total(self, response: "Response", offset: int, length: int) -> int:
        """Return the size of the file from an answer, which must be the range that was asked for."""
        if response.status_code == 200:
            _shorten(response)
            if (page := _web_page(response)) is not None:
                raise AuthenticationError(f"not allowed to read {self.uri}: {page}{self._access}")
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
        return _session_for(self._url), self._url


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


def _root(uri: str) -> str:
    """Return scheme and host of a URI, of S3 the bucket."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}/"


def _access(path: "ResourcePath") -> str:
    """Return what to do where access to a file is refused; the end of a message."""
    if path.scheme == "s3":
        return (
            "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN for temporary ones), or AWS_PROFILE, "
            "to credentials that are valid and may read the bucket"
        )
    url = path.geturl()
    if is_signed(url):
        expiry = expiry_of(url)
        end = "" if expiry is None else f", until {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"; its URL is signed{end}: make the plan again, which asks the repository for new URLs (a fetcher does so after refresh())"
    host = urlsplit(url).hostname
    if not os.environ.get(_TOKEN):
        return f"; give a token that {host} accepts with {_TOKEN}, and the host's name with {_TOKEN_HOSTS}"
    if _may_have_token(url):
        return f"; see that {_TOKEN} holds a token that {host} accepts"
    return f"; {_TOKEN} was not sent, since {_TOKEN_HOSTS} does not name {host}" + (
        "" if path.scheme == "https" else "; it is sent over https only"
    )


def _may_have_token(url: str) -> bool:
    """Whether the user named the host of a URL as one that the token is for."""
    named = {host.strip().lower() for host in os.environ.get(_TOKEN_HOSTS, "").split(",")} - {""}
    parts = urlsplit(url.lower())
    return parts.scheme == "https" and not named.isdisjoint({parts.hostname, parts.netloc.rpartition("@")[2]})


def _time_of(response: "Response") -> float:
    """Return when an answer was made, by the clock of the server where it says: this machine's can be wrong."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _shorten(response: "Response") -> None:
    """Keep the beginning of an answer's body, so that it can be asked for without waiting for all of it."""
    from urllib3.exceptions import HTTPError

    try:
        body = response.raw.read(_SHORT, decode_content=True)
    except (HTTPError, OSError):  # the status says enough
        body = b""
    response.raw.close()
    response.raw = io.BytesIO(body)
    _ = response.content  # which is kept when the answer is closed


def _web_page(response: "Response") -> str | None:
    """Return words about a web page that came in the place of a file; None for any other answer."""
    text = response.content.lstrip()[:_SHORT].decode("utf-8", "replace")
    if not re.match(
        r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", text, re.IGNORECASE | re.DOTALL
    ):
        return None
    title = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE)
    named = f" ({' '.join(title[1].split())[:80]!r})" if title else ""
    host = urlsplit(response.url).hostname
    return f"{host} answers with a web page{named}, most likely for logging in, instead of the file"


def download(path: "ResourcePath") -> bytes:
    """Return a small file of a web server.

    Raises
    ------
    AuthenticationError
        If the server refuses it, or answers with a web page, such as one for logging in.
    """
    url, limits = path.geturl(), Limits.from_environment()
    with _session_for(url).get(url, stream=True, timeout=(limits.connect, limits.silence)) as response:
        if response.status_code >= 400:
            _shorten(response)
        try:
            response.raise_for_status()
        except OSError as error:
            if trouble_of(error) is not Trouble.CREDENTIALS:
                raise
            raise AuthenticationError(
                f"not allowed to read {without_query(url)}: {words_of(error)}{_access(path)}"
            ) from error
        if (page := _web_page(response)) is not None:
            raise AuthenticationError(f"not allowed to read {without_query(url)}: {page}{_access(path)}")
        return bytes(response.content)


def _session_for(url: str) -> "Session":
    return _session(_root(url), not is_signed(url) and _may_have_token(url), os.getpid())


@lru_cache(maxsize=32)
def _session(root: str, with_token: bool, process: int) -> "Session":  # noqa: ARG001 - a socket is of no use after a fork
    """Return the session for a server: connections, certificates, token; no tries of its own, `Retry` has them."""
    from lsst.resources import ResourcePath
    from lsst.resources.http import HttpResourcePathConfig, SessionStore
    from requests.adapters import HTTPAdapter

    session: Session = SessionStore(HttpResourcePathConfig()).get(ResourcePath(root))
    if not with_token:
        # `lsst.resources` sends the token to every https server. A URL that names another server, in a plan of somebody
        # else, would be given it; and S3 refuses a request that is signed and bears a token as well.
        session.auth = None
    for prefix in list(session.adapters):
        session.mount(prefix, HTTPAdapter(pool_maxsize=REQUESTS_AT_ONCE))
    return session


def _seconds(variable: str) -> float | None:
    """Return a number of seconds from the environment, None where there is none or it makes no sense."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
