"""The loader: hands out batches and knows its place in the epoch."""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..errors import ConfigurationError
from ..read.cache.stats import CacheStats
from ..read.report import Report
from ..transforms.batch import TensorBatch
from .dataset import CutoutDataset, Watcher
from .device.tensors import Form
from .device.transfer import resolved, transfer_to
from .lightning_epoch import EpochSampler, position_of_training
from .loader_pass import LoaderPass
from .passes import ACCOUNT
from .resume import resumed
from .transfer_options import TransferOptions
from .worker_failures import any_dead, dismiss, dismiss_with
from .workers import Parcel, WorkerCaches, preload_fork_server

__all__ = ["CutoutLoader"]

_log = logging.getLogger(__name__)


class _Assigned(IterableDataset[TensorBatch]):
    """What worker processes read: the batches of the pass that stands in shared memory when they begin it."""

    def __init__(self, dataset: CutoutDataset, form: Form, in_flight: int) -> None:
        super().__init__()
        self.dataset, self.form, self.in_flight = dataset, form, in_flight
        self.place = torch.zeros(3, dtype=torch.int64)  # epoch, first batch, lanes
        self.place.share_memory_()  # type: ignore[no-untyped-call]

    def __iter__(self) -> Iterator[TensorBatch]:
        epoch, start, lanes = self.place.tolist()
        return self.dataset.batches(epoch, start, lanes, form=self.form, in_flight=self.in_flight)


def _same(batch: Any) -> Any:
    """Collate nothing: the dataset yields whole batches."""
    return batch


