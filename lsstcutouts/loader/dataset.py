"""The dataset: whole batches as torch tensors, in an order that can be repeated, resumed and divided among ranks."""

import gc
import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing.context import get_spawning_popen
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import ConfigurationError
from ..fits.stages import StageClock
from ..order.epochs import EpochRows, Epochs
from ..order.sampling import Sampling
from ..order.weighted import checked_classes, checked_weights
from ..order.world import Position, World
from ..plan.cutout_plan import CutoutPlan
from ..plan.read_options import ReadOptions
from ..read.batch_report import BatchReport
from ..read.cache.tile_cache import TileCache
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader, Delivery, Request, checked_targets, default_threads, stream
from ..read.report import Report
from ..transforms.batch import TensorBatch
from .device.tensors import Form, pinned_empty
from .epoch_counter import TWO_LOADERS, EpochCounter, torch_loader
from .resume import resumed
from .workers import WorkerReport

__all__ = ["CutoutDataset", "DatasetIterator", "LoaderObserver"]


class LoaderObserver(Protocol):
    """Observes the loaders of a dataset; the data module that created them implements it."""

    def batch_delivered(self, loader: Any, batch: TensorBatch) -> None:
        """Record that a loader delivers a batch, planes ``(N, B, Y, X)``, to its loop."""

    def training_position(self, loader: Any, position: Position) -> Position:
        """Return the position of the training, from that of its loader: a delivered batch may not be trained on yet."""

    def trainer_reads(self, loader: Any) -> None:
        """Record that a Lightning trainer begins a pass over a loader."""


