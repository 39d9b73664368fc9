"""The compressed tiles under the boxes of a sample, in memory, and decoding them and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.measured import MeasuredTargets
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.codecs import decode_tiles, rice_padding
from lsstcutouts.fits.fused import decode_fused, is_fused
from lsstcutouts.fits.layout import PlaneLayout
from lsstcutouts.fits.memory import Memory
from lsstcutouts.read.depth import Depths
from lsstcutouts.source.byte_source import Streams, open_source

__all__ = ["Compressed", "compressed_units", "decoded", "decoded_by_library"]

_AT_ONCE = 16
"""Cache units that a thread decodes at a time."""


class KeptStreams(Streams):
    """Bytes of tiles in memory that nothing overwrites.

    Parameters
    ----------
    streams
        Of each tile.
    padding
        What follows each of them.
    """

    def __init__(self, streams: Sequence[memoryview], padding: bytes) -> None:
        whole = np.frombuffer(bytearray(b"".join(bytes(one) + padding for one in streams)), np.uint8)
        self._buffer, self._address = memoryview(whole).cast("B"), int(whole.ctypes.data)
        self._sizes = np.array([len(one) for one in streams], np.int64)
        ends = np.cumsum(self._sizes + len(padding))
        self._at = ends - self._sizes - len(padding)


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """Some cache units of one plane of one file: their bytes, in memory.

    Attributes
    ----------
    patch, band, plane
        Which file (row of the plan's table of patches) and plane.
    layout
        Of the plane.
    units, rows
        Numbers of the units, and how many rows of each the boxes need, as ours decodes them where a codec can stop.
    tiles
        Numbers of each unit's tiles.
    streams
        Bytes of all tiles.
    """

    patch: int
    band: int
    plane: str
    layout: PlaneLayout
    units: NDArray[np.int64]
    rows: NDArray[np.int64]
    tiles: Sequence[Sequence[int]]
    streams: Streams


def compressed_units(sample: MeasuredTargets) -> list[Compressed]:
    """Return the bytes of exactly the cache units that a sample's boxes touch, each once."""
    depths, found = Depths(sample.plan), []
    for patch, band, _, path in sample.files():
        with open_coadd(path) as coadd:
            layouts, bbox = {plane: coadd.layout(plane) for plane in sample.planes}, coadd.bbox
        for plane, layout in layouts.items():
            rows = depths.rows(patch, bbox, layout.unit_shape)
            units = np.flatnonzero(rows)
            groups = [units[at : at + _AT_ONCE] for at in range(0, len(units), _AT_ONCE)]
            found += [_read(path, layout, (patch, band, plane), group, rows[group]) for group in groups]
    return found


def decoded(part: Compressed, memory: Memory) -> list[NDArray[Any]]:
    """Return the pixels of each unit, by the fused kernel where that knows the plane; of its first rows at least."""
    if not is_fused(part.layout):
        return decoded_by_library(part, range(len(part.units)), memory)
    made = decode_fused(part.layout, part.units, _clipped(part), part.streams, memory)
    left = [i for i, unit in enumerate(made) if unit is None]
    plain = dict(zip(left, decoded_by_library(part, left, memory) if left else [], strict=True))
    return [plain[i] if unit is None else unit.pixels for i, unit in enumerate(made)]


def _clipped(part: Compressed) -> NDArray[np.int64]:
    """Return the rows wanted of each unit, fewer at the upper edge of the plane."""
    layout = part.layout
    high = np.minimum(layout.unit_shape.y, layout.shape.y - part.units // layout.unit_grid.x * layout.unit_shape.y)
    return np.minimum(part.rows, high)


def decoded_by_library(part: Compressed, places: Iterable[int], memory: Memory) -> list[NDArray[Any]]:
    """Return the pixels of some units by imagecodecs, whole tiles."""
    layout, views = part.layout, part.streams.views()
    starts = np.cumsum([0, *(len(each) for each in part.tiles)]).tolist()
    return [
        decode_tiles(
            layout,
            layout.tiles_under(layout.unit_box(int(part.units[i]))),
            part.tiles[i],
            views[starts[i] : starts[i + 1]],
            memory.empty,
        )
        for i in places
    ]


def _read(
    path: str, layout: PlaneLayout, where: tuple[int, int, str], units: NDArray[np.int64], rows: NDArray[np.int64]
) -> Compressed:
    rectangles = [layout.tiles_under(layout.unit_box(unit)) for unit in units.tolist()]
    width = layout.tile_grid.x
    tiles = [[y * width + x for y in range(r.y0, r.y1) for x in range(r.x0, r.x1)] for r in rectangles]
    flat = np.array([tile for each in tiles for tile in each], np.int64)
    source = open_source(path)
    try:
        streams = Streams(source, layout.offsets[flat], layout.sizes[flat]).views()
        padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
        return Compressed(*where, layout, units, rows, tiles, KeptStreams(streams, padding))
    finally:
        source.close()
