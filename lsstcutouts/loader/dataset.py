"""The dataset: whole batches as torch tensors, in an order that can be repeated, resumed and shared."""

import gc
import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing.context import get_spawning_popen
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import ConfigurationError
from ..fits.stages import StageClock
from ..order.draws import checked_classes, checked_weights
from ..order.epochs import Drawn, Epochs
from ..order.sampling import Sampling
from ..order.world import World
from ..plan.cutout_plan import CutoutPlan
from ..plan.read_options import ReadOptions
from ..read.batch_report import Account
from ..read.cache.tile_cache import TileCache
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader, Delivery, Request, checked_targets, default_threads, stream, threads_for
from ..read.report import Report
from ..transforms.batch import TensorBatch
from .device.tensors import Form, pinned_empty
from .passes import ACCOUNT, SECOND, Batches, PassTable, torch_loader
from .workers import Parcel

__all__ = ["CutoutDataset", "Watcher"]


class Watcher(Protocol):
    """What wants to know how the loaders of a dataset are used: the data module that made them."""

    def handed_out(self, loader: Any, batch: TensorBatch) -> None:
        """Record a batch."""

    def position_of_training(self, loader: Any, epoch: int, done: int) -> tuple[int, int]:
        """Return how far the training is, from how far its loader is: a batch may be fetched and not trained on."""

    def used_by_trainer(self, loader: Any) -> None:
        """Record that a trainer of Lightning begins a pass."""