class CutoutDataset(IterableDataset[TensorBatch]):
    """Yields whole batches of cutouts; use it through a `CutoutLoader`, which counts the epochs.

    In a plain loop, in torch's own ``DataLoader(dataset, batch_size=None)`` and in torchdata's ``StatefulDataLoader`` each
    pass is the next epoch, with any number of worker processes; `set_epoch` sets the epoch of the next pass. Each of these
    loaders needs its own dataset: `copy.copy` makes one with its own count of epochs and the same cache.

    Parameters
    ----------
    plan
        What to read.
    rows
        Targets of the plan that belong to this dataset, as numbers or a mask; by default all of them.
    batch_size
        Targets per batch; the last batch of an epoch may be smaller.
    planes
        Any of ``"image"``, ``"variance"``, ``"ivar"``, ``"mask"``, ``"valid"``, ``"psf"``; only what they need is read.
    read
        How pixels are read, and the policies: `ReadOptions` (``tract`` and ``skymap`` belong to the plan). Skipped targets
        make their batch smaller; a batch whose targets are all skipped has one row that is marked ``is_padding``.
    columns
        Catalog columns of the plan that a batch contains; by default all of them.
    sampling
        Which targets an epoch uses, and in which order: `Sampling`; ``weights`` and ``balance`` are names of plan columns, or
        one value for each of ``rows``.
    seed
        Seed of the order and of the noise of ``read.fill="noise"``; not negative.
    threads
        Decoding threads; by default the cores that this process may use, divided by the number of worker processes.
    cache
        A cache that other datasets of this process use, too; by default a new one with ``cache_bytes``.
    cache_bytes
        Budget of the cache and of the batches being read, of all worker processes together.
    world
        Rank of this process and number of ranks, which decide its part of each global batch. Each rank reads
        neighbouring targets in its own part of the sky (`lanes`).
    pads
        What to do where the last global batch has fewer targets than there are ranks. True: ranks without a target repeat
        one, marked ``is_padding``, so that none is missing (validation, prediction). False: these targets are left out,
        different ones in each epoch, so that none counts twice (training).
    clock
        Measures the time of each stage in this process; worker processes are not measured.
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
        """The rows of each step, for every epoch."""
        self.threads = threads
        self.concurrent_loaders = 1
        """Loaders that have worker processes at the same time, and divide the budget of the cache."""
        self.cache = TileCache(cache_bytes) if cache is None else cache
        self.options = ReaderOptions.of(read, planes=planes, seed=seed, columns=columns)
        self.observer: weakref.ref[LoaderObserver] | None = None
        self._clock = clock
        self._reader = CutoutReader(plan, self.options, cache=self.cache, clock=clock)
        self._pinned_reader: CutoutReader | None = None
        self._whole = rows is None
        self._report: Report | None = None
        self._identity: str | None = None
        self.epoch_counter = EpochCounter(0, self.epochs.schedule.lanes)
        """Counts passes that no `CutoutLoader` begins."""
        self.running: weakref.WeakValueDictionary[int, DatasetIterator] = weakref.WeakValueDictionary()
        """Passes of this process that have yielded a batch and not ended."""

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return self.epochs.schedule.steps

    @property
    def report(self) -> Report:
        """What happened to the rows in the latest pass, so far; what worker processes read is not included."""
        return self._report or self.new_report(self.epoch_counter.upcoming(), self.epoch_counter.lanes)

    def new_report(self, epoch: int, lanes: int) -> Report:
        """Begin the report of an epoch."""
        self._report = Report(self.plan, None if self._whole else self.rows)
        if self.epochs.partial:
            self._report.set_aside(np.setdiff1d(self.rows, self.order(epoch, lanes)))
        return self._report

    def settings(self, lanes: int) -> dict[str, int | str]:
        """Return the plain values that must be equal for a position in an epoch to mean the same targets."""
        if self._identity is None:
            digest = hashlib.sha256(self.plan.fingerprint().encode())
            digest.update(self.rows.tobytes())
            self._identity = digest.hexdigest()[:16]
        return {**self.epochs.with_lanes(lanes).settings(), "targets": self._identity}

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes need neither the report nor page-locked memory.
        state = {**self.__dict__, "_report": None, "_pinned_reader": None, "observer": None}
        del state["running"]
        if get_spawning_popen() is None:  # a copy, which counts its own passes
            state["epoch_counter"] = EpochCounter(self.epoch_counter.upcoming(), self.epoch_counter.lanes)
        else:
            self.checked_loader()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.running = weakref.WeakValueDictionary()

    def checked_loader(self) -> Callable[[], DataLoader[Any] | None]:
        """Return a weak reference to the torch loader that begins a pass here, if any.

        Raises
        ------
        ConfigurationError
            If it has a batch size, or another one is reading.
        """
        found, collates = torch_loader()
        loader = found()
        if collates or (loader is not None and loader.batch_size is not None):
            raise ConfigurationError(
                "a CutoutDataset yields whole batches: use DataLoader(..., batch_size=None) and the batch_size of the dataset "
                f"({self.epochs.batch_size}), or use CutoutLoader(dataset)"
            )
        self.refuse_second(loader)
        return found

    def refuse_second(self, loader: DataLoader[Any] | None) -> None:
        """Raise if another torch loader than this one has a running pass in this process."""
        for collected in (False, True):
            if loader is None or all(other is loader for other in self._running_loaders()):
                return
            if not collected:  # a dropped one may not have been garbage-collected yet
                gc.collect()
        raise ConfigurationError(TWO_LOADERS)

    def _running_loaders(self) -> list[DataLoader[Any]]:
        # `valuerefs` is a copy, since other threads begin passes; no name for a pass outlives this frame, or it would stay.
        passes = (one for ref in self.running.valuerefs() if (one := ref()) is not None)
        return [loader for one in passes if (loader := one.loader()) is not None]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass in a plain loop or torch's own loader; a `CutoutLoader` has its own ``set_epoch``."""
        if epoch < 0:
            raise ConfigurationError(f"epoch must be at least 0, got {epoch}")
        self.epoch_counter.set_epoch(epoch)

    def order(self, epoch: int, lanes: int | None = None) -> NDArray[np.int64]:
        """Return the plan's target numbers in the order of an epoch, all ranks together.

        Parameters
        ----------
        epoch
            Not negative.
        lanes
            Parts of the sky that take turns: the number of ranks of the run that began the training; by default of this run.
        """
        return self.rows[self.epochs.with_lanes(lanes or self.epoch_counter.lanes).order(epoch).rows]

    def __iter__(self) -> "DatasetIterator":
        return DatasetIterator(self)

    def batches(
        self, position: Position, lanes: int, *, form: Form | None = None, in_flight: int = 2
    ) -> Iterator[tuple[TensorBatch, BatchReport | WorkerReport]]:
        """Yield the batches that this process reads of an epoch, each with its report.

        Parameters
        ----------
        position
            Epoch, and the first batch that this process reads. A worker process reads every n-th from there on, where n is
            the number of worker processes.
        lanes
            As in `order`.
        form
            How batches leave the threads; by default as plain tensors.
        in_flight
            Batches that a worker process may have sent and the loop not received.
        """
        epochs = self.epochs.with_lanes(lanes)
        order = epochs.order(position.epoch)
        worker = get_worker_info()
        processes = worker.num_workers if worker else 1
        threads = self.threads or max(1, default_threads() // processes)
        self._reader.share_among(processes * self.concurrent_loaders if worker else 1)
        requests = self._requests(order, epochs.bounds[position.batch :: processes].tolist())
        ready = self._ready(requests, form or Form(), threads, in_worker=worker is not None)
        return ready if worker is None else self._sent(ready, in_flight)

    def _requests(self, order: EpochRows, bounds: list[list[int]]) -> Iterator[Request]:
        """Yield what to read for each batch of this process."""
        for low, high, padding in bounds:
            columns = {} if order.repeat is None else {"repeat": order.repeat[low:high]}
            yield Request(self.rows[order.rows[low:high]], bool(padding), columns)

    def _ready(
        self, requests: Iterator[Request], form: Form, threads: int, *, in_worker: bool
    ) -> Iterator[tuple[TensorBatch, BatchReport]]:
        """Return batches and their reports, made by threads of this process."""
        # A worker process must not use CUDA: after a fork it would fail, otherwise it would take memory of the GPU.
        form = replace(form, pinned=form.pinned and not in_worker)
        reader = self._reader_into_pinned() if form.pinned else self._reader
        finish = partial(_finished, form, self._clock)
        return stream(reader, requests, threads=threads, ahead=max(2, threads), then=finish)

    def _reader_into_pinned(self) -> CutoutReader:
        if self._pinned_reader is None:
            self._pinned_reader = CutoutReader(
                self.plan, self.options, cache=self.cache, clock=self._clock, empty=self._reserved_pinned
            )
        return self._pinned_reader

    def _reserved_pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return page-locked memory that is reserved in the cache's budget as long as its tensor lives."""
        array = pinned_empty(shape, dtype)
        self.cache.reserve(array.nbytes)
        weakref.finalize(array.base, self.cache.release, array.nbytes).atexit = False
        return array

    def _sent(
        self, ready: Iterator[tuple[TensorBatch, BatchReport]], in_flight: int
    ) -> Iterator[tuple[TensorBatch, WorkerReport]]:
        """Yield the batches of a worker process, each with its `WorkerReport`.

        A batch that was sent is in shared memory until the loop receives it, and reserved until then.
        """
        sent: deque[int] = deque()
        try:
            for tensors, batch_report in ready:
                sent.append(sum(values.nbytes for values in tensors.values() if isinstance(values, torch.Tensor)))
                self.cache.reserve(sent[-1])
                if len(sent) > in_flight:
                    self.cache.release(sent.popleft())
                yield tensors, WorkerReport(batch_report, self.cache.stats(), os.getpid())
        finally:
            self.cache.release(sum(sent))


class DatasetIterator(Iterator[TensorBatch]):
    """The batches of an epoch that one process reads, without a `CutoutLoader`.

    torchdata's ``StatefulDataLoader`` keeps the state of this iterator, one for each worker process.

    Parameters
    ----------
    dataset
        Counts the epochs.

    Raises
    ------
    ConfigurationError
        If torch's loader would make batches of batches, or another loader reads the dataset.
    """

    def __init__(self, dataset: CutoutDataset) -> None:
        self._dataset, self._counter = dataset, dataset.epoch_counter
        worker = get_worker_info()
        self._worker = None if worker is None else worker.id
        self._first, self._step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self._batches: Iterator[tuple[TensorBatch, BatchReport | WorkerReport]] | None = None
        self._report: Report | None = None
        self._refused: ConfigurationError | None = None
        self.loader = dataset.checked_loader()
        """The torch loader of this pass, weakly."""
        try:
            epoch = self._counter.upcoming() if self._worker is None else self._counter.claim(self._worker)
        except ConfigurationError as error:  # torch brings it to the main process only where a batch is asked for
            epoch, self._refused = 0, error
        self._position = Position(epoch, self._first)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        if self._refused is not None:
            raise self._refused
        if self._batches is None:
            if self._worker is None:
                self._dataset.refuse_second(self.loader())
                self._counter.wait_for_others()
                self._report = self._dataset.new_report(self._position.epoch, self._counter.lanes)
            self._batches = self._dataset.batches(self._position, self._counter.lanes)
        try:
            batch, batch_report = next(self._batches)
        except BaseException:  # also StopIteration; it is raised again
            self._dataset.running.pop(id(self), None)
            raise
        if self._report is not None and isinstance(batch_report, BatchReport):
            self._report.add(batch_report)
        if self._worker is None and id(self) not in self._dataset.running:
            self._counter.set_epoch(self._position.epoch + 1)
            self._dataset.running[id(self)] = self
        self._position = self._position._replace(batch=self._position.batch + self._step)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values: ``epoch``, the next ``batch`` of this process, and the ``order``."""
        return {**self._position._asdict(), "order": self._dataset.settings(self._counter.lanes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the next batch after ``state``, in as many worker processes as there were.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if its batches are different here.
        """
        given, steps = Position(int(state["epoch"]), int(state["batch"])), self._dataset.steps
        before = given._replace(batch=0 if given.batch == self._first else min(given.batch, steps))
        lanes, after = resumed(state["order"], self._dataset.settings(self._counter.lanes), before, steps)
        self._position, self._batches = given if after == before else after, None
        if lanes is not None:
            self._counter.lanes = lanes
        if self._worker is not None:
            self._counter.resume(self._worker, given.epoch)
        else:
            self._counter.set_epoch(given.epoch + (given.batch > 0))


def _finished(form: Form, clock: StageClock | None, delivery: Delivery) -> tuple[TensorBatch, BatchReport]:
    """Return a batch as tensors, and its report."""
    with clock.time("collate") if clock is not None else nullcontext():
        return form.tensors(delivery.batch), delivery.batch_report


def _with_arrays(sampling: Sampling, plan: CutoutPlan, rows: NDArray[np.int64]) -> Sampling:
    """Return sampling with its weights and classes as checked arrays, one value for each of ``rows``."""
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
        name_of_values = f"the weights in column {given!r}" if name == "weights" else f"the column balance={given!r}"
        made[name] = check(np.asarray(plan.columns[given])[rows], name_of_values)
    return replace(sampling, **made)
