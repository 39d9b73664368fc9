"""What the exceptions of other packages mean: one table, by the names of their classes.

Storage, network and database libraries have each their own tree of exceptions. Here they are told apart by what a
caller can do about them; a seam of this package (files, the Butler) gives each meaning its own class and words. The
classes are looked up by name, so that nothing is imported to catch what it never raises.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from urllib.parse import urlsplit

from .secrets import without_secrets

__all__ = [
    "ErrorKind",
    "error_kind",
    "error_text",
    "http_status",
    "server_message",
    "status_kind",
]


class ErrorKind(Enum):
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
    "httpx2.TimeoutException": ErrorKind.TIMEOUT,
    "httpx2.UnsupportedProtocol": ErrorKind.OTHER,
    "httpx2.TransportError": ErrorKind.UNAVAILABLE,
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
"""By qualified name. Of the classes of an exception the first that is named here counts, the most derived one first."""

_REFUSES = re.compile(
    r"expired|unauth|authenti|authoriz|access_?(?:denied|key)|permission_denied|signature|credential|skewed"
    r"|(?:invalid|missing)_?(?:security|token|client)|token_?refresh|insufficient_scope|userproject",
    re.IGNORECASE,
)
"""What codes of S3, Google, Azure and OAuth (RFC 6750) have in them that mean a refusal of access.

S3 and Google answer 400, not 403, when a session token is too old.
"""

_CODE = re.compile(
    r"<Code>\s*([^<\s]+)|\"(?:error|code|status|error_type)\"\s*:\s*\"([^\"]+)\"|<title>\s*([^<]+)", re.IGNORECASE
)
_MESSAGE = re.compile(r"<Message>\s*([^<]+)|\"(?:message|detail|error_description)\"\s*:\s*\"([^\"]+)\"")
_CHALLENGE = re.compile(r"\berror=\"([^\"]+)\"")
_LONGEST_BODY, _LONGEST_SAID = 4096, 300

_STATUS_IN_TEXT = re.compile(r"\bstatus(?: code)?:? (\d{3})\b|too many (\d{3}) error responses")
"""As `lsst.resources` writes it into a FileNotFoundError or a ValueError, and urllib3 when its own tries end."""


def error_kind(error: BaseException) -> ErrorKind | None:
    """Return what an exception means; None for one that is in no table and bears no HTTP status."""
    chain = list(_chain(error))
    for one in chain:
        if (status := http_status(one)) is not None:
            refused = status == 400 and any(_REFUSES.search(_code(other) or _body(other)) for other in chain)
            return ErrorKind.CREDENTIALS if refused else status_kind(status)
    found = [meaning for one in chain if (meaning := _by_class(one)) is not None]
    if not found:
        return None
    # "Cannot connect" around "timed out" is the second: the wrapper only says that its own tries are used up.
    return ErrorKind.TIMEOUT if found[0] is ErrorKind.UNAVAILABLE and ErrorKind.TIMEOUT in found else found[0]


def status_kind(status: int) -> ErrorKind:
    """Return what an HTTP status means (RFC 9110, section 15)."""
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


def http_status(error: BaseException) -> int | None:
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


def error_text(error: BaseException) -> str:
    """Return the words of an exception in one line, without what can give access; of an answer, what it says."""
    text = str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)
    status, response = http_status(error), getattr(error, "response", None)
    reason = getattr(response, "reason", None) or getattr(response, "reason_phrase", None)
    if status is not None and isinstance(reason, str):
        said = server_message(error)
        host = urlsplit(str(getattr(response, "url", ""))).netloc.rpartition("@")[2]
        return f"{host or 'the server'} answers {status} {reason}".rstrip() + (f" ({said})" if said else "")
    lines = without_secrets(text).splitlines() or [type(error).__name__]
    # A line that ends in a colon announces the next ones.
    return " ".join(map(str.strip, lines)) if lines[0].endswith(":") else lines[0]


def server_message(error: BaseException) -> str:
    """Return the code and the message in the answer that an exception bears; empty where there is none."""
    code, message = _code(error), _found(_MESSAGE, _body(error))
    words = without_secrets(": ".join(filter(None, (code, message))))
    return " ".join(words.split())[:_LONGEST_SAID]


def _code(error: BaseException) -> str:
    """Return the code in the body of an answer, else the one in its ``WWW-Authenticate`` header (RFC 6750)."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return str(response.get("Error", {}).get("Code", ""))
    headers = getattr(response, "headers", {})
    return _found(_CODE, _body(error)) or _found(_CHALLENGE, headers.get("WWW-Authenticate", ""))


def _body(error: BaseException) -> str:
    """Return the beginning of the body of an answer, as far as the client has read it."""
    try:
        content = getattr(getattr(error, "response", None), "content", b"")
    except (RuntimeError, OSError):  # a stream that was closed before it was read, or that breaks off
        return ""
    return content[:_LONGEST_BODY].decode("utf-8", "replace") if isinstance(content, bytes) else ""


def _found(pattern: re.Pattern[str], text: str) -> str:
    """Return the first group that a pattern finds."""
    match = pattern.search(text)
    return next(filter(None, match.groups()), "").strip() if match else ""


def _by_class(error: BaseException) -> ErrorKind | None:
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
