"""Classifies the exceptions of other packages: one table, by class name.

Storage, network and database libraries each have their own exception classes. `error_kind` sorts them by what the
caller can do. `lsstcutouts.source.read_errors` and `lsstcutouts.plan.butler_errors` then raise the exception of this
package that fits. Classes are looked up by name, so that no library is imported only to catch its exceptions.
"""

import re
from collections.abc import Iterator
from copy import copy
from enum import Enum, auto
from urllib.parse import urlsplit

from .secrets import without_secrets

__all__ = [
    "ErrorKind",
    "error_kind",
    "error_text",
    "fresh",
    "http_status",
    "server_message",
    "status_kind",
]


class ErrorKind(Enum):
    """Kind of an exception of another package."""

    MISSING = auto()
    """The file does not exist."""
    DENIED = auto()
    """The operating system denies access."""
    CREDENTIALS = auto()
    """A server refuses the credentials, or needs some."""
    TRUNCATED = auto()
    """The file ends before the requested bytes."""
    TIMEOUT = auto()
    """No answer within the time limit (transient)."""
    UNAVAILABLE = auto()
    """No connection, or the server is overloaded (transient)."""
    DEPENDENCY = auto()
    """A required package is not installed."""
    OTHER = auto()
    """Any other failure that is not transient."""


_KINDS = {
    "builtins.FileNotFoundError": ErrorKind.MISSING,
    "builtins.NotADirectoryError": ErrorKind.MISSING,
    "builtins.PermissionError": ErrorKind.DENIED,
    "builtins.TimeoutError": ErrorKind.TIMEOUT,
    "builtins.ConnectionError": ErrorKind.UNAVAILABLE,
    "builtins.ImportError": ErrorKind.DEPENDENCY,
    "socket.gaierror": ErrorKind.UNAVAILABLE,
    "ssl.SSLError": ErrorKind.OTHER,
    "http.client.HTTPException": ErrorKind.UNAVAILABLE,
    "requests.exceptions.SSLError": ErrorKind.OTHER,
    "requests.exceptions.Timeout": ErrorKind.TIMEOUT,
    "requests.exceptions.ConnectTimeout": ErrorKind.TIMEOUT,
    "requests.exceptions.ConnectionError": ErrorKind.UNAVAILABLE,
    "requests.exceptions.ChunkedEncodingError": ErrorKind.UNAVAILABLE,
    "requests.exceptions.RetryError": ErrorKind.UNAVAILABLE,
    "requests.exceptions.RequestException": ErrorKind.OTHER,
    "urllib3.exceptions.SSLError": ErrorKind.OTHER,
    "urllib3.exceptions.NewConnectionError": ErrorKind.UNAVAILABLE,
    "urllib3.exceptions.TimeoutError": ErrorKind.TIMEOUT,
    "urllib3.exceptions.ProtocolError": ErrorKind.UNAVAILABLE,
    "urllib3.exceptions.IncompleteRead": ErrorKind.UNAVAILABLE,
    "urllib3.exceptions.MaxRetryError": ErrorKind.UNAVAILABLE,
    "urllib3.exceptions.HTTPError": ErrorKind.OTHER,
    "httpx.TimeoutException": ErrorKind.TIMEOUT,
    "httpx2.TimeoutException": ErrorKind.TIMEOUT,
    "httpx.UnsupportedProtocol": ErrorKind.OTHER,
    "httpx2.UnsupportedProtocol": ErrorKind.OTHER,
    "httpx.TransportError": ErrorKind.UNAVAILABLE,
    "httpx2.TransportError": ErrorKind.UNAVAILABLE,
    "httpx.HTTPError": ErrorKind.OTHER,
    "httpx2.HTTPError": ErrorKind.OTHER,
    "aiohttp.client_exceptions.ClientConnectorCertificateError": ErrorKind.OTHER,
    "aiohttp.client_exceptions.ClientSSLError": ErrorKind.OTHER,
    "aiohttp.client_exceptions.ServerTimeoutError": ErrorKind.TIMEOUT,
    "aiohttp.client_exceptions.ClientConnectionError": ErrorKind.UNAVAILABLE,
    "aiohttp.client_exceptions.ClientPayloadError": ErrorKind.UNAVAILABLE,
    "aiohttp.client_exceptions.ClientError": ErrorKind.OTHER,
    "botocore.exceptions.NoCredentialsError": ErrorKind.CREDENTIALS,
    "botocore.exceptions.PartialCredentialsError": ErrorKind.CREDENTIALS,
    "botocore.exceptions.CredentialRetrievalError": ErrorKind.CREDENTIALS,
    "botocore.exceptions.TokenRetrievalError": ErrorKind.CREDENTIALS,
    "botocore.exceptions.ProfileNotFound": ErrorKind.CREDENTIALS,
    "botocore.exceptions.SSOError": ErrorKind.CREDENTIALS,
    "botocore.exceptions.SSLError": ErrorKind.OTHER,
    "botocore.exceptions.ConnectTimeoutError": ErrorKind.TIMEOUT,
    "botocore.exceptions.ReadTimeoutError": ErrorKind.TIMEOUT,
    "botocore.exceptions.ConnectionError": ErrorKind.UNAVAILABLE,
    "botocore.exceptions.HTTPClientError": ErrorKind.UNAVAILABLE,
    "botocore.exceptions.IncompleteReadError": ErrorKind.UNAVAILABLE,
    "botocore.exceptions.ClientError": ErrorKind.OTHER,
    "botocore.exceptions.BotoCoreError": ErrorKind.OTHER,
    "lsst.daf.butler.remote_butler._http_connection.ButlerServerError": ErrorKind.UNAVAILABLE,
    "builtins.OSError": ErrorKind.OTHER,
}
"""Kind by qualified class name. The most derived class of an exception that is listed here decides."""

