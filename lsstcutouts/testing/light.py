"""Images of sources: each is drawn as a stamp on a large image, which is then convolved with the point-spread function.

A stamp is one source convolved with a narrow Gaussian, so that it is well sampled. It is the same in every band except
for its flux. The rest of the point-spread function is applied to the whole image in Fourier space.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX, Box

__all__ = ["Kind", "PointSpread", "Sources", "paint"]

SMOOTHING = 1.0
"""Sigma in pixels of the Gaussian of the stamps; smaller than the core of every point-spread function used here."""

SUBPIXELS = 3
LARGEST_STAMP = 72
"""Largest distance in pixels from the centre of a stamp to its edge."""

EXPONENTIAL_RATE = 1.678
"""Exponent of the exponential profile per half-light radius: the profile is ``exp(-rate * r / half_light_radius)``."""


class Kind(IntEnum):
    """Profile of a source, which defines the meaning of the ``shape`` columns."""

    POINT = 0
    EXPONENTIAL = 1
    """``(radius, axis ratio, angle)``"""
    DE_VAUCOULEURS = 2
    """``(radius, axis ratio, angle)``"""
    ARC = 3
    """``(source radius, lens axis ratio, lens angle, Einstein radius, source y, source x)``"""
    SPIRAL = 4
    """``(radius, axis ratio, angle, arm strength, pitch, phase)``"""


# Exponential and de Vaucouleurs profiles as sums of Gaussians, in units of the half-light radius: D. W. Hogg & D. Lang 2013,
# PASP 125, 719, as (relative flux, variance).
_EXPONENTIAL = np.array(
    [
        (2.34853813e-03, 1.20078965e-03),
        (3.07995260e-02, 8.84526493e-03),
        (2.23364214e-01, 3.91463084e-02),
        (1.17949102e00, 1.39976817e-01),
        (4.33873750e00, 4.60962500e-01),
        (5.99820770e00, 1.50159566e00),
    ]
)
_DE_VAUCOULEURS = np.array(
    [
        (4.26347652e-02, 2.23759216e-04),
        (2.40127183e-01, 1.00220099e-03),
        (6.85907632e-01, 4.18731126e-03),
        (1.51937350e00, 1.69432589e-02),
        (2.83627243e00, 6.84850479e-02),
        (4.46467501e00, 2.87207080e-01),
        (5.72440830e00, 1.33320254e00),
        (5.60989349e00, 8.40215071e00),
    ]
)
_MIXTURE = {
    Kind.POINT: np.array([(1.0, 0.0)]),
    Kind.EXPONENTIAL: _EXPONENTIAL,
    Kind.DE_VAUCOULEURS: _DE_VAUCOULEURS,
}


@dataclass(frozen=True)
class Sources:
    """Sources as a struct of arrays.

    Attributes
    ----------
    y, x
        ``(N,)`` positions, tract pixels.
    kind
        ``(N,)`` values of `Kind`.
    shape
        ``(N, 6)`` shape parameters; see `Kind`. Radii in pixels, angles in radians.
    flux
        ``(N, B)`` total flux, nJy.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    kind: NDArray[np.int64]
    shape: NDArray[np.float64]
    flux: NDArray[np.float64]

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Return the sources of all parts, in order."""
        columns = zip(*((p.y, p.x, p.kind, p.shape, p.flux) for p in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def reach(self) -> NDArray[np.int64]:
        """``(N,)`` distance from the centre of each stamp to its edge, pixels."""
        radius, extra = self.shape[:, 0], self.shape[:, 3]
        wide = np.select(
            [self.kind == Kind.POINT, self.kind == Kind.DE_VAUCOULEURS, self.kind == Kind.ARC],
            [0.0 * radius, 8.0 * radius, 2.0 * extra + 4.0 * radius],
            4.5 * radius,
        )
        return np.minimum(LARGEST_STAMP, np.ceil(wide + 6.0 * SMOOTHING)).astype(np.int64)

    def near(self, box: Box) -> Self:
        """Return the sources whose stamps touch a box."""
        reach = self.reach() + 1
        rows = (self.y + reach >= box.y0) & (self.y - reach < box.y1)
        keep = rows & (self.x + reach >= box.x0) & (self.x - reach < box.x1)
        return type(self)(self.y[keep], self.x[keep], self.kind[keep], self.shape[keep], self.flux[keep])


def paint(sources: Sources, box: Box) -> NDArray[np.float32]:
    """Return the image of the sources in a box, before convolution with the point-spread function.

    Returns
    -------
    canvases
        ``(B, Y, X)`` nJy per pixel.
    """
    near = sources.near(box)
    canvases = np.zeros((sources.flux.shape[1], *box.shape), np.float32)
    for n, half in enumerate(near.reach().tolist()):
        row, column = math.floor(near.y[n] + 0.5), math.floor(near.x[n] + 0.5)
        offset = YX(near.y[n] - row, near.x[n] - column)
        stamp = _stamp(Kind(near.kind[n]), near.shape[n], offset, half)
        whole = Box(row - half, row + half + 1, column - half, column + half + 1)
        part = whole.intersection(box)
        if part.is_empty:
            continue
        light = near.flux[n].astype(np.float32)[:, None, None] * stamp[part.slices(whole.start)]
        canvases[(slice(None), *part.slices(box.start))] += light
    return canvases


def _stamp(kind: Kind, shape: NDArray[np.float64], offset: YX[float], half: int) -> NDArray[np.float32]:
    """Return the stamp of a source with a flux of 1, ``(2 * half + 1, 2 * half + 1)``."""
    if kind is Kind.ARC:
        return _smooth(_arc(shape, offset, half))
    if kind is Kind.SPIRAL:
        return _smooth(_spiral(shape, offset, half))
    return _mixture(kind, shape, offset, half)


def _mixture(kind: Kind, shape: NDArray[np.float64], offset: YX[float], half: int) -> NDArray[np.float32]:
    """Return a profile as a sum of smoothed Gaussians, ``(2 * half + 1, 2 * half + 1)``; exact, so no subpixels are needed."""
    radius, ratio, angle = shape[:3].tolist()
    weights, variances = _MIXTURE[kind].T
    grid = np.arange(-half, half + 1, dtype=np.float32)
    y, x = grid[:, None] - np.float32(offset.y), grid[None, :] - np.float32(offset.x)
    along, across = _rotated(y, x, angle)
    long = variances * radius**2 + SMOOTHING**2
    short = variances * (radius * ratio) ** 2 + SMOOTHING**2
    height = weights / weights.sum() / (2.0 * np.pi * np.sqrt(long * short))
    stamp = np.zeros_like(along)
    for peak, a, b in zip(height.tolist(), long.tolist(), short.tolist(), strict=True):
        stamp += np.float32(peak) * np.exp(along**2 * np.float32(-0.5 / a) + across**2 * np.float32(-0.5 / b))
    return stamp


def _arc(shape: NDArray[np.float64], offset: YX[float], half: int) -> NDArray[np.float32]:
    """Return the image of a background source behind a singular isothermal ellipsoid, by ray tracing.

    Deflection: Kormann, Schneider & Bartelmann 1994, A&A 284, 285, equation 27a.
    """
    radius, ratio, angle, einstein, source_y, source_x = shape.tolist()
    y, x = _fine_grid(offset, half)
    along, across = _rotated(y, x, angle)
    distance = np.maximum(np.hypot(along, across), np.float32(1e-6))
    flat = math.sqrt(1.0 - ratio**2)
    strength = einstein * math.sqrt(ratio) / flat
    beta_along = along - strength * np.arcsinh(flat / ratio * along / distance)
    beta_across = across - strength * np.arcsin(flat * across / distance)
    gap = np.hypot(beta_along - source_x, beta_across - source_y)
    return _unit_flux(np.exp(-EXPONENTIAL_RATE * gap / radius))


def _spiral(shape: NDArray[np.float64], offset: YX[float], half: int) -> NDArray[np.float32]:
    """Return an exponential disc with two logarithmic arms."""
    radius, ratio, angle, arms, pitch, phase = shape.tolist()
    along, across = _rotated(*_fine_grid(offset, half), angle)
    across = across / ratio
    distance = np.hypot(along, across)
    winding = np.log(distance + 0.2 * radius) / math.tan(pitch)
    wave = np.cos(2.0 * np.arctan2(across, along) - 2.0 * winding + phase)
    return _unit_flux(np.exp(-EXPONENTIAL_RATE * distance / radius) * (1.0 + arms * wave))


def _fine_grid(offset: YX[float], half: int) -> YX[NDArray[np.float32]]:
    """Return subpixel positions relative to a source, ``y`` ``(n, 1)`` and ``x`` ``(1, n)``, pixels."""
    count = (2 * half + 1) * SUBPIXELS
    grid = (np.arange(count) + 0.5) / SUBPIXELS - half - 0.5
    return YX((grid - offset.y).astype(np.float32)[:, None], (grid - offset.x).astype(np.float32)[None, :])


def _rotated(
    y: NDArray[np.float32], x: NDArray[np.float32], angle: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return coordinates along and across an axis at ``angle`` (radians) from x towards y."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def _unit_flux(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of the subpixels in each pixel, scaled to a total of 1."""
    side = fine.shape[0] // SUBPIXELS
    pixels = fine.reshape(side, SUBPIXELS, side, SUBPIXELS).sum(axis=(1, 3))
    return np.asarray(pixels / pixels.sum())


