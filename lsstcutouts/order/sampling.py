"""Which targets an epoch of training draws, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import ConfigurationError

__all__ = ["DEFAULT_SHUFFLE_WIDTH", "Sampling", "Shuffle"]

type Shuffle = bool | Literal["block", "full"]
"""How an epoch is shuffled: ``True`` means ``"block"``, ``False`` not at all."""

DEFAULT_SHUFFLE_WIDTH = 32
"""Blocks open at once. The working set of the cache is about this many blocks of every band.

With blocks of 750 px (13.5 MB in six bands), 500 targets a DP2 patch and boxes of 64 px, a cache of 0.5 GB decodes
1.18 times the distinct tiles in an epoch over 40 patches (10 GB of tiles), for widths 8, 16 and 32 alike; a cache of
4 GB 1.06 times."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """Which targets an epoch of training draws, and in which order.

    Parameters
    ----------
    shuffle
        Whether each epoch has a random order, a pure function of ``(seed, epoch, plan, shuffle_width)`` and the number
        of lanes; True means ``"block"``. ``"full"`` is a permutation of all targets, which decodes nearly every tile
        again for every target unless the cache holds all tiles. False goes block by block over the sky, so that no
        tile is decoded twice.
    shuffle_width
        Blocks of sky that are open at once. A larger value is closer to a full permutation and needs more memory.
    weights
        How often a target is drawn, relative to the others: name of a catalog column, or ``(N,)`` numbers. An epoch
        draws a target its expected number of times, rounded down or up; batches then hold ``repeat``, which counts how
        often the target came before in the epoch.
    balance
        Class of each target: name of a catalog column, or ``(N,)`` numbers or texts. Each class is drawn equally often
        in total; within a class ``weights`` decide. A missing class is an error, and so is a missing or negative weight.
    epoch_size
        Number of targets that an epoch draws; by default as many as there are.
    replacement
        Whether the draws of an epoch are independent of each other.

    Raises
    ------
    ConfigurationError
        If a value is not allowed.
    """

    shuffle: Shuffle = True
    shuffle_width: int = DEFAULT_SHUFFLE_WIDTH
    weights: str | Sequence[float] | Any | None = None
    balance: str | Sequence[Any] | Any | None = None
    epoch_size: int | None = None
    replacement: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle, bool) and self.shuffle not in {"block", "full"}:
            raise ConfigurationError(f"shuffle must be true, false, 'block' or 'full', got {self.shuffle!r}")
        for name in ("shuffle_width", "epoch_size"):
            value = getattr(self, name)
            if value is None and name == "epoch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ConfigurationError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")
        if not isinstance(self.replacement, bool):
            raise ConfigurationError(f"replacement must be true or false, got {self.replacement!r}")

    @property
    def kind(self) -> str:
        """``"none"``, ``"block"`` or ``"full"``."""
        if isinstance(self.shuffle, bool):
            return "block" if self.shuffle else "none"
        return self.shuffle

    @property
    def draws(self) -> bool:
        """Whether an epoch draws targets, rather than taking each once."""
        given = self.weights is not None or self.balance is not None
        return given or self.epoch_size is not None or self.replacement

    @property
    def columns(self) -> tuple[str, ...]:
        """Catalog columns that are named."""
        return tuple(one for one in (self.weights, self.balance) if isinstance(one, str))