_ACCESS_REFUSED = re.compile(
    r"expired|unauth|authenti|authoriz|access_?(?:denied|key)|permission_denied|signature|credential|skewed"
    r"|(?:invalid|missing)_?(?:security|token|client)|token_?refresh|insufficient_scope|userproject",
    re.IGNORECASE,
)
"""Parts of error codes of S3, Google, Azure and OAuth (RFC 6750) that mean that access is refused.

S3 and Google answer 400, not 403, when a session token has expired.
"""

_CODE = re.compile(
    r"<Code>\s*([^<\s]+)|\"(?:error|code|status|error_type)\"\s*:\s*\"([^\"]+)\"|<title>\s*([^<]+)", re.IGNORECASE
)
_MESSAGE = re.compile(r"<Message>\s*([^<]+)|\"(?:message|detail|error_description)\"\s*:\s*\"([^\"]+)\"")
_CHALLENGE = re.compile(r"\berror=\"([^\"]+)\"")
_MAX_BODY_BYTES, _MAX_MESSAGE = 4096, 300

_STATUS_IN_TEXT = re.compile(r"\bstatus(?: code)?:? (\d{3})\b|too many (\d{3}) error responses")
"""HTTP status in the message of `lsst.resources` (FileNotFoundError, ValueError) or of urllib3 (after its retries)."""


def error_kind(error: BaseException) -> ErrorKind | None:
    """Return the kind of an exception; None if its class is not listed and it has no HTTP status."""
    chain = list(_chain(error))
    for one in chain:
        if (status := http_status(one)) is not None:
            refused = status == 400 and any(_ACCESS_REFUSED.search(_code(other) or _body(other)) for other in chain)
            return ErrorKind.CREDENTIALS if refused else status_kind(status)
    found = [kind for one in chain if (kind := _kind_of_class(one)) is not None]
    if not found:
        return None
    # A connection error that wraps a timeout is a timeout: the wrapper only reports that its retries are used up.
    return ErrorKind.TIMEOUT if found[0] is ErrorKind.UNAVAILABLE and ErrorKind.TIMEOUT in found else found[0]


