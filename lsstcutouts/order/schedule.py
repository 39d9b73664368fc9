"""The batches of an epoch, and each rank's part of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["Schedule"]

_MOST_LANES = 1 << 16
"""More than any training has ranks; a damaged checkpoint must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cuts an epoch's order into steps, and each step into the parts of the ranks.

    Every rank takes the same number of steps, and every row of the epoch is in exactly one part. Where the last global
    batch has fewer rows than there are ranks, either those rows are left out of the epoch, other ones in each epoch
    (training: no step may be empty, and no row may count twice), or the ranks without a row repeat one that is marked as
    padding (validation, prediction: no row may be missing).

    Attributes
    ----------
    rows
        Rows to share, ``N``.
    batch_size
        Rows that one rank gets a step.
    world_size
        Number of ranks.
    lanes
        Parts of the sky that take turns in the order; the ranks divide the lanes among themselves.
    pads
        Whether ranks without a row get padding; otherwise the remainder is left out.

    Raises
    ------
    ConfigurationError
        If nothing can be shared like this.
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
            raise ConfigurationError(f"lanes must be at most {_MOST_LANES}, got {self.lanes}; take one a rank")
        if 0 < self.rows < self.world_size and not self.pads:
            raise ConfigurationError(
                f"{self.rows} targets cannot be trained on by {self.world_size} ranks, each of which needs one a step; "
                "use fewer devices, or more targets"
            )

    @property
    def global_batch_size(self) -> int:
        """Rows that all ranks together get a step."""
        return self.batch_size * self.world_size

    @property
    def left_out(self) -> int:
        """Rows that each epoch leaves out: too few to give every rank one."""
        rest = self.rows % self.global_batch_size
        return rest if rest < self.world_size and not self.pads else 0

    @property
    def count(self) -> int:
        """Rows of an epoch."""
        return self.rows - self.left_out

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same for every rank."""
        return -(-self.count // self.global_batch_size)

    def kept(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return ``(count,)`` ascending rows that take part in an epoch; every row is left out once before any is twice."""
        if not self.left_out:
            return np.arange(self.rows)
        turn = (np.arange(self.left_out) + epoch * self.left_out) % self.rows
        # A third number, since [seed, epoch] seeds the order.
        out = np.random.default_rng([seed, 0, 1]).permutation(self.rows)[turn]
        return np.delete(np.arange(self.rows), out)

    def grouped(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the order of an epoch with the rows of each step sorted by their lane."""
        if self.lanes == 1:
            return order
        index = np.arange(len(order))
        key = index // self.global_batch_size * self.lanes + index % self.lanes
        return order[np.argsort(key, kind="stable")]

    def bounds(self, rank: int) -> NDArray[np.int64]:
        """Return ``(steps, 3)``: the half-open range of the grouped order at each step of a rank, and 1 for padding.

        Every step is divided as evenly as possible, in the order of the ranks, as `lane_lengths` divides rows.
        """
        start = np.arange(self.steps, dtype=np.int64) * self.global_batch_size
        share, rest = np.divmod(np.minimum(self.global_batch_size, self.count - start), self.world_size)
        low = start + share * rank + np.minimum(rank, rest)
        high = low + share + (rank < rest)
        pads = high == low
        return np.column_stack([np.where(pads, start, low), np.where(pads, start + 1, high), pads])
