"""The worker processes of a loader, which live until the loader or the training ends."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..order.world import Position
from ..transforms.batch import TensorBatch
from .dataset import CutoutDataset
from .device.tensors import Form
from .worker_failures import WorkerIterator, any_dead, dismiss, dismiss_with
from .workers import WorkerCaches, WorkerReport, end_with_main_process

__all__ = ["WorkerPool", "unchanged"]

type Pairs = Iterator[tuple[TensorBatch, WorkerReport]]


def unchanged(batch: Any) -> Any:
    """Return what a dataset yields: it yields whole batches, so nothing is collated."""
    return batch


class _PositionedDataset(IterableDataset[tuple[TensorBatch, WorkerReport]]):
    """What worker processes read: an epoch from the position that is in shared memory when the pass begins."""

    def __init__(self, dataset: CutoutDataset, form: Form, in_flight: int) -> None:
        super().__init__()
        self.dataset, self.form, self.in_flight = dataset, form, in_flight
        self._shared = torch.zeros(3, dtype=torch.int64)  # epoch, first batch, lanes
        self._shared.share_memory_()  # type: ignore[no-untyped-call]

    def set_position(self, position: Position, lanes: int) -> None:
        """Set where all workers together begin the next pass."""
        self._shared[:] = torch.tensor((*position, lanes))

    def __iter__(self) -> Iterator[Any]:
        epoch, batch, lanes = self._shared.tolist()
        worker = get_worker_info()
        if worker is not None:
            end_with_main_process()
        position = Position(epoch, batch + (worker.id if worker else 0))
        return self.dataset.batches(position, lanes, form=self.form, in_flight=self.in_flight)


class WorkerPool:
    """Worker processes that stay for the next pass; a second pass beside a running one has processes of its own."""

    def __init__(self) -> None:
        self.caches = WorkerCaches()
        """Statistics of the caches of these processes."""
        self.iterator: Any = None
        """torch's iterator of the processes that stay; Lightning ends them through it."""
        self._loader: DataLoader[Any] | None = None
        self._user: Callable[[], Any] = lambda: None  # pass that reads from the processes that stay
        weakref.finalize(self, self.caches.retire).atexit = False  # they end with it

    def begin(self, user: Any, options: DataLoader[Any], form: Form, position: Position, lanes: int) -> Pairs:
        """Return the batches of a pass from the processes that stay, and start them if they are not there.

        Parameters
        ----------
        user
            The pass.
        options
            The loader whose number of processes and other options are used.
        form, position, lanes
            As in `CutoutDataset.batches`, for all processes together.
        """
        earlier_user = self._user()
        if earlier_user is not None and earlier_user is not user:
            earlier_user.lose_workers()
        if any_dead(self.iterator):  # killed or interrupted between two batches
            self.end(self.iterator)
        if self._loader is None or self.iterator is None:  # Lightning may have ended them
            self.caches.retire()
            self._loader = _started(options, form, stay=True)
        dataset: Any = self._loader.dataset
        dataset.set_position(position, lanes)
        earlier = self.iterator
        try:
            self.iterator, self._user = iter(self._loader), weakref.ref(user)
        except BaseException:  # Ctrl-C, too: the workers are between two passes
            self.end(earlier)
            raise
        if self.iterator is not earlier:
            dismiss_with(self, self.iterator)
        found: Pairs = self.iterator
        return found

    def begin_apart(self, user: Any, options: DataLoader[Any], form: Form, position: Position, lanes: int) -> Pairs:
        """Return the batches of a pass from processes of its own, which end with it; parameters as in `begin`."""
        loader = _started(options, form, stay=False)
        dataset: Any = loader.dataset
        dataset.set_position(position, lanes)
        batches: Any = iter(loader)
        dismiss_with(user, batches)
        found: Pairs = batches
        return found

    def keeps(self, batches: Any) -> bool:
        """Return whether an iterator is that of the processes that stay."""
        return batches is not None and batches is self.iterator

    def end(self, batches: Any) -> None:
        """End the processes behind an iterator; the next pass starts others."""
        if batches is self.iterator:
            self.iterator = self._loader = None
        dismiss(batches)


class _StartedLoader(DataLoader[Any]):
    """Starts worker processes of its own."""

    def _get_iterator(self) -> WorkerIterator:
        return WorkerIterator(self)


def _started(options: DataLoader[Any], form: Form, *, stay: bool) -> DataLoader[Any]:
    """Return a loader that starts worker processes of its own."""
    return _StartedLoader(
        _PositionedDataset(options.dataset, form, options.prefetch_factor or 2),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=unchanged,
        num_workers=options.num_workers,
        pin_memory=options.pin_memory,
        persistent_workers=stay,
        prefetch_factor=options.prefetch_factor,
        timeout=options.timeout,
        worker_init_fn=options.worker_init_fn,
        multiprocessing_context=options.multiprocessing_context,
        generator=torch.Generator(),  # otherwise each pass would draw from the global one
    )
