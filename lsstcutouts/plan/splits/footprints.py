"""Boxes of different tracts on the sky."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...sky.geometry import YX, TanProjection
from .cells import neighbours

__all__ = ["NearTracts", "near_other_tracts", "overlap_on_sky"]

type Placed = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tract ``(N,)`` and first pixel ``(N, 2)`` of boxes."""


@dataclass(frozen=True, eq=False)
class NearTracts:
    """Boxes that may lie over boxes of another tract, and the cells of the sky that hold their middles.

    Attributes
    ----------
    rows, other_rows
        Which boxes of either set.
    cells, other_cells
        ``(n, 4)`` a zero and the cell of the unit vector; boxes that overlap lie in the same or in touching cells.
    """

    rows: NDArray[np.int64]
    other_rows: NDArray[np.int64]
    cells: NDArray[np.int64]
    other_cells: NDArray[np.int64]


def near_other_tracts(
    boxes: Placed, others: Placed, size: YX[int], projections: Mapping[int, TanProjection]
) -> NearTracts:
    """Return the boxes that may overlap one of another tract."""
    # The largest distance between the centres of two overlapping boxes, radians; a tenth more for the projection.
    scale = max(max(p.pixel_scale) for p in projections.values())
    reach = float(1.1 * np.hypot(size.y, size.x) * np.radians(scale / 3600))
    vectors, of_others = (_middles(placed, size, projections) for placed in (boxes, others))
    cells, other_cells = (np.floor(v / reach).astype(np.int64) for v in (vectors, of_others))
    tract = np.concatenate([boxes[0], others[0]])
    both = np.concatenate([vectors, of_others])
    # Coarse cells with tracts of more than one kind in or around them; only few boxes lie there.
    mixed = _mixed(np.floor(both / max(64 * reach, 2e-3)).astype(np.int64), tract)
    rows, other_rows = np.flatnonzero(mixed[: len(vectors)]), np.flatnonzero(mixed[len(vectors) :])
    return NearTracts(rows, other_rows, _with_zero(cells[rows]), _with_zero(other_cells[other_rows]))


def overlap_on_sky(
    boxes: Placed, others: Placed, size: YX[int], projections: Mapping[int, TanProjection]
) -> NDArray[np.bool_]:
    """Return ``(N,)`` whether the two boxes of each pair share a piece of sky.

    Both are compared in the pixels of the first one's tract, where the other's four corners span a convex quadrilateral
    (separating axis theorem; Gottschalk, Lin & Manocha 1996, SIGGRAPH 96, 171).
    """
    overlaps = np.zeros(len(boxes[0]), bool)
    for tract in np.unique(boxes[0]).tolist():
        for other in np.unique(others[0][boxes[0] == tract]).tolist():
            pairs = np.flatnonzero((boxes[0] == tract) & (others[0] == other))
            corners = _corners(others[1][pairs], size)
            ra, dec = projections[other].pixel_to_sky(corners[..., 0], corners[..., 1])
            moved = np.stack(projections[tract].sky_to_pixel(ra, dec), axis=-1)  # (n, 4, 2)
            overlaps[pairs] = _overlap(_corners(boxes[1][pairs], size), moved)
    return overlaps


def _corners(yx0: NDArray[np.int64], size: YX[int]) -> NDArray[np.float64]:
    """Return ``(N, 4, 2)`` corners of the outermost pixels, in turn around the box."""
    steps = np.array([[0, 0], [0, size.x], [size.y, size.x], [size.y, 0]]) - 0.5
    return np.asarray(yx0[:, None] + steps, np.float64)


def _overlap(box: NDArray[np.float64], quad: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return ``(N,)`` whether upright boxes and convex quadrilaterals ``(N, 4, 2)`` overlap."""
    overlap = np.isfinite(quad).all(axis=(1, 2))
    edges = np.roll(quad, -1, axis=1) - quad
    normals = np.stack([edges[..., 1], -edges[..., 0]], axis=-1)  # (N, 4, 2)
    upright = np.broadcast_to(np.eye(2), (len(quad), 2, 2))
    for axis in np.concatenate([upright, normals], axis=1).swapaxes(0, 1):  # (N, 2) each
        one, other = ((shape * axis[:, None]).sum(axis=2) for shape in (box, quad))
        overlap &= (one.max(axis=1) > other.min(axis=1)) & (other.max(axis=1) > one.min(axis=1))
    return overlap


def _middles(placed: Placed, size: YX[int], projections: Mapping[int, TanProjection]) -> NDArray[np.float64]:
    """Return ``(N, 3)`` unit vectors of the middles of boxes."""
    tracts, yx0 = placed
    vectors = np.empty((len(tracts), 3))
    middle = yx0 + (np.asarray(size) - 1) / 2
    for tract in np.unique(tracts).tolist():
        rows = tracts == tract
        ra, dec = (np.radians(a) for a in projections[tract].pixel_to_sky(middle[rows, 0], middle[rows, 1]))
        vectors[rows] = np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    return vectors


def _mixed(cells: NDArray[np.int64], tract: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows lie in a cell that has, with the cells around it, more than one tract."""
    unique, inverse = np.unique(np.column_stack([cells, tract]), axis=0, return_inverse=True)
    mixed = np.zeros(len(unique), bool)
    for mine, theirs in neighbours(_with_zero(unique[:, :3]), _with_zero(unique[:, :3])):
        np.logical_or.at(mixed, mine, unique[mine, 3] != unique[theirs, 3])
    return np.asarray(mixed[inverse.reshape(-1)])


def _with_zero(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.column_stack([np.zeros(len(cells), np.int64), cells])
