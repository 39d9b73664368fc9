"""From a plane's header and tile table to its `PlaneLayout` (FITS standard 4.0, section 10.1)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.geom import YX

from .headers import BadStructureError, Cards, Hdu, UnknownFeatureError, table_dtype
from .layout import GZIPPED, PLAIN, VERBATIM, PlaneLayout, Quantisation

__all__ = ["plane_layout", "table_size"]

FAST_COMPRESSIONS = ("NONE", "NOCOMPRESS", "GZIP_1", "GZIP_2", "RICE_1")
"""Compressions with a decoder here; others go to astropy."""

LEAST_UNIT_BYTES, UNIT_BYTES = 50_000, 200_000
"""Tiles that are smaller than the first when decoded are grouped up to the second, to one cache unit.

DP2's tiles (90 kB) stay alone, as most 64-pixel boxes would otherwise decode pixels that they do not need; 14 of
DP1's one-row tiles (190 kB) are one unit, as a 64-pixel box would otherwise cost 64 look-ups.
"""

_MOST_TILE_PIXELS = 1 << 26
_MOST_PIXELS = 1 << 40
_DITHERS = ("NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
_STORED = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


def plane_layout(plane: str, hdu: Hdu, table: bytes, file_size: int) -> PlaneLayout:
    """Return the layout of a plane.

    Parameters
    ----------
    plane
        Its name.
    hdu
        Its header.
    table
        The rows of its tile table, `table_size` bytes; nothing for an uncompressed plane.
    file_size
        Bytes of the file, which no tile may exceed.

    Raises
    ------
    BadStructureError
        Header and table contradict each other or the file's size.
    UnknownFeatureError
        Planes that are not two-dimensional or of an unknown type.
    """
    cards = hdu.cards
    if cards.get("ZIMAGE") is True:
        return _compressed(plane, hdu, table, file_size)
    if cards.string("XTENSION", "IMAGE") != "IMAGE":
        raise UnknownFeatureError(f"HDU {hdu.index} is a {cards.string('XTENSION')}, not an image")
    return _uncompressed(plane, hdu)


def table_size(hdu: Hdu) -> int:
    """Return the bytes of the tile table's rows; 0 for an uncompressed plane."""
    if hdu.cards.get("ZIMAGE") is not True:
        return 0
    size = hdu.cards.integer("NAXIS1") * hdu.cards.integer("NAXIS2")
    if size > hdu.data_size:
        raise BadStructureError(f"a tile table of {size} bytes in {hdu.data_size}")
    return size


