"""The ceiling of everything that decodes: the codecs over the tiles under the boxes, and nothing else."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fits import PlaneLayout, open_coadd
from ..fits.codecs import decode_tiles, rice_padding
from ..fits.source import open_source, read_extents
from ..geom import Box
from .fields import Field

__all__ = ["Compressed", "bare_decode", "compressed_units", "decoded"]

_AT_ONCE = 16
"""Cache units that a thread decodes at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """Some cache units of one plane of one file: their bytes, in memory.

    Attributes
    ----------
    patch, band, plane
        Which file (row of the plan's table of patches) and plane.
    layout
        Of the plane.
    units
        Numbers of the units.
    rectangles, tiles, streams
        For each unit: its tiles as a box in the grid of tiles, their numbers and their bytes.
    """

    patch: int
    band: int
    plane: str
    layout: PlaneLayout
    units: Sequence[int]
    rectangles: Sequence[Box]
    tiles: Sequence[Sequence[int]]
    streams: Sequence[Sequence[memoryview]]


def compressed_units(field: Field) -> list[Compressed]:
    """Return the bytes of exactly the cache units that a field's boxes touch, each once."""
    plan, found = field.plan, []
    for patch, band, _, path in field.files():
        rows = field.rows[plan.primary[field.rows] == patch].tolist()
        with open_coadd(path) as coadd:
            layouts = {plane: coadd.layout(plane) for plane in field.scene.names}
            origin = coadd.bbox.start
        for plane, layout in layouts.items():
            units = sorted({u for row in rows for u in layout.units_under(field.box(row).relative_to(origin))})
            groups = [units[at : at + _AT_ONCE] for at in range(0, len(units), _AT_ONCE)]
            found += [_read(path, layout, (patch, band, plane), group) for group in groups]
    return found


def bare_decode(parts: Iterable[Compressed], threads: int) -> int:
    """Decode all parts and drop the pixels; return their number.

    Parameters
    ----------
    parts
        What to decode.
    threads
        How many decode side by side; one is the calling thread.
    """
    if threads == 1:
        return sum(map(_pixels, parts))
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_pixels, parts))


def decoded(part: Compressed) -> list[NDArray[Any]]:
    """Return the pixels of each unit."""
    made = zip(part.rectangles, part.tiles, part.streams, strict=True)
    return [decode_tiles(part.layout, *one) for one in made]


def _pixels(part: Compressed) -> int:
    return sum(unit.size for unit in decoded(part))


def _read(path: str, layout: PlaneLayout, where: tuple[int, int, str], units: Sequence[int]) -> Compressed:
    rectangles = [layout.tiles_under(layout.unit_box(unit)) for unit in units]
    width = layout.tile_grid.x
    tiles = [[y * width + x for y in range(r.y0, r.y1) for x in range(r.x0, r.x1)] for r in rectangles]
    flat = np.concatenate([np.asarray(each, np.int64) for each in tiles])
    padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
    source = open_source(path)
    try:
        streams = read_extents(source, layout.offsets[flat].tolist(), layout.sizes[flat].tolist(), padding)
    finally:
        source.close()
    ends = np.cumsum([len(each) for each in tiles]).tolist()
    by_unit = [streams[end - len(each) : end] for each, end in zip(tiles, ends, strict=True)]
    return Compressed(*where, layout, units, rectangles, tiles, by_unit)
