"""The requests of a process to web servers: one thread, bounded in number, most urgent first, retried where that can help."""

import asyncio
import atexit
import heapq
import itertools
import logging
import os
import random
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import DependencyError, LsstCutoutsError, RepositoryUnavailableError
from ..locks import ForkLock
from ..patience import UNNOTICED, log_return, log_waiting, patience_for, unavailable_error
from .answers import AnswerError
from .byte_parts import Part, Rank
from .certificates import CERTIFICATE_VARIABLES, trusted_certificates
from .hosts import Host, WebFigures
from .rates import Rates
from .request_limits import TimeLimits, connections
from .sending import note_sending
from .web_file import LOOK_SECONDS, RangeRequest, WebFile
from .webdav import webdav_settings

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = [
    "Web",
    "WebFigures",
    "check_web",
    "figures_of_process",
    "forget_bytes",
    "forget_requests",
    "start_afresh",
    "web_of_process",
]

_log = logging.getLogger(__name__)

_TRIES = 8
"""Tries of a request that brings nothing, while the server answers others."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Longest wait after the first try and after any try, seconds; a uniformly random part of it is waited, so that the many
readers that a server refused do not return at the same time."""

_STILL_FAILING = 60.0
"""A server that does not answer is not waited for any more if its last failure was so many seconds ago."""

_FILES = 20_000
"""Files whose signed URLs are remembered."""

_RECENT_BYTES = 64_000_000
"""Bytes that stay in memory after they have arrived, whether or not anybody refers to them."""

_API_SHARE = 4
"""This part of the connections is for the Butler server, which signs URLs; the others are for the files."""


