"""Sources from images, such as simulations or galaxies seen from space."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigurationError
from ..augmentation import checked_number
from ..resampling import KERNELS, gathered, kernel_weights
from .draws import Draws, Numbers
from .sky_frame import SkyFrame, turned
from .source_model import Frequencies, SourceModel

__all__ = ["Stamps"]

_TAPS = KERNELS["quintic"]


class Stamps(SourceModel):
    """Sources from given images, one of which is drawn for each target.

    The images are those of the sky without a PSF, or with one much narrower than that of the cutouts. They are turned with
    the quintic kernel of Bernstein & Gruen 2014, PASP 126, 287. Without ``flux_njy`` and ``magnitude`` the sources have the fluxes of
    their stamps.

    Parameters
    ----------
    stamps
        ``(S, Y, X)``, or ``(S, B, Y, X)`` with an image for each band in channel order: nJy per pixel, north up and east to the
        left for ``angle=0``, the source in the middle. An array, or the path of a ``.npy`` file, which a checkpoint can name.
    pixel_scale
        Pixel of the stamps, arcsec; at most that of the cutouts.
    angle
        Degrees by which a stamp is turned, from north through east: a number, ``(low, high)``, or a list to draw from.
    """

    own_fluxes = True
    images: Tensor

    def __init__(self, stamps: Any, pixel_scale: float, angle: Numbers = (0.0, 360.0)) -> None:
        super().__init__(stamp=Draws("stamp", (0.0, 1.0)), angle=Draws("angle", angle))
        if isinstance(stamps, str | os.PathLike):
            self.stamps = os.fspath(stamps)  # only then has a checkpoint what it takes to make this again
        self.pixel_scale, self.angle = checked_number("pixel_scale", pixel_scale, 1e-6), angle
        images = _read(stamps)
        images = images[:, None] if images.ndim == 3 else images
        total = images.sum((2, 3))
        if not np.isfinite(images).all() or not (total > 0).all():
            raise ConfigurationError(
                f"each of the stamps must be finite with a flux above 0, but {(~(total > 0)).sum()} of {total.size} are not"
            )
        self.register_buffer("images", torch.from_numpy(images.astype(np.float32)), persistent=False)

    def parameters_of(self, uniform: Tensor) -> dict[str, Tensor]:
        """Return ``stamp``, the number of the image of each target, and ``angle``, ``(N,)`` each."""
        drawn = super().parameters_of(uniform)
        count = len(self.images)
        return drawn | {"stamp": (drawn["stamp"] * count).floor().clamp(max=count - 1)}

    def fluxes(self, parameters: dict[str, Tensor], bands: int) -> Tensor:
        """Return the fluxes of the stamps ``(N, B)``, nJy."""
        return self.images[parameters["stamp"].to(torch.int64)].sum((2, 3)).expand(-1, bands)

    def check_bands(self, bands: int) -> None:
        """Raise `~lsstcutouts.errors.ConfigurationError` if the stamps have another number of bands."""
        if self.images.shape[1] not in {1, bands}:
            raise ConfigurationError(f"the stamps have {self.images.shape[1]} bands, but the batch has {bands}")

    def transform(self, parameters: dict[str, Tensor], frame: SkyFrame, frequencies: Frequencies) -> Tensor:
        """Return the transform of the stamps; see `SourceModel.transform`."""
        images = self.images[parameters["stamp"].to(torch.int64)]
        images = images / images.sum((2, 3), keepdim=True)
        height, width = images.shape[-2:]
        diagonal = math.hypot(height, width) + _TAPS
        x, y = frame.grid(torch.full_like(parameters["angle"], diagonal * self.pixel_scale / 2), math.ceil(diagonal))
        along, across = turned(parameters["angle"], *frame.on_sky(x, y))
        row = (height - 1) / 2 + along / self.pixel_scale
        column = (width - 1) / 2 + across / self.pixel_scale
        light = _interpolated(images, row, column)
        light = light / light.sum((2, 3), keepdim=True)
        return frequencies.transform(light, x, y)


def _read(stamps: Any) -> Any:
    if isinstance(stamps, str | os.PathLike):
        try:
            stamps = np.load(Path(stamps), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"stamps={os.fspath(stamps)!r} cannot be read as a .npy file: {error}") from error
    try:
        images = np.asarray(stamps, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"stamps must be images of numbers with one size: {error}") from error
    if images.ndim not in {3, 4} or not images.size:
        raise ConfigurationError(f"stamps must have the shape (S, Y, X) or (S, B, Y, X), got {images.shape}")
    return images


def _interpolated(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return images ``(N, B, Y, X)`` at positions ``(N, y, x)``, ``(N, B, y, x)``; 0 outside."""
    height, width = images.shape[-2:]
    total = torch.zeros((), device=images.device)
    first_row, first_column = (at.floor() - (_TAPS // 2 - 1) for at in (row, column))
    by_row, by_column = (kernel_weights("quintic", at - at.floor()) for at in (row, column))
    for j in range(_TAPS):
        for i in range(_TAPS):
            y, x = first_row + j, first_column + i
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).to(torch.int64).flatten(1)
            weight = (by_row[..., j] * by_column[..., i]).masked_fill_(~inside, 0).unsqueeze(1)
            total = total + gathered(images, index, *row.shape[1:]) * weight
    return total
