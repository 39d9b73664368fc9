"""The batches of an epoch, and each process's part of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["Share", "batch_bounds"]


class Share(NamedTuple):
    """Which part of each global batch a process reads: ``rank`` of ``world_size``."""

    rank: int = 0
    world_size: int = 1


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
