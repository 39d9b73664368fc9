"""Passes over the dataset itself: in a plain loop, torch's own ``DataLoader``, torchdata's ``StatefulDataLoader``.

A `CutoutLoader` says which epoch a pass is. Those do not, so the dataset counts them: each pass is the next epoch.
"""

import multiprocessing
import os
import re
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import torch
from torch.utils.data import DataLoader, get_worker_info

from ..errors import ConfigurationError
from ..transforms.batch import TensorBatch
from .resume import resumed

if TYPE_CHECKING:
    from ..read.report import Report
    from .dataset import CutoutDataset

__all__ = ["ACCOUNT", "SECOND", "Batches", "PassTable", "torch_loader"]

ACCOUNT = "lsstcutouts.account"
"""Key under which a batch carries its `Account`, or the `Parcel` of a worker process; it never leaves this package."""

_WORKERS = 1024
_POOL, _PASS, _EPOCH = 1 << 24, 1 << 14, 1 << 24
"""What fits into a slot: the pool of worker processes, the number of a pass in it, and its epoch."""

_PATIENCE, _POLL = 10.0, 0.05
"""Seconds in which the workers of an earlier pass end, and between two looks."""


SECOND = (
    "two torch DataLoaders, or two passes with worker processes, read the same CutoutDataset at the same time, which counts "
    "the passes of one after the other; give each loader copy.copy(dataset), which shares the cache, or use CutoutLoader"
)
"""Why a pass is refused."""


class _Slot(NamedTuple):
    """The latest pass of a worker process: its pool, its number in that process, its epoch."""

    pool: int
    number: int
    epoch: int


