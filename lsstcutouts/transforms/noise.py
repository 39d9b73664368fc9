"""Additional noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augmentation import Augmentation, checked_number
from .batch import TensorBatch
from .hashing import random_normal, random_uniform

__all__ = ["AddNoise"]


class AddNoise(Augmentation):
    """Simulate a shorter exposure: add noise in proportion to the noise of each pixel.

    Each pixel gets independent normal noise with ``factor`` times its variance in the batch; ``variance`` and ``ivar``
    are updated. A factor of 3 gives four times the variance, as in a quarter of the exposure time. Missing bands, pixels
    that are not ``valid`` and pixels without a finite positive variance get no noise. The factor and the noise are
    reproducible; see `Augmentation`.

    The planes must include ``variance`` or ``ivar``. The added noise has no correlation between pixels, also after shifts
    and rotations.

    Parameters
    ----------
    factor
        Added variance divided by the variance of the pixel; ``(low, high)`` draws a uniform factor for each target.
    seed
        Seed of the random numbers.
    """

    def __init__(self, factor: float | Sequence[float] = 1.0, *, seed: int = 0) -> None:
        super().__init__(seed)
        given = list(factor) if isinstance(factor, Sequence) and not isinstance(factor, str) else [factor, factor]
        if len(given) != 2:
            raise ConfigurationError(f"factor must be a number or (low, high), got {factor!r}")
        self.low, self.high = (checked_number("factor", value, 0) for value in given)
        if self.low > self.high:
            raise ConfigurationError(f"factor must be (low, high) with low <= high, got {factor!r}")

    def factors(self, batch: TensorBatch) -> Tensor:
        """Return ``(N,)`` float32: the added variance of each target divided by its own."""
        return self.low + (self.high - self.low) * random_uniform(self.keys(batch), 1)[:, 0]

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Add noise to ``image`` ``(N, B, Y, X)``.

        Raises
        ------
        ConfigurationError
            If the batch has no ``image``, or neither ``variance`` nor ``ivar``.
        """
        image, variance, ivar = self.required(batch, "image"), batch.get("variance"), batch.get("ivar")
        if not isinstance(variance, Tensor):
            if not isinstance(ivar, Tensor):
                raise ConfigurationError(
                    "AddNoise needs the variance of the pixels, but the batch has none; add 'variance' or 'ivar' to planes"
                )
            variance = 1 / ivar  # infinite where ivar is 0
        noisy = self._noisy(batch, variance)
        factor = self.factors(batch).reshape(-1, 1, 1, 1)
        sigma = torch.where(noisy, variance * factor, 0.0).sqrt()
        grown: TensorBatch = {"image": image + sigma * random_normal(self.keys(batch, 1), *image.shape[1:])}
        if isinstance(batch.get("variance"), Tensor):
            grown["variance"] = torch.where(noisy, variance * (1 + factor), variance)
        if isinstance(ivar, Tensor):
            grown["ivar"] = torch.where(noisy, ivar / (1 + factor), ivar)
        return {**batch, **grown}

    def _noisy(self, batch: TensorBatch, variance: Tensor) -> Tensor:
        """Return which pixels ``(N, B, Y, X)`` get noise."""
        noisy = torch.isfinite(variance) & (variance > 0)
        valid, present = batch.get("valid"), batch.get("band_present")
        if isinstance(valid, Tensor):
            noisy = noisy & valid
        if isinstance(present, Tensor):
            noisy = noisy & present[:, :, None, None]
        return noisy
