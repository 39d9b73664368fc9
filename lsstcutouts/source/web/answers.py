"""Answers of web servers: what is wrong with one, and when to ask again."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ...errors import ReadError
from ...errors.error_classes import ErrorKind, error_kind, server_message
from ...errors.secrets import expiry_of, without_query

__all__ = ["Answer", "AnswerError", "names_expiry", "range_total", "web_page"]

_START_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer without its body, or with the start of it.

    Attributes
    ----------
    url
        What was asked for.
    status_code, reason
        HTTP status.
    headers
        HTTP headers; any case.
    content
        The start of the body.
    """

    url: str
    status_code: int
    reason: str
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def time(self) -> float:
        """Time of the answer, seconds since 1970, by the server's clock if given: the local clock can be wrong."""
        try:
            return parsedate_to_datetime(self.headers["Date"]).timestamp()
        except (KeyError, ValueError):
            return time.time()

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again; None if it does not say."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isdigit():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self.time)
        except ValueError:
            return None


class AnswerError(OSError):
    """An answer with an HTTP error status.

    Attributes
    ----------
    response
        The answer, by the name under which other HTTP libraries keep theirs.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status_code} {answer.reason} for {without_query(answer.url)}")
        self.response = answer

    @property
    def refuses(self) -> bool:
        """Whether access is refused."""
        return error_kind(self) is ErrorKind.CREDENTIALS


def names_expiry(error: AnswerError) -> bool:
    """Whether a refusal can only mean that a signature has expired, or that clocks differ; not that a file is missing."""
    expiry = expiry_of(error.response.url)
    expired = expiry is not None and expiry <= error.response.time
    return expired or re.search("expire|skew", server_message(error), re.IGNORECASE) is not None


def range_total(answer: Answer, start: int, stop: int) -> int:
    """Return the size of the file from an answer to a request for the bytes from ``start`` to ``stop``.

    Raises
    ------
    ReadError
        If it is not the answer to this request.
    """
    shown, text = without_query(answer.url), answer.headers.get("Content-Range", "")
    unit, _, rest = text.strip().partition(" ")
    found, _, total = rest.partition("/")
    advice = "use a server that supports byte ranges, or copy the files to a local disk"
    if answer.status_code != 206 or unit.lower() != "bytes" or not total.strip().isdigit():
        raise ReadError(
            f"{shown}: the server answers {answer.status_code} with Content-Range {text!r} to a request for a byte range; {advice}"
        )
    if found.strip() != f"{start}-{min(stop, int(total)) - 1}":
        raise ReadError(
            f"{shown}: the server sends bytes {found.strip()} instead of the requested {start}-{stop - 1}; {advice}"
        )
    return int(total)


def web_page(answer: Answer) -> str | None:
    """Return a description of an answer that is a web page instead of a file; None for any other answer."""
    text = answer.content.lstrip()[:_START_BYTES].decode("utf-8", "replace")
    if not re.match(
        r"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", text, re.IGNORECASE | re.DOTALL
    ):
        return None
    title = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE)
    named = f" ({' '.join(title[1].split())[:80]!r})" if title else ""
    return f"{urlsplit(answer.url).hostname} answers with a web page{named}, probably a login page, instead of the file"
