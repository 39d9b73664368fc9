"""Normalisations of the image by statistics of the training split, and the way back to the image's unit."""

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch
from .statistics import Statistics

__all__ = ["Lupton", "NoiseAsinh", "Normalise", "ZScore"]


class Normalise(nn.Module):
    """Base of the normalisations: ``image`` in nJy to numbers near 1, by the `Statistics` that `fit` is given.

    Absent bands end exactly 0; so do pixels that are not valid where the batch has ``valid``. Pixels that are neither
    must be finite. ``variance`` and ``ivar`` stay in the unit of the files unless ``propagate`` is set.

    Parameters
    ----------
    keep_invalid
        Whether pixels that are not valid are normalised as the others are, such as the noise of ``fill="noise"``.
    propagate
        Whether ``variance`` and ``ivar`` become those of the result, to first order: times or divided by the square
        of the derivative.
    inplace
        Whether the result is written over the image of the batch that comes in. The data module switches that on
        for batches that its trainer has copied to a GPU: nobody else has those.
    """

    overwrites_image: ClassVar[bool] = True

    median: Tensor
    noise: Tensor

    def __init__(self, *, keep_invalid: bool = False, propagate: bool = False, inplace: bool = False) -> None:
        super().__init__()
        self.keep_invalid, self.propagate, self.inplace = keep_invalid, propagate, inplace
        self.statistics: Statistics | None = None
        self._channels = 0
        # Not persistent: the data module keeps the statistics in the checkpoint.
        for name in ("median", "noise"):
            self.register_buffer(name, torch.zeros(0, 1, 1), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether `fit` has been called."""
        return self._channels > 0

    def fit(self, statistics: Statistics) -> Self:
        """Use these statistics, whose bands are the channels in their order."""
        device = self.median.device
        # What is made in inference mode, such as in a validation, cannot be used in training.
        with torch.inference_mode(mode=False):
            for name in ("median", "noise"):
                values = [getattr(one, name) for one in statistics.bands.values()]
                setattr(self, name, torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1))
        self.statistics, self._channels = statistics, len(statistics.bands)
        return self

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Normalise ``image`` ``(N, B, Y, X)``."""
        image, zeroed = self._image(batch), self._zeroed(batch)
        result = self._normalised(image if self.inplace else image.clone(), zeroed)
        if zeroed is not None:
            result.masked_fill_(zeroed, 0.0)
        variances = self._rescaled_variance(batch, self._slope(result, zeroed)) if self.propagate else {}
        return {**batch, **variances, "image": result}

    def inverse(self, batch: TensorBatch) -> TensorBatch:
        """Return a batch that `forward` gave, or a network's image in its place, in the image's unit again.

        Exact to the rounding of float32. Absent bands, and pixels that are not valid, are 0.
        """
        image, zeroed = self._image(batch), self._zeroed(batch)
        variances = self._rescaled_variance(batch, 1 / self._slope(image, zeroed)) if self.propagate else {}
        result = self._restored(image.clone(), zeroed)
        if zeroed is not None:
            result.masked_fill_(zeroed, 0.0)
        return {**batch, **variances, "image": result}

    @abstractmethod
    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the image, written over or not, normalised; what stands in ``zeroed`` pixels is of no account."""

    @abstractmethod
    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the reverse of `_normalised`."""

    @abstractmethod
    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the derivative of the result by the image, where the result is ``normalised``."""

    def _image(self, batch: TensorBatch) -> Tensor:
        name = type(self).__name__
        if not self.fitted:
            raise ConfigurationError(
                f"{name} has no statistics yet: give it to the data module as normalisation= and let the data module fit it "
                "(setup, with a training split), give the data module statistics=, or call fit(statistics). A prediction "
                "takes those of the training: trainer.predict(model, data, ckpt_path=...), or "
                "CutoutDataModule.load_from_checkpoint(file, catalog=...)"
            )
        image = batch.get("image")
        if not isinstance(image, Tensor):
            raise ConfigurationError("the batch has no image to normalise; add 'image' to planes")
        if image.shape[1] != self._channels:
            raise ConfigurationError(f"{name} knows {self._channels} bands and cannot serve {image.shape[1]}")
        return image

    def _zeroed(self, batch: TensorBatch) -> Tensor | None:
        """Return what ends as 0: ``(N, B, 1, 1)`` absent bands, or ``(N, B, Y, X)`` pixels."""
        present, valid = batch.get("band_present"), batch.get("valid")
        absent = ~present[:, :, None, None] if isinstance(present, Tensor) else None
        if not isinstance(valid, Tensor) or self.keep_invalid:
            return absent
        return ~valid if absent is None else ~valid | absent

    @staticmethod
    def _rescaled_variance(batch: TensorBatch, slope: Tensor) -> TensorBatch:
        """Return variance and its inverse after a change of scale."""
        square = slope.square()
        variances: TensorBatch = {}
        variance, ivar = batch.get("variance"), batch.get("ivar")
        if isinstance(variance, Tensor):
            variances["variance"] = variance * square
        if isinstance(ivar, Tensor):
            variances["ivar"] = ivar / square
        return variances


class NoiseAsinh(Normalise):
    """``asinh(image / (softening * noise))``: linear in the noise, logarithmic far above it.

    Follows Lupton, Gunn & Szalay 1999 (AJ 118, 1406). The median is not subtracted unless asked for: coadds have no
    sky left, 0 means no light, and the median of cutouts around objects holds the objects' own light.

    Parameters
    ----------
    softening
        Where the logarithm takes over, in units of the noise.
    subtract_median
        Whether the median of each band is subtracted first.
    keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        softening: float = 1.0,
        *,
        subtract_median: bool = False,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(keep_invalid=keep_invalid, propagate=propagate, inplace=inplace)
        self.softening, self.subtract_median = _positive("softening", softening), subtract_median

    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        if self.subtract_median:
            image.sub_(self.median)
        return image.div_(self.softening * self.noise).asinh_()

    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        image = image.sinh_().mul_(self.softening * self.noise)
        return image.add_(self.median) if self.subtract_median else image

    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        return 1 / (self.softening * self.noise * normalised.cosh())


class ZScore(Normalise):
    """``(image - median) / noise`` of each band, with the robust noise.

    Parameters
    ----------
    subtract_median
        Whether the median is subtracted.
    clip
        Largest absolute value of the result; clipped pixels cannot be restored by `inverse`, and count as not clipped
        in ``propagate``.
    keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        *,
        subtract_median: bool = True,
        clip: float | None = None,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(keep_invalid=keep_invalid, propagate=propagate, inplace=inplace)
        self.subtract_median = subtract_median
        self.clip = None if clip is None else _positive("clip", clip)

    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        if self.subtract_median:
            image.sub_(self.median)
        image.div_(self.noise)
        return image if self.clip is None else image.clamp_(-self.clip, self.clip)

    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        image.mul_(self.noise)
        return image.add_(self.median) if self.subtract_median else image

    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:  # noqa: ARG002
        return (1 / self.noise).expand_as(normalised)


class Lupton(Normalise):
    """All bands of a pixel times one factor, so that their ratios, its colours, are kept.

    ``I`` is the mean over the bands that are there of ``image / noise``, and the result
    ``image / s * f(I) / I`` with ``f(I) = asinh(I / softening)`` (Lupton et al. 2004, PASP 116, 133) and ``s`` the harmonic
    mean of the noise of all bands: light that is equal in every band in nJy comes out as ``f(I)``. The median is not
    subtracted, which would change the colours. Pixels that are not finite spoil all bands unless the batch has
    ``valid``. In ``propagate`` the factor counts as free of noise.

    Parameters
    ----------
    softening
        Where the logarithm takes over, in units of the noise.
    keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        softening: float = 1.0,
        *,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(keep_invalid=keep_invalid, propagate=propagate, inplace=inplace)
        self.softening = _positive("softening", softening)

    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        softened = self._mean(image, zeroed) / self.softening
        return image.mul_(self._factor(softened))

    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        return image.div_(self._slope(image, zeroed))

    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:
        # The same mean of the result is f(I), so that nothing has to be solved for.
        return self._factor((self._mean(normalised, zeroed) * self._common).sinh())

    @property
    def _common(self) -> Tensor:
        return 1 / (1 / self.noise).mean()

    def _mean(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return ``(N, 1, Y, X)``: the mean of ``image / noise`` over the bands that are there."""
        scaled = image / self.noise
        if zeroed is None:
            return scaled.mean(dim=1, keepdim=True)
        there = (~zeroed).sum(dim=1, keepdim=True).clamp(min=1)
        return scaled.masked_fill_(zeroed, 0.0).sum(dim=1, keepdim=True) / there

    def _factor(self, softened: Tensor) -> Tensor:
        """Return ``f(I) / I`` over the common noise, from ``I / softening``; near 0 by its series."""
        small = softened.abs() < 1e-2
        ratio = torch.where(small, 1.0, softened.asinh() / torch.where(small, 1.0, softened))
        square = softened.square()
        series = 1 - square / 6 + 3 * square.square() / 40
        return torch.where(small, series, ratio) / (self.softening * self._common)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{name} must be positive, got {value!r}")
    return float(value)
