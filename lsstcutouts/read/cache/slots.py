"""Memory for decoded tiles: slots of one size, cut from slabs, with arrays that say what is in each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory import address_of, fresh

__all__ = ["Slots"]

_ALIGNMENT = 64

_FIELDS = {
    "address": np.uint64,
    "alive": np.bool_,
    "block": np.int64,
    "tile": np.int64,
    "rows": np.int64,
    "used": np.int64,
    "pins": np.int64,
    "flight": np.int64,
    "ready": np.bool_,
    "finite": np.bool_,
}


class Slots:
    """Slots of one size. Slot ``s`` lies in slab ``s // per_slab``; slabs come and go, numbers stay.

    Parameters
    ----------
    nbytes
        Bytes of a slot.
    slab_bytes
        Bytes of a slab, which holds at least one slot.

    Attributes
    ----------
    address
        Where the memory of each slot is.
    alive
        Whether it has memory.
    block, tile
        What is in it, -1 if nothing.
    rows
        How many rows of the tile.
    used
        When it was used last; -1 if nothing is in it.
    pins
        How many claims hold it.
    flight
        The claim that fills it.
    ready, finite
        Whether it is filled, and whether all its pixels are surely finite.
    """

    address: NDArray[np.uint64]
    alive: NDArray[np.bool_]
    block: NDArray[np.int64]
    tile: NDArray[np.int64]
    rows: NDArray[np.int64]
    used: NDArray[np.int64]
    pins: NDArray[np.int64]
    flight: NDArray[np.int64]
    ready: NDArray[np.bool_]
    finite: NDArray[np.bool_]

    def __init__(self, nbytes: int, slab_bytes: int) -> None:
        self.nbytes = nbytes
        self._step = max(1, -(-nbytes // _ALIGNMENT)) * _ALIGNMENT
        self.per_slab = max(1, slab_bytes // self._step)
        self.slab_bytes = self.per_slab * self._step
        self._slabs: list[NDArray[np.uint8] | None] = []
        for name, kind in _FIELDS.items():
            setattr(self, name, np.empty(0, kind))

    def __len__(self) -> int:
        return len(self.address)

    def add_slab(self) -> None:
        """Take memory for more slots from the system."""
        memory = fresh(self.slab_bytes + _ALIGNMENT)
        number = next((i for i, slab in enumerate(self._slabs) if slab is None), len(self._slabs))
        if number == len(self._slabs):
            for name, kind in _FIELDS.items():
                setattr(self, name, np.append(getattr(self, name), np.zeros(self.per_slab, kind)))
            self._slabs.append(memory)
        self._slabs[number] = memory
        slots = slice(number * self.per_slab, (number + 1) * self.per_slab)
        first = address_of(memory)
        first += -first % _ALIGNMENT
        self.address[slots] = np.arange(first, first + self.slab_bytes, self._step, dtype=np.uint64)
        self.alive[slots] = True
        self.empty(np.arange(slots.start, slots.stop))

    def empty(self, slots: NDArray[np.int64]) -> None:
        """Record that nothing is in slots ``(k,)`` any more."""
        self.block[slots] = self.tile[slots] = self.used[slots] = -1
        self.ready[slots] = False

    def drop_slab(self, number: int) -> None:
        """Give the memory of a slab back to the system; its slots must be empty."""
        self._slabs[number] = None
        self.alive[number * self.per_slab : (number + 1) * self.per_slab] = False

    def oldest_slab(self) -> tuple[int, int] | None:
        """Return when the slab that has not been used for longest was used, and its number; None if all are pinned."""
        if not len(self):
            return None
        shape = -1, self.per_slab
        idle = (self.alive & (self.pins == 0)).reshape(shape).all(axis=1)
        if not idle.any():
            return None
        used = np.where(idle, self.used.reshape(shape).max(axis=1), np.iinfo(np.int64).max)
        number = int(used.argmin())
        return int(used[number]), number

    def of_slab(self, number: int) -> NDArray[np.int64]:
        """Return the slots of a slab, ``(per_slab,)``."""
        return np.arange(number * self.per_slab, (number + 1) * self.per_slab)

    def idle(self) -> NDArray[np.int64]:
        """Return the slots that no claim holds, ``(k,)``."""
        return np.flatnonzero(self.alive & (self.pins == 0))

    def view(self, slot: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the first bytes of a slot as an array of a type and ``shape``."""
        memory = self._slabs[slot // self.per_slab]
        if memory is None:
            raise ValueError(f"slot {slot} has no memory")
        start = int(self.address[slot]) - address_of(memory)
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return memory[start : start + count].view(kind).reshape(shape)