class CutoutLoader(DataLoader[TensorBatch]):
    """A `DataLoader` over a `CutoutDataset` that owns its position: ``(epoch, done)``.

    ``done`` counts the batches handed to the loop, whatever is prefetched behind them. A pass takes its position when
    ``iter`` is called. After a pass that delivered something the next one is the next epoch; after an unconsumed pass
    it is the same. Under a Lightning trainer the trainer's epoch decides. ``len`` is always the whole epoch. Loaders of
    one dataset, and copies of a loader, have positions of their own.

    Parameters
    ----------
    dataset
        Yields whole batches.
    num_workers
        0 reads with threads inside this process, which is the fastest; more start worker processes, which live until the
        loader or the training ends. A second pass beside a running one has workers of its own.
    device
        Where batches are handed out. With a CUDA device the next batch is copied there, on a stream of its own,
        while the loop works on the one before; ``done`` and the report count what is handed out all the same. None
        and a CPU leave batches in host memory.
    transfer
        How batches travel to the device: `TransferOptions` (``compile`` concerns the data module alone).
    pin_memory
        Whether batches lie in page-locked memory, for fast copies to the GPU; by default where CUDA is. Always so
        with a CUDA ``device``.
    prefetch_factor, timeout
        As in `torch.utils.data.DataLoader`.
    multiprocessing_context
        Start method of the workers; by default ``"forkserver"``, since a process with threads must not fork. Its server
        imports once what all workers need.
    sampler, batch_sampler
        Must be None: the dataset orders itself. They are there since Lightning passes them when it makes a loader
        again for prediction.
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
                "a CutoutLoader takes no sampler: the dataset orders and shares its batches itself"
            )
        if num_workers > 0 and multiprocessing_context is None:
            multiprocessing_context = "forkserver"
            preload_fork_server()
        self.device, self.transfer = resolved(device), transfer
        self._own_transfer()
        pinned = torch.cuda.is_available() and (pin_memory is not False or self._on_cuda)
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=_same,
            num_workers=num_workers,
            pin_memory=pinned and num_workers > 0,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context if num_workers > 0 else None,
        )
        self._pinned = pinned and num_workers == 0
        self.epoch, self.done = 0, 0
        self.lanes = dataset.epochs.schedule.lanes
        """Parts of the sky that take turns in the order: the number of ranks of the run that began the training."""
        self.waited = 0.0
        """Seconds that loops have waited in this loader for a batch."""
        self.begun = False
        """Whether a batch has been asked for."""
        self._said = False
        self._delivered = False
        # By how much our epochs differ from those that Lightning tells; and the passes that it began beyond the one of
        # its epoch, where it goes over a short loader more than once.
        self._offset, self._more = 0, 0
        self._told = False
        self._resumed: int | None = None  # Lightning's epoch, by our count, at a position that was loaded
        self._own_state()

    def _own_transfer(self) -> None:
        self.mover = transfer_to(self.device, self.transfer.wire, channels_last=self.transfer.channels_last)
        """Brings batches to the device; None where they stay in host memory."""

    def _own_state(self) -> None:
        """Set what no copy shares."""
        self.workers = WorkerCaches()
        """Figures of the caches of this loader's worker processes."""
        weakref.finalize(self, self.workers.retire).atexit = False  # they end with it
        self._report: Report | None = None
        self._latest: Callable[[], LoaderPass | None] = _nobody  # pass that counts
        self._made: Callable[[], LoaderPass | None] = _nobody
        self.fit_loop: Callable[[], Any] = _nobody
        """Lightning's loop that trains on this loader, weakly."""
        self._holder: Callable[[], LoaderPass | None] = _nobody  # of the workers that stay
        self._staying: DataLoader[TensorBatch] | None = None
        self._iterator = None  # of these workers; Lightning ends them through it
        self.__dict__["sampler"] = EpochSampler(self)  # torch lets nothing else set it

    def __getstate__(self) -> dict[str, Any]:
        own = {
            "_report",
            "_latest",
            "_made",
            "fit_loop",
            "_holder",
            "_staying",
            "_iterator",
            "sampler",
            "mover",
            "workers",
        }
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own_transfer()
        self._own_state()

    @property
    def _on_cuda(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    @property
    def cutouts(self) -> CutoutDataset:
        """The dataset, with its type."""
        return self.dataset  # type: ignore[return-value]

    @property
    def _watcher(self) -> Watcher | None:
        return None if self.cutouts.watcher is None else self.cutouts.watcher()

    def __len__(self) -> int:
        return self.cutouts.steps

    def __iter__(self) -> LoaderPass:  # type: ignore[override]
        self._say_losses()  # of a pass that was cut short
        self._advance()
        made = LoaderPass(self, self.epoch, self.done)
        self._latest = self._made = weakref.ref(made)
        return made

    def _advance(self) -> None:
        """Go to the next epoch if this one has begun or is over."""
        if self._delivered or self.done >= len(self) > 0:
            self._move(self.epoch + 1, 0)
            self._more += self._told

    def _move(self, epoch: int, done: int) -> None:
        """Let the next pass start here; the latest one does not count any more, unless it starts here, too."""
        self.epoch, self.done, self._delivered = epoch, done, False
        latest = self._latest()
        if latest is not None and (latest.begun or latest.place != (epoch, done)):
            self._latest = _nobody

    def begin(self, by: LoaderPass, epoch: int, start: int) -> Iterator[TensorBatch]:
        """Return the batches of a pass from batch ``start`` of an epoch on."""
        self.begun = True
        if by is self._latest() and (self._report is None or start == 0):
            self._report = self.cutouts.new_report(epoch, self.lanes)
        form = Form(self._pinned, self.transfer.wire, self.transfer.channels_last, self.mover is not None)
        if not self.num_workers:
            return self.cutouts.batches(epoch, start, self.lanes, form=form)
        if by is not self._latest():
            batches = iter(self._workers(form, (epoch, start, self.lanes), stay=False))
            dismiss_with(by, batches)
            return batches
        holder = self._holder()
        if holder is not None and holder is not by:
            holder.lose_workers()
        if any_dead(self._iterator):  # killed or interrupted between two batches
            self.drop_workers(self._iterator)
        place = epoch, start, self.lanes
        if self._staying is None or self._iterator is None:  # Lightning may have ended them
            self.workers.retire()
            self._staying = self._workers(form, place, stay=True)
        self._staying.dataset.place[:] = torch.tensor(place)  # type: ignore[attr-defined]
        earlier = self._iterator
        try:
            self._iterator, self._holder = iter(self._staying), weakref.ref(by)
        except BaseException:  # Ctrl-C, too: the workers are between two passes
            self.drop_workers(earlier)
            raise
        if self._iterator is not earlier:
            dismiss_with(self, self._iterator)
        return self._iterator

    def _workers(self, form: Form, place: tuple[int, int, int], *, stay: bool) -> DataLoader[TensorBatch]:
        """Return a loader that starts worker processes of its own."""
        assigned = _Assigned(self.cutouts, form, self.prefetch_factor or 2)
        assigned.place[:] = torch.tensor(place)
        return DataLoader(
            assigned,
            batch_size=None,
            collate_fn=_same,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=stay,
            prefetch_factor=self.prefetch_factor,
            timeout=self.timeout,
            worker_init_fn=self.worker_init_fn,
            multiprocessing_context=self.multiprocessing_context,
            generator=torch.Generator(),  # or each pass would draw from the global one
        )

    def keeps(self, batches: Any) -> bool:
        """Return whether an iterator is that of the workers that stay for the next pass."""
        return batches is not None and batches is self._iterator

    def drop_workers(self, batches: Any) -> None:
        """End the worker processes of a pass that failed; the next pass starts others."""
        if batches is self._iterator:
            self._iterator = self._staying = None
        dismiss(batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, from its beginning.

        Under a Lightning trainer this is not needed: the trainer's epoch decides.
        """
        if epoch < 0:
            raise ConfigurationError(f"epoch must be at least 0, got {epoch}")
        self._move(epoch, 0)

    def told(self, epoch: int, *, by_trainer: bool) -> None:
        """Follow the epoch that Lightning is in, also in a pass that has not begun yet: it begins some before it tells."""
        watcher = self._watcher
        if by_trainer and watcher is not None:
            watcher.used_by_trainer(self)
        self._told = True
        if self._resumed is not None:  # Fabric counts from zero again; a trainer that resumes does not
            self._offset, self._resumed = self._resumed - epoch, None
            return
        self._more = 0
        if epoch + self._offset != self.epoch or self._delivered or self.done >= len(self) > 0:
            self._move(epoch + self._offset, 0)
            self.restart()

    def restart(self) -> None:
        """Let the pass that was made last start where the loader is now, if it has not begun."""
        made = self._made()
        if made is not None and not made.begun:
            self._advance()
            made.place = self.epoch, self.done
            self._latest = self._made

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the loop, and what gives it its meaning; plain values.

        ``epoch`` and the batches of it that are ``done``; under ``order`` what must be the same when it goes on; under
        ``more`` the passes that a trainer has begun beyond the one of its epoch.
        """
        epoch, done = self.epoch, self.done
        watcher, fit_loop = self._watcher, self.fit_loop()
        if watcher is not None:
            epoch, done = watcher.position_of_training(self, epoch, done)
        elif fit_loop is not None:
            epoch, done = position_of_training(fit_loop, self, epoch, done)
        return {"epoch": epoch, "done": done, "more": self._more, "order": self.cutouts.settings(self.lanes)}

    def follow(self, earlier: "CutoutLoader") -> None:
        """Go on after an earlier loader of the same targets, as if it were this one."""
        self.epoch, self.done, self._delivered = earlier.epoch, min(earlier.done, len(self)), earlier._delivered
        self.lanes, self.waited = earlier.lanes, earlier.waited
        self._offset, self._more, self._told = earlier._offset, earlier._more, earlier._told
        self._resumed = earlier._resumed

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass resume where ``state`` was taken.

        The number of ranks and of workers may be another one, as long as all ranks together take as many targets a step.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if the batches that were done are not those of this loader: other targets, another
            global batch size, another order. Between two epochs there is a warning, and the next one has the new order.
        """
        epoch, done = int(state["epoch"]), int(state["done"])
        lanes, done = resumed(state.get("order"), self.cutouts.settings(self.lanes), epoch, done, len(self))
        if epoch < 0 or not 0 <= done <= len(self):
            raise ConfigurationError(f"no batch {done} of epoch {epoch}: an epoch has {len(self)} batches")
        self.lanes = lanes or self.lanes
        if epoch != self.epoch:
            self._report = None
        self._move(epoch, done)
        self._more = int(state.get("more", 0))
        self._resumed = epoch - self._more + (done >= len(self) > 0)

    @property
    def report(self) -> Report:
        """What happened to the rows in the latest epoch that was begun, so far; of this process's share of them."""
        if self._report is None:
            self._report = self.cutouts.new_report(self.epoch, self.lanes)
        return self._report

    def cache_info(self) -> CacheStats:
        """Return what the caches of this process and of the loader's worker processes have done and hold, together."""
        own = self.cutouts.cache.stats()
        # Where worker processes read, this process's cache has a budget that it does not use.
        return self.workers.total() + (own if own.hits + own.misses or not self.num_workers else CacheStats())

    def _say_losses(self) -> None:
        """Say what was lost in the latest pass, once in a loader's life."""
        if not self._said and self._delivered and (losses := self.report.losses()):
            self._said = True
            _log.warning("%s (`report` of the loader)", losses)

    def count(self, by: LoaderPass, batch: TensorBatch, waited: float) -> None:
        """Record that a pass hands out one more batch, after so many seconds; only the latest pass counts."""
        account: Any = batch.pop(ACCOUNT)
        if by is not self._latest():
            return
        if isinstance(account, Parcel):
            self.workers.note(account)
            account = account.account
        self.report.add(account)
        self.done += 1
        self.waited += waited
        self._delivered = True
        self._resumed = None
        watcher = self._watcher
        if watcher is not None:
            watcher.handed_out(self, batch)
        if self.done == len(self):  # Lightning stops here, and never asks for the end
            self._say_losses()


def _nobody() -> None:
    """Stand for a pass that is gone."""
