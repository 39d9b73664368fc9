"""Batches of cutouts from a plan, read by one thread or by a pool.

The unit of work is a batch. Its arrays are made fresh, filled by several threads (each its own targets) and
never touched again once they are handed over.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..catalog.ids import take_rows
from ..errors import ConfigurationError, LsstCutoutsError
from ..fits.kernels import load_kernels
from ..fits.stages import StageClock
from ..plan.cutout_plan import CutoutPlan
from ..plan.grid_plan import boxes_under
from ..plan.quality import Outcome
from ..source.control_groups import usable_cores
from ..source.web.byte_parts import URGENT, Part, Rank
from ..source.web.process import check_web, forget_requests, start_afresh, web_of_process
from ..source.web.request_limits import share_connections
from .batch_report import BatchReport
from .cache.tile_cache import TileCache
from .cutouts import Batch, Cutouts, Empty, psf_shape
from .depth import Depths
from .executor import Executor
from .exports.stored_executor import StoredExecutor
from .grid_executor import GridExecutor, options_of_boxes
from .memory import Memory
from .open_files import OpenFiles
from .options import ReaderOptions
from .policies import outcomes
from .threads import Pending, Steps, Threads, run_here
from .tiles import TileDecoder

__all__ = [
    "LEAST_PART",
    "CutoutReader",
    "Delivery",
    "Request",
    "checked_targets",
    "default_threads",
    "stream",
]

_BATCHES_AHEAD = 16
"""Batches whose bytes are asked for before they are read, where files are remote."""

LEAST_PART = 32
"""Targets from which a second thread is worth its cost."""


def default_threads() -> int:
    """Return the number of cores that this process may use, at most 8: by CPU affinity and by the quota of a container."""
    return min(8, usable_cores())


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What one batch is to hold.

    Attributes
    ----------
    targets
        ``(n,)`` numbers in the plan.
    padding
        Whether they are there only to keep ranks in step: marked ``is_padding``, and not accounted for.
    columns
        Further arrays ``(n, ...)`` that travel with the targets.
    """

    targets: NDArray[np.int64]
    padding: bool = False
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A batch, and what happened to each target that it was to hold."""

    batch: Batch
    batch_report: BatchReport


class CutoutReader:
    """Reads targets of a plan into batches of arrays, from the files of a repository or from an export; may be used from several threads.

    Parameters
    ----------
    plan
        What to read.
    options
        Planes and policies.
    cache, files
        Where decoded tiles and open files are kept; by default this reader's own.
    clock
        Adds up where the time goes.
    empty
        Makes the large arrays of a batch, page-locked ones for example; by default memory of batches that have been
        dropped is used again.
    whole_tiles
        Whether tiles are decoded as a whole, where this plan's targets need only their first rows: worth it where
        other plans will read from the same cache.

    Raises
    ------
    ConfigurationError
        If the policies do not fit the plan's bands.
    PlaneError
        If the PSF is asked for and the plan's files have none that can be read.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        options: ReaderOptions | None = None,
        *,
        cache: TileCache | None = None,
        files: OpenFiles | None = None,
        clock: StageClock | None = None,
        empty: Empty | None = None,
        whole_tiles: bool = False,
    ) -> None:
        self.plan = plan
        self.clock = clock
        self._empty = empty
        self.options = options or ReaderOptions()
        self.options.check_bands(plan.bands)
        self.options.check_size(plan.size)
        self.options.check_grid(plan)
        if "psf" in self.options.planes:
            psf_shape(plan)
        load_kernels()
        if plan.files.remote:
            check_web()
        self.cache = TileCache() if cache is None else cache
        self._memory = Memory(self.cache.reserve, self.cache.release)
        self._files: OpenFiles | StoredExecutor
        self._executor: Executor | GridExecutor | StoredExecutor
        if plan.pixels is not None:
            self._files = self._executor = StoredExecutor(plan, self.options, clock)
            return
        self._files = OpenFiles(self.cache) if files is None else files
        boxes, read = plan, self.options
        if plan.grid is not None:
            boxes, read = boxes_under(plan), options_of_boxes(self.options)
        tiles = TileDecoder(boxes, read, self.cache, self._files, clock)
        executor = Executor(boxes, read, tiles, self.cache, None if whole_tiles else Depths(boxes), clock)
        self._executor = executor if plan.grid is None else GridExecutor(plan, self.options, executor, clock)

    def close(self) -> None:
        """Close every file; a later read opens them again."""
        self._files.close()

    def read(self, targets: NDArray[np.int64]) -> Batch:
        """Return one batch of targets ``(n,)``, read by the calling thread alone."""
        return self.deliver(targets).batch

    def deliver(self, targets: NDArray[np.int64], *, pad: bool = False) -> Delivery:
        """Return one batch of targets ``(n,)`` and its report, read by the calling thread alone; ``pad`` as in `submit`."""
        start_afresh()
        try:
            return run_here(self._steps(Request(targets), threads=1, pad=pad))
        except LsstCutoutsError:
            forget_requests()
            raise

    def submit[T](
        self,
        threads: "Threads",
        request: Request,
        *,
        pad: bool = False,
        rank: Rank = URGENT,
        then: Callable[[Delivery], T],
    ) -> Pending[T]:
        """Start reading one batch.

        Parameters
        ----------
        threads
            They fill the batch.
        request
            What it is to hold.
        pad
            Whether a batch that lost all its targets holds the first one as padding, so that every batch has a row.
        rank
            When bytes of files on web servers are asked for.
        then
            Makes the result of the delivery, in the thread that finishes the batch.
        """
        return Pending(threads, self._steps(request, threads=threads.count, pad=pad, rank=rank), then)

    def request(self, threads: "Threads", request: Request, rank: Rank) -> Pending[list[Part]]:
        """Start asking for the bytes of a batch of remote files that will be read later.

        The bytes stay in memory as long as somebody refers to what is returned.
        """
        return Pending(threads, self._executor.request(request.targets, rank), _itself)

    def share_among(self, processes: int) -> None:
        """Take only this process's part of the cache's budget and of the connections, as one of so many."""
        self.cache.share_among(processes)
        share_connections(processes)

    def _steps(self, request: Request, *, threads: int, pad: bool, rank: Rank = URGENT) -> Steps[Delivery]:
        """Read one batch: yields what threads may do side by side before it goes on."""
        cutouts = self._executor.allocate(request.targets, self._empty or self._memory.empty)
        yield from self._executor.fill(cutouts, threads, rank)
        with nullcontext() if self.clock is None else self.clock.rest("assemble"):
            return self._finished(cutouts, request, pad=pad)

    def _finished(self, cutouts: Cutouts, request: Request, *, pad: bool) -> Delivery:
        outcome = outcomes(cutouts, self.plan, self.options)
        batch_report = BatchReport.empty(len(self.plan.bands)) if request.padding else cutouts.batch_report(outcome)
        kept = np.flatnonzero(outcome == Outcome.DELIVERED)
        padding = pad and not len(kept) and len(outcome) > 0
        if padding:
            kept = np.zeros(1, np.int64)
        batch = self._planes(cutouts)
        if len(kept) < len(outcome):
            batch = {name: np.asarray(values)[kept] for name, values in batch.items()}
        self.cache.note(delivered=sum(np.asarray(batch[name]).nbytes for name in self.options.planes))
        batch |= self._rows(cutouts.targets[kept])
        batch |= {name: values[kept] for name, values in request.columns.items()}
        batch["is_padding"] = np.full(len(kept), padding or request.padding)
        for name in {"image", "variance"} & batch.keys() if padding else ():
            batch[name] = np.nan_to_num(np.asarray(batch[name]))  # a NaN would spoil what normalises a whole batch
        return Delivery(batch, batch_report)

    def _planes(self, cutouts: Cutouts) -> Batch:
        """Return the arrays that the batch holds of every target, delivered or not."""
        made = {**cutouts.sources, "valid": cutouts.valid, "ivar": cutouts.ivar, "psf": cutouts.psf}
        if "mask" in self.options.planes:
            made["mask"] = cutouts.sources["mask"] & ((1 << len(self.options.mask_planes)) - 1)
        batch: Batch = {name: plane for name in self.options.planes if (plane := made[name]) is not None}
        if cutouts.psf_present is not None:
            batch["psf_present"] = cutouts.psf_present
        return batch | {"band_present": cutouts.present, "quality": cutouts.quality, "wcs": cutouts.wcs}

    def _rows(self, targets: NDArray[np.int64]) -> Batch:
        """Return what the plan says of targets."""
        plan = self.plan
        primary = plan.primary[targets]
        placed = plan if plan.grid is None else plan.grid.placed
        rows: Batch = {
            "object_id": take_rows(plan.object_id, targets),
            "ra": plan.ra[targets],
            "dec": plan.dec[targets],
            "tract": plan.patches.tract[primary],
            "patch": plan.patches.patch[primary],
            "yx0": placed.yx0[targets].astype(np.int64),
            "offset": placed.offset[targets],
        }
        if isinstance(rows["object_id"], list) or plan.repeats_ids:
            rows["object_hash"] = plan.keys(targets)
        for name in plan.columns if self.options.columns is None else self.options.columns:
            rows[name] = take_rows(plan.columns[name], targets)
        return rows


