"""Fills the disk cache with all bytes that an epoch of a remote plan reads, without decoding them."""

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError, ReadError, WriteError
from ..errors.error_classes import fresh
from ..plan.cutout_plan import CutoutPlan
from ..source.amounts import shown_bytes
from ..source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE
from ..source.disk.disk_cache import DiskCache
from ..source.progress import progress_bar
from ..source.web.byte_parts import Part
from ..source.web.process import WebFigures, forget_bytes, web_of_process
from .download import Download, estimate_download, on_web
from .options import ReaderOptions
from .reader import CutoutReader, Request, default_threads
from .threads import Pending, Threads

__all__ = ["FillProgress", "FillResult", "fill_cache"]

type Integers = NDArray[np.int64]

_AHEAD = 16
"""Blocks that are asked for before the first of them is complete."""

_BLOCK_BYTES, _BLOCK_TARGETS = 8_000_000, 512
"""Bytes and targets of a block: `_AHEAD` of them must be less than what may be under way at all."""

_MOST_AGAIN = 2.0
"""Bytes that are fetched at most, in parts of what is needed. The oldest segments, which are removed to make room, may hold bytes of
the same plan: another pass fetches them again, until all of them are newer than what others have stored."""

_SPEED_CALLS = 15
"""Calls over which a speed is shown: three seconds."""
_PROGRESS_SECONDS = 0.2

_STORED = 0.05
"""A disk that stores less than this part of the bytes that come takes no more data."""


@dataclass(frozen=True, slots=True)
class FillProgress:
    """How far `fill_cache` is.

    Attributes
    ----------
    targets, all_targets
        Targets whose bytes are in the cache, and all of them.
    bytes, all_bytes
        Bytes that have come, and an estimate of all that will.
    web
        What the requests of this process have done, and what is waited for.
    """

    targets: int
    all_targets: int
    bytes: int
    all_bytes: int
    web: WebFigures


@dataclass(frozen=True, slots=True)
class FillResult:
    """What `fill_cache` did.

    Attributes
    ----------
    targets, files
        Targets of the plan, and remote files that hold them.
    bytes, requests, signatures
        Bytes that came, requests for them, and requests for signed URLs.
    seconds
        How long it took.
    unread
        Ranges of files that cannot be read; only if errors are masked or their targets left out.
    """

    targets: int
    files: int
    bytes: int
    requests: int
    signatures: int
    seconds: float
    unread: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def fill_cache(
    plan: CutoutPlan,
    options: ReaderOptions | None = None,
    threads: int | None = None,
    progress: bool | Callable[[FillProgress], None] = True,
) -> FillResult:
    """Fetch all bytes that an epoch of a plan reads into the disk cache, targets near each other together.

    What the cache already has is not fetched again, so that another call continues after an error. Afterwards the plan is
    read without network and token, as long as the cache keeps the bytes.

    Parameters
    ----------
    plan
        Its files are on web servers or in S3.
    options
        What will be read; only the planes and ``on_read_error`` matter.
    threads
        How many compute what is needed; by default as many as decode.
    progress
        Whether a bar is shown, or what is called five times a second, from another thread.

    Raises
    ------
    ConfigurationError
        If the files are not remote, the cache is off, or its budget is too small for them.
    WriteError
        If the cache does not keep the bytes, for example on a full disk.
    ReadError
        If a file cannot be read, and ``on_read_error="raise"``.
    AuthenticationError, RepositoryUnavailableError
        If a server refuses access, or does not answer.
    """
    if threads is not None and threads < 1:
        raise ConfigurationError(f"threads must be an integer >= 1, got {threads}")
    chosen, begin = options or ReaderOptions(), time.monotonic()
    disk = _checked_cache(plan)
    before = web_of_process().figures
    download, _ = estimate_download(plan, chosen)
    _check_room(disk, download)
    filling = _Filling(plan, chosen, threads or default_threads(), disk, download, before)
    with progress_bar("fetching", shown=progress is True, of_bytes=True) as bar:
        speed = _Speed()
        update = progress if callable(progress) else lambda now: bar(now.bytes, now.all_bytes, speed.state(now))
        with filling.told(update if progress else None):
            unread = filling.run()
    disk.close()
    after = web_of_process().figures
    return FillResult(
        targets=len(plan),
        files=download.files,
        bytes=after.data_bytes - before.data_bytes,
        requests=after.requests - before.requests,
        signatures=after.signatures - before.signatures,
        seconds=time.monotonic() - begin,
        unread=unread,
    )


def _checked_cache(plan: CutoutPlan) -> DiskCache:
    """Return the disk cache of this process, if it can hold the files of a plan."""
    if not plan.files.remote:
        raise ConfigurationError(f"the files of {plan.repo!r} are on this machine; the disk cache is for remote files")
    if not on_web(plan).any():
        raise ConfigurationError(
            f"the files of {plan.repo!r} cannot be kept in the disk cache, such as {plan.files.uri[0].partition('?')[0]}: it holds "
            "files on web servers and in S3 whose size the repository recorded"
        )
    disk = DiskCache.of_process()
    if disk is None:
        raise ConfigurationError(
            f"the disk cache is off; set {FOLDER_VARIABLE} to a folder on a local disk, and {BUDGET_VARIABLE} to its bytes"
        )
    return disk


