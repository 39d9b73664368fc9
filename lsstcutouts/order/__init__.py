"""The order of an epoch, its batches, shards and splits: arrays in, arrays out.

Nothing here reads a clock, a machine's size or global random state: each result is a pure function of its
arguments, so that every rank, worker and resumed run computes the same one.
"""

from .blocks import block_ids
from .draws import checked_classes, checked_weights
from .epoch import DEFAULT_SHUFFLE_WIDTH, Shuffle, check_order, epoch_order, shuffle_kind, sky_order
from .epochs import Drawn, Epochs
from .groups import split_groups
from .lanes import lane_ids, lane_lengths
from .schedule import Schedule, Share

__all__ = [
    "DEFAULT_SHUFFLE_WIDTH",
    "Drawn",
    "Epochs",
    "Schedule",
    "Share",
    "Shuffle",
    "block_ids",
    "check_order",
    "checked_classes",
    "checked_weights",
    "epoch_order",
    "lane_ids",
    "lane_lengths",
    "shuffle_kind",
    "sky_order",
    "split_groups",
]
