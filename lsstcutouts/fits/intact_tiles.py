"""Reads the intact tiles of a damaged cache unit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..sky.geometry import Box
from .coadd import Coadd

__all__ = ["read_intact_tiles"]


def read_intact_tiles(coadd: Coadd, plane: str, unit: int) -> tuple[NDArray[Any], NDArray[np.bool_], list[ReadError]]:
    """Decode a cache unit tile by tile, skipping damaged tiles.

    Returns
    -------
    pixels
        ``(Y, X)`` of the unit; 0 in damaged tiles.
    lost
        ``(Y, X)`` bool: pixels of damaged tiles.
    errors
        One error per damaged tile.

    Raises
    ------
    ReadError
        If the plane as a whole cannot be read.
    """
    layout = coadd.layout(plane)
    box = layout.unit_box(unit)
    pixels, lost = np.zeros(box.shape, layout.dtype), np.ones(box.shape, bool)
    errors: list[ReadError] = []
    tiles = layout.tiles_under(box)
    for y in range(tiles.y0, tiles.y1):
        for x in range(tiles.x0, tiles.x1):
            part = layout.pixels_of(Box(y, y + 1, x, x + 1))
            at = part.slices(box.start)
            try:
                pixels[at] = coadd.read(plane, _shifted(part, coadd.bbox))
            except ReadError as error:
                errors.append(error)
            else:
                lost[at] = False
    return pixels, lost, errors


def _shifted(part: Box, bbox: Box) -> Box:
    """Return a box of plane pixels in tract pixels."""
    return Box(part.y0 + bbox.y0, part.y1 + bbox.y0, part.x0 + bbox.x0, part.x1 + bbox.x0)
