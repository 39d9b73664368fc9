"""The asinh stretch with fixed scales."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["AsinhStretch"]


class AsinhStretch(nn.Module):
    """Compress the range of the image: ``asinh(image / scale)``, linear near 0, logarithmic far above ``scale``.

    Follows Lupton, Gunn & Szalay 1999 (AJ 118, 1406). Missing bands remain exactly 0. Pixels that are not valid become 0
    if the batch has ``valid``, unless ``keep_invalid`` is set.

    Parameters
    ----------
    scale
        Softening in the unit of the image (nJy), about the noise of a pixel: one number for all bands, one per band in
        channel order, or a mapping by band name together with ``bands``.
    bands
        Channel order; required if ``scale`` is a mapping.
    keep_invalid
        Whether to keep pixels that are not valid, such as the noise of ``fill="noise"``.
    inplace
        Whether to overwrite the input image. The data module sets this for batches that the trainer has copied to a
        GPU, as nothing else refers to those.
    """

    overwrites_image: ClassVar[bool] = True

    scale: Tensor

    def __init__(
        self,
        scale: float | Sequence[float] | Mapping[str, float],
        bands: str | Sequence[str] = "",
        *,
        keep_invalid: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.keep_invalid, self.inplace = keep_invalid, inplace
        self.bands = tuple(bands)
        values = _per_band(scale, bands)
        if any(not value > 0 for value in values):
            raise ConfigurationError(f"scale must be positive, got {scale!r}")
        self.register_buffer("scale", torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Stretch ``image`` ``(N, B, Y, X)``.

        Raises
        ------
        ConfigurationError
            If the batch has no image or another number of bands than ``scale``.
        """
        image, valid = batch["image"], batch.get("valid")
        if not isinstance(image, Tensor):
            raise ConfigurationError("the batch has no image to stretch; add 'image' to planes")
        if self.scale.shape[0] not in {1, image.shape[1]}:
            raise ConfigurationError(
                f"AsinhStretch has scales for {self.scale.shape[0]} bands, but the batch has {image.shape[1]}"
            )
        stretched = image.div_(self.scale) if self.inplace else image / self.scale
        stretched.asinh_()
        if isinstance(valid, Tensor) and not self.keep_invalid:
            stretched.masked_fill_(~valid, 0.0)
        return {**batch, "image": stretched}


def _per_band(scale: float | Sequence[float] | Mapping[str, float], bands: str | Sequence[str]) -> list[float]:
    if isinstance(scale, Mapping):
        missing = [band for band in bands if band not in scale]
        if missing or not bands:
            raise ConfigurationError(
                f"scale={dict(scale)} has no value for the bands {missing}"
                if missing
                else f"scale={dict(scale)} is given by band name; give the channel order as bands= too"
            )
        return [float(scale[band]) for band in bands]
    return [float(scale)] if isinstance(scale, int | float) else [float(value) for value in scale]
