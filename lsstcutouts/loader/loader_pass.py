"""One pass over a `CutoutLoader`: what its iterator does."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from ..transforms.batch import TensorBatch
from .device.transfer import Prefetcher
from .worker_failures import worker_error

if TYPE_CHECKING:
    from .loader import CutoutLoader

__all__ = ["LoaderPass"]


class LoaderPass:
    """One pass over a loader, counting what it hands out. An error ends it, and its worker processes, at once."""

    def __init__(self, loader: "CutoutLoader", epoch: int, start: int) -> None:
        self._loader = loader
        self.place = epoch, start
        """Epoch and batch at which it starts."""
        self.begun = False
        self._taken = 0
        self._source: Any = None
        self._batches: Iterator[TensorBatch] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        start = time.perf_counter()
        try:
            if self._source is None:
                self._begin()
            batch = next(self._batches)
        except StopIteration:
            if not self._loader.keeps(self._source):
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
        self._taken += 1
        self._loader.count(self, batch, time.perf_counter() - start)
        return batch

    def _begin(self) -> None:
        """Ask for batches now, and not at ``iter``: Lightning makes passes that it never begins."""
        self.begun = True
        epoch, start = self.place
        self._source = self._loader.begin(self, epoch, start + self._taken)
        transfer = self._loader.mover
        self._batches = self._source if transfer is None else Prefetcher(self._source, transfer)

    def lose_workers(self) -> None:
        """Give the workers to a later pass; if this one continues, it starts its own."""
        self._source = None

    def _end(self) -> None:
        """End this pass, and its worker processes."""
        source, self._source, self._batches = self._source, iter(()), iter(())
        self._loader.drop_workers(source)

    def __len__(self) -> int:
        return len(self._loader)
