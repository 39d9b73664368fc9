"""Which targets an epoch of training uses, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import ConfigurationError

__all__ = ["DEFAULT_SHUFFLE_WIDTH", "Sampling", "Shuffle"]

type Shuffle = bool | Literal["block", "full"]
"""How an epoch is shuffled: ``True`` means ``"block"``; ``False`` means that it is not shuffled."""

DEFAULT_SHUFFLE_WIDTH = 32
"""Number of blocks that are mixed. The cache needs space for about this many blocks of every band.

Measured for an epoch over 40 DP2 patches (10 GB of tiles) with 500 targets per patch, boxes of 64 px and blocks of 750 px
(13.5 MB in six bands): a cache of 0.5 GB decodes each tile 1.18 times on average, for widths of 8, 16 and 32; a cache of
4 GB 1.06 times."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """Which targets an epoch of training uses, and in which order.

    Parameters
    ----------
    shuffle
        ``"block"`` or True: a random order that mixes ``shuffle_width`` neighbouring blocks at a time; it depends only on
        ``(seed, epoch, plan, shuffle_width)`` and the number of lanes. ``"full"``: a permutation of all targets, which
        decodes almost every tile again for every target unless the cache can hold all tiles. False: block by block over
        the sky, so that no tile is decoded twice.
    shuffle_width
        Number of blocks of sky that are mixed. A larger value is closer to a full permutation and needs more memory.
    weights
        Relative weights: name of a catalog column, or ``(N,)`` numbers. A target occurs in an epoch its expected number of
        times, rounded down or up; ``repeat`` in the batch counts how often it occurred before in the epoch.
    balance
        Class of each target: name of a catalog column, or ``(N,)`` numbers or strings. All classes are sampled equally
        often; ``weights`` apply within a class. A missing class, and a missing or negative weight, is an error.
    epoch_size
        Number of targets per epoch; by default the number of targets in the split.
    replacement
        Whether to sample with replacement: the samples of an epoch are then independent.

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
                raise ConfigurationError(f"{name} must be an integer, got {value!r}")
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
    def resamples(self) -> bool:
        """Whether an epoch samples targets, instead of using each target once."""
        given = self.weights is not None or self.balance is not None
        return given or self.epoch_size is not None or self.replacement

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the catalog columns that are used."""
        return tuple(one for one in (self.weights, self.balance) if isinstance(one, str))
