"""The epochs of a loader: which rows each rank reads in each step."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .sampling import Sampling
from .schedule import Schedule
from .shuffling import check_order, epoch_order, sky_order
from .weighted import balanced, checked_weights, repeats, sample_rows
from .world import World

__all__ = ["EpochRows", "Epochs"]


class EpochRows(NamedTuple):
    """The rows of one epoch, in the order in which all ranks together read them.

    Attributes
    ----------
    rows
        ``(count,)`` indices into the rows of `Epochs`.
    repeat
        ``(count,)`` how often the row occurred before in this epoch; None if no row can occur twice.
    """

    rows: NDArray[np.int64]
    repeat: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Epochs:
    """Orders the rows of every epoch and divides them among the ranks; the results depend only on the arguments.

    Attributes
    ----------
    block
        ``(N,)`` block of each row, numbered from 0.
    batch_size
        Rows per rank and step.
    world
        Rank and number of ranks.
    lanes
        Number of lanes; by default one per rank.
    sampling
        Which rows an epoch uses, and how they are shuffled; ``weights`` ``(N,)`` from `checked_weights`, ``balance`` ``(N,)``
        from `checked_classes`.
    seed
        Random seed, not negative.
    pads
        Whether ranks without a row get padding, as in `Schedule`.

    Raises
    ------
    ConfigurationError
        If the arguments are invalid or do not match.
    """

    block: NDArray[np.int64]
    batch_size: int
    world: World = World()
    lanes: int | None = None
    sampling: Sampling = Sampling()
    seed: int = 0
    pads: bool = False

    def __post_init__(self) -> None:
        check_order(seed=self.seed)
        for name in ("weights", "balance"):
            given = getattr(self.sampling, name)
            if given is not None and len(given) != len(self.block):
                raise ConfigurationError(
                    f"{name} has {len(given)} values for {len(self.block)} targets; give one per target"
                )
        if not len(self.block) and self.sampling.resamples:
            raise ConfigurationError(
                "weights, balance, epoch_size and replacement need at least one target, but there is none"
            )
        _ = self.schedule

    @property
    def partial(self) -> bool:
        """Whether an epoch may not contain all rows."""
        return self.sampling.resamples or self.schedule.left_out > 0

    @cached_property
    def schedule(self) -> Schedule:
        """The steps of an epoch, and the part of each rank."""
        rows = len(self.block) if self.sampling.epoch_size is None else self.sampling.epoch_size
        lanes = self.world.size if self.lanes is None else self.lanes
        return Schedule(rows, self.batch_size, self.world.size, lanes, self.pads)

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """``(steps, 3)`` ranges of `order` that this rank reads; see `Schedule.bounds`."""
        return self.schedule.bounds(self.world.rank)

    def with_lanes(self, lanes: int) -> Self:
        """Return the same with another number of lanes."""
        return self if lanes == self.schedule.lanes else replace(self, lanes=lanes)

    def order(self, epoch: int) -> EpochRows:
        """Return the rows of an epoch in reading order; the rows of each step are sorted by lane."""
        rows, repeat = self._rows(epoch)
        block = self.block[rows]
        if self.partial:
            _, block = np.unique(block, return_inverse=True)  # numbered from 0 again
            block = block.reshape(-1)
        if self.sampling.kind == "none":
            order = sky_order(block, self.schedule.lanes)
        else:
            width = self.sampling.shuffle_width if self.sampling.kind == "block" else None
            order = epoch_order(block, seed=self.seed, epoch=epoch, shuffle_width=width, lanes=self.schedule.lanes)
        order = self.schedule.grouped(order)
        return EpochRows(rows[order], None if repeat is None else repeat[order])

    @property
    def _balance(self) -> NDArray[np.int64] | None:
        balance: Any = self.sampling.balance
        return None if balance is None else np.asarray(balance)

    def _rows(self, epoch: int) -> EpochRows:
        """Return the rows of an epoch, ascending."""
        kept = self.schedule.kept(seed=self.seed, epoch=epoch)
        if not self.sampling.resamples:
            return EpochRows(kept, None)
        rows = sample_rows(
            self._weights,
            self.schedule.rows,
            seed=self.seed,
            epoch=epoch,
            replacement=self.sampling.replacement,
            stratum=self._balance,
        )
        return EpochRows(rows[kept], repeats(rows)[kept])

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        given: Any = self.sampling.weights
        weights = np.ones(len(self.block)) if given is None else np.asarray(given)
        return weights if self._balance is None else checked_weights(balanced(self._balance, weights))

    def settings(self) -> dict[str, int | str]:
        """Return plain values; a position in an epoch means the same rows only if all of them are equal."""
        digest, sampling = hashlib.sha256(), self.sampling
        for given in (sampling.weights, sampling.balance):
            digest.update(b"none" if given is None else np.ascontiguousarray(given).tobytes())
        digest.update(repr((sampling.epoch_size, sampling.replacement)).encode())
        return {
            "rows": self.schedule.rows,
            "global_batch_size": self.schedule.global_batch_size,
            "lanes": self.schedule.lanes,
            "seed": self.seed,
            "shuffle": sampling.kind,
            "shuffle_width": sampling.shuffle_width,
            "sampling": digest.hexdigest()[:16] if sampling.resamples else "",
        }
