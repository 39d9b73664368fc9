"""Normalisations of the image with statistics of the training split, and their inverses."""

import os
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch
from .statistics import DEFAULT_SAMPLE, Statistics

__all__ = ["Lupton", "NoiseAsinh", "Normalise", "ZScore"]


class Normalise(nn.Module):
    """Base class of the normalisations: scale ``image`` from nJy to numbers near 1, with the `Statistics` given to `fit`.

    Missing bands become exactly 0, and so do pixels that are not valid if the batch has ``valid``. All other pixels must
    be finite. ``variance`` and ``ivar`` do not change unless ``propagate`` is set.

    Parameters
    ----------
    statistics
        Statistics of the pixels, or a file of them (written by ``lsstcutouts normalise``), for the data module to use
        instead of fitting. Without a data module call `fit`.
    sample
        Number of targets of the training split that the data module fits statistics to.
    keep_invalid
        Whether to normalise pixels that are not valid too, such as the noise of ``fill="noise"``.
    propagate
        Whether to propagate ``variance`` and ``ivar`` to first order: multiply or divide them by the squared derivative.
    inplace
        Whether to overwrite the input image. The data module sets this for batches that the trainer has copied to a
        GPU, as nothing else refers to those.
    """

    overwrites_image: ClassVar[bool] = True

    median: Tensor
    noise: Tensor

    def __init__(
        self,
        *,
        statistics: str | os.PathLike[str] | Statistics | None = None,
        sample: int = DEFAULT_SAMPLE,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(statistics, str | os.PathLike | Statistics | None):
            raise ConfigurationError(
                f"statistics must be a file of `lsstcutouts normalise` or Statistics, got {statistics!r}"
            )
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
            raise ConfigurationError(f"sample must be an integer >= 1, got {sample!r}")
        self.given, self.sample = statistics, sample
        self.keep_invalid, self.propagate, self.inplace = keep_invalid, propagate, inplace
        self.statistics: Statistics | None = None
        self._channels = 0
        # Not persistent: the data module saves the statistics in the checkpoint.
        for name in ("median", "noise"):
            self.register_buffer(name, torch.zeros(0, 1, 1), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether `fit` has been called."""
        return self._channels > 0

    def fit(self, statistics: Statistics) -> Self:
        """Set the statistics; their bands are the channels, in this order."""
        device = self.median.device
        # Tensors made in inference mode, as in validation, cannot be used in training.
        with torch.inference_mode(mode=False):
            for name in ("median", "noise"):
                values = [getattr(one, name) for one in statistics.bands.values()]
                setattr(self, name, torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1))
        self.statistics, self._channels = statistics, len(statistics.bands)
        return self

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Normalise ``image`` ``(N, B, Y, X)``.

        Raises
        ------
        ConfigurationError
            If there are no statistics yet, or the batch has no image or another number of bands.
        """
        image, zeroed = self._image(batch), self._zeroed(batch)
        result = self._normalised(image if self.inplace else image.clone(), zeroed)
        if zeroed is not None:
            result.masked_fill_(zeroed, 0.0)
        variances = self._rescaled_variance(batch, self._slope(result, zeroed)) if self.propagate else {}
        return {**batch, **variances, "image": result}

    def inverse(self, batch: TensorBatch) -> TensorBatch:
        """Return the batch with ``image`` ``(N, B, Y, X)`` in its original unit: the inverse of `forward`.

        The image may also be the output of a network. Exact up to float32 rounding; missing bands and pixels that are not
        valid are 0.

        Raises
        ------
        ConfigurationError
            As `forward`.
        """
        image, zeroed = self._image(batch), self._zeroed(batch)
        variances = self._rescaled_variance(batch, 1 / self._slope(image, zeroed)) if self.propagate else {}
        result = self._restored(image.clone(), zeroed)
        if zeroed is not None:
            result.masked_fill_(zeroed, 0.0)
        return {**batch, **variances, "image": result}

    @abstractmethod
    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the normalised image ``(N, B, Y, X)``; may overwrite its input. Values in ``zeroed`` pixels are ignored."""

    @abstractmethod
    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the inverse of `_normalised`."""

    @abstractmethod
    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return the derivative of the normalised image with respect to the image, ``(N, B, Y, X)``."""

    def _image(self, batch: TensorBatch) -> Tensor:
        name = type(self).__name__
        if not self.fitted:
            raise ConfigurationError(
                f"{name} has no statistics yet. Pass it to the data module as normalisation= and call setup with a training "
                "split, pass it statistics=, or call fit(statistics). For prediction use the statistics of "
                "the training: trainer.predict(model, data, ckpt_path=...) or "
                "CutoutDataModule.load_from_checkpoint(file, catalog=...)"
            )
        image = batch.get("image")
        if not isinstance(image, Tensor):
            raise ConfigurationError("the batch has no image to normalise; add 'image' to planes")
        if image.shape[1] != self._channels:
            raise ConfigurationError(f"{name} was fitted to {self._channels} bands, but the batch has {image.shape[1]}")
        return image

    def _zeroed(self, batch: TensorBatch) -> Tensor | None:
        """Return what is set to 0: missing bands ``(N, B, 1, 1)``, or pixels ``(N, B, Y, X)``; None for nothing."""
        present, valid = batch.get("band_present"), batch.get("valid")
        absent = ~present[:, :, None, None] if isinstance(present, Tensor) else None
        if not isinstance(valid, Tensor) or self.keep_invalid:
            return absent
        return ~valid if absent is None else ~valid | absent

    @staticmethod
    def _rescaled_variance(batch: TensorBatch, slope: Tensor) -> TensorBatch:
        """Return variance and inverse variance after a change of scale."""
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

    Follows Lupton, Gunn & Szalay 1999 (AJ 118, 1406). By default the median is not subtracted: the sky of coadds is
    already subtracted, so 0 means no light, and the median of cutouts around objects includes light of the objects.

    Parameters
    ----------
    softening
        Transition from linear to logarithmic, in units of the noise.
    subtract_median
        Whether to subtract the median of each band first.
    statistics, sample, keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        softening: float = 1.0,
        *,
        subtract_median: bool = False,
        statistics: str | os.PathLike[str] | Statistics | None = None,
        sample: int = DEFAULT_SAMPLE,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            statistics=statistics, sample=sample, keep_invalid=keep_invalid, propagate=propagate, inplace=inplace
        )
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
    """``(image - median) / noise`` of each band, with the robust noise (see `BandStatistics`).

    Parameters
    ----------
    subtract_median
        Whether to subtract the median.
    clip
        Largest absolute value of the result. `inverse` cannot restore clipped pixels, and ``propagate`` ignores clipping.
    statistics, sample, keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        *,
        subtract_median: bool = True,
        clip: float | None = None,
        statistics: str | os.PathLike[str] | Statistics | None = None,
        sample: int = DEFAULT_SAMPLE,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            statistics=statistics, sample=sample, keep_invalid=keep_invalid, propagate=propagate, inplace=inplace
        )
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
    """Scale all bands of a pixel by one factor, which preserves its colours (band ratios).

    ``I`` is the mean of ``image / noise`` over the bands that are present, and the result is ``image / s * f(I) / I`` with
    ``f(I) = asinh(I / softening)`` (Lupton et al. 2004, PASP 116, 133) and ``s`` the harmonic mean of the noise of all
    bands: equal flux in every band in nJy gives ``f(I)``. The median is not subtracted, as that would change the colours.
    A pixel that is not finite makes all bands not finite unless the batch has ``valid``. ``propagate`` treats the factor
    as free of noise.

    Parameters
    ----------
    softening
        Transition from linear to logarithmic, in units of the noise.
    statistics, sample, keep_invalid, propagate, inplace
        As in `Normalise`.
    """

    def __init__(
        self,
        softening: float = 1.0,
        *,
        statistics: str | os.PathLike[str] | Statistics | None = None,
        sample: int = DEFAULT_SAMPLE,
        keep_invalid: bool = False,
        propagate: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            statistics=statistics, sample=sample, keep_invalid=keep_invalid, propagate=propagate, inplace=inplace
        )
        self.softening = _positive("softening", softening)

    def _normalised(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        softened = self._mean(image, zeroed) / self.softening
        return image.mul_(self._factor(softened))

    def _restored(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        return image.div_(self._slope(image, zeroed))

    def _slope(self, normalised: Tensor, zeroed: Tensor | None) -> Tensor:
        # The mean of result / noise is f(I) over the common noise, so asinh can be inverted directly.
        return self._factor((self._mean(normalised, zeroed) * self._common).sinh())

    @property
    def _common(self) -> Tensor:
        return 1 / (1 / self.noise).mean()

    def _mean(self, image: Tensor, zeroed: Tensor | None) -> Tensor:
        """Return ``(N, 1, Y, X)``: the mean of ``image / noise`` over the bands that are present."""
        scaled = image / self.noise
        if zeroed is None:
            return scaled.mean(dim=1, keepdim=True)
        there = (~zeroed).sum(dim=1, keepdim=True).clamp(min=1)
        return scaled.masked_fill_(zeroed, 0.0).sum(dim=1, keepdim=True) / there

    def _factor(self, softened: Tensor) -> Tensor:
        """Return ``f(I) / I`` divided by the common noise, from ``I / softening``; near 0 by its Taylor series."""
        small = softened.abs() < 1e-2
        ratio = torch.where(small, 1.0, softened.asinh() / torch.where(small, 1.0, softened))
        square = softened.square()
        series = 1 - square / 6 + 3 * square.square() / 40
        return torch.where(small, series, ratio) / (self.softening * self._common)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{name} must be positive, got {value!r}")
    return float(value)
