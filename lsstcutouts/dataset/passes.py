"""A pass over a dataset in one process, with a place that can be kept and gone back to."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from ..device import TensorBatch
from .changes import resumed

if TYPE_CHECKING:
    from .cutouts import CutoutDataset

__all__ = ["Batches"]


class Batches(Iterator[TensorBatch]):
    """The batches of an epoch that one process reads.

    A `CutoutLoader` needs nothing of its state. torchdata's ``StatefulDataLoader`` keeps that of each worker process.

    Parameters
    ----------
    dataset
        Its position, when the first batch is asked for, is where the pass starts.
    """

    def __init__(self, dataset: "CutoutDataset") -> None:
        self._dataset = dataset
        self._place: tuple[int, int] | None = None
        self._taken = 0
        self._batches: Iterator[TensorBatch] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        if self._batches is None:
            self._batches = self._dataset.batches(*self._begun(), self._taken)
        batch = next(self._batches)
        self._taken += 1
        return batch

    def _begun(self) -> tuple[int, int]:
        if self._place is None:
            self._place = self._dataset.position
        return self._place

    def state_dict(self) -> dict[str, Any]:
        """Return the place: ``epoch``, the batch at which it was begun, and how many were ``taken`` here since."""
        epoch, start = self._place or self._dataset.position
        return {"epoch": epoch, "start": start, "taken": self._taken, "order": self._dataset.settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken, in as many worker processes as there were.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if its batches are others here.
        """
        epoch, start, taken = int(state["epoch"]), int(state["start"]), int(state["taken"])
        steps = self._dataset.steps
        lanes, done = resumed(state["order"], self._dataset.settings(), epoch, min(start + taken, steps), steps)
        if done != min(start + taken, steps):  # a whole epoch is behind it, of another length
            start, taken = done, 0
        self._dataset.seek(*self._dataset.position, lanes)
        self._place, self._taken, self._batches = (epoch, start), taken, None
