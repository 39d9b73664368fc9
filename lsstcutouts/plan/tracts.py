"""Computes the geometry of tracts from the dimension records of a Butler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SkyMapError
from ..sky.geometry import YX
from ..sky.skymap import RingsGeometry, Tract

__all__ = ["known_tract", "outline_tract", "tract_centre", "tract_from_records"]


def known_tract(record: Any, rings: RingsGeometry) -> Tract:
    """Return a tract of a known ring skymap from its record.

    Raises
    ------
    SkyMapError
        If the record contradicts the layout of the skymap.
    """
    scale = YX(rings.pixel_scale, rings.pixel_scale)
    tract = Tract.from_corners(record.id, _vertices(record), inner=rings.inner, pixel_scale=scale)
    centre = rings.centre(record.id)
    away = tract.projection.sky_to_pixel(*centre)
    if max(abs(away.x - tract.projection.crpix[0]), abs(away.y - tract.projection.crpix[1])) > 0.01:
        raise SkyMapError(
            f"tract {record.id}: the tangent point of its record, {tract.projection.crval}, is not that of the skymap, "
            f"{centre} (ra, dec in degrees); check the tract records of the repository"
        )
    return tract


def tract_from_records(record: Any, patch: Any, scale: YX[float] | None) -> Tract:
    """Return a tract from its record, with the patch grid computed from the record of one patch.

    The highest row and column among the patch records does not give the grid: a subset repository lacks some patches,
    and the record of the skymap has only the largest grid of any tract.

    Parameters
    ----------
    record, patch
        Dimension records of the tract, and of its patch with the highest row and column; None if there is no patch.
    scale
        Arcseconds per pixel ``(y, x)``, from a file; None if no file can be read.

    Raises
    ------
    SkyMapError
        If the records contradict each other.
    """
    if patch is None:
        raise SkyMapError(
            f"tract {record.id}: the repository has no patch records of this tract; register the skymap in the repository"
        )
    corners = _vertices(record)
    unit = Tract.from_corners(record.id, corners, grid=YX(1, 1), pixel_scale=scale)
    x, y, z = _vertices(patch).T
    edge = unit.projection.sky_to_pixel(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))
    position = YX(patch.cell_y, patch.cell_x)
    ends = (YX(float(e.min()) + 0.5, float(e.max()) + 0.5) for e in edge)
    grid = YX(*(_patches(*end, n, side) for end, n, side in zip(ends, position, unit.inner, strict=True)))
    if 0 in grid:
        raise SkyMapError(
            f"tract {record.id}: {unit.inner.y} x {unit.inner.x} px (y, x) cannot be divided into patches such as patch "
            f"{patch.id}; check the tract and patch records of the repository"
        )
    return Tract.from_corners(record.id, corners, grid=grid, pixel_scale=scale)


def _patches(low: float, high: float, index: int, side: int) -> int:
    """Return the number of patches along a side of a tract, from the ends and the index of one patch.

    A patch has the same border on both sides, except where it is cut off at the tract's edge. If several numbers fit,
    return the smallest, which has the smallest border; 0 if none fits. All lengths are in pixels.
    """
    exceeds = low < -0.5 or high > side + 0.5  # a patch beyond the tract's edge: patches are not cut off
    cut_low, cut_high = not exceeds and low < 0.5, not exceeds and high > side - 0.5
    for count in range(index + 1, side + 1):
        inner, rest = divmod(side, count)
        below, above = index * inner - low, high - (index + 1) * inner
        fits = (cut_low or above < below + 1) and (cut_high or below < above + 1)
        if rest == 0 and min(below, above) > -0.5 and fits:
            return count
    return 0


def outline_tract(record: Any, scale: YX[float] | None) -> Tract:
    """Return a tract as one patch, for a tract of which only the outline is needed."""
    return Tract.from_corners(record.id, _vertices(record), grid=YX(1, 1), pixel_scale=scale)


def tract_centre(record: Any) -> NDArray[np.float64]:
    """Return the unit vector ``(3,)`` to the middle of a tract."""
    middle: NDArray[np.float64] = _vertices(record).mean(axis=0)
    return middle / np.linalg.norm(middle)


def _vertices(record: Any) -> NDArray[np.float64]:
    return np.array([[v.x(), v.y(), v.z()] for v in record.region.getVertices()])
