"""Reads and decodes tiles of one plane with the codecs."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import Box
from ..source.byte_source import ByteSource, Scratch, Streams
from .codecs import decode_tiles, rice_padding
from .layout import PlaneLayout
from .stages import StageClock

__all__ = ["decode_rectangle", "decode_units", "read_streams"]


def decode_rectangle(source: ByteSource, layout: PlaneLayout, tiles: Box) -> NDArray[Any]:
    """Return the pixels ``(Y, X)`` of a rectangle in the grid of tiles."""
    numbers = _tile_numbers(layout, tiles)
    return decode_tiles(layout, tiles, numbers, read_streams(source, layout, np.array(numbers, np.int64)).views())


def decode_units(
    source: ByteSource, layout: PlaneLayout, units: Sequence[int], clock: StageClock | None = None
) -> list[NDArray[Any]]:
    """Return decoded cache units ``(Y, X)`` in the order asked for, read with as few reads as possible.

    Parameters
    ----------
    source, layout
        The file, and the plane in it.
    units
        Numbers of units.
    clock
        Adds up the time of reading and decoding.
    """
    start = time.perf_counter()
    boxes = [layout.tiles_under(layout.unit_box(unit)) for unit in units]
    numbers = [_tile_numbers(layout, tiles) for tiles in boxes]
    views = read_streams(source, layout, np.array([n for each in numbers for n in each], np.int64)).views()
    middle, at = time.perf_counter(), 0
    result: list[NDArray[Any]] = []
    for tiles, each in zip(boxes, numbers, strict=True):
        result.append(decode_tiles(layout, tiles, each, views[at : at + len(each)]))
        at += len(each)
    if clock is not None:
        clock.add("read", middle - start)
        clock.add("decode", time.perf_counter() - middle)
    return result


def read_streams(
    source: ByteSource, layout: PlaneLayout, tiles: NDArray[np.int64], scratch: Scratch | None = None
) -> Streams:
    """Read the bytes of tiles ``(k,)``."""
    padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
    return Streams(source, layout.offsets[tiles], layout.sizes[tiles], padding, scratch)


def _tile_numbers(layout: PlaneLayout, tiles: Box) -> list[int]:
    """Return the numbers of the tiles of a rectangle, row by row."""
    width = layout.tile_grid.x
    if tiles.x1 - tiles.x0 == 1:
        return list(range(tiles.y0 * width + tiles.x0, tiles.y1 * width + tiles.x0, width))
    return [y * width + x for y in range(tiles.y0, tiles.y1) for x in range(tiles.x0, tiles.x1)]
