"""Counts epochs where no `CutoutLoader` does: plain loops, torch's ``DataLoader``, torchdata's ``StatefulDataLoader``."""

import multiprocessing
import os
import re
import sys
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import psutil
import torch
from torch.utils.data import DataLoader

from ..errors import ConfigurationError

__all__ = ["TWO_LOADERS", "EpochCounter", "torch_loader"]

_WORKERS = 1024
_POOL, _PASS, _EPOCH = 1 << 24, 1 << 14, 1 << 24
"""Limits of the three numbers in a slot: the pool of worker processes, the number of its pass, and the epoch."""

_PATIENCE, _POLL = 10.0, 0.05
"""Seconds that the workers of an earlier pass have to end, and between two checks."""


TWO_LOADERS = (
    "two torch DataLoaders, or two passes with worker processes, read the same CutoutDataset at the same time, but a dataset "
    "counts the epochs of one loader only; give each loader copy.copy(dataset), which shares the cache, or use CutoutLoader"
)
"""Why a pass is refused."""


class _Slot(NamedTuple):
    """The latest pass of a worker process: its pool, its number in that process, its epoch."""

    pool: int
    number: int
    epoch: int


class EpochCounter:
    """Counts the passes over a dataset: each pass is the next epoch, for all worker processes of a loader together.

    The counts are in shared memory, without a lock: each worker writes one slot of 8 bytes, its own. Workers that a loader
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
            If workers of another pass are running: their epochs would depend on chance.
        """
        pool, number = _pool_of(worker), self._claimed
        self._claimed += 1
        self.wait_for_others(pool)
        slots = self._slots()  # read once: another worker of the pool may begin meanwhile
        known = next((slot for slot in slots if slot.pool == pool % _POOL), None)
        if known is None:
            epoch = self._after(slots)
        else:  # a worker that is slow to start may be passes behind
            epoch = known.epoch - ((known.number - number + _PASS // 2) % _PASS - _PASS // 2)
        self._write(worker, pool, number, epoch)
        return epoch

    def resume(self, worker: int, epoch: int) -> None:
        """Record that the pass of a worker process is this epoch, whatever it has claimed."""
        pool = _pool_of(worker)
        for index, slot in enumerate(self._table[0, :-1].tolist()):
            if slot and _unpacked(slot).pool != pool % _POOL:
                self._table[0, index] = 0
        self._table[0, -1] = 0
        self._write(worker, pool, self._claimed - 1, epoch)

    def _write(self, worker: int, pool: int, number: int, epoch: int) -> None:
        self._table[2, worker], self._table[1, worker] = pool, os.getpid()
        self._table[0, worker] = ((pool % _POOL) * _PASS + number % _PASS) * _EPOCH + epoch + 1

    def _slots(self) -> list[_Slot]:
        return [_unpacked(slot) for slot in self._table[0, :-1].tolist() if slot]

    def wait_for_others(self, pool: int = -1) -> None:
        """Wait for the worker processes of an earlier pass to end; a loop drops a pass only after it has begun the next one.

        Raises
        ------
        ConfigurationError
            If they do not end.
        """
        end = time.monotonic() + _PATIENCE
        processes = zip(*self._table[1:, :-1].tolist(), strict=True)
        others = [pid for pid, other in processes if pid and other != pool]
        while others := [pid for pid in others if _runs(pid)]:
            if time.monotonic() > end:
                raise ConfigurationError(f"{TWO_LOADERS} (worker process {others[0]} is running)")
            time.sleep(_POLL)


def _unpacked(slot: int) -> _Slot:
    rest, epoch = divmod(slot - 1, _EPOCH)
    return _Slot(*divmod(rest, _PASS), epoch)


def _pool_of(worker: int) -> int:
    """Return a number that the workers of one loader have in common, and no others: they are started one after the other."""
    number = re.search(r"\d+$", multiprocessing.current_process().name)
    return int(number[0]) - worker if number else 0


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def torch_loader() -> tuple[Callable[[], DataLoader[Any] | None], bool]:
    """Return the torch loader that begins a pass here, weakly, and whether it makes batches of what it gets.

    torch tells a dataset neither; both are found in the frames of the callers.
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
