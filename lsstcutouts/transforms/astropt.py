"""Batches as AstroPT takes them."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .adapter import LSST_PIXEL_SCALE, Adapter, positive
from .augmentation import checked_switch, required_tensor
from .batch import TensorBatch
from .rgb import LEGACY_PIXEL_SCALE, chosen_rgb, legacy_brightness, legacy_rgb

__all__ = ["ToAstroPT"]

SIZE, PATCH_SIZE = 256, 16
"""Pixels (``image_size`` and ``patch_size`` in scripts/train.py of github.com/Smith42/astroPT, version 2)."""


class ToAstroPT(Adapter):
    """Make ``image`` ``(N, 3, 256, 256)`` for AstroPT (arXiv:2405.14930), and the patches that it takes.

    ``image`` is a colour picture of the viewer of the Legacy Surveys, uint8, 0 to 255, with the bands z, r and g as red, green
    and blue (i, r and g if the data have no z), in pixels of 0.262 arcsec. These are the JPEG files that AstroPT's DESI models
    were trained on (data/get_desi.bash in its repository); files of other kinds of AstroPT, such as Euclid's, are not made.

    ``images`` ``(N, T, 768)`` float32 are the patches of 16 x 16 pixels and 3 colours, each minus its mean and divided by its
    standard deviation, and ``images_positions`` ``(N, T)`` int64 their numbers: ``model.generate_embeddings(batch)`` takes both.
    They are in a spiral from the centre, with the axes of ``process_galaxy_wrapper`` in scripts/train.py: first x, then y from
    the top.

    AstroPT knows no missing bands: a missing band is 0. ``band_present`` has the bands of red, green and blue. See `Adapter` for
    the other entries of the batch.

    Parameters
    ----------
    bands
        Channel order of the batch.
    rgb
        Three bands of g, r, i, z for red, green and blue.
    pixel_scale
        Arcseconds per pixel of the picture.
    size, patch_size
        Pixels of the picture and of a patch. The models of version 1 were trained on 512 pixels.
    spiral
        Whether the patches are in a spiral; otherwise row by row.
    native_scale, kernel, keep_invalid
        As in `Adapter`.
    """

    _order: Tensor

    def __init__(
        self,
        bands: str | Sequence[str],
        *,
        rgb: str | Sequence[str] | None = None,
        pixel_scale: float = LEGACY_PIXEL_SCALE,
        size: int = SIZE,
        patch_size: int = PATCH_SIZE,
        spiral: bool = True,
        native_scale: float = LSST_PIXEL_SCALE,
        kernel: Literal["bilinear", "cubic", "quintic"] = "quintic",
        keep_invalid: bool = False,
    ) -> None:
        chosen = chosen_rgb(rgb, bands)
        super().__init__(bands, chosen, size, native_scale=native_scale, kernel=kernel, keep_invalid=keep_invalid)
        self.rgb, self.pixel_scale = chosen, positive("pixel_scale", pixel_scale)
        self.spiral = checked_switch("spiral", spiral)
        if self.size[0] != self.size[1]:
            raise ConfigurationError(f"size must be one number of pixels, as AstroPT takes squares, got {size!r}")
        count = isinstance(patch_size, int) and not isinstance(patch_size, bool) and patch_size > 0
        if not count or self.size[0] % patch_size:
            raise ConfigurationError(f"patch_size must divide size={self.size[0]}, got {patch_size!r}")
        self.patch_size = patch_size
        side = self.size[0] // patch_size
        order = _spiral(side) if spiral else torch.arange(side * side)
        self.register_buffer("_order", order, persistent=False)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Return the batch with ``image`` ``(N, 3, 256, 256)``, ``images`` and ``images_positions``.

        Raises
        ------
        ConfigurationError
            If the cutouts are too small, or have other bands or another pixel scale.
        """
        changed = super().forward(batch)
        patches = self._patches(required_tensor(changed, "image", "ToAstroPT"))
        numbers = torch.arange(patches.shape[1], device=patches.device).expand(len(patches), -1)
        return {**changed, "images": patches, "images_positions": numbers}

    def _scale_of(self, batch: TensorBatch) -> float:  # noqa: ARG002
        return self.pixel_scale / self.native_scale

    def _pixels(self, flux: Tensor, scale: Tensor) -> Tensor:
        return legacy_rgb(legacy_brightness(flux, scale * self.native_scale), self.rgb).mul_(255).to(torch.uint8)

    def _patches(self, picture: Tensor) -> Tensor:
        """Return normalised patches ``(N, T, P * P * 3)`` of pictures ``(N, 3, Y, X)``, whose first row is at the bottom."""
        count, colours, side, size = len(picture), picture.shape[1], self.size[0] // self.patch_size, self.patch_size
        turned = picture.flip(2).mT.reshape(count, colours, side, size, side, size)
        patches = turned.permute(0, 2, 4, 3, 5, 1).reshape(count, side * side, size * size * colours)[:, self._order]
        patches = patches.float()
        patches.sub_(patches.mean(dim=2, keepdim=True))
        # torch.std warns of batches without targets.
        std = torch.linalg.vector_norm(patches, dim=2, keepdim=True) / math.sqrt(patches.shape[2] - 1)
        return patches.div_(std + 1e-8)


def _spiral(side: int) -> Tensor:
    """Return the numbers of the patches ``(side**2,)`` from the centre outwards: clockwise from the first corner, reversed."""
    left, rings = torch.arange(side * side).reshape(side, side), []
    while left.numel():
        rings.append(left[0])
        left = left[1:].rot90()
    return torch.cat(rings).flip(0)
