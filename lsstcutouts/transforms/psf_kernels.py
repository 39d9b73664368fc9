"""Kernels that turn one point-spread function into another, and convolution with them, by Fourier transforms."""

import math

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

__all__ = [
    "KOLMOGOROV",
    "Convolution",
    "autocorrelation",
    "centred_profile",
    "fast_length",
    "largest_gain",
    "matching_kernels",
    "matching_transform",
]

KOLMOGOROV = 4.765
"""Exponent of the Moffat profile that is closest to atmospheric turbulence (Trujillo et al. 2001, MNRAS 328, 977)."""

REGULARISATION = 1e-6
"""Weight of the penalty of high frequencies, ``mu`` of Boucaud et al. 2016 (A&A 596, A63).

It acts where the transform of the PSF is below about a thousandth. The default of their program, 1e-4, acts below a hundredth:
a PSF that is 5 % narrower than the target then ends 4 % broader than it, here 1 %.
"""


def centred_profile(fwhm: Tensor, beta: float | None, shape: tuple[int, int]) -> Tensor:
    """Return round profiles ``(N, y, x)`` with the sum 1, centred on the pixel 0, as periodic images have it.

    Parameters
    ----------
    fwhm
        ``(N,)`` full widths at half maximum, pixels.
    beta
        Exponent of a Moffat profile; None for a Gaussian.
    shape
        ``(y, x)`` pixels.
    """
    y, x = (_distance(n, fwhm.device).to(fwhm.dtype) for n in shape)
    square = (y.square().unsqueeze(1) + x.square()) / fwhm.square().reshape(-1, 1, 1)
    # Both are half their peak at half the width.
    if beta is None:
        profile = torch.exp(-4 * math.log(2) * square)
    else:
        profile = (1 + 4 * (2 ** (1 / beta) - 1) * square) ** -beta
    return profile / profile.sum((-2, -1), keepdim=True)


def matching_transform(psf: Tensor, target: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the transforms ``(N, B, shape[0], shape[1] // 2 + 1)`` of kernels that turn PSFs into a target.

    They are ``conj(P) T / (|P|^2 + mu |L|^2)`` with the transforms ``P`` and ``T`` of PSF and target and that of the Laplacian, ``L``
    (Boucaud et al. 2016, A&A 596, A63, equations 9 and 18).

    Parameters
    ----------
    psf
        ``(N, B, y, x)`` with the sum 1, centred; odd sides.
    target
        ``(N, 1, *shape)`` or ``(*shape)`` with the sum 1, centred on the pixel 0 as `centred_profile` has it.
    shape
        Periods of the Fourier transforms, pixels.
    """
    laplacian = _second_difference(shape[0], psf).unsqueeze(1) + _second_difference(shape[1], psf)[: shape[1] // 2 + 1]
    response = _transform(psf, shape)
    return _transform(target, shape) * response.conj() / (_power(response) + REGULARISATION * laplacian.square())


def largest_gain(transform: Tensor) -> Tensor:
    """Return the largest absolute values ``(N, B)`` of transforms of kernels.

    A gain above 1 amplifies noise at some frequency: the target is narrower than the PSF in some direction, or has weaker
    wings.
    """
    return _power(transform).amax((-2, -1)).sqrt()


def matching_kernels(
    transform: Tensor, shape: tuple[int, int], sides: tuple[int, int], psf_sides: tuple[int, int]
) -> Tensor:
    """Return kernels ``(N, B, *sides)`` with the sum 1, centred.

    Parameters
    ----------
    transform, shape
        As `matching_transform` returns and takes them.
    sides, psf_sides
        ``(y, x)`` pixels of the kernels, odd, and of the PSFs.
    """
    half = [n // 2 + k // 2 for n, k in zip(psf_sides, sides, strict=True)]
    kernels = _image(transform, shape).roll(half, (-2, -1))[..., : sides[0], : sides[1]]
    return kernels / kernels.sum((-2, -1), keepdim=True)


def autocorrelation(kernels: Tensor) -> Tensor:
    """Return the autocorrelation ``(..., y, x)`` of kernels ``(..., y, x)``, 1 in the middle, for separations up to half a side."""
    height, width = kernels.shape[-2:]
    shape = fast_length(height + height // 2), fast_length(width + width // 2)
    power = _image(_power(_transform(kernels, shape)) + 0j, shape).roll((height // 2, width // 2), (-2, -1))
    found = power[..., :height, :width]
    return found / found[..., height // 2, width // 2, None, None]


class Convolution:
    """Convolves planes with kernels, linearly: pixels outside the plane count as 0.

    Parameters
    ----------
    kernels
        ``(N, B, ky, kx)``, odd sides.
    shape
        ``(Y, X)`` of the planes, pixels.
    """

    def __init__(self, kernels: Tensor, shape: tuple[int, int]) -> None:
        self._half = kernels.shape[-2] // 2, kernels.shape[-1] // 2
        self._shape = shape
        # What wraps around stays out of the part that is kept; the kernels must fit in.
        lengths = (max(n + k // 2, k) for n, k in zip(shape, kernels.shape[-2:], strict=True))
        self._period = tuple(fast_length(n) for n in lengths)
        self._transform = _transform(kernels, self._period)

    def __call__(self, plane: Tensor) -> Tensor:
        """Return a plane ``(N, B, Y, X)`` convolved with the kernels, on the same pixels."""
        (y, x), (height, width) = self._half, self._shape
        whole = _image(_transform(plane, self._period) * self._transform, self._period)
        return whole[..., y : y + height, x : x + width]


def fast_length(least: int) -> int:
    """Return the smallest length >= ``least`` with no prime factors but 2, 3 and 5, for which Fourier transforms are fast."""
    rest = length = max(1, least)
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return length if rest == 1 else fast_length(length + 1)


def _transform(planes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the transforms ``(..., y, x // 2 + 1)`` of planes, padded with 0 to ``shape``; also of no plane at all."""
    if not planes.shape[0]:  # oneMKL refuses it
        return planes.new_zeros((*planes.shape[:-2], shape[0], shape[1] // 2 + 1)) * 1j
    transform: Tensor = rfft2(planes, s=shape)
    return transform


def _image(transform: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the planes ``(..., *shape)`` of transforms."""
    if not transform.shape[0]:
        return transform.real.new_zeros((*transform.shape[:-2], *shape))
    planes: Tensor = irfft2(transform, s=shape)
    return planes


def _power(transform: Tensor) -> Tensor:
    """Return the squared absolute values of a transform; their root is not needed, and slow."""
    return transform.real.square() + transform.imag.square()


def _distance(period: int, device: torch.device) -> Tensor:
    """Return ``(period,)`` distances of pixels from the pixel 0 around a circle."""
    at = torch.arange(period, device=device)
    return torch.minimum(at, period - at)


def _second_difference(period: int, like: Tensor) -> Tensor:
    """Return the transform ``(period,)`` of the second difference, along one axis."""
    angle = torch.arange(period, device=like.device, dtype=like.dtype) * (2 * math.pi / period)
    return 2 - 2 * angle.cos()
