"""Noise on top of the image's own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augmentation import Augmentation, checked_number
from .batch import TensorBatch
from .hashing import random_normal, random_uniform

__all__ = ["AddNoise"]


class AddNoise(Augmentation):
    """Make each target look as if it had been exposed for a shorter time: add noise in proportion to its own.

    Pixels get normal noise with ``factor`` times the variance that the batch says, independent from pixel to pixel;
    ``variance`` and ``ivar`` follow. A factor of 3 makes it four times the variance: a quarter of the exposure time. Bands that
    are absent, pixels that are not ``valid`` and pixels without a finite positive variance get none. The
    choice repeats, as `Augmentation` says; so does every pixel's noise.

    Needs ``variance`` or ``ivar`` among the planes. After shifts and rotations the noise stays independent.

    Parameters
    ----------
    factor
        Added variance in units of the pixel's own; or ``(low, high)``, between which each target has a number of its own.
    seed
        Chooses among series of noise.
    """

    def __init__(self, factor: float | Sequence[float] = 1.0, *, seed: int = 0) -> None:
        super().__init__(seed)
        given = list(factor) if isinstance(factor, Sequence) and not isinstance(factor, str) else [factor, factor]
        if len(given) != 2:
            raise ConfigurationError(f"factor must be a number or (low, high), got {factor!r}")
        self.low, self.high = (checked_number("factor", value, 0) for value in given)
        if self.low > self.high:
            raise ConfigurationError(f"factor must be (low, high), got {factor!r}")

    def factors(self, batch: TensorBatch) -> Tensor:
        """Return ``(N,)`` float32: the added variance of each target in units of its own."""
        return self.low + (self.high - self.low) * random_uniform(self.keys(batch), 1)[:, 0]

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Add noise to ``image`` ``(N, B, Y, X)``."""
        image, variance, ivar = self.required(batch, "image"), batch.get("variance"), batch.get("ivar")
        if not isinstance(variance, Tensor):
            if not isinstance(ivar, Tensor):
                raise ConfigurationError("AddNoise needs the noise; add 'variance' or 'ivar' to planes")
            variance = 1 / ivar  # infinite where nothing is known
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
