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
from ..errors.error_classes import ErrorKind, error_kind, error_text, server_message
from ..errors.secrets import expiry_of, is_signed, without_query
from .read_errors import check_length, ranges_ignored_error, translate_errors
from .retry import Retry

if TYPE_CHECKING:
    from lsst.resources import ResourcePath
    from requests import Response, Session

__all__ = ["REQUESTS_AT_ONCE", "HttpSource", "RemoteSource", "TimeLimits", "download"]

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

_START_BYTES = 4096
"""Bytes that are read of an answer that is no file: an XML error, the head of a web page."""

_TOKEN, _TOKEN_HOSTS = "LSST_HTTP_AUTH_BEARER_TOKEN", "LSSTCUTOUTS_TOKEN_HOSTS"

_served: dict[str, str] = {}
"""By scheme and host: a file that was opened last."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds that one request may take: to connect, without a byte, and from beginning to end."""

    connect: float = 10.0
    idle: float = 30.0
    whole: float = 60.0

    @classmethod
    def from_environment(cls) -> "TimeLimits":
        """Return the defaults, or what ``LSST_HTTP_TIMEOUT_CONNECT`` and ``LSST_HTTP_TIMEOUT_READ`` say instead."""
        connect, idle = (_seconds_from_environment(f"LSST_HTTP_TIMEOUT_{name}") for name in ("CONNECT", "READ"))
        known = cls(connect or cls().connect, idle or cls().idle)
        return cls(known.connect, known.idle, max(cls().whole, known.connect + known.idle))


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
        limits: TimeLimits | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self.uri = without_query(str(path))
        self._path: ResourcePath | None = path
        self._retry, self._limits, self._others = retry, limits or TimeLimits.from_environment(), others
        self._url, self._signed_until = "", 0.0
        self._access_advice = _access_advice(path)
        self.size = retry.call(self._find_size, self.uri)
        _served[_scheme_and_host(str(path))] = str(path)

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
        with translate_errors(self.uri, self._access_advice):
            session, url = self._session_and_url()
            deadline = time.monotonic() + self._limits.whole
            headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            timeout = (self._limits.connect, self._limits.idle)
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code >= 400:
                    self._raise_refusal(response)
                total = self._total(response, offset, length)
                if size is not None and total != size:
                    raise CorruptFileError(f"{self.uri} had {size} bytes when it was opened and now has {total}")
                return self._body(response, length, deadline), total

    def _raise_refusal(self, response: "Response") -> NoReturn:
        """Raise what an answer without the file means, where that is not the meaning of its status alone."""
        _keep_start(response)
        try:
            response.raise_for_status()
        except OSError as error:
            if response.status_code != 403 or not self._may_be_missing(response, server_message(error)):
                raise
            if any(map(self._is_served, self._others_of_host())):
                raise AccessDeniedError(
                    f"no file at {self.uri}, or this user may not read it: {error_text(error)}; S3 answers both so, and "
                    "other files of this host can be read"
                ) from error
            hint = "; the file may also be missing: S3 answers so where files may not be listed"
            raise AuthenticationError(
                f"not allowed to read {self.uri}: {error_text(error)}{self._access_advice}{hint}"
            ) from error
        raise ReadError(f"{self.uri}: the server answers {response.status_code}")

    def _may_be_missing(self, response: "Response", said: str) -> bool:
        """Whether the status 403 can be that of a missing file: neither the answer nor the URL speaks of an expiry."""
        expiry = expiry_of(self._url)
        return expiry is not None and expiry > _time_of(response) and not re.search("expire|skew", said, re.IGNORECASE)

    def _others_of_host(self) -> list[str]:
        """Return a few other files of this host, the one that was opened last first."""
        root = _scheme_and_host(str(self._path))
        last = _served.get(root, "")
        others = [uri for uri in self._others if uri.startswith(root)]
        found = [last, *others[:: max(1, len(others) // _PROBES)][:_PROBES]]
        return [uri for uri in found if uri and without_query(uri) != self.uri]

    def _is_served(self, uri: str) -> bool:
        """Whether the first byte of another file can be read now."""
        from lsst.resources import ResourcePath

        path = ResourcePath(uri, forceDirectory=False)
        url = path.generate_presigned_get_url(expiration_time_seconds=_LIFE) if path.scheme == "s3" else path.geturl()
        timeout = (self._limits.connect, self._limits.idle)
        try:
            with _session_for(url).get(url, headers={"Range": "bytes=0-0"}, stream=True, timeout=timeout) as response:
                return response.status_code == 206
        except OSError:  # of requests; nothing is known then
            return False

    def _total(self, response: "Response", offset: int, length: int) -> int:
        """Return the size of the file from an answer, which must be the range that was asked for."""
        if response.status_code == 200:
            _keep_start(response)
            if (page := _web_page(response)) is not None:
                raise AuthenticationError(f"not allowed to read {self.uri}: {page}{self._access_advice}")
            raise ranges_ignored_error(self.uri)
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
                raise ranges_ignored_error(self.uri)
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
        with translate_errors(self.uri):
            return path.size(), stack.enter_context(path.open("rb"))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        return self._retry.call(lambda: self._read(offset, length), self.uri)

    def _read(self, offset: int, length: int) -> bytes:
        if not self._finalizer.alive:
            raise ReadError(f"{self.uri} is closed")
        with self._lock, translate_errors(self.uri):
            self._handle.seek(offset)
            data: bytes = self._handle.read(length)
            while len(data) < length and (more := self._handle.read(length - len(data))):
                data += more
        return check_length(data, offset, length, self.uri)

    def close(self) -> None:
        """Close the remote handle; reads after this raise."""
        self._finalizer()


def _scheme_and_host(uri: str) -> str:
    """Return scheme and host of a URI, of S3 the bucket."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}/"


def _access_advice(path: "ResourcePath") -> str:
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


def _keep_start(response: "Response") -> None:
    """Keep the beginning of an answer's body, so that it can be asked for without waiting for all of it."""
    from urllib3.exceptions import HTTPError

    try:
        body = response.raw.read(_START_BYTES, decode_content=True)
    except (HTTPError, OSError):  # the status says enough
        body = b""
    response.raw.close()
    response.raw = io.BytesIO(body)
    _ = response.content  # which is kept when the answer is closed


def _web_page(response: "Response") -> str | None:
    """Return words about a web page that came in the place of a file; None for any other answer."""
    text = response.content.lstrip()[:_START_BYTES].decode("utf-8", "replace")
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
    url, limits = path.geturl(), TimeLimits.from_environment()
    with _session_for(url).get(url, stream=True, timeout=(limits.connect, limits.idle)) as response:
        if response.status_code >= 400:
            _keep_start(response)
        try:
            response.raise_for_status()
        except OSError as error:
            if error_kind(error) is not ErrorKind.CREDENTIALS:
                raise
            raise AuthenticationError(
                f"not allowed to read {without_query(url)}: {error_text(error)}{_access_advice(path)}"
            ) from error
        if (page := _web_page(response)) is not None:
            raise AuthenticationError(f"not allowed to read {without_query(url)}: {page}{_access_advice(path)}")
        return bytes(response.content)


def _session_for(url: str) -> "Session":
    return _session(_scheme_and_host(url), not is_signed(url) and _may_have_token(url), os.getpid())


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


def _seconds_from_environment(variable: str) -> float | None:
    """Return a number of seconds from the environment, None where there is none or it makes no sense."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