def _uncompressed(plane: str, hdu: Hdu) -> PlaneLayout:
    """Return the layout of a plain image: its tiles are strips of rows that make a cache unit each."""
    cards = hdu.cards
    shape, stored = _shape(cards, ""), _stored(cards, "BITPIX")
    tile = YX(max(1, min(shape.y, UNIT_BYTES // (4 * shape.x))), shape.x)
    row_bytes = shape.x * stored.itemsize
    first_rows = np.arange(_grid(shape, tile).y, dtype=np.int64) * tile.y
    return PlaneLayout(
        **_grids(shape, tile, tile),
        **_values(cards, plane, stored),
        compression="NONE",
        offsets=hdu.data_at + first_rows * row_bytes,
        sizes=np.minimum(tile.y, shape.y - first_rows) * row_bytes,
        kinds=None,
        quantisation=None,
        rice=(32, 4),
        hdu=hdu.index,
        fallback=False,
    )


def _compressed(plane: str, hdu: Hdu, table: bytes, file_size: int) -> PlaneLayout:
    """Return the layout of a tile-compressed image."""
    cards = hdu.cards
    shape, stored = _shape(cards, "Z"), _stored(cards, "ZBITPIX")
    tile = _tile_shape(cards, shape)
    rows = _tile_rows(cards, table, _grid(shape, tile))
    quantisation = _quantisation(cards, rows, stored)
    compression = {"RICE_ONE": "RICE_1"}.get(cards.string("ZCMPTYPE"), cards.string("ZCMPTYPE"))
    rice = _rice(cards)
    offsets, sizes, kinds = _extents(hdu, rows)
    if int((offsets + sizes).max(initial=0)) > min(file_size, hdu.data_at + hdu.data_size):
        raise BadStructureError("tiles outside the data of their HDU")
    return PlaneLayout(
        **_grids(shape, tile, _unit_shape(shape, tile)),
        **_values(cards, plane, stored),
        compression=compression,
        offsets=offsets,
        sizes=sizes,
        kinds=kinds if kinds.any() else None,
        quantisation=quantisation,
        rice=rice,
        hdu=hdu.index,
        fallback=(
            compression not in FAST_COMPRESSIONS
            or _element_size(cards, "COMPRESSED_DATA") != 1
            or (quantisation is not None and quantisation.method not in _DITHERS)
            or (quantisation is None and "ZBLANK" in _names(rows))
            or (compression == "RICE_1" and (rice[1] not in (1, 2, 4) or not 1 <= rice[0] <= 256))
        ),
    )


def _tile_shape(cards: Cards, shape: YX[int]) -> YX[int]:
    """Return the shape of a tile: a row unless the header says otherwise."""
    tile = YX(
        y=min(shape.y, cards.integer("ZTILE2", 1, least=1)), x=min(shape.x, cards.integer("ZTILE1", shape.x, least=1))
    )
    if tile.y * tile.x > _MOST_TILE_PIXELS:
        raise UnknownFeatureError(f"tiles of {tile.y} x {tile.x} pixels")
    return tile


def _tile_rows(cards: Cards, table: bytes, grid: YX[int]) -> NDArray[np.void]:
    """Return the rows of the tile table, one for each tile."""
    if grid.y * grid.x != cards.integer("NAXIS2"):
        raise BadStructureError(f"{cards.get('NAXIS2')} table rows for {grid.y} x {grid.x} tiles")
    return np.frombuffer(table, table_dtype(cards), grid.y * grid.x)


def _names(rows: NDArray[np.void]) -> tuple[str, ...]:
    """Return the names of a table's columns."""
    return rows.dtype.names or ()


def _extents(hdu: Hdu, rows: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Return first byte, number of bytes and kind of every tile."""
    cards = hdu.cards
    heap = hdu.data_at + cards.integer("THEAP", cards.integer("NAXIS1") * cards.integer("NAXIS2"))
    if "COMPRESSED_DATA" not in _names(rows):
        raise BadStructureError("a compressed image without a COMPRESSED_DATA column")
    pairs = _descriptors(rows, "COMPRESSED_DATA")
    sizes, offsets = pairs[:, 0] * _element_size(cards, "COMPRESSED_DATA"), pairs[:, 1].copy()
    kinds = np.zeros(len(rows), np.uint8)
    for kind, name in ((GZIPPED, "GZIP_COMPRESSED_DATA"), (VERBATIM, "UNCOMPRESSED_DATA")):
        # astropy looks into the second of the two columns only when the first is not there.
        empty = (sizes == 0) & (kinds == PLAIN)
        if name in _names(rows) and empty.any():
            other = _descriptors(rows, name)
            sizes[empty] = other[empty, 0] * _element_size(cards, name)
            offsets[empty] = other[empty, 1]
            kinds[empty & (sizes > 0)] = kind
    if int(sizes.min(initial=0)) < 0 or int(offsets.min(initial=0)) < 0:
        raise BadStructureError("a tile with a negative size or place")
    return heap + offsets, sizes, kinds


def _descriptors(rows: NDArray[np.void], name: str) -> NDArray[np.int64]:
    """Return the (number of elements, byte in the heap) pairs of a variable-length column, (n, 2)."""
    pairs: NDArray[np.int64] = rows[name].astype(np.int64)
    if pairs.shape != (len(rows), 2):
        raise BadStructureError(f"column {name} is no column of variable length")
    return pairs


def _quantisation(cards: Cards, rows: NDArray[np.void], stored: np.dtype[Any]) -> Quantisation | None:
    """Return how floats are quantised, None where they are not."""
    if stored.kind != "f" or not ("ZSCALE" in _names(rows) or "ZSCALE" in cards):
        return None
    blank: int | NDArray[np.int64] | None = None
    if "ZBLANK" in _names(rows):
        blank = rows["ZBLANK"].astype(np.int64)
    elif "ZBLANK" in cards or "BLANK" in cards:
        blank = cards.integer("ZBLANK" if "ZBLANK" in cards else "BLANK", least=-(2**62))
    return Quantisation(
        method=cards.string("ZQUANTIZ", "NO_DITHER"),
        seed=cards.integer("ZDITHER0", 0, least=-(2**31)),
        scale=_per_tile(cards, rows, "ZSCALE"),
        zero=_per_tile(cards, rows, "ZZERO"),
        blank=blank,
    )


def _per_tile(cards: Cards, rows: NDArray[np.void], name: str) -> NDArray[np.float64]:
    """Return a column, or the keyword that stands for one with equal values."""
    if name in _names(rows):
        return rows[name].astype(np.float64)
    return np.full(len(rows), cards.number(name, 0.0))


def _rice(cards: Cards) -> tuple[int, int]:
    """Return block size and bytes a pixel of the Rice coder (``ZNAMEi`` and ``ZVALi``)."""
    settings = {"BLOCKSIZE": 32, "BYTEPIX": 4}
    for n in range(1, 1000):
        if f"ZNAME{n}" not in cards:
            break
        name = cards.string(f"ZNAME{n}").upper()
        if name in settings:
            settings[name] = cards.integer(f"ZVAL{n}", least=-(2**31), most=2**31)
    return settings["BLOCKSIZE"], settings["BYTEPIX"]


def _element_size(cards: Cards, column: str) -> int:
    """Return the bytes of an element of a variable-length column."""
    for n in range(1, cards.integer("TFIELDS", most=999) + 1):
        if cards.string(f"TTYPE{n}").upper() == column:
            code = cards.string(f"TFORM{n}").lstrip("01")[1:2]
            return {"B": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8}.get(code, 1)
    return 1


def _grids(shape: YX[int], tile: YX[int], unit: YX[int]) -> dict[str, Any]:
    """Return the fields of a layout that say how the plane is divided."""
    return {
        "shape": shape,
        "tile_shape": tile,
        "tile_grid": _grid(shape, tile),
        "unit_shape": unit,
        "unit_grid": _grid(shape, unit),
    }


def _values(cards: Cards, plane: str, stored: np.dtype[Any]) -> dict[str, Any]:
    """Return the fields of a layout that say what stored values mean."""
    blank = None
    if plane != "mask" and stored.kind in "iu" and ("BLANK" in cards or "ZBLANK" in cards):
        blank = cards.integer("BLANK" if "BLANK" in cards else "ZBLANK", least=-(2**62))
    return {
        "plane": plane,
        "dtype": _dtype(plane, stored),
        "stored": stored,
        "bscale": float(cards.number("BSCALE", 1.0)),
        "bzero": float(cards.number("BZERO", 0.0)),
        "blank": blank,
    }


def _shape(cards: Cards, prefix: str) -> YX[int]:
    """Return the shape of a two-dimensional image."""
    if cards.integer(f"{prefix}NAXIS", most=999) != 2:
        raise UnknownFeatureError(f"an image of {cards.get(f'{prefix}NAXIS')} dimensions, not two")
    shape = YX(y=cards.integer(f"{prefix}NAXIS2"), x=cards.integer(f"{prefix}NAXIS1"))
    if shape.y * shape.x == 0 or shape.y * shape.x > _MOST_PIXELS:
        raise UnknownFeatureError(f"an image of {shape.y} x {shape.x} pixels")
    return shape


def _stored(cards: Cards, key: str) -> np.dtype[Any]:
    """Return the type of stored pixels."""
    bitpix = cards.integer(key, least=-64, most=64)
    if bitpix not in _STORED:
        raise BadStructureError(f"header keyword {key} is {bitpix}")
    return np.dtype(_STORED[bitpix])


def _dtype(plane: str, stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that is delivered."""
    if plane != "mask":
        return np.dtype(np.float32)
    if stored.kind == "f" or stored.itemsize > 4:
        raise UnknownFeatureError(f"mask pixels of type {stored}")
    return np.dtype(np.int32)


def _unit_shape(shape: YX[int], tile: YX[int]) -> YX[int]:
    """Return the pixels of a cache unit: tiles grouped to a shape as square as `UNIT_BYTES` allows."""
    y, x = tile
    if 4 * y * x >= LEAST_UNIT_BYTES:
        return tile
    while True:
        taller, wider = (y + tile.y, x), (y, x + tile.x)
        order = (taller, wider) if y <= x else (wider, taller)
        for new_y, new_x in order:
            grows = (new_y == y or y < shape.y) and (new_x == x or x < shape.x)
            if grows and 4 * new_y * new_x <= UNIT_BYTES:
                y, x = new_y, new_x
                break
        else:
            return YX(min(y, shape.y), min(x, shape.x))


def _grid(shape: YX[int], cell: YX[int]) -> YX[int]:
    """Return how many cells cover a shape."""
    return YX(-(-shape.y // cell.y), -(-shape.x // cell.x))