class CutoutDataset(IterableDataset[TensorBatch]):
    """Yields whole batches of cutouts; use it through a `CutoutLoader`, which says which epoch comes next.

    In a plain loop, in torch's own ``DataLoader(dataset, batch_size=None)`` and in torchdata's ``StatefulDataLoader`` each
    pass is the next epoch, whatever the worker processes; there `set_epoch` chooses. One such loader belongs to one
    dataset: `copy.copy` gives another one its own count of epochs, and the same cache.

    Parameters
    ----------
    plan
        What to read.
    rows
        Targets of the plan that belong to this dataset, numbers or a mask; all of them by default.
    batch_size
        Targets a batch; the last one of an epoch holds what is left.
    planes
        Any of ``"image"``, ``"variance"``, ``"ivar"``, ``"mask"``, ``"valid"``, ``"psf"``; only what they need is read.
    read
        How pixels are read, and the policies: `ReadOptions` (``tract`` and ``skymap`` belong to the plan). A target that is
        left out makes its batch shorter; a batch that loses all its targets holds one row that is marked ``is_padding``.
    columns
        Catalog columns of the plan that travel with the targets; by default all of them.
    sampling
        Which targets an epoch draws, and its order: `Sampling`; ``weights`` and ``balance`` name columns of the plan, or
        hold one value for each of ``rows``.
    seed
        Seed of the order and of the noise of ``read.fill="noise"``; not negative.
    threads
        Decoding threads; by default the cores that this process may use, shared among worker processes.
    cache
        A cache to share with other datasets of this process; by default one of its own with ``cache_bytes``.
    cache_bytes
        Budget of the cache, of all worker processes together, and of the batches under way.
    world
        Rank of this process and number of ranks: which part of each global batch it reads. Ranks read neighbouring targets of their own part of the sky
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
        columns: Sequence[str] | None = None,
        read: ReadOptions = ReadOptions(),
        sampling: Sampling = Sampling(),
        seed: int = 0,
        threads: int | None = None,
        cache: TileCache | None = None,
        cache_bytes: float | str = "auto",
        world: World = World(),
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
            world,
            sampling=_with_arrays(sampling, plan, self.rows),
            seed=seed,
            pads=pads,
        )
        """Which rows each step reads, in every epoch."""
        self.threads = threads
        self.sharing = 1
        """Loaders that have worker processes at the same time, and share the budget of the cache."""
        self.cache = TileCache(cache_bytes) if cache is None else cache
        self.options = ReaderOptions.of(read, planes=planes, seed=seed, columns=columns)
        self.watcher: weakref.ref[Watcher] | None = None
        self._clock = clock
        self._reader = CutoutReader(plan, self.options, cache=self.cache, clock=clock)
        self._pinned_reader: CutoutReader | None = None
        self._whole = rows is None
        self._report: Report | None = None
        self._identity: str | None = None
        self.passes = PassTable(0, self.epochs.schedule.lanes)
        """Counts passes that no `CutoutLoader` begins."""
        self.under_way: weakref.WeakValueDictionary[int, Batches] = weakref.WeakValueDictionary()
        """Those passes of this process that have given a batch and not ended."""

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return self.epochs.schedule.steps

    @property
    def report(self) -> Report:
        """What happened to the rows in the latest pass that was begun, so far; what other worker processes read is missing."""
        return self._report or self.new_report(self.passes.upcoming(), self.passes.lanes)

    def new_report(self, epoch: int, lanes: int) -> Report:
        """Begin the account of an epoch."""
        self._report = Report(self.plan, None if self._whole else self.rows)
        if self.epochs.partial:
            self._report.set_aside(np.setdiff1d(self.rows, self.order(epoch, lanes)))
        return self._report

    def settings(self, lanes: int) -> dict[str, int | str]:
        """Return plain values: what must be the same for a place in an epoch to mean the same targets."""
        if self._identity is None:
            digest = hashlib.sha256(self.plan.fingerprint().encode())
            digest.update(self.rows.tobytes())
            self._identity = digest.hexdigest()[:16]
        return {**self.epochs.with_lanes(lanes).settings(), "targets": self._identity}

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes need no account of what others have read, and no page-locked memory.
        state = {**self.__dict__, "_report": None, "_pinned_reader": None, "watcher": None}
        del state["under_way"]
        if get_spawning_popen() is None:  # a copy, which counts its own passes
            state["passes"] = PassTable(self.passes.upcoming(), self.passes.lanes)
        else:
            self.checked_loader()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.under_way = weakref.WeakValueDictionary()

    def checked_loader(self) -> Callable[[], DataLoader[Any] | None]:
        """Return torch's loader, weakly, where one begins a pass here.

        Raises
        ------
        ConfigurationError
            If it has a batch size, or another one is reading.
        """
        found, collates = torch_loader()
        loader = found()
        if collates or (loader is not None and loader.batch_size is not None):
            raise ConfigurationError(
                "a CutoutDataset yields whole batches: give DataLoader batch_size=None, and the size of a batch to the "
                f"dataset (it has batch_size={self.epochs.batch_size}); or use CutoutLoader(dataset)"
            )
        self.refuse_second(loader)
        return found

    def refuse_second(self, loader: DataLoader[Any] | None) -> None:
        """Refuse a torch loader where another one has a pass under way in this process."""
        for collected in (False, True):
            if loader is None or all(other is loader for other in self._loaders_under_way()):
                return
            if not collected:  # one that is gone may wait for the garbage collector
                gc.collect()
        raise ConfigurationError(SECOND)

    def _loaders_under_way(self) -> list[DataLoader[Any]]:
        # `valuerefs` is a copy, since other threads begin passes; no name for a pass outlives this frame, or it would stay.
        passes = (one for ref in self.under_way.valuerefs() if (one := ref()) is not None)
        return [loader for one in passes if (loader := one.loader()) is not None]

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, in a plain loop or torch's own loader; a `CutoutLoader` has its own ``set_epoch``."""
        if epoch < 0:
            raise ConfigurationError(f"epoch must be at least 0, got {epoch}")
        self.passes.set_epoch(epoch)

    def order(self, epoch: int, lanes: int | None = None) -> NDArray[np.int64]:
        """Return the plan's target numbers in the order of an epoch, all ranks together.

        Parameters
        ----------
        epoch
            Not negative.
        lanes
            Parts of the sky that take turns: the number of ranks of the run that began the training; by default of this.
        """
        return self.rows[self.epochs.with_lanes(lanes or self.passes.lanes).order(epoch).rows]

    def __iter__(self) -> "Batches":
        return Batches(self)

    def batches(
        self, epoch: int, start: int, lanes: int, *, taken: int = 0, form: Form | None = None, in_flight: int = 2
    ) -> Iterator[TensorBatch]:
        """Yield the batches of an epoch that are this process's to read, each with what happened to it under `ACCOUNT`.

        Parameters
        ----------
        epoch, lanes
            As in `order`.
        start
            First batch, of all worker processes together.
        taken
            How many of this process's to leave out from there on.
        form
            How batches leave the threads; by default as plain tensors.
        in_flight
            Batches that a worker process may have sent and the loop not taken.
        """
        epochs = self.epochs.with_lanes(lanes)
        drawn = epochs.order(epoch)
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        threads = self.threads or max(1, default_threads() // stride)
        self.cache.share_among(stride * self.sharing if worker else 1)
        requests = self._requests(drawn, epochs.bounds[start + first + taken * stride :: stride].tolist())
        ready = self._ready(requests, form or Form(), threads, stride, in_worker=worker is not None)
        if worker is not None:
            yield from self._posted(ready, in_flight)
            return
        for tensors, account in ready:
            yield {**tensors, ACCOUNT: account}  # type: ignore[dict-item]

    def _requests(self, drawn: Drawn, bounds: list[list[int]]) -> Iterator[Request]:
        """Yield what each batch of this process is to hold."""
        for low, high, padding in bounds:
            columns = {} if drawn.repeat is None else {"repeat": drawn.repeat[low:high]}
            yield Request(self.rows[drawn.rows[low:high]], bool(padding), columns)

    def _ready(
        self, requests: Iterator[Request], form: Form, threads: int, processes: int, *, in_worker: bool
    ) -> Iterator[tuple[TensorBatch, Account]]:
        """Return batches and their accounts, finished by threads of this process."""
        # A worker process must leave CUDA alone: after a fork it would fail, otherwise take memory of the GPU.
        form = replace(form, pinned=form.pinned and not in_worker)
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

    def _posted(self, ready: Iterator[tuple[TensorBatch, Account]], in_flight: int) -> Iterator[TensorBatch]:
        """Yield the batches of a worker process, each with its `Parcel`.

        What has been sent lies in shared memory until the loop takes it, and is reserved for so long.
        """
        sent: deque[int] = deque()
        try:
            for tensors, account in ready:
                sent.append(sum(values.nbytes for values in tensors.values() if isinstance(values, torch.Tensor)))
                self.cache.reserve(sent[-1])
                if len(sent) > in_flight:
                    self.cache.release(sent.popleft())
                yield {**tensors, ACCOUNT: Parcel(account, self.cache.stats(), os.getpid())}  # type: ignore[dict-item]
        finally:
            self.cache.release(sum(sent))


def _finished(form: Form, clock: StageClock | None, delivery: Delivery) -> tuple[TensorBatch, Account]:
    """Return a batch as tensors, and its account."""
    with clock.time("collate") if clock is not None else nullcontext():
        return form.tensors(delivery.batch), delivery.account


def _with_arrays(sampling: Sampling, plan: CutoutPlan, rows: NDArray[np.int64]) -> Sampling:
    """Return sampling whose weights and classes are arrays, one value for each of ``rows``, and checked."""
    made: dict[str, Any] = {}
    for name, check in (("weights", checked_weights), ("balance", checked_classes)):
        given = getattr(sampling, name)
        if not isinstance(given, str):
            made[name] = None if given is None else check(given)
            continue
        if given not in plan.columns:
            raise ConfigurationError(
                f"{name}={given!r}: the plan has no such column; make the plan with columns=[{given!r}]"
            )
        said = f"the weights in column {given!r}" if name == "weights" else f"the column balance={given!r}"
        made[name] = check(np.asarray(plan.columns[given])[rows], said)
    return replace(sampling, **made)
