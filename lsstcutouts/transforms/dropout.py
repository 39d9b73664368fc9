"""Random removal of bands."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..plan.quality import Quality
from ..plan.read_options import check_choice
from .augmentation import Augmentation, checked_number
from .batch import TensorBatch
from .hashing import random_uniform

__all__ = ["BandDropout"]

_CLEARED = ("image", "variance", "ivar", "mask", "valid", "psf")


class BandDropout(Augmentation):
    """Remove random bands from targets, as if the repository did not have them; one band always remains.

    A removed band looks like a missing one: 0 in every plane (NaN in image and variance with
    ``missing_band="nan"``), ``band_present`` and ``psf_present`` false, ``quality`` equal to ``BAND_ABSENT``. The random choice is reproducible;
    see `Augmentation`.

    Parameters
    ----------
    probability
        Probability that a band is removed from a target: one number for all bands, one per band in channel order, or a
        mapping by band name together with ``bands``. Bands that the mapping does not name get 0.
    bands
        Channel order; required if ``probability`` is a mapping.
    maximum
        Largest number of bands to remove from a target; by default all but one.
    missing_band
        Value of missing bands, as in the data module: ``"zero"`` or ``"nan"``.
    seed
        Seed of the random numbers.
    """

    probability: Tensor

    def __init__(
        self,
        probability: float | Sequence[float] | Mapping[str, float] = 0.2,
        bands: str | Sequence[str] = "",
        *,
        maximum: int | None = None,
        missing_band: Literal["zero", "nan"] = "zero",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        values = [checked_number("probability", v, 0, 1) for v in _per_band(probability, bands)]
        self.register_buffer("probability", torch.tensor(values, dtype=torch.float32), persistent=False)
        if maximum is not None and (isinstance(maximum, bool) or not isinstance(maximum, int) or maximum < 1):
            raise ConfigurationError(f"maximum must be an integer >= 1, got {maximum!r}")
        check_choice("missing_band", missing_band, ("zero", "nan"))
        self.maximum, self.missing_band = maximum, missing_band

    def dropped(self, batch: TensorBatch) -> Tensor:
        """Return which bands are removed, ``(N, B)`` bool.

        Raises
        ------
        ConfigurationError
            If ``probability`` has another number of bands than the batch, or ``band_present`` is missing.
        """
        present = self.required(batch, "band_present")
        count = present.shape[1]
        if self.probability.shape[0] not in {1, count}:
            raise ConfigurationError(
                f"BandDropout has probabilities for {self.probability.shape[0]} bands, but the batch has {count}"
            )
        chosen = present & (random_uniform(self.keys(batch), count) < self.probability)
        left = present.sum(1, keepdim=True) - 1
        most = left if self.maximum is None else left.clamp(max=self.maximum)
        # A random order, the chosen bands first: in channel order the last band would be removed less often.
        turn = random_uniform(self.keys(batch, 1), count).masked_fill(~chosen, 2.0)
        return chosen & (turn.argsort(dim=1, stable=True).argsort(dim=1) < most)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Remove bands from all planes ``(N, B, Y, X)`` of the batch."""
        dropped = self.dropped(batch)
        changed: TensorBatch = {}
        for name in _CLEARED:
            if isinstance(plane := batch.get(name), Tensor):
                missing = math.nan if self.missing_band == "nan" and name in {"image", "variance"} else 0
                # In place on a copy: masked_fill would lose the memory format.
                changed[name] = plane.clone().masked_fill_(dropped[:, :, None, None], missing)
        for name, missing in (("band_present", 0), ("psf_present", 0), ("quality", int(Quality.BAND_ABSENT))):
            if isinstance(row := batch.get(name), Tensor):
                changed[name] = row.masked_fill(dropped, missing)
        return {**batch, **changed}


def _per_band(probability: float | Sequence[float] | Mapping[str, float], bands: str | Sequence[str]) -> list[float]:
    if isinstance(probability, Mapping):
        unknown = [band for band in probability if band not in bands]
        if unknown or not bands:
            raise ConfigurationError(
                f"probability names the bands {unknown or list(probability)}, but bands={bands!r} does not contain them"
            )
        return [probability.get(band, 0.0) for band in bands]
    if isinstance(probability, str):
        raise ConfigurationError(f"probability must be a number, a list or a mapping of numbers, got {probability!r}")
    return list(probability) if isinstance(probability, Sequence) else [probability]