def _check_room(disk: DiskCache, download: Download) -> None:
    """Raise `ConfigurationError` if the cache has no room for all bytes that are needed."""
    budget = disk.figures().budget
    needed = shown_bytes(download.needed_bytes)
    if download.needed_bytes > budget:
        raise ConfigurationError(
            f"the plan needs about {needed}, but the budget of the disk cache is {shown_bytes(budget)}; set {BUDGET_VARIABLE} to "
            f"'{shown_bytes(int(1.2 * download.needed_bytes))}' or more, or fill the cache for fewer targets or planes"
        )
    free = shutil.disk_usage(disk.folder).free
    if download.bytes > free:
        raise ConfigurationError(
            f"the plan needs about {needed}, of which {shown_bytes(download.bytes)} are to be downloaded, but the disk of "
            f"{disk.folder} has {shown_bytes(free)} free; set {FOLDER_VARIABLE} to a folder on a larger disk"
        )


class _Speed:
    """Says what fetching does now: its speed over the last seconds, or what is waited for."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_SPEED_CALLS)

    def state(self, now: FillProgress) -> str:
        self._seen.append((time.monotonic(), now.bytes))
        if now.web.waiting_for:
            return f"waiting for {now.web.waiting_for}"
        (first, old), (last, new) = self._seen[0], self._seen[-1]
        rate = (new - old) / max(last - first, 1e-3) / 1e6
        return f"{rate:.1f} MB/s, {now.web.active} connections, {now.targets} of {now.all_targets} targets"


class _Filling:
    """One call of `fill_cache`."""

    def __init__(
        self,
        plan: CutoutPlan,
        options: ReaderOptions,
        threads: int,
        disk: DiskCache,
        download: Download,
        before: WebFigures,
    ) -> None:
        self._plan, self._options, self._threads, self._disk = plan, options, threads, disk
        self._download, self._before = download, before
        self._done = 0

    @contextmanager
    def told(self, progress: Callable[[FillProgress], None] | None) -> Iterator[None]:
        """Call ``progress`` again and again in the block, and once at its end."""
        if progress is None:
            yield
            return
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_PROGRESS_SECONDS):
                progress(self._progress())

        thread = threading.Thread(target=tell, name="lsstcutouts-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            progress(self._progress())

    def _progress(self) -> FillProgress:
        figures, count = web_of_process().figures, len(self._plan)
        came = figures.data_bytes - self._before.data_bytes
        expected = came if self._done == count else max(came, self._download.bytes)
        return FillProgress(self._done, count, came, expected, figures)

    def run(self) -> int:
        """Fetch until nothing is missing, and return how many ranges cannot be read."""
        total = 0
        while total <= _MOST_AGAIN * self._download.needed_bytes:
            stored = self._disk.figures().written
            asked, unread = self._fetch()
            if not asked:
                return unread
            if self._disk.figures().written - stored < _STORED * asked:
                break
            total, self._done = total + asked, len(self._plan)
            forget_bytes()  # the next pass must find them on the disk, not in memory
        raise WriteError(
            f"the disk cache in {self._disk.folder} does not keep what is fetched; free disk space, or increase {BUDGET_VARIABLE}"
        )

    def _fetch(self) -> tuple[int, int]:
        """Ask for all that is missing, and return how many bytes that is, and how many ranges cannot be read."""
        asked = unread = 0
        reader = CutoutReader(self._plan, self._options)
        pool, web = Threads(self._threads, reader.close), web_of_process()
        blocks = iter(self._blocks())
        begun: deque[tuple[int, int, Pending[list[Part]]]] = deque()
        try:
            while True:
                while len(begun) < _AHEAD and (block := next(blocks, None)) is not None:
                    rank = web.next_rank(_AHEAD)
                    begun.append((len(block), rank.number, reader.request(pool, Request(block), rank)))
                if not begun:
                    return asked, unread
                count, number, pending = begun.popleft()
                parts = pending.result()
                wait([part.future for part in parts])
                unread += self._failures(parts)
                asked += sum(part.nbytes for part in parts if part.rank.number >= number and not part.failed)
                self._done = min(self._done + count, len(self._plan))
                del parts, pending  # they hold the bytes in memory
        finally:
            pool.stop()
            for _, _, pending in begun:
                pending.call_off()

    def _failures(self, parts: list[Part]) -> int:
        """Return how many parts have not come, or raise why."""
        failed = [error for part in parts if (error := part.future.exception()) is not None]
        for error in failed:
            if self._options.on_read_error == "raise" or not isinstance(error, ReadError):
                raise fresh(error) from error.__cause__
        return len(failed)

    def _blocks(self) -> list[Integers]:
        """Divide the targets into blocks whose targets are near each other."""
        plan = self._plan
        order = np.lexsort((plan.yx0[:, 1], plan.yx0[:, 0], plan.blocks()))
        each = max(1, self._download.needed_bytes // len(plan))
        most = min(max(1, _BLOCK_BYTES // each), _BLOCK_TARGETS)
        return np.array_split(order, -(-len(order) // most))
