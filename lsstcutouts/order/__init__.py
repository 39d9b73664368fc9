"""The order of an epoch, its batches, shards and splits: arrays in, arrays out.

Nothing here reads a clock, a machine's size or global random state: each result is a pure function of its
arguments, so that every rank, worker and resumed run computes the same one.
"""

from .blocks import block_ids
from .epoch import DEFAULT_SHUFFLE_WIDTH, check_order, epoch_order
from .groups import split_groups
from .shares import Share, batch_bounds

__all__ = ["DEFAULT_SHUFFLE_WIDTH", "Share", "batch_bounds", "block_ids", "check_order", "epoch_order", "split_groups"]
