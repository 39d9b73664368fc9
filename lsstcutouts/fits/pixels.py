"""Decoded pixels of a cache unit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .memory import Memory, Piece

__all__ = ["Empty", "Unit"]

type Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""Makes an array of a shape and type, whatever it holds."""


class Unit:
    """Decoded pixels of one cache unit, or of its first rows.

    Parameters
    ----------
    pixels
        ``(rows, columns)``, contiguous.

    Attributes
    ----------
    shape
        Rows and columns.
    address
        Where the pixels are in memory.
    nbytes
        Their bytes.
    finite
        Whether it is sure that every pixel is finite.
    """

    __slots__ = ("_piece", "_pixels", "address", "finite", "nbytes", "shape")

    def __init__(self, pixels: NDArray[Any]) -> None:
        self.shape, self.nbytes = pixels.shape, pixels.nbytes
        self.address = int(pixels.__array_interface__["data"][0])
        self.finite = _surely_finite(pixels)
        self._pixels: NDArray[Any] | None = pixels
        self._piece: Piece | None = None

    @classmethod
    def unwritten(cls, memory: Memory, shape: tuple[int, int]) -> "Unit":
        """Return a unit of float32 that hold anything; its memory is given back when nothing points to it any more."""
        unit = cls.__new__(cls)
        unit.shape, unit.nbytes, unit.finite = shape, 4 * shape[0] * shape[1], False
        unit._pixels = None
        unit._piece = piece = memory.piece(unit.nbytes)
        unit.address = piece.address
        return unit

    @property
    def pixels(self) -> NDArray[Any]:
        """``(rows, columns)``."""
        return np.asarray(self) if self._pixels is None else self._pixels

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # The array that numpy makes of this keeps the unit, and with it the memory.
        return {"data": (self.address, False), "shape": self.shape, "typestr": np.dtype(np.float32).str, "version": 3}

    def __del__(self) -> None:
        if (piece := getattr(self, "_piece", None)) is not None:  # unset where the memory or Ctrl-C ended the making
            piece.give_back()


def _surely_finite(pixels: NDArray[Any]) -> bool:
    """Whether pixels are finite, by the sum of their squares: False as well where that overflows."""
    if pixels.dtype.kind != "f":
        return True
    flat = pixels.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.vdot(flat, flat)))
