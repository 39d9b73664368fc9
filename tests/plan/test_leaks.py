"""Boxes that share pixels, against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.plan.splits.cells import neighbours
from lsstcutouts.plan.splits.leaks import Boxes, leak_between, shares_pixels
from lsstcutouts.sky.geometry import YX, TanProjection

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def boxes_of(yx0, tract=0, size=(8, 8), projections=None, first_id=0) -> Boxes:
    yx0 = np.asarray(yx0, np.int64).reshape(-1, 2)
    tracts = np.broadcast_to(np.asarray(tract, np.int64), len(yx0)).copy()
    return Boxes(np.arange(first_id, first_id + len(yx0)), tracts, yx0, YX(*size), projections or {})


def drawn(size, tracts: int = 1):
    y, x = (st.integers(-2 * n, 6 * n) for n in size)
    return st.lists(st.tuples(y, x, st.integers(0, tracts - 1)), max_size=30)


@given(st.data(), SIZES)
def test_boxes_of_a_tract_equal_brute_force(data: st.DataObject, size) -> None:
    """Painted pixel by pixel: also boxes that only touch, and boxes left of the tract's first pixel."""
    mine, theirs = (np.array(data.draw(drawn(size)), np.int64).reshape(-1, 3) for _ in range(2))
    canvas = np.zeros((10 * size[0], 10 * size[1]), bool)
    shift = 2 * np.array(size)
    for y, x in theirs[:, :2] + shift:
        canvas[y : y + size[0], x : x + size[1]] = True
    wanted = [canvas[y : y + size[0], x : x + size[1]].any() for y, x in mine[:, :2] + shift]
    found = shares_pixels(boxes_of(mine[:, :2], size=size), boxes_of(theirs[:, :2], size=size))
    np.testing.assert_array_equal(found, np.array(wanted, bool))


@given(st.data())
def test_what_is_shared_is_counted(data: st.DataObject) -> None:
    size = (5, 9)
    mine, theirs = (np.array(data.draw(drawn(size)), np.int64).reshape(-1, 3) for _ in range(2))
    pairs = [
        (i, j, (5 - abs(a[0] - b[0])) * (9 - abs(a[1] - b[1])))
        for i, a in enumerate(mine.tolist())
        for j, b in enumerate(theirs.tolist())
        if abs(a[0] - b[0]) < 5 and abs(a[1] - b[1]) < 9
    ]
    leak = leak_between(
        ("train", "val"), boxes_of(mine[:, :2], size=size), boxes_of(theirs[:, :2], size=size, first_id=100)
    )
    if not pairs:
        assert leak is None
        return
    assert leak is not None
    assert (leak.pairs, leak.targets) == (len(pairs), (len({p[0] for p in pairs}), len({p[1] for p in pairs})))
    assert leak.examples == tuple((i, 100 + j, 0, pixels) for i, j, pixels in sorted(pairs)[:3])


def test_boxes_that_touch_share_nothing() -> None:
    assert shares_pixels(boxes_of([[0, 0]]), boxes_of([[0, 8], [8, 0], [-8, 3], [8, 8]])).tolist() == [False]
    assert shares_pixels(boxes_of([[0, 0]]), boxes_of([[7, 7]])).tolist() == [True]


def test_the_same_pixels_of_other_tracts_are_other_pixels() -> None:
    projections = {tract: TanProjection((10.0 * tract, 0.0), (50.0, 50.0), (-1e-4, 0, 0, 1e-4)) for tract in (1, 2)}
    one = boxes_of([[40, 40]], tract=1, projections=projections)
    assert not shares_pixels(one, boxes_of([[40, 40]], tract=2, projections=projections)).any()


