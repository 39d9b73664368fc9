"""Reads and decodes tiles: with the compiled kernel if it supports the plane, otherwise with the codecs."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import Box
from ..source.byte_source import ByteSource, Streams
from .codecs import decode_tiles, rice_padding
from .fused import decode_fused, is_fused
from .layout import PlaneLayout
from .memory import Memory
from .pixels import Unit
from .stages import StageClock

__all__ = ["decode_rectangle", "decode_units"]


def decode_rectangle(source: ByteSource, layout: PlaneLayout, tiles: Box) -> NDArray[Any]:
    """Return the pixels ``(Y, X)`` of a rectangle in the grid of tiles."""
    numbers = _tile_numbers(layout, tiles)
    return decode_tiles(layout, tiles, numbers, _read_streams(source, layout, np.array(numbers, np.int64)).views())


def decode_units(
    source: ByteSource,
    layout: PlaneLayout,
    units: Sequence[int],
    rows: Sequence[int] | None = None,
    clock: StageClock | None = None,
    memory: Memory | None = None,
) -> list[Unit]:
    """Return decoded cache units in the order asked for, read with as few reads as possible.

    Parameters
    ----------
    source, layout
        The file, and the plane in it.
    units
        Numbers of units.
    rows
        How many rows of each are wanted, from its first; more may come. All of them by default.
    clock
        Adds up the time of reading and decoding.
    memory
        What the pixels are written to; fresh memory by default.
    """
    memory = memory or Memory()
    start = time.perf_counter()
    if is_fused(layout):
        numbers: list[list[int]] = []
        tiles = np.array(units, np.int64)
    else:
        numbers = [_tile_numbers(layout, layout.tiles_under(layout.unit_box(unit))) for unit in units]
        tiles = np.array([tile for each in numbers for tile in each], np.int64)
    streams = _read_streams(source, layout, tiles)
    middle = time.perf_counter()
    result = (
        _decode_with_kernel(layout, tiles, rows, streams, memory)
        if is_fused(layout)
        else _decode_with_codecs(layout, units, numbers, streams, memory)
    )
    if clock is not None:
        clock.add("read", middle - start)
        clock.add("decode", time.perf_counter() - middle)
    return result


def _decode_with_kernel(
    layout: PlaneLayout, tiles: NDArray[np.int64], rows: Sequence[int] | None, streams: Streams, memory: Memory
) -> list[Unit]:
    """Decode units of one tile each with the kernel; use `decode_tiles` for those that it does not support."""
    step = layout.tile_shape.y
    high = np.minimum(step, layout.shape.y - tiles // layout.tile_grid.x * step)
    wanted = high if rows is None else np.minimum(rows, high)
    result: list[Unit] = []
    views: list[memoryview] = []
    for i, unit in enumerate(decode_fused(layout, tiles, wanted, streams, memory)):
        if unit is None:
            views = views or streams.views()
            tile = int(tiles[i])
            result.append(
                Unit(decode_tiles(layout, layout.tiles_under(layout.unit_box(tile)), [tile], [views[i]], memory.empty))
            )
        else:
            result.append(unit)
    return result


def _decode_with_codecs(
    layout: PlaneLayout, units: Sequence[int], numbers: list[list[int]], streams: Streams, memory: Memory
) -> list[Unit]:
    views, at = streams.views(), 0
    result: list[Unit] = []
    for unit, tiles in zip(units, numbers, strict=True):
        under = layout.tiles_under(layout.unit_box(unit))
        result.append(Unit(decode_tiles(layout, under, tiles, views[at : at + len(tiles)], memory.empty)))
        at += len(tiles)
    return result


def _read_streams(source: ByteSource, layout: PlaneLayout, numbers: NDArray[np.int64]) -> Streams:
    padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
    return Streams(source, layout.offsets[numbers], layout.sizes[numbers], padding)


def _tile_numbers(layout: PlaneLayout, tiles: Box) -> list[int]:
    """Return the numbers of the tiles of a rectangle, row by row."""
    width = layout.tile_grid.x
    if tiles.x1 - tiles.x0 == 1:
        return list(range(tiles.y0 * width + tiles.x0, tiles.y1 * width + tiles.x0, width))
    return [y * width + x for y in range(tiles.y0, tiles.y1) for x in range(tiles.x0, tiles.x1)]
