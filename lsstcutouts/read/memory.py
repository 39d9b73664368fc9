"""Memory of batches, used again when no array points into it any more.

Fresh memory comes from the kernel page by page, zeroed: for a batch of 12 MB that takes as long as filling it with cutouts, and
threads that do it wait for each other.
"""

import mmap
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Memory", "address_of", "fresh"]

_LARGE = 1 << 20
"""Bytes beyond which memory is worth keeping."""

_MOST_FREE = 8
"""Pieces that wait to be used again: those of a batch with all its planes. The others are out meanwhile."""


def _nothing(nbytes: int) -> None:
    """Take no notice of bytes taken or given back."""


class _Lease:
    """Stands behind every array made of a piece of memory; with the last of them it goes, and gives the piece back."""

    __slots__ = ("__array_interface__", "_piece", "_to")

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], piece: NDArray[np.uint8], to: Callable[[Any], object]
    ) -> None:
        self._piece, self._to = piece, to
        self.__array_interface__ = {
            "data": (address_of(piece), False), "shape": shape, "typestr": dtype.str, "version": 3
        }  # fmt: skip

    def __del__(self) -> None:
        if hasattr(self, "_to"):  # not where Ctrl-C came before the first line of __init__
            self._to(self._piece)


def fresh(nbytes: int) -> NDArray[np.uint8]:
    """Return memory from the system, ``(nbytes,)`` uint8, all its pages there already.

    Not that of `numpy.empty`, which asks for huge pages from 4 MB on: where memory is fragmented the kernel then moves
    other pages about to make them, and a pass in fresh memory takes one to three times as long as it should.
    """
    flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    populate = getattr(mmap, "MAP_POPULATE", 0)
    if not (flags and populate):  # not Linux
        return np.empty(nbytes, np.uint8)
    try:
        return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags | populate), np.uint8)
    except OSError:  # a limit, or no memory: numpy finds some or says how much it wanted
        return np.empty(nbytes, np.uint8)


def address_of(array: NDArray[Any]) -> int:
    """Return where the first element of an array is in memory, bytes; of any shape ``(...,)``."""
    return int(array.__array_interface__["data"][0])


def _returned_all(pieces: deque[NDArray[np.uint8]], returned: Callable[[int], object]) -> None:
    returned(sum(len(piece) for piece in pieces))


class Memory:
    """Makes arrays, out of memory whose arrays have all been dropped where there is some.

    Memory is never used again while any array, tensor or view of it lives. Thread-safe, also when arrays die inside
    the garbage collector. Pickles empty.

    Parameters
    ----------
    taken, returned
        Told the bytes of large pieces that come from the system, and that go back to it.
    most_idle
        Bytes of pieces that wait to be used again; by default there is a bound on their number only.
    """

    def __init__(
        self,
        taken: Callable[[int], object] = _nothing,
        returned: Callable[[int], object] = _nothing,
        most_idle: float = float("inf"),
    ) -> None:
        self._taken, self._returned, self._most_idle = taken, returned, most_idle
        self._pieces: deque[NDArray[np.uint8]] = deque()
        # Arrays that live keep this alive; what waits when the last of them is gone goes back with it.
        weakref.finalize(self, _returned_all, self._pieces, returned).atexit = False

    def __reduce__(self) -> tuple[type["Memory"], tuple[Any, ...]]:
        return Memory, (self._taken, self._returned, self._most_idle)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array of a type and ``shape`` that holds anything."""
        kind = np.dtype(dtype)
        nbytes = kind.itemsize
        for length in shape:
            nbytes *= length
        if nbytes <= _LARGE:
            return np.empty(shape, kind)
        return np.asarray(_Lease(shape, kind, self._piece(nbytes), self._give_back))

    def trim(self) -> None:
        """Give back to the system what is not in use."""
        while self._pieces:
            self._drop_oldest()

    def _piece(self, nbytes: int) -> NDArray[np.uint8]:
        """Return a piece that is large enough and not wastefully larger, the latest one: caches may still hold it."""
        for _ in range(len(self._pieces)):
            try:
                piece = self._pieces.pop()
            except IndexError:  # another thread was faster
                break
            if nbytes <= len(piece) <= 2 * nbytes:
                return piece
            self._pieces.appendleft(piece)
        self._taken(nbytes)
        try:
            return fresh(nbytes)
        except BaseException:  # also Ctrl-C, which waits until the system has made all the pages
            self._returned(nbytes)
            raise

    def _give_back(self, piece: NDArray[np.uint8]) -> None:
        """Take a piece that nothing points into any more; beyond a few the oldest goes back to the system."""
        self._pieces.append(piece)
        while len(self._pieces) > _MOST_FREE or sum(map(len, tuple(self._pieces))) > self._most_idle:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            piece = self._pieces.popleft()
        except IndexError:
            return
        self._returned(len(piece))
