"""Stretches of the image's range."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["AsinhStretch"]


class AsinhStretch(nn.Module):
    """Compress the range of the image: ``asinh(image / scale)``, linear near 0, logarithmic far above ``scale``.

    Follows Lupton, Gunn & Szalay 1999 (AJ 118, 1406). Absent bands stay exactly 0; pixels that are not valid are
    set to 0 where the batch has ``valid``, unless ``keep_invalid`` says that they have been filled on purpose.

    Parameters
    ----------
    scale
        Softening of each band in the image's unit (nJy), in channel order or by band name together with
        ``bands``; about the noise of a pixel. One number serves all bands.
    bands
        Channel order, needed when ``scale`` is given by name.
    keep_invalid
        Whether pixels that are not valid keep what stands there, such as the noise of ``fill="noise"``.
    inplace
        Whether the result is written over the image of the batch that comes in. The data module switches that on
        for batches that its trainer has copied to a GPU: nobody else has those.
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
            raise ConfigurationError(f"the scale of an asinh stretch must be positive, got {scale!r}")
        self.register_buffer("scale", torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Stretch ``image`` ``(N, B, Y, X)``."""
        image, valid = batch["image"], batch.get("valid")
        if not isinstance(image, Tensor):
            raise ConfigurationError("the batch has no image to stretch; add 'image' to planes")
        if self.scale.shape[0] not in {1, image.shape[1]}:
            raise ConfigurationError(f"a stretch for {self.scale.shape[0]} bands cannot serve {image.shape[1]}")
        stretched = image.div_(self.scale) if self.inplace else image / self.scale
        stretched.asinh_()
        if isinstance(valid, Tensor) and not self.keep_invalid:
            stretched.masked_fill_(~valid, 0.0)
        return {**batch, "image": stretched}


def _per_band(scale: float | Sequence[float] | Mapping[str, float], bands: str | Sequence[str]) -> list[float]:
    if isinstance(scale, Mapping):
        missing = [band for band in bands if band not in scale]
        if missing or not bands:
            raise ConfigurationError(f"the stretch has no scale for the bands {missing or 'asked for'}: {dict(scale)}")
        return [float(scale[band]) for band in bands]
    return [float(scale)] if isinstance(scale, int | float) else [float(value) for value in scale]
