"""Decodes tiles with the compiled kernels: the same pixels as `decode_tiles`, faster, for supported planes only."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..source.byte_source import Streams
from .codecs import MOST_FREE_PIXELS, MOST_PIXELS_PER_BYTE, dither_sequence, rice_hole
from .kernels import decode_rice
from .layout import PLAIN, PlaneLayout
from .memory import Memory
from .pixels import Unit

__all__ = ["decode_fused", "is_fused"]

_DITHERED = {"SUBTRACTIVE_DITHER_1": False, "SUBTRACTIVE_DITHER_2": True}
"""Methods that the kernel knows, and whether an integer stands for exactly zero."""


def is_fused(layout: PlaneLayout) -> bool:
    """Whether the kernel supports this plane: dithered floats in 32-bit Rice, one tile per cache unit."""
    return (
        decode_rice is not None
        and layout.compression == "RICE_1"
        and layout.rice[1] == 4
        and layout.quantisation is not None
        and layout.quantisation.method in _DITHERED
        and layout.direct
        and layout.stored == layout.dtype == np.float32
        and layout.unit_shape == layout.tile_shape
    )


def decode_fused(
    layout: PlaneLayout, tiles: NDArray[np.int64], rows: NDArray[np.int64], streams: Streams, memory: Memory
) -> list[Unit | None]:
    """Decode tiles that are cache units.

    Parameters
    ----------
    layout
        Of the plane, `is_fused`.
    tiles
        ``(K,)`` numbers.
    rows
        ``(K,)`` how many rows of each are wanted, from its first.
    streams
        Their bytes.
    memory
        What the pixels are written to.

    Returns
    -------
    list
        One unit per tile; None if `decode_tiles` must decode it, as it is stored differently or damaged.
    """
    columns = _columns(layout, tiles)
    plausible = _plausible(layout, tiles)
    units = [
        Unit.unwritten(memory, shape)
        for shape in zip(np.where(plausible, rows, 0).tolist(), columns.tolist(), strict=True)
    ]
    status = _run_kernel(layout, tiles, rows * columns * plausible, units, streams)
    for unit, code in zip(units, status.tolist(), strict=True):
        unit.finite = code == 0
    return [unit if code >= 0 else None for unit, code in zip(units, np.where(plausible, status, -1), strict=True)]


def _run_kernel(
    layout: PlaneLayout, tiles: NDArray[np.int64], counts: NDArray[np.int64], units: list[Unit], streams: Streams
) -> NDArray[np.int8]:
    """Fill the first pixels of tiles; return the kernel's status of each."""
    q = layout.quantisation
    if q is None or decode_rice is None:
        raise ValueError("the kernel does not support this plane")
    sequence, starts = _dither_arrays()
    blank = np.zeros(len(tiles), np.int64) if q.blank is None else np.broadcast_to(q.blank, len(layout.sizes))[tiles]
    status: NDArray[np.int8] = decode_rice(
        streams.addresses,
        layout.sizes[tiles].astype(np.uint64),
        np.array([unit.address for unit in units], np.uint64),
        counts,
        layout.rice[0],
        rice_hole(layout.tile_shape.y * layout.tile_shape.x, layout.rice[0], 4),
        q.scale[tiles],
        q.zero[tiles],
        sequence,
        starts,
        (tiles + (q.seed - 1)) % len(starts),
        _DITHERED[q.method],
        blank.astype(np.int64),
        q.blank is not None,
    )
    return status


def _plausible(layout: PlaneLayout, tiles: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which tiles are Rice streams that can hold so many pixels: what `decode_tiles` refuses is left to it."""
    pixels = layout.tile_shape.y * layout.tile_shape.x
    enough: NDArray[np.bool_] = MOST_PIXELS_PER_BYTE * layout.sizes[tiles] + MOST_FREE_PIXELS >= pixels
    return enough if layout.kinds is None else enough & (layout.kinds[tiles] == PLAIN)


def _columns(layout: PlaneLayout, tiles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pixels along a row of each tile; those at the right edge can be narrower."""
    step = layout.tile_shape.x
    return np.minimum(step, layout.shape.x - tiles % layout.tile_grid.x * step)


@cache
def _dither_arrays() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    sequence, starts = dither_sequence()
    return sequence, np.array(starts, np.int64)
