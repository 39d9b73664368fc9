"""Boxes, the one rounding, and the projection against astropy."""

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.sky.geometry import YX, Box, TanProjection, box_start

boxes = st.builds(lambda y, x, h, w: Box(y, y + h, x, x + w), *(st.integers(-50, 50),) * 2, *(st.integers(0, 40),) * 2)


@given(boxes, boxes)
def test_the_intersection_holds_the_common_pixels(a: Box, b: Box) -> None:
    common = {(y, x) for y in range(a.y0, a.y1) for x in range(a.x0, a.x1)} & {
        (y, x) for y in range(b.y0, b.y1) for x in range(b.x0, b.x1)
    }
    both = a.intersection(b)
    assert both.area == len(common)
    assert both.is_empty == (not common)
    assert a.contains(both) or both.is_empty


def test_a_box_knows_its_place_in_an_array() -> None:
    box = Box.from_start(YX(10, 20), YX(3, 4))
    assert box == Box(10, 13, 20, 24)
    assert box.shape == (3, 4)
    assert box.start == (10, 20)
    assert box.slices(YX(8, 19)) == (slice(2, 5), slice(1, 5))
    assert box.relative_to(YX(10, 20)) == Box(0, 3, 0, 4)


@given(st.floats(-1e5, 1e5), st.integers(1, 500))
def test_the_target_lies_within_half_a_pixel_of_the_middle(centre: float, size: int) -> None:
    start = int(box_start(centre, size))
    assert -0.5 - 1e-9 <= centre - (start + (size - 1) / 2) <= 0.5 + 1e-9


def test_odd_and_even_sizes() -> None:
    # An odd box has its middle on a pixel centre, an even one on a pixel edge; ties go up.
    np.testing.assert_array_equal(box_start([10.0, 10.4, 10.5, 10.6], 3), [9, 9, 10, 10])
    np.testing.assert_array_equal(box_start([10.0, 10.4, 10.5, 10.6], 4), [9, 9, 9, 9])
    np.testing.assert_array_equal(box_start([[10.0, 20.0]], YX(3, 4)), [[9, 19]])


@given(
    st.tuples(st.floats(0, 359.9), st.floats(-80, 80)),
    st.lists(st.tuples(st.floats(-2000, 32000), st.floats(-2000, 32000)), min_size=1, max_size=5),
)
def test_the_projection_equals_astropy(crval: tuple[float, float], pixels: list[tuple[float, float]]) -> None:
    projection = TanProjection(crval, (14999.0, 14998.0), (-0.2 / 3600, 1e-7, 2e-7, 0.2 / 3600))
    x, y = np.array(pixels).T
    ra, dec = projection.pixel_to_sky(y, x)
    want_ra, want_dec = WCS(fits.Header(projection.header())).all_pix2world(x, y, 0)
    np.testing.assert_allclose(dec, want_dec, rtol=0, atol=1e-11)
    np.testing.assert_allclose((ra - want_ra + 180) % 360 - 180, 0, atol=1e-10)
    back = projection.sky_to_pixel(ra, dec)
    np.testing.assert_allclose(back.x, x, atol=1e-6)
    np.testing.assert_allclose(back.y, y, atol=1e-6)


def test_the_pixel_scale_is_that_of_each_axis() -> None:
    turn = np.radians(30.0)
    cd = (-0.2 * np.cos(turn), 0.25 * np.sin(turn), 0.2 * np.sin(turn), 0.25 * np.cos(turn))
    scale = TanProjection((10.0, 0.0), (0.0, 0.0), tuple(c / 3600 for c in cd)).pixel_scale
    np.testing.assert_allclose([scale.y, scale.x], [0.25, 0.2], rtol=1e-12)


def test_the_far_hemisphere_is_nowhere() -> None:
    projection = TanProjection((10.0, 0.0), (0.0, 0.0), (-1e-4, 0, 0, 1e-4))
    assert np.isnan(projection.sky_to_pixel(190.0, 0.0).x)


def test_the_header_of_a_cutout_keeps_the_sky() -> None:
    projection = TanProjection((53.0, -28.0), (749.0, 359.0), (-0.2 / 3600, 0, 0, 0.2 / 3600))
    whole, cut = (WCS(fits.Header(projection.header(YX(*origin)))) for origin in ((0, 0), (100, 200)))
    np.testing.assert_allclose(whole.all_pix2world(230, 140, 0), cut.all_pix2world(30, 40, 0), rtol=0, atol=1e-12)
