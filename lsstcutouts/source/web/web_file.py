"""One file on a web server: its URL, which may have to be signed again and again, and the bytes of it that are here."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
from ...errors.error_classes import error_kind, error_text, fresh
from ...errors.secrets import expiry_of, is_signed, without_query
from ..access import access_advice, origin_of
from ..disk.disk_cache import DiskCache
from ..read_errors import translate_errors
from ..runs import runs_of
from .address import Address
from .answers import Answer, AnswerError, names_expiry, range_total
from .byte_parts import Part, PartTable, Rank, without
from .request_limits import TimeLimits, connections
from .sending import checked_answer

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from .process import Web

__all__ = ["LOOK_SECONDS", "RangeRequest", "WebFile"]

_LARGEST_REQUEST = 1 << 20
"""Bytes of one request at most: many requests of this size share a link better than a few long ones."""

_JOINED = 128 << 10
"""Bytes of one request for parts that different batches asked for: more would delay the earlier batch."""

_MOST_RENEWALS = 4
"""Signatures for one request at most, where each is refused because it has expired: it may expire while the request waits."""

LOOK_SECONDS = 0.03
"""Time between two looks for bytes that another process is fetching."""

_REFUSED_SECONDS = 60.0
"""For so long a file that is missing or refused is not asked for again: every batch that has targets on it would do so."""

_PROBES = 8
"""Other files that are tried when a server refuses one: enough to find an existing file among missing ones."""


class RangeRequest(NamedTuple):
    """A request for a range of bytes ``start`` to ``stop`` of a file, for parts near each other, ascending.

    ``end`` tells other processes that it has ended.
    """

    parts: list[Part]
    start: int
    stop: int
    end: Callable[[], None]


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
    """

    def __init__(self, web: "Web", uri: str, size: int, key: bytes, others: Sequence[str]) -> None:
        self.size = size
        self._address = Address(web, uri)
        self.shown = self._address.shown
        self._web, self._uri, self._others = web, uri, others
        self._key = key if size >= 0 else b""
        self._parts = PartTable()
        self._whole = asyncio.Lock()
        self._refusal: LsstCutoutsError | None = None
        self._refused_until = 0.0

    @property
    def origin(self) -> str:
        """The server that was asked last."""
        return self._address.origin

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
                raise fresh(error) from error.__cause__
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

    def divide(self, parts: list[Part]) -> RangeRequest | None:
        """Return what to request now for parts near each other, ascending; the rest of them is asked for afterwards.

        Bytes that another process of this machine has put into the disk cache are taken from there. Those that one is fetching
        are left to it. None: nothing else is missing.
        """
        missing = [one for part in parts for one in part.missing]
        start, stop = missing[0][0], missing[-1][1]
        disk = self._disk
        if disk is None:
            return RangeRequest(parts, start, stop, lambda: None)
        claims = disk.claims
        claim = claims.begin(self._key, start, stop)
        others, new = claims.of_others(claim)
        disk.missing(self._key, start, stop, refresh=new)
        self._take_from(disk, parts)
        now, most = time.monotonic(), TimeLimits.from_environment().idle
        if others and all(now - part.left_since < most for part in parts if part.left_since):
            for part in parts:
                part.left_since = part.left_since or now
        else:
            others = []
        missing = without([one for part in parts for one in part.missing], others)
        if not missing:
            claims.end(claim)
            return None
        start, stop = missing[0]
        gap = self._web.rates.gap(connections())
        for first, last in missing[1:]:
            if first - stop > gap:
                break
            stop = last
        claims.change(claim, start, stop)
        return RangeRequest(parts, start, stop, partial(claims.end, claim))

    def _take_from(self, disk: DiskCache, parts: list[Part]) -> None:
        """Take bytes that other processes have written to the disk cache just now."""
        for part in parts:
            for start, stop in part.missing:
                for first, last in without([(start, stop)], disk.missing(self._key, start, stop)):
                    if (data := disk.read(self._key, first, last - first)) is not None:
                        part.put(first, memoryview(data))
            if not part.missing:
                self._finish(part)

    async def receive(self, request: RangeRequest) -> None:
        """Receive the bytes of a request; those that came before an error stay, and the next attempt asks for the rest.

        Raises
        ------
        LsstCutoutsError
            Why they did not come; it says whether another attempt can succeed.
        """
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise fresh(self._refusal)
        try:
            await self._receive(request)
        except (AccessDeniedError, MissingFileError) as error:
            self._refusal, self._refused_until = error.with_traceback(None), time.monotonic() + _REFUSED_SECONDS
            raise

    async def _receive(self, request: RangeRequest) -> None:
        with translate_errors(self.shown, access_advice(self._uri, self._address.url)):
            for renewals in range(_MOST_RENEWALS + 1):
                url = await self._address.current()
                try:
                    await self._request(url, request)
                except AnswerError as error:
                    expired = names_expiry(error)
                    if not (error.refuses and self._address.signs and renewals < (_MOST_RENEWALS if expired else 1)):
                        await self._raise_refusal(error)
                    self._address.expire(url)
                else:
                    return

    async def _request(self, url: str, request: RangeRequest) -> None:
        host = self._web.host(origin_of(url))
        async with AsyncExitStack() as alone:
            if not host.takes_ranges:  # the answer may be the whole file: one request at a time
                await alone.enter_async_context(self._whole)
                if host.takes_ranges:
                    await alone.aclose()
                elif self._put_from_disk(request.parts):
                    return
            async with self._address.get(url, f"bytes={request.start}-{request.stop - 1}") as response:
                answer = await checked_answer(response)
                knew, host.takes_ranges = host.takes_ranges, answer.status_code != 200
                if not host.takes_ranges:
                    if knew:
                        await alone.enter_async_context(self._whole)
                    await self._receive_whole(response, answer, request.parts)
                    return
                await alone.aclose()
                await self._receive_range(response, answer, request)
        self._web.note_good(host, self._uri)

    async def _receive_range(self, response: "ClientResponse", answer: Answer, request: RangeRequest) -> None:
        parts, start, stop, _ = request
        total = range_total(answer, start, stop)
        if self.size not in (-1, total):
            raise CorruptFileError(
                f"{self.shown} has {total} bytes, but had {self.size} bytes when it was opened or recorded in the repository; it "
                "was overwritten: transfer it again or start again"
            )
        self.size = total
        for part in parts:
            part.end_at(total)
        at, end = start, min(stop, total)
        async for chunk in response.content.iter_any():
            self._web.rates.arrived(len(chunk))
            self._put(parts, at, memoryview(chunk))
            at += len(chunk)
        if at > end:
            raise ReadError(f"{self.shown}: the server sends more bytes than were requested; use another server")
        if at < end:
            raise TransientReadError(
                f"{self.shown}: the connection ended after {at - start} of {end - start} bytes; check the network and the server"
            )

    def _put(self, parts: Sequence[Part], at: int, data: memoryview) -> None:
        """Give bytes from ``at`` to parts, and hand over those that are complete."""
        for part in parts:
            if not part.future.done():
                part.put(at, data)
                if not part.missing:
                    self._finish(part)

    def _finish(self, part: Part) -> None:
        """Hand over a part that is complete."""
        data = part.take()
        if (disk := self._disk) is not None:
            disk.write(self._key, part.start, data)
        if part.future.set_running_or_notify_cancel():
            part.future.set_result(data)
        self._web.keep(part)

    async def _receive_whole(self, response: "ClientResponse", answer: Answer, parts: Sequence[Part]) -> None:
        """Receive a file from a server that sends all of it, whatever range is requested, into the disk cache."""
        length = response.content_length
        disk = self._disk
        if disk is None or length is None or self.size not in (-1, length):
            raise ReadError(
                f"{self.shown}: the server ignores byte ranges and sends the whole file for every tile; use a server that answers "
                "206 to Range requests, switch the disk cache on (LSSTCUTOUTS_CACHE), or copy the files to a local disk"
            )
        self.size = length
        if self._put_from_disk(parts):
            return
        self._web.warn_once(
            f"{self.origin} ignores byte ranges: every file is downloaded as a whole, once, into the disk cache"
        )
        disk.write(self._key, 0, answer.content)
        at = len(answer.content)
        async for chunk in response.content.iter_chunked(1 << 20):
            disk.write(self._key, at, chunk)
            at += len(chunk)
            self._web.rates.arrived(len(chunk))
        if not self._put_from_disk(parts):
            raise ReadError(
                f"{self.shown}: the whole file does not fit into the disk cache; increase LSSTCUTOUTS_CACHE_BYTES"
            )

    def _put_from_disk(self, parts: Sequence[Part]) -> bool:
        """Give parts their bytes from the disk cache; return whether all are there."""
        disk = self._disk
        if disk is None or disk.missing(self._key, 0, self.size):
            return False
        for part in parts:
            part.end_at(self.size)
            data = disk.read(self._key, part.start, part.stop - part.start)
            if data is None:
                return False
            self._put([part], part.start, memoryview(data))
        return True

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
        advice = access_advice(self._uri, self._address.url)
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
        async with self._address.get(self._address.url) as response:
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
            url = await self._address.current()
            async with self._address.get(url, "bytes=0-0") as response:
                return (await checked_answer(response)).status_code == 206
        except Exception as error:
            if error_kind(error) is None and not isinstance(error, LsstCutoutsError):
                raise
            return False
