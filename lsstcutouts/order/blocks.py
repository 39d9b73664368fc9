"""Blocks: small areas of sky whose targets are read together."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ints", "block_ids"]

type Ints = NDArray[np.integer]


def block_ids(group: Ints, position: Ints, block_shape: ArrayLike) -> NDArray[np.int64]:
    """Return the block id of each target, ``(N,)`` from 0.

    Parameters
    ----------
    group
        ``(N,)`` integers, such as the primary patch; targets of different groups are in different blocks.
    position
        ``(N, 2)`` pixels ``(y, x)`` from the origin of the group.
    block_shape
        ``(2,)`` height and width of a block, pixels.
    """
    cell = np.asarray(position, np.int64) // np.asarray(block_shape, np.int64)  # (N, 2)
    cell -= cell.min(axis=0, initial=0)
    rows, columns = (cell.max(axis=0, initial=0) + 1).tolist()
    # One integer per target: sorting triples would take forty times as long.
    keys = (np.asarray(group, np.int64) * rows + cell[:, 0]) * columns + cell[:, 1]
    _, ids = np.unique(keys, return_inverse=True)
    return ids.reshape(-1).astype(np.int64)
