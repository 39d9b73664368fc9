"""The steps of an epoch, and the part of each rank."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["Schedule"]

_MOST_LANES = 1 << 16
"""More lanes than any training has ranks. Without this limit a damaged checkpoint could use all memory."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Divides the order of an epoch into steps, and each step among the ranks.

    All ranks have the same number of steps, and every row of the epoch is read by exactly one rank. If the last global batch
    has fewer rows than there are ranks, then in training these rows are left out of the epoch (a different choice in each
    epoch), because no step may be empty and no row may count twice. In validation and prediction no row may be missing:
    ranks without a row repeat one, which is marked as padding.

    Attributes
    ----------
    rows
        Number of rows ``N`` of an epoch.
    batch_size
        Rows per rank and step.
    world_size
        Number of ranks.
    lanes
        Number of lanes, which are divided among the ranks.
    pads
        Whether ranks without a row get padding; otherwise the remaining rows are left out.

    Raises
    ------
    ConfigurationError
        If an argument is out of range, or training has fewer rows than ranks.
    """

    rows: int
    batch_size: int
    world_size: int = 1
    lanes: int = 1
    pads: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.world_size < 1 or self.lanes < 1:
            raise ConfigurationError(f"world_size={self.world_size} and lanes={self.lanes} must be at least 1")
        if self.lanes > max(_MOST_LANES, self.world_size):
            raise ConfigurationError(f"lanes must be at most {_MOST_LANES}, got {self.lanes}; use one per rank")
        if 0 < self.rows < self.world_size and not self.pads:
            raise ConfigurationError(
                f"{self.rows} targets are too few for {self.world_size} ranks, as each rank needs one per step; use fewer "
                "devices, or more targets"
            )

    @property
    def global_batch_size(self) -> int:
        """Rows of all ranks per step."""
        return self.batch_size * self.world_size

    @property
    def left_out(self) -> int:
        """Number of rows that each epoch leaves out because they are fewer than the ranks."""
        rest = self.rows % self.global_batch_size
        return rest if rest < self.world_size and not self.pads else 0

    @property
    def count(self) -> int:
        """Number of rows of an epoch that are read."""
        return self.rows - self.left_out

    @property
    def steps(self) -> int:
        """Number of steps of an epoch, the same for every rank."""
        return -(-self.count // self.global_batch_size)

    def kept(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the ``(count,)`` rows of an epoch, ascending; every row is left out once before any is left out again."""
        if not self.left_out:
            return np.arange(self.rows)
        turn = (np.arange(self.left_out) + epoch * self.left_out) % self.rows
        # A third number, since [seed, epoch] seeds the order.
        out = np.random.default_rng([seed, 0, 1]).permutation(self.rows)[turn]
        return np.delete(np.arange(self.rows), out)

    def grouped(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the order of an epoch, ``(count,)``, with the rows of each step sorted by lane."""
        if self.lanes == 1:
            return order
        index = np.arange(len(order))
        key = index // self.global_batch_size * self.lanes + index % self.lanes
        return order[np.argsort(key, kind="stable")]

    def bounds(self, rank: int) -> NDArray[np.int64]:
        """Return ``(steps, 3)`` for one rank: start and end (exclusive) of each step in the grouped order, and 1 if it is padding.

        Each step is divided as evenly as possible, in rank order, as in `lane_lengths`.
        """
        start = np.arange(self.steps, dtype=np.int64) * self.global_batch_size
        share, rest = np.divmod(np.minimum(self.global_batch_size, self.count - start), self.world_size)
        low = start + share * rank + np.minimum(rank, rest)
        high = low + share + (rank < rest)
        pads = high == low
        return np.column_stack([np.where(pads, start, low), np.where(pads, start + 1, high), pads])
