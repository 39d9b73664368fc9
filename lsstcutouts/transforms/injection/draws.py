"""Values that are drawn for each target: a number, a range, or a list."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from ..augmentation import is_number

__all__ = ["Draws", "Numbers", "numbers_per_band"]

type Numbers = float | Sequence[float]
"""A number, ``(low, high)`` for a uniform distribution, or three or more numbers, one of which is drawn."""


class Draws(nn.Module):
    """Distribution of a value; its numbers are on the device of the batch.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    given
        See `Numbers`.
    low, high
        Smallest and largest value that is allowed.

    Raises
    ------
    ConfigurationError
        If it is something else.
    """

    values: Tensor

    def __init__(self, name: str, given: Numbers, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__()
        numbers = [*given] if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        for one in numbers:
            if not is_number(one) or not low <= one <= high or math.isinf(one):
                bounds = [f"at least {low:g}"] * math.isfinite(low) + [f"at most {high:g}"] * math.isfinite(high)
                wanted = " and ".join(bounds) or "finite"
                raise ConfigurationError(
                    f"{name} must be a number, (low, high), or a list of numbers to draw from, {wanted}, got {given!r}"
                )
        if not numbers or (len(numbers) == 2 and numbers[0] > numbers[1]):
            raise ConfigurationError(f"{name} must be a number, or (low, high) with low <= high, got {given!r}")
        self.low, self.high = float(min(numbers)), float(max(numbers))
        self.chosen = len(numbers) > 2
        self.register_buffer(
            "values", torch.tensor([float(one) for one in numbers], dtype=torch.float32), persistent=False
        )

    def of(self, uniform: Tensor) -> Tensor:
        """Return a value for each of ``(N,)`` uniform random numbers."""
        if self.chosen:
            # float32 rounding can turn a number just below 1 into the full product.
            return self.values[(uniform * len(self.values)).to(torch.int64).clamp(max=len(self.values) - 1)]
        return self.low + (self.high - self.low) * uniform


def numbers_per_band(name: str, given: Any, bands: str | Sequence[str]) -> list[Any]:
    """Return one entry for all bands, or one for each in channel order.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    given
        A number, a sequence with one entry for each band, or a mapping by band, which may have more bands.
    bands
        Channel order; required for a mapping.

    Raises
    ------
    ConfigurationError
        If a mapping lacks a band, or a sequence has another length than ``bands``.
    """
    if not isinstance(bands, Sequence) or not all(isinstance(band, str) for band in bands):
        raise ConfigurationError(f"bands must be names of bands, such as 'gri', got {bands!r}")
    if isinstance(given, Mapping):
        if not bands or not set(bands) <= set(given):
            raise ConfigurationError(
                f"{name} has the bands {', '.join(map(str, given))}, but bands={bands!r}; it must have each of them"
            )
        return [given[band] for band in bands]
    if not isinstance(given, Sequence) or isinstance(given, str):
        return [given]
    if not len(given):
        raise ConfigurationError(f"{name} must be a number, or have one for each band, got {given!r}")
    if bands and len(given) != len(bands):
        raise ConfigurationError(f"{name} has {len(given)} numbers for the {len(bands)} bands {bands!r}")
    return [*given]
