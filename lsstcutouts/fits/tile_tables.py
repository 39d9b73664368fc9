"""Builds the `PlaneLayout` of a plane from its header and tile table (FITS standard 4.0, section 10.1)."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX
from ..source.byte_source import ByteSource
from .headers import BadStructureError, Cards, Hdu, UnknownFeatureError, table_column, table_dtype
from .layout import GZIPPED, PLAIN, VERBATIM, PlaneLayout, Quantisation

__all__ = ["kernel_layout", "plane_layout", "tile_table"]

COMPRESSIONS = ("NONE", "NOCOMPRESS", "GZIP_1", "GZIP_2", "RICE_1", "PLIO_1", "HCOMPRESS_1")
"""Compressions that are known: all of the standard."""

LEAST_UNIT_BYTES, UNIT_BYTES = 50_000, 200_000
"""Tiles that are smaller than the first when decoded are grouped up to the second, to one cache unit.

DP2's tiles (90 kB) stay alone, as most 64-pixel boxes would otherwise decode pixels that they do not need; 14 of
DP1's one-row tiles (190 kB) are one unit, as a 64-pixel box would otherwise cost 64 look-ups.
"""

_MOST_TILE_PIXELS = 1 << 26
_MOST_PIXELS = 1 << 32
_MOST_BYTES = 1 << 40
_LARGEST_BLOCK = 256
_MOST_KERNEL_PIXELS = 1 << 20
"""Pixels of the largest image in a cube; those of PSFs have 35 x 35."""

FLOAT_COMPRESSIONS = ("NOCOMPRESS", "GZIP_1", "GZIP_2")
"""Those that keep floats as they are; the others know integers only."""

_DITHERS = ("NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
_STORED = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


def plane_layout(plane: str, hdu: Hdu, table: bytes) -> PlaneLayout:
    """Return the layout of a plane.

    Parameters
    ----------
    plane
        Its name.
    hdu
        Its header.
    table
        Its `tile_table`.

    Raises
    ------
    BadStructureError
        Header and table contradict each other.
    UnknownFeatureError
        Planes that are not two-dimensional or of an unknown type.
    """
    cards = hdu.cards
    if cards.get("ZIMAGE") is True:
        return _compressed(plane, hdu, table, _shape(cards, "Z"))
    _check_image(hdu)
    return _uncompressed(plane, hdu)


def kernel_layout(name: str, hdu: Hdu, table: bytes) -> tuple[PlaneLayout, YX[int], YX[int]]:
    """Return the layout of a cube ``(grid y, grid x, y, x)`` of floats.

    Parameters
    ----------
    name, hdu, table
        As for `plane_layout`.

    Returns
    -------
    layout
        As if the cube were one of its images. Its tiles are those of the first image, then those of the next one.
    grid
        Rows and columns of images.
    depth
        Rows and columns of images that share their tiles; they count as one image then.

    Raises
    ------
    BadStructureError
        Header and table contradict each other.
    UnknownFeatureError
        Not four-dimensional, not of floats, or of more than `_MOST_KERNEL_PIXELS` an image.
    """
    cards, depth = hdu.cards, YX(1, 1)
    compressed = cards.get("ZIMAGE") is True
    grid, shape = _cube_shape(cards, "Z" if compressed else "")
    if compressed:
        depth = YX(
            y=min(grid.y, cards.integer("ZTILE4", 1, least=1)), x=min(grid.x, cards.integer("ZTILE3", 1, least=1))
        )
        tile, shared = _tile_shape(cards, shape), _grid(grid, depth)
        if depth.y * depth.x * tile.y * tile.x > _MOST_TILE_PIXELS:
            raise UnknownFeatureError(f"tiles of {depth.y} x {depth.x} x {tile.y} x {tile.x} pixels")
        layout = _compressed(name, hdu, table, shape, shared.y * shared.x)
    else:
        _check_image(hdu)
        layout = _uncompressed_kernels(name, hdu, grid, shape)
    if layout.stored.kind != "f":
        raise UnknownFeatureError(f"pixels of type {layout.stored}, not floats")
    return replace(layout, dtype=layout.stored), grid, depth


def tile_table(source: ByteSource, hdu: Hdu) -> bytes:
    """Return the rows of the tile table; nothing for an uncompressed plane.

    Raises
    ------
    BadStructureError
        The file ends before the pixels do, or the table is larger than its HDU.
    """
    if hdu.cut:
        raise BadStructureError(hdu.cut)
    if hdu.cards.get("ZIMAGE") is not True:
        return b""
    size = hdu.cards.integer("NAXIS1") * hdu.cards.integer("NAXIS2")
    if size > hdu.data_size:
        raise BadStructureError(f"the tile table needs {size} bytes, but its HDU has {hdu.data_size}")
    return hdu.lead if len(hdu.lead) >= size else source.read(hdu.data_at, size)


def _check_image(hdu: Hdu) -> None:
    """Raise `UnknownFeatureError` if the HDU is neither a compressed nor an uncompressed image."""
    if hdu.cards.string("XTENSION", "IMAGE") != "IMAGE":
        raise UnknownFeatureError(f"HDU {hdu.index} is a {hdu.cards.string('XTENSION')}, not an image")


def _uncompressed(plane: str, hdu: Hdu) -> PlaneLayout:
    """Return the layout of a plain image: its tiles are strips of rows that make a cache unit each."""
    cards = hdu.cards
    shape, stored = _shape(cards, ""), _stored(cards, "BITPIX")
    if shape.y * shape.x * stored.itemsize > hdu.data_size:
        raise BadStructureError(f"{shape} pixels in {hdu.data_size} bytes")
    tile = YX(max(1, min(shape.y, UNIT_BYTES // (4 * shape.x))), shape.x)
    row_bytes = shape.x * stored.itemsize
    first_rows = np.arange(_grid(shape, tile).y, dtype=np.int64) * tile.y
    offsets, sizes = hdu.data_at + first_rows * row_bytes, np.minimum(tile.y, shape.y - first_rows) * row_bytes
    return _plain(plane, hdu, shape, tile, offsets, sizes)


def _uncompressed_kernels(name: str, hdu: Hdu, grid: YX[int], shape: YX[int]) -> PlaneLayout:
    """Return the layout of a plain cube: each of its images is one tile."""
    size, count = shape.y * shape.x * _stored(hdu.cards, "BITPIX").itemsize, grid.y * grid.x
    if size * count > hdu.data_size:
        raise BadStructureError(f"{count} images need {size} bytes, but their HDU has {hdu.data_size}")
    return _plain(name, hdu, shape, shape, hdu.data_at + np.arange(count) * size, np.full(count, size))


def _plain(
    plane: str, hdu: Hdu, shape: YX[int], tile: YX[int], offsets: NDArray[np.int64], sizes: NDArray[np.int64]
) -> PlaneLayout:
    return PlaneLayout(
        **_grids(shape, tile, tile),
        **_values(hdu.cards, plane, _stored(hdu.cards, "BITPIX")),
        compression="NONE",
        offsets=offsets,
        sizes=sizes.astype(np.int32) if sizes.max(initial=0) < 1 << 31 else sizes,
        kinds=None,
        quantisation=None,
        rice=(32, 4),
        smooth=0,
        hdu=hdu.index,
    )


def _compressed(plane: str, hdu: Hdu, table: bytes, shape: YX[int], layers: int = 1) -> PlaneLayout:
    """Return the layout of a tile-compressed image, or of ``layers`` images of this shape one after the other."""
    cards = hdu.cards
    stored, tile = _stored(cards, "ZBITPIX"), _tile_shape(cards, shape)
    rows = _tile_rows(cards, table, _grid(shape, tile), layers)
    compression = {"RICE_ONE": "RICE_1"}.get(cards.string("ZCMPTYPE"), cards.string("ZCMPTYPE"))
    settings = _settings(cards, compression)
    _check_known(cards, compression, settings)
    offsets, sizes, kinds = _extents(hdu, rows)
    # How integers become floats matters only where there are any: losslessly stored tiles are floats as they are.
    quantisation = _quantisation(cards, rows, stored, compression) if (kinds == PLAIN).any() else None
    if int((offsets + sizes).max(initial=0)) > hdu.data_at + hdu.data_size:
        raise BadStructureError("tiles outside the data of their HDU")
    return PlaneLayout(
        **_grids(shape, tile, _unit_shape(shape, tile)),
        **_values(cards, plane, stored),
        compression=compression,
        offsets=offsets,
        sizes=sizes.astype(np.int32) if sizes.max(initial=0) < 1 << 31 else sizes,
        kinds=kinds if kinds.any() else None,
        quantisation=quantisation,
        rice=(settings["BLOCKSIZE"], settings["BYTEPIX"]),
        smooth=settings["SMOOTH"],
        hdu=hdu.index,
    )


def _check_known(cards: Cards, compression: str, settings: dict[str, int]) -> None:
    """Raise `UnknownFeatureError` for codings without a decoder."""
    if compression not in COMPRESSIONS:
        raise UnknownFeatureError(f"compression {compression or cards.get('ZCMPTYPE')!r}")
    # The elements of a PLIO list are words; streams of the others are bytes, whatever astropy would make of words.
    if _element_size(cards, "COMPRESSED_DATA") != (2 if compression == "PLIO_1" else 1):
        raise UnknownFeatureError(f"{compression} data in elements of {_element_size(cards, 'COMPRESSED_DATA')} bytes")
    block, width = settings["BLOCKSIZE"], settings["BYTEPIX"]
    if compression == "RICE_1" and (width not in (1, 2, 4) or not 1 <= block <= _LARGEST_BLOCK):
        raise UnknownFeatureError(f"RICE_1 with BLOCKSIZE {block} and BYTEPIX {width}")


def _tile_shape(cards: Cards, shape: YX[int]) -> YX[int]:
    """Return the shape of a tile: a row unless the header says otherwise."""
    tile = YX(
        y=min(shape.y, cards.integer("ZTILE2", 1, least=1)), x=min(shape.x, cards.integer("ZTILE1", shape.x, least=1))
    )
    if tile.y * tile.x > _MOST_TILE_PIXELS:
        raise UnknownFeatureError(f"tiles of {tile.y} x {tile.x} pixels")
    return tile


def _tile_rows(cards: Cards, table: bytes, grid: YX[int], layers: int) -> NDArray[np.void]:
    """Return the rows of the tile table, one for each tile."""
    tiles = layers * grid.y * grid.x
    if tiles != cards.integer("NAXIS2"):
        raise BadStructureError(f"{cards.get('NAXIS2')} table rows for {layers} x {grid.y} x {grid.x} tiles")
    return np.frombuffer(table, table_dtype(cards), tiles)


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
        # astropy reads the second of the two columns only if the first does not exist.
        empty = (sizes == 0) & (kinds == PLAIN)
        if name in _names(rows) and empty.any():
            other = _descriptors(rows, name)
            sizes[empty] = other[empty, 0] * _element_size(cards, name)
            offsets[empty] = other[empty, 1]
            kinds[empty & (sizes > 0)] = kind
    # Tiles may share a stream, as IRAF writes equal lines of a mask; they do not overlap.
    if int(sizes.sum()) > hdu.data_size:
        total = int(np.unique(np.stack([offsets, sizes]), axis=1)[1].sum())
        if total > hdu.data_size:
            raise BadStructureError(f"the tiles need {total} bytes, but their HDU has {hdu.data_size}")
    return heap + offsets, sizes, kinds


def _descriptors(rows: NDArray[np.void], name: str) -> NDArray[np.int64]:
    """Return the (number of elements, byte in the heap) pairs of a variable-length column, (n, 2)."""
    pairs: NDArray[np.int64] = table_column(rows, name, "i", 2).astype(np.int64)
    if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) <= _MOST_BYTES:
        raise BadStructureError(f"column {name} has a tile with an impossible size or offset")
    return pairs


def _quantisation(cards: Cards, rows: NDArray[np.void], stored: np.dtype[Any], compression: str) -> Quantisation | None:
    """Return how floats are quantised, None where they are not."""
    if stored.kind != "f" or not ("ZSCALE" in _names(rows) or "ZSCALE" in cards):
        if "ZBLANK" in _names(rows):
            raise UnknownFeatureError("a ZBLANK column in a plane that is not quantised")
        return None
    method, scale, zero = (
        cards.string("ZQUANTIZ", "NO_DITHER"),
        *(_per_tile(cards, rows, n) for n in ("ZSCALE", "ZZERO")),
    )
    if method == "NONE":
        # cfitsio's word for floats that are compressed losslessly: a scale in the header is of no use. Where each tile
        # has one, astropy 8.0 takes the bytes for integers, and cfitsio 4.6 for floats that are to be scaled.
        left_over = "ZSCALE" not in _names(rows) or bool((scale == 1).all() and (zero == 0).all())
        if compression in FLOAT_COMPRESSIONS and left_over:
            return None
        raise UnknownFeatureError(
            "ZQUANTIZ is 'NONE', but tiles are scaled by ZSCALE: readers of FITS give different pixels"
        )
    if method not in _DITHERS:
        raise UnknownFeatureError(f"quantisation {method!r}")
    # Without the seed, cfitsio 4.6 and astropy 8.0 take different ones; with one below 1, they read outside their table.
    if method != "NO_DITHER" and "ZDITHER0" not in cards:
        raise UnknownFeatureError(f"{method} without the seed, ZDITHER0: readers of FITS give different pixels")
    blank: int | NDArray[np.int64] | None = None
    if "ZBLANK" in _names(rows):
        blank = table_column(rows, "ZBLANK", "iu").astype(np.int64)
    elif "ZBLANK" in cards or "BLANK" in cards:
        blank = cards.integer("ZBLANK" if "ZBLANK" in cards else "BLANK", least=-(2**62))
    return Quantisation(
        method=method,
        seed=1 if method == "NO_DITHER" else cards.integer("ZDITHER0", least=1),
        scale=scale,
        zero=zero,
        blank=blank,
    )


def _per_tile(cards: Cards, rows: NDArray[np.void], name: str) -> NDArray[np.float64]:
    """Return a column, or the keyword that stands for one with equal values."""
    if name in _names(rows):
        return table_column(rows, name, "f").astype(np.float64)
    return np.full(len(rows), float(cards.number(name, 0.0)))


def _settings(cards: Cards, compression: str) -> dict[str, int]:
    """Return the settings of the coder (``ZNAMEi`` and ``ZVALi``), or what the standard says where there are none."""
    needed = {"RICE_1": {"BLOCKSIZE", "BYTEPIX"}, "HCOMPRESS_1": {"SMOOTH"}}.get(compression, set())
    settings = {"BLOCKSIZE": 32, "BYTEPIX": 4, "SMOOTH": 0}
    for n in range(1, 1000):
        if f"ZNAME{n}" not in cards:
            break
        name = cards.string(f"ZNAME{n}").upper()
        if name in needed:
            value = cards.get(f"ZVAL{n}")
            if isinstance(value, bool):  # as SMOOTH may be
                settings[name] = int(value)
            else:
                settings[name] = cards.integer(f"ZVAL{n}", least=-(2**31), most=2**31 - 1)
    return settings


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
    compressed = cards.get("ZIMAGE") is True
    blank, keys = None, ("BLANK", "ZBLANK") if compressed else ("BLANK",)
    if plane != "mask" and stored.kind in "iu" and (key := next((key for key in keys if key in cards), None)):
        blank = cards.integer(key, least=-(2**62))
    bscale = float(cards.number("BSCALE", 1.0))
    return {
        "plane": plane,
        "dtype": _dtype(plane, stored),
        "stored": stored,
        # A compressed image with BSCALE 0 keeps its pixels, as in astropy; a plain one is BZERO everywhere, by the standard.
        "bscale": bscale if bscale or not compressed else 1.0,
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


def _cube_shape(cards: Cards, prefix: str) -> tuple[YX[int], YX[int]]:
    """Return the grid of a four-dimensional cube of small images, and the shape of one."""
    if cards.integer(f"{prefix}NAXIS", most=999) != 4:
        raise UnknownFeatureError(f"an array of {cards.get(f'{prefix}NAXIS')} dimensions, not four")
    x, y, columns, rows = (cards.integer(f"{prefix}NAXIS{n}", least=1) for n in range(1, 5))
    if y * x > _MOST_KERNEL_PIXELS or rows * columns > _MOST_PIXELS:
        raise UnknownFeatureError(f"an array of {rows} x {columns} x {y} x {x} pixels")
    return YX(rows, columns), YX(y, x)


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
