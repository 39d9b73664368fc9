"""Recognises signed URLs and tokens, and removes them from messages, tracebacks and logs."""

import contextlib
import logging
import re
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

__all__ = ["expiry_of", "hide_secrets", "is_signed", "without_query", "without_secrets"]

_SIGNATURES = {"signature", "x-amz-signature", "x-goog-signature", "sig"}
"""Query parameters of Amazon, Google and CloudFront (signature versions 2 and 4), and Azure."""

_QUERY = re.compile(r"\?[^\s'\")>\]]*=[^\s'\")>\]]*")
_SECRET = re.compile(
    r"((?:\b(?:signature|sig|awsaccesskeyid|googleaccessid|key-pair-id)|\bx-(?:amz|goog)-[\w-]+)(?:=|%3D)"
    r"|\b(?:signature|x-amz-security-token):\s*|\bbearer\s+(?!token\b))[^\s&'\",;)>\]]+",
    re.IGNORECASE,
)
"""Values of parameters and headers that grant access, and the ids of the keys that signed them."""

_LOGGERS = (
    "aiohttp.client",
    "aiohttp.internal",
    "asyncio",
    "httpx",
    "httpx2",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.util.retry",
    "botocore.auth",
    "botocore.endpoint",
    "lsst.resources.http",
    "lsst.resources._resourcePath",
)
"""Loggers that write URLs, signatures and request headers, mostly at level DEBUG."""


def is_signed(uri: str) -> bool:
    """Return whether a URI contains a signature, which grants access to everyone who has the URI."""
    return "?" in uri and not _SIGNATURES.isdisjoint(_query(uri))


def expiry_of(url: str) -> float | None:
    """Return when a signed URL expires, in seconds since 1970 (UTC); None if the URL has no expiry time."""
    query = _query(url)
    with contextlib.suppress(ValueError, OverflowError):
        if "expires" in query:  # Amazon and Google, version 2; CloudFront
            return float(query["expires"])
        for vendor in ("x-amz-", "x-goog-"):
            if f"{vendor}date" in query:
                start = datetime.strptime(query[f"{vendor}date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return start.timestamp() + float(query.get(f"{vendor}expires", "nan"))
        if "se" in query:  # Azure
            end = datetime.fromisoformat(query["se"])
            return end.replace(tzinfo=end.tzinfo or UTC).timestamp()
    return None


def _query(url: str) -> dict[str, str]:
    return {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}


def without_query(uri: str) -> str:
    """Return a URI without its query and password, which can grant access; for messages."""
    if not uri.startswith(("http://", "https://")):
        return uri
    parts = urlsplit(uri)
    return parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()


def without_secrets(text: str) -> str:
    """Return a text with URL queries, signatures and tokens replaced by ``...``."""
    return _SECRET.sub(r"\1...", _QUERY.sub("?...", text))


def hide_secrets(error: BaseException) -> None:
    """Remove URL queries, signatures and tokens from an exception and from all exceptions that it wraps, in place."""
    pending, seen = [error], set[int]()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        args = tuple(without_secrets(arg) if isinstance(arg, str) else arg for arg in one.args)
        if args != one.args:
            one.args = args
        linked = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        pending += [other for other in linked if isinstance(other, BaseException)]


def _redact(record: logging.LogRecord) -> bool:
    """Remove signatures and tokens from a log record (a logging filter that keeps every record)."""
    text = record.getMessage()
    if (redacted := without_secrets(text)) != text:
        record.msg, record.args = redacted, ()
    return True


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_redact)
