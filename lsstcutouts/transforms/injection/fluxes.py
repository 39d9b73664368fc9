"""Fluxes of injected sources in each band."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from ..augmentation import checked_number
from .draws import Draws, Numbers, numbers_per_band

__all__ = ["ZERO_POINT", "Fluxes"]

ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

type BandFluxes = float | Sequence[float] | Mapping[str, float]
type Colours = Sequence[Numbers] | Mapping[str, Numbers]


class Fluxes(nn.Module):
    """Draws the flux of each target; the arguments are those of `InjectSources`."""

    by_band: Tensor
    colour_low: Tensor
    colour_width: Tensor

    def __init__(
        self,
        flux_njy: BandFluxes | None,
        magnitude: Numbers | None,
        colours: Colours | None,
        bands: str | Sequence[str],
    ) -> None:
        super().__init__()
        if flux_njy is not None and magnitude is not None:
            raise ConfigurationError(
                f"give flux_njy or magnitude, not both, got flux_njy={flux_njy!r} and magnitude={magnitude!r}"
            )
        self.magnitude: Draws | None = None
        by_band = [1.0]
        pair = isinstance(flux_njy, Sequence) and not isinstance(flux_njy, str) and len(flux_njy) == 2
        if magnitude is not None:
            self.magnitude = Draws("magnitude", magnitude)
        elif pair:
            low, high = (_positive("flux_njy", value) for value in flux_njy)  # type: ignore[union-attr]
            if low > high:
                raise ConfigurationError(f"flux_njy must be (low, high) with low <= high, got {flux_njy!r}")
            # Log-uniform: a range of magnitudes.
            self.magnitude = Draws("flux_njy", [ZERO_POINT - 2.5 * math.log10(f) for f in (high, low)])
        elif flux_njy is not None:
            by_band = [_positive("flux_njy", value) for value in numbers_per_band("flux_njy", flux_njy, bands)]
        self.register_buffer("by_band", torch.tensor(by_band, dtype=torch.float32), persistent=False)
        given = [0.0] if colours is None else _colours(colours, bands)
        each = [Draws("colours", one) for one in given]
        if any(one.chosen for one in each):
            raise ConfigurationError(f"colours must be numbers or (low, high) for each band, got {colours!r}")
        self.register_buffer("colour_low", torch.tensor([one.low for one in each]), persistent=False)
        self.register_buffer("colour_width", torch.tensor([one.high - one.low for one in each]), persistent=False)

    def of(self, uniform: Tensor, colour: Tensor) -> Tensor:
        """Return fluxes ``(N, B)``, nJy, from uniform random numbers ``(N,)`` and ``(N, B)``.

        Raises
        ------
        ConfigurationError
            If an argument has another number of bands than the batch.
        """
        count = colour.shape[1]
        for name, values in (("flux_njy", self.by_band), ("colours", self.colour_low)):
            if len(values) not in {1, count}:
                raise ConfigurationError(f"{name} has {len(values)} bands, but the batch has {count}")
        offset = self.colour_low + self.colour_width * colour  # magnitudes
        if self.magnitude is not None:
            offset = offset + (self.magnitude.of(uniform) - ZERO_POINT).unsqueeze(1)
        return self.by_band * torch.exp(offset * (-0.4 * math.log(10)))


def _positive(name: str, value: Any) -> float:
    number = checked_number(name, value, 0)
    if number == 0:
        raise ConfigurationError(f"{name} must be above 0 nJy, got {value!r}")
    return number


def _colours(colours: Any, bands: str | Sequence[str]) -> list[Any]:
    if not isinstance(colours, Mapping | Sequence) or isinstance(colours, str):
        raise ConfigurationError(f"colours must be a list or mapping with an entry for each band, got {colours!r}")
    return numbers_per_band("colours", colours, bands)
