"""The address of a file on a web server: its URL, which may have to be signed again and again."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from ...errors import AuthenticationError, MissingFileError, ReadError
from ...errors.error_classes import ErrorKind, error_kind, error_text
from ...errors.secrets import expiry_of, is_signed, without_query
from ..access import access_advice, butler_token, file_token, is_permanent, origin_of
from .answers import AnswerError
from .sending import checked_answer, sent_request
from .webdav import webdav_settings

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from .process import Web

__all__ = ["Address"]

_EARLY = 300.0
"""A signature is renewed so many seconds before it expires, or at half its life if that is later."""

_S3_LIFE = 3600


class Address:
    """The address of a file.

    Parameters
    ----------
    web
        The requests of this process.
    uri
        ``http(s)://``, ``dav(s)://`` or ``s3://``; a permanent address of a Butler server is signed by that server.

    Attributes
    ----------
    signs
        Whether URLs are signed.
    url
        The last one; it may have expired.
    shown
        The URI without secrets, for messages.
    origin
        The server that was asked last.
    """

    def __init__(self, web: "Web", uri: str) -> None:
        self.uri, self.shown, self.origin = uri, without_query(uri), origin_of(uri)
        self.signs = uri.startswith("s3://") or is_permanent(uri)
        self.url = "" if self.signs else _http(uri)
        self._web = web
        self._until = 0.0 if self.signs else float("inf")
        self._lock = asyncio.Lock()

    async def current(self) -> str:
        """Return a URL that can be read now, signed again if it must be."""
        async with self._lock:
            if time.monotonic() >= self._until:
                if self.uri.startswith("s3://"):
                    self.url, life = await asyncio.to_thread(_signed_for_s3, self.uri), float(_S3_LIFE)
                else:
                    self.url, life = await self._signed_by_butler()
                self._until = time.monotonic() + max(life - _EARLY, life / 2)
                self._web.signatures += 1
            return self.url

    def expire(self, url: str) -> None:
        """Sign again before the next request, if that was not done since a URL was refused."""
        if self.url == url:
            self._until = 0.0

    def get(self, url: str, byte_range: str = "") -> "AbstractAsyncContextManager[ClientResponse]":
        """Send a request for the file, or for ``bytes=first-last`` of it."""
        self.origin = origin_of(url)
        headers = {"Range": byte_range} if byte_range else {}
        return sent_request(self._web, url, headers | _credentials(url), api=False)

    async def _signed_by_butler(self) -> tuple[str, float]:
        """Return a signed URL from the Butler server, and for how many seconds it is valid."""
        self.origin = origin_of(self.uri)
        async with sent_request(self._web, self.uri, _bearer(butler_token(self.uri)), api=True) as response:
            try:
                answer = await checked_answer(response)
            except AnswerError as error:
                if error_kind(error) is ErrorKind.MISSING:
                    raise MissingFileError(
                        f"{self.shown}: the server does not know this dataset any more: {error_text(error)}; make the plan again"
                    ) from error
                if error.refuses:
                    raise AuthenticationError(
                        f"{self.shown}: access is refused: {error_text(error)}{access_advice(self.uri)}"
                    ) from error
                raise
        target = answer.headers.get("Location")
        if answer.status_code not in (302, 303, 307, 308) or not target:
            raise ReadError(
                f"{self.shown}: the server answers {answer.status_code} instead of a URL of the file; check the server"
            )
        self._web.note_good(self._web.host(self.origin))
        url = urljoin(self.uri, target)
        expiry = expiry_of(url)
        # By the server's clock: the local one can be wrong.
        return url, float("inf") if expiry is None else expiry - answer.time


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _credentials(url: str) -> dict[str, str]:
    """Return the header that grants access to a file; an empty one for a URL that is signed, which S3 would refuse with both."""
    authorization = "" if is_signed(url) else webdav_settings(url).authorization
    return {"Authorization": authorization} if authorization else _bearer(file_token(url))


def _http(uri: str) -> str:
    """Return the URL of a WebDAV URI; any other one stays."""
    return f"http{uri.removeprefix('dav')}" if uri.startswith(("dav://", "davs://")) else uri


def _signed_for_s3(uri: str) -> str:
    from lsst.resources import ResourcePath

    path = ResourcePath(uri, forceDirectory=False)
    return path.generate_presigned_get_url(expiration_time_seconds=_S3_LIFE)