def sky_pair(ra: float, dec: float, apart: float, turn: float) -> dict[int, TanProjection]:
    """Return two tracts whose centres are ``apart`` degrees from each other, the second one turned."""
    scale, c, s = 0.2 / 3600, np.cos(np.radians(turn)), np.sin(np.radians(turn))
    step = apart / max(np.cos(np.radians(dec)), 0.02)
    return {
        1: TanProjection((ra, dec), (2000.0, 2000.0), (-scale, 0.0, 0.0, scale)),
        2: TanProjection(((ra + step) % 360.0, dec), (2000.0, 2000.0), (-scale * c, scale * s, scale * s, scale * c)),
    }


@pytest.mark.parametrize(("ra", "dec"), [(53.0, -28.0), (0.001, 5.0), (359.99, -60.0), (120.0, 88.9)])
@pytest.mark.parametrize("turn", [0.0, 30.0])
@pytest.mark.parametrize("size", [(16, 30), (64, 64)])
def test_boxes_of_two_tracts_equal_points_on_the_sky(ra: float, dec: float, turn: float, size) -> None:
    projections = sky_pair(ra, dec, 0.05, turn)
    rng = np.random.default_rng(1)
    mine = rng.integers(1900, 2100, (60, 2))
    # The second tract's boxes lie around the same place of the sky.
    sky = projections[1].pixel_to_sky(*rng.uniform(1880, 2120, (2, 60)))
    theirs = np.round(np.column_stack(projections[2].sky_to_pixel(*sky))).astype(np.int64) - np.array(size) // 2
    found = shares_pixels(
        boxes_of(mine, tract=1, size=size, projections=projections),
        boxes_of(theirs, tract=2, size=size, projections=projections),
    )
    steps = np.stack(np.meshgrid(*(np.linspace(-0.5, n - 0.5, n + 1) for n in size), indexing="ij"), -1)
    points = np.stack(
        projections[1].sky_to_pixel(*projections[2].pixel_to_sky(*np.moveaxis(theirs[:, None, None] + steps, -1, 0))),
        -1,
    )
    clear = 0
    for i, corner in enumerate(mine):
        # How deep the deepest point of any other box lies in this one, pixels; negative outside.
        inside = np.minimum(points - (corner - 0.5), corner + np.array(size) - 0.5 - points).min(axis=-1).max()
        if abs(inside) > 1.0:
            clear += 1
            assert found[i] == (inside > 0), inside
    assert clear > 20


def test_many_boxes_take_no_table_of_pairs() -> None:
    """200 000 boxes over 50 tracts: a table of all pairs would hold 10^10."""
    rng = np.random.default_rng(0)
    projections = {
        t: TanProjection((20.0 + 3.0 * t, -30.0), (15000.0, 15000.0), (-5.6e-5, 0, 0, 5.6e-5)) for t in range(50)
    }
    one, other = (
        boxes_of(rng.integers(0, 30_000, (100_000, 2)), rng.integers(0, 50, 100_000), (64, 64), projections)
        for _ in range(2)
    )
    shares = shares_pixels(one, other)
    # A box of 64 px meets a box whose corner lies within 127 px: 2000 boxes a tract.
    assert shares.mean() == pytest.approx(1 - np.exp(-2000 * 127**2 / 30_000**2), abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3), st.integers(-3, 3)), max_size=20), st.data())
def test_neighbours_are_all_pairs_of_touching_cells(cells, data) -> None:
    others = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3), st.integers(-3, 3)), max_size=20))
    one, other = (np.array(c, np.int64).reshape(-1, 3) for c in (cells, others))
    found = sorted(
        p for mine, theirs in neighbours(one, other) for p in zip(mine.tolist(), theirs.tolist(), strict=True)
    )
    wanted = [
        (i, j)
        for i, a in enumerate(cells)
        for j, b in enumerate(others)
        if a[0] == b[0] and abs(a[1] - b[1]) <= 1 and abs(a[2] - b[2]) <= 1
    ]
    assert found == wanted


def test_neighbours_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.plan.splits.cells._CHUNK", 7)
    cells = np.zeros((10, 3), np.int64)
    parts = [mine for mine, _ in neighbours(cells, cells)]
    assert sum(map(len, parts)) == 100
    assert len(parts) > 1
