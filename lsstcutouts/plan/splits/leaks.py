"""Leaks: boxes of two splits that share pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...catalog.ids import Ids, take_rows
from ...sky.geometry import YX, TanProjection
from ..cutout_plan import CutoutPlan
from .cells import neighbours
from .footprints import near_other_tracts, overlap_on_sky

__all__ = ["Boxes", "Leak", "leak_between", "shares_pixels"]

type Example = tuple[int | str, int | str, int, int]

_SHIFT = 1 << 18
"""Added to the number of a cell, so that cells left of a tract's first pixel have numbers, too."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of targets on the sky.

    Attributes
    ----------
    object_id, tract
        ``(N,)``.
    yx0
        ``(N, 2)`` first pixels, tract pixels.
    size
        Rows and columns.
    projections
        Tract number to its projection.
    """

    object_id: Ids
    tract: NDArray[np.int64]
    yx0: NDArray[np.int64]
    size: YX[int]
    projections: dict[int, TanProjection]

    @classmethod
    def of(cls, plan: CutoutPlan, rows: NDArray[np.int64]) -> Self:
        """Return the boxes of targets of a plan."""
        edge = 0 if plan.grid is None else plan.grid.unused
        return cls(
            take_rows(plan.object_id, rows),
            plan.tract[rows],
            plan.yx0[rows].astype(np.int64) + edge,
            YX(plan.box.y - 2 * edge, plan.box.x - 2 * edge),
            dict(plan.projections),
        )

    def __len__(self) -> int:
        return len(self.object_id)

    def take(self, rows: NDArray[np.int64]) -> "Boxes":
        """Return some of the boxes."""
        return Boxes(take_rows(self.object_id, rows), self.tract[rows], self.yx0[rows], self.size, self.projections)


@dataclass(frozen=True)
class Leak:
    """What two splits share.

    Attributes
    ----------
    splits
        Their names.
    targets
        How many targets of each have a box that shares pixels with a box of the other.
    pairs
        Pairs of boxes that share pixels.
    examples
        The first such pairs by object id: ``(id, id, tract, shared pixels)``; pixels are -1 between two tracts.
    """

    splits: tuple[str, str]
    targets: tuple[int, int]
    pairs: int
    examples: tuple[Example, ...] = ()

    def __str__(self) -> str:
        words = f"{self.targets[0]} targets of {self.splits[0]} and {self.targets[1]} of {self.splits[1]} share pixels"
        shown = [
            f"{a} and {b} in tract {tract}" + (f" ({pixels} px)" if pixels >= 0 else " and its neighbour")
            for a, b, tract, pixels in self.examples
        ]
        return f"{words} in {self.pairs} pairs of boxes; object ids {', '.join(shown)}" if shown else words


def shares_pixels(boxes: Boxes, *others: Boxes) -> NDArray[np.bool_]:
    """Return ``(N,)`` whether each box shares pixels with one of the others."""
    shares = np.zeros(len(boxes), bool)
    for some in others:
        for mine, _ in _pairs(boxes, some):
            shares[mine] = True
    return shares


def leak_between(names: tuple[str, str], boxes: Boxes, others: Boxes, *, examples: int = 3) -> Leak | None:
    """Return what two splits share, None for nothing."""
    shares, shared, pairs = np.zeros(len(boxes), bool), np.zeros(len(others), bool), 0
    first: list[Example] = []
    for mine, theirs in _pairs(boxes, others):
        shares[mine], shared[theirs], pairs = True, True, pairs + len(mine)
        first = _first(boxes, others, mine, theirs, first, examples)
    if not pairs:
        return None
    return Leak(names, (int(shares.sum()), int(shared.sum())), pairs, tuple(first))


def _first(
    boxes: Boxes,
    others: Boxes,
    mine: NDArray[np.int64],
    theirs: NDArray[np.int64],
    known: list[Example],
    count: int,
) -> list[Example]:
    """Return the first examples by object id among the known ones and these pairs."""
    order = np.lexsort((np.asarray(take_rows(others.object_id, theirs)), np.asarray(take_rows(boxes.object_id, mine))))[
        :count
    ]
    mine, theirs = mine[order], theirs[order]
    side = np.asarray(boxes.size) - np.abs(boxes.yx0[mine] - others.yx0[theirs])
    pixels = np.where(boxes.tract[mine] == others.tract[theirs], side.prod(axis=1), -1)
    ids = (np.asarray(take_rows(boxes.object_id, mine)), np.asarray(take_rows(others.object_id, theirs)))
    columns = (*ids, boxes.tract[mine], pixels)
    return sorted({*known, *zip(*(c.tolist() for c in columns), strict=True)})[:count]


def _pairs(boxes: Boxes, others: Boxes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield rows of pairs of boxes that share pixels."""
    if not len(boxes) or not len(others):
        return
    yield from _pairs_in_tract(boxes, others)
    yield from _pairs_between_tracts(boxes, others)


def _pairs_in_tract(boxes: Boxes, others: Boxes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    size = np.asarray(boxes.size)
    cells, of_others = (np.column_stack([b.tract, b.yx0 // size + _SHIFT]) for b in (boxes, others))
    for mine, theirs in neighbours(cells, of_others):
        apart = np.abs(boxes.yx0[mine] - others.yx0[theirs])
        shares = (apart < size).all(axis=1)
        yield mine[shares], theirs[shares]


def _pairs_between_tracts(boxes: Boxes, others: Boxes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of different tracts that share a piece of sky."""
    if len(np.union1d(boxes.tract, others.tract)) < 2:
        return
    near = near_other_tracts(
        (boxes.tract, boxes.yx0), (others.tract, others.yx0), boxes.size, boxes.projections | others.projections
    )
    for mine, theirs in neighbours(near.cells, near.other_cells):
        a, b = near.rows[mine], near.other_rows[theirs]
        differ = boxes.tract[a] != others.tract[b]
        a, b = a[differ], b[differ]
        shares = overlap_on_sky(
            (boxes.tract[a], boxes.yx0[a]),
            (others.tract[b], others.yx0[b]),
            boxes.size,
            boxes.projections | others.projections,
        )
        yield a[shares], b[shares]