class PassTable:
    """Numbers the passes over a dataset, for all worker processes of a loader together.

    It lies in shared memory, without a lock: each worker writes one slot of 8 bytes, its own. Workers that a loader
    starts together are a pool; a worker follows the first of its pool that has begun.

    Parameters
    ----------
    epoch
        Of the first pass.
    lanes
        As in `Epochs`.
    """

    def __init__(self, epoch: int, lanes: int) -> None:
        # Row 0: slots of `_Slot`, 0 for none, and the next epoch. Rows 1 and 2: process and pool that wrote them. The
        # last column: what belongs to no worker.
        self._table = torch.zeros(3, _WORKERS + 1, dtype=torch.int64)
        self._claimed = 0  # passes in this process
        self.set_epoch(epoch)
        self.lanes = lanes
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    def _share(self) -> None:
        self._table.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def lanes(self) -> int:
        """Parts of the sky that take turns in the order."""
        return int(self._table[1, -1])

    @lanes.setter
    def lanes(self, lanes: int) -> None:
        self._table[1, -1] = lanes

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch."""
        self._table[0] = 0
        self._table[0, -1] = epoch

    def upcoming(self) -> int:
        """Return the epoch of the next pass."""
        return self._after(self._slots())

    def _after(self, slots: list[_Slot]) -> int:
        return max([int(self._table[0, -1]), *(slot.epoch + 1 for slot in slots)])

    def claim(self, worker: int) -> int:
        """Return the epoch of the pass that a worker process begins.

        Raises
        ------
        ConfigurationError
            If workers of another pass run: chance would decide which of them begins which epoch.
        """
        pool, number = _pool_of(worker), self._claimed
        self._claimed += 1
        self.wait_for_others(pool)
        slots = self._slots()  # looked at once: another worker of the pool may begin meanwhile
        known = next((slot for slot in slots if slot.pool == pool % _POOL), None)
        if known is None:
            epoch = self._after(slots)
        else:  # a worker that is slow to start may be passes behind
            epoch = known.epoch - ((known.number - number + _PASS // 2) % _PASS - _PASS // 2)
        self._write(worker, pool, number, epoch)
        return epoch

    def go_on(self, worker: int, epoch: int) -> None:
        """Record that the pass of a worker process is of this epoch, whatever it has claimed."""
        pool = _pool_of(worker)
        for place, slot in enumerate(self._table[0, :-1].tolist()):
            if slot and _unpacked(slot).pool != pool % _POOL:
                self._table[0, place] = 0
        self._table[0, -1] = 0
        self._write(worker, pool, self._claimed - 1, epoch)

    def _write(self, worker: int, pool: int, number: int, epoch: int) -> None:
        self._table[2, worker], self._table[1, worker] = pool, os.getpid()
        self._table[0, worker] = ((pool % _POOL) * _PASS + number % _PASS) * _EPOCH + epoch + 1

    def _slots(self) -> list[_Slot]:
        return [_unpacked(slot) for slot in self._table[0, :-1].tolist() if slot]

    def wait_for_others(self, pool: int = -1) -> None:
        """Wait for the worker processes of an earlier pass to end: a loop drops it after it has begun the next one.

        Raises
        ------
        ConfigurationError
            If they go on.
        """
        end = time.monotonic() + _PATIENCE
        processes = zip(*self._table[1:, :-1].tolist(), strict=True)
        others = [pid for pid, other in processes if pid and other != pool]
        while others := [pid for pid in others if _runs(pid)]:
            if time.monotonic() > end:
                raise ConfigurationError(f"{SECOND} (worker process {others[0]} runs)")
            time.sleep(_POLL)


def _unpacked(slot: int) -> _Slot:
    rest, epoch = divmod(slot - 1, _EPOCH)
    return _Slot(*divmod(rest, _PASS), epoch)


def _pool_of(worker: int) -> int:
    """Return a number that the workers of one loader share, and nothing else: they are started one after the other."""
    number = re.search(r"\d+$", multiprocessing.current_process().name)
    return int(number[0]) - worker if number else 0


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def torch_loader() -> tuple[Callable[[], DataLoader[Any] | None], bool]:
    """Return the torch loader that begins a pass here, weakly, and whether it makes batches of what it gets.

    torch tells a dataset neither; both stand in the frames of the callers.
    """
    frame: FrameType | None = sys._getframe(1)
    collates = False
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torch"):
            caller = frame.f_locals.get("self")
            if isinstance(caller, DataLoader):
                return weakref.ref(caller), collates
            collates |= getattr(caller, "auto_collation", False) is True
        frame = frame.f_back
    return lambda: None, collates


class Batches(Iterator[TensorBatch]):
    """The batches of an epoch that one process reads.

    torchdata's ``StatefulDataLoader`` keeps the state of this iterator, of each worker process.

    Parameters
    ----------
    dataset
        Says which epoch comes next.

    Raises
    ------
    ConfigurationError
        If torch's loader would make batches of batches, or the dataset belongs to another one.
    """

    def __init__(self, dataset: "CutoutDataset") -> None:
        self._dataset, self._passes = dataset, dataset.passes
        worker = get_worker_info()
        self._worker = None if worker is None else worker.id
        self._taken, self._start = 0, 0
        self._batches: Iterator[TensorBatch] | None = None
        self._refused: ConfigurationError | None = None
        self.loader = dataset.checked_loader()
        """The torch loader of this pass."""
        try:
            self._epoch = self._passes.upcoming() if self._worker is None else self._passes.claim(self._worker)
        except ConfigurationError as error:  # torch brings it to the main process only where a batch is asked for
            self._epoch, self._refused = 0, error

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        if self._refused is not None:
            raise self._refused
        if self._batches is None:
            report = None
            if self._worker is None:
                self._dataset.refuse_second(self.loader())
                self._passes.wait_for_others()
                report = self._dataset.new_report(self._epoch, self._passes.lanes)
            self._batches = self._reported(report)
        try:
            batch = next(self._batches)
        except BaseException:  # also the end; it is raised again
            self._dataset.under_way.pop(id(self), None)
            raise
        if self._worker is None and id(self) not in self._dataset.under_way:
            self._passes.set_epoch(self._epoch + 1)
            self._dataset.under_way[id(self)] = self
        self._taken += 1
        return batch

    def _reported(self, report: "Report | None") -> Iterator[TensorBatch]:
        batches = self._dataset.batches(self._epoch, self._start, self._passes.lanes, taken=self._taken)
        for batch in batches:
            account: Any = batch.pop(ACCOUNT)
            if report is not None:
                report.add(account)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place: ``epoch``, the batch at which it was begun, and how many were ``taken`` here since."""
        order = self._dataset.settings(self._passes.lanes)
        return {"epoch": self._epoch, "start": self._start, "taken": self._taken, "order": order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where ``state`` was taken, in as many worker processes as there were.

        Raises
        ------
        ResumeError
            In the middle of an epoch, if its batches are others here.
        """
        epoch, start, taken = int(state["epoch"]), int(state["start"]), int(state["taken"])
        steps = self._dataset.steps
        lanes, done = resumed(
            state["order"], self._dataset.settings(self._passes.lanes), epoch, min(start + taken, steps), steps
        )
        if done != min(start + taken, steps):  # a whole epoch is behind it, of another length
            start, taken = done, 0
        if lanes is not None:
            self._passes.lanes = lanes
        self._epoch, self._start, self._taken, self._batches = epoch, start, taken, None
        if self._worker is not None:
            self._passes.go_on(self._worker, epoch)
        elif start + taken:
            self._passes.set_epoch(epoch + 1)
        else:
            self._passes.set_epoch(epoch)
