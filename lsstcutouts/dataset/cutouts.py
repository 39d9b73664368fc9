"""The dataset: whole batches as torch tensors, in an order that can be repeated, resumed and shared."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from ..cache import TileCache
from ..cutout import (
    Account,
    CutoutReader,
    Delivery,
    QualityPolicy,
    ReadOptions,
    checked_targets,
    default_threads,
    stream,
)
from ..device import Form, TensorBatch, pinned_empty
from ..errors import ConfigurationError
from ..order import DEFAULT_SHUFFLE_WIDTH, Share, batch_bounds, check_order, epoch_order
from ..plan import CutoutPlan
from ..report import Report
from ..stages import StageClock
from .workers import Parcel

__all__ = ["ACCOUNT", "AHEAD", "CutoutDataset", "TensorBatch"]

ACCOUNT = "lsstcutouts.account"
"""Key under which a batch from a worker process carries its `Parcel` to the main process; not a column's name."""

AHEAD = "lsstcutouts.ahead"
"""Key under which a batch that is brought to a device ahead of the loop carries its `Account` until it is handed out."""


class CutoutDataset(IterableDataset[TensorBatch]):
    """Yields whole batches of cutouts; use it through a `CutoutLoader`.

    Parameters
    ----------
    plan
        What to read.
    rows
        Targets of the plan that belong to this dataset, numbers or a mask; all of them by default.
    batch_size
        Targets a batch; the last one of an epoch holds what is left.
    planes, mask_planes, missing_band, min_bands, required_bands, fill, quality, on_read_error, normalise_psf, flux_unit
        What a batch holds, and the policies, as in `LsstDataFetcher`. A target that is left out makes its batch
        shorter; a batch that loses all its targets holds one row that is marked ``is_padding``.
    shuffle
        Whether each epoch has a random order, a pure function of ``(seed, epoch, plan, shuffle_width)``; without it
        every epoch goes block by block over the sky, so that no tile is decoded twice.
    shuffle_width
        Blocks of sky open at once; the larger, the closer to a full permutation and the more memory it takes.
    seed
        Not negative.
    threads
        Decoding threads; by default the cores that this process may use, shared among worker processes.
    cache
        A cache to share with other datasets of this process; by default one of its own with ``cache_bytes``.
    cache_bytes
        Budget of the cache, of all worker processes together, and of the batches under way.
    sharing
        How many loaders have worker processes at the same time; they share the budget.
    share
        Which part of each global batch this process reads.
    clock
        Adds up where the time goes; of this process, not of worker processes.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int = 128,
        planes: Sequence[str] = ("image",),
        mask_planes: Sequence[str] = (),
        missing_band: Literal["zero", "nan", "skip", "raise"] = "zero",
        min_bands: int = 0,
        required_bands: Sequence[str] = (),
        fill: float | Literal["noise"] = 0.0,
        quality: QualityPolicy | None = None,
        on_read_error: Literal["raise", "mask", "skip"] = "raise",
        normalise_psf: bool = False,
        flux_unit: Literal["nJy", "native"] = "nJy",
        shuffle: bool = True,
        shuffle_width: int = DEFAULT_SHUFFLE_WIDTH,
        seed: int = 0,
        threads: int | None = None,
        cache: TileCache | None = None,
        cache_bytes: float | str = "auto",
        sharing: int = 1,
        share: Share = Share(0, 1),
        clock: StageClock | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.rows = checked_targets(rows, plan)
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, got {threads}")
        check_order(seed=seed, shuffle_width=shuffle_width)
        self.batch_size, self.share = batch_size, share
        self.shuffle, self.shuffle_width, self.seed = shuffle, shuffle_width, seed
        self.threads = threads
        self.sharing = sharing
        self.in_flight = 2
        """Batches that a worker process may have sent and the loop not taken; a `CutoutLoader` says how many."""
        self.cache = TileCache(cache_bytes) if cache is None else cache
        self.options = ReadOptions(
            planes=planes,  # type: ignore[arg-type]
            mask_planes=mask_planes,  # type: ignore[arg-type]
            missing_band=missing_band,
            min_bands=min_bands,
            required_bands=required_bands,  # type: ignore[arg-type]
            fill=fill,
            quality=quality,
            on_read_error=on_read_error,
            normalise_psf=normalise_psf,
            flux_unit=flux_unit,
            seed=seed,
        )
        self.form = Form()
        """How batches leave the threads; a `CutoutLoader` sets it."""
        self._clock = clock
        self._reader = CutoutReader(plan, self.options, cache=self.cache, clock=clock)
        self._pinned_reader: CutoutReader | None = None
        self._whole = rows is None
        self._report: Report | None = None
        self._bounds = batch_bounds(len(self.rows), batch_size, share)
        # (epoch, batches already delivered): shared memory, so that it reaches workers that outlive an epoch.
        self._position = torch.zeros(2, dtype=torch.int64)
        self.share_position()
        self._blocks: NDArray[np.int64] | None = None

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return len(self._bounds)

    @property
    def report(self) -> Report:
        """What became of the rows in the latest epoch that was begun, so far.

        Batches that worker processes read, or that go to a device, count when a `CutoutLoader` hands them out.
        """
        if self._report is None:
            self._report = Report(self.plan, None if self._whole else self.rows)
        return self._report

    def begin_report(self) -> None:
        """Begin the account of an epoch."""
        self._report = None

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes need no account of what others have read, and no page-locked memory.
        return {**self.__dict__, "_report": None, "_pinned_reader": None}

    def share_position(self) -> None:
        """Put the position where worker processes see it change; a copied dataset has its own."""
        self._position.share_memory_()  # type: ignore[no-untyped-call]

    def seek(self, epoch: int, done: int = 0) -> None:
        """Let the next iterator start at batch ``done`` of ``epoch``, in worker processes too."""
        if epoch < 0 or not 0 <= done <= self.steps:
            raise ConfigurationError(f"no batch {done} of epoch {epoch}: an epoch has {self.steps} batches")
        self._position[0], self._position[1] = epoch, done

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the plan's target numbers in the order of an epoch, all ranks together."""
        if self._blocks is None:
            self._blocks = self.plan.blocks(self.rows)
        blocks = self._blocks
        if not self.shuffle:
            return self.rows[np.argsort(blocks, kind="stable")]
        return self.rows[epoch_order(blocks, seed=self.seed, epoch=epoch, shuffle_width=self.shuffle_width)]

    def __iter__(self) -> Iterator[TensorBatch]:
        epoch, done = self._position.tolist()
        order = self.order(epoch)
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        threads = self.threads or max(1, default_threads() // stride)
        self.cache.share_among(stride * self.sharing if worker else 1)
        bounds = self._bounds[done + first :: stride].tolist()
        batches = (order[low:high] for low, high in bounds)
        if worker is None and done == 0:
            self.begin_report()
        # An iterator that is given up and goes on all the same does not write into the report of a later epoch.
        report = self.report
        ready = self._ready(batches, threads, in_worker=worker is not None)
        if worker is not None:
            yield from self._posted(ready)
            return
        for tensors, account in ready:
            if self.form.on_device:
                yield {**tensors, AHEAD: account}  # type: ignore[dict-item]
            else:
                report.add(account)
                yield tensors

    def _ready(
        self, batches: Iterator[NDArray[np.int64]], threads: int, *, in_worker: bool
    ) -> Iterator[tuple[TensorBatch, Account]]:
        """Return batches and their accounts, finished by threads of this process."""
        # A worker process must leave CUDA alone: after a fork it would fail, otherwise take memory of the GPU.
        form = replace(self.form, pinned=self.form.pinned and not in_worker)
        reader = self._reader_into_pinned() if form.pinned else self._reader
        finish = partial(_finished, form, self._clock)
        return stream(reader, batches, threads=threads, ahead=max(2, threads), then=finish)

    def _reader_into_pinned(self) -> CutoutReader:
        if self._pinned_reader is None:
            self._pinned_reader = CutoutReader(
                self.plan, self.options, cache=self.cache, clock=self._clock, empty=pinned_empty
            )
        return self._pinned_reader

    def _posted(self, ready: Iterator[tuple[TensorBatch, Account]]) -> Iterator[TensorBatch]:
        """Yield the batches of a worker process, each with its `Parcel`.

        What has been sent lies in shared memory until the loop takes it, and is reserved for so long.
        """
        sent: deque[int] = deque()
        try:
            for tensors, account in ready:
                sent.append(sum(values.nbytes for values in tensors.values() if isinstance(values, torch.Tensor)))
                self.cache.reserve(sent[-1])
                if len(sent) > self.in_flight:
                    self.cache.release(sent.popleft())
                yield {**tensors, ACCOUNT: Parcel(account, self.cache.stats(), os.getpid())}  # type: ignore[dict-item]
        finally:
            self.cache.release(sum(sent))


def _finished(form: Form, clock: StageClock | None, delivery: Delivery) -> tuple[TensorBatch, Account]:
    """Return a batch as tensors, and its account."""
    with clock.time("collate") if clock is not None else nullcontext():
        return form.tensors(delivery.batch), delivery.account
