"""Rotations by arbitrary angles."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augmentation import Augmentation, add_per_axis, checked_number, checked_size
from .batch import TensorBatch
from .hashing import random_uniform
from .planes import pixel_sides
from .resampling import KERNELS, RotationSampler, check_kernel, resampled

__all__ = ["RandomRotation"]


class RandomRotation(Augmentation):
    """Rotate each target about its own position by a random angle.

    The target keeps its ``offset`` from the centre. All planes, ``wcs`` and ``psf`` (about its centre) rotate together;
    ``yx0`` remains that of the box that was read. Read cutouts about 1.5 times as large as ``size`` to fill the corners.
    Pixels from outside the cutout are 0 and not ``valid``.

    Pixels are interpolated as `~lsstcutouts.transforms.resampling.resampled` describes. Interpolation reduces the noise,
    by an amount that varies between pixels, and correlates neighbouring pixels. Output pixels to which an invalid pixel
    contributes are invalid. The random choice is reproducible; see `Augmentation`.

    Parameters
    ----------
    size
        Size of the output in pixels, or ``(height, width)``; by default that of the input.
    max_angle
        Degrees; angles are uniform in ``[-max_angle, max_angle]``. 180 allows every angle.
    kernel
        Interpolation kernel: ``"cubic"`` (4 x 4 pixels), ``"quintic"`` (6 x 6) or ``"bilinear"`` (2 x 2).
    seed
        Seed of the random numbers.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        *,
        max_angle: float = 180.0,
        kernel: Literal["bilinear", "cubic", "quintic"] = "cubic",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.size, self.kernel = checked_size(size), check_kernel(kernel)
        self.max_angle = checked_number("max_angle", max_angle, 0, 180)

    def angles(self, batch: TensorBatch) -> Tensor:
        """Return ``(N,)`` float32 angles in radians, counter-clockwise with x to the right and y up."""
        return (2 * random_uniform(self.keys(batch), 1)[:, 0] - 1) * math.radians(self.max_angle)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Rotate all planes ``(N, B, Y, X)`` of the batch.

        Raises
        ------
        ConfigurationError
            If the cutouts are too small and have no ``valid``, or a needed entry is missing.
        """
        sides = pixel_sides(batch, "RandomRotation")
        height, width = self.size or sides
        self._check_margin(batch, sides, (height, width))
        offset, angle, wcs, psf = self.required(batch, "offset"), self.angles(batch), batch.get("wcs"), batch.get("psf")
        source, target = (add_per_axis(offset, _center(shape)) for shape in (sides, (height, width)))
        rotated = resampled(batch, RotationSampler(angle, source, target, height, width, self.kernel))
        if isinstance(wcs, Tensor):
            rotated["wcs"] = _rotated_wcs(wcs, angle, source, target)
        if isinstance(psf, Tensor):
            shape = psf.shape[-2], psf.shape[-1]
            middle = add_per_axis(torch.zeros_like(offset), _center(shape))
            rotated["psf"] = RotationSampler(angle, middle, middle, *shape, self.kernel).weighted(psf)
        return {**batch, **rotated}

    def _check_margin(self, batch: TensorBatch, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Raise if corners may be empty and the batch has no ``valid`` to mark them."""
        least = self._smallest_input(new)
        if all(a >= b for a, b in zip(old, least, strict=True)) or isinstance(batch.get("valid"), Tensor):
            return
        raise ConfigurationError(
            f"cutouts of {old[0]} x {old[1]} pixels are too small to be rotated by up to {self.max_angle:g} degrees and cut to "
            f"{new[0]} x {new[1]}; fetch {least[0]} x {least[1]} or more and give size=({new[0]}, {new[1]}), or add 'valid' to "
            "planes to mark empty corners"
        )

    def _smallest_input(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the smallest input ``(height, width)`` that fills the output of a target within half a pixel of the centre."""
        height, width = size
        if not self.max_angle:
            return size
        largest = min(math.radians(self.max_angle), math.pi / 2)
        reach = []
        for along, across in ((height, width), (width, height)):
            worst = min(largest, math.atan2(across, along))
            reach.append(along / 2 * math.cos(worst) + across / 2 * math.sin(worst))
        y, x = (math.ceil(2 * r + 2 + KERNELS[self.kernel]) for r in reach)
        return y, x


def _center(shape: tuple[int, int]) -> list[float]:
    return [(n - 1) / 2 for n in shape]


def _rotated_wcs(wcs: Tensor, angle: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return ``wcs`` rows ``(N, 8)`` for the output pixels: ``crval``, reference pixel ``(x, y)``, CD matrix."""
    # input pixel = source + rotation @ (output pixel - target): invert it for the reference pixel, multiply CD by it.
    angle, source, target = (v.to(wcs.dtype) for v in (angle, source.flip(1), target.flip(1)))
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([cosine, sine, -sine, cosine], dim=1).reshape(-1, 2, 2)
    back = (turn * (wcs[:, 2:4] - source).unsqueeze(2)).sum(1)  # the transpose is the inverse
    cd = (wcs[:, 4:].reshape(-1, 2, 2, 1) * turn.unsqueeze(1)).sum(2)
    return torch.cat([wcs[:, :2], target + back, cd.reshape(-1, 4)], dim=1)
