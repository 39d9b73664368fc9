"""Tracts from the dimension records of a Butler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SkyMapError
from ..geom import YX
from ..skymap import RingsGeometry, Tract

__all__ = ["tract_of"]


def tract_of(record: Any, patch: Any, rings: RingsGeometry | None) -> Tract:
    """Return a tract from its record; its grid of patches from the known skymap, else from one patch's record."""
    corners = _vertices(record)
    if rings is None:
        if patch is None:
            raise SkyMapError(f"tract {record.id}: the repository has no record of any of its patches")
        return Tract.from_corners(record.id, corners, grid=_grid(record.id, corners, patch))
    tract = Tract.from_corners(record.id, corners, inner=rings.inner)
    centre = rings.centre(record.id)
    away = tract.projection.sky_to_pixel(*centre)
    if max(abs(away.x - tract.projection.crpix[0]), abs(away.y - tract.projection.crpix[1])) > 0.01:
        raise SkyMapError(
            f"tract {record.id}: its record's tangent point {tract.projection.crval} is not the skymap's {centre}"
        )
    return tract


def _grid(tract: int, corners: NDArray[np.float64], patch: Any) -> YX[int]:
    """Return the number of patches of a tract: a patch's middle and its place give the size of all of them.

    The largest place among the records would not do: a subset of a repository has only some of them, and the
    skymap's own record tells only the largest grid of any tract.
    """
    whole = Tract.from_corners(tract, corners, grid=YX(1, 1))
    x, y, z = _vertices(patch).mean(axis=0)
    middle = whole.projection.sky_to_pixel(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))
    inner = YX(y=(middle.y + 0.5) / (patch.cell_y + 0.5), x=(middle.x + 0.5) / (patch.cell_x + 0.5))
    return YX(y=round(float(whole.inner.y / inner.y)), x=round(float(whole.inner.x / inner.x)))


def _vertices(record: Any) -> NDArray[np.float64]:
    return np.array([[v.x(), v.y(), v.z()] for v in record.region.getVertices()])
