"""Rank of this process, and the position of a training loop."""

from typing import NamedTuple

__all__ = ["Position", "World"]


class World(NamedTuple):
    """Rank of this process, and the number of ranks that read an epoch together."""

    rank: int = 0
    size: int = 1


class Position(NamedTuple):
    """Epoch, and the number of its batches that the loop has received."""

    epoch: int = 0
    batch: int = 0
