"""Shifts by integer and fractional numbers of pixels."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .augmentation import Augmentation, add_per_axis, checked_number, checked_size, checked_switch, required_tensor
from .batch import TensorBatch
from .hashing import random_uniform
from .planes import pixel_planes, pixel_sides
from .resampling import KERNELS, ShiftSampler, check_kernel, resampled, window

__all__ = ["RandomShift", "positions_from"]


class RandomShift(Augmentation):
    """Shift each target by a random number of pixels along both axes.

    All planes, ``offset``, ``wcs`` and ``yx0`` shift together; ``psf`` does not change, as it is centred on the target.
    Pixels from outside the cutout are 0 and not ``valid``; to avoid them, read larger cutouts and set ``size``.

    Integer shifts change no pixel value. With ``subpixel`` the pixels are interpolated as
    `~lsstcutouts.transforms.resampling.resampled` describes. Interpolation reduces the noise and correlates neighbouring
    pixels, least with ``"quintic"`` and most with ``"bilinear"``. Output pixels to which an invalid pixel contributes are
    invalid. ``yx0`` is then the tract pixel nearest to the first pixel. The random choice is reproducible; see `Augmentation`.

    Parameters
    ----------
    max_shift
        Largest shift in pixels; an integer unless ``subpixel``.
    size
        Size of the output in pixels, or ``(height, width)``; by default that of the input.
    subpixel
        Whether to shift by fractional numbers of pixels.
    kernel
        Interpolation kernel: ``"quintic"`` (6 x 6 pixels), ``"cubic"`` (4 x 4) or ``"bilinear"`` (2 x 2).
    seed
        Seed of the random numbers.
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
        self.subpixel, self.kernel = checked_switch("subpixel", subpixel), check_kernel(kernel)
        if not subpixel and self.max_shift % 1:
            raise ConfigurationError(f"max_shift={max_shift!r} is not an integer; use an integer or set subpixel=True")

    def shifts(self, batch: TensorBatch) -> Tensor:
        """Return ``(N, 2)`` float32 shifts of the targets in pixels, ``(y, x)``."""
        even = random_uniform(self.keys(batch), 2)
        if self.subpixel:
            return (2 * even - 1) * self.max_shift
        # float32 rounding can turn a number just below 1 into the full product.
        return (even * (2 * self.max_shift + 1)).floor().clamp(max=2 * self.max_shift) - self.max_shift

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Shift all planes ``(N, B, Y, X)`` of the batch.

        Raises
        ------
        ConfigurationError
            If the cutouts are too small for ``size`` and ``max_shift``, or a needed entry is missing.
        """
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
        return {**batch, **moved, **positions_from(batch, start, sides, (height, width), "RandomShift")}

    def _check_margin(self, sides: tuple[int, int]) -> None:
        if self.size is None:
            return
        reach = KERNELS[self.kernel] // 2 if self.subpixel else 0
        least = [new + 2 * (math.ceil(self.max_shift) + reach) for new in self.size]
        if any(old < wanted for old, wanted in zip(sides, least, strict=True)):
            raise ConfigurationError(
                f"cutouts of {sides[0]} x {sides[1]} pixels are too small to be shifted by up to {self.max_shift:g} pixels and cut to "
                f"{self.size[0]} x {self.size[1]}; fetch {least[0]} x {least[1]} or more"
            )


def positions_from(
    batch: TensorBatch, start: Tensor, old: tuple[int, int], new: tuple[int, int], by: str
) -> dict[str, Tensor]:
    """Return ``offset``, ``yx0`` and ``wcs`` for cutouts whose first pixel is at ``start``.

    Parameters
    ----------
    start
        ``(N, 2)`` as ``(y, x)``, pixels of the input.
    old, new
        ``(height, width)`` of input and output.
    by
        Class that needs them, for messages.
    """
    offset, yx0, wcs = required_tensor(batch, "offset", by), batch.get("yx0"), batch.get("wcs")
    middle = [(b - a) / 2 for a, b in zip(old, new, strict=True)]
    positions = {"offset": offset - add_per_axis(start, middle)}
    if isinstance(yx0, Tensor):
        positions["yx0"] = yx0 + (start + 0.5).floor().to(yx0.dtype)
    if isinstance(wcs, Tensor):
        positions["wcs"] = torch.cat([wcs[:, :2], wcs[:, 2:4] - start.flip(1).to(wcs.dtype), wcs[:, 4:]], dim=1)
    return positions
