"""Tract geometry against published numbers and against the projection that made the corners."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsstcutouts.errors import GeometryMismatchError, SkyMapError
from lsstcutouts.geom import YX, Box, TanProjection
from lsstcutouts.skymap import KNOWN_RINGS, SkyMap, Tract, check_projection, unit_vectors

RINGS = KNOWN_RINGS["a5f11e561505dc6b24ec8f4ef547bc592e8299da"]
SCALE = YX(0.2, 0.2)
PIXEL = 0.2 / 3600
CENTRES = np.array([RINGS.centre(t) for t in range(RINGS.tracts)])


def ring_projection(tract: int) -> TanProjection:
    """Return the projection of a real full-size tract: 30000 px, tangent point at 0-based pixel 14999."""
    return TanProjection(RINGS.centre(tract), (14999.0, 14999.0), (-PIXEL, 0.0, 0.0, PIXEL))


def corners_of(projection: TanProjection, shape: YX[int]) -> np.ndarray:
    y = np.array([-0.5, -0.5, shape.y - 0.5, shape.y - 0.5])
    x = np.array([-0.5, shape.x - 0.5, shape.x - 0.5, -0.5])
    return unit_vectors(*projection.pixel_to_sky(y, x))


# Published in the tutorial notebooks of Data Preview 1 and 2 (number 104.2): position, tract, patch, pixel.
PUBLISHED = [
    ((53.076, -28.110), 5063, 15, (15182.507513158846, 4390.517978014746), 1e-7),
    ((53.13, -28.10), 5063, 14, (14325.0, 4570.4), 0.1),
]


@pytest.mark.parametrize(("sky", "tract", "patch", "pixel", "tolerance"), PUBLISHED)
def test_published_positions(sky, tract: int, patch: int, pixel, tolerance: float) -> None:
    ra, dec = (np.array([v]) for v in sky)
    assert RINGS.find(ra, dec).tolist() == [tract]
    made = Tract.from_corners(
        tract, corners_of(ring_projection(tract), YX(30000, 30000)), inner=RINGS.inner, pixel_scale=SCALE
    )
    assert made.grid == (10, 10)
    for projection in (ring_projection(tract), made.projection):
        yx = projection.sky_to_pixel(ra, dec)
        np.testing.assert_allclose([yx.x[0], yx.y[0]], pixel, rtol=0, atol=max(tolerance, 1e-6))
        assert made.patch_at(yx.y, yx.x).tolist() == [patch]


def test_published_layout() -> None:
    assert {rings.tracts for rings in KNOWN_RINGS.values()} == {18938}


def test_every_tract_is_found_at_its_own_centre() -> None:
    tracts = np.arange(RINGS.tracts)
    centres = np.array([RINGS.centre(t) for t in tracts.tolist()])
    np.testing.assert_array_equal(RINGS.find(centres[:, 0], centres[:, 1]), tracts)
    with pytest.raises(SkyMapError, match="18937"):
        RINGS.centre(18938)


def test_rings_do_not_choose_the_nearest_centre() -> None:
    """`RingsSkyMap.findTract` cuts rings in RA and Dec; elsewhere the nearest centre would win."""
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, 3000), rng.uniform(-75, 15, 3000)
    chosen = RINGS.find(ra, dec)
    centres = unit_vectors(*np.array([RINGS.centre(t) for t in range(RINGS.tracts)]).T)
    nearest = np.argmax(unit_vectors(ra, dec) @ centres.T, axis=1)
    assert 0.02 < np.mean(nearest != chosen) < 0.06


def test_a_hundred_thousand_positions_take_well_under_a_second() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 100_000), rng.uniform(-75, 15, 100_000)
    start = time.perf_counter()
    RINGS.find(ra, dec)
    assert time.perf_counter() - start < 1  # 7 ms when measured; a loop would take minutes


@given(
    st.floats(0, 359.99),
    st.floats(-85, 85),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(60, 900),
    st.integers(60, 900),
)
def test_corners_give_the_tract_back(ra: float, dec: float, ny: int, nx: int, height: int, width: int) -> None:
    shape = YX(ny * height, nx * width)
    projection = TanProjection((ra, dec), (shape.x / 2 - 1, shape.y / 2 - 1), (-PIXEL, 0, 0, PIXEL))
    corners = np.roll(corners_of(projection, shape), 3, axis=0)
    for known in ({"grid": YX(ny, nx)}, {"inner": YX(height, width)}):
        tract = Tract.from_corners(7, corners, pixel_scale=SCALE, **known)
        assert (tract.grid, tract.inner) == ((ny, nx), (height, width))
        y, x = np.random.default_rng(0).uniform(0, 1, (2, 50)) * [[shape.y], [shape.x]]
        yx = tract.projection.sky_to_pixel(*projection.pixel_to_sky(y, x))
        np.testing.assert_allclose(yx.y, y, atol=1e-5)
        np.testing.assert_allclose(yx.x, x, atol=1e-5)


def test_inner_regions_tile_the_tract() -> None:
    tract = Tract(1, TanProjection((0, 0), (0, 0), (-PIXEL, 0, 0, PIXEL)), YX(2, 3), YX(20, 30))
    y, x = np.mgrid[-1:41, -1:91]
    patch = tract.patch_at(y, x)
    for number in range(6):
        box = tract.inner_box(number)
        assert (patch == number).sum() == box.area == 600
        assert (patch[box.y0 + 1 : box.y1 + 1, box.x0 + 1 : box.x1 + 1] == number).all()
    assert tract.patch_at([-0.51, 39.49, 39.51], [0, 89.49, 0]).tolist() == [-1, 5, -1]
    assert tract.patch_at(np.nan, 0).tolist() == -1


def test_sizes_that_cannot_be() -> None:
    corners = corners_of(TanProjection((10, 5), (99, 49), (-PIXEL, 0, 0, PIXEL)), YX(100, 200))
    with pytest.raises(SkyMapError, match="whole number of patches"):
        Tract.from_corners(3, corners, grid=YX(3, 2), pixel_scale=SCALE)
    with pytest.raises(SkyMapError, match="pixel scale"):
        Tract.from_corners(3, corners, grid=YX(1, 1), pixel_scale=YX(0.263, 0.263))
    with pytest.raises(SkyMapError, match="3 corners"):
        Tract.from_corners(3, corners[:3], grid=YX(1, 1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 359.999), st.floats(-90, 90)), min_size=1, max_size=5),
    st.floats(0.1, 9),
    st.sampled_from([0.0, 77.0]),
)
@example([(0.0, -90.0), (123.0, 90.0), (359.999, 0.0), (0.0, 89.3), (180.0, -89.3)], 1.3, 0.0)
def test_all_tracts_near_a_position_are_found(sky: list[tuple[float, float]], radius: float, ra_start: float) -> None:
    """Across RA 0, at the poles and everywhere: the pairs are those that all 18938 distances give."""
    rings = replace(RINGS, ra_start=ra_start)
    ra, dec = np.array(sky).T
    centres = np.add(CENTRES, (ra_start, 0.0))
    row, tract = rings.near(ra, dec, radius)
    assert len(set(zip(row.tolist(), tract.tolist(), strict=True))) == len(row)
    found = np.zeros((len(ra), rings.tracts), bool)
    found[row, tract] = True
    closeness = unit_vectors(ra, dec) @ unit_vectors(*centres.T).T
    away = np.degrees(np.arccos(np.clip(closeness, -1, 1)))
    # The polar caps are centred on the poles whatever RA they are said to have.
    assert not (found & (away > radius + 1e-5)).any()
    assert found[away < radius - 1e-5].all()


def test_pairs_of_a_million_positions_take_seconds() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 200_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 200_000)))
    start = time.perf_counter()
    row, _ = RINGS.near(ra, dec, 1.2)
    assert time.perf_counter() - start < 5  # 0.2 s when measured
    assert 1.5 < len(row) / 200_000 < 3


def test_tracts_near_a_position_elsewhere() -> None:
    def tract(number: int, ra: float) -> Tract:
        projection = TanProjection((ra, 0.0), (499.0, 499.0), (-PIXEL, 0, 0, PIXEL))
        return Tract(number, projection, YX(2, 2), YX(500, 500))

    skymap = SkyMap("three", {4: tract(4, 359.99), 9: tract(9, 0.03), 2: tract(2, 90.0)})
    pairs = skymap.near(np.array([0.0, 90.0, 200.0]), np.zeros(3), 30)
    assert sorted(zip(*(p.tolist() for p in pairs), strict=True)) == [(0, 4), (0, 9), (1, 2)]
    wide = skymap.near(np.array([0.0]), np.zeros(1), 90 * 3600 / 0.2)
    assert sorted(wide[1].tolist()) == [2, 4, 9]


def test_patches_around_a_tract() -> None:
    tract = Tract(1, TanProjection((0, 0), (0, 0), (-PIXEL, 0, 0, PIXEL)), YX(2, 3), YX(20, 30))
    y, x = np.mgrid[-30:70, -30:120]
    inside = tract.patch_at(y, x)
    near = tract.nearest_patch(y, x)
    np.testing.assert_array_equal(near[inside >= 0], inside[inside >= 0])
    assert (near >= 0).all()
    assert (near[0, 0], near[0, -1], near[-1, 0], near[-1, -1], near[0, 75]) == (0, 2, 3, 5, 1)
    assert [tract.is_at_edge(p) for p in range(6)] == [True] * 6
    inner = Tract(1, tract.projection, YX(3, 4), YX(20, 30))
    assert [p for p in range(12) if not inner.is_at_edge(p)] == [5, 6]


def test_overlapping_tracts_elsewhere_go_to_the_nearest_centre() -> None:
    def tract(number: int, ra: float) -> Tract:
        projection = TanProjection((ra, 0.0), (499.0, 499.0), (-PIXEL, 0, 0, PIXEL))
        return Tract.from_corners(number, corners_of(projection, YX(1000, 1000)), grid=YX(1, 1), pixel_scale=SCALE)

    skymap = SkyMap("two", {4: tract(4, 10.0), 9: tract(9, 10.04)})
    ra = np.array([9.99, 10.019, 10.021, 10.05, 10.5])
    assert skymap.find(ra, np.zeros(5)).tolist() == [4, 4, 9, 9, -1]


def test_projections_that_differ_are_refused() -> None:
    one = TanProjection((10, 5), (99, 49), (-PIXEL, 0, 0, PIXEL))
    box = Box(0, 100, 0, 200)
    check_projection(TanProjection((10, 5), (99.005, 49), one.cd), one, box, "a.fits")
    with pytest.raises(GeometryMismatchError, match=r"a\.fits.*0\.020 px"):
        check_projection(TanProjection((10, 5), (99.02, 49), one.cd), one, box, "a.fits")
    with pytest.raises(GeometryMismatchError, match="nan"):
        check_projection(TanProjection((190, 5), (99, 49), one.cd), one, box, "a.fits")
