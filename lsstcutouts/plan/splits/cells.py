"""Neighbours in a grid of cells, without a table of all pairs."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["neighbours"]

_CHUNK = 4_000_000
"""Pairs that are made at a time."""


def neighbours(
    cells: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield rows of pairs whose cells are the same or touch, in some millions at a time.

    Parameters
    ----------
    cells, others
        ``(N, 1 + D)`` and ``(M, 1 + D)``: a number that must be the same, and the cell in ``D`` dimensions.
    """
    low = np.minimum(cells.min(axis=0, initial=0), others.min(axis=0, initial=0))
    span = np.maximum(cells.max(axis=0, initial=0), others.max(axis=0, initial=0)) - low + 3
    factor = np.append(np.cumprod(span[:0:-1])[::-1], 1)  # of each column in one number
    keys, keys_of_others = ((c - low + 1) @ factor for c in (cells, others))
    by_key = np.argsort(keys_of_others, kind="stable")
    ascending = keys_of_others[by_key]
    for step in product((-1, 0, 1), repeat=cells.shape[1] - 1):
        wanted = keys + int(np.asarray(step) @ factor[1:])
        start = np.searchsorted(ascending, wanted, side="left")
        count = np.searchsorted(ascending, wanted, side="right") - start
        yield from _expanded(start, count, by_key)


def _expanded(
    start: NDArray[np.int64], count: NDArray[np.int64], by_key: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each row with each of its ``count`` partners, which follow ``start`` in ``by_key``."""
    rows = np.flatnonzero(count)
    ends = np.cumsum(count[rows])
    for part in np.split(rows, np.searchsorted(ends, np.arange(_CHUNK, int(ends[-1]) if len(ends) else 0, _CHUNK))):
        if len(part):
            mine = np.repeat(part, count[part])
            within = np.arange(len(mine)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
            yield mine, by_key[np.repeat(start[part], count[part]) + within]
