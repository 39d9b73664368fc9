"""All epochs of a loader: which rows each step of each rank reads."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .draws import balanced, checked_weights, draw, repeats
from .schedule import Schedule, Share
from .shuffling import DEFAULT_SHUFFLE_WIDTH, Shuffle, check_order, epoch_order, shuffle_kind, sky_order

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
        Rows a rank and step.
    share
        Rank and number of ranks.
    lanes
        Parts of the sky that take turns; by default one a rank.
    shuffle, shuffle_width, seed
        As in `epoch_order`; without shuffling, as in `sky_order`.
    weights
        ``(N,)`` how often rows are drawn, relative to each other; None draws every row once.
    balance
        ``(N,)`` dense numbers of the classes, each of which is drawn equally often in total; None for no classes.
    epoch_size
        Rows that an epoch draws; by default ``N``.
    replacement
        Whether the draws of an epoch are independent of each other.
    pads
        Whether ranks without a row get padding, as in `Schedule`.

    Raises
    ------
    ConfigurationError
        If nothing can be read like this.
    """

    block: NDArray[np.int64]
    batch_size: int
    share: Share = Share()
    lanes: int | None = None
    shuffle: Shuffle = True
    shuffle_width: int = DEFAULT_SHUFFLE_WIDTH
    seed: int = 0
    weights: NDArray[np.float64] | None = None
    balance: NDArray[np.int64] | None = None
    epoch_size: int | None = None
    replacement: bool = False
    pads: bool = False

    def __post_init__(self) -> None:
        check_order(seed=self.seed, shuffle_width=self.shuffle_width)
        shuffle_kind(self.shuffle)
        if self.epoch_size is not None and self.epoch_size < 1:
            raise ConfigurationError(f"epoch_size must be at least 1, got {self.epoch_size}")
        for name in ("weights", "balance"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.block):
                raise ConfigurationError(f"{name} of {len(given)} targets cannot serve {len(self.block)}")
        if not len(self.block) and self.draws:
            raise ConfigurationError("weights and epoch_size draw from targets, and there are none")
        _ = self.schedule

    @property
    def draws(self) -> bool:
        """Whether an epoch draws rows, rather than taking each once."""
        given = self.weights is not None or self.balance is not None
        return given or self.epoch_size is not None or self.replacement

    @property
    def partial(self) -> bool:
        """Whether an epoch may lack some of the rows."""
        return self.draws or self.schedule.left_out > 0

    @cached_property
    def schedule(self) -> Schedule:
        """Steps and parts."""
        rows = len(self.block) if self.epoch_size is None else self.epoch_size
        lanes = self.share.world_size if self.lanes is None else self.lanes
        return Schedule(rows, self.batch_size, self.share.world_size, lanes, self.pads)

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """``(steps, 3)`` ranges of `order` that this rank reads, as `Schedule.bounds` says."""
        return self.schedule.bounds(self.share.rank)

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
        kind = shuffle_kind(self.shuffle)
        if kind == "none":
            order = sky_order(block, self.schedule.lanes)
        else:
            width = self.shuffle_width if kind == "block" else None
            order = epoch_order(block, seed=self.seed, epoch=epoch, shuffle_width=width, lanes=self.schedule.lanes)
        order = self.schedule.grouped(order)
        return Drawn(rows[order], None if repeat is None else repeat[order])

    def _drawn(self, epoch: int) -> Drawn:
        """Return the rows that take part in an epoch, ascending."""
        kept = self.schedule.kept(seed=self.seed, epoch=epoch)
        if not self.draws:
            return Drawn(kept, None)
        rows = draw(
            self._weights,
            self.schedule.rows,
            seed=self.seed,
            epoch=epoch,
            replacement=self.replacement,
            stratum=self.balance,
        )
        return Drawn(rows[kept], repeats(rows)[kept])

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        weights = np.ones(len(self.block)) if self.weights is None else self.weights
        return weights if self.balance is None else checked_weights(balanced(self.balance, weights))

    def settings(self) -> dict[str, int | str]:
        """Return plain values: what must be the same for a place in an epoch to mean the same rows."""
        digest = hashlib.sha256()
        for given in (self.weights, self.balance):
            digest.update(b"none" if given is None else np.ascontiguousarray(given).tobytes())
        digest.update(repr((self.epoch_size, self.replacement)).encode())
        return {
            "rows": self.schedule.rows,
            "global_batch_size": self.schedule.global_batch_size,
            "lanes": self.schedule.lanes,
            "seed": self.seed,
            "shuffle": shuffle_kind(self.shuffle),
            "shuffle_width": self.shuffle_width,
            "draws": digest.hexdigest()[:16] if self.draws else "",
        }
