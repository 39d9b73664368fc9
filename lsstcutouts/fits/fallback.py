"""Streams that only astropy decodes: HCOMPRESS_1 and PLIO_1.

The C code beneath astropy believes what a stream says of itself: it writes as many pixels as an HCOMPRESS stream
announces and reads as far as its bits or a PLIO list lead. So each stream is checked here, and handed over as a file of
one tile in which bytes of ones follow it.
"""

import io
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.geom import YX

from .headers import BLOCK, BadStructureError

__all__ = ["FALLBACK_COMPRESSIONS", "decode_stream"]

FALLBACK_COMPRESSIONS = ("HCOMPRESS_1", "PLIO_1")
"""Compressions that `decode_stream` knows."""

_HCOMPRESS_HEADER = 25
"""Bytes of magic number, shape, scale, sum and bit planes in front of an HCOMPRESS stream (White 1992)."""

_MOST_BIT_PLANES = 63
_PLIO_HEADER = 7
_PLIO_SET_HIGH = 1
"""The PLIO instruction that takes the word behind it along."""


def decode_stream(compression: str, stream: memoryview, shape: YX[int], smooth: int) -> NDArray[np.int32]:
    """Return the integers of a tile, row by row.

    Parameters
    ----------
    compression
        One of `FALLBACK_COMPRESSIONS`.
    stream
        Bytes of the tile in the file.
    shape
        Pixels of the tile.
    smooth
        HCOMPRESS's ``SMOOTH`` setting.

    Raises
    ------
    BadStructureError
        The stream is damaged or belongs to a tile of another shape.
    """
    padding = _hcompress_padding(stream, shape) if compression == "HCOMPRESS_1" else _plio_padding(stream)
    return _decode(_one_tile_file(compression, bytes(stream) + padding, shape, smooth))


def _decode(file: bytes) -> NDArray[np.int32]:
    """Return the only image of a file, flat."""
    import astropy.io.fits

    # What the C code raises has no public name and no base class but Exception.
    from astropy.io.fits.hdu.compressed._compression import CfitsioException

    try:
        with astropy.io.fits.open(io.BytesIO(file)) as hdus:
            data: NDArray[np.int32] = hdus[1].data.astype(np.int32).reshape(-1)
    except (CfitsioException, ValueError, TypeError, OSError) as error:
        raise BadStructureError(f"astropy: {error!r}") from error
    return data


def _hcompress_padding(stream: memoryview, shape: YX[int]) -> bytes:
    """Check the header of an HCOMPRESS stream and return bytes for all that its decoder may look for behind it."""
    if len(stream) < _HCOMPRESS_HEADER or bytes(stream[:2]) != b"\xdd\x99":
        raise BadStructureError("no HCOMPRESS stream")
    announced = int.from_bytes(stream[2:6]), int.from_bytes(stream[6:10])
    if announced != tuple(shape):
        raise BadStructureError(f"an HCOMPRESS stream of {announced[0]} x {announced[1]} pixels, the tile has {shape}")
    planes = stream[22:_HCOMPRESS_HEADER]
    if max(planes) > _MOST_BIT_PLANES:
        raise BadStructureError(f"an HCOMPRESS stream of {max(planes)} bit planes")
    # A bit plane of a quadrant is a tree of codes of up to 6 bits, a third as many as pixels and some at the edges.
    # A bit for the sign of each pixel follows.
    quadrant = math.ceil(shape.y / 2) * math.ceil(shape.x / 2)
    most = quadrant // 4 + shape.y + shape.x + 64
    return b"\xff" * (most * (planes[0] + 2 * planes[1] + planes[2]) + shape.y * shape.x // 8)


def _plio_padding(stream: memoryview) -> bytes:
    """Check that a PLIO line list ends inside its stream; nothing needs to follow."""
    words = np.frombuffer(stream[: len(stream) // 2 * 2], ">i2").astype(np.int64)
    if len(words) < _PLIO_HEADER:
        raise BadStructureError(f"a PLIO list of {len(words)} words")
    if words[2] > 0:  # the header of the oldest lists has three words
        first, stop = 3, int(words[2])
    else:
        first, stop = int(words[1]), int(words[3] + (words[4] << 15))
    if not 0 < first < stop <= len(words):
        raise BadStructureError(f"a PLIO list from word {first} to {stop} in {len(words)} words")
    if words[stop - 1] >> 12 == _PLIO_SET_HIGH:
        raise BadStructureError("a PLIO list that ends within an instruction")
    return b""


def _one_tile_file(compression: str, stream: bytes, shape: YX[int], smooth: int) -> bytes:
    """Return a FITS file whose only image is the tile."""
    element, count = ("B", len(stream)) if compression == "HCOMPRESS_1" else ("I", len(stream) // 2)
    primary = {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True}
    table: dict[str, str | int] = {
        "XTENSION": "BINTABLE",
        "BITPIX": 8,
        "NAXIS": 2,
        "NAXIS1": 8,
        "NAXIS2": 1,
        "PCOUNT": len(stream),
        "GCOUNT": 1,
        "TFIELDS": 1,
        "TTYPE1": "COMPRESSED_DATA",
        "TFORM1": f"1P{element}",
        "ZIMAGE": True,
        "ZCMPTYPE": compression,
        "ZBITPIX": 32,
        "ZNAXIS": 2,
        "ZNAXIS1": shape.x,
        "ZNAXIS2": shape.y,
        "ZTILE1": shape.x,
        "ZTILE2": shape.y,
        "ZNAME1": "SMOOTH",
        "ZVAL1": smooth,
    }
    descriptor = count.to_bytes(4) + bytes(4)
    return _header(primary) + _header(table) + _whole_blocks(descriptor + stream, b"\0")


def _header(cards: Mapping[str, str | int]) -> bytes:
    """Return a header block."""
    lines = [f"{key:<8}= {_text(value):>20}".ljust(80) for key, value in cards.items()]
    return _whole_blocks(("".join(lines) + "END").encode(), b" ")


def _text(value: str | int) -> str:
    """Return a value as it is written in a card."""
    if isinstance(value, bool):
        return "T" if value else "F"
    return f"'{value:<8}'" if isinstance(value, str) else str(value)


def _whole_blocks(data: bytes, filling: bytes) -> bytes:
    return data + filling * (-len(data) % BLOCK)
