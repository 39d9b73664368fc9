"""Decoded pixels of a cache unit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Empty", "Unit"]

type Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""Makes an array of a shape and type, whatever it holds."""


class Unit:
    """Decoded pixels of one cache unit, or of its first rows.

    Parameters
    ----------
    pixels
        ``(rows, columns)``, contiguous.
    finite
        Whether it is sure that every pixel is finite; found out where it is not given.

    Attributes
    ----------
    address
        Where the pixels are in memory.
    nbytes
        Their bytes.
    """

    __slots__ = ("address", "finite", "nbytes", "pixels")

    def __init__(self, pixels: NDArray[Any], *, finite: bool | None = None) -> None:
        self.pixels = pixels
        self.nbytes = pixels.nbytes
        self.address = int(pixels.__array_interface__["data"][0])
        self.finite = _surely_finite(pixels) if finite is None else finite


def _surely_finite(pixels: NDArray[Any]) -> bool:
    """Whether pixels are finite, by the sum of their squares: False as well where that overflows."""
    if pixels.dtype.kind != "f":
        return True
    flat = pixels.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.vdot(flat, flat)))
