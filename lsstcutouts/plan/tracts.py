"""Tracts from the dimension records of a Butler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SkyMapError
from ..sky.geometry import YX
from ..sky.skymap import RingsGeometry, Tract

__all__ = ["known_tract", "outline_tract", "tract_centre", "tract_from_records"]


def known_tract(record: Any, rings: RingsGeometry) -> Tract:
    """Return a tract of a known skymap from its record.

    Raises
    ------
    SkyMapError
        If the record is not what the skymap says.
    """
    scale = YX(rings.pixel_scale, rings.pixel_scale)
    tract = Tract.from_corners(record.id, _vertices(record), inner=rings.inner, pixel_scale=scale)
    centre = rings.centre(record.id)
    away = tract.projection.sky_to_pixel(*centre)
    if max(abs(away.x - tract.projection.crpix[0]), abs(away.y - tract.projection.crpix[1])) > 0.01:
        raise SkyMapError(
            f"tract {record.id}: its record's tangent point {tract.projection.crval} is not the skymap's {centre}"
        )
    return tract


def tract_from_records(record: Any, patch: Any, scale: YX[float] | None) -> Tract:
    """Return a tract from its record; its grid of patches from the record of one patch.

    The largest place among the patch records would not do for the grid: a subset of a repository has only some of them,
    and the skymap's own record tells only the largest grid of any tract.

    Parameters
    ----------
    record, patch
        Dimension records; of the tract's patches the one with the highest place that there is.
    scale
        Arcseconds a pixel, of a file; None where no file can be read.

    Raises
    ------
    SkyMapError
        If they do not fit together.
    """
    if patch is None:
        raise SkyMapError(f"tract {record.id}: the repository has no record of any of its patches")
    corners = _vertices(record)
    unit = Tract.from_corners(record.id, corners, grid=YX(1, 1), pixel_scale=scale)
    x, y, z = _vertices(patch).T
    edge = unit.projection.sky_to_pixel(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))
    place = YX(patch.cell_y, patch.cell_x)
    ends = (YX(float(e.min()) + 0.5, float(e.max()) + 0.5) for e in edge)
    grid = YX(*(_patches(*end, n, side) for end, n, side in zip(ends, place, unit.inner, strict=True)))
    if 0 in grid:
        raise SkyMapError(
            f"tract {record.id}: its {unit.inner.y} x {unit.inner.x} px cannot be divided into patches such as patch {patch.id}"
        )
    return Tract.from_corners(record.id, corners, grid=grid, pixel_scale=scale)


def _patches(low: float, high: float, place: int, side: int) -> int:
    """Return the number of patches along a side of a tract, from where one patch begins and ends and its place.

    A patch reaches equally far beyond both ends of its inner region, except where it is cut off at the tract's edge.
    Where that leaves a choice, the fewest patches, which have the smallest border; 0 where nothing fits.
    """
    leaves = low < -0.5 or high > side + 0.5  # then nothing is cut off anywhere
    cut_low, cut_high = not leaves and low < 0.5, not leaves and high > side - 0.5
    for count in range(place + 1, side + 1):
        inner, rest = divmod(side, count)
        below, above = place * inner - low, high - (place + 1) * inner
        fits = (cut_low or above < below + 1) and (cut_high or below < above + 1)
        if rest == 0 and min(below, above) > -0.5 and fits:
            return count
    return 0


def outline_tract(record: Any, scale: YX[float] | None) -> Tract:
    """Return a tract of which only the outline matters, as one patch."""
    return Tract.from_corners(record.id, _vertices(record), grid=YX(1, 1), pixel_scale=scale)


def tract_centre(record: Any) -> NDArray[np.float64]:
    """Return the ``(3,)`` unit vector to the middle of a tract."""
    middle: NDArray[np.float64] = _vertices(record).mean(axis=0)
    return middle / np.linalg.norm(middle)


def _vertices(record: Any) -> NDArray[np.float64]:
    return np.array([[v.x(), v.y(), v.z()] for v in record.region.getVertices()])
