"""Blocks of neighbouring sky, the unit of locality."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ints", "block_ids"]

type Ints = NDArray[np.integer]


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
