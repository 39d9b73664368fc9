"""What the exceptions of other packages mean: one table, by the names of their classes.

Storage, network and database libraries have each their own tree of exceptions. Here they are told apart by what a
caller can do about them; a seam of this package (files, the Butler) gives each meaning its own class and words. The
classes are looked up by name, so that nothing is imported to catch what it never raises.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto

__all__ = ["Trouble", "status_of", "status_trouble", "trouble_of", "words_of"]


class Trouble(Enum):
    """What an exception means."""

    MISSING = auto()
    """There is nothing of that name."""
    DENIED = auto()
    """The operating system forbids it."""
    CREDENTIALS = auto()
    """A server wants (other) credentials."""
    TRUNCATED = auto()
    """A file ends before what was asked for."""
    TIMEOUT = auto()
    """No answer in time: can pass."""
    UNAVAILABLE = auto()
    """No connection, or a server that is overloaded: can pass."""
    DEPENDENCY = auto()
    """A package is not installed."""
    OTHER = auto()
    """Something else that will not pass by itself."""


_MEANING = {
    "builtins.FileNotFoundError": Trouble.MISSING,
    "builtins.NotADirectoryError": Trouble.MISSING,
    "builtins.PermissionError": Trouble.DENIED,
    "builtins.TimeoutError": Trouble.TIMEOUT,
    "builtins.ConnectionError": Trouble.UNAVAILABLE,
    "builtins.ImportError": Trouble.DEPENDENCY,
    "socket.gaierror": Trouble.UNAVAILABLE,
    "ssl.SSLError": Trouble.OTHER,
    "http.client.HTTPException": Trouble.UNAVAILABLE,
    "requests.exceptions.SSLError": Trouble.OTHER,
    "requests.exceptions.Timeout": Trouble.TIMEOUT,
    "requests.exceptions.ConnectTimeout": Trouble.TIMEOUT,
    "requests.exceptions.ConnectionError": Trouble.UNAVAILABLE,
    "requests.exceptions.ChunkedEncodingError": Trouble.UNAVAILABLE,
    "requests.exceptions.RetryError": Trouble.UNAVAILABLE,
    "requests.exceptions.RequestException": Trouble.OTHER,
    "urllib3.exceptions.SSLError": Trouble.OTHER,
    "urllib3.exceptions.NewConnectionError": Trouble.UNAVAILABLE,
    "urllib3.exceptions.TimeoutError": Trouble.TIMEOUT,
    "urllib3.exceptions.ProtocolError": Trouble.UNAVAILABLE,
    "urllib3.exceptions.IncompleteRead": Trouble.UNAVAILABLE,
    "urllib3.exceptions.MaxRetryError": Trouble.UNAVAILABLE,
    "urllib3.exceptions.HTTPError": Trouble.OTHER,
    "httpx2.TimeoutException": Trouble.TIMEOUT,
    "httpx2.UnsupportedProtocol": Trouble.OTHER,
    "httpx2.TransportError": Trouble.UNAVAILABLE,
    "httpx2.HTTPError": Trouble.OTHER,
    "aiohttp.client_exceptions.ClientConnectorCertificateError": Trouble.OTHER,
    "aiohttp.client_exceptions.ClientSSLError": Trouble.OTHER,
    "aiohttp.client_exceptions.ServerTimeoutError": Trouble.TIMEOUT,
    "aiohttp.client_exceptions.ClientConnectionError": Trouble.UNAVAILABLE,
    "aiohttp.client_exceptions.ClientPayloadError": Trouble.UNAVAILABLE,
    "aiohttp.client_exceptions.ClientError": Trouble.OTHER,
    "botocore.exceptions.NoCredentialsError": Trouble.CREDENTIALS,
    "botocore.exceptions.PartialCredentialsError": Trouble.CREDENTIALS,
    "botocore.exceptions.CredentialRetrievalError": Trouble.CREDENTIALS,
    "botocore.exceptions.TokenRetrievalError": Trouble.CREDENTIALS,
    "botocore.exceptions.ProfileNotFound": Trouble.CREDENTIALS,
    "botocore.exceptions.SSOError": Trouble.CREDENTIALS,
    "botocore.exceptions.SSLError": Trouble.OTHER,
    "botocore.exceptions.ConnectTimeoutError": Trouble.TIMEOUT,
    "botocore.exceptions.ReadTimeoutError": Trouble.TIMEOUT,
    "botocore.exceptions.ConnectionError": Trouble.UNAVAILABLE,
    "botocore.exceptions.HTTPClientError": Trouble.UNAVAILABLE,
    "botocore.exceptions.IncompleteReadError": Trouble.UNAVAILABLE,
    "botocore.exceptions.ClientError": Trouble.OTHER,
    "botocore.exceptions.BotoCoreError": Trouble.OTHER,
    "lsst.daf.butler.remote_butler._http_connection.ButlerServerError": Trouble.UNAVAILABLE,
    "builtins.OSError": Trouble.OTHER,
}
"""By qualified name. Of the classes of an exception the first that is named here counts, the most derived one first."""

_EXPIRED = re.compile(r"expired|InvalidToken|TokenRefreshRequired", re.IGNORECASE)
"""S3 answers 400, not 403, when a session token is too old."""

_STATUS_IN_TEXT = re.compile(r"\bstatus(?: code)?:? (\d{3})\b|too many (\d{3}) error responses")
"""As `lsst.resources` writes it into a FileNotFoundError or a ValueError, and urllib3 when its own tries end."""

_QUERY = re.compile(r"\?[^\s'\")>]+")


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what an exception means; None for one that is in no table and bears no HTTP status."""
    chain = list(_chain(error))
    for one in chain:
        if (status := status_of(one)) is not None:
            expired = status == 400 and _EXPIRED.search(str(one))
            return Trouble.CREDENTIALS if expired else status_trouble(status)
    found = [meaning for one in chain if (meaning := _by_class(one)) is not None]
    if not found:
        return None
    # "Cannot connect" around "timed out" is the second: the wrapper only says that its own tries are used up.
    return Trouble.TIMEOUT if found[0] is Trouble.UNAVAILABLE and Trouble.TIMEOUT in found else found[0]


