"""Description of how a plane is stored in its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX, Box

__all__ = ["GZIPPED", "PLAIN", "PLANES", "VERBATIM", "PlaneLayout", "Quantisation"]

PLANES = ("image", "mask", "variance")
"""Planes of a coadd that this room knows by name."""

PLAIN, GZIPPED, VERBATIM = 0, 1, 2
"""How a tile is stored: by the file's compression, gzipped floats, or bare floats."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantisation:
    """How integers stand for the floats of a plane (FITS standard 4.0, section 10.2).

    Attributes
    ----------
    method
        ``NO_DITHER``, ``SUBTRACTIVE_DITHER_1`` or ``SUBTRACTIVE_DITHER_2``.
    seed
        ``ZDITHER0``.
    scale, zero
        Per tile, float64.
    blank
        The integer that stands for NaN: one, per tile (int64), or none.
    """

    method: str
    seed: int
    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    blank: int | NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, eq=False)
class PlaneLayout:
    """Position and encoding of the pixels of one plane in its file. Can be pickled.

    Tiles and cache units are numbered row by row; those at the upper edges of the plane can be smaller.

    Attributes
    ----------
    plane
        ``image``, ``mask``, ``variance``.
    shape
        Pixels of the plane.
    dtype
        What `Coadd.read` returns: float32, int32 for masks.
    tile_shape, tile_grid
        Pixels of a tile, and number of tiles.
    unit_shape, unit_grid
        Pixels of a cache unit (whole tiles), and number of units.
    compression
        ``ZCMPTYPE``, or ``NONE``.
    stored
        Type of the stored pixels, native byte order.
    offsets, sizes
        Bytes of each tile, from the start of the file; int64, sizes int32 where that holds them.
    kinds
        `PLAIN`, `GZIPPED` or `VERBATIM` per tile; None if all are plain.
    quantisation
        Of floats stored as integers, or None.
    rice
        ``(BLOCKSIZE, BYTEPIX)``.
    smooth
        HCOMPRESS's ``SMOOTH``.
    bscale, bzero, blank
        Scaling of the stored values, and the integer that stands for NaN.
    hdu
        Number of the HDU in the file.
    """

    plane: str
    shape: YX[int]
    dtype: np.dtype[Any]
    tile_shape: YX[int]
    tile_grid: YX[int]
    unit_shape: YX[int]
    unit_grid: YX[int]
    compression: str
    stored: np.dtype[Any]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.signedinteger[Any]]
    kinds: NDArray[np.uint8] | None
    quantisation: Quantisation | None
    rice: tuple[int, int]
    smooth: int
    bscale: float
    bzero: float
    blank: int | None
    hdu: int

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        total = self.offsets.nbytes + self.sizes.nbytes + (0 if self.kinds is None else self.kinds.nbytes)
        if self.quantisation is not None:
            total += self.quantisation.scale.nbytes + self.quantisation.zero.nbytes
        return total

    @property
    def compressed_bytes(self) -> int:
        """Bytes of all tiles in the file."""
        return int(self.sizes.sum())

    def bytes_of(self, units: Sequence[int]) -> int:
        """Return the compressed bytes of cache units."""
        if self.unit_shape == self.tile_shape:
            return int(self.sizes[list(units)].sum())
        sizes = self.sizes.reshape(self.tile_grid)
        return sum(int(sizes[self.tiles_under(self.unit_box(unit)).slices()].sum()) for unit in units)

    def tiles_of(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles of cache units ``(k,)``, in any order."""
        if self.unit_shape == self.tile_shape:
            return units
        numbers = np.arange(self.tile_grid.y * self.tile_grid.x).reshape(self.tile_grid)
        boxes = [self.tiles_under(self.unit_box(unit)).slices() for unit in units.tolist()]
        return np.concatenate([numbers[box].reshape(-1) for box in boxes]) if boxes else units

    @property
    def units(self) -> int:
        """Number of cache units."""
        return self.unit_grid.y * self.unit_grid.x

    @property
    def direct(self) -> bool:
        """Whether decoded values need no more scaling."""
        return self.bscale == 1.0 and self.bzero == 0.0 and self.blank is None

    def unit_box(self, unit: int) -> Box:
        """Return the pixels of a cache unit, from the first pixel of the plane."""
        y, x = divmod(unit, self.unit_grid.x)
        return self._clipped(y, y + 1, x, x + 1, self.unit_shape)

    def units_under(self, box: Box) -> list[int]:
        """Return the cache units under a box of plane pixels, row by row."""
        grid = _cells_under(box, self.unit_shape)
        return [y * self.unit_grid.x + x for y in range(grid.y0, grid.y1) for x in range(grid.x0, grid.x1)]

    def tiles_under(self, box: Box) -> Box:
        """Return the tiles under a box of plane pixels, as a box in the grid of tiles."""
        return _cells_under(box, self.tile_shape)

    def pixels_of(self, tiles: Box) -> Box:
        """Return the pixels of a box in the grid of tiles, from the first pixel of the plane."""
        return self._clipped(*tiles, self.tile_shape)

    def _clipped(self, y0: int, y1: int, x0: int, x1: int, step: YX[int]) -> Box:
        return Box(y0 * step.y, min(y1 * step.y, self.shape.y), x0 * step.x, min(x1 * step.x, self.shape.x))


def _cells_under(box: Box, cell: YX[int]) -> Box:
    """Return the cells of a grid that a box touches."""
    return Box(box.y0 // cell.y, -(-box.y1 // cell.y), box.x0 // cell.x, -(-box.x1 // cell.x))
