"""Reads remote files: byte ranges over HTTP and S3, and any other URI that ``lsst.resources`` opens.

Files of ``http(s)://`` and ``s3://`` are read with our own GET requests for ranges, over the sessions that
``lsst.resources`` configures (certificates, tokens). Its file handle distinguishes an expired URL (403) from a missing
file (404) only in the text of a FileNotFoundError, accepts a whole file instead of the requested range, waits up to 25
minutes for a byte, and retries six times on its own.
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
"""Concurrent requests of a process, independent of its number of cores: requests mostly wait for the network."""

_GAP = 32 << 10
"""Reading this many unneeded bytes costs less than another request. For one request at a time 512 kB would be right;
with `REQUESTS_AT_ONCE` on a link of 20 MB/s and 50 ms the round trips overlap: a request costs 20 MB/s x 50 ms / 24."""

_CHUNK = 1 << 20
_LIFE, _RENEWAL = 3600, 1800
"""Seconds for which a signed S3 URL is valid, and after which it is signed again. Signing needs no request."""

_PROBES = 8
"""Number of other files that are tried when a host refuses one: enough to find an existing file among missing ones."""

_START_BYTES = 4096
"""Bytes that are read of an answer that is not a file: an XML error, the start of a web page."""

_TOKEN, _TOKEN_HOSTS = "LSST_HTTP_AUTH_BEARER_TOKEN", "LSSTCUTOUTS_TOKEN_HOSTS"

_served: dict[str, str] = {}
"""The last file that was opened, by scheme and host."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits of one request, seconds: to connect, without receiving a byte, and in total."""

    connect: float = 10.0
    idle: float = 30.0
    total: float = 60.0

    @classmethod
    def from_environment(cls) -> "TimeLimits":
        """Return the limits of ``LSST_HTTP_TIMEOUT_CONNECT`` and ``LSST_HTTP_TIMEOUT_READ``; otherwise the defaults."""
        connect, idle = (_seconds_from_environment(f"LSST_HTTP_TIMEOUT_{name}") for name in ("CONNECT", "READ"))
        known = cls(connect or cls().connect, idle or cls().idle)
        return cls(known.connect, known.idle, max(cls().total, known.connect + known.idle))


