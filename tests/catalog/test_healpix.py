"""Cells of HEALPix: their bounds, and rows divided among them, against brute force."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.sphgeom import HealpixPixelization, LonLat, UnitVector3d

from lsstcutouts.catalog.healpix import ORDER, Cell, divide, healpix_of

from ..support.examples import examples

NUMBERS = st.integers(0, 12 * 4**ORDER - 1)
CLUSTER = st.integers(0, 40).map(lambda step: 5 * 4**20 + step)
"""Numbers that only differ at the highest orders."""


def brute_force(healpix: np.ndarray, weights: np.ndarray, most: int, cell: Cell) -> list[Cell]:
    """Divide cells one by one, each time looking at all rows."""
    inside = (healpix >> 2 * (ORDER - cell.order)) == cell.pixel
    if not inside.any():
        return []
    if weights[inside].sum() <= most or cell.order == ORDER or len(set(healpix[inside])) == 1:
        return [cell]
    return [one for child in cell.children for one in brute_force(healpix, weights, most, child)]


@given(st.lists(st.tuples(NUMBERS | CLUSTER, st.integers(1, 50)), max_size=60), st.integers(1, 300))
@examples(200)
def test_rows_are_divided_as_by_brute_force(rows: list[tuple[int, int]], most: int) -> None:
    rows = sorted(rows)
    healpix, weights = (np.array([row[at] for row in rows], np.int64) for at in (0, 1))
    found = divide(healpix, weights, most)
    assert found == [one for pixel in range(12) for one in brute_force(healpix, weights, most, Cell(0, pixel))]
    bounds = [one.bounds for one in found]
    assert all(high <= low for (_, high), (low, _) in pairwise(bounds))
    assert all(sum(low <= number < high for low, high in bounds) == 1 for number in healpix.tolist())


@given(NUMBERS, st.integers(0, ORDER))
@examples(100)
def test_children_share_the_bounds_of_their_parent(number: int, order: int) -> None:
    cell = Cell(order, number >> 2 * (ORDER - order))
    assert cell.bounds[0] <= number < cell.bounds[1]
    if order < ORDER:
        children = [child.bounds for child in cell.children]
        assert children[0][0] == cell.bounds[0]
        assert children[-1][1] == cell.bounds[1]
        assert all(a[1] == b[0] for a, b in pairwise(children))


def test_a_cell_that_is_divided_gives_cells_below_it() -> None:
    healpix = np.sort(np.random.default_rng(0).integers(0, 12 * 4**ORDER, 500))
    cell = Cell(1, 17)
    mine = healpix[(healpix >= cell.bounds[0]) & (healpix < cell.bounds[1])]
    found = divide(mine, np.ones(len(mine), np.int64), 3, cell)
    assert all(one.order > 1 and one.pixel >> 2 * (one.order - 1) == 17 for one in found)
    assert divide(healpix[:0], healpix[:0], 3) == []


@pytest.mark.parametrize("order", [0, 5, 17])
def test_positions_have_the_cells_of_another_library(order: int) -> None:
    rng = np.random.default_rng(order)
    ra, dec = rng.uniform(0, 360, 50), np.degrees(np.arcsin(rng.uniform(-1, 1, 50)))
    found = healpix_of(ra, dec)
    pixels = HealpixPixelization(order)
    for at in range(50):
        place = UnitVector3d(LonLat.fromDegrees(ra[at], dec[at]))
        assert found[at] >> 2 * (ORDER - order) == pixels.index(place)


def test_names() -> None:
    assert str(Cell(3, 77)) == "Norder=3,Npix=77"
