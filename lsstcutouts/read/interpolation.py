"""Interpolates planes on another pixel grid with the `reproject` package, and computes the variance and which pixels are bad."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DependencyError
from ..plan.grid import SUPPORT
from ..sky.geometry import YX

__all__ = ["check_reproject", "interpolated", "kernel_on_grid", "noise_factor", "places_of", "touching"]

type Array = NDArray[Any]
type Floats = NDArray[np.float64]

_GAP = 16
"""Rows of zeros around an image in a pile: together with the margin of the image, a cubic spline has 1e-16 of a pixel left."""

_STEPS = 2.0**24
"""Places are rounded to this part of a pixel, 6e-8, so that they are the same wherever an image is in a pile."""

_SOME = 1e-6
"""Weight above which a pixel contributes: an unresampled one has weights of rounding errors beside it."""


def check_reproject() -> None:
    """Raise `DependencyError` if the package that interpolates is not installed."""
    try:
        import reproject  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"read.grid needs a package that is not installed ({error}): pip install 'lsstcutouts[grid]'"
        ) from error


@lru_cache
def _known_places_class() -> Any:
    """Return the class whose objects say to `reproject` where pixels are; astropy's WCS are loaded only for it."""
    from astropy.units import Quantity
    from astropy.wcs.wcsapi import BaseLowLevelWCS

    class KnownPlaces(BaseLowLevelWCS):  # type: ignore[misc]
        """Pixels of a grid whose places among the pixels that are read are known, in the form of APE 14.

        The "world" are the pixels that are read, so that nothing has to be computed on the sky; without ``places`` these
        are meant themselves.
        """

        pixel_n_dim = world_n_dim = 2
        world_axis_physical_types = ("pos.cartesian.x", "pos.cartesian.y")
        world_axis_units = ("pix", "pix")
        world_axis_object_components = (("x", 0, "value"), ("y", 0, "value"))
        world_axis_object_classes = dict.fromkeys("xy", (Quantity, (), {"unit": "pix"}))

        def __init__(self, places: YX[Floats] | None = None) -> None:
            self._places = places

        def pixel_to_world_values(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
            return (x, y) if self._places is None else (self._places.x, self._places.y)

        def world_to_pixel_values(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
            return x, y

    return KnownPlaces


def places_of(matrices: Floats, size: YX[int]) -> YX[Floats]:
    """Return the places ``(n, Y, X)`` of the pixels of ``n`` grids of a size among those that are read.

    ``matrices`` ``(n, 3, 3)`` lead from the pixels ``(x, y, 1)`` of each grid to those.
    """
    y, x = np.mgrid[: size.y, : size.x].astype(np.float64)
    m = matrices[..., None, None]  # (n, 3, 3, 1, 1)
    at_x, at_y, scale = (m[:, k, 0] * x + m[:, k, 1] * y + m[:, k, 2] for k in range(3))
    return YX(*(np.rint(at / scale * _STEPS) / _STEPS for at in (at_y, at_x)))


def interpolated(planes: Array, places: YX[Floats], order: int) -> Array:
    """Return planes ``(n, K, y, x)`` on other grids, ``(n, K, Y, X)`` of the same type.

    Parameters
    ----------
    planes
        Floats; what is not finite makes the pixels NaN to which it contributes.
    places
        As `places_of`; further from the edge of the planes than the interpolation looks.
    order
        Of the spline.
    """
    bad = ~np.isfinite(planes)
    if not bad.any():
        return _reprojected(planes, places, order)
    values = _reprojected(np.where(bad, planes.dtype.type(0), planes), places, order)
    values[touching(bad, places, order)] = np.nan
    return values


def _reprojected(planes: Array, places: YX[Floats], order: int) -> Array:
    """Return planes on other grids, all in one call: each takes 4 ms besides what it computes."""
    from reproject import reproject_interp

    known_places = _known_places_class()
    (n, k, height, width), (_, y, x) = planes.shape, places.y.shape
    # One below the other, so far apart that a spline through one of them does not feel the next one, nor an end of the pile.
    gap = _GAP if order > 1 else 0
    apart = gap + height
    tall = np.zeros((k, n * apart + gap, width), planes.dtype)
    tall[:, : n * apart].reshape(k, n, apart, width)[:, :, gap:] = planes.swapaxes(0, 1)
    rows = (places.y + gap + apart * np.arange(n)[:, None, None]).reshape(-1)
    values = np.empty((k, n * y, x), planes.dtype)
    reproject_interp(
        (tall, known_places()),
        known_places(YX(rows, places.x.reshape(-1))),
        shape_out=values.shape,
        order=order,
        output_array=values,
        return_footprint=False,
        roundtrip_coords=False,
        parallel=False,
    )
    return values.reshape(k, n, y, x).swapaxes(0, 1)


def touching(pixels: NDArray[np.bool_], places: YX[Floats], order: int) -> NDArray[np.bool_]:
    """Return the pixels ``(n, K, Y, X)`` of grids to which any of ``pixels`` ``(n, K, y, x)`` contributes."""
    from scipy.ndimage import maximum_filter

    if not pixels.any():
        return np.zeros((*pixels.shape[:2], *places.y.shape[1:]), bool)
    side = 2 * SUPPORT[order] - 1
    near = maximum_filter(pixels, size=(1, 1, side, side)) if side > 1 else pixels
    return np.asarray(_reprojected(near.astype(np.float32), places, min(order, 1)) > _SOME)


def noise_factor(places: YX[Floats], order: int) -> Floats:
    """Return ``(n, Y, X)`` sums of the squares of the weights with which pixels contribute: their variance times this is the result's.

    For equal variances and independent noise of the pixels that are read. It is 1 where a pixel of the grid lies on one
    of them, and least in the middle between four.

    Parameters
    ----------
    places
        As `places_of`.
    order
        Of the spline.
    """
    phase, table = _squares(order)
    y, x = (np.interp(at % 1.0, phase, table) for at in places)
    return np.asarray(y * x)


@lru_cache
def _squares(order: int) -> tuple[Floats, Floats]:
    """Return the sums of the squares of the weights along one axis, by the place between two pixels, 0 to 1."""
    from scipy.ndimage import map_coordinates

    phase = np.linspace(0, 1, 65)
    one = np.zeros(65)
    one[32] = 1.0
    if order == 0:
        return phase, np.ones_like(phase)
    at = 32 + phase[:, None] - np.arange(-20, 21)
    weights = map_coordinates(one, at[None], order=order)
    return phase, np.asarray((weights**2).sum(axis=1))


def kernel_on_grid(kernel: Floats, jacobian: Floats, shape: YX[int], order: int) -> Floats:
    """Return a PSF kernel on another grid; the middle stays in the middle, and the sum the same.

    Parameters
    ----------
    kernel
        ``(y, x)``, odd sides.
    jacobian
        ``(2, 2)`` change of the pixels that are read, ``(y, x)``, with those of the grid, ``(y, x)``.
    shape
        Rows and columns of the result, odd.
    order
        Of the spline; at least 1 is used.
    """
    from scipy.ndimage import affine_transform

    middle = (np.asarray(kernel.shape) - 1) / 2 - jacobian @ ((np.asarray(shape) - 1) / 2)
    moved = affine_transform(kernel, jacobian, middle, output_shape=tuple(shape), order=max(1, order))
    return np.asarray(moved * abs(np.linalg.det(jacobian)))
