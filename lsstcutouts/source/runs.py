"""Groups neighbouring extents of a file into runs that are read at once."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["runs_of"]


def runs_of(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], gap: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the first byte of each run ``(r,)``, the byte after its last, and the run of each extent ``(n,)``.

    Parameters
    ----------
    offsets, sizes
        ``(n,)`` extents in bytes, in any order.
    gap
        Extents that are at most so many bytes apart are in one run.
    most
        A run of more bytes is divided, between extents.
    """
    order = np.argsort(offsets, kind="stable")
    start = offsets[order]
    stop = np.maximum.accumulate(start + sizes[order])
    head = np.ones(len(order), bool)
    np.greater(start[1:] - stop[:-1], gap, out=head[1:])
    if len(order) and stop[-1] - start[0] > most:
        head[1:] |= start[1:] // most > start[:-1] // most
    run = np.empty(len(order), np.int64)
    run[order] = head.cumsum() - 1
    last = np.ones(len(order), bool)
    last[:-1] = head[1:]
    return start[head], stop[last], run
