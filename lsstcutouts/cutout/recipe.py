"""Which part of which cache unit goes where: planned once for all bands of a patch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..geom import YX, Box

__all__ = ["Recipe", "inside_and_torn", "recipe_of"]


@dataclass(slots=True)
class Recipe:
    """How to paste a group of boxes from the cache units of any file with one grid of units.

    ``copies`` holds ``(k, n, to_y, to_x, from_y, from_x)``: the part of unit ``units[k]`` that goes to
    box ``n``.
    """

    units: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    copies: list[tuple[int, int, slice, slice, slice, slice]] = field(default_factory=list)


def inside_and_torn(
    boxes: Iterable[tuple[int, int, int]], size: YX[int], bbox: Box
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Divide boxes ``(n, y0, x0)`` into those that lie inside ``bbox`` and the numbers of the others."""
    high, wide = bbox.y1 - size.y, bbox.x1 - size.x
    inside, torn = [], []
    for box in boxes:
        if bbox.y0 <= box[1] <= high and bbox.x0 <= box[2] <= wide:
            inside.append(box)
        else:
            torn.append(box[0])
    return inside, torn


def recipe_of(boxes: Iterable[tuple[int, int, int]], size: YX[int], bbox: Box, unit: YX[int]) -> Recipe:
    """Plan the copies for boxes ``(n, y0, x0)`` that lie inside ``bbox``."""
    recipe = Recipe()
    number: dict[int, int] = {}  # unit of the file to its place in the recipe
    (h, w), columns = size, -(-bbox.shape.x // unit.x)
    for n, top, left in boxes:
        y0, x0 = top - bbox.y0, left - bbox.x0
        for row in range(y0 // unit.y, (y0 + h - 1) // unit.y + 1):
            low, high = max(y0, row * unit.y), min(y0 + h, (row + 1) * unit.y)
            to_y, from_y = slice(low - y0, high - y0), slice(low - row * unit.y, high - row * unit.y)
            for col in range(x0 // unit.x, (x0 + w - 1) // unit.x + 1):
                low, high = max(x0, col * unit.x), min(x0 + w, (col + 1) * unit.x)
                k = number.setdefault(row * columns + col, len(number))
                to_x, from_x = slice(low - x0, high - x0), slice(low - col * unit.x, high - col * unit.x)
                recipe.copies.append((k, n, to_y, to_x, from_y, from_x))
    recipe.units = list(number)
    recipe.requests = [0] * len(number)
    for copy in recipe.copies:
        recipe.requests[copy[0]] += 1
    return recipe
