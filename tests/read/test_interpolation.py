"""What an interpolation does to noise, bad pixels and kernels."""

import sys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from lsstcutouts.errors import DependencyError
from lsstcutouts.read.interpolation import (
    check_reproject,
    interpolated,
    kernel_on_grid,
    noise_factor,
    places_of,
    touching,
)
from lsstcutouts.sky.geometry import YX

SIZE = YX(12, 9)


def some_places(rng: np.random.Generator, count: int = 2) -> YX[np.ndarray]:
    """Return places of turned and scaled grids among images of 50 x 45 pixels."""
    turned = np.array([[0.9, 0.3, 16.2], [-0.25, 0.95, 18.7], [1e-5, -2e-5, 1.0]])
    return places_of(
        turned + np.concatenate([rng.normal(0, 0.02, (count, 2, 3)), np.zeros((count, 1, 3))], axis=1), SIZE
    )


@pytest.mark.parametrize("order", range(4))
def test_planes_are_interpolated_as_scipy_does_it(order: int) -> None:
    rng = np.random.default_rng(1)
    places = some_places(rng)
    planes = rng.normal(size=(2, 3, 50, 45)).astype(np.float32)
    found = interpolated(planes, places, order)
    assert found.dtype == np.float32
    for n in range(2):
        for k in range(3):
            want = map_coordinates(planes[n, k], [places.y[n], places.x[n]], order=order, mode="mirror")
            np.testing.assert_allclose(found[n, k], want, atol=2e-6)


@pytest.mark.parametrize("order", range(4))
def test_the_variance_of_noise(order: int) -> None:
    rng = np.random.default_rng(2)
    places = some_places(rng, 1)
    noise = rng.normal(size=(1, 4000, 50, 45)).astype(np.float32)
    found = interpolated(noise, places, order)
    want = noise_factor(places, order)
    np.testing.assert_allclose(found.var(axis=1), want, rtol=0.15)
    assert abs(found.var() / want.mean() - 1) < 0.01
    assert want.max() <= 1 + 1e-6


@pytest.mark.parametrize("order", range(4))
def test_a_bad_pixel_spoils_those_that_it_contributes_to(order: int) -> None:
    rng = np.random.default_rng(3)
    places = some_places(rng, 1)
    planes = rng.normal(size=(1, 1, 50, 45)).astype(np.float32)
    y, x = (int(at[0, 6, 4]) for at in places)
    planes[0, 0, y, x] = np.nan
    found = interpolated(planes, places, order)[0, 0]
    one = np.zeros((50, 45))
    one[y, x] = 1
    weight = map_coordinates(one, [places.y[0], places.x[0]], order=order)
    # The largest weight further away than SUPPORT is 0.6 % of a pixel.
    assert np.isnan(found[np.abs(weight) > 0.02]).all()
    assert np.isfinite(found[weight == 0]).all()
    assert np.isfinite(found).any()
    np.testing.assert_array_equal(touching(np.isnan(planes), places, order)[0, 0], np.isnan(found))


def test_a_pixel_on_a_pixel_is_that_pixel() -> None:
    rng = np.random.default_rng(4)
    planes = rng.normal(size=(1, 1, 50, 45)).astype(np.float32)
    places = places_of(np.array([[[1.0, 0, 14], [0, 1, 13], [0, 0, 1]]]), SIZE)
    for order in range(4):
        found = interpolated(planes, places, order)
        np.testing.assert_allclose(found[0, 0], planes[0, 0, 13:25, 14:23], atol=1e-6)
        np.testing.assert_allclose(noise_factor(places, order), 1, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_kernel_keeps_its_sum_and_middle(order: int) -> None:
    y, x = np.mgrid[-17:18, -17:18]
    kernel = np.exp(-(y**2 / 2 + x**2 / 3) / 2.5**2)
    kernel /= kernel.sum()
    turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
    for step, side in ((0.5, 71), (1.0, 35), (1.6, 23)):
        moved = kernel_on_grid(kernel, step * turn, YX(side, side), order)
        assert moved.sum() == pytest.approx(1, abs=2e-3)
        assert np.unravel_index(moved.argmax(), moved.shape) == (side // 2, side // 2)
        np.testing.assert_allclose(moved, moved[::-1, ::-1], atol=1e-9)


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reproject", None)
    with pytest.raises(DependencyError, match=r"pip install 'lsstcutouts\[grid\]'"):
        check_reproject()
