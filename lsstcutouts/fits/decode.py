"""Reads and decodes tiles of one plane with the codecs."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..sky.geometry import Box
from ..source.byte_source import ByteSource, LocalSource, Scratch, Streams
from .codecs import decode_tiles, rice_padding
from .kernels import read_runs
from .layout import PlaneLayout
from .stages import StageClock

__all__ = ["decode_rectangle", "decode_units", "read_together", "streams_of"]


def decode_rectangle(source: ByteSource, layout: PlaneLayout, tiles: Box) -> NDArray[Any]:
    """Return the pixels ``(Y, X)`` of a rectangle in the grid of tiles."""
    numbers = _tile_numbers(layout, tiles)
    return decode_tiles(layout, tiles, numbers, streams_of(source, layout, np.array(numbers, np.int64)).read().views())


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
    tiles = np.array([n for each in numbers for n in each], np.int64)
    views = streams_of(source, layout, tiles).read().views()
    middle, at = time.perf_counter(), 0
    result: list[NDArray[Any]] = []
    for box, each in zip(boxes, numbers, strict=True):
        result.append(decode_tiles(layout, box, each, views[at : at + len(each)]))
        at += len(each)
    if clock is not None:
        clock.add("read", middle - start)
        clock.add("decode", time.perf_counter() - middle)
    return result


def streams_of(
    source: ByteSource, layout: PlaneLayout, tiles: NDArray[np.int64], scratch: Scratch | None = None
) -> Streams:
    """Return where the bytes of tiles ``(k,)`` are; they are still to be read."""
    padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
    return Streams(source, layout.offsets[tiles], layout.sizes[tiles].astype(np.int64), padding, scratch)


def read_together(streams: Sequence[Streams]) -> list[ReadError | None]:
    """Read bytes of several files, those of local files in one call without the interpreter lock.

    Between the reads of one thread the lock would go to another one, which keeps it for as long as it has something to do.

    Returns
    -------
    list
        Why the bytes of each cannot be read.
    """
    local = [one for one in streams if isinstance(one.source, LocalSource)] if read_runs is not None else []
    got = {}
    if local and read_runs is not None:
        files = [one.source.descriptor for one in local if isinstance(one.source, LocalSource)]
        counts = [len(one.starts) for one in local]
        read = read_runs(
            np.repeat(np.array(files, np.int64), counts),
            np.concatenate([one.starts for one in local]),
            np.concatenate([one.lengths for one in local]),
            np.concatenate([one.runs for one in local]),
            np.repeat(np.array([len(one.padding) for one in local], np.int64), counts),
            np.frombuffer(max((one.padding for one in local), key=len), np.uint8),
        )
        got = dict(zip(map(id, local), np.split(read, np.cumsum(counts)[:-1]), strict=True))
    errors: list[ReadError | None] = []
    for one in streams:
        done = got.get(id(one))
        try:
            for run in range(len(one.starts)) if done is None else np.flatnonzero(done < one.lengths).tolist():
                one.read_run(run)  # says what is wrong, or finds that it was a moment's
            errors.append(None)
        except ReadError as error:
            errors.append(error)
    return errors


def _tile_numbers(layout: PlaneLayout, tiles: Box) -> list[int]:
    """Return the numbers of the tiles of a rectangle, row by row."""
    width = layout.tile_grid.x
    if tiles.x1 - tiles.x0 == 1:
        return list(range(tiles.y0 * width + tiles.x0, tiles.y1 * width + tiles.x0, width))
    return [y * width + x for y in range(tiles.y0, tiles.y1) for x in range(tiles.x0, tiles.x1)]
