"""The dataset: whole batches as torch tensors, in an order that can be repeated, resumed and shared."""

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import IterableDataset, get_worker_info

from ..cache import TileCache
from ..cutout import (
    Account,
    CutoutReader,
    Delivery,
    QualityPolicy,
    ReadOptions,
    Request,
    checked_targets,
    default_threads,
    stream,
    threads_for,
)
from ..device import Form, TensorBatch, pinned_empty
from ..errors import ConfigurationError
from ..order import DEFAULT_SHUFFLE_WIDTH, Drawn, Epochs, Share, Shuffle, checked_classes, checked_weights
from ..plan import CutoutPlan
from ..report import Report
from ..stages import StageClock
from .passes import Batches
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
    columns
        Catalog columns of the plan that travel with the targets; by default all of them.
    shuffle
        Whether each epoch has a random order, a pure function of ``(seed, epoch, plan, shuffle_width)`` and the number of
        lanes; True means ``"block"``. ``"full"`` is a permutation of all targets, which decodes nearly every tile anew for
        every target where the cache does not hold all. Without shuffling every epoch goes block by block over the sky, so
        that no tile is decoded twice.
    shuffle_width
        Blocks of sky open at once; the larger, the closer to a full permutation and the more memory it takes.
    seed
        Not negative.
    weights
        ``(len(rows),)`` how often targets are drawn, relative to each other. Each epoch draws a target its expected number
        of times, rounded down or up; the batches then hold ``repeat``, how often a target came before in the epoch.
    balance
        ``(len(rows),)`` classes, numbers or words: each is drawn equally often in total, its targets as ``weights`` says.
        A missing class is an error, as is a weight that is missing or negative.
    epoch_size
        Targets that an epoch draws; by default as many as there are.
    replacement
        Whether each draw is independent of the others.
    threads
        Decoding threads; by default the cores that this process may use, shared among worker processes.
    cache
        A cache to share with other datasets of this process; by default one of its own with ``cache_bytes``.
    cache_bytes
        Budget of the cache, of all worker processes together, and of the batches under way.
    sharing
        How many loaders have worker processes at the same time; they share the budget.
    share
        Which part of each global batch this process reads. Ranks read neighbouring targets of their own part of the sky
        (`lanes`).
    pads
        What happens where the last global batch has fewer targets than there are ranks. True: ranks without one repeat a
        target that is marked ``is_padding``, so that none is missing (validation, prediction). False: those targets are
        left out, other ones in every epoch, so that none counts twice (training).
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
        columns: Sequence[str] | None = None,
        shuffle: Shuffle = True,
        shuffle_width: int = DEFAULT_SHUFFLE_WIDTH,
        seed: int = 0,
        weights: ArrayLike | None = None,
        balance: ArrayLike | None = None,
        epoch_size: int | None = None,
        replacement: bool = False,
        threads: int | None = None,
        cache: TileCache | None = None,
        cache_bytes: float | str = "auto",
        sharing: int = 1,
        share: Share = Share(0, 1),
        pads: bool = False,
        clock: StageClock | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.rows = checked_targets(rows, plan)
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, got {threads}")
        self.epochs = Epochs(
            plan.blocks(self.rows),
            batch_size,
            share,
            shuffle=shuffle,
            shuffle_width=shuffle_width,
            seed=seed,
            weights=None if weights is None else checked_weights(weights),
            balance=None if balance is None else checked_classes(balance),
            epoch_size=epoch_size,
            replacement=replacement,
            pads=pads,
        )
        """Which rows each step reads, in every epoch."""
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
            columns=None if columns is None else tuple(columns),
        )
        self.form = Form()
        """How batches leave the threads; a `CutoutLoader` sets it."""
        self._clock = clock
        self._reader = CutoutReader(plan, self.options, cache=self.cache, clock=clock)
        self._pinned_reader: CutoutReader | None = None
        self._whole = rows is None
        self._report: Report | None = None
        self._identity: str | None = None
        # (epoch, batches already delivered, lanes): shared memory, so that it reaches workers that outlive an epoch.
        self._position = torch.tensor([0, 0, self.epochs.schedule.lanes])
        self.share_position()

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return self.epochs.schedule.steps

    @property
    def lanes(self) -> int:
        """Parts of the sky that take turns in the order: the number of ranks of the run that began the training."""
        return int(self._position[2])

    @property
    def report(self) -> Report:
        """What became of the rows in the latest epoch that was begun, so far.

        Batches that worker processes read, or that go to a device, count when a `CutoutLoader` hands them out.
        """
        if self._report is None:
            self._report = Report(self.plan, None if self._whole else self.rows)
            if self.epochs.partial:
                self._report.set_aside(np.setdiff1d(self.rows, self.order(int(self._position[0]))))
        return self._report

    def begin_report(self) -> None:
        """Begin the account of an epoch."""
        self._report = None

    def settings(self) -> dict[str, int | str]:
        """Return plain values: what must be the same for a place in an epoch to mean the same targets."""
        if self._identity is None:
            digest = hashlib.sha256(self.plan.fingerprint().encode())
            digest.update(self.rows.tobytes())
            self._identity = digest.hexdigest()[:16]
        return {**self._laned().settings(), "targets": self._identity}

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes need no account of what others have read, and no page-locked memory.
        return {**self.__dict__, "_report": None, "_pinned_reader": None}

    def share_position(self) -> None:
        """Put the position where worker processes see it change; a copied dataset has its own."""
        self._position.share_memory_()  # type: ignore[no-untyped-call]

    def seek(self, epoch: int, done: int = 0, lanes: int | None = None) -> None:
        """Let the next iterator start at batch ``done`` of ``epoch``, in worker processes too.

        Parameters
        ----------
        epoch, done
            Not negative; at most all batches of an epoch are done.
        lanes
            As in the run that began the training; by default they stay.
        """
        if epoch < 0 or not 0 <= done <= self.steps:
            raise ConfigurationError(f"no batch {done} of epoch {epoch}: an epoch has {self.steps} batches")
        self._position[0], self._position[1] = epoch, done
        if lanes is not None:
            self._position[2] = lanes

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the plan's target numbers in the order of an epoch, all ranks together."""
        return self.rows[self._laned().order(epoch).rows]

    def _laned(self) -> Epochs:
        self.epochs = self.epochs.with_lanes(self.lanes)
        return self.epochs

    def __iter__(self) -> "Batches":
        return Batches(self)

    def batches(self, epoch: int, start: int, taken: int = 0) -> Iterator[TensorBatch]:
        """Yield the batches of an epoch that are this process's to read, from batch ``start`` on, but the first ``taken``."""
        epochs = self._laned()
        drawn = epochs.order(epoch)
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        threads = self.threads or max(1, default_threads() // stride)
        self.cache.share_among(stride * self.sharing if worker else 1)
        requests = self._requests(drawn, epochs.bounds[start + first + taken * stride :: stride].tolist())
        if worker is None and start + taken == 0:
            self.begin_report()
        # An iterator that is given up and goes on all the same does not write into the report of a later epoch.
        report = self.report
        ready = self._ready(requests, threads, stride, in_worker=worker is not None)
        if worker is not None:
            yield from self._posted(ready)
            return
        for tensors, account in ready:
            if self.form.on_device:
                yield {**tensors, AHEAD: account}  # type: ignore[dict-item]
            else:
                report.add(account)
                yield tensors

    @property
    def position(self) -> tuple[int, int]:
        """Epoch of the next iterator, and the batches of it that are done."""
        return int(self._position[0]), int(self._position[1])

    def _requests(self, drawn: Drawn, bounds: list[list[int]]) -> Iterator[Request]:
        """Yield what each batch of this process is to hold."""
        for low, high, padding in bounds:
            columns = {} if drawn.repeat is None else {"repeat": drawn.repeat[low:high]}
            yield Request(self.rows[drawn.rows[low:high]], bool(padding), columns)

    def _ready(
        self, requests: Iterator[Request], threads: int, processes: int, *, in_worker: bool
    ) -> Iterator[tuple[TensorBatch, Account]]:
        """Return batches and their accounts, finished by threads of this process."""
        # A worker process must leave CUDA alone: after a fork it would fail, otherwise take memory of the GPU.
        form = replace(self.form, pinned=self.form.pinned and not in_worker)
        reader = self._reader_into_pinned() if form.pinned else self._reader
        finish = partial(_finished, form, self._clock)
        pool = threads_for(self.plan, threads, processes)
        return stream(reader, requests, threads=pool, ahead=max(2, threads), then=finish)

    def _reader_into_pinned(self) -> CutoutReader:
        if self._pinned_reader is None:
            self._pinned_reader = CutoutReader(
                self.plan, self.options, cache=self.cache, clock=self._clock, empty=self._reserved_pinned
            )
        return self._pinned_reader

    def _reserved_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return page-locked memory that counts against the budget as long as its tensor lives."""
        array = pinned_empty(shape, dtype)
        self.cache.reserve(array.nbytes)
        weakref.finalize(array.base, self.cache.release, array.nbytes).atexit = False
        return array

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
