"""Decodes Rice tiles with the compiled kernel, all those of several planes and files in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..source.byte_source import Streams
from .codecs import MOST_FREE_PIXELS, MOST_PIXELS_PER_BYTE, dither_sequence, rice_hole
from .kernels import decode_rice
from .layout import PLAIN, PlaneLayout, Quantisation

__all__ = ["RiceTiles", "decode_fused", "is_fused"]

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


@dataclass(frozen=True, slots=True, eq=False)
class RiceTiles:
    """Tiles of one plane, and where their pixels go.

    Attributes
    ----------
    layout
        Of the plane, `is_fused`.
    tiles
        ``(k,)`` numbers.
    rows
        ``(k,)`` how many rows of each are wanted, from its first.
    streams
        Their bytes, before `rice_padding`.
    to
        ``(k,)`` addresses of the first pixel of each, float32.
    """

    layout: PlaneLayout
    tiles: NDArray[np.int64]
    rows: NDArray[np.int64]
    streams: Streams
    to: NDArray[np.uint64]

    @property
    def quantisation(self) -> Quantisation:
        """Of the plane."""
        if self.layout.quantisation is None:
            raise ValueError("the kernel does not support this plane")
        return self.layout.quantisation

    @property
    def settings(self) -> tuple[int, int, bool, bool]:
        """What is the same for all tiles of a call: block, hole, whether there are exact zeros and NaN."""
        layout, q = self.layout, self.quantisation
        hole = rice_hole(layout.tile_shape.y * layout.tile_shape.x, layout.rice[0], 4)
        return layout.rice[0], hole, _DITHERED[q.method], q.blank is not None

    def plausible(self) -> NDArray[np.bool_]:
        """Return which are Rice streams that can hold so many pixels: what `decode_tiles` refuses is left to it."""
        layout = self.layout
        pixels = layout.tile_shape.y * layout.tile_shape.x
        enough: NDArray[np.bool_] = (
            MOST_PIXELS_PER_BYTE * layout.sizes[self.tiles].astype(np.int64) + MOST_FREE_PIXELS >= pixels
        )
        return enough if layout.kinds is None else enough & (layout.kinds[self.tiles] == PLAIN)

    def arguments(self) -> tuple[NDArray[np.generic], ...]:
        """Return what the kernel is told of each tile: bytes, length, place, pixels, scale, zero, dither, blank."""
        layout, q, tiles = self.layout, self.quantisation, self.tiles
        step = layout.tile_shape.x
        columns = np.minimum(step, layout.shape.x - tiles % layout.tile_grid.x * step)
        blank = (
            np.zeros(len(tiles), np.int64) if q.blank is None else np.broadcast_to(q.blank, len(layout.sizes))[tiles]
        )
        return (
            self.streams.addresses,
            layout.sizes[tiles].astype(np.uint64),
            self.to,
            self.rows * columns * self.plausible(),
            q.scale[tiles],
            q.zero[tiles],
            (tiles + (q.seed - 1)) % len(_dither_arrays()[1]),
            blank.astype(np.int64),
        )


def decode_fused(parts: Sequence[RiceTiles]) -> list[NDArray[np.int8]]:
    """Decode tiles, without the interpreter lock.

    Returns
    -------
    list
        Of each part ``(k,)``: 0 where every pixel is finite, 1 where some may not be, -1 where `decode_tiles` must decode the
        tile, as it is stored differently or damaged.
    """
    if decode_rice is None:
        raise ValueError("there is no kernel")
    status: list[NDArray[np.int8]] = [np.empty(0, np.int8)] * len(parts)
    by_settings: dict[tuple[int, int, bool, bool], list[int]] = {}
    for i, part in enumerate(parts):
        by_settings.setdefault(part.settings, []).append(i)
    dither, starts = _dither_arrays()
    for (block, hole, zeros, has_blank), members in by_settings.items():
        each = zip(*(parts[i].arguments() for i in members), strict=True)
        address, size, to, count, scale, zero, entry, blank = (np.concatenate(column) for column in each)
        codes = decode_rice(
            address, size, to, count, block, hole, scale, zero, dither, starts, entry, zeros, blank, has_blank
        )
        codes[count == 0] = -1
        ends = np.cumsum([len(parts[i].tiles) for i in members])
        for i, own in zip(members, np.split(codes, ends[:-1]), strict=True):
            status[i] = own
    return status


@cache
def _dither_arrays() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    sequence, starts = dither_sequence()
    return sequence, np.array(starts, np.int64)