class HttpSource:
    """A file on an HTTP server or in an S3 bucket, read in byte ranges; any number of requests at a time.

    Parameters
    ----------
    path
        URI of the file: ``http``, ``https`` or ``s3``.
    retry
        Number and duration of retries of transient failures.
    limits
        Time limits of one request; by default those of the environment.
    others
        URIs of other files. If the host refuses this file, they show whether it refuses every file.
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
        # Not HEAD: signed URLs allow only GET, and the answer shows whether the server supports ranges.
        self.size = retry.call(lambda: self._request(0, 1, None)[1], self.uri)
        self.stamp: tuple[int, ...] = (self.size,)
        _served[_scheme_and_host(str(path))] = str(path)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``."""
        if length <= 0:
            return b""
        return self._retry.call(lambda: self._range(offset, length), self.uri)

    def close(self) -> None:
        """Close the file; later reads raise an error. Shared connections stay open for other files."""
        self._path = None

    def _range(self, offset: int, length: int) -> bytes:
        data, _ = self._request(offset, length, self.size)
        return data

    def _request(self, offset: int, length: int, size: int | None) -> tuple[bytes, int]:
        """Return the bytes of a range, and the size of the file in bytes."""
        with translate_errors(self.uri, self._access_advice):
            session, url = self._session_and_url()
            deadline = time.monotonic() + self._limits.total
            headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            timeout = (self._limits.connect, self._limits.idle)
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code >= 400:
                    self._raise_refusal(response)
                total = self._total(response, offset, length)
                if size is not None and total != size:
                    raise CorruptFileError(
                        f"{self.uri} had {size} bytes when it was opened and now has {total}; it was overwritten: start again"
                    )
                return self._body(response, length, deadline), total

    def _raise_refusal(self, response: "Response") -> NoReturn:
        """Raise the error for an HTTP error status; for 403, find out whether only this file is refused."""
        _keep_start(response)
        try:
            response.raise_for_status()
        except OSError as error:
            if response.status_code != 403 or not self._may_be_missing(response, server_message(error)):
                raise
            if any(map(self._is_served, self._others_of_host())):
                raise AccessDeniedError(
                    f"{self.uri}: the file does not exist, or this user has no permission to read it: {error_text(error)}; "
                    "S3 gives this answer in both cases, and other files of this host can be read: check the path and "
                    "the permissions"
                ) from error
            hint = "; the file may also be missing: S3 gives this answer for a missing file if listing is not allowed"
            raise AuthenticationError(
                f"{self.uri}: access is refused: {error_text(error)}{self._access_advice}{hint}"
            ) from error
        raise ReadError(f"{self.uri}: the server answers {response.status_code}; check the URL and the server")

    def _may_be_missing(self, response: "Response", message: str) -> bool:
        """Whether status 403 can mean a missing file: neither the answer nor the URL indicates an expired signature."""
        expiry = expiry_of(self._url)
        return (
            expiry is not None and expiry > _time_of(response) and not re.search("expire|skew", message, re.IGNORECASE)
        )

    def _others_of_host(self) -> list[str]:
        """Return the URIs of a few other files of this host, the last opened one first."""
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
        except OSError:  # raised by requests: the result is unknown
            return False

    def _total(self, response: "Response", offset: int, length: int) -> int:
        """Return the size of the file from an answer; raise an error if it is not the requested range."""
        if response.status_code == 200:
            _keep_start(response)
            if (page := _web_page(response)) is not None:
                raise AuthenticationError(f"{self.uri}: access is refused: {page}{self._access_advice}")
            raise ranges_ignored_error(self.uri)
        text = response.headers.get("Content-Range", "")
        unit, _, rest = text.strip().partition(" ")
        found, _, total = rest.partition("/")
        if response.status_code != 206 or unit.lower() != "bytes" or not total.strip().isdigit():
            raise ReadError(
                f"{self.uri}: the server answers {response.status_code} with Content-Range {text!r} to a request for a "
                "byte range; use a server that supports byte ranges, or copy the files to a local disk"
            )
        last = min(offset + length, int(total)) - 1
        if found.strip() != f"{offset}-{last}":
            raise ReadError(
                f"{self.uri}: the server sends bytes {found.strip()} instead of the requested {offset}-{last}; use a server "
                "that supports byte ranges, or copy the files to a local disk"
            )
        return int(total)

    def _body(self, response: "Response", length: int, deadline: float) -> bytes:
        """Return ``length`` bytes of the answer; raise an error if the connection ends early or is too slow."""
        data = bytearray()
        # `read1` returns the bytes received so far, so the deadline is checked even if bytes arrive very slowly.
        while more := response.raw.read1(_CHUNK, decode_content=False):
            data += more
            if len(data) > length:
                raise ranges_ignored_error(self.uri)
            if time.monotonic() > deadline:
                seconds = self._limits.total
                raise ReadTimeoutError(
                    f"{self.uri}: only {len(data)} of {length} bytes arrived within {seconds:g} s; check the network, or "
                    "increase the limit with LSST_HTTP_TIMEOUT_READ (seconds)"
                )
        if len(data) < length:
            raise TransientReadError(
                f"{self.uri}: the connection ended after {len(data)} of {length} bytes; check the network and the server"
            )
        return bytes(data)

    def _session_and_url(self) -> "tuple[Session, str]":
        if self._path is None:
            raise ReadError(f"{self.uri} is closed; open it again to read")
        if time.monotonic() >= self._signed_until:
            if self._path.scheme == "s3":
                self._url = self._path.generate_presigned_get_url(expiration_time_seconds=_LIFE)
                self._signed_until = time.monotonic() + _RENEWAL
            else:
                self._url, self._signed_until = self._path.geturl(), float("inf")
        return _session_for(self._url), self._url


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


