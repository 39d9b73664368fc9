"""How good a shuffle is: how far apart it puts neighbours, and how alike the labels of a batch are."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsstcutouts.order.blocks import Ints

__all__ = ["batch_correlation", "nearest", "neighbour_distance"]


def nearest(position: ArrayLike, group: Ints) -> NDArray[np.int64]:
    """Return ``(N,)`` the nearest other row of the same group, -1 for a row that is alone.

    Parameters
    ----------
    position
        ``(N, 2)`` pixels.
    group
        ``(N,)`` such as the patch; the cost grows with the square of its size.
    """
    yx = np.asarray(position, np.float64)
    found = np.full(len(yx), -1, np.int64)
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        if len(rows) > 1:
            squared = ((yx[rows, None] - yx[rows]) ** 2).sum(axis=2)  # (n, n)
            np.fill_diagonal(squared, np.inf)
            found[rows] = rows[squared.argmin(axis=1)]
    return found


def neighbour_distance(order: NDArray[np.int64], neighbour: NDArray[np.int64]) -> float:
    """Return the mean distance in an order between rows and their neighbours, over that of a full permutation.

    Two rows of a random permutation of ``N`` are ``(N + 1) / 3`` apart in the mean.
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    some = np.flatnonzero(neighbour >= 0)
    if not len(some):
        return 1.0
    return float(np.abs(place[some] - place[neighbour[some]]).mean() / ((len(order) + 1) / 3))


def batch_correlation(order: NDArray[np.int64], label: ArrayLike, batch_size: int) -> float:
    """Return the correlation of the labels within batches: 0 for a random permutation, 1 where a batch has one label.

    The intraclass correlation of a one-way analysis of variance (Fisher 1925, Statistical Methods for Research Workers,
    chapter VII); an incomplete last batch does not count.

    Parameters
    ----------
    label
        ``(N,)`` numbers.
    """
    values = np.asarray(label, np.float64)[order]
    count = len(values) // batch_size
    batches = values[: count * batch_size].reshape(count, batch_size)
    if count < 2 or batch_size < 2:
        return 0.0
    between = batch_size * batches.mean(axis=1).var(ddof=1)
    within = batches.var(axis=1, ddof=1).mean()
    spread = between + (batch_size - 1) * within
    return float((between - within) / spread) if spread else 0.0
