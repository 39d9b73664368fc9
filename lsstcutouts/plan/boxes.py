"""Boxes of targets and the patches under them: arrays to arrays, no repository.

Patches under a box form a rectangle of the tract's grid, so that ``low`` and ``high``, the ``(N, 2)`` first and
last row and column of each rectangle, say all.
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
"""Array elements that `covered_pixels` works on at a time: 16 MB."""


@dataclass(frozen=True, eq=False)
class TargetBoxes:
    """Boxes of ``(N,)`` targets on their tracts."""

    tract: Ints
    patch: Ints
    yx0: Ints
    offset: NDArray[np.float32]

    @classmethod
    def around(
        cls, skymap: SkyMap, tract: Ints, ra: NDArray[np.float64], dec: NDArray[np.float64], size: YX[int]
    ) -> Self:
        """Return the box of each target on its tract: the one place where sky becomes pixels."""
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
    """Yield each tract with the rows that lie on it."""
    if not len(tract):
        return
    order = np.argsort(tract, kind="stable")
    numbers, first = np.unique(tract[order], return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        yield tracts[number], rows


def patch_key(tract: Ints, patch: Ints) -> Ints:
    """Return one number for a tract and a patch."""
    return (tract << 32) + patch


def patch_of_key(key: int) -> tuple[int, int]:
    """Return tract and patch of a number that `patch_key` made."""
    return key >> 32, key & 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class PatchRanges:
    """The patches whose files may reach under each box: a rectangle of the tract's grid.

    Attributes
    ----------
    low, high
        ``(N, 2)`` first and last row and column.
    step, grid
        ``(N, 2)`` pixels of an inner region, and patches of the tract.
    """

    low: Ints
    high: Ints
    step: Ints
    grid: Ints

    @classmethod
    def under(cls, boxes: TargetBoxes, skymap: SkyMap, size: YX[int], border: YX[int]) -> Self:
        """Return the patches under boxes, for files that reach ``border`` pixels beyond their inner region."""
        step, grid = (np.ones((len(boxes), 2), np.int64) for _ in range(2))
        for one, rows in rows_by_tract(skymap.tracts, boxes.tract):
            step[rows], grid[rows] = one.inner, one.grid
        reach = np.asarray(border)
        low = np.clip((boxes.yx0 - reach) // step, 0, grid - 1)
        high = np.clip((boxes.yx0 + np.asarray(size) - 1 + reach) // step, 0, grid - 1)
        return cls(low, high, step, grid)

    @property
    def shape(self) -> Ints:
        """``(N, 2)`` rows and columns of each rectangle."""
        return self.high - self.low + 1

    def __getitem__(self, rows: Ints) -> Self:
        return type(self)(self.low[rows], self.high[rows], self.step[rows], self.grid[rows])

    def patches(self) -> tuple[Ints, Ints]:
        """Return owner and patch number of every patch of every rectangle, row by row."""
        shape = self.shape
        count = shape.prod(axis=1)
        owner = np.repeat(np.arange(len(count)), count)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(place, shape[owner, 1])
        return owner, (self.low[owner, 0] + row) * self.grid[owner, 1] + self.low[owner, 1] + column

    def others(self, boxes: TargetBoxes) -> tuple[Ints, Ints]:
        """Return, as in `ragged`, the keys of the patches of each rectangle besides the box's own patch."""
        # Most rectangles are the box's own patch alone.
        several = np.flatnonzero((self.high > self.low).any(axis=1))
        owner, patch = self[several].patches()
        owner = several[owner]
        other = patch != boxes.patch[owner]
        start = np.zeros(len(boxes) + 1, np.int64)
        np.cumsum(np.bincount(owner[other], minlength=len(boxes)), out=start[1:])
        return start, patch_key(boxes.tract[owner[other]], patch[other])


def covered_pixels(
    yx0: Ints, size: YX[int], ranges: PatchRanges, has_file: NDArray[np.bool_], border: YX[int], *, clipped: bool
) -> Ints:
    """Return ``(N,)`` pixels of each box that lie under some file, summed over the bands.

    Parameters
    ----------
    yx0, size
        First pixels ``(N, 2)`` and shape of the boxes.
    ranges
        Patches under them.
    has_file
        ``(M, B)`` for every patch that `PatchRanges.patches` lists: whether there is a file.
    border
        Pixels by which a file reaches beyond its inner region.
    clipped
        Whether files end where the tract does.
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
    """Cut one side of boxes where files begin and end: lengths ``(N, S)``, and which files hold each piece ``(N, S, count)``."""
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
    """Return the pixels ``(N,)`` under files ``(N, ny, nx, B)``, each pixel of a band counted once."""
    (height, in_row), (width, in_column) = y, x
    n, ny, nx, bands = files.shape
    by_column = in_column[:, None] @ files.astype(np.float32).reshape(n, ny, nx, bands)  # (N, ny, Sx, B)
    layers = (in_row @ by_column.reshape(n, ny, -1)).reshape(n, height.shape[1], width.shape[1], bands)
    return np.asarray(np.einsum("ni,nj,nijb->n", height, width, (layers > 0).astype(np.int64)), np.int64)
