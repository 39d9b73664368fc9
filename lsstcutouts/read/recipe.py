"""Which part of which cache unit goes where: planned once for all bands of a patch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fits.kernels import paste_rows
from ..fits.pixels import Unit
from ..sky.geometry import YX, Box

__all__ = ["Recipe", "inside_and_torn", "paste", "recipe_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How to paste a group of boxes from the cache units of any file with one grid of units.

    Attributes
    ----------
    units
        Numbers of the units, ``K``.
    requests
        How many copies are taken from each.
    reach
        ``(K, 2)`` how many rows and columns of each are needed, from its first.
    copies
        ``(C, 8)`` int64: place of the unit in ``units``, box, first row and column in the box, first row and column in
        the unit, rows, columns.
    """

    units: list[int]
    requests: list[int]
    reach: NDArray[np.int64]
    copies: NDArray[np.int64]


def inside_and_torn(boxes: NDArray[np.int64], size: YX[int], bbox: Box) -> tuple[NDArray[np.int64], list[int]]:
    """Divide boxes ``(n, y0, x0)`` into those that lie inside ``bbox`` and the numbers of the others."""
    low = (boxes[:, 1:] >= (bbox.y0, bbox.x0)).all(axis=1)
    inside = low & (boxes[:, 1:] <= (bbox.y1 - size.y, bbox.x1 - size.x)).all(axis=1)
    if inside.all():
        return boxes, []
    return boxes[inside], boxes[~inside, 0].tolist()


def recipe_of(boxes: NDArray[np.int64], size: YX[int], bbox: Box, unit: YX[int]) -> Recipe:
    """Plan the copies for boxes ``(n, y0, x0)`` that lie inside ``bbox``."""
    start = boxes[:, 1:] - (bbox.y0, bbox.x0)  # (N, 2)
    columns = -(-bbox.shape.x // unit.x)
    first = start // unit
    most = ((start + np.asarray(size) - 1) // unit - first).max(axis=0) + 1
    parts = [_copies(boxes[:, 0], start, first + step, size, unit, columns) for step in np.ndindex(*most.tolist())]
    numbers = np.concatenate([number for number, _ in parts])
    copies = np.concatenate([part for _, part in parts])
    units, place, requests = np.unique(numbers, return_inverse=True, return_counts=True)
    copies[:, 0] = place
    reach = np.zeros((len(units), 2), np.int64)
    np.maximum.at(reach, place, copies[:, 4:6] + copies[:, 6:8])
    return Recipe(units.tolist(), requests.tolist(), reach, copies)


def _copies(
    number: NDArray[np.int64],
    start: NDArray[np.int64],
    cell: NDArray[np.int64],
    size: YX[int],
    unit: YX[int],
    columns: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the unit in each box's cell ``(N, 2)``, and the copy from it; boxes that end before it are left out."""
    low = np.maximum(start, cell * unit)
    high = np.minimum(start + np.asarray(size), (cell + 1) * np.asarray(unit))
    meets = (high > low).all(axis=1)
    low, high, cell, start = low[meets], high[meets], cell[meets], start[meets]
    copies = np.empty((len(low), 8), np.int64)
    copies[:, 1], copies[:, 2:4], copies[:, 4:6] = number[meets], low - start, low - cell * unit
    copies[:, 6:8] = high - low
    return cell[:, 0] * columns + cell[:, 1], copies


def paste(to: NDArray[Any], units: Sequence[Unit], recipe: Recipe) -> None:
    """Copy pixels from units to boxes ``(N, Y, X)``.

    Raises
    ------
    IndexError
        If a unit has fewer pixels than the recipe needs of it: what lies behind them is another's memory.
    """
    shapes = np.array([unit.shape for unit in units], np.int64)
    if (shapes < recipe.reach).any():
        short = int(np.flatnonzero((shapes < recipe.reach).any(axis=1))[0])
        (rows, columns), has = recipe.reach[short].tolist(), tuple(shapes[short].tolist())
        raise IndexError(f"{rows} rows and {columns} columns are needed of unit {recipe.units[short]}, which has {has}")
    if paste_rows is not None and to.itemsize == 4 and to.strides[2] == 4:
        addresses = np.array([unit.address for unit in units], np.uint64)
        paste_rows(recipe.copies, addresses, shapes[:, 1].copy(), _address(to), to.strides[0], to.strides[1])
        return
    for k, n, y, x, from_y, from_x, height, width in recipe.copies.tolist():
        to[n, y : y + height, x : x + width] = units[k].pixels[from_y : from_y + height, from_x : from_x + width]


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
