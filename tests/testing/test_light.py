"""The light of single sources: how much of it there is, where it falls, and what the atmosphere does to it."""

import numpy as np
import pytest

from lsstcutouts.sky.geometry import Box
from lsstcutouts.testing.light import Kind, PointSpread, Sources, paint

BOX = Box(1000, 1151, -60, 91)
MIDDLE = (1075.0, 15.0)


def source(kind: Kind, *shape: float, at: tuple[float, float] = MIDDLE, flux: tuple[float, ...] = (1.0,)) -> Sources:
    columns = np.array([[*shape, *[0.0] * (6 - len(shape))]])
    return Sources(np.array([at[0]]), np.array([at[1]]), np.array([int(kind)]), columns, np.array([flux]))


SHAPES = {
    Kind.POINT: (0.0, 1.0, 0.0),
    Kind.EXPONENTIAL: (3.0, 0.6, 0.4),
    Kind.DE_VAUCOULEURS: (3.0, 0.7, 2.0),
    Kind.ARC: (1.2, 0.8, 0.3, 7.0, 1.0, -2.0),
    Kind.SPIRAL: (5.0, 0.6, 1.0, 0.8, 0.4, 0.0),
}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_band_gets_its_flux(kind: Kind) -> None:
    canvases = paint(source(kind, *SHAPES[kind], flux=(100.0, 7.0)), BOX)
    assert canvases.shape == (2, 151, 151)
    np.testing.assert_allclose(canvases.sum(axis=(1, 2)), (100.0, 7.0), rtol=0.03)
    assert canvases.min() >= 0.0


@pytest.mark.parametrize("kind", [Kind.POINT, Kind.EXPONENTIAL, Kind.DE_VAUCOULEURS])
def test_light_is_centred_on_fractions_of_a_pixel(kind: Kind) -> None:
    (canvas,) = paint(source(kind, *SHAPES[kind], at=(1075.3, 14.6)), BOX)
    y, x = np.arange(1000, 1151), np.arange(-60, 91)
    assert (canvas.sum(axis=1) * y).sum() / canvas.sum() == pytest.approx(1075.3, abs=0.02)
    assert (canvas.sum(axis=0) * x).sum() / canvas.sum() == pytest.approx(14.6, abs=0.02)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_source_on_the_edge_is_cut_off_there(kind: Kind) -> None:
    at_edge = source(kind, *SHAPES[kind], at=(1075.0, 90.0))
    (whole,) = paint(at_edge, Box(1000, 1151, 0, 200))
    (part,) = paint(at_edge, BOX)
    np.testing.assert_array_equal(part[:, 60:], whole[:, :91])


def test_a_source_behind_a_round_lens_is_a_ring_at_the_einstein_radius() -> None:
    (canvas,) = paint(source(Kind.ARC, 1.0, 0.999, 0.0, 8.0, 0.0, 0.0), BOX)
    y, x = np.mgrid[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1]
    radius = np.hypot(y - MIDDLE[0], x - MIDDLE[1])
    profile = [canvas[np.abs(radius - r) < 0.5].mean() for r in range(1, 20)]
    assert 1 + int(np.argmax(profile)) == 8
    assert canvas[radius < 3].sum() < 0.03
    quadrants = [canvas[(y < MIDDLE[0]) == up].sum() for up in (True, False)]
    assert quadrants[0] == pytest.approx(quadrants[1], rel=0.2)


def test_a_source_beside_the_lens_has_a_bright_arc_on_its_side() -> None:
    (canvas,) = paint(source(Kind.ARC, 1.0, 0.999, 0.0, 8.0, 3.0, 0.0), BOX)
    brightest = np.array(np.unravel_index(canvas.argmax(), canvas.shape)) - 75
    assert brightest[0] == pytest.approx(8.0 + 3.0, abs=1.0)
    assert brightest[1] == pytest.approx(0.0, abs=1.0)
    counter = canvas[:75].sum() / canvas.sum()
    assert 0.1 < counter < 0.5


def test_the_blurred_image_of_a_star_is_the_stored_kernel() -> None:
    spread = PointSpread(4.2)
    (canvas,) = paint(source(Kind.POINT, 0.0, 1.0, 0.0), BOX)
    seen = spread.blur(canvas)[75 - 17 : 75 + 18, 15 + 60 - 17 : 15 + 60 + 18]
    kernel = spread.kernel(35)
    np.testing.assert_allclose(seen, kernel, atol=0.004 * kernel.max())
    assert kernel.sum() == pytest.approx(1.0, abs=0.01)


def test_width_is_the_full_width_at_half_maximum() -> None:
    kernel = PointSpread(10.0).kernel(41)
    assert kernel[20, 25] / kernel[20, 20] == pytest.approx(0.5, abs=0.005)
