"""Shifts by whole pixels and by parts of them."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augmentation import Augmentation, add_per_axis, checked_number, checked_size
from .batch import TensorBatch
from .hashing import random_uniform
from .planes import pixel_planes, pixel_sides
from .resampling import KERNELS, ShiftSampler, check_kernel, resampled, window

__all__ = ["RandomShift"]


class RandomShift(Augmentation):
    """Move each target within its cutout, on both axes, by up to so many pixels.

    Every plane moves alike, and so do ``offset``, ``wcs`` and ``yx0``; ``psf`` stays, it is centred on the target. What
    enters at an edge is 0 in every plane and not ``valid``: fetch larger cutouts and give ``size``, then nothing enters.

    Shifts by whole pixels change no value. With ``subpixel`` each pixel is a weighted sum of its neighbours, as
    `~lsstcutouts.transforms.resampling.resampled` says of each plane: the noise becomes smaller and neighbouring pixels
    correlated, least with ``"quintic"``, most with ``"bilinear"``; a pixel that is not valid spoils all those that it
    contributes to. ``yx0`` is then the tract pixel nearest to the first pixel. The choice repeats, as `Augmentation` says.

    Parameters
    ----------
    max_shift
        Pixels, whole ones unless ``subpixel``.
    size
        Pixels of the cutouts that come out, or ``(height, width)``; by default those that come in.
    subpixel
        Whether shifts are any number of pixels, not whole ones.
    kernel
        What weighs the neighbours: ``"quintic"`` (6 x 6 pixels), ``"cubic"`` (4 x 4) or ``"bilinear"`` (2 x 2).
    seed
        Chooses among series of choices.
    """

    def __init__(
        self,
        max_shift: float,
        size: int | Sequence[int] | None = None,
        *,
        subpixel: bool = False,
        kernel: Literal["bilinear", "cubic", "quintic"] = "quintic",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.max_shift, self.size = checked_number("max_shift", max_shift, 0), checked_size(size)
        self.subpixel, self.kernel = subpixel, check_kernel(kernel)
        if not subpixel and self.max_shift % 1:
            raise ConfigurationError(f"max_shift={max_shift!r} is no whole number of pixels; that needs subpixel=True")

    def shifts(self, batch: TensorBatch) -> Tensor:
        """Return ``(N, 2)`` float32 pixels, ``(y, x)``, by which the targets move."""
        even = random_uniform(self.keys(batch), 2)
        if self.subpixel:
            return (2 * even - 1) * self.max_shift
        # Rounding may make the largest number below 1 the whole product.
        return (even * (2 * self.max_shift + 1)).floor().clamp(max=2 * self.max_shift) - self.max_shift

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Move all planes ``(N, B, Y, X)`` of the batch."""
        sides = pixel_sides(batch, "RandomShift")
        height, width = self.size or sides
        base = [(old - new) // 2 for old, new in zip(sides, (height, width), strict=True)]
        self._check_margin(sides)
        start = -add_per_axis(self.shifts(batch), [-b for b in base])  # (N, 2)
        if self.subpixel:
            moved = resampled(batch, ShiftSampler(start, height, width, self.kernel))
        else:
            whole = start.to(torch.int64)
            moved = {name: window(plane, whole, height, width) for name, plane in pixel_planes(batch).items()}
        return {**batch, **moved, **self._positions(batch, start, sides, (height, width))}

    def _positions(
        self, batch: TensorBatch, start: Tensor, old: tuple[int, int], new: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return what the batch says about positions, with the first pixel at another one."""
        offset, yx0, wcs = self.required(batch, "offset"), batch.get("yx0"), batch.get("wcs")
        middle = [(b - a) / 2 for a, b in zip(old, new, strict=True)]
        positions = {"offset": offset - add_per_axis(start, middle)}
        if isinstance(yx0, Tensor):
            positions["yx0"] = yx0 + (start + 0.5).floor().to(yx0.dtype)
        if isinstance(wcs, Tensor):
            positions["wcs"] = torch.cat([wcs[:, :2], wcs[:, 2:4] - start.flip(1).to(wcs.dtype), wcs[:, 4:]], dim=1)
        return positions

    def _check_margin(self, sides: tuple[int, int]) -> None:
        if self.size is None:
            return
        reach = KERNELS[self.kernel] // 2 if self.subpixel else 0
        least = [new + 2 * (math.ceil(self.max_shift) + reach) for new in self.size]
        if any(old < wanted for old, wanted in zip(sides, least, strict=True)):
            raise ConfigurationError(
                f"cutouts of {sides[0]} x {sides[1]} pixels are too small to be moved by {self.max_shift:g} and cut to "
                f"{self.size[0]} x {self.size[1]}; fetch {least[0]} x {least[1]} or more"
            )