def status_kind(status: int) -> ErrorKind:
    """Return the kind of an HTTP error status (RFC 9110, section 15)."""
    match status:
        case 401 | 403 | 407:
            return ErrorKind.CREDENTIALS
        case 404 | 410:
            return ErrorKind.MISSING
        case 416:
            return ErrorKind.TRUNCATED
        case 408 | 504:
            return ErrorKind.TIMEOUT
        case 425 | 429 | 500 | 502 | 503:
            return ErrorKind.UNAVAILABLE
        case _:
            return ErrorKind.OTHER


def fresh[E: BaseException](error: E) -> E:
    """Return a copy of an exception without its traceback, which would keep files open and grow whenever it is raised again.

    ``copy`` alone is not enough: once Dask has been imported, it copies tracebacks, too.
    """
    found = copy(error)
    found.__traceback__ = found.__cause__ = found.__context__ = None
    found.__suppress_context__ = False
    return found


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an exception; None if it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for holder in (getattr(error, "status_code", None), getattr(error, "status", None), response):
        status = getattr(holder, "status_code", holder)
        if isinstance(status, int):
            return status
    if type(error) in {FileNotFoundError, ValueError} and (match := _STATUS_IN_TEXT.search(str(error))):
        return int(match[1] or match[2])
    return None


def error_text(error: BaseException) -> str:
    """Return the message of an exception in one line, without secrets; for an HTTP error, status and server message."""
    text = str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)
    status, response = http_status(error), getattr(error, "response", None)
    reason = getattr(response, "reason", None) or getattr(response, "reason_phrase", None)
    if status is not None and isinstance(reason, str):
        message = server_message(error)
        host = urlsplit(str(getattr(response, "url", ""))).netloc.rpartition("@")[2]
        return f"{host or 'the server'} answers {status} {reason}".rstrip() + (f" ({message})" if message else "")
    lines = without_secrets(text).splitlines() or [type(error).__name__]
    # A first line that ends in a colon is incomplete without the next lines.
    return " ".join(map(str.strip, lines)) if lines[0].endswith(":") else lines[0]


def server_message(error: BaseException) -> str:
    """Return the error code and message of the server's answer; an empty string if the exception holds none."""
    code, message = _code(error), _first_group(_MESSAGE, _body(error))
    text = without_secrets(": ".join(filter(None, (code, message))))
    return " ".join(text.split())[:_MAX_MESSAGE]


def _code(error: BaseException) -> str:
    """Return the error code of an answer's body, otherwise that of its ``WWW-Authenticate`` header (RFC 6750)."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return str(response.get("Error", {}).get("Code", ""))
    headers = getattr(response, "headers", {})
    return _first_group(_CODE, _body(error)) or _first_group(_CHALLENGE, headers.get("WWW-Authenticate", ""))


def _body(error: BaseException) -> str:
    """Return the start of an answer's body, as far as the client has read it."""
    try:
        content = getattr(getattr(error, "response", None), "content", b"")
    except (RuntimeError, OSError):  # the stream was closed before it was read, or the connection was lost
        return ""
    return content[:_MAX_BODY_BYTES].decode("utf-8", "replace") if isinstance(content, bytes) else ""


def _first_group(pattern: re.Pattern[str], text: str) -> str:
    """Return the first non-empty group of a pattern's first match; an empty string without a match."""
    match = pattern.search(text)
    return next(filter(None, match.groups()), "").strip() if match else ""


def _kind_of_class(error: BaseException) -> ErrorKind | None:
    for base in type(error).__mro__:
        if (kind := _KINDS.get(f"{base.__module__}.{base.__qualname__}")) is not None:
            return kind
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and the exceptions that it wraps: its cause, or an argument (as in urllib3 and requests)."""
    seen: list[BaseException] = []
    inner: object = error
    while isinstance(inner, BaseException) and inner not in seen:
        yield inner
        seen.append(inner)
        wrapped = (inner.__cause__, getattr(inner, "reason", None), *inner.args)
        inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
