"""Computes the boxes of targets and the patches under them, from arrays only (no repository).

The patches under a box form a rectangle of the tract's patch grid. ``low`` and ``high``, the ``(N, 2)`` first and last
row and column of the rectangles, describe them completely.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX, box_start
from ..sky.skymap import SkyMap, Tract

__all__ = ["PatchRanges", "TargetBoxes", "covered_pixels", "patch_key", "patch_of_key", "rows_by_tract"]

type Ints = NDArray[np.int64]

_AT_ONCE = 4_000_000
"""Number of array elements that `covered_pixels` processes at a time: 16 MB."""


@dataclass(frozen=True, eq=False)
class TargetBoxes:
    """Boxes of N targets on their tracts.

    Attributes
    ----------
    tract, patch
        ``(N,)`` numbers of the tract, and of the patch whose inner region contains or is nearest to the target.
    yx0
        ``(N, 2)`` first pixel ``(y, x)`` of the box, tract pixels.
    offset
        ``(N, 2)`` target position minus middle of the box, pixels ``(y, x)``.
    """

    tract: Ints
    patch: Ints
    yx0: Ints
    offset: NDArray[np.float32]

    @classmethod
    def around(
        cls, skymap: SkyMap, tract: Ints, ra: NDArray[np.float64], dec: NDArray[np.float64], size: YX[int]
    ) -> Self:
        """Return the box of each target on its tract; sky positions are converted to pixels nowhere else.

        Parameters
        ----------
        skymap
            Skymap that has all tracts of ``tract``.
        tract
            ``(N,)`` tract of each target.
        ra, dec
            ``(N,)`` positions, degrees ICRS.
        size
            Rows and columns of a box, pixels.
        """
        patch = np.zeros(len(tract), np.int64)
        centre = np.zeros((len(tract), 2))
        for one, rows in rows_by_tract(skymap.tracts, tract):
            yx = one.projection.sky_to_pixel(ra[rows], dec[rows])
            patch[rows] = one.nearest_patch(yx.y, yx.x)
            centre[rows] = np.column_stack([yx.y, yx.x])
        yx0 = box_start(centre, size)  # (N, 2)
        offset = centre - (yx0 + (np.asarray(size) - 1) / 2)
        return cls(tract, patch, yx0, offset.astype(np.float32))

    def __len__(self) -> int:
        return len(self.tract)

    def __getitem__(self, rows: NDArray[np.bool_] | Ints) -> Self:
        return type(self)(self.tract[rows], self.patch[rows], self.yx0[rows], self.offset[rows])


def rows_by_tract(tracts: Mapping[int, Tract], tract: Ints) -> Iterator[tuple[Tract, Ints]]:
    """Yield each tract with the rows ``(n,)`` of ``tract`` ``(N,)`` that have its number."""
    if not len(tract):
        return
    if (tract == tract[0]).all():
        yield tracts[int(tract[0])], np.arange(len(tract))
        return
    order = np.argsort(tract, kind="stable")
    numbers, first = np.unique(tract[order], return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        yield tracts[number], rows


def patch_key(tract: Ints, patch: Ints) -> Ints:
    """Return one integer that identifies a tract and a patch, ``(N,)`` each."""
    return (tract << 32) + patch


def patch_of_key(key: int) -> tuple[int, int]:
    """Return the tract and patch of a key made by `patch_key`."""
    return key >> 32, key & 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class PatchRanges:
    """The patches whose files may overlap each box: a rectangle of the tract's patch grid.

    Attributes
    ----------
    low, high
        ``(N, 2)`` first and last patch row and column ``(y, x)``.
    step
        ``(N, 2)`` rows and columns of an inner region, pixels.
    grid
        ``(N, 2)`` number of patches ``(y, x)`` of the tract.
    """

    low: Ints
    high: Ints
    step: Ints
    grid: Ints

    @classmethod
    def under(cls, boxes: TargetBoxes, skymap: SkyMap, size: YX[int], border: YX[int]) -> Self:
        """Return the patches under boxes, for files that extend ``border`` pixels beyond their inner region.

        ``size`` is the shape of the boxes, and ``size`` and ``border`` are in pixels ``(y, x)``.
        """
        step, grid = (np.ones((len(boxes), 2), np.int64) for _ in range(2))
        for one, rows in rows_by_tract(skymap.tracts, boxes.tract):
            step[rows], grid[rows] = one.inner, one.grid
        reach = np.asarray(border)
        low = np.clip((boxes.yx0 - reach) // step, 0, grid - 1)
        high = np.clip((boxes.yx0 + np.asarray(size) - 1 + reach) // step, 0, grid - 1)
        return cls(low, high, step, grid)

    @property
    def shape(self) -> Ints:
        """Number of patch rows and columns of each rectangle, ``(N, 2)``."""
        return self.high - self.low + 1

    def __getitem__(self, rows: Ints) -> Self:
        return type(self)(self.low[rows], self.high[rows], self.step[rows], self.grid[rows])

    def patches(self) -> tuple[Ints, Ints]:
        """Return the box index and patch number, ``(M,)`` each, of every patch of every rectangle, row by row."""
        shape = self.shape  # (N, 2)
        count = shape.prod(axis=1)  # (N,)
        owner = np.repeat(np.arange(len(count)), count)  # (M,)
        index = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)  # (M,) within its rectangle
        row, column = np.divmod(index, shape[owner, 1])
        return owner, (self.low[owner, 0] + row) * self.grid[owner, 1] + self.low[owner, 1] + column

    def others(self, boxes: TargetBoxes) -> tuple[Ints, Ints]:
        """Return the keys of the patches of each rectangle except the box's own patch, as ``(start, keys)`` of `ragged`."""
        # Most rectangles contain only the box's own patch.
        several = np.flatnonzero((self.high > self.low).any(axis=1))
        if not len(several):
            return np.zeros(len(boxes) + 1, np.int64), np.empty(0, np.int64)
        owner, patch = self[several].patches()
        owner = several[owner]
        other = patch != boxes.patch[owner]
        start = np.zeros(len(boxes) + 1, np.int64)
        np.cumsum(np.bincount(owner[other], minlength=len(boxes)), out=start[1:])
        return start, patch_key(boxes.tract[owner[other]], patch[other])