def _scheme_and_host(uri: str) -> str:
    """Return the scheme and host of a URI (for S3, the bucket)."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}/"


def _access_advice(path: "ResourcePath") -> str:
    """Return what the user can do if access to a file is refused; the end of an error message."""
    if path.scheme == "s3":
        return (
            "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN for temporary ones), or AWS_PROFILE, "
            "to valid credentials that may read the bucket"
        )
    url = path.geturl()
    if is_signed(url):
        expiry = expiry_of(url)
        end = "" if expiry is None else f" and valid until {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"; its URL is signed{end}: make the plan again to get new URLs from the repository (a fetcher: call refresh())"
    host = urlsplit(url).hostname
    if not os.environ.get(_TOKEN):
        return f"; set {_TOKEN} to a token that {host} accepts, and {_TOKEN_HOSTS} to the name of the host"
    if _may_have_token(url):
        return f"; check that {_TOKEN} is a token that {host} accepts"
    return f"; {_TOKEN} was not sent, since {_TOKEN_HOSTS} does not name {host}" + (
        "" if path.scheme == "https" else "; tokens are sent only over https"
    )


def _may_have_token(url: str) -> bool:
    """Whether the token may be sent to a URL: over https, and to a host that the user has named."""
    named = {host.strip().lower() for host in os.environ.get(_TOKEN_HOSTS, "").split(",")} - {""}
    parts = urlsplit(url.lower())
    return parts.scheme == "https" and not named.isdisjoint({parts.hostname, parts.netloc.rpartition("@")[2]})


def _time_of(response: "Response") -> float:
    """Return the time of an answer, seconds since 1970, by the server's clock if given: the local clock can be wrong."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _keep_start(response: "Response") -> None:
    """Keep only the start of an answer's body, so that it can be read without waiting for all of it."""
    from urllib3.exceptions import HTTPError

    try:
        body = response.raw.read(_START_BYTES, decode_content=True)
    except (HTTPError, OSError):  # the status alone is enough
        body = b""
    response.raw.close()
    response.raw = io.BytesIO(body)
    _ = response.content  # requests keeps the content after the answer is closed


def _web_page(response: "Response") -> str | None:
    """Return a description of an answer that is a web page instead of a file; None for any other answer."""
    text = response.content.lstrip()[:_START_BYTES].decode("utf-8", "replace")
    if not re.match(
        r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", text, re.IGNORECASE | re.DOTALL
    ):
        return None
    title = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE)
    named = f" ({' '.join(title[1].split())[:80]!r})" if title else ""
    host = urlsplit(response.url).hostname
    return f"{host} answers with a web page{named}, probably a login page, instead of the file"


def download(path: "ResourcePath") -> bytes:
    """Return the content of a small file on a web server.

    Raises
    ------
    AuthenticationError
        If the server refuses access, or answers with a web page, such as a login page.
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
                f"{without_query(url)}: access is refused: {error_text(error)}{_access_advice(path)}"
            ) from error
        if (page := _web_page(response)) is not None:
            raise AuthenticationError(f"{without_query(url)}: access is refused: {page}{_access_advice(path)}")
        return bytes(response.content)


def _session_for(url: str) -> "Session":
    return _session(_scheme_and_host(url), not is_signed(url) and _may_have_token(url), os.getpid())


@lru_cache(maxsize=32)
def _session(root: str, with_token: bool, process: int) -> "Session":  # noqa: ARG001 - the cache key: a forked process cannot use the parent's sockets
    """Return the session of a server: connections, certificates, token. It does not retry, since `Retry` does."""
    from lsst.resources import ResourcePath
    from lsst.resources.http import HttpResourcePathConfig, SessionStore
    from requests.adapters import HTTPAdapter

    session: Session = SessionStore(HttpResourcePathConfig()).get(ResourcePath(root))
    if not with_token:
        # `lsst.resources` sends the token to every https server, also to an unknown server in another user's plan. And
        # S3 refuses a request that has both a signature and a token.
        session.auth = None
    for prefix in list(session.adapters):
        session.mount(prefix, HTTPAdapter(pool_maxsize=REQUESTS_AT_ONCE))
    return session


def _seconds_from_environment(variable: str) -> float | None:
    """Return a number of seconds from an environment variable; None if it is not set or invalid."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
