"""The base class of the adapters to foundation models: choice of bands, cutting and change of the pixel size."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .augmentation import add_per_axis, checked_number, checked_size, checked_switch, required_tensor
from .batch import TensorBatch
from .resampling import ScaleSampler, check_kernel, resampled

__all__ = ["LSST_PIXEL_SCALE", "NANOMAGGY", "Adapter"]

LSST_PIXEL_SCALE = 0.2
"""Arcseconds per pixel of the coadds of Rubin (skymap of DP1 and DP2); distortion within a tract is below 0.03 %."""

NANOMAGGY = 10 ** ((31.4 - 22.5) / 2.5)
"""nJy: a flux of 1 nJy has the AB magnitude 31.4, one of 1 nanomaggy 22.5 (https://www.legacysurvey.org/dr10/description)."""

_SCALE_TOLERANCE = 0.01
"""Relative tolerance of the pixel scale in ``wcs``: surveys differ by ten percent and more."""

_OTHER_GRID = ("variance", "ivar", "mask", "psf", "psf_present")
"""What an adapter leaves out: planes that the models do not take, on the pixels and in the unit of the coadds."""


_ROWS = ("band_present", "quality")


class Adapter(nn.Module):
    """Base class of the adapters: chooses bands, and interpolates the middle of the cutouts at the model's pixels.

    The result has the entries of the batch except ``variance``, ``ivar``, ``mask``, ``psf`` and ``psf_present``. ``image``,
    ``valid``, ``band_present`` and ``quality`` have the chosen bands in the order of the model. ``offset`` and ``wcs`` are
    those of the new pixels; ``yx0`` remains that of the box that was read. Pixels that are not finite, or not valid if the
    batch has ``valid``, and missing bands count as 0: no light.

    Interpolation uses `~lsstcutouts.transforms.resampling.ScaleSampler`. No adapter corrects for filters or PSF, which
    differ from survey to survey.

    Parameters
    ----------
    bands
        Channel order of the batch.
    chosen
        Bands that the model gets, in its order.
    size
        Pixels of the output, or ``(height, width)``.
    native_scale
        Arcseconds per pixel of the batch; compared with ``wcs``, on a GPU for the first batch alone.
    kernel
        Interpolation kernel: ``"quintic"``, ``"cubic"`` or ``"bilinear"``.
    keep_invalid
        Whether to keep pixels that are not valid, such as the noise of ``fill="noise"``.
    """

    _option: ClassVar[str] = "rgb"
    """Argument of the subclass that chooses bands."""

    def __init__(
        self,
        bands: str | Sequence[str],
        chosen: Sequence[str],
        size: int | Sequence[int],
        *,
        native_scale: float,
        kernel: str,
        keep_invalid: bool,
    ) -> None:
        super().__init__()
        self.bands = checked_bands("bands", bands)
        lacking = [band for band in chosen if band not in self.bands]
        if lacking:
            raise ConfigurationError(
                f"{type(self).__name__} needs the bands {','.join(chosen)}, but bands={bands!r} has no {','.join(lacking)}; "
                f"read {','.join(lacking)} too, or choose other bands with {self._option}="
            )
        self.native_scale, self.kernel = positive("native_scale", native_scale), check_kernel(kernel)
        sides = checked_size(size)
        if sides is None:
            raise ConfigurationError("size must be a number of pixels >= 1 or (height, width), got None")
        self.size, self.keep_invalid = sides, checked_switch("keep_invalid", keep_invalid)
        self._channels = [self.bands.index(band) for band in chosen]
        self._compared = False

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Return the batch with ``image`` as the model takes it, ``(N, C, y, x)``.

        Raises
        ------
        ConfigurationError
            If the cutouts are too small, or have other bands or another pixel scale.
        """
        image, valid = required_tensor(batch, "image", type(self).__name__), batch.get("valid")
        if image.ndim != 4 or image.shape[1] != len(self.bands):
            raise ConfigurationError(
                f"{type(self).__name__} has the bands {','.join(self.bands)}, but the image has the shape {tuple(image.shape)}"
            )
        self._compare(batch)
        old = image.shape[-2], image.shape[-1]
        scale = self._scale_of(batch)
        if not isinstance(scale, Tensor):
            self._check_sides(old, scale)
            scale = torch.full((1,), scale, device=image.device)
        chosen = self._of_chosen(image).float()
        counts = chosen.isfinite()
        planes: dict[str, Tensor | list[str]] = {}
        if isinstance(valid, Tensor):
            planes["valid"] = usable = self._of_chosen(valid)
            counts = counts if self.keep_invalid else counts & usable
        rows = {name: self._of_chosen(v) for name in _ROWS if isinstance(v := batch.get(name), Tensor)}
        if "band_present" in rows:
            counts = counts & rows["band_present"][:, :, None, None]
        planes["image"] = chosen.masked_fill(~counts, 0.0)
        planes = resampled(planes, ScaleSampler(scale, old, self.size, self.kernel))
        pixels = self._pixels(required_tensor(planes, "image", type(self).__name__), scale)
        if image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous():
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        rest: TensorBatch = {name: value for name, value in batch.items() if name not in _OTHER_GRID}
        return {**rest, **planes, **rows, **_positions(batch, scale, old, self.size), "image": pixels}

    @abstractmethod
    def _scale_of(self, batch: TensorBatch) -> Tensor | float:
        """Return the size of a pixel of the model, in pixels of the batch: a number, or ``(N,)``."""

    @abstractmethod
    def _pixels(self, flux: Tensor, scale: Tensor) -> Tensor:
        """Return the image of the model from the flux in its pixels, ``(N, C, y, x)`` nJy.

        ``scale`` ``(1,)`` or ``(N,)`` is their size, in pixels of the batch.
        """

    def _of_chosen(self, values: Tensor) -> Tensor:
        # No index tensor: copying it to the device would make the CPU wait.
        return torch.stack([values[:, k] for k in self._channels], dim=1)

    def _check_sides(self, sides: tuple[int, int], scale: float) -> None:
        # Less than a thousandth of a pixel is rounding.
        least = [math.ceil(new * scale - 1e-3) for new in self.size]
        if any(old < wanted for old, wanted in zip(sides, least, strict=True)):
            raise ConfigurationError(
                f"{type(self).__name__} needs cutouts of {least[0]} x {least[1]} pixels of {self.native_scale:g} arcsec for "
                f"{self.size[0]} x {self.size[1]} of {scale * self.native_scale:.4g} arcsec, but these have "
                f"{sides[0]} x {sides[1]}; fetch size={max(least)} or more"
            )

    def _compare(self, batch: TensorBatch) -> None:
        """Raise if the WCS has another pixel scale; on a GPU once, as reading it makes the CPU wait."""
        wcs = batch.get("wcs")
        if not isinstance(wcs, Tensor) or not len(wcs) or torch.compiler.is_compiling():
            return
        if self._compared and wcs.device.type != "cpu":
            return
        self._compared = True
        scales = 3600 * (wcs[:, 4] * wcs[:, 7] - wcs[:, 5] * wcs[:, 6]).abs().sqrt()
        # Rows of which nothing was read have a WCS of zeros or NaN.
        off = torch.where(scales > 0, (scales / self.native_scale - 1).abs(), 0.0)
        if off.amax() > _SCALE_TOLERANCE:
            worst = scales[off.argmax()].item()
            raise ConfigurationError(
                f"{type(self).__name__} has native_scale={self.native_scale:g} arcsec, but the pixels of the batch have {worst:.4g}; "
                f"give native_scale={worst:.4g}"
            )


def _positions(batch: TensorBatch, scale: Tensor, old: tuple[int, int], new: tuple[int, int]) -> dict[str, Tensor]:
    """Return ``offset`` and ``wcs`` of pixels that are ``scale`` times as large, about the middle of the cutout."""
    offset, wcs = batch.get("offset"), batch.get("wcs")
    found: dict[str, Tensor] = {}
    if isinstance(offset, Tensor):
        found["offset"] = offset / scale.to(offset.dtype).unsqueeze(1)
    if isinstance(wcs, Tensor):
        by = scale.to(wcs.dtype).unsqueeze(1)
        before, after = ([(n - 1) / 2 for n in reversed(sides)] for sides in (old, new))  # (x, y)
        pixel = add_per_axis(add_per_axis(wcs[:, 2:4], [-v for v in before]) / by, after)
        found["wcs"] = torch.cat([wcs[:, :2], pixel, wcs[:, 4:] * by], dim=1)
    return found


def checked_bands(name: str, bands: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of bands; raise `~lsstcutouts.errors.ConfigurationError` unless they are different names."""
    named = isinstance(bands, Sequence) and all(isinstance(band, str) and band for band in bands)
    if not named or not bands or len(set(bands)) != len(bands):
        raise ConfigurationError(f"{name} must be different names of bands, such as 'gri', got {bands!r}")
    return tuple(bands)


def positive(name: str, value: float) -> float:
    """Return a number above 0; raise `~lsstcutouts.errors.ConfigurationError` if it is something else."""
    if not checked_number(name, value, 0):
        raise ConfigurationError(f"{name} must be positive, got {value!r}")
    return float(value)
