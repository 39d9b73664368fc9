"""Reads the intact tiles of a damaged cache unit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..sky.geometry import Box
from ..source.byte_source import ByteSource
from .decode import decode_rectangle
from .layout import PlaneLayout
from .plane_errors import PlaneErrors

__all__ = ["read_intact_tiles"]


def read_intact_tiles(
    source: ByteSource, uri: str, layout: PlaneLayout, unit: int
) -> tuple[NDArray[Any], NDArray[np.bool_], list[ReadError]]:
    """Decode a cache unit tile by tile, skipping damaged tiles.

    Returns
    -------
    pixels
        ``(Y, X)`` of the unit; 0 in damaged tiles.
    lost
        ``(Y, X)`` bool: pixels of damaged tiles.
    errors
        One error per damaged tile.
    """
    box = layout.unit_box(unit)
    pixels, lost = np.zeros(box.shape, layout.dtype), np.ones(box.shape, bool)
    errors: list[ReadError] = []
    tiles = layout.tiles_under(box)
    for y in range(tiles.y0, tiles.y1):
        for x in range(tiles.x0, tiles.x1):
            tile = Box(y, y + 1, x, x + 1)
            at = layout.pixels_of(tile).slices(box.start)
            try:
                with PlaneErrors(uri, layout.plane):
                    pixels[at] = decode_rectangle(source, layout, tile)
            except ReadError as error:
                errors.append(error)
            else:
                lost[at] = False
    return pixels, lost, errors
