"""The loader: delivers batches and knows its position in the epoch."""

import copy
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch.utils.data import DataLoader

from ..errors import ConfigurationError
from ..order.world import Position
from ..read.batch_report import BatchReport
from ..read.cache.stats import CacheStats
from ..read.report import Report
from ..transforms.batch import TensorBatch
from .dataset import CutoutDataset, LoaderObserver
from .device.tensors import Form
from .device.transfer import Prefetcher, resolved, transfer_to
from .lightning_epoch import EpochSampler, TrainerEpochs, training_position
from .resume import resumed
from .transfer_options import TransferOptions
from .worker_failures import dismiss, worker_error
from .worker_pool import WorkerPool, unchanged
from .workers import WorkerReport, preload_fork_server

__all__ = ["CutoutLoader", "LoaderIterator"]

_log = logging.getLogger(__name__)

type AnyReport = BatchReport | WorkerReport


class CutoutLoader(DataLoader[TensorBatch]):
    """A `DataLoader` over a `CutoutDataset` that knows its ``position``, ``(epoch, batch)``.

    ``position.batch`` counts the batches delivered to the loop, not those that are prefetched. A pass takes its position
    when ``iter`` is called. After a pass that delivered a batch the next pass is the next epoch; after an unused pass it is
    the same epoch. Under a Lightning trainer the trainer's epoch decides. ``len`` is always that of a whole epoch. Loaders
    of one dataset, and copies of a loader, each have their own position.

    Parameters
    ----------
    dataset
        Yields whole batches.
    num_workers
        0 reads with threads inside this process, which is fastest; a larger number starts worker processes, which live
        until the loader or the training ends. A second pass beside a running one has its own worker processes.
    device
        Where batches are delivered. To a CUDA device the next batch is copied on a separate stream while the loop
        processes the current one; the position and the report still count delivered batches. None and a CPU leave batches
        in host memory.
    transfer
        How batches travel to the device: `TransferOptions` (``compile`` has an effect in the data module only).
    pin_memory
        Whether batches are in page-locked memory, for fast copies to the GPU; by default if CUDA is available. Always true
        with a CUDA ``device``.
    prefetch_factor, timeout
        As in `torch.utils.data.DataLoader`.
    multiprocessing_context
        Start method of the workers; by default ``"forkserver"``, since a process with threads must not fork. Its server
        imports once what all workers need.
    sampler, batch_sampler
        Must be None: the dataset orders its batches. Lightning passes these arguments when it creates a loader for
        prediction.
    """

    def __init__(
        self,
        dataset: CutoutDataset,
        *,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        transfer: TransferOptions = TransferOptions(),
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        sampler: None = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is not None or batch_sampler is not None:
            raise ConfigurationError(
                "a CutoutLoader accepts no sampler, because the dataset orders the batches and divides them among the ranks; remove it"
            )
        if num_workers > 0 and multiprocessing_context is None:
            multiprocessing_context = "forkserver"
            preload_fork_server()
        self.device, self.transfer = resolved(device), transfer
        self._create_mover()
        self.worker_pool = WorkerPool()
        pinned = torch.cuda.is_available() and (pin_memory is not False or self._on_cuda)
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=unchanged,
            num_workers=num_workers,
            pin_memory=pinned and num_workers > 0,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context if num_workers > 0 else None,
        )
        self._pinned = pinned and num_workers == 0
        self.position = Position()
        """Epoch, and the batches of it that were delivered to the loop."""
        self.lanes = dataset.epochs.schedule.lanes
        """Parts of the sky that take turns in the order: the number of ranks of the run that began the training."""
        self.waited = 0.0
        """Seconds that loops have waited for batches."""
        self.begun = False
        """Whether a batch has been asked for."""
        self._delivered = False
        self._losses_logged = False
        self._trainer_epochs = TrainerEpochs()
        self._create_own_state()

    def _create_mover(self) -> None:
        self.mover = transfer_to(self.device, self.transfer.wire, channels_last=self.transfer.channels_last)
        """Copies batches to the device; None if they stay in host memory."""

    def _create_own_state(self) -> None:
        """Create what copies do not share."""
        self.worker_pool = WorkerPool()
        self._report: Report | None = None
        self._latest: Callable[[], LoaderIterator | None] = _none  # the pass that counts
        self._created: Callable[[], LoaderIterator | None] = _none
        self.fit_loop: Callable[[], Any] = _none
        """Weak reference to Lightning's loop that trains on this loader."""
        self.__dict__["sampler"] = EpochSampler(self)  # torch allows no other way to set it

    def __getstate__(self) -> dict[str, Any]:
        own = {"_report", "_latest", "_created", "fit_loop", "sampler", "mover", "worker_pool"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._trainer_epochs = copy.copy(self._trainer_epochs)
        self._create_mover()
        self._create_own_state()

    @property
    def _iterator(self) -> Any:
        """Iterator of the worker processes that stay: Lightning ends them through it and sets it to None."""
        return self.worker_pool.iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self.worker_pool.iterator = iterator

    @property
    def _on_cuda(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    @property
    def cutouts(self) -> CutoutDataset:
        """The dataset, with its type."""
        return self.dataset  # type: ignore[return-value]

    @property
    def _observer(self) -> LoaderObserver | None:
        return None if self.cutouts.observer is None else self.cutouts.observer()

    @property
    def _epoch_over(self) -> bool:
        """Whether the next pass is another epoch."""
        return self._delivered or self.position.batch >= len(self) > 0

    def __len__(self) -> int:
        return self.cutouts.steps

    def __iter__(self) -> "LoaderIterator":  # type: ignore[override]
        self._log_losses()  # of a pass that was not read to its end
        self._advance()
        created = LoaderIterator(self)
        self._latest = self._created = weakref.ref(created)
        return created

    def _advance(self) -> None:
        """Go to the next epoch if this one has begun or is over."""
        if self._epoch_over:
            self._set_position(Position(self.position.epoch + 1))
            self._trainer_epochs.extra += self._trainer_epochs.used

    def _set_position(self, position: Position) -> None:
        """Let the next pass start here; the latest pass no longer counts, unless it starts here, too."""
        self.position, self._delivered = position, False
        latest = self._latest()
        if latest is not None and (latest.begun or latest.start != position):
            self._latest = _none

    def begin(self, by: "LoaderIterator", position: Position) -> Iterator[tuple[TensorBatch, AnyReport]]:
        """Return the batches of a pass from a position on, each with its report."""
        self.begun = True
        if by is self._latest() and (self._report is None or position.batch == 0):
            self._report = self.cutouts.new_report(position.epoch, self.lanes)
        form = Form(self._pinned, self.transfer.wire, self.transfer.channels_last, self.mover is not None)
        if not self.num_workers:
            return self.cutouts.batches(position, self.lanes, form=form)
        begin = self.worker_pool.begin if by is self._latest() else self.worker_pool.begin_apart
        return begin(by, self, form, position, self.lanes)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, from its first batch.

        Under a Lightning trainer this is not needed: the trainer's epoch decides.
        """
        if epoch < 0:
            raise ConfigurationError(f"epoch must be at least 0, got {epoch}")
        self._set_position(Position(epoch))

    def set_trainer_epoch(self, epoch: int, *, by_trainer: bool) -> None:
        """Use the epoch that Lightning is in, also for a pass that has not begun: it creates some before it calls this."""
        observer, trainer = self._observer, self._trainer_epochs
        if by_trainer and observer is not None:
            observer.trainer_reads(self)
        trainer.used = True
        if trainer.resumed is not None:  # Fabric counts from zero again; a trainer that resumes does not
            trainer.offset, trainer.resumed = trainer.resumed - epoch, None
            return
        trainer.extra = 0
        if epoch + trainer.offset != self.position.epoch or self._epoch_over:
            self._set_position(Position(epoch + trainer.offset))
            self.restart()

    def restart(self) -> None:
        """Let the pass that was created last start at the loader's position, if it has not begun."""
        created = self._created()
        if created is not None and not created.begun:
            self._advance()
            created.start = self.position
            self._latest = self._created

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the loop and the settings it depends on, as plain values.

        ``epoch``, and the ``batch`` of it that comes next; under ``order`` the settings that must be equal on resume;
        under ``extra_passes`` the passes that a trainer has begun beyond the one of its epoch.
        """
        position, observer, fit_loop = self.position, self._observer, self.fit_loop()
        if observer is not None:
            position = observer.training_position(self, position)
        elif fit_loop is not None:
            position = training_position(fit_loop, self, position)
        order = self.cutouts.settings(self.lanes)
        return {**position._asdict(), "order": order, "extra_passes": self._trainer_epochs.extra}

    def continue_from(self, earlier: "CutoutLoader") -> None:
        """Continue after an earlier loader of the same targets, as if it were this one."""
        self.position = earlier.position._replace(batch=min(earlier.position.batch, len(self)))
        self.lanes, self.waited, self._delivered = earlier.lanes, earlier.waited, earlier._delivered
        self._trainer_epochs = copy.copy(earlier._trainer_epochs)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass continue at the next batch after ``state``.

        The number of ranks and of workers may differ, as long as all ranks together read as many targets per step.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if the batches that were read are not those of this loader: other targets, another
            global batch size, another order. Between two epochs a warning is logged, and the next epoch has the new order.
        """
        given = Position(int(state["epoch"]), int(state["batch"]))
        lanes, position = resumed(state.get("order"), self.cutouts.settings(self.lanes), given, len(self))
        if position.epoch < 0 or not 0 <= position.batch <= len(self):
            raise ConfigurationError(
                f"the state has batch {position.batch} of epoch {position.epoch}, but an epoch has {len(self)} batches; use the state of "
                "a loader with the same settings"
            )
        self.lanes = lanes or self.lanes
        if position.epoch != self.position.epoch:
            self._report = None
        self._set_position(position)
        extra = int(state.get("extra_passes", 0))
        self._trainer_epochs.extra = extra
        self._trainer_epochs.resumed = position.epoch - extra + self._epoch_over

    @property
    def report(self) -> Report:
        """What happened to the rows in the latest epoch, so far; only rows that this rank reads."""
        if self._report is None:
            self._report = self.cutouts.new_report(self.position.epoch, self.lanes)
        return self._report

    def cache_info(self) -> CacheStats:
        """Return the sum of the cache statistics of this process and of the loader's worker processes."""
        own = self.cutouts.cache.stats()
        # Where worker processes read, this process's cache has a budget that it does not use.
        return self.worker_pool.caches.total() + (
            own if own.hits + own.misses or not self.num_workers else CacheStats()
        )

    def _log_losses(self) -> None:
        """Log what was lost in the latest pass, once per loader."""
        if not self._losses_logged and self._delivered and (losses := self.report.losses()):
            self._losses_logged = True
            _log.warning("%s (`report` of the loader)", losses)

    def count(self, by: "LoaderIterator", batch: TensorBatch, report: AnyReport, waited: float) -> None:
        """Record that a pass delivers one more batch, after so many seconds; only the latest pass counts."""
        if by is not self._latest():
            return
        if isinstance(report, WorkerReport):
            self.worker_pool.caches.add(report)
            report = report.batch_report
        self.report.add(report)
        self.position = self.position._replace(batch=self.position.batch + 1)
        self.waited += waited
        self._delivered = True
        self._trainer_epochs.resumed = None
        observer = self._observer
        if observer is not None:
            observer.batch_delivered(self, batch)
        if self.position.batch == len(self):  # Lightning stops here and never asks for the end
            self._log_losses()


# Inside `train_dataloader` Lightning keeps in each loader a list of all attributes that were set, and goes on for ever
# where `train_dataloader` has raised. The list would grow with each batch, keep passes alive and could not be pickled.
setattr(CutoutLoader, "__pl_attrs_record", property(lambda _: [], lambda _, record: None))  # noqa: ARG005


class LoaderIterator(Iterator[TensorBatch]):
    """One pass over a loader. An error ends it, and its worker processes, at once."""

    def __init__(self, loader: CutoutLoader) -> None:
        self._loader = loader
        self.start = loader.position
        """Position at which it starts."""
        self.begun = False
        self._delivered = 0
        self._source: Any = None
        self._batches: Iterator[TensorBatch] = iter(())
        self._reports: deque[AnyReport] = deque()  # of batches that were read and not delivered

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        start = time.perf_counter()
        try:
            if self._source is None:
                self._begin()
            batch = next(self._batches)
        except StopIteration:
            if not self._loader.worker_pool.keeps(self._source):
                self._end()
            raise
        except BaseException as error:  # Ctrl-C, too: no worker may outlive the pass that failed; it is raised again
            waited_for = f"batch {self._loader.position.batch} of epoch {self._loader.position.epoch}"
            death = worker_error(error, self._source, waited_for)
            self._end()
            if death is None:
                raise
            try:
                raise death from error
            finally:
                del death  # a cycle with its own traceback would keep the queues open
        self._delivered += 1
        self._loader.count(self, batch, self._reports.popleft(), time.perf_counter() - start)
        return batch

    def _begin(self) -> None:
        """Ask for batches now, and not when this object is created: Lightning creates passes that it never begins."""
        self.begun = True
        self._source = self._loader.begin(self, self.start._replace(batch=self.start.batch + self._delivered))
        self._reports.clear()
        # No generator and no method: the pass must not be in a cycle that only the garbage collector can free.
        batches = map(partial(_without_report, self._reports), self._source)
        mover = self._loader.mover
        self._batches = batches if mover is None else Prefetcher(batches, mover)

    def lose_workers(self) -> None:
        """Give the workers to a later pass; if this pass continues nevertheless, it starts its own."""
        self._source = None

    def _end(self) -> None:
        """End this pass, and its worker processes."""
        source, self._source, self._batches = self._source, iter(()), iter(())
        if self._loader.worker_pool.keeps(source):
            self._loader.worker_pool.end(source)
        else:
            dismiss(source)

    def __len__(self) -> int:
        return len(self._loader)


def _without_report(reports: deque[AnyReport], pair: tuple[TensorBatch, AnyReport]) -> TensorBatch:
    """Return the batch of a pair, and keep its report."""
    batch, report = pair
    reports.append(report)
    return batch


def _none() -> None:
    """Stand for a weak reference to a pass that is gone."""
