"""Sersic profiles and their Fourier transforms."""

import math

import torch
from torch import Tensor, nn

from .sky_frame import SkyFrame
from .source_model import Frequencies

__all__ = ["LARGEST_INDEX", "SMALLEST_INDEX", "SersicTable", "rate"]

SMALLEST_INDEX, LARGEST_INDEX = 0.5, 8.0
"""Range of the Sersic index: from a Gaussian on; no measured galaxy is beyond 8."""

STEP = 0.1
"""Distance of the rows of a table in the index; cubic interpolation between them is right to 1e-5 from 0.7 on, 4e-5 below."""

_LARGEST_RATE = 4000.0
"""Last wave number of a table, radians per half-light radius; for an index of 4 the transform is 3e-6 there."""

_COLUMNS = 2048
_ANGLES = 400
"""Nodes of the integral over the angle of a stable law; with them the transform is right to 1e-6."""


def rate(index: Tensor) -> Tensor:
    """Return ``b``, for which the profile ``exp(-b r**(1/n))`` has half its flux within ``r = 1``; any shape.

    The root of ``P(2n, b) = 1/2``, by Newton's method; start: Ciotti & Bertin 1999, A&A 352, 447.
    """
    n = index.to(torch.float64)
    b = 2 * n - 1 / 3 + 4 / (405 * n)
    for _ in range(4):
        slope = torch.exp((2 * n - 1) * b.log() - b - torch.lgamma(2 * n))
        b = b - (torch.special.gammainc(2 * n, b) - 0.5) / slope
    return b.to(index.dtype)


class SersicTable(nn.Module):
    """Fourier transforms of Sersic profiles with a flux and a half-light radius of 1, for a range of the index ``n``.

    ``exp(-b r**(1/n))`` is a mixture of Gaussians, whose density is a stable law (Zolotarev 1986, One-dimensional Stable
    Distributions, theorem 2.5.2; Kanter 1975, Ann. Probab. 3, 697): all terms are positive, so that there is no cancellation as
    there is in an integral over Bessel functions.

    Parameters
    ----------
    low, high
        Range of the index.
    """

    rows: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.step = (high - low) / max(1, math.ceil((high - low) / STEP)) or STEP
        count = round((high - low) / self.step) + 1
        rows = torch.stack([_transform(low + i * self.step) for i in range(count)])
        self.register_buffer("rows", rows, persistent=False)  # the columns are even in log(1 + q)

    def transform(self, parameters: dict[str, Tensor], frame: SkyFrame, frequencies: Frequencies) -> Tensor:
        """Return the transform ``(N, 1, P, P // 2 + 1)`` of elliptical profiles.

        Parameters
        ----------
        parameters
            ``index``, ``radius`` (half-light, along the major axis, arcsec), ``axis_ratio`` and ``angle`` (degrees), ``(N,)``.
        frame, frequencies
            See `SourceModel.transform`.
        """
        along, across = frame.along(parameters["angle"])
        radius = parameters["radius"].unsqueeze(1)
        major = frequencies.along(along * radius)
        minor = frequencies.along(across * radius * parameters["axis_ratio"].unsqueeze(1))
        wave_number = torch.hypot(major, minor).mul_(2 * math.pi)
        return _looked_up(self._rows_of(parameters["index"]), wave_number).unsqueeze(1)

    def _rows_of(self, index: Tensor) -> Tensor:
        """Return the transform for each index ``(N,)``, ``(N, columns)``."""
        count = len(self.rows)
        if count == 1:
            return self.rows.expand(len(index), -1)
        at = ((index - self.low) / self.step).clamp(0, count - 1)
        taps = min(4, count)
        first = (at.floor() - (taps // 2 - 1)).clamp(0, count - taps).to(torch.int64)
        total = torch.zeros((), device=at.device)
        for i in range(taps):  # Lagrange's polynomial through the nearest rows
            weight = torch.ones_like(at)
            for j in range(taps):
                if j != i:
                    weight = weight * (at - (first + j)) / (i - j)
            total = total + weight.unsqueeze(1) * self.rows[first + i]
        return total


def _looked_up(table: Tensor, wave_number: Tensor) -> Tensor:
    """Return values of a table ``(N, columns)`` at wave numbers ``(N, ...)`` in radians per half-light radius."""
    shape, columns = wave_number.shape, table.shape[1]
    at = wave_number.flatten(1).log1p().mul_((columns - 1) / math.log1p(_LARGEST_RATE)).clamp_(max=columns - 1.001)
    left = at.to(torch.int64)
    low = table.gather(1, left)
    return low.add_((table.gather(1, left + 1) - low).mul_(at - left)).reshape(shape)


def _transform(index: float) -> Tensor:
    """Return the transform of a profile at the columns of a table, ``(columns,)`` float32."""
    q = torch.linspace(0, math.log1p(_LARGEST_RATE), _COLUMNS, dtype=torch.float64).expm1()
    b = rate(torch.tensor(index, dtype=torch.float64))
    if index < SMALLEST_INDEX + 1e-6:
        return (-(q**2) / (4 * b)).exp().to(torch.float32)
    weight, log_x = _mixture(1 / (2 * index))
    width = 4 * (log_x + 2 * index * b.log()).exp()
    terms = weight.unsqueeze(1) * (-(q**2) / width.unsqueeze(1)).exp()
    return terms.sum(0).to(torch.float32)


def _mixture(alpha: float) -> tuple[Tensor, Tensor]:
    """Return weights (sum 1) and logarithms of ``x`` of ``exp(-s**alpha) ~ sum(weight * x * exp(-x * s))``."""
    power = alpha / (1 - alpha)
    u = torch.arange(_ANGLES, dtype=torch.float64) * (math.pi / _ANGLES)
    u[0] = 1e-9  # the limit; its weight is half in the trapezoidal rule
    log_a = (alpha * (alpha * u).sin().log() + (1 - alpha) * ((1 - alpha) * u).sin().log() - u.sin().log()) / (
        1 - alpha
    )
    t = torch.arange(-max(40.0, 14 * power), 6.0, 0.08, dtype=torch.float64) - log_a[0]  # -power * log x
    density = (log_a.unsqueeze(1) + t - (log_a.unsqueeze(1) + t).exp()).exp()
    log_x = -t / power
    weight = (density.sum(0) - density[0] / 2) * (-log_x).exp()
    keep = weight > 1e-12 * weight.max()
    return weight[keep] / weight.sum(), log_x[keep]
