"""All epochs of a loader: which rows each step of each rank reads."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .draws import balanced, checked_weights, draw, repeats
from .sampling import Sampling
from .schedule import Schedule
from .shuffling import check_order, epoch_order, sky_order
from .world import World

__all__ = ["Drawn", "Epochs"]


class Drawn(NamedTuple):
    """The rows of one epoch, in the order in which all ranks together read them.

    Attributes
    ----------
    rows
        ``(count,)`` positions among the rows that the epochs are made of.
    repeat
        ``(count,)`` how often the row was drawn before in this epoch; None where no row is drawn twice.
    """

    rows: NDArray[np.int64]
    repeat: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Epochs:
    """Orders rows in every epoch and shares them among ranks: a pure function of its arguments.

    Attributes
    ----------
    block
        ``(N,)`` locality block of each row, dense ids.
    batch_size
        Rows per rank and step.
    world
        Rank and number of ranks.
    lanes
        Parts of the sky that take turns; by default one per rank.
    sampling
        Which rows an epoch draws, and how it is shuffled; ``weights`` ``(N,)`` as `checked_weights` returns them, ``balance``
        ``(N,)`` as `checked_classes` does.
    seed
        Not negative.
    pads
        Whether ranks without a row get padding, as in `Schedule`.

    Raises
    ------
    ConfigurationError
        If the arguments contradict each other.
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
        if not len(self.block) and self.sampling.draws:
            raise ConfigurationError("weights and epoch_size draw from targets, and there are none")
        _ = self.schedule

    @property
    def partial(self) -> bool:
        """Whether an epoch may lack some of the rows."""
        return self.sampling.draws or self.schedule.left_out > 0

    @cached_property
    def schedule(self) -> Schedule:
        """Steps and parts."""
        rows = len(self.block) if self.sampling.epoch_size is None else self.sampling.epoch_size
        lanes = self.world.size if self.lanes is None else self.lanes
        return Schedule(rows, self.batch_size, self.world.size, lanes, self.pads)

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """``(steps, 3)`` ranges of `order` that this rank reads, as `Schedule.bounds` says."""
        return self.schedule.bounds(self.world.rank)

    def with_lanes(self, lanes: int) -> Self:
        """Return the same with another number of lanes."""
        return self if lanes == self.schedule.lanes else replace(self, lanes=lanes)

    def order(self, epoch: int) -> Drawn:
        """Return the rows of an epoch, those of each step sorted by their lane."""
        rows, repeat = self._drawn(epoch)
        block = self.block[rows]
        if self.partial:
            _, block = np.unique(block, return_inverse=True)  # dense again
            block = block.reshape(-1)
        if self.sampling.kind == "none":
            order = sky_order(block, self.schedule.lanes)
        else:
            width = self.sampling.shuffle_width if self.sampling.kind == "block" else None
            order = epoch_order(block, seed=self.seed, epoch=epoch, shuffle_width=width, lanes=self.schedule.lanes)
        order = self.schedule.grouped(order)
        return Drawn(rows[order], None if repeat is None else repeat[order])

    @property
    def _balance(self) -> NDArray[np.int64] | None:
        balance: Any = self.sampling.balance
        return None if balance is None else np.asarray(balance)

    def _drawn(self, epoch: int) -> Drawn:
        """Return the rows that take part in an epoch, ascending."""
        kept = self.schedule.kept(seed=self.seed, epoch=epoch)
        if not self.sampling.draws:
            return Drawn(kept, None)
        rows = draw(
            self._weights,
            self.schedule.rows,
            seed=self.seed,
            epoch=epoch,
            replacement=self.sampling.replacement,
            stratum=self._balance,
        )
        return Drawn(rows[kept], repeats(rows)[kept])

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        given: Any = self.sampling.weights
        weights = np.ones(len(self.block)) if given is None else np.asarray(given)
        return weights if self._balance is None else checked_weights(balanced(self._balance, weights))

    def settings(self) -> dict[str, int | str]:
        """Return plain values: what must be the same for a place in an epoch to mean the same rows."""
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
            "draws": digest.hexdigest()[:16] if sampling.draws else "",
        }
