"""Images of sources convolved with the PSF, computed in Fourier space."""

import math

import torch
from torch import Tensor

from .sky_frame import SkyFrame
from .source_model import Frequencies, SourceModel

__all__ = ["odd_side", "rendered"]

_MOST_BYTES = 64_000_000
"""Of the images that are computed at once."""


def odd_side(least: int) -> int:
    """Return the smallest side >= ``least`` with no prime factors but 3, 5 and 7: no frequency is its own negative."""
    side = least | 1
    while _rough_part(side) != 1:
        side += 2
    return side


def _rough_part(n: int) -> int:
    for prime in (3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n


def rendered(
    model: SourceModel,
    parameters: dict[str, Tensor],
    frame: SkyFrame,
    psf: Tensor,
    fraction: Tensor,
    side: int,
) -> Tensor:
    """Return images of sources with a flux of 1 in each band, ``(N, B, side, side)`` float32.

    Parameters
    ----------
    model, parameters, frame
        The sources.
    psf
        ``(N, B, y, x)`` kernels with odd sides and a sum of 1, band-limited: a source between pixels is interpolated exactly.
    fraction
        ``(N, 2)`` position of each source as ``(y, x)``, pixels from the pixel in the middle of the image.
    side
        Odd; the image repeats with this period, so that light from beyond one edge enters at the other.
    """
    each = max(1, _MOST_BYTES // (4 * psf.shape[1] * side**2))
    parts = []
    for start in range(0, len(psf), each):
        rows = slice(start, start + each)
        some = {name: values[rows] for name, values in parameters.items()}
        parts.append(_rendered(model, some, frame.rows(rows), psf[rows], fraction[rows], side))
    return torch.cat(parts) if parts else psf.new_zeros(0, psf.shape[1], side, side)


def _rendered(
    model: SourceModel, parameters: dict[str, Tensor], frame: SkyFrame, psf: Tensor, fraction: Tensor, side: int
) -> Tensor:
    # float64, as a phase is the product with up to hundreds of pixels.
    y = torch.fft.fftfreq(side, dtype=torch.float64, device=psf.device)
    x = torch.fft.rfftfreq(side, dtype=torch.float64, device=psf.device)
    spectrum = torch.fft.rfft2(psf.to(torch.float32), s=(side, side))
    middle = [side // 2 - n // 2 for n in psf.shape[-2:]]
    along_y, along_x = (_waves(at, fraction[:, i] + middle[i]) for i, at in enumerate((y, x)))
    spectrum *= (along_y.unsqueeze(2) * along_x.unsqueeze(1)).unsqueeze(1)
    frequencies = Frequencies(y.to(torch.float32).unsqueeze(1), x.to(torch.float32))
    images: Tensor = torch.fft.irfft2(spectrum * model.transform(parameters, frame, frequencies), s=(side, side))
    return images


def _waves(frequency: Tensor, by: Tensor) -> Tensor:
    """Return the factors ``(N, frequencies)`` complex64 that shift by ``(N,)`` pixels."""
    phase = by.to(torch.float64).unsqueeze(1) * frequency * (-2 * math.pi)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
