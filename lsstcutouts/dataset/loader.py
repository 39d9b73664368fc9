"""The loader: hands out batches and knows its place in the epoch."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch.utils.data import DataLoader

from ..cache import CacheStats
from ..cutout import Account
from ..device import Form, Prefetcher, TensorBatch, Transfer, Wire, resolved, transfer_to
from ..errors import ConfigurationError
from ..report import Report
from .changes import resumed
from .cutouts import ACCOUNT, AHEAD, CutoutDataset
from .faults import any_dead, dismiss, dismiss_with, worker_error, workers_of
from .workers import Parcel, WorkerCaches

__all__ = ["CutoutLoader"]

_log = logging.getLogger(__name__)


def _same(batch: Any) -> Any:
    """Collate nothing: the dataset yields whole batches."""
    return batch


class CutoutLoader(DataLoader[TensorBatch]):
    """A `DataLoader` over a `CutoutDataset` that knows its place: ``(epoch, done)``.

    ``done`` counts the batches handed to the loop, whatever is prefetched behind them. A new iterator after a
    pass that delivered something starts the next epoch; one after an unconsumed pass does not. ``len`` is
    always the whole epoch.

    Parameters
    ----------
    dataset
        Yields whole batches.
    num_workers
        0 reads with threads inside this process, which is the fastest; more start worker processes.
    device
        Where batches are handed out. With a CUDA device the next batch is copied there, on a stream of its own,
        while the loop works on the one before; ``done`` and the report count what is handed out all the same. None
        and a CPU leave batches in host memory.
    wire
        Type in which ``image``, ``variance``, ``ivar`` and ``psf`` travel to the device; they are handed out in
        float32. ``"float16"`` halves the bytes at a relative error of at most 2^-11, ``"bfloat16"`` of 2^-8 (details
        in `lsstcutouts.device.packed`). The values are the same without a device.
    channels_last
        Whether ``image`` has the memory layout ``(N, Y, X, B)`` that convolutions in 16 bit like best; its shape
        stays ``(N, B, Y, X)``.
    pin_memory
        Whether batches lie in page-locked memory, for fast copies to the GPU; by default where CUDA is. Always so
        with a CUDA ``device``.
    persistent_workers, prefetch_factor, timeout
        As in `torch.utils.data.DataLoader`.
    multiprocessing_context
        Start method of the workers; by default ``"forkserver"``, since a process with threads must not fork.
    sampler, batch_sampler
        Must be None: the dataset orders itself. They are there since Lightning passes them when it makes a loader
        anew for prediction.
    """

    def __init__(
        self,
        dataset: CutoutDataset,
        *,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        wire: Wire = "float32",
        channels_last: bool = False,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
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
        self.device, self.wire, self.channels_last = resolved(device), wire, channels_last
        self.transfer: Transfer | None = transfer_to(self.device, wire, channels_last=channels_last)
        """Brings batches to the device; None where they stay in host memory."""
        pinned = torch.cuda.is_available() and (pin_memory is not False or self._on_cuda)
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=_same,
            num_workers=num_workers,
            pin_memory=pinned and num_workers > 0,
            persistent_workers=persistent_workers,
            prefetch_factor=prefetch_factor,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context if num_workers > 0 else None,
        )
        self._pinned = pinned and num_workers == 0
        dataset.share_position()
        dataset.in_flight = self.prefetch_factor or 0
        self.workers = WorkerCaches()
        """Figures of the caches of this loader's worker processes."""
        self.epoch, self.done = 0, 0
        self.adjusted: Callable[[int, int], tuple[int, int]] | None = None
        """What a trainer makes of the place: it may have fetched a batch and not trained on it."""
        self.waited = 0.0
        """Seconds that loops have waited in this loader for a batch."""
        self._delivered = False
        self._said = False
        self._passes = 0

    @property
    def _on_cuda(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    @property
    def cutouts(self) -> CutoutDataset:
        """The dataset, with its type."""
        return self.dataset  # type: ignore[return-value]

    def __len__(self) -> int:
        return self.cutouts.steps

    def __iter__(self) -> "_Pass":  # type: ignore[override]
        self._say_losses()  # of a pass that was cut short
        if self._delivered or self.done >= len(self) > 0:
            self.epoch, self.done = self.epoch + 1, 0
        self._delivered = False
        self._passes += 1
        if not self.persistent_workers:
            self.workers.retire()
        self.cutouts.seek(self.epoch, self.done)
        if self.done == 0:
            self.cutouts.begin_report()
        self.cutouts.form = Form(self._pinned, self.wire, self.channels_last, self.transfer is not None)
        if any_dead(self._iterator):  # persistent workers that were killed or interrupted between two batches
            self.drop_workers(self._iterator)
        fresh = self._iterator is None
        try:
            batches: Iterator[TensorBatch] = super().__iter__()
        except BaseException:  # Ctrl-C, too: persistent workers are between two passes
            self.drop_workers(self._iterator)
            raise
        made = _Pass(self, self._passes, batches)
        if workers_of(batches) and fresh:
            dismiss_with(self if self.persistent_workers else made, batches)
        return made

    def drop_workers(self, batches: Any) -> None:
        """End the worker processes of a pass that failed; the next pass starts others."""
        if batches is self._iterator:
            self._iterator = None
        dismiss(batches)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, from its beginning."""
        self.cutouts.seek(epoch)
        self.epoch, self.done, self._delivered = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the loop, and what gives it its meaning; plain values.

        ``epoch`` and the batches of it that are ``done``, and under ``order`` what must be the same when it goes on.
        """
        epoch, done = self.epoch, self.done
        if self.adjusted is not None:
            epoch, done = self.adjusted(epoch, done)
        return {"epoch": epoch, "done": done, "order": self.cutouts.settings()}

    def follow(self, earlier: "CutoutLoader") -> None:
        """Go on after an earlier loader of the same dataset, as if it were this one."""
        self.epoch, self.done, self._delivered = earlier.epoch, min(earlier.done, len(self)), earlier._delivered
        self.cutouts.seek(self.epoch, self.done, earlier.cutouts.lanes)
        self.waited = earlier.waited

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where ``state`` was taken.

        The number of ranks and of workers may be another one, as long as all ranks together take as many targets a step.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if the batches that were done are not those of this loader: other targets, another
            global batch size, another order. Between two epochs there is a warning, and the next one has the new order.
        """
        epoch, done = int(state["epoch"]), int(state["done"])
        lanes, done = resumed(state.get("order"), self.cutouts.settings(), epoch, done, len(self))
        self.cutouts.seek(epoch, done, lanes)
        if epoch != self.epoch:
            self.cutouts.begin_report()
        self.epoch, self.done, self._delivered = epoch, done, False

    @property
    def report(self) -> Report:
        """What became of the rows in the latest epoch that was begun, so far; of this process's share of them."""
        return self.cutouts.report

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

    def count(self, number: int, waited: float, parcel: Parcel | None, account: Account | None) -> None:
        """Take note that pass ``number`` hands out one more batch, after so many seconds; only the latest one counts."""
        if number != self._passes:
            return
        if parcel is not None:
            self.report.add(parcel.account)
            self.workers.note(parcel)
        if account is not None:
            self.report.add(account)
        self.done += 1
        self.waited += waited
        self._delivered = True
        if self.done == len(self):  # Lightning stops here, and never asks for the end
            self._say_losses()


class _Pass:
    """One pass over a loader, counting what it hands out. An error ends it, and its worker processes, at once."""

    def __init__(self, loader: CutoutLoader, number: int, source: Iterator[TensorBatch]) -> None:
        self._loader, self._number, self._source = loader, number, source
        self._batches = source if loader.transfer is None else Prefetcher(source, loader.transfer)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        start = time.perf_counter()
        try:
            batch = next(self._batches)
        except StopIteration:
            if not self._loader.persistent_workers:
                self._end()
            raise
        except BaseException as error:  # Ctrl-C, too: no worker may outlive the pass that failed; it is raised again
            place = f"batch {self._loader.done} of epoch {self._loader.epoch}"
            death = worker_error(error, self._source, place)
            self._end()
            if death is None:
                raise
            try:
                raise death from error
            finally:
                del death  # a ring with its own traceback would keep the queues open
        parcel: Any = batch.pop(ACCOUNT, None)
        account: Any = batch.pop(AHEAD, None)
        self._loader.count(self._number, time.perf_counter() - start, parcel, account)
        return batch

    def _end(self) -> None:
        """End this pass, and its worker processes."""
        source, self._source, self._batches = self._source, iter(()), iter(())
        self._loader.drop_workers(source)

    def __len__(self) -> int:
        return len(self._loader)
