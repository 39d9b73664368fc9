"""The order of the targets in an epoch."""

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .blocks import Ints
from .lanes import interleaved, lane_ids

__all__ = ["check_order", "epoch_order", "sky_order"]


def check_order(*, seed: int, epoch: int = 0, shuffle_width: int = 1) -> None:
    """Raise `ConfigurationError` for a negative seed or epoch, or a shuffle width below 1."""
    if shuffle_width < 1:
        raise ConfigurationError(f"shuffle_width must be at least 1, got {shuffle_width}")
    if seed < 0 or epoch < 0:
        raise ConfigurationError(f"seed and epoch must be at least 0, got seed={seed}, epoch={epoch}")


def sky_order(block: Ints, lanes: int = 1) -> NDArray[np.int64]:
    """Return ``(N,)`` row numbers block by block over the sky, alternating between the lanes."""
    return interleaved(lane_ids(block, lanes), lanes, block)


def epoch_order(block: Ints, *, seed: int, epoch: int, shuffle_width: int | None, lanes: int = 1) -> NDArray[np.int64]:
    """Return a random ``(N,)`` permutation of the targets that mixes about ``shuffle_width`` blocks of each lane at a time.

    The blocks of a lane are put in random order. Then each target is moved back by a random number of blocks, uniform up to
    ``shuffle_width``. So about that many blocks are read at a time, and each batch mixes them.

    Parameters
    ----------
    block
        ``(N,)`` block ids from 0.
    seed, epoch
        Seeds of the random numbers, not negative.
    shuffle_width
        At least 1; a larger value is closer to a full permutation and needs more memory. None gives a full permutation
        for any number of lanes.
    lanes
        Number of lanes, as in `lane_ids`.
    """
    check_order(seed=seed, epoch=epoch, shuffle_width=1 if shuffle_width is None else shuffle_width)
    rng = np.random.default_rng([seed, epoch])
    if shuffle_width is None:
        return rng.permutation(len(block)).astype(np.int64)
    lane = lane_ids(block, lanes)
    part, count = _parts(block, lane, lanes)
    rank = _ranks_within(lane, part, rng.permutation(count), lanes)
    return interleaved(lane, lanes, rank[part] + shuffle_width * rng.random(len(block)))


def _parts(block: Ints, lane: NDArray[np.int64], lanes: int) -> tuple[NDArray[np.int64], int]:
    """Return ``(N,)`` ids from 0 of the (lane, block) pairs, and their number."""
    if lanes == 1:
        return block.astype(np.int64), int(block.max(initial=-1)) + 1
    unique, part = np.unique(lane * (int(block.max(initial=-1)) + 1) + block, return_inverse=True)
    return part.reshape(-1).astype(np.int64), len(unique)


def _ranks_within(
    lane: NDArray[np.int64], part: NDArray[np.int64], shuffled: NDArray[np.int64], lanes: int
) -> NDArray[np.int64]:
    """Return the position of each part among the parts of its lane, in the order of ``shuffled``, ``(parts,)``."""
    if lanes == 1:
        return shuffled
    lane_of_part = np.empty(len(shuffled), np.int64)
    lane_of_part[part] = lane
    by_lane = np.lexsort((shuffled, lane_of_part))
    count = np.bincount(lane_of_part, minlength=lanes)
    ranks = np.empty(len(shuffled), np.int64)
    ranks[by_lane] = np.arange(len(shuffled)) - np.repeat(np.cumsum(count) - count, count)
    return ranks
