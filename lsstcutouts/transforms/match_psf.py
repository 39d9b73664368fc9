"""Convolution of every band to one point-spread function."""

import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..plan.quality import Quality
from ..plan.read_options import check_choice
from .augmentation import checked_number, checked_size, required_tensor
from .batch import TensorBatch
from .planes import pixel_planes, pixel_sides
from .psf_kernels import (
    KOLMOGOROV,
    Convolution,
    autocorrelation,
    centred_profile,
    fast_length,
    largest_gain,
    matching_kernels,
    matching_transform,
)
from .resampling import window
from .shift import positions_from

__all__ = ["WORST", "MatchPsf"]

WORST: Final = "worst"
"""The target that is fitted to the training split."""

_LEAST_WEIGHT = 0.1
"""Pixels whose valid neighbours have less of the kernel's weight than this become 0."""


class MatchPsf(nn.Module):
    """Convolve every band of every target to the same point-spread function.

    The kernel of each band is computed from its ``psf`` (see `~lsstcutouts.transforms.psf_kernels.matching_transform`) and applied by
    Fourier transforms on the device of the batch, in float32 or, for float64 images, in float64; also where other transforms
    are compiled, it is not. It keeps the flux. The planes must include ``psf``.

    Pixels that are not valid, not finite or outside the cutout have no weight, and the weights of the others are scaled to
    the sum 1. A pixel is ``valid`` afterwards if at most ``max_invalid`` of the weight is missing; pixels without valid
    neighbours are 0. Pixels that are not finite remain so if they are not valid afterwards.
    To have valid pixels up to the edge, read larger cutouts and set ``size``. ``mask`` bits spread over the
    rows and columns that have more than ``max_invalid`` of the weight.

    ``variance`` is the sum with squared weights, which is correct for noise that is independent between pixels; ``ivar`` is its
    inverse, and 0 where pixels are not valid. The noise of the result is correlated between neighbouring pixels: the variance
    of each pixel is correct, but the variance of a sum of pixels is larger than the sum of their variances. The batch gets
    ``noise_correlation``, ``(N, B)`` float32: the standard deviation of a sum over an area much larger than the kernel,
    divided by what independent pixels would have. `noise_correlation` returns the correlation itself.

    ``psf`` becomes what the PSF is afterwards: the PSF convolved with the kernel. A band without PSF becomes absent: 0 in every
    plane, ``band_present`` and ``psf_present`` false, the bit ``NO_PSF`` set in ``quality``. So does a band whose PSF is broader than
    the target, with the bit ``BROAD_PSF``, if ``broader`` is ``"absent"``.

    Parameters
    ----------
    target
        Full width at half maximum of the target PSF, arcseconds; or the target PSF itself, a ``(y, x)`` array, nested list or
        ``.npy`` file, odd and centred, on the pixels of the cutouts; or ``"worst"``: a width for which no PSF in a sample of
        the training split is too broad. The data module fits it (see `~lsstcutouts.transforms.worst_psf.worst_psf`) and keeps it in the checkpoint.
    beta
        Exponent of the Moffat profile of the target; None for a Gaussian. Without effect if the target is an array.
    broader
        What happens if a PSF is broader than the target: ``"raise"`` raises an error, ``"absent"`` makes the band absent. By
        default ``"absent"`` for ``target="worst"``, otherwise ``"raise"``. To raise, the CPU has to wait for a GPU.
    max_gain
        A PSF is too broad if its kernel amplifies any spatial frequency by more than this factor.
    max_invalid
        Largest fraction of the kernel's weight that may be missing at a valid pixel.
    size
        Size of the output in pixels, or ``(height, width)``; by default that of the input.
    sample
        Number of targets of the training split that ``"worst"`` is fitted to.
    quantile
        Fraction of the PSFs of this sample that ``"worst"`` must be broad enough for.
    missing_band
        Value of bands that become absent, as in the data module: ``"zero"`` or ``"nan"``.
    """

    stages: ClassVar[tuple[str, ...]] = ("train", "val", "test", "predict")
    needed_planes: ClassVar[tuple[str, ...]] = ("psf",)

    _kernel: Tensor | None

    def __init__(
        self,
        target: float | str | os.PathLike[str] | Sequence[Sequence[float]] = WORST,
        *,
        beta: float | None = KOLMOGOROV,
        broader: Literal["raise", "absent"] | None = None,
        max_gain: float = 1.25,
        max_invalid: float = 0.05,
        size: int | Sequence[int] | None = None,
        sample: int = 1000,
        quantile: float = 1.0,
        missing_band: Literal["zero", "nan"] = "zero",
    ) -> None:
        super().__init__()
        self.target = _checked_target(target)
        kernel = torch.tensor(self.target, dtype=torch.float64) if isinstance(self.target, list) else None
        # The file or list is an argument, and a checkpoint keeps arguments.
        self.register_buffer("_kernel", kernel, persistent=False)
        self.fwhm = self.target if isinstance(self.target, float) else None
        self.beta = None if beta is None else checked_number("beta", beta, 1.1)
        if broader is not None:
            check_choice("broader", broader, ("raise", "absent"))
        check_choice("missing_band", missing_band, ("zero", "nan"))
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
            raise ConfigurationError(f"sample must be an integer >= 1, got {sample!r}")
        self.broader, self.missing_band, self.sample = broader, missing_band, sample
        self.max_gain = checked_number("max_gain", max_gain, 1)
        self.max_invalid = checked_number("max_invalid", max_invalid, 1e-3, 0.5)
        self.quantile = checked_number("quantile", quantile, 0, 1)
        self.size = checked_size(size)

    @property
    def fitted(self) -> bool:
        """Whether the target is known: always, unless it is ``"worst"`` and `fit` was not called yet."""
        return self.fwhm is not None or self._kernel is not None

    def fit(self, fwhm: float) -> Self:
        """Set the full width at half maximum of the target, arcseconds."""
        self.fwhm = checked_number("fwhm", fwhm, 1e-3)
        return self

    def kernels(self, batch: TensorBatch) -> Tensor:
        """Return the kernels ``(N, B, ky, kx)`` of a batch that has not been matched yet, odd and centred, with the sum 1.

        The sides are those of the PSF, or of the target if it is a larger array. A band without PSF has the target as its kernel.

        Raises
        ------
        ConfigurationError
            As `forward`.
        """
        return self._kernels(*self._matching(batch)[:2])

    def gains(self, batch: TensorBatch) -> Tensor:
        """Return the largest gains ``(N, B)`` of the kernels, which ``max_gain`` limits."""
        return largest_gain(self._matching(batch)[1])

    def noise_correlation(self, batch: TensorBatch) -> Tensor:
        """Return the correlation ``(N, B, ky, kx)`` of the noise that matching causes in a batch that has not been matched yet.

        It is for pixels separated by ``(y, x)``; in the middle, for the same pixel, it is 1. It is that of the kernel with itself, as
        for input noise that is independent between pixels.
        """
        return autocorrelation(self.kernels(batch))

    # Inductor generates no code for complex numbers: it would warn, and be slower.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # of torch
    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Convolve all planes ``(N, B, Y, X)`` of the batch.

        Raises
        ------
        ConfigurationError
            If the batch has no ``psf`` or no ``wcs``, a PSF is broader than the target and ``broader`` is ``"raise"``, the target
            was not fitted, or the cutouts are smaller than ``size``.
        """
        sides = pixel_sides(batch, "MatchPsf")
        psf, transform, usable = self._matching(batch)
        kernels, gains = self._kernels(psf, transform), largest_gain(transform)
        broad = usable & (gains > self.max_gain)
        if self._raises and bool(broad.any()):
            raise ConfigurationError(self._too_broad(broad, gains))
        matched = {
            **self._convolved(batch, kernels, sides),
            "psf": Convolution(kernels, (psf.shape[-2], psf.shape[-1]))(psf),
        }
        own = required_tensor(batch, "psf", "MatchPsf")
        # The PSF keeps its sum.
        matched["psf"] = (matched["psf"] * own.sum((-2, -1), keepdim=True, dtype=psf.dtype)).to(own.dtype)
        matched["noise_correlation"] = kernels.square().sum((-2, -1)).rsqrt().float()
        matched |= self._without(batch, matched, usable, broad)
        return self._cropped({**batch, **matched}, sides)

    @property
    def _raises(self) -> bool:
        return self.broader == "raise" or (self.broader is None and self.target != WORST)

    def _matching(self, batch: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised PSFs ``(N, B, y, x)``, a point where there is none; transforms of the kernels; which PSFs there are."""
        if not self.fitted:
            raise ConfigurationError(
                "MatchPsf(target='worst') has not been fitted. Pass it to the data module as augmentations= and call setup with a "
                "training split, or call fit(fwhm); for prediction use the data module of the checkpoint"
            )
        given = required_tensor(batch, "psf", "MatchPsf")
        image = batch.get("image")
        double = isinstance(image, Tensor) and image.dtype == torch.float64
        psf = given.to(torch.float64 if double else torch.float32)
        total = psf.sum((-2, -1))
        usable = torch.isfinite(total) & (total > 0)
        for name in ("psf_present", "band_present"):
            if isinstance(present := batch.get(name), Tensor):
                usable = usable & present
        height, width = psf.shape[-2:]
        point = torch.zeros_like(psf[:1, :1])
        point[..., height // 2, width // 2] = 1
        psf = torch.where(usable[..., None, None], psf / total[..., None, None], point)
        shape = self._period((height, width))
        return psf, matching_transform(psf, self._target(batch, shape, psf.dtype), shape), usable

    def _kernels(self, psf: Tensor, transform: Tensor) -> Tensor:
        sides = psf.shape[-2], psf.shape[-1]
        return matching_kernels(transform, self._period(sides), self._sides(sides), sides)

    def _sides(self, psf_sides: tuple[int, int]) -> tuple[int, int]:
        """Return the sides of the kernels."""
        other = psf_sides if self._kernel is None else self._kernel.shape
        return max(psf_sides[0], other[0]), max(psf_sides[1], other[1])

    def _period(self, psf_sides: tuple[int, int]) -> tuple[int, int]:
        """Return the periods of the transforms of the kernels: what wraps around stays out of PSF and kernel."""
        height, width = self._sides(psf_sides)
        return fast_length(height + psf_sides[0] // 2), fast_length(width + psf_sides[1] // 2)

    def _target(self, batch: TensorBatch, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the target ``(N, 1, *shape)`` or ``(*shape)``, centred on the pixel 0."""
        if self._kernel is not None:
            height, width = self._kernel.shape
            padded = nn.functional.pad(self._kernel, (0, shape[1] - width, 0, shape[0] - height))
            return padded.roll((-(height // 2), -(width // 2)), (0, 1)).to(dtype)
        cd = required_tensor(batch, "wcs", "MatchPsf")[:, 4:]
        area = (cd[:, 0] * cd[:, 3] - cd[:, 1] * cd[:, 2]).abs()  # square degrees
        # A target without any band has no WCS.
        pixels = (self.fwhm or 0.0) / 3600 / torch.where(area > 0, area, 1.0).sqrt()
        return centred_profile(pixels.to(dtype).clamp(min=1e-3), self.beta, shape).unsqueeze(1)

    def _convolved(self, batch: TensorBatch, kernels: Tensor, sides: tuple[int, int]) -> dict[str, Tensor]:
        """Return all planes convolved, as the class describes."""
        planes = pixel_planes(batch)
        good = torch.ones((), dtype=torch.bool, device=kernels.device).expand(*kernels.shape[:2], *sides)
        for name, plane in planes.items():
            if name != "mask":
                good = good & (plane if name == "valid" else torch.isfinite(plane))
        if "ivar" in planes:
            good = good & (planes["ivar"] > 0)
        linear, squared = Convolution(kernels, sides), None
        if "variance" in planes or "ivar" in planes:
            squared = Convolution(kernels.square(), sides)
        weight = linear(good.to(kernels.dtype))
        valid = (weight - 1).abs() <= self.max_invalid
        empty = weight < _LEAST_WEIGHT
        weight = weight.masked_fill(empty, 1)
        found: dict[str, Tensor] = {}
        for name, plane in planes.items():
            values = plane.to(kernels.dtype)
            if name == "image":
                matched = linear(torch.where(good, values, 0)) / weight
            elif name == "mask":
                matched = self._spread(plane, kernels)
            elif name == "valid" or squared is None:
                matched = valid
            else:
                inverse = name == "ivar"
                matched = squared(torch.where(good, 1 / values if inverse else values, 0)) / weight.square()
                if inverse:
                    matched = torch.where(valid & (matched > 0), 1 / matched, 0)
            if name in {"image", "variance"}:
                matched = torch.where(valid | torch.isfinite(values), matched.masked_fill(empty, 0), values)
            found[name] = torch.empty_like(plane).copy_(matched)  # in the type and the memory format of the plane
        return found

    def _spread(self, mask: Tensor, kernels: Tensor) -> Tensor:
        """Return the bitwise or of the mask over the rows, then the columns, that have much of the kernels' weight."""
        for axis in (-2, -1):
            share = kernels.abs().sum(-3 - axis)
            much = share > self.max_invalid * share.sum(-1, keepdim=True)  # (N, B, k)
            half, length = much.shape[-1] // 2, mask.shape[axis]
            spread = torch.zeros_like(mask)
            for at in range(max(0, half + 1 - length), min(2 * half + 1, half + length)):
                # A kernel's pixel at + half takes from the pixel at - half before.
                by = at - half
                bits = -much[..., at, None, None].to(mask.dtype)
                some = length - abs(by)
                spread.narrow(axis, max(by, 0), some).bitwise_or_(mask.narrow(axis, max(-by, 0), some) & bits)
            mask = spread
        return mask

    def _without(
        self, batch: TensorBatch, matched: dict[str, Tensor], usable: Tensor, broad: Tensor
    ) -> dict[str, Tensor]:
        """Return the entries of the batch in which bands without a suitable PSF are absent."""
        present = batch.get("band_present")
        there = present if isinstance(present, Tensor) else torch.ones_like(usable)
        lost = (there & ~usable) | broad
        changed = {"band_present": there & ~lost, "psf_present": usable & ~broad}
        if isinstance(quality := batch.get("quality"), Tensor):
            bits = (there & ~usable) * int(Quality.NO_PSF) + broad * int(Quality.BROAD_PSF)
            changed["quality"] = quality | bits.to(quality.dtype)
        for name, plane in matched.items():
            if name == "noise_correlation":
                changed[name] = plane.masked_fill(~usable | broad, 1)
                continue
            missing = math.nan if self.missing_band == "nan" and name in {"image", "variance"} else 0
            cleared = ~usable | broad if name == "psf" else lost
            changed[name] = plane.masked_fill_(cleared[..., None, None], missing)
        return changed

    def _cropped(self, batch: TensorBatch, sides: tuple[int, int]) -> TensorBatch:
        """Return the central ``size`` pixels."""
        if self.size is None or self.size == sides:
            return batch
        if self.size[0] > sides[0] or self.size[1] > sides[1]:
            raise ConfigurationError(f"MatchPsf: size={self.size} is larger than the cutouts of {sides} pixels")
        start = torch.zeros_like(required_tensor(batch, "offset", "MatchPsf"))
        start[:, 0] += (sides[0] - self.size[0]) // 2
        start[:, 1] += (sides[1] - self.size[1]) // 2
        cut = {name: window(plane, start.to(torch.int64), *self.size) for name, plane in pixel_planes(batch).items()}
        return {**batch, **cut, **positions_from(batch, start, sides, self.size, "MatchPsf")}

    def _too_broad(self, broad: Tensor, gains: Tensor) -> str:
        n, band = (int(i) for i in broad.nonzero()[0])
        target = "the target" if self.fwhm is None else f"the target of {self.fwhm:g} arcsec"
        return (
            f"MatchPsf: {int(broad.sum())} of {broad.numel()} PSFs of the batch are broader than {target} in some direction; the first is that "
            f"of target {n} of the batch, channel {band}, which needs a gain of {float(gains[n, band]):.2f}. Use a broader target or "
            "target='worst', or remove such bands with broader='absent'"
        )


def _checked_target(target: Any) -> float | str | list[list[float]]:
    """Return a width, ``"worst"`` or a kernel with the sum 1 as a nested list."""
    if isinstance(target, str) and target == WORST:
        return WORST
    if isinstance(target, bool | int | float | np.number):
        return checked_number("target", target.item() if isinstance(target, np.number) else target, 1e-3)
    try:
        if isinstance(target, str | os.PathLike):
            target = np.load(target, allow_pickle=False)
        rows = [[float(value) for value in row] for row in target]
        kernel = np.array(rows)
    except (OSError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"target must be a width in arcsec, 'worst', or a (y, x) array, nested list or .npy file, got {target!r} ({error})"
        ) from error
    if kernel.ndim != 2 or not all(n % 2 for n in kernel.shape):
        raise ConfigurationError(f"target must be a (y, x) kernel with odd sides, got the shape {kernel.shape}")
    if not np.isfinite(kernel).all() or not kernel.sum() > 0:
        raise ConfigurationError("target must be a kernel of finite numbers with a positive sum")
    scaled: list[list[float]] = (kernel / kernel.sum()).tolist()
    return scaled