def status_trouble(status: int) -> Trouble:
    """Return what an HTTP status means (RFC 9110, section 15)."""
    match status:
        case 401 | 403 | 407:
            return Trouble.CREDENTIALS
        case 404 | 410:
            return Trouble.MISSING
        case 416:
            return Trouble.TRUNCATED
        case 408 | 504:
            return Trouble.TIMEOUT
        case 425 | 429 | 500 | 502 | 503:
            return Trouble.UNAVAILABLE
        case _:
            return Trouble.OTHER


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception bears, None where there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for place in (getattr(error, "status_code", None), getattr(error, "status", None), response):
        status = getattr(place, "status_code", place)
        if isinstance(status, int):
            return status
    if type(error) in {FileNotFoundError, ValueError} and (match := _STATUS_IN_TEXT.search(str(error))):
        return int(match[1] or match[2])
    return None


def words_of(error: BaseException) -> str:
    """Return the words of an exception in one line, without the queries of URLs: they can hold signatures."""
    text = str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)
    status = status_of(error)
    reason = getattr(getattr(error, "response", None), "reason", None)
    if status is not None and isinstance(reason, str):
        return f"the server answers {status} {reason}".rstrip()
    lines = _QUERY.sub("?...", text).splitlines() or [type(error).__name__]
    # A line that ends in a colon announces the next ones.
    return " ".join(map(str.strip, lines)) if lines[0].endswith(":") else lines[0]


def _by_class(error: BaseException) -> Trouble | None:
    for kind in type(error).__mro__:
        if (meaning := _MEANING.get(f"{kind.__module__}.{kind.__qualname__}")) is not None:
            return meaning
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was made of: its cause, or what it wraps as urllib3 and requests do."""
    seen: list[BaseException] = []
    inner: object = error
    while isinstance(inner, BaseException) and inner not in seen:
        yield inner
        seen.append(inner)
        wrapped = (inner.__cause__, getattr(inner, "reason", None), *inner.args)
        inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
