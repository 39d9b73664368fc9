"""Interpolates planes on another pixel grid with the `reproject` package, and computes the variance and which pixels are bad."""

from functools import lru_cache
from typing import Any

import numpy as np
from astropy.units import Quantity
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from ..errors import DependencyError
from ..sky.geometry import YX

__all__ = ["check_reproject", "interpolated", "kernel_on_grid", "noise_factor", "pixels_under", "touching"]

type Array = NDArray[Any]
type Floats = NDArray[np.float64]

_REACH = {0: 1, 1: 1, 2: 2, 3: 3}
"""By order of the spline, pixels on each side of a place whose weights count: those further away have less than 1 % each."""

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


class _Pixels(BaseLowLevelWCS):  # type: ignore[misc]
    """Pixels that a matrix ``(3, 3)`` relates to those of another grid, in the form that `reproject` asks for (APE 14).

    The "world" are pixels of the grid that is read: two gnomonic projections are related by a matrix, so that nothing has
    to be computed on the sky.
    """

    pixel_n_dim = world_n_dim = 2
    world_axis_physical_types = ("pos.cartesian.x", "pos.cartesian.y")
    world_axis_units = ("pix", "pix")
    world_axis_object_components = (("x", 0, "value"), ("y", 0, "value"))
    world_axis_object_classes = {  # noqa: RUF012 - the name and type are those of APE 14
        "x": (Quantity, (), {"unit": "pix"}),
        "y": (Quantity, (), {"unit": "pix"}),
    }

    def __init__(self, matrix: Floats) -> None:
        self._matrix = matrix

    def pixel_to_world_values(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return _moved(self._matrix, x, y)

    def world_to_pixel_values(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return _moved(np.linalg.inv(self._matrix), x, y)


def _moved(m: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    scale = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / scale, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / scale


_SAME = _Pixels(np.eye(3))


def pixels_under(matrix: Floats, size: YX[int]) -> YX[Floats]:
    """Return the places ``(Y, X)`` of the pixels of a grid among those that are read, which ``matrix`` relates to them."""
    y, x = np.mgrid[: size.y, : size.x].astype(np.float64)
    x, y = _moved(matrix, x, y)
    return YX(y, x)


def interpolated(planes: Array, matrix: Floats, size: YX[int], order: int) -> Array:
    """Return planes ``(K, Y, X)`` on another grid, ``(K, *size)`` of the same type.

    Parameters
    ----------
    planes
        Floats, ``(K, y, x)``; what is not finite makes the pixels NaN to which it contributes.
    matrix
        ``(3, 3)`` from pixels ``(x, y, 1)`` of the grid to those of the planes.
    size
        Rows and columns of the grid.
    order
        Of the spline.
    """
    bad = ~np.isfinite(planes)
    if not bad.any():
        return _reprojected(planes, matrix, size, order)
    values = _reprojected(np.where(bad, planes.dtype.type(0), planes), matrix, size, order)
    values[touching(bad, matrix, size, order)] = np.nan
    return values


def _reprojected(planes: Array, matrix: Floats, size: YX[int], order: int) -> Array:
    from reproject import reproject_interp

    values = np.empty((len(planes), *size), planes.dtype)
    reproject_interp(
        (planes, _SAME),
        _Pixels(matrix),
        shape_out=values.shape,
        order=order,
        output_array=values,
        return_footprint=False,
        roundtrip_coords=False,
        parallel=False,
    )
    return values


def touching(pixels: NDArray[np.bool_], matrix: Floats, size: YX[int], order: int) -> NDArray[np.bool_]:
    """Return the pixels ``(K, *size)`` of a grid to which any of ``pixels`` ``(K, y, x)``, or what is beyond them, contributes."""
    from scipy.ndimage import maximum_filter

    side = 2 * _REACH[order] - 1
    near = maximum_filter(pixels, size=(1, side, side)) if side > 1 else pixels
    share = _reprojected(near.astype(np.float32), matrix, size, min(order, 1))
    return np.asarray(~(share <= _SOME))  # also NaN: beyond the planes


def noise_factor(places: YX[Floats], order: int) -> Floats:
    """Return ``(Y, X)`` sums of the squares of the weights with which pixels contribute: their variance times this is the result's.

    For equal variances and independent noise of the pixels that are read. It is 1 where a pixel of the grid lies on one
    of them, and least in the middle between four.

    Parameters
    ----------
    places
        As `pixels_under`.
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
