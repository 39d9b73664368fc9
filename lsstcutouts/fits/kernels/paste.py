"""Copies of rows between tiles and batches, all those of a plane in one call."""

from numba import int64, uint64

from .compiled import compiled, copy_bytes, fetch_ahead

__all__ = ["paste_rows"]


@compiled
def _fetch(copy, sources, widths):  # type: ignore[no-untyped-def]
    """Ask for the pixels of a copy, while the one before it is made: its rows lie too far apart for the processor."""
    k = copy[0]
    source = uint64(sources[k]) + uint64(4 * (copy[4] * widths[k] + copy[5]))
    for _ in range(copy[6]):
        for at in range(0, 4 * copy[7] + 60, 64):
            fetch_ahead(source + uint64(at))
        source += uint64(4 * widths[k])


@compiled
def paste_rows(copies, sources, widths, to, box_step, row_step):  # type: ignore[no-untyped-def]
    """Copy rectangles of 4-byte pixels from tiles to boxes.

    Parameters
    ----------
    copies
        ``(C, 8)`` int64: tile, box, first row and column in the box, first row and column in the tile, rows, columns.
    sources, widths
        ``(K,)`` uint64 addresses of the tiles, each contiguous, and int64 pixels of a row of each.
    to
        Address of the first box.
    box_step, row_step
        Bytes from one box to the next, and from one row of a box to the next.
    """
    for i in range(len(copies)):
        if i + 1 < len(copies):
            _fetch(copies[i + 1], sources, widths)
        k = copies[i, 0]
        source = uint64(sources[k]) + uint64(4 * (copies[i, 4] * widths[k] + copies[i, 5]))
        target = uint64(to) + uint64(copies[i, 1] * box_step + copies[i, 2] * row_step + 4 * copies[i, 3])
        length = int64(4 * copies[i, 7])
        for _ in range(copies[i, 6]):
            copy_bytes(target, source, length)
            source += uint64(4 * widths[k])
            target += uint64(row_step)
