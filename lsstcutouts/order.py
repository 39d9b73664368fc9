"""The order of an epoch, its batches, shards and splits: arrays in, arrays out.

Nothing here reads a clock, a machine's size or global random state: each result is a pure function of its
arguments, so that every rank, worker and resumed run computes the same one.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ConfigurationError

__all__ = ["DEFAULT_SHUFFLE_WIDTH", "Share", "batch_bounds", "block_ids", "check_order", "epoch_order", "split_groups"]

type Ints = NDArray[np.integer]

DEFAULT_SHUFFLE_WIDTH = 32
"""Blocks open at once. The working set of the cache is about this many blocks of every band.

With blocks of 750 px (13.5 MB in six bands), 500 targets a DP2 patch and boxes of 64 px, a cache of 0.5 GB decodes
1.18 times the distinct tiles in an epoch over 40 patches (10 GB of tiles), for widths 8, 16 and 32 alike; a cache of
4 GB 1.06 times."""


class Share(NamedTuple):
    """Which part of each global batch a process reads: ``rank`` of ``world_size``."""

    rank: int = 0
    world_size: int = 1


def block_ids(group: Ints, position: Ints, block_shape: ArrayLike) -> NDArray[np.int64]:
    """Return dense ids of the locality block of each target.

    Parameters
    ----------
    group
        ``(N,)`` integers that never share a block: the primary patch.
    position
        ``(N, 2)`` pixels ``(y, x)`` from the group's own origin.
    block_shape
        Rows and columns of a block, pixels.
    """
    cell = np.asarray(position, np.int64) // np.asarray(block_shape, np.int64)  # (N, 2)
    cell -= cell.min(axis=0, initial=0)
    rows, columns = (cell.max(axis=0, initial=0) + 1).tolist()
    # One integer a target: sorting triples would take forty times as long.
    keys = (np.asarray(group, np.int64) * rows + cell[:, 0]) * columns + cell[:, 1]
    _, ids = np.unique(keys, return_inverse=True)
    return ids.reshape(-1).astype(np.int64)


def check_order(*, seed: int, epoch: int = 0, shuffle_width: int = 1) -> None:
    """Raise `ConfigurationError` for arguments that no order can have."""
    if shuffle_width < 1:
        raise ConfigurationError(f"shuffle_width must be at least 1, got {shuffle_width}")
    if seed < 0 or epoch < 0:
        raise ConfigurationError(f"seed and epoch cannot be negative, got seed={seed}, epoch={epoch}")


def epoch_order(block: Ints, *, seed: int, epoch: int, shuffle_width: int) -> NDArray[np.int64]:
    """Return a permutation of the targets that stays within about ``shuffle_width`` blocks at a time.

    Blocks are put in random order; each target is then moved back by up to ``shuffle_width`` places among
    the blocks, uniformly, so that at any time about that many blocks are being read and a batch mixes them.

    Parameters
    ----------
    block
        ``(N,)`` dense block ids.
    seed, epoch
        Together they seed the generator; neither may be negative.
    shuffle_width
        At least 1; the larger, the closer to a full permutation and the larger the working set.
    """
    check_order(seed=seed, epoch=epoch, shuffle_width=shuffle_width)
    rng = np.random.default_rng([seed, epoch])
    rank = rng.permutation(int(block.max(initial=-1)) + 1)
    key = rank[block] + shuffle_width * rng.random(len(block))
    return np.argsort(key, kind="stable").astype(np.int64)


def batch_bounds(count: int, batch_size: int, share: Share = Share(0, 1)) -> NDArray[np.int64]:
    """Return ``(steps, 2)`` half-open ranges of the epoch's order, one a step of this process.

    ``batch_size`` is what one process gets a step. Each global batch of ``batch_size * world_size`` rows is
    cut into equal consecutive parts; the last one as evenly as possible, so every rank takes the same
    number of steps and no row is given twice or lost.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
    whole = batch_size * share.world_size
    start = np.arange(0, count, whole, dtype=np.int64)
    length = np.minimum(whole, count - start)
    low = start + length * share.rank // share.world_size
    high = start + length * (share.rank + 1) // share.world_size
    return np.column_stack([low, high])


def split_groups(group: NDArray[np.str_], fractions: Mapping[str, float], *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Deal whole groups of targets to named splits, close to the asked fractions of all targets.

    Parameters
    ----------
    group
        ``(N,)`` names of the groups, such as ``"5063/15"``; a group is never divided.
    fractions
        Split name to its share of the targets; the shares must add up to 1.
    seed
        Chooses which groups go where, independent of the order of the rows.

    Returns
    -------
    dict
        Split name to ascending row numbers; each row is in exactly one split.
    """
    if any(not 0 <= f <= 1 for f in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigurationError(f"the fractions of the splits must lie in 0..1 and add up to 1, got {dict(fractions)}")
    names, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    dealt = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())
    wanted = {name: share * len(group) for name, share in fractions.items()}
    home = np.empty(len(names), np.int64)
    splits = list(fractions)
    for i in dealt:
        # The split that lacks most rows takes the next group, which keeps every share within one group's size.
        neediest = max(splits, key=lambda name: wanted[name])
        home[i] = splits.index(neediest)
        wanted[neediest] -= counts[i]
    return {name: np.flatnonzero(home[inverse] == k) for k, name in enumerate(splits)}
