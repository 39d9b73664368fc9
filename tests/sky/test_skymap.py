"""Tract geometry against published numbers and against the projection that made the corners."""

import hashlib
import struct
import time
from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import example, given
from hypothesis import strategies as st

from lsstcutouts.errors import GeometryMismatchError, SkyMapError
from lsstcutouts.sky.geometry import YX, Box, TanProjection
from lsstcutouts.sky.skymap import KNOWN_RINGS, RingsGeometry, SkyMap, Tract, check_projection, unit_vectors

from ..support.examples import examples

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


def test_the_hash_of_a_known_skymap_is_that_of_its_settings() -> None:
    """As ``BaseSkyMap.getSha1`` packs them, with the legacy tract builder or that of cells."""
    for known, rings in KNOWN_RINGS.items():
        if rings.clipped:
            builder = struct.pack("<iii", *rings.inner, rings.border)
        else:
            builder = struct.pack("<iiiii", 150, 150, rings.border - 150, rings.inner.x // 150, 1)
        settings = builder + struct.pack("<dd3sd", 1 / 60, rings.pixel_scale, b"TAN", 0.0)
        settings += struct.pack("<id", rings.rings, rings.ra_start)
        assert hashlib.sha1(b"RingsSkyMap" + settings).hexdigest() == known
        # The tract: the circle around its centre that reaches its neighbours' and the overlap, in whole patches.
        radius = np.tan(np.radians(0.5 * 180 / 121 + 1 / 60)) / np.radians(rings.pixel_scale / 3600)
        assert rings.grid == (int(2 * radius // rings.inner.y) + 1,) * 2


REAL_RECORDS = [
    # Regions of tract records: DC2 of lsst/ap_verify_ci_dc2 (etc/skymaps.yaml), HSC of lsst/testdata_jointcal (hsc/exports.yaml).
    (
        "1e5fa85fe242606426528f5f7b8dbf01cbaaff9e",
        4431,
        (
            "61ed0dd08f14df3fabfbe23d6ef8e53f033356189950e1bf5bd51b0660a5dd3fc7f5d1f1e475e63f38b0281c9950e1bf"
            "0fd449e6482ade3f4fcbfd9423d7e63f49f14b2cfc93e0bfd686cdaf7899df3fe60b15e1ac59e63fe916a328fc93e0bf"
        ),
    ),
    (
        "e29fe9f1008e359f36a3677e7d69cc439376d1e6",
        9697,
        (
            "23bb1dab4a71ed3ffa20e3381212d9bf99d3478c457b5bbf3db49dd91dcced3ffdb3a6017255d7bf39a6c891457b5bbf"
            "0c48c7063bc9ed3f81016b521653d7bf429d61be754c9c3ff4125ad8676eed3f0fde4e89b60fd9bf31e8b6b8754c9c3f"
        ),
    ),
]


@pytest.mark.parametrize(("known", "tract", "region"), REAL_RECORDS)
def test_real_records_of_other_skymaps(known: str, tract: int, region: str) -> None:
    rings = KNOWN_RINGS[known]
    corners = np.array(struct.unpack("<12d", bytes.fromhex(region))).reshape(4, 3)
    for scale in (YX(rings.pixel_scale, rings.pixel_scale), None):
        made = Tract.from_corners(tract, corners, grid=rings.grid, pixel_scale=scale)
        assert made.inner == rings.inner == (4000, 4000)
        assert made.projection.pixel_scale == pytest.approx([rings.pixel_scale] * 2, rel=1e-8)
        middle = rings.grid.x * 2000 - 1
        np.testing.assert_allclose(made.projection.crpix, (middle, middle), atol=1e-4)
        np.testing.assert_allclose(made.projection.crval, rings.centre(tract), atol=1e-8)
    assert rings.find(*np.array([made.projection.crval]).T).tolist() == [tract]


@pytest.mark.parametrize(("scale", "patches", "centre"), [(0.168, 9, (150.25, 2.23)), (0.263, 11, (214.86, 52.66))])
def test_pixels_of_another_scale(scale: float, patches: int, centre: tuple[float, float]) -> None:
    """HSC and CFHT; the corners are astropy's."""
    side = patches * 4000
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], centre, [side // 2, side // 2]
    wcs.wcs.cd = [[-scale / 3600, 0], [0, scale / 3600]]
    edges = np.array([-0.5, side - 0.5])
    corners = unit_vectors(*wcs.all_pix2world(edges[[0, 1, 1, 0]], edges[[0, 0, 1, 1]], 0))
    for known in ({"pixel_scale": YX(scale, scale)}, {}):
        assert Tract.from_corners(0, corners, grid=YX(patches, patches), **known).inner == (4000, 4000)
        assert Tract.from_corners(0, corners, inner=YX(4000, 4000), **known).grid == (patches, patches)
    with pytest.raises(SkyMapError, match="a side is"):
        Tract.from_corners(0, corners, grid=YX(patches, patches), pixel_scale=YX(0.2001, 0.2001))


def test_corners_that_do_not_tell_the_scale() -> None:
    odd = TanProjection((10, 5), (50.0, 50.0), (-PIXEL, 0, 0, PIXEL))  # the middle of 101 x 101 px
    with pytest.raises(SkyMapError, match="pixel scale cannot be determined"):
        Tract.from_corners(3, corners_of(odd, YX(101, 101)), grid=YX(1, 1))


def ring_corners(rings: RingsGeometry, tract: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a tract and some pixels ``(N, 3)`` of it, by vectors: east, north and the tangent point."""
    ra, dec = np.radians(rings.centre(tract))
    tangent = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.array([-np.sin(ra), np.cos(ra), 0.0])
    north = np.cross(tangent, east)
    side, pixel = rings.inner.x * rings.grid.x, np.radians(rings.pixel_scale / 3600)

    def vectors(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        step = np.column_stack([-(x - (side / 2 - 1)), y - (side / 2 - 1)]) * pixel
        v = tangent + step @ np.array([east, north])
        return v / np.linalg.norm(v, axis=1)[:, None]

    edges = np.array([-0.5, side - 0.5])
    return vectors(edges[[1, 0, 0, 1]], edges[[1, 0, 1, 0]]), vectors(*INSIDE)


INSIDE = np.array([[16000.0, 3.0, 27000.0], [20000.0, 25000.0, 1.0]])
"""Pixels ``(y, x)``, not symmetric under any turn or reflection."""


@pytest.mark.parametrize("known", KNOWN_RINGS)
def test_tracts_of_all_rings_and_poles(known: str) -> None:
    """The first, the last and a middle tract of each ring, and both polar ones: across RA 0, beside and at the poles."""
    rings = KNOWN_RINGS[known]
    first = rings.first.tolist()
    tracts = {0, rings.tracts - 1, *first, *(t - 1 for t in first[1:]), *(t + 37 for t in first[20:100])}
    for number, tract in enumerate(sorted(tracts)):
        corners, inside = ring_corners(rings, tract)
        scale = None if number % 3 else YX(rings.pixel_scale, rings.pixel_scale)
        made = Tract.from_corners(tract, corners[np.roll([2, 0, 1, 3], number)], inner=rings.inner, pixel_scale=scale)
        assert made.grid == rings.grid, tract
        ra, dec = np.degrees(np.arctan2(inside[:, 1], inside[:, 0])), np.degrees(np.arcsin(inside[:, 2]))
        yx = made.projection.sky_to_pixel(ra, dec)
        np.testing.assert_allclose([yx.y, yx.x], INSIDE, atol=1e-4, err_msg=str(tract))
        away = (np.subtract(made.projection.crval, rings.centre(tract)) + 180) % 360 - 180
        np.testing.assert_allclose(away * (np.cos(np.radians(rings.centre(tract)[1])), 1), 0, atol=1e-8)


def test_the_tract_is_find_tracts() -> None:
    """`RingsSkyMap.findTract` (version 1), one position at a time."""
    rings = KNOWN_RINGS["e29fe9f1008e359f36a3677e7d69cc439376d1e6"]
    size = np.pi / 121
    starts = [1]
    for ring in range(120):
        low = size * (ring + 0.5) - np.pi / 2
        starts.append(starts[-1] + int(2 * np.pi * np.cos(min(abs(low), abs(low + size))) / size) + 1)

    def find_tract(ra: float, dec: float) -> int:
        if dec < size / 2 - np.pi / 2:
            return 0
        if dec > np.pi / 2 - size / 2:
            return starts[-1]
        ring = int((dec - (size / 2 - np.pi / 2)) / size)
        count = starts[ring + 1] - starts[ring]
        number = int(ra / (2 * np.pi / count) + 0.5)
        return starts[ring] + (0 if number == count else number)

    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    dec[:40] = rng.uniform(88.5, 90, 40) * rng.choice([-1, 1], 40)
    want = [find_tract(*one) for one in np.radians(np.column_stack([ra, dec])).tolist()]
    assert rings.find(ra, dec).tolist() == want
    assert SkyMap("hsc_rings_v1", {}, rings).find(ra, dec).tolist() == want  # known here or not


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
    with pytest.raises(SkyMapError, match="cannot be divided by 3 x 2"):
        Tract.from_corners(3, corners, grid=YX(3, 2), pixel_scale=SCALE)
    with pytest.raises(SkyMapError, match=r"at a pixel scale of 0\.263 arcsec"):
        Tract.from_corners(3, corners, grid=YX(1, 1), pixel_scale=YX(0.263, 0.263))
    with pytest.raises(SkyMapError, match="3 corners"):
        Tract.from_corners(3, corners[:3], grid=YX(1, 1))


@examples(40)
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


def test_a_tract_without_coadds_takes_part_in_the_choice() -> None:
    def tract(number: int, ra: float) -> Tract:
        projection = TanProjection((ra, 0.0), (499.0, 499.0), (-PIXEL, 0, 0, PIXEL))
        return Tract(number, projection, YX(1, 1), YX(1000, 1000))

    skymap = SkyMap("two", {4: tract(4, 10.0)}, neighbours={9: tract(9, 10.04)})
    ra = np.array([9.99, 10.019, 10.021, 10.05, 10.5])
    assert skymap.find(ra, np.zeros(5)).tolist() == [4, 4, 9, 9, -1]
    assert set(skymap.near(ra, np.zeros(5), 30)[1].tolist()) == {4}


def test_projections_that_differ_are_refused() -> None:
    one = TanProjection((10, 5), (99, 49), (-PIXEL, 0, 0, PIXEL))
    box = Box(0, 100, 0, 200)
    check_projection(TanProjection((10, 5), (99.005, 49), one.cd), one, box, "a.fits")
    with pytest.raises(GeometryMismatchError, match=r"a\.fits.*0\.020 px"):
        check_projection(TanProjection((10, 5), (99.02, 49), one.cd), one, box, "a.fits")
    with pytest.raises(GeometryMismatchError, match="nan"):
        check_projection(TanProjection((190, 5), (99, 49), one.cd), one, box, "a.fits")