def _smooth(stamp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a stamp convolved with the Gaussian of `SMOOTHING`, first along y, then along x."""
    rows = _sliding_sum(np.pad(stamp, _TAP_REACH))
    return _sliding_sum(rows.T).T


def _sliding_sum(padded: NDArray[np.float32]) -> NDArray[np.float32]:
    # Sums of shifted arrays: for such a small matrix, starting the threads of BLAS would take ten times as long.
    rows = padded.shape[0] - 2 * _TAP_REACH
    return np.asarray(sum(tap * padded[n : n + rows] for n, tap in enumerate(_TAPS)))


_TAP_REACH = 4
_TAPS = np.exp(-0.5 * (np.arange(-_TAP_REACH, _TAP_REACH + 1) / SMOOTHING) ** 2).astype(np.float32)
_TAPS /= _TAPS.sum()


@dataclass(frozen=True)
class PointSpread:
    """A round point-spread function: a Gaussian core, and a halo of twice the width with a quarter of the flux.

    Attributes
    ----------
    fwhm
        Full width at half maximum, pixels.
    """

    fwhm: float

    def gaussians(self) -> list[tuple[float, float]]:
        """Return the flux fraction and the sigma in pixels of core and halo."""
        # The sum of both is half its peak at 1.224 sigmas of the core.
        core = self.fwhm / 2.448
        return [(0.75, core), (0.25, 2.0 * core)]

    def kernel(self, side: int) -> NDArray[np.float64]:
        """Return the image of a point source with a flux of 1, ``(side, side)`` with odd ``side``."""
        squares = (np.arange(side) - side // 2) ** 2
        radius2 = squares[:, None] + squares[None, :]
        terms = [w / (2.0 * np.pi * s**2) * np.exp(-0.5 * radius2 / s**2) for w, s in self.gaussians()]
        return np.asarray(sum(terms))

    def blur(self, canvas: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image ``(Y, X)`` convolved with the point-spread function; the convolution wraps around at the edges."""
        shape = tuple(_fast_length(n) for n in canvas.shape)
        fy, fx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
        transfer = np.zeros((len(fy), len(fx)), np.float32)
        for share, sigma in self.gaussians():
            rate = -2.0 * np.pi**2 * (sigma**2 - SMOOTHING**2)
            transfer += (share * np.exp(rate * fy**2)[:, None] * np.exp(rate * fx**2)).astype(np.float32)
        blurred = np.fft.irfft2(np.fft.rfft2(canvas, s=shape) * transfer, s=shape)
        return np.asarray(blurred[: canvas.shape[0], : canvas.shape[1]], np.float32)


def _fast_length(n: int) -> int:
    """Return the smallest length >= ``n`` with no prime factors but 2, 3 and 5, for which Fourier transforms are fast."""
    while _rough_part(n) != 1:
        n += 1
    return n


def _rough_part(n: int) -> int:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n