def covered_pixels(
    yx0: Ints, size: YX[int], ranges: PatchRanges, has_file: NDArray[np.bool_], border: YX[int], *, clipped: bool
) -> Ints:
    """Return the number of pixels of each box that are covered by a file, ``(N,)``, summed over the bands.

    Parameters
    ----------
    yx0, size
        First pixels ``(N, 2)``, tract pixels, and shape of the boxes, pixels ``(y, x)``.
    ranges
        Patches under the boxes.
    has_file
        ``(M, B)`` whether each patch that `PatchRanges.patches` lists has a file in each band.
    border
        Pixels ``(y, x)`` by which a file extends beyond its inner region.
    clipped
        Whether files are cut off at the edge of their tract.
    """
    shape = ranges.shape
    last = np.cumsum(shape.prod(axis=1))
    pixels = np.zeros(len(yx0), np.int64)
    for ny, nx in np.unique(shape, axis=0).tolist():
        alike = np.flatnonzero((shape == (ny, nx)).all(axis=1))
        step = max(1, _AT_ONCE // ((2 * ny + 1) * (2 * nx + 1) * has_file.shape[1]))
        for at in range(0, len(alike), step):
            rows = alike[at : at + step]
            files = has_file[(last[rows] - ny * nx)[:, None] + np.arange(ny * nx)]
            y, x = (
                _pieces(yx0[rows], size, ranges[rows], border, axis, count, clipped=clipped)
                for axis, count in enumerate((ny, nx))
            )
            pixels[rows] = _union(y, x, files.reshape(len(rows), ny, nx, -1))
    return pixels


def _pieces(
    yx0: Ints, size: YX[int], ranges: PatchRanges, border: YX[int], axis: int, count: int, *, clipped: bool
) -> tuple[Ints, NDArray[np.float32]]:
    """Split one axis of boxes at the edges of files.

    Returns the lengths of the pieces ``(N, S)``, pixels, and whether each file covers each piece ``(N, S, count)``.
    """
    begin, step = yx0[:, axis, None], ranges.step[:, axis, None]
    inner = (ranges.low[:, axis, None] + np.arange(count)) * step
    low, high = inner - border[axis], inner + step + border[axis]
    if clipped:
        low, high = np.maximum(low, 0), np.minimum(high, step * ranges.grid[:, axis, None])
    end = begin + size[axis]
    low, high = np.clip(low, begin, end), np.clip(high, begin, end)
    edges = np.sort(np.concatenate([begin, low, high, end], axis=1), axis=1)
    first = edges[:, :-1, None]
    held = (low[:, None] <= first) & (first < high[:, None])
    return np.diff(edges, axis=1), held.astype(np.float32)


def _union(y: tuple[Ints, NDArray[np.float32]], x: tuple[Ints, NDArray[np.float32]], files: NDArray[np.bool_]) -> Ints:
    """Return the number of pixels ``(N,)`` under files ``(N, ny, nx, B)``; each pixel counts once per band."""
    (height, in_row), (width, in_column) = y, x
    n, ny, nx, bands = files.shape
    by_column = in_column[:, None] @ files.astype(np.float32).reshape(n, ny, nx, bands)  # (N, ny, Sx, B)
    layers = (in_row @ by_column.reshape(n, ny, -1)).reshape(n, height.shape[1], width.shape[1], bands)
    return np.asarray(np.einsum("ni,nj,nijb->n", height, width, (layers > 0).astype(np.int64)), np.int64)