def check_web() -> None:
    """Import what reading over the network needs, which takes a quarter of a second the first time.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "reading files over the network needs a package that is not installed: pip install 'lsstcutouts[remote]'"
        ) from error


class Web:
    """The requests of one process. A thread with an event loop starts at the first one; it ends with the process.

    Raises
    ------
    DependencyError
        If ``aiohttp`` is not installed.
    """

    def __init__(self) -> None:
        check_web()
        self._process = os.getpid()
        self.lock = ForkLock()
        self.gone: deque[int] = deque()
        self.rates = Rates()
        self.signatures = 0
        self.failed = (
            False  # whether some reading ended with an error, whose threads may still have asked for something
        )
        self._files: OrderedDict[tuple[str, bytes], WebFile] = OrderedDict()
        self._hosts: dict[str, Host] = {}
        self._numbers = itertools.count(1)
        self._queue: list[tuple[int, int, weakref.ref[Part], WebFile]] = []
        self._recent: deque[Part] = deque()
        self._recent_bytes = self._made = self._active = self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: dict[str, ClientSession] = {}
        self._warned: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests-of-lsstcutouts", daemon=True)
        self._thread.start()

    # Called from any thread

    def next_rank(self, reach: int) -> Rank:
        """Return a rank after all those before."""
        return Rank(next(self._numbers), reach)

    def file(self, uri: str, size: int = -1, key: bytes = b"", others: Sequence[str] = ()) -> WebFile:
        """Return the file of a URI, the same one each time if its content has a key; the parameters are those of `WebFile`."""
        if not key:
            return WebFile(self, uri, size, key, others)
        with self.lock:
            file = self._files.get((uri, key))
            if file is None:
                file = self._files[uri, key] = WebFile(self, uri, size, key, others)
            self._files.move_to_end((uri, key))
            if len(self._files) > _FILES:
                self._files.popitem(last=False)
        return file

    def new_part(self, start: int, stop: int, rank: Rank) -> Part:
        """Return a part that counts as held; the lock must be held."""
        self._made += stop - start
        return Part(start, stop, rank, self.gone)

    def submit(self, file: WebFile, parts: Sequence[Part]) -> None:
        """Ask for parts of a file, or ask for them earlier than before."""
        with self.lock:
            for part in parts:
                heapq.heappush(self._queue, (part.rank.number, next(self._numbers), weakref.ref(part), file))
        self._loop.call_soon_threadsafe(self._dispatch)

    def forget(self) -> None:
        """Drop the bytes in memory that nobody refers to, and all signed URLs."""
        with self.lock:
            self._recent.clear()
            self._recent_bytes = 0
            self._files.clear()

    def forget_requests(self) -> None:
        """Let nobody who asks from now on get what is under way, or has failed: it may fail for a reason that is gone by then."""
        with self.lock:
            self.failed = True
            for file in self._files.values():
                file.forget_parts()

    def download(self, uri: str) -> bytes:
        """Return the whole content of a small file."""
        return asyncio.run_coroutine_threadsafe(self.file(uri).download(), self._loop).result()

    @property
    def held(self) -> int:
        """Bytes that are under way, or in memory."""
        with self.lock:
            while self.gone:
                self._made -= self.gone.popleft()
            return self._made - self._recent_bytes

    @property
    def figures(self) -> WebFigures:
        """What the requests have done so far."""
        rates, now = self.rates, time.monotonic()
        silent = [
            host for host in list(self._hosts.values()) if host.silent_since and now - host.failed < _STILL_FAILING
        ]
        waiting = f"{silent[0].origin} ({now - silent[0].silent_since:.0f} s)" if silent else ""
        return WebFigures(
            rates.requests,
            rates.data_bytes,
            self.signatures,
            self._active,
            self.held,
            rates.rate,
            rates.latency,
            waiting,
        )

    def close(self) -> None:
        """End the thread and all connections; what is under way fails. A forked process leaves them to its parent."""
        if self._loop.is_closed() or self._process != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def leave_to_parent(self) -> None:
        """In a forked process: let nothing of this be closed here.

        Sessions and connectors close their sockets when they are collected as garbage, and tell the selector, which the
        processes share: the parent would not learn any more that an answer has come.
        """
        for session in self._sessions.values():
            connector, session._connector = session._connector, None
            if connector is not None:
                connector._closed = True

    # Called in the loop's thread

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()

    def session(self, origin: str, *, api: bool) -> "ClientSession":
        """Return the session for a server, a Butler server or one of files: connections, certificates.

        Certificates are those of the variables of ``lsst.resources``.
        """
        import aiohttp

        most, webdav = connections(), webdav_settings(origin)
        name = f"{api} {most} {webdav} {[os.environ.get(variable) for variable in CERTIFICATE_VARIABLES]}"
        if (session := self._sessions.get(name)) is None:
            limit = _api_share(most) if api else most - _api_share(most)
            limits = TimeLimits.from_environment()
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(note_sending)
            session = self._sessions[name] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit, ssl=trusted_certificates(webdav), keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.idle),
                headers={"User-Agent": f"lsstcutouts/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
            )
        return session

    def host(self, origin: str) -> Host:
        """Return what is known of a server."""
        if (host := self._hosts.get(origin)) is None:
            host = self._hosts[origin] = Host(origin)
        return host

    def note_good(self, host: Host, served: str = "") -> None:
        """Note that a server answers, and the URI of a file that it gave bytes of."""
        host.last_good, host.served = time.monotonic(), served or host.served
        if host.warned:
            log_return(host.origin, host.last_good - host.silent_since)
        host.silent_since, host.warned = 0.0, False

    async def wait_for(self, host: Host) -> None:
        """Wait until a server wants requests again."""
        while (seconds := host.paused_until - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    def warn_once(self, text: str) -> None:
        """Log a warning once in this process."""
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s", text)

    def _dispatch(self) -> None:
        most = connections()
        most -= _api_share(most)
        while self._active < most and self._flying < self.rates.in_flight():
            with self.lock:
                if not self._queue:
                    return
                _, _, ref, file = heapq.heappop(self._queue)
                part = ref()
                if part is None or part.begun:  # nobody wants it any more, or it was in the queue twice
                    continue
                parts = file.begin_with_neighbours(part)
            try:
                request = file.divide(parts)
            except Exception as error:  # noqa: BLE001 - raised where the bytes are asked for, or somebody would wait for ever
                for part in parts:
                    file.fail(part, error)
                del part, parts
                continue
            if request is None:
                for part in parts:
                    if not part.future.done():
                        self._loop.call_later(LOOK_SECONDS, self._again, file, part)
                del part, parts
                continue
            self._active += 1
            self._flying += request.stop - request.start
            task = self._loop.create_task(self._try(file, request))
            del part, parts, request
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _try(self, file: WebFile, request: RangeRequest) -> None:
        before = [part.arrived for part in request.parts]
        failure: BaseException | None = None
        try:
            await file.receive(request)
        except asyncio.CancelledError:
            failure = RepositoryUnavailableError(f"{file.shown}: reading was ended")
            failure.transient = False  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - raised where the bytes are asked for
            failure = error
        finally:
            request.end()
            for part, had in zip(request.parts, before, strict=True):
                if part.future.done():
                    continue
                if failure is None:  # the rest was left to another process, or is far away in the file
                    self._again(file, part)
                elif isinstance(failure, LsstCutoutsError):
                    self._failed(file, part, failure, progress=part.arrived > had)
                else:
                    file.fail(part, failure)
            self._active -= 1
            self._flying -= request.stop - request.start
            self._dispatch()

    def _failed(self, file: WebFile, part: Part, error: LsstCutoutsError, *, progress: bool) -> None:
        """Try again later, or let the part fail."""
        if not error.transient:
            file.fail(part, error)
            return
        host = self.host(file.origin)
        if progress:
            part.tries, part.failing_since = 0, 0.0
            self.note_good(host)
        host.failed = now = time.monotonic()
        part.failing_since = part.failing_since or now
        part.tries += 1
        since = host.silent_since or part.failing_since
        answers = host.last_good > since
        if answers and part.tries >= _TRIES:
            error.add_note(f"tried {part.tries} times")
            file.fail(part, error)
            return
        patience = patience_for(answered=host.last_good >= 0)
        left, cause = since + patience - now, error.__cause__
        wanted = cause.response.retry_after if isinstance(cause, AnswerError) else None
        if not answers:
            host.silent_since = since
            if now - since > UNNOTICED and not host.warned:
                host.warned = True
                log_waiting(file.origin, patience, cause or error)
        if part.asked < host.given_up or (wanted or 0.0) > left or left <= 0:
            if left <= 0:
                host.given_up, host.silent_for, host.silent_since, host.warned = now, now - since, 0.0, False
            longer = wanted if wanted is not None and wanted > patience else 0.0
            file.fail(part, unavailable_error(file.origin, error, silent_for=host.silent_for, wanted=longer))
            return
        if wanted is not None:
            host.paused_until = max(host.paused_until, now + wanted)
        wait = random.SystemRandom().random() * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(part.tries - 1, 10))
        self._loop.call_later(min(wait, left) if wanted is None else wanted, self._again, file, part)

    def _again(self, file: WebFile, part: Part) -> None:
        part.begun = False
        self.submit(file, [part])

    def keep(self, part: Part) -> None:
        """Keep what has arrived for a while."""
        with self.lock:
            self._recent.append(part)
            self._recent_bytes += part.nbytes
            while self._recent_bytes > _RECENT_BYTES:
                old = self._recent.popleft()
                self._recent_bytes -= old.nbytes


def _api_share(most: int) -> int:
    """Return how many of the connections are for the Butler server."""
    return max(1, most // _API_SHARE)


_webs: dict[int, Web] = {}
_left: list[Web] = []
"""Those of parent processes: never collected as garbage."""

_lock = ForkLock()


def web_of_process() -> Web:
    """Return the requests of this process; a forked process makes its own, since it has no thread of its parent."""
    if (web := _webs.get(os.getpid())) is None:
        with _lock:
            if (web := _webs.get(os.getpid())) is None:
                web = _webs[os.getpid()] = Web()
                atexit.register(web.close)
    return web


def forget_bytes() -> None:
    """Drop the bytes that this process keeps in memory, and all signed URLs."""
    if (web := _webs.get(os.getpid())) is not None:
        web.forget()


def forget_requests() -> None:
    """Let whatever is read next in this process not fail by requests that were sent before."""
    if (web := _webs.get(os.getpid())) is not None:
        web.forget_requests()


def start_afresh() -> None:
    """Call `forget_requests` again where reading begins after an error."""
    if (web := _webs.get(os.getpid())) is not None and web.failed:
        web.forget_requests()
        web.failed = False


def figures_of_process() -> WebFigures | None:
    """Return what the requests of this process have done; None if there was none."""
    web = _webs.get(os.getpid())
    return None if web is None else web.figures


def _leave_to_parent() -> None:
    for web in _webs.values():
        web.leave_to_parent()
    _left.extend(_webs.values())
    _webs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
