"""Sends one request, and looks at the start of its answer."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ...errors import AuthenticationError
from ...errors.secrets import without_query
from ..access import access_advice, origin_of
from .answers import Answer, AnswerError, web_page
from .request_limits import TimeLimits

if TYPE_CHECKING:
    from types import SimpleNamespace

    from aiohttp import ClientResponse, ClientSession

    from .process import Web

__all__ = ["checked_answer", "note_sending", "sent_request"]

_START_BYTES = 4096
"""Bytes that are read of an answer that is not a file: an XML error, the start of a web page."""


@asynccontextmanager
async def sent_request(web: "Web", url: str, headers: dict[str, str], *, api: bool) -> "AsyncIterator[ClientResponse]":
    """Send a request when its server wants requests, and yield the answer after its headers have come.

    Parameters
    ----------
    web
        The requests of this process.
    url, headers
        What is asked for.
    api
        Whether the server is a Butler server, whose redirections are not followed: they are the answer.
    """
    from aiohttp import ClientTimeout
    from yarl import URL

    host = web.host(origin_of(url))
    await web.wait_for(host)
    limits, sent = TimeLimits.from_environment(), [time.monotonic()]
    async with web.session(host.origin, api=api).get(
        URL(url, encoded=True),
        headers=headers,
        allow_redirects=not api,
        timeout=ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.idle),
        proxy=host.proxy,
        trace_request_ctx=sent,
    ) as response:
        if not api:
            web.rates.answered(time.monotonic() - sent[-1])
        yield response


async def note_sending(_session: "ClientSession", context: "SimpleNamespace", _request: object) -> None:
    """Note when the headers of a request are sent: before that, a connection may have to be made."""
    context.trace_request_ctx.append(time.monotonic())


async def checked_answer(response: "ClientResponse") -> Answer:
    """Return an answer, for status 200 with the start of its body; raise for an error status, and for a web page."""
    answer = Answer(str(response.url), response.status, response.reason or "", response.headers)
    if response.status >= 400:
        try:
            body = await response.content.read(_START_BYTES)
        except (TimeoutError, OSError):  # the status alone is enough
            body = b""
        raise AnswerError(Answer(answer.url, answer.status_code, answer.reason, answer.headers, body))
    if response.status == 200:
        start = await response.content.read(_START_BYTES)
        answer = Answer(answer.url, answer.status_code, answer.reason, answer.headers, start)
        if (page := web_page(answer)) is not None:
            raise AuthenticationError(
                f"{without_query(answer.url)}: access is refused: {page}{access_advice(answer.url)}"
            )
    return answer
