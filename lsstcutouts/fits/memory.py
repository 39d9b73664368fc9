"""Memory of decoded tiles and of batches, used again when nothing points into it any more.

Fresh memory comes from the kernel page by page, zeroed: for a tile of 90 kB that takes 29 microseconds beside the 80 of
decoding it, for a batch of 12 MB as long as filling it with cutouts, and threads that do it wait for each other.
"""

import mmap
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..source.locks import ForkLock

__all__ = ["Memory", "Piece"]

_SMALL, _LARGE = 1 << 12, 1 << 20
"""Bytes below which fresh memory costs nothing worth saving, and above which a piece stands alone."""

_SLAB, _PIECES = 1 << 22, 64
"""Bytes of what pieces are cut from: 46 tiles of DP2; and the largest number of pieces, each of which is an object."""

_ALIGNMENT = 64

_MOST_FREE = 8
"""Large pieces that wait to be used again: those of a batch with all its planes. The others are out meanwhile."""


def _nothing(nbytes: int) -> None:
    """Take no notice of bytes taken or given back."""


class _Slab:
    """Memory from which pieces of one size are cut."""

    __slots__ = ("memory", "pieces")

    def __init__(self, size: int, home: "deque[Piece]") -> None:
        self.memory = _fresh(max(min(_SLAB, _PIECES * size), size + _ALIGNMENT))
        first = _address(self.memory)
        addresses = range(first + -first % _ALIGNMENT, first + len(self.memory) - size + 1, size)
        self.pieces = len(addresses)
        # Taken from the end: the first address first.
        home.extend(Piece(self, address, home) for address in reversed(addresses))


class Piece:
    """Memory at an address, for one user at a time, who gives it back.

    Attributes
    ----------
    address
        Where it begins; a multiple of 64.
    """

    __slots__ = ("_home", "_slab", "address")

    def __init__(self, slab: _Slab, address: int, home: "deque[Piece]") -> None:
        self._slab, self.address, self._home = slab, address, home

    @property
    def slab(self) -> _Slab:
        """What it is cut from."""
        return self._slab

    def give_back(self) -> None:
        """Let the next one have it."""
        self._home.append(self)


class _Lease:
    """Stands behind every array made of a piece of memory; with the last of them it goes, and gives the piece back."""

    __slots__ = ("__array_interface__", "_piece", "_to")

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], piece: Any, to: Callable[[Any], object]
    ) -> None:
        self._piece, self._to = piece, to
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        if hasattr(self, "_to"):  # not where Ctrl-C came before the first line of __init__
            self._to(self._piece)


def _fresh(nbytes: int) -> NDArray[np.uint8]:
    """Return memory from the system, all its pages there already.

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


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _returned_all(pieces: deque[NDArray[np.uint8]], returned: Callable[[int], object]) -> None:
    returned(sum(len(piece) for piece in pieces))


def _drained(pieces: deque[Piece]) -> list[Piece]:
    """Take out what is there, the oldest first."""
    taken: list[Piece] = []
    while True:
        try:
            taken.append(pieces.popleft())
        except IndexError:
            return taken


class Memory:
    """Makes arrays, out of memory whose arrays have all been dropped where there is some.

    Memory is never used again while any array, tensor or view of it lives. Thread-safe, also when arrays die inside
    the garbage collector. Pickles empty.

    Parameters
    ----------
    taken, returned
        Told the bytes of large pieces that come from the system, and that go back to it.
    most_idle
        Bytes of large pieces that wait to be used again; by default there is a bound on their number only.
    """

    def __init__(
        self,
        taken: Callable[[int], object] = _nothing,
        returned: Callable[[int], object] = _nothing,
        most_idle: float = float("inf"),
    ) -> None:
        self._taken, self._returned, self._most_idle = taken, returned, most_idle
        self._lock = ForkLock()
        self._pieces: dict[int, deque[Piece]] = {}
        self._large: deque[NDArray[np.uint8]] = deque()
        # Arrays that live keep this alive; what waits when the last of them is gone goes back with it.
        weakref.finalize(self, _returned_all, self._large, returned).atexit = False

    def __reduce__(self) -> tuple[type["Memory"], tuple[Any, ...]]:
        return Memory, (self._taken, self._returned, self._most_idle)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array that holds anything."""
        kind = np.dtype(dtype)
        nbytes = kind.itemsize
        for length in shape:
            nbytes *= length
        if nbytes < _SMALL:
            return np.empty(shape, kind)
        if nbytes > _LARGE:
            piece = self._large_piece(nbytes)
            lease = _Lease(_address(piece), shape, kind, piece, self._give_back)
        else:
            cut = self.piece(1 << (nbytes - 1).bit_length())  # nine sizes, whatever lengths batches have
            lease = _Lease(cut.address, shape, kind, cut, Piece.give_back)
        return np.asarray(lease)

    def piece(self, nbytes: int) -> Piece:
        """Return memory of so many bytes, which holds anything and must be given back."""
        size = max(1, -(-nbytes // _ALIGNMENT)) * _ALIGNMENT
        pieces = self._pieces.get(size)
        if pieces is None:
            pieces = self._pieces.setdefault(size, deque())
        while True:
            try:
                return pieces.pop()
            except IndexError:
                with self._lock:
                    if not pieces:
                        _Slab(size, pieces)

    @property
    def idle(self) -> int:
        """Bytes of pieces that wait to be used again, large ones left out."""
        return sum(size * len(pieces) for size, pieces in list(self._pieces.items()))

    def trim(self) -> None:
        """Give back to the system what is not in use."""
        while self._large:
            self._drop_oldest()
        with self._lock:
            for pieces in list(self._pieces.values()):  # another thread may add a size meanwhile
                idle = _drained(pieces)
                free = Counter(id(piece.slab) for piece in idle)
                # With the last of its pieces a slab goes.
                pieces.extend(piece for piece in idle if free[id(piece.slab)] < piece.slab.pieces)

    def _large_piece(self, nbytes: int) -> NDArray[np.uint8]:
        """Return a piece that is large enough and not wastefully larger, the latest one: caches may still hold it."""
        for _ in range(len(self._large)):
            try:
                piece = self._large.pop()
            except IndexError:  # another thread was faster
                break
            if nbytes <= len(piece) <= 2 * nbytes:
                return piece
            self._large.appendleft(piece)
        self._taken(nbytes)
        try:
            return _fresh(nbytes)
        except BaseException:  # also Ctrl-C, which waits until the system has made all the pages
            self._returned(nbytes)
            raise

    def _give_back(self, piece: NDArray[np.uint8]) -> None:
        """Take a large piece that nothing points into any more; beyond a few the oldest goes back to the system."""
        self._large.append(piece)
        while len(self._large) > _MOST_FREE or sum(map(len, tuple(self._large))) > self._most_idle:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            piece = self._large.popleft()
        except IndexError:
            return
        self._returned(len(piece))
