"""Lanes: parts of the sky that are read in parallel, one per rank."""

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .blocks import Ints

__all__ = ["interleaved", "lane_ids", "lane_lengths"]


def lane_lengths(count: int, lanes: int) -> NDArray[np.int64]:
    """Return the number of rows of each lane, ``(lanes,)``: equal, but the first lanes may have one more.

    Raises
    ------
    ConfigurationError
        If ``lanes`` is less than 1.
    """
    if lanes < 1:
        raise ConfigurationError(f"lanes must be at least 1, got {lanes}")
    share, rest = divmod(count, lanes)
    return share + (np.arange(lanes) < rest)


def lane_ids(block: Ints, lanes: int) -> NDArray[np.int64]:
    """Return the lane of each row, ``(N,)``; a lane has neighbouring blocks, and at most ``lanes - 1`` blocks are divided.

    The lanes are the same in every epoch, so that a rank reads the same files and reuses its cached tiles.

    Parameters
    ----------
    block
        ``(N,)`` block ids from 0; ids of neighbouring blocks are close.
    """
    lane = np.empty(len(block), np.int64)
    lane[np.argsort(block, kind="stable")] = np.repeat(np.arange(lanes), lane_lengths(len(block), lanes))
    return lane


def interleaved(lane: NDArray[np.int64], lanes: int, key: NDArray[np.floating] | Ints) -> NDArray[np.int64]:
    """Return ``(N,)`` row numbers that alternate between the lanes; within each lane they are in the order of ``key``.

    Position ``p`` of the result is row ``p // lanes`` of lane ``p % lanes``.

    Parameters
    ----------
    lane
        ``(N,)`` lane of each row, with the lengths of `lane_lengths`.
    key
        ``(N,)`` sort key of each row within its lane.
    """
    if lanes == 1:
        return np.argsort(key, kind="stable").astype(np.int64)
    by_lane = np.lexsort((key, lane))
    length = lane_lengths(len(lane), lanes)
    within = np.arange(len(lane)) - np.repeat(np.cumsum(length) - length, length)  # index within the lane
    order = np.empty(len(lane), np.int64)
    order[within * lanes + lane[by_lane]] = by_lane
    return order
