"""One file on a web server: its URL, which may have to be signed again and again, and the bytes of it that are here."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import numpy as np
from numpy.typing import NDArray

from ...errors import (
    AccessDeniedError,
    AuthenticationError,
    CorruptFileError,
    LsstCutoutsError,
    MissingFileError,
    ReadError,
    TransientReadError,
)
from ...errors.error_classes import ErrorKind, error_kind, error_text
from ...errors.secrets import expiry_of, is_signed, without_query
from ..access import access_advice, butler_token, file_token, is_permanent, origin_of
from ..disk.disk_cache import DiskCache
from ..read_errors import translate_errors
from ..runs import runs_of
from .answers import Answer, AnswerError, names_expiry, range_total
from .byte_parts import Part, PartTable, Rank
from .request_limits import connections
from .sending import checked_answer, sent_request
from .webdav import webdav_settings

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from .process import Web

__all__ = ["WebFile"]

_LARGEST_REQUEST = 1 << 20
"""Bytes of one request at most: many requests of this size share a link better than a few long ones."""

_JOINED = 128 << 10
"""Bytes of one request for parts that different batches asked for: more would delay the earlier batch."""

_MOST_RENEWALS = 4
"""Signatures for one request at most, where each is refused because it has expired: it may expire while the request waits."""

_EARLY = 300.0
"""A signature is renewed so many seconds before it expires, or at half its life if that is later."""

_REFUSED_SECONDS = 60.0
"""For so long a file that is missing or refused is not asked for again: every batch that has targets on it would do so."""

_S3_LIFE = 3600
_PROBES = 8
"""Other files that are tried when a server refuses one: enough to find an existing file among missing ones."""


class WebFile:
    """A file on a web server.

    Parameters
    ----------
    web
        The requests of this process.
    uri
        ``http(s)://``, ``dav(s)://`` or ``s3://``; a permanent address of a Butler server is signed by that server.
    size
        Bytes of the file as the repository recorded it, -1 if not known.
    key
        Names its content, which never changes: it is kept in the disk cache, if the size is known. Empty: it may change.
    others
        URIs of other files. If the server refuses this file, they show whether it refuses every file.

    Attributes
    ----------
    shown
        The URI without secrets, for messages.
    origin
        The server that was asked last.
    """

    def __init__(self, web: "Web", uri: str, size: int, key: bytes, others: Sequence[str]) -> None:
        self.shown, self.size, self.origin = without_query(uri), size, origin_of(uri)
        self._web, self._uri, self._others = web, uri, others
        self._key = key if size >= 0 else b""
        self._parts = PartTable()
        self._signs = uri.startswith("s3://") or is_permanent(uri)
        self._url = "" if self._signs else _http(uri)
        self._until = 0.0 if self._signs else float("inf")
        self._lock: asyncio.Lock | None = None
        self._refusal: LsstCutoutsError | None = None
        self._refused_until = 0.0

    # Called from any thread

    def want(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], rank: Rank) -> list[Part]:
        """Ask for extents ``(n,)`` of the file, several near each other with one request.

        Returns
        -------
        list of Part
            Holds the bytes of the extents that are not in the disk cache, as long as somebody refers to it.
        """
        held: dict[int, Part] = {}
        new: list[Part] = []
        disk = self._disk
        with self._web.lock:
            missing: list[tuple[int, int]] = []
            for start, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
                for part in self._good_over(start, start + size):
                    held[id(part)] = part
                missing += [
                    hole for hole in self._holes(start, start + size) if disk is None or disk.missing(self._key, *hole)
                ]
            if missing:
                first, last = np.array(missing, np.int64).T
                starts, stops, _ = runs_of(first, last - first, self._web.rates.gap(connections()), _LARGEST_REQUEST)
                for run in zip(starts.tolist(), stops.tolist(), strict=True):
                    for start, stop in self._holes(*run):
                        new.append(part := self._web.new_part(start, stop, rank))
                        self._parts.add(part)
            sooner = [part for part in held.values() if not part.future.done() and part.rank > rank]
            for part in sooner:
                part.rank = rank
        self._web.submit(self, [*new, *sooner])
        return [*held.values(), *new]

    def forget_parts(self) -> None:
        """Let nobody get what has been asked for until now; the lock must be held."""
        self._parts = PartTable()

    def resident(self, start: int, stop: int) -> bytes | None:
        """Return bytes that are in memory or in the disk cache, None if some are not; raise why they cannot be had."""
        with self._web.lock:
            parts = self._parts.over(start, stop)
        pieces: list[bytes | memoryview] = []
        at = start
        disk = self._disk
        for part in [*parts, None]:
            first = stop if part is None else max(part.start, start)
            if first > at:
                piece = None if disk is None else disk.read(self._key, at, first - at)
                if piece is None:
                    return None
                pieces.append(piece)
                at = first
            if part is None:
                break
            if not part.future.done():
                return None
            if (error := part.future.exception()) is not None:
                with self._web.lock:
                    self._parts.discard(part)  # another attempt asks again
                raise copy(error) from error.__cause__
            pieces.append(memoryview(part.future.result())[at - part.start : stop - part.start])
            at = min(stop, part.stop)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def _good_over(self, start: int, stop: int) -> list[Part]:
        return [part for part in self._parts.over(start, stop) if not part.failed]

    def _holes(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges of bytes that no part has."""
        found, at = [], start
        for part in self._parts.over(start, stop):
            if part.failed:
                self._parts.discard(part)
                continue
            if part.start > at:
                found.append((at, part.start))
            at = max(at, part.stop)
        return found + ([(at, stop)] if at < stop else [])

    @property
    def _disk(self) -> DiskCache | None:
        return DiskCache.of_process() if self._key else None

    # Called in the loop's thread

    def fail(self, part: Part, error: BaseException) -> None:
        """Let whoever waits for a part have an error."""
        part.received = bytearray()
        if not part.future.done():
            part.future.set_exception(error)

    def begin_with_neighbours(self, part: Part) -> list[Part]:
        """Return a part with those near it that nobody has begun, ascending: one request for all of them; the lock must be held."""
        parts = [part]
        gap = self._web.rates.gap(connections())
        near = self._parts.over(max(0, part.start - _JOINED), part.stop + _JOINED)
        near = near if part in near else [part]  # it may have been forgotten meanwhile
        at = near.index(part)
        for step, others in ((1, near[at + 1 :]), (-1, near[:at][::-1])):
            for other in others:
                first, last = (parts[0], other) if step > 0 else (other, parts[-1])
                space = other.start - parts[-1].stop if step > 0 else parts[0].start - other.stop
                far = other.rank.number > part.rank.number + part.rank.reach
                if far or other.begun or other.future.done() or space > gap or last.stop - first.start > _JOINED:
                    break
                parts = [*parts, other] if step > 0 else [other, *parts]
        for one in parts:
            one.begun = True
        return parts

    async def receive(self, parts: Sequence[Part]) -> None:
        """Receive the bytes of parts near each other; those that came before an error stay, and the next attempt asks for the rest.

        Raises
        ------
        LsstCutoutsError
            Why they did not come; it says whether another attempt can succeed.
        """
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise copy(self._refusal)
        try:
            await self._receive(parts)
        except (AccessDeniedError, MissingFileError) as error:
            self._refusal, self._refused_until = error.with_traceback(None), time.monotonic() + _REFUSED_SECONDS
            raise

    async def _receive(self, parts: Sequence[Part]) -> None:
        with translate_errors(self.shown, access_advice(self._uri, self._url)):
            for renewals in range(_MOST_RENEWALS + 1):
                url = await self._address()
                try:
                    await self._request(url, [part for part in parts if not part.future.done()])
                except AnswerError as error:
                    expired = names_expiry(error)
                    if not (error.refuses and self._signs and renewals < (_MOST_RENEWALS if expired else 1)):
                        await self._raise_refusal(error)
                    if self._url == url:
                        self._until = 0.0
                else:
                    return

    async def _request(self, url: str, parts: list[Part]) -> None:
        start, stop = parts[0].start + len(parts[0].received), parts[-1].stop
        async with self._get(url, {"Range": f"bytes={start}-{stop - 1}", **_credentials(url)}) as response:
            answer = await checked_answer(response)
            if answer.status_code == 200:
                await self._receive_whole(response, answer, parts)
                return
            total = range_total(answer, start, stop)
            if self.size not in (-1, total):
                raise CorruptFileError(
                    f"{self.shown} has {total} bytes, but had {self.size} bytes when it was opened or recorded in the repository; it "
                    "was overwritten: transfer it again or start again"
                )
            self.size = total
            end = parts[-1].stop = min(stop, total)
            at, waiting = start, deque(parts)
            async for chunk in response.content.iter_any():
                self._web.rates.arrived(len(chunk))
                self._distribute(memoryview(chunk), at, waiting)
                at += len(chunk)
            if at > end:
                raise ReadError(f"{self.shown}: the server sends more bytes than were requested; use another server")
            if at < end:
                raise TransientReadError(
                    f"{self.shown}: the connection ended after {at - start} of {end - start} bytes; check the network and the server"
                )
        self._web.note_good(self._web.host(origin_of(url)), self._uri)

    def _distribute(self, chunk: memoryview, at: int, waiting: deque[Part]) -> None:
        """Give bytes from ``at`` to the parts that wait for them, in order; those that are complete are removed."""
        while waiting and len(chunk):
            part = waiting[0]
            skip = part.start + len(part.received) - at
            if skip > 0:  # between two parts
                chunk, at = chunk[skip:], at + skip
                continue
            took = chunk[: part.stop - at]
            part.received += took
            chunk, at = chunk[len(took) :], at + len(took)
            if at == part.stop:
                self._finish(waiting.popleft())

    def _finish(self, part: Part) -> None:
        """Hand over a part that is complete."""
        data, part.received = bytes(part.received), bytearray()
        if (disk := self._disk) is not None:
            disk.write(self._key, part.start, data)
        if part.future.set_running_or_notify_cancel():
            part.future.set_result(data)
        self._web.keep(part)

    async def _receive_whole(self, response: "ClientResponse", answer: Answer, parts: Sequence[Part]) -> None:
        """Receive a file from a server that sends all of it, whatever range is requested, into the disk cache."""
        length = response.content_length
        if self._lock is None:
            self._lock = asyncio.Lock()
        disk = self._disk
        async with self._lock:
            if disk is None or length is None or self.size not in (-1, length):
                raise ReadError(
                    f"{self.shown}: the server ignores byte ranges and sends the whole file for every tile; use a server that answers "
                    "206 to Range requests, switch the disk cache on (LSSTCUTOUTS_CACHE), or copy the files to a local disk"
                )
            if disk.missing(self._key, 0, length):
                self._web.warn_once(
                    f"{self.origin} ignores byte ranges: every file is downloaded as a whole, once, into the disk cache"
                )
                disk.write(self._key, 0, answer.content)
                at = len(answer.content)
                async for chunk in response.content.iter_chunked(1 << 20):
                    disk.write(self._key, at, chunk)
                    at += len(chunk)
                    self._web.rates.arrived(len(chunk))
            self.size = length
            for part in parts:
                part.stop = min(part.stop, length)
                data = disk.read(self._key, part.start, part.stop - part.start)
                if data is None:
                    raise ReadError(
                        f"{self.shown}: the whole file does not fit into the disk cache; increase LSSTCUTOUTS_CACHE_BYTES"
                    )
                part.received = bytearray(data)
                self._finish(part)

    async def _address(self) -> str:
        """Return a URL that can be read now, signed again if it must be."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if time.monotonic() >= self._until:
                if self._uri.startswith("s3://"):
                    self._url, life = await asyncio.to_thread(_signed_for_s3, self._uri), float(_S3_LIFE)
                else:
                    self._url, life = await self._signed_by_butler()
                self._until = time.monotonic() + max(life - _EARLY, life / 2)
                self._web.signatures += 1
            return self._url

    async def _signed_by_butler(self) -> tuple[str, float]:
        """Return a signed URL from the Butler server, and for how many seconds it is valid."""
        async with self._get(self._uri, _bearer(butler_token(self._uri)), api=True) as response:
            try:
                answer = await checked_answer(response)
            except AnswerError as error:
                if error_kind(error) is ErrorKind.MISSING:
                    raise MissingFileError(
                        f"{self.shown}: the server does not know this dataset any more: {error_text(error)}; make the plan again"
                    ) from error
                if error.refuses:
                    raise AuthenticationError(
                        f"{self.shown}: access is refused: {error_text(error)}{access_advice(self._uri)}"
                    ) from error
                raise
        target = answer.headers.get("Location")
        if answer.status_code not in (302, 303, 307, 308) or not target:
            raise ReadError(
                f"{self.shown}: the server answers {answer.status_code} instead of a URL of the file; check the server"
            )
        self._web.note_good(self._web.host(origin_of(self._uri)))
        url = urljoin(self._uri, target)
        expiry = expiry_of(url)
        # By the server's clock: the local one can be wrong.
        return url, float("inf") if expiry is None else expiry - answer.time

    def _get(
        self, url: str, headers: dict[str, str], *, api: bool = False
    ) -> "AbstractAsyncContextManager[ClientResponse]":
        self.origin = origin_of(url)
        return sent_request(self._web, url, headers, api=api)

    async def _raise_refusal(self, error: AnswerError) -> None:
        """Raise the error for an HTTP error status; for 403, find out whether only this file is refused."""
        signed = is_signed(error.response.url)
        may_be_missing = error.response.status_code == 403 and signed and not names_expiry(error)
        if not error.refuses or not (may_be_missing and expiry_of(error.response.url)):
            raise error
        for uri in self._others_of_host():
            if await self._web.file(uri, others=()).is_served():
                raise AccessDeniedError(
                    f"{self.shown}: the file does not exist, or this user has no permission to read it: {error_text(error)}; S3 gives "
                    "this answer in both cases, and other files of this host can be read: check the path and the permissions"
                ) from error
        advice = access_advice(self._uri, self._url)
        hint = "; the file may also be missing: S3 gives this answer for a missing file if listing is not allowed"
        raise AuthenticationError(f"{self.shown}: access is refused: {error_text(error)}{advice}{hint}") from error

    def _others_of_host(self) -> list[str]:
        """Return the URIs of a few other files of this host, the last one that was served first."""
        root = origin_of(self._uri)
        others = [uri for uri in self._others if origin_of(uri) == root]
        served = self._web.host(self.origin).served
        found = [served if origin_of(served) == root else "", *others[:: max(1, len(others) // _PROBES)][:_PROBES]]
        return [uri for uri in found if uri and without_query(uri) != self.shown]

    async def download(self) -> bytes:
        """Return the whole content."""
        async with self._get(self._url, _credentials(self._url)) as response:
            try:
                answer = await checked_answer(response)
            except AnswerError as error:
                if error.refuses:
                    raise AuthenticationError(
                        f"{self.shown}: access is refused: {error_text(error)}{access_advice(self._uri)}"
                    ) from error
                raise
            if answer.status_code != 200:
                raise ReadError(
                    f"{self.shown}: the server answers {answer.status_code} instead of the file; check the URL"
                )
            return answer.content + await response.content.read()

    async def is_served(self) -> bool:
        """Whether the first byte can be read now."""
        try:
            url = await self._address()
            async with self._get(url, {"Range": "bytes=0-0", **_credentials(url)}) as response:
                return (await checked_answer(response)).status_code == 206
        except Exception as error:
            if error_kind(error) is None and not isinstance(error, LsstCutoutsError):
                raise
            return False


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