def stream[T](
    reader: CutoutReader,
    requests: Iterable[Request],
    *,
    threads: int,
    ahead: int,
    then: Callable[[Delivery], T],
) -> Iterator[T]:
    """Yield batches in the order asked for, whatever order threads finish in.

    Parameters
    ----------
    reader
        Reads them; its files are closed when the generator ends or is dropped.
    requests
        One a batch. A batch that loses all its targets holds one row of padding.
    threads
        How many fill batches; they end when the generator ends or is dropped.
    ahead
        Batches under way beyond the one that is waited for.
    then
        Makes what is yielded of a batch, in one of the threads.
    """
    pool = Threads(threads, reader.close)
    begun: deque[tuple[Request, Rank, Pending[list[Part]] | None]] = deque()
    waiting: deque[tuple[Pending[T], Pending[list[Part]] | None]] = deque()
    upcoming = enumerate(requests)
    start_afresh()
    remote = reader.plan.files.remote
    most = _BATCHES_AHEAD if remote else 1
    try:
        while True:
            for number, request in islice(upcoming, most - len(begun)):
                rank = web_of_process().next_rank(number // 2) if remote else URGENT
                begun.append((request, rank, reader.request(pool, request, rank) if remote else None))
            if not begun:
                break
            request, rank, bytes_of = begun.popleft()
            waiting.append((reader.submit(pool, request, pad=True, rank=rank, then=then), bytes_of))
            if len(waiting) > ahead:
                yield waiting.popleft()[0].result()
        while waiting:
            yield waiting.popleft()[0].result()
    except LsstCutoutsError:
        forget_requests()  # others fail as well, some of them later
        raise
    finally:
        # The garbage collector closes a dropped generator in any thread and inside any locked block: nothing here waits
        # or locks.
        pool.stop()
        for pending in (*(each for pair in waiting for each in pair), *(each for _, _, each in begun)):
            if pending is not None:
                pending.call_off()
        waiting.clear()


def _itself(parts: list[Part]) -> list[Part]:
    return parts


def checked_targets(rows: ArrayLike | None, plan: CutoutPlan) -> NDArray[np.int64]:
    """Return target indices ``(n,)`` of a plan from indices ``(n,)``, a mask ``(N,)`` of all targets, or None for all targets.

    Raises
    ------
    ConfigurationError
        If they are not indices of targets of the plan.
    """
    if rows is None:
        return np.arange(len(plan))
    array = np.asarray(rows)
    if array.dtype == np.bool_ and array.shape == (len(plan),):
        return np.flatnonzero(array)
    whole = array.size == 0 or np.issubdtype(array.dtype, np.integer)
    if not whole or array.ndim > 1 or (array.size and not (array.min() >= 0 and array.max() < len(plan))):
        raise ConfigurationError(
            f"rows must be integers between 0 and {len(plan) - 1}, the targets of the plan, or a mask of all "
            f"{len(plan)}; got {array.dtype} of shape {array.shape}"
        )
    return array.reshape(-1).astype(np.int64)
