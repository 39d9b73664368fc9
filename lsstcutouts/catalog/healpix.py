"""HEALPix cells (Gorski et al. 2005, ApJ 622, 759), in nested numbering, and how rows are divided among them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DependencyError

__all__ = ["ORDER", "Cell", "divide", "healpix_of"]

ORDER = 29
"""HEALPix order of the column ``_healpix_29``, by which rows are ordered."""


@dataclass(frozen=True)
class Cell:
    """A HEALPix cell in nested numbering (Gorski et al. 2005, ApJ 622, 759).

    Attributes
    ----------
    order, pixel
        Order, 0 to 29, and number of the cell, 0 to ``12 * 4**order - 1``.
    """

    order: int
    pixel: int

    def __str__(self) -> str:
        return f"Norder={self.order},Npix={self.pixel}"

    @property
    def bounds(self) -> tuple[int, int]:
        """First number of order 29 in the cell, and the first one after it."""
        shift = 2 * (ORDER - self.order)
        return self.pixel << shift, (self.pixel + 1) << shift

    @property
    def children(self) -> "tuple[Cell, ...]":
        """The four cells of the next order."""
        return tuple(Cell(self.order + 1, 4 * self.pixel + child) for child in range(4))


def divide(healpix: NDArray[np.int64], weights: NDArray[np.int64], most: int, cell: Cell | None = None) -> list[Cell]:
    """Return the cells that divide rows so that each has at most a certain weight, as hats-import does; along the sky.

    Parameters
    ----------
    healpix
        ``(n,)`` cells of order 29, ascending.
    weights
        ``(n,)`` of each row.
    most
        Weight of a cell; one with a single position may have more.
    cell
        The cell that is divided; by default the whole sky. Cells without rows are left out.
    """
    total = np.concatenate([[0], np.cumsum(weights, dtype=np.int64)])
    waiting = [Cell(0, pixel) for pixel in range(11, -1, -1)] if cell is None else [cell]
    found = list[Cell]()
    while waiting:
        one = waiting.pop()
        low, high = np.searchsorted(healpix, one.bounds)
        if low == high:
            continue
        if total[high] - total[low] > most and one.order < ORDER and healpix[low] < healpix[high - 1]:
            waiting += reversed(one.children)
        else:
            found.append(one)
    return found


def healpix_of(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the HEALPix cells of order 29 of positions, degrees ICRS, ``(n,)``.

    Raises
    ------
    DependencyError
        If ``hats`` is not installed.
    """
    try:
        from hats.pixel_math.spatial_index import compute_spatial_index
    except ImportError as error:
        raise DependencyError(
            f"partitions need a package that is not installed ({error}): pip install 'lsstcutouts[bulk]'"
        ) from error
    return np.asarray(compute_spatial_index(ra, dec, ORDER), np.int64)
